"""Remembered start states: the same bits as settling anew, for every task."""

import re
from pathlib import Path

import mujoco
import numpy as np
import pytest

import trcl_envs
from tests.envs.measure import draws_to_the_edge, settled_states, settles_alike
from trcl_envs import starts
from trcl_envs.cpu import CpuPhysics
from trcl_envs.metaworld_tasks import TASKS

pytestmark = pytest.mark.sim
SEEDS = [2, 7, 2]
EVERYTHING = int(mujoco.mjtState.mjSTATE_INTEGRATION)


def episodes(env, seeds, steps=3):
    """All that can be seen of worlds from their start on, MuJoCo's own state included."""
    seen = [env.reset(seeds)]
    actions = np.random.default_rng(0).uniform(-1, 1, size=(steps, 1, 4)).repeat(len(seeds), axis=1)
    for action in [None, *actions]:
        seen += [] if action is None else [env.step(action).observation]
        reading = env.physics.read(np.arange(len(seeds)))
        seen += [value for name, value in vars(reading).items() if name != "index"]
        for data in env.physics.data[: len(seeds)]:
            state = np.empty(mujoco.mj_stateSize(env.physics._models[0], EVERYTHING))
            mujoco.mj_getState(env.physics._models[0], data, state, EVERYTHING)
            seen += [state, data.qacc.copy(), data.contact.dist.copy(), data.efc_force.copy()]
    return seen


class Forgetful(starts.StartMemory):
    def _remember(self, *args):
        pass


def assert_same(some, others):
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_remembered_starts_are_those_settled_anew(task, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("trcl_envs.cpu.StartMemory", Forgetful)
        env = trcl_envs.make_env(task, len(SEEDS))
        anew = episodes(env, SEEDS)
        env.close()
    env = trcl_envs.make_env(task, len(SEEDS))
    env.reset([SEEDS[1]])
    env.reset([SEEDS[0]])
    settled = noted_steps(monkeypatch)
    assert_same(episodes(env, SEEDS), anew)
    assert max(settled) < 10  # no world settled again
    env.close()


def noted_steps(monkeypatch):
    """Numbers of physics steps that MuJoCo is asked for from now on."""
    asked, step = [], mujoco.mj_step

    def noted(model, data, nstep=1):
        asked.append(nstep)
        step(model, data, nstep)

    monkeypatch.setattr(mujoco, "mj_step", noted)
    return asked


def test_where_bodies_matter_each_place_has_its_own_start(monkeypatch):
    assert "peg-unplug-side-v3" not in starts.SETTLE_ALIKE
    env, settled = trcl_envs.make_env("peg-unplug-side-v3", 2), noted_steps(monkeypatch)
    env.reset([1, 2])
    env.reset([3, 1])
    assert [steps for steps in settled if steps > 10] == [249] * 3
    env.close()


@pytest.mark.parametrize("part", [0, 1])
def test_remembered_step_that_ends_elsewhere_settles_anew(part):
    env = trcl_envs.make_env("drawer-open-v3", 1)
    honest = episodes(env, [2])
    ((key, known),) = env.physics._starts._known.items()
    wrong = [state.copy() for state in known]
    wrong[part][10] = np.nextafter(wrong[part][10], 1.0)
    env.physics._starts._known[key] = tuple(wrong)
    assert_same(episodes(env, [2]), honest)
    env.close()


def test_world_touched_after_its_restart_does_not_count_as_fresh():
    spec, rows = trcl_envs.catalog.task_spec("push-v3"), np.arange(1)
    physics = CpuPhysics(spec.load_model, 1)

    def settled(touch):
        physics.restart(rows, {})
        touch()
        physics.step(rows, spec.settling.ctrl[None], spec.settling.mocap_pos[None], 20)
        return physics.qpos.copy()

    plain, moved = settled(lambda: None), trcl_envs.interface.Placement({9: np.array([[0.1, 0.8, 0.02]])})
    assert (settled(lambda: physics.write(rows, moved)) != plain).any()
    np.testing.assert_array_equal(settled(lambda: None), plain)
    physics.close()


def test_oldest_states_are_forgotten(monkeypatch):
    monkeypatch.setattr(starts, "MOST", 2)
    env = trcl_envs.make_env("peg-unplug-side-v3", 1)
    settled = noted_steps(monkeypatch)
    for seed in (1, 2, 3, 3, 1):
        env.reset([seed])
    assert settled.count(249) == 4
    assert len(env.physics._starts._known) == 2
    env.close()


@pytest.mark.slow
@pytest.mark.parametrize("task", sorted(TASKS))
def test_tasks_said_to_settle_alike_do_so_to_the_edges_of_their_starts(task):
    assert settles_alike(task) == (task in starts.SETTLE_ALIKE or not TASKS[task].moved)


def test_difference_between_starts_is_found():
    states = settled_states("handle-press-v3", draws_to_the_edge("handle-press-v3", 2))
    assert (states != states[0]).any()


def test_page_names_the_tasks_that_settle_anew():
    page = (Path(__file__).parents[2] / "docs/speed.md").read_text()
    moved = {name for name, task in TASKS.items() if task.moved}
    assert moved >= starts.SETTLE_ALIKE
    told = re.search(r"In (\d+) tasks the moved body .*? settles anew: (.*?)\. Found by", page, re.S)
    assert int(told[1]) == len(starts.SETTLE_ALIKE)
    assert {f"{name}-v3" for name in re.findall(r"`([a-z-]+)`", told[2])} == moved - starts.SETTLE_ALIKE
