"""Pictures of scenes, off screen and upright, without simulating anything again."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trcl_envs.gl import choose_gl, import_mujoco
from trcl_envs.interface import Scene, SimulationError, TaskSpec
from trcl_envs.views import View

GOAL_RADIUS = 0.015  # [m]


class MujocoRenderer:
    """Fulfils ``Renderer`` with ``mujoco.Renderer``. Use it in the thread that made it, and close it.

    Args:
        spec: the task whose scenes are drawn.
        width: [px], at least 1.
        height: [px], at least 1.
        camera: one of the task's ``views``, or a camera of the scene's MJCF; Meta-World's ``corner`` cameras hang
            upside down and are turned. None = the first of all, or where there is none, MuJoCo's free camera.

    Raises:
        SimulationError: this machine can't draw.
    """

    def __init__(self, spec: TaskSpec, width: int, height: int, camera: str | None = None) -> None:
        for name, value in (("width", width), ("height", height)):
            if value < 1:
                raise ValueError(f"{name} must be >= 1 [px], got {value}")
        choose_gl()
        self._mujoco, self._spec = import_mujoco(), spec
        self._model = spec.load_model()
        self._camera = pick_camera(self._model, camera, spec.views)
        self._turned = (camera or "").startswith("corner")
        # Multisampling and shadows cost nine tenths of the time on a machine without a GPU.
        self._model.vis.quality.offsamples = 0
        self._model.vis.global_.offwidth = max(width, self._model.vis.global_.offwidth)
        self._model.vis.global_.offheight = max(height, self._model.vis.global_.offheight)
        self._data = self._mujoco.MjData(self._model)
        self._renderer = open_renderer(self._model, width, height)

    def frame(self, scene: Scene) -> NDArray[np.uint8]:
        """An upright picture (H, W, 3)."""
        if self._renderer is None:
            raise SimulationError("this renderer is closed: make a new one with make_renderer")
        if scene.task != self._spec.info.name:
            raise ValueError(f"scene.task must be {self._spec.info.name!r} for this renderer, got {scene.task!r}")
        self._place(scene)
        self._renderer.update_scene(self._data, self._camera)
        flags = self._renderer.scene.flags
        flags[self._mujoco.mjtRndFlag.mjRND_SHADOW] = flags[self._mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        if len(scene.overrides["goal"]):
            self._mark(scene.overrides["goal"])
        picture = self._renderer.render()
        return np.ascontiguousarray(picture[::-1, ::-1]) if self._turned else picture

    def close(self) -> None:
        """Release the GL context; safe to call twice."""
        if self._renderer is not None:
            self._renderer.close()
        self._renderer = None

    def _place(self, scene: Scene) -> None:
        model, data = self._model, self._data
        if len(scene.overrides["goal"]):
            hide_goal_sites(model)
        for key, value in scene.overrides.items():
            field, _, name = key.partition(":")
            if name:
                getattr(model, field)[getattr(model, field.partition("_")[0])(name).id] = value
        data.qpos[:], data.qvel[:], data.mocap_pos.flat = np.split(scene.state, [model.nq, model.nq + model.nv])
        self._mujoco.mj_forward(model, data)

    def _mark(self, goal: NDArray[np.float64]) -> None:
        """Draw the goal as a small ball."""
        scene = self._renderer.scene
        ball = scene.geoms[scene.ngeom]
        size, turn = np.full(3, GOAL_RADIUS), np.eye(3).ravel()
        colour = np.array([0.1, 0.9, 0.2, 1.0], dtype=np.float32)
        self._mujoco.mjv_initGeom(ball, self._mujoco.mjtGeom.mjGEOM_SPHERE, size, goal, turn, colour)
        scene.ngeom += 1


def open_renderer(model: Any, width: int, height: int) -> Any:
    """A ``mujoco.Renderer``, or one line that says why there is none."""
    mujoco = import_mujoco()
    try:
        return mujoco.Renderer(model, height, width)
    except (mujoco.FatalError, AttributeError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise SimulationError(f"MUJOCO_GL can't draw here ({reason}): unset it to have one found") from error


def hide_goal_sites(model: Any) -> None:
    """Make the scene's own goal markers invisible; they don't follow the goal in every task.

    Most are called goal or begin with it; the coffee machine's are ``mug_goal`` and ``coffee_goal``.
    """
    for site in range(model.nsite):
        if "goal" in model.site(site).name:
            model.site_rgba[site, 3] = 0.0


def pick_camera(model: Any, name: str | None, views: Mapping[str, View]) -> Any:
    """What ``mujoco.Renderer.update_scene`` takes as camera; see ``MujocoRenderer``."""
    mujoco = import_mujoco()
    fixed = [model.camera(i).name for i in range(model.ncam)]
    accepted = [*views, *fixed]
    if name is None and not accepted:
        camera = mujoco.MjvCamera()
        mujoco.mjv_defaultFreeCamera(model, camera)
        return camera
    name = accepted[0] if name is None else name
    if name not in accepted:
        near = difflib.get_close_matches(name, accepted, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"camera must be {'one of ' if accepted else 'None'}{', '.join(accepted)}; got {name!r}{hint}")
    if name in fixed:
        return name
    camera, view = mujoco.MjvCamera(), views[name]
    camera.lookat[:], camera.distance = view.lookat, view.distance
    camera.azimuth, camera.elevation = view.azimuth, view.elevation
    return camera
