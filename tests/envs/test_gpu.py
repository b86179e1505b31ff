"""Physics on mujoco-warp, on Warp's CPU device everywhere and on a CUDA device where there is one.

Skipped where mujoco-warp is missing (``./scripts/setup --gpu`` installs it). The first run compiles for minutes.
"""

import importlib.util

import numpy as np
import pytest
import torch

import trcl_envs
from tests.envs.test_worlds import RESTING
from trcl_envs.catalog import make_env, task_spec

needs_warp = pytest.mark.skipif(importlib.util.find_spec("mujoco_warp") is None, reason="needs mujoco-warp")
pytestmark = [pytest.mark.sim, needs_warp]
BACKENDS = ["warp-cpu", pytest.param("gpu", marks=pytest.mark.gpu)]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
ACTIONS = np.random.default_rng(0).uniform(-1, 1, size=(12, 3, 4))
FLOAT32 = 1e-6


@pytest.fixture(scope="module", params=BACKENDS)
def hammer(request):
    env = make_env("hammer-v3", 3, backend=request.param)
    yield env
    env.close()


def physics_of(task, count, device="cpu", **options):
    from trcl_envs.gpu import WarpPhysics

    spec = task_spec(task)
    return WarpPhysics(spec.load_model, count, spec.contacts, device, **options)


def lengths(env, expert, seeds):
    """Control steps to success of each episode, 0 = none within the horizon."""
    observation, taken = env.reset(seeds), np.zeros(len(seeds), dtype=int)
    for steps in range(1, env.info.horizon + 1):
        step = env.step(expert.actions(observation), active=taken == 0)
        observation = step.observation
        taken[(taken == 0) & step.success] = steps
        if taken.all():
            break
    return taken


# the window stands elsewhere in each world, the plate touches the table without pressing on it
@pytest.mark.parametrize("task", ["push-v3", "window-close-v3", "plate-slide-v3"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_starts_and_experts_episodes_are_those_of_the_cpu(task, backend):
    env, cpu, expert = make_env(task, 4, backend=backend), make_env(task, 4), trcl_envs.make_expert(task)
    np.testing.assert_allclose(env.reset(range(4)), cpu.reset(range(4)), atol=1e-3)
    for row in range(4):
        ours, theirs = env.scene(row).overrides, cpu.scene(row).overrides
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            np.testing.assert_allclose(ours[key], value, atol=1e-4, err_msg=key)
    found, expected = lengths(env, expert, range(4)), lengths(cpu, expert, range(4))
    assert found.all()
    np.testing.assert_allclose(found, expected, atol=3)
    env.close()
    cpu.close()


@pytest.mark.parametrize("task", ["push-v3", "window-close-v3"])
@pytest.mark.parametrize("device", DEVICES)
def test_the_same_state_gives_the_same_bodies_geoms_and_contacts_as_on_the_cpu(task, device):
    cpu, physics = make_env(task, 3), physics_of(task, 3, device)
    cpu.reset([5, 6, 7])
    expert, observation = trcl_envs.make_expert(task), cpu.reset([5, 6, 7])
    for _ in range(55):
        observation = cpu.step(expert.actions(observation)).observation
    overrides = {key: np.stack([cpu.scene(row).overrides[key] for row in range(3)]) for key in cpu._overrides[0]}
    physics.restart(np.arange(3), overrides)
    for field in ("qpos", "qvel", "mocap_pos"):
        getattr(physics, field).copy_(torch.as_tensor(getattr(cpu.physics, field)))
    physics.forward(physics.rows)
    ours, theirs = physics.read(physics.rows), cpu.physics.read(np.arange(3))
    for field in ("qpos", "xpos", "xquat", "xmat", "site_xpos", "geom_xpos", "geom_xmat"):
        np.testing.assert_allclose(getattr(ours, field).cpu(), getattr(theirs, field), atol=2e-6, err_msg=field)
    assert int(physics._data.nacon.numpy()[0]) == sum(data.ncon for data in cpu.physics.data)
    physics.close()
    cpu.close()


def test_free_motion_stays_with_the_cpu_over_a_hundred_steps(hammer):
    cpu = make_env("hammer-v3", 3)
    hammer.reset(range(3))
    cpu.reset(range(3))
    for steps in range(100):
        action = np.tile([0.3 * np.sin(steps / 9), 0.2 * np.cos(steps / 7), 0.3, 1.0], (3, 1))
        ours, theirs = hammer.step(action), cpu.step(action)
    assert (theirs.observation[:, 2] > 0.3).all()
    np.testing.assert_allclose(ours.observation[:, :4], theirs.observation[:, :4], atol=1e-3)
    cpu.close()


def test_tensors_are_the_simulations_own_memory(hammer):
    physics = hammer.physics
    for name in ("qpos", "qvel", "mocap_pos"):
        assert getattr(physics, name).data_ptr() == getattr(physics._data, name).ptr
    reading = physics.read(physics.rows)
    assert reading.geom_xpos.data_ptr() == physics._data.geom_xpos.ptr
    assert reading.xmat.data_ptr() == physics._data.xmat.ptr
    assert reading.qpos.device == hammer.device


def test_captured_steps_equal_launched_ones(hammer):
    hammer.reset([0, 1, 2])
    begun, graphs, histories = hammer.physics.snapshot(), hammer.physics._graphs, []
    for captured in (False, True):
        hammer.physics.load(hammer.physics.rows, begun)
        history = []
        for action in ACTIONS:
            if not captured:
                graphs.clear()
            history.append(hammer.step(action).observation)
        histories.append(history[1:])  # the first one's previous frame is another
    assert all(graphs[key] is not None for key in graphs if key == (5, True))
    np.testing.assert_allclose(histories[1], histories[0], atol=FLOAT32)


def test_paused_worlds_stay_and_go_on_alike(hammer):
    hammer.reset([0, 1, 2])
    expected = [hammer.step(action).observation for action in ACTIONS[:3]][-1]
    hammer.reset([0, 1, 2])
    pause = np.array([True, False, True])
    before = hammer.step(ACTIONS[0]).observation
    paused = hammer.step(ACTIONS[1], active=pause).observation
    np.testing.assert_array_equal(paused[1], before[1])
    assert (paused[0] != before[0]).any()
    hammer.step(ACTIONS[1], active=~pause)
    np.testing.assert_allclose(hammer.step(ACTIONS[2]).observation, expected, atol=FLOAT32)


def test_other_worlds_are_left_alone_by_a_reset_of_some(hammer):
    hammer.reset([0, 1, 2])
    expected = [hammer.step(action).observation for action in ACTIONS[:3]][-1]
    first = hammer.reset([0, 1, 2])
    hammer.step(ACTIONS[0])
    np.testing.assert_allclose(hammer.reset_rows(np.array([2]), [1])[0], first[1], atol=FLOAT32)
    observation = [hammer.step(action).observation for action in ACTIONS[1:3]][-1]
    np.testing.assert_allclose(observation[:2], expected[:2], atol=FLOAT32)
    assert np.abs(observation[2] - expected[2]).max() > 1e-3


def test_broken_worlds_fail_alone_until_they_start_again(hammer):
    hammer.reset([0, 1, 2])
    expected = [hammer.step(action).observation for action in ACTIONS[:3]][-1]
    hammer.reset([0, 1, 2])
    hammer.physics.qvel[2] = torch.inf
    broken = ACTIONS[:3].copy()
    broken[:, 0] = np.nan
    for action in broken:
        step = hammer.step(action)
        assert step.failed.tolist() == [True, False, True]
        assert not step.observation[[0, 2]].any()
        assert not step.success.any()
    np.testing.assert_allclose(step.observation[1], expected[1], atol=FLOAT32)
    assert hammer.reset([0, 1, 2]).any(axis=1).all()
    assert not hammer.step(np.zeros((3, 4))).failed.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_resting_cylinder_is_not_thrown_away(backend):
    env, expert = make_env("coffee-pull-v3", 7, backend=backend), trcl_envs.make_expert("coffee-pull-v3")
    observation, deepest = env.reset([3_000_000 + seed for seed in (14, 36, 56, 65, 67, 91, 95)]), 0.0
    for _ in range(85):
        step = env.step(np.clip(expert.actions(observation), -1, 1))
        observation, contact = step.observation, env.physics._data.contact
        deepest = min(deepest, *contact.dist.numpy()[: int(env.physics._data.nacon.numpy()[0])], 0.0)
    assert step.success.all()
    assert deepest > -0.01
    env.close()


TILTED = """
<mujoco>
  <worldbody>
    <geom type="box" size=".1 .1 .02"/>
    <body pos=".07 .04 .039" euler="{euler}"><freejoint/><geom type="box" size=".05 .03 .02"/></body>
  </worldbody>
</mujoco>
"""


@pytest.mark.parametrize("euler", ["0 0 30", "2 0 30", "3 -2 10", "40 5 0", "45 45 20"])
@pytest.mark.parametrize("device", DEVICES)
def test_boxes_touch_where_they_do_on_the_cpu(euler, device):
    import mujoco

    from trcl_envs.gpu import WarpPhysics

    model = mujoco.MjModel.from_xml_string(TILTED.format(euler=euler))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    physics = WarpPhysics(lambda: model, 1, (), device)
    physics.restart(physics.rows, {})
    physics.forward(physics.rows)
    count, contact = int(physics._data.nacon.numpy()[0]), physics._data.contact
    assert count == data.ncon > 0
    ours = np.column_stack([contact.pos.numpy()[:count], contact.dist.numpy()[:count]])
    theirs = np.column_stack([data.contact.pos, data.contact.dist])
    order = [np.lexsort(np.round(found.T, 4)) for found in (ours, theirs)]
    np.testing.assert_allclose(ours[order[0]], theirs[order[1]], atol=2e-5)
    physics.close()


@pytest.mark.parametrize("device", DEVICES)
def test_contact_force_of_a_resting_block_is_its_weight(device):
    import mujoco

    from trcl_envs.gpu import WarpPhysics

    pairs = [("block", "table"), ("table", "block"), ("table", "falling")]
    physics = WarpPhysics(lambda: mujoco.MjModel.from_xml_string(RESTING), 2, pairs, device)
    physics.restart(physics.rows, {})
    physics.step(physics.rows[:1], np.zeros((1, 0)), np.zeros((1, 3)), substeps=300, forward=True)
    force = physics.read(physics.rows).contact_force
    np.testing.assert_allclose(force[0].cpu(), [2 * 9.81, 2 * 9.81, 0.0], rtol=1e-3)
    np.testing.assert_array_equal(force[1].cpu(), 0.0)
    physics.close()
    physics.close()


def test_too_little_room_is_an_error_that_says_what_to_do(monkeypatch):
    monkeypatch.setenv("TRCL_GPU_ROOM", "0.02")
    env = make_env("hammer-v3", 3, backend="warp-cpu")
    with pytest.raises(trcl_envs.SimulationError, match=r"NEFC.*set TRCL_GPU_ROOM to more than 0.02"):
        env.reset([0, 1, 2])
    env.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_gymnasium_vector_starts_worlds_anew(backend):
    import gymnasium

    envs = gymnasium.make_vec("trcl/hammer-v3", num_envs=2, backend=backend, max_episode_steps=3)
    first, _ = envs.reset(seed=7)
    for steps in range(1, 5):
        observation, _, terminated, truncated, _ = envs.step(np.ones((2, 4), dtype=np.float32))
        assert truncated.tolist() == [steps == 3] * 2
        assert not terminated.any()
    assert np.abs(observation[:, :3] - first[:, :3]).max() < 5e-3
    assert (observation != first).any()
    envs.close()


def test_worlds_are_drawn_by_the_cpu_renderer(hammer):
    try:
        renderer = trcl_envs.make_renderer("hammer-v3", 96, 96)
    except trcl_envs.SimulationError as reason:
        pytest.skip(str(reason))
    cpu = make_env("hammer-v3", 3)
    pictures = []
    for env in (hammer, cpu):
        env.reset([3, 4, 5])
        for action in ACTIONS:
            env.step(action)
        pictures.append([renderer.frame(env.scene(row)).astype(int).copy() for row in range(2)])
    same = np.abs(pictures[0][1] - pictures[1][1]).mean()
    assert same < 0.5
    assert np.abs(pictures[0][0] - pictures[1][1]).mean() > 4 * same
    renderer.close()
    cpu.close()


def test_misuse_is_named(hammer):
    with pytest.raises(ValueError, match="seeds must hold 1 to 3"):
        hammer.reset([0, 1, 2, 3])
    with pytest.raises(ValueError, match="seeds must hold at least 1"):
        hammer.prepare([])
    hammer.reset([0])
    with pytest.raises(ValueError, match=r"actions must have shape \(1, 4\), got \(2, 4\)"):
        hammer.step(np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"row must be in 0..2, got 3"):
        hammer.scene(3)
    with pytest.raises(ValueError, match="num_worlds must be >= 1, got 0"):
        make_env("hammer-v3", 0, backend="warp-cpu")
