"""Controllers on arrays, held to Meta-World's own policies."""

import functools

import numpy as np
import pytest

import trcl_envs
from trcl_envs.experts import MetaworldExpert
from trcl_envs.memoryless import ScriptedExpert
from trcl_envs.scripted_tasks import SCRIPTS

pytestmark = [pytest.mark.sim, pytest.mark.filterwarnings("ignore:Constant.s. may be too high")]
SCATTER = (0.0, 0.003, 0.02, 0.1)  # [m]: near enough for every stage, far enough for every branch


@functools.cache
def met(task, num_worlds=8, every=8):
    """Observations that the expert meets, at four distances from where it really was."""
    env, expert = trcl_envs.make_env(task, num_worlds), ScriptedExpert(SCRIPTS[task].actions)
    rng = np.random.default_rng(0)
    observation, seen = env.reset(range(num_worlds)), []
    for steps in range(160):
        if steps % every == 0:
            seen += [observation + rng.normal(0, scatter, observation.shape) for scatter in SCATTER]
        observation = env.step(expert.actions(observation)).observation
    env.close()
    return np.concatenate(seen)


def spread(count=1500):
    """Observations all over the table, with hand, things and goal often in line with each other."""
    rng = np.random.default_rng(1)
    observations = rng.uniform(-0.3, 0.9, size=(count, 39))
    for first in (4, 11, 36):
        close = rng.random((count, 3)) < 0.6
        beside = observations[:, :3] + rng.normal(0, 0.05, (count, 3))
        observations[:, first : first + 3] = np.where(close, beside, observations[:, first : first + 3])
    return observations


@pytest.mark.parametrize("task", sorted(SCRIPTS))
def test_actions_are_meta_worlds_bit_for_bit(task):
    observations = np.concatenate([met(task), spread()])
    before = observations.copy()
    ours = ScriptedExpert(SCRIPTS[task].actions).actions(observations)
    np.testing.assert_array_equal(observations, before)  # Meta-World's door policy writes into what it is shown
    np.testing.assert_array_equal(ours, MetaworldExpert(task).actions(before))
    assert (np.unique(ours[:, 3]).size > 1) == isinstance(SCRIPTS[task].grip, tuple)


@pytest.mark.parametrize("task", sorted(SCRIPTS))
def test_observations_above_reach_every_stage(task):
    from trcl_envs.scripted import Seen

    seen = Seen.of(np.concatenate([met(task), spread()]))
    holds = np.stack([stage.when(seen) for stage in SCRIPTS[task].stages])
    first = np.bincount(holds.argmax(axis=0), minlength=len(holds))
    assert (first > 5).all(), first


def test_every_task_of_cw10_and_quick_has_one_and_others_ask_meta_world():
    assert set(SCRIPTS) >= {*trcl_envs.SEQUENCES["cw10"], *trcl_envs.SEQUENCES["quick"]}
    assert isinstance(trcl_envs.make_expert("hammer"), ScriptedExpert)
    assert isinstance(trcl_envs.make_expert("coffee-pull"), MetaworldExpert)


def test_one_row_is_answered_like_many():
    observations, expert = spread(50), trcl_envs.make_expert("stick-pull")
    whole = expert.actions(observations)
    np.testing.assert_array_equal(np.concatenate([expert.actions(row[None]) for row in observations]), whole)
