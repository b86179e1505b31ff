import subprocess
import sys

import gymnasium
import numpy as np
import pytest

import trcl_envs
from trcl_envs import gl

pytestmark = pytest.mark.sim


@pytest.fixture(scope="module")
def drawable():
    try:
        trcl_envs.choose_gl()
    except trcl_envs.SimulationError as reason:
        pytest.skip(str(reason))


@pytest.fixture
def scene():
    env = trcl_envs.make_env("push-v3", 1)
    env.reset([0])
    yield env.scene(0)
    env.close()


def goal_row(renderer, scene, height):
    """Mean picture row of the green ball that marks a goal at this height [m] over the table."""
    goal = np.array([0.25, 0.6, height])
    picture = renderer.frame(trcl_envs.Scene(scene.task, scene.state, {"goal": goal})).astype(int)
    green = picture[..., 1] - picture[..., [0, 2]].max(axis=-1) > 60
    return np.flatnonzero(green.any(axis=1)).mean()


@pytest.mark.parametrize("camera", [None, "front", "corner", "corner2", "corner3", "corner4"])
def test_pictures_are_upright(drawable, scene, camera):
    renderer = trcl_envs.make_renderer("push-v3", 192, 128, camera)
    picture = renderer.frame(scene)
    assert picture.shape == (128, 192, 3)
    assert picture.dtype == np.uint8
    assert goal_row(renderer, scene, 0.2) < goal_row(renderer, scene, 0.05) - 5
    renderer.close()


def test_pictures_follow_the_state_and_repeat(drawable, scene):
    env = trcl_envs.make_env("push-v3", 1)
    env.reset([1])
    renderer = trcl_envs.make_renderer("push-v3", 64, 64)
    first = renderer.frame(scene).copy()
    assert (renderer.frame(env.scene(0)) != first).any()
    np.testing.assert_array_equal(renderer.frame(scene), first)
    renderer.close()


def test_goal_is_drawn_where_it_is(drawable, scene):
    moved = trcl_envs.Scene(scene.task, scene.state, {**scene.overrides, "goal": np.array([0.0, 0.5, 0.3])})
    renderer = trcl_envs.make_renderer("push-v3", 96, 96)
    assert (renderer.frame(scene).copy() != renderer.frame(moved)).any()
    renderer.close()


@pytest.mark.slow
@pytest.mark.parametrize("task", trcl_envs.SEQUENCES["mt50"])
def test_every_task_can_be_drawn_with_its_goal(drawable, task):
    env = trcl_envs.make_env(task, 1)
    env.reset([5])
    scene, renderer = env.scene(0), trcl_envs.make_renderer(task, 128, 128)
    lifted = {**scene.overrides, "goal": np.array([0.0, 0.6, 0.4])}
    picture = renderer.frame(scene).astype(int)
    assert picture.std(axis=(0, 1)).min() > 10
    assert (renderer.frame(trcl_envs.Scene(task, scene.state, lifted)) != picture).any()
    renderer.close()
    env.close()


def test_closed_renderer_says_so(drawable, scene):
    renderer = trcl_envs.make_renderer("push-v3", 16, 16)
    renderer.close()
    renderer.close()
    with pytest.raises(trcl_envs.SimulationError, match="closed"):
        renderer.frame(scene)


def test_wrong_camera_size_and_scene_are_named(drawable, scene):
    with pytest.raises(ValueError, match=r"camera must be one of .*got 'corner22' \(did you mean 'corner2'\?\)"):
        trcl_envs.make_renderer("push-v3", 16, 16, "corner22")
    with pytest.raises(ValueError, match=r"width must be >= 1 \[px\], got 0"):
        trcl_envs.make_renderer("push-v3", 0, 16)
    renderer = trcl_envs.make_renderer("hammer-v3", 16, 16)
    with pytest.raises(ValueError, match=r"scene.task must be 'hammer-v3' .*got 'push-v3'"):
        renderer.frame(scene)
    renderer.close()


def test_gymnasium_draws(drawable):
    env = gymnasium.make("trcl/push-v3", render_mode="rgb_array", width=40, height=30)
    env.reset(seed=0)
    assert env.render().shape == (30, 40, 3)
    env.close()


def test_drawing_works_after_mujoco_was_imported_without_gl(drawable):
    code = (
        "import trcl_envs; env = trcl_envs.make_env('push', 1); env.reset([0]);"
        "print(trcl_envs.make_renderer('push', 8, 8).frame(env.scene(0)).shape)"
    )
    clean = {key: value for key, value in gl.os.environ.items() if key not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    done = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(8, 8, 3)"


def test_machine_without_gl_is_told_what_to_install(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(gl, "probe", lambda backend: "ImportError: none here")
    with pytest.raises(trcl_envs.SimulationError, match="libegl1 libgl1-mesa-dri or libosmesa6") as caught:
        trcl_envs.choose_gl()
    assert "\n" not in str(caught.value)
    report = trcl_envs.gl_report()
    assert report["chosen"] == ""
    assert "libegl1" in report["mend"]


def test_wished_gl_that_is_missing_is_one_clear_line():
    reasons = trcl_envs.gl_report()["backends"]
    missing = [backend for backend, reason in reasons.items() if reason != "works"]
    if not missing:
        pytest.skip("every backend works here")
    code = (
        "import trcl_envs\n"
        "try:\n    trcl_envs.make_renderer('push', 8, 8)\n"
        "except trcl_envs.SimulationError as error:\n    print(error)"
    )
    wish = {**gl.os.environ, "MUJOCO_GL": missing[0]}
    done = subprocess.run([sys.executable, "-c", code], env=wish, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("MUJOCO_GL")
    assert "unset it" in done.stdout


def test_users_choice_is_respected(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.setattr(gl, "probe", lambda backend: pytest.fail("must not be asked"))
    assert trcl_envs.choose_gl() == "osmesa"
