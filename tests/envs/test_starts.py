"""Remembered start states: the same bits as settling anew, for every task."""

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


@pytest.mark.parametrize("task", trcl_envs.task_names())
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


def test_start_that_does_not_fit_settles_anew():
    honest, wrong = (trcl_envs.make_env("peg-unplug-side-v3", 1) for _ in range(2))
    wrong.physics._settles_alike = True
    wrong.reset([1])
    assert_same(episodes(wrong, [2]), episodes(honest, [2]))
    honest.close()
    wrong.close()


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
@pytest.mark.parametrize("task", trcl_envs.task_names())
def test_tasks_said_to_settle_alike_do_so_to_the_edges_of_their_starts(task):
    assert settles_alike(task) == (task in starts.SETTLE_ALIKE or not TASKS[task].moved)


def test_difference_between_starts_is_found():
    states = settled_states("handle-press-v3", draws_to_the_edge("handle-press-v3", 2))
    assert (states != states[0]).any()
