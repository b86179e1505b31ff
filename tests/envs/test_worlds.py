import mujoco
import numpy as np
import pytest

import trcl_envs
from trcl_envs.cpu import CpuPhysics
from trcl_envs.worlds import start_generator

pytestmark = pytest.mark.sim
ACTIONS = np.random.default_rng(0).uniform(-1, 1, size=(12, 6, 4))
SEEDS = [3, 1, 4, 1, 5, 9]


def rollout(task="push-v3", seeds=SEEDS, actions=ACTIONS, threads=1, num_worlds=None):
    """Observations (time, N, Do) of fixed actions."""
    env = trcl_envs.make_env(task, num_worlds or len(seeds), threads)
    history = [env.reset(seeds), *(env.step(action).observation for action in actions)]
    env.close()
    return np.stack(history)


@pytest.fixture
def env():
    env = trcl_envs.make_env("hammer-v3", num_worlds=3)
    yield env
    env.close()


def test_equal_seeds_give_equal_episodes_and_others_differ():
    history = rollout()
    same = rollout(actions=np.repeat(ACTIONS[:, :1], 6, axis=1))
    np.testing.assert_array_equal(history, rollout())
    np.testing.assert_array_equal(same[:, 1], same[:, 3])
    assert (same[0, 0] != same[0, 1]).any()


@pytest.mark.parametrize("task", ["push-v3", "drawer-open-v3"])  # the drawer's box stands elsewhere in each world
@pytest.mark.parametrize("threads", [2, 4])
def test_threads_change_no_bit(task, threads):
    np.testing.assert_array_equal(rollout(task, threads=threads), rollout(task))


@pytest.mark.parametrize("task", ["push-v3", "drawer-open-v3"])
def test_row_order_and_number_of_worlds_change_no_bit(task):
    order = [4, 2, 0]
    some = rollout(task, seeds=[SEEDS[i] for i in order], actions=ACTIONS[:, order], num_worlds=5)
    np.testing.assert_array_equal(some, rollout(task)[:, order])


def test_what_ran_before_changes_no_bit(env):
    first = env.reset([7, 8])
    for _ in range(5):
        env.step(np.ones((2, 4)))
    np.testing.assert_array_equal(env.reset([7, 8]), first)


def test_tasks_draw_their_own_starts_from_one_seed():
    assert start_generator("push-v3", 0).uniform() != start_generator("push-wall-v3", 0).uniform()


def test_previous_frame_and_goal_are_in_the_observation(env):
    before = env.reset([0])
    after = env.step(np.full((1, 4), 0.5)).observation
    np.testing.assert_array_equal(after[:, 18:36], before[:, :18])
    np.testing.assert_array_equal(after[:, 36:], before[:, 36:])
    assert np.linalg.norm(after[0, :3] - before[0, :3]) > 1e-4


def test_inactive_worlds_stay_as_they_are_and_go_on_alike(env):
    reference = trcl_envs.make_env("hammer-v3", num_worlds=3)
    for each in (env, reference):
        each.reset([0, 1, 2])
    pause = np.array([True, False, True])
    before = env.step(ACTIONS[0, :3]).observation
    paused = env.step(ACTIONS[1, :3], active=pause)
    np.testing.assert_array_equal(paused.observation[1], before[1])
    assert (paused.observation[0] != before[0]).any()
    resumed = env.step(ACTIONS[1, :3], active=~pause)
    for action in ACTIONS[:2, :3]:
        expected = reference.step(action)
    np.testing.assert_array_equal(resumed.observation, expected.observation)
    reference.close()


def test_actions_beyond_one_are_clipped(env):
    env.reset([0])
    far = env.step(np.full((1, 4), 19.0)).observation
    env.reset([0])
    np.testing.assert_array_equal(far, env.step(np.ones((1, 4))).observation)


def test_non_finite_action_fails_its_world_alone(env, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env.reset([0, 1])
    step = env.step(np.array([[np.nan, 0, 0, 0], [0, 0, 0, 0]]))
    assert step.failed.tolist() == [True, False]
    assert not step.observation[0].any()
    assert step.observation[1].any()
    assert env.step(np.zeros((2, 4))).failed.tolist() == [True, False]
    assert env.reset([0, 1]).any(axis=1).all()
    assert not env.step(np.zeros((2, 4))).failed.any()
    assert not (tmp_path / "MUJOCO_LOG.TXT").exists()


def test_diverged_physics_fails_instead_of_raising(env, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its log into the current folder
    env.reset([0, 1])
    env.physics.data[1].qvel[:] = np.inf
    step = env.step(np.zeros((2, 4)))
    assert step.failed.tolist() == [False, True]
    assert np.isfinite(step.observation).all()
    assert not step.observation[1].any()


RESTING = """
<mujoco>
  <option cone="elliptic"/>
  <worldbody>
    <geom name="table" type="plane" size="1 1 .1"/>
    <body mocap="true"/>
    <body pos="0 0 .1"><freejoint/><geom name="block" type="box" size=".1 .1 .1" mass="2"/></body>
    <body pos="1 0 5"><freejoint/><geom name="falling" type="box" size=".1 .1 .1" mass="2"/></body>
  </worldbody>
</mujoco>
"""


def test_contact_force_of_a_resting_block_is_its_weight():
    pairs = [("block", "table"), ("table", "block"), ("table", "falling")]
    physics = CpuPhysics(lambda: mujoco.MjModel.from_xml_string(RESTING), num_worlds=2, contacts=pairs)
    rows = np.arange(2)
    physics.restart(rows, {})
    physics.step(rows[:1], np.zeros((1, 0)), np.zeros((1, 3)), substeps=300, forward=True)
    force = physics.read(rows).contact_force
    np.testing.assert_allclose(force[0], [2 * 9.81, 2 * 9.81, 0.0], rtol=1e-3)
    np.testing.assert_array_equal(force[1], 0.0)
    physics.close()


def test_closing_twice_is_safe():
    env = trcl_envs.make_env("push-v3", 2, threads=2)
    env.close()
    env.close()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda env: env.reset([]), "seeds must hold 1 to 3"),
        (lambda env: env.reset([0, 1, 2, 3]), "seeds must hold 1 to 3"),
        (lambda env: env.reset([-1]), "seed must be >= 0, got -1"),
        (lambda env: env.step(np.zeros((3, 4))), "reset must be called before step"),
    ],
)
def test_misuse_is_named(env, call, message):
    with pytest.raises(ValueError, match=message):
        call(env)


def test_actions_of_wrong_shape_are_named(env):
    env.reset([0])
    with pytest.raises(ValueError, match=r"actions must have shape \(1, 4\), got \(2, 4\)"):
        env.step(np.zeros((2, 4)))


@pytest.mark.parametrize("field", ["num_worlds", "threads"])
def test_counts_below_one_are_named(field):
    counts = {"num_worlds": 1, "threads": 1, field: 0}
    with pytest.raises(ValueError, match=f"{field} must be >= 1, got 0"):
        trcl_envs.make_env("push-v3", **counts)
