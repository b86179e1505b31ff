"""robosuite's environments as worlds and as pictures: the one file that imports robosuite."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trcl_envs.gl import choose_gl, import_mujoco
from trcl_envs.interface import BoolArray, FloatArray, Scene, SimulationError, Step, TaskInfo
from trcl_envs.render import open_renderer, pick_camera
from trcl_envs.robosuite_tasks import TASKS, RobosuiteTask
from trcl_envs.worlds import start_generator

CAMERA = "agentview"
# What every environment here needs, whatever the data set was recorded with.
HEADLESS = {
    "has_renderer": False,
    "has_offscreen_renderer": False,
    "use_camera_obs": False,
    "use_object_obs": True,
    "ignore_done": True,
    "hard_reset": False,  # loading the model anew takes a hundred times as long and starts no other way
    "renderer": "mujoco",
    "seed": 0,  # of what is drawn while the model is built, such as the size of Lift's cube: the same in all worlds
}



class RobosuiteWorlds:
    """N worlds of one task, moved one after another; fulfils ``BatchedEnv``.

    Args:
        name: what the task is called; a task of ``TASKS`` unless ``task`` says what it is.
        num_worlds: N, at least 1; each is built when it is first used.
        task: what is simulated.

    Raises:
        ValueError: robosuite doesn't take the task's arguments.
        SimulationError: robosuite is not installed.
    """

    def __init__(self, name: str, num_worlds: int, task: RobosuiteTask | None = None) -> None:
        if num_worlds < 1:
            raise ValueError(f"num_worlds must be >= 1, got {num_worlds}")
        self._task = task or TASKS[name]
        self._envs = [make(self._task)]
        self.info, self.num_worlds = self._describe(name, self._envs[0]), num_worlds
        self._observation = np.zeros((num_worlds, self.info.observation_dim))
        self._reward = np.zeros(num_worlds)
        self._success: BoolArray = np.zeros(num_worlds, dtype=bool)
        self._failed: BoolArray = np.zeros(num_worlds, dtype=bool)
        self._used = 0

    def _describe(self, name: str, env: Any) -> TaskInfo:
        """The facts of the task, sizes and rates read off an environment where they aren't the catalogue's."""
        task = self._task
        size = task.observation_dim or len(np.concatenate(self._parts(env.reset())))
        return TaskInfo(name, task.instruction, size, env.action_dim, task.horizon, float(env.control_freq))

    def reset(self, seeds: Sequence[int]) -> FloatArray:
        """Start ``len(seeds) <= num_worlds`` worlds anew; returns observations (len(seeds), Do)."""
        if not 1 <= len(seeds) <= self.num_worlds:
            raise ValueError(f"seeds must hold 1 to {self.num_worlds} numbers (num_worlds), got {len(seeds)}")
        self._used = len(seeds)
        return self.reset_rows(np.arange(self._used), seeds)

    def reset_rows(self, rows: NDArray[np.intp], seeds: Sequence[int]) -> FloatArray:
        """Start some worlds anew and leave the others as they are; returns observations (len(rows), Do)."""
        while len(self._envs) <= max(rows):
            self._envs.append(make(self._task))
        for row, seed in zip(rows, seeds, strict=True):
            env = self._envs[row]
            # All of its samplers hold this very generator.
            env.rng.bit_generator.state = start_generator(self.info.name, seed).bit_generator.state
            self._observation[row] = self._vector(env.reset())
            self._reward[row], self._success[row], self._failed[row] = 0.0, False, False
        return self._observation[rows].copy()

    def step(self, actions: NDArray[np.floating], active: BoolArray | None = None) -> Step:
        """Advance one control step with actions (N, Da), clipped to [-1, 1]. Inactive rows keep all they had."""
        wanted = (self._used, self.info.action_dim)
        if not self._used:
            raise ValueError("reset must be called before step")
        if np.shape(actions) != wanted:
            raise ValueError(f"actions must have shape {wanted}, got {np.shape(actions)}")
        mask = np.ones(self._used, dtype=bool) if active is None else np.asarray(active, dtype=bool)
        for row in np.flatnonzero(mask & ~self._failed[: self._used]):
            self._advance(int(row), np.clip(np.asarray(actions[row], dtype=np.float64), -1.0, 1.0))
        now = slice(0, self._used)
        return Step(
            self._observation[now].copy(),
            self._reward[now].copy(),
            self._success[now].copy(),
            self._failed[now].copy(),
        )

    def _advance(self, row: int, action: FloatArray) -> None:
        env = self._envs[row]
        try:
            if not np.isfinite(action).all():
                raise FloatingPointError("an action that is no number")
            told, reward, _, _ = env.step(action)
            observation = self._vector(told)
            if not (np.isfinite(observation).all() and np.isfinite(env.sim.data.qvel).all()):
                raise FloatingPointError("physics that is no number")
        except (FloatingPointError, np.linalg.LinAlgError):
            self._observation[row], self._reward[row], self._success[row], self._failed[row] = 0.0, 0.0, False, True
            return
        self._observation[row], self._reward[row] = observation, float(reward)
        self._success[row] = bool(env._check_success())

    def scene(self, row: int) -> Scene:
        """Return the drawable state of one world: time, qpos, qvel; robosuite moves some things in the model."""
        if not 0 <= row < self._used:
            raise ValueError(f"row must be in 0..{self._used - 1}, got {row}")
        sim = self._envs[row].sim
        moved = {name: np.array(getattr(sim.model, name), dtype=np.float64) for name in ("body_pos", "body_quat")}
        return Scene(self.info.name, np.asarray(sim.get_state().flatten(), dtype=np.float64), moved)

    def close(self) -> None:
        """Release memory; safe to call twice."""
        for env in self._envs:
            env.close()
        self._envs = []

    def _vector(self, told: Mapping[str, Any]) -> FloatArray:
        seen = np.concatenate(self._parts(told))
        return np.pad(seen, (0, self.info.observation_dim - len(seen)))

    def _parts(self, told: Mapping[str, Any]) -> list[FloatArray]:
        missing = [key for key in self._task.keys if key not in told]
        if missing:
            raise ValueError(f"observation keys must be among {', '.join(sorted(told))}; got {', '.join(missing)}")
        return [np.atleast_1d(np.asarray(told[key], dtype=np.float64)).ravel() for key in self._task.keys]


class RobosuiteRenderer:
    """Draws scenes of a robosuite task; fulfils ``Renderer``. Use it in the thread that made it, and close it.

    Args:
        name: what the task is called.
        width: [px], at least 1.
        height: [px], at least 1.
        camera: a camera of the scene; None = ``CAMERA``.
        task: what is simulated, where ``name`` is not of ``TASKS``.

    Raises:
        SimulationError: this machine can't draw, or robosuite is not installed.
    """

    def __init__(
        self, name: str, width: int, height: int, camera: str | None = None, task: RobosuiteTask | None = None
    ) -> None:
        for what, value in (("width", width), ("height", height)):
            if value < 1:
                raise ValueError(f"{what} must be >= 1 [px], got {value}")
        choose_gl()
        self._mujoco, self._name, self._env = import_mujoco(), name, make(task or TASKS[name])
        model = self._env.sim.model._model
        self._camera = pick_camera(model, camera or CAMERA, {})
        model.vis.quality.offsamples = 0  # multisampling and shadows cost most of the time without a GPU
        model.vis.global_.offwidth, model.vis.global_.offheight = max(width, 640), max(height, 480)
        self._options = self._mujoco.MjvOption()
        self._options.geomgroup[0] = 0  # what collides, which is not meant to be seen
        self._options.sitegroup[:] = 0
        self._renderer = open_renderer(model, width, height)

    def frame(self, scene: Scene) -> NDArray[np.uint8]:
        """An upright picture (H, W, 3)."""
        if self._renderer is None:
            raise SimulationError("this renderer is closed: make a new one with make_renderer")
        if scene.task != self._name:
            raise ValueError(f"scene.task must be {self._name!r} for this renderer, got {scene.task!r}")
        sim = self._env.sim
        for field_name, value in scene.overrides.items():
            getattr(sim.model, field_name)[:] = value
        sim.set_state_from_flattened(scene.state)
        sim.forward()
        self._renderer.update_scene(sim.data._data, self._camera, self._options)
        flags = self._renderer.scene.flags
        flags[self._mujoco.mjtRndFlag.mjRND_SHADOW] = flags[self._mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        return self._renderer.render()

    def close(self) -> None:
        """Release the GL context; safe to call twice."""
        if self._renderer is not None:
            self._renderer.close()
            self._env.close()
        self._renderer = None


def make(task: RobosuiteTask) -> Any:
    """A robosuite environment, without a screen and without cameras.

    Raises:
        ValueError: robosuite doesn't take the task's arguments.
        SimulationError: robosuite is not installed, or can't simulate with the MuJoCo beside it.
    """
    suite, mujoco = import_robosuite(), import_mujoco()
    kwargs = {**copy.deepcopy(dict(task.kwargs)), **HEADLESS}
    with quiet():
        try:
            kwargs["controller_configs"] = _controllers(kwargs)
            env = suite.make(task.env_name, **kwargs)
        except AssertionError as error:
            raise SimulationError(
                f"robosuite {suite.__version__} can't build {task.env_name} with MuJoCo {mujoco.__version__} "
                f"({error or 'it asserts otherwise'}): try mujoco<3.10 in its environment"
            ) from error
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"robosuite must be able to build {task.env_name}, got: {reason}") from error
    # A diverging world must stay visibly broken instead of being silently put back to its default state.
    env.sim.model._model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_AUTORESET)
    return env


def _controllers(kwargs: Mapping[str, Any]) -> Any:
    """The controllers asked for, where they are written as before robosuite 1.5 in today's words."""
    from robosuite.controllers.composite.composite_controller_factory import refactor_composite_controller_config

    asked, robots = kwargs.get("controller_configs"), kwargs.get("robots", "Panda")
    if asked is None:
        return None
    robot = robots if isinstance(robots, str) else robots[0]
    return refactor_composite_controller_config(dict(asked), robot, ["right"])


def import_robosuite() -> Any:
    """The ``robosuite`` package; importing it chooses an OpenGL, which is taken back: that is for ``choose_gl``."""
    chosen = os.environ.get("MUJOCO_GL")
    try:
        with quiet():
            import robosuite
    except ModuleNotFoundError as error:
        raise SimulationError(
            f"robosuite can't be imported here ({error}): give it a virtual environment of its own and name its Python "
            "with --env-python, as docs/robosuite.md shows"
        ) from error
    except (ImportError, AttributeError, RuntimeError) as error:
        raise SimulationError(f"robosuite can't be imported here: {' '.join(str(error).split())}") from error
    if chosen is None:
        os.environ.pop("MUJOCO_GL", None)
    return robosuite


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep robosuite's advice about macro files and controllers off the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)

