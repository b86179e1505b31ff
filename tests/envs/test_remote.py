"""Simulation in another process of this very Python must be what it is here, and its failures one line."""

import os
import sys
import time

import numpy as np
import pytest

import trcl_envs
from tests.packages import install
from trcl_envs import remote
from trcl_envs.remote import Simulator, simulator

HERE = sys.executable
PACKAGE = """
import os, time
import numpy as np
from trcl_envs.interface import Placement, TaskInfo, TaskSpec
print("a package that prints to standard output")
SCENE = '''<mujoco><option timestep="0.01"/><worldbody><body name="cart"><joint name="x" type="slide" axis="1 0 0"/>
<geom type="sphere" size="0.1"/></body></worldbody><actuator><motor joint="x"/></actuator></mujoco>'''
def load():
    import mujoco
    return mujoco.MjModel.from_xml_string(SCENE)
def act(observations):
    if observations[0, 0] > 99:
        print("dying")
        os._exit(3)
    if observations[0, 0] > 9:
        time.sleep(60)
    if observations[0, 0] > 1:
        raise KeyError("nobody foresaw this")
    return -observations
cart = TaskSpec(
    TaskInfo("cart", "Stay.", 1, 1, 20, 50.0), load, 2, lambda now: now.qpos, lambda now, seen, goal: seen[:, 0] > 0,
    sample=lambda rng: rng.uniform(-1, 1, 1), place=lambda draws, start: Placement({0: draws}), expert=act,
)
"""


@pytest.fixture
def cart(tmp_path, monkeypatch):
    """A package that both sides find."""
    folder = install(tmp_path / "site", "cartpackage", PACKAGE, tasks={"cart": "cartpackage:cart"})
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.delitem(sys.modules, "cartpackage", raising=False)
    remote.stop_all()
    yield
    remote.stop_all()
    sys.modules.pop("cartpackage", None)


def episodes(env):
    """Everything that an environment shows over some steps with idle rows, a restart and a broken world."""
    rng, shown = np.random.default_rng(0), [env.reset([3, 1, 4])]
    size = env.info.action_dim
    for number in range(6):
        actions = rng.uniform(-1.5, 1.5, (3, size))
        step = env.step(actions, np.array([True, number % 2 == 0, True]))
        shown += [step.observation, step.reward, step.success, step.failed]
    shown.append(env.reset_rows(np.array([2]), [5]))
    shown += vars(env.step(np.full((3, size), 0.5))).values()
    shown += vars(env.step(np.full((3, size), np.nan))).values()
    scene = env.scene(1)
    return [*shown, scene.state, *(scene.overrides[key] for key in sorted(scene.overrides))]


def test_worlds_of_another_process_are_bit_identical(cart):
    here, there = trcl_envs.make_env("cart", 3), trcl_envs.make_env("cart", 3, env_python=HERE)
    assert there.info == here.info
    for mine, other in zip(episodes(here), episodes(there), strict=True):
        assert mine.dtype == other.dtype
        np.testing.assert_array_equal(mine, other)
    expert = trcl_envs.make_expert("cart", env_python=HERE)
    expert.reset(2)
    np.testing.assert_array_equal(expert.actions(np.array([[0.5], [0.25]])), [[-0.5], [-0.25]])
    there.close()
    there.close()
    assert trcl_envs.catalog.simulator_versions(HERE) == trcl_envs.catalog.simulator_versions()


@pytest.mark.sim
def test_meta_worlds_episode_and_picture_are_the_same():
    here, there = trcl_envs.make_env("push", 3), trcl_envs.make_env("push", 3, env_python=HERE)
    for mine, other in zip(episodes(here), episodes(there), strict=True):
        np.testing.assert_array_equal(mine, other)
    if not any(state == "works" for state in trcl_envs.gl_report()["backends"].values()):
        pytest.skip("nothing draws here")
    scene = here.scene(0)
    pictures = [trcl_envs.make_renderer("push", 48, 32, env_python=python).frame(scene) for python in (None, HERE)]
    assert pictures[0].shape == (32, 48, 3)
    np.testing.assert_array_equal(*pictures)


def test_users_mistakes_there_are_told_as_here(cart):
    there = trcl_envs.make_env("cart", 2, env_python=HERE)
    with pytest.raises(ValueError, match=r"^seeds must hold 1 to 2 numbers \(num_worlds\), got 3$"):
        there.reset([1, 2, 3])
    with pytest.raises(ValueError, match="num_worlds must be >= 1, got 0"):
        trcl_envs.make_env("cart", 0, env_python=HERE)
    there.reset([0])
    there.close()
    with pytest.raises(trcl_envs.SimulationError, match="is closed"):
        there.reset([0])


def test_failures_there_are_one_line_and_the_next_start_is_fresh(cart, monkeypatch):
    expert = trcl_envs.make_expert("cart", env_python=HERE)
    with pytest.raises(trcl_envs.SimulationError, match="KeyError: 'nobody foresaw this'"):
        expert.actions(np.array([[2.0]]))
    assert expert.actions(np.array([[0.5]])) == -0.5  # it goes on
    with pytest.raises(trcl_envs.SimulationError, match=r"ended when asked for actions \(exit status 3\)") as caught:
        expert.actions(np.array([[100.0]]))
    assert "\n" not in str(caught.value)
    with pytest.raises(trcl_envs.SimulationError, match="nothing can be asked of it"):
        expert.actions(np.array([[0.5]]))
    expert.close()
    again = trcl_envs.make_expert("cart", env_python=HERE)
    monkeypatch.setattr(simulator(HERE), "_timeout_s", 1.0)
    started = time.monotonic()
    with pytest.raises(trcl_envs.SimulationError, match="gave no answer for 1 s when asked for actions and was killed"):
        again.actions(np.array([[10.0]]))
    assert time.monotonic() - started < 10


def fake(folder, body):
    program = folder / "python"
    program.write_text(f"#!{HERE}\n{body}")
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise SystemExit(7)", r"ended while it started \(exit status 7\)"),
        ("import time; time.sleep(30)", "gave no answer for 1 s while it started and was killed"),
        ("print('hello, this is no simulator')", "sent something that is no message"),
        (
            "import os, sys; sys.path.insert(0, sys.argv[3] + '/..'); from trcl_envs.wire import pack\n"
            "os.write(1, pack({'protocol': 99, 'versions': {}}))",
            "must speak protocol 1 of trcl_envs, got 99",
        ),
    ],
)
def test_programs_that_are_no_simulator_are_one_line(tmp_path, body, message):
    wait = 1.0 if "sleep" in body else 30.0
    with pytest.raises(trcl_envs.SimulationError, match=message) as caught:
        Simulator(fake(tmp_path, body), wait)
    assert "\n" not in str(caught.value)


def test_missing_program_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"env_python must be the Python program .*, got .*nowhere"):
        trcl_envs.make_env("push", 1, env_python=str(tmp_path / "nowhere"))
