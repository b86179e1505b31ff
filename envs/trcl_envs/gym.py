"""The tasks as Gymnasium environments: ``gymnasium.make("trcl/hammer-v3")`` and ``gymnasium.make_vec``.

``register_envs`` is called when ``trcl_envs`` is imported, and by Gymnasium versions that look for plug-ins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from trcl_envs.catalog import is_plugin, make_env, make_renderer, observation_bounds, task_info, task_names
from trcl_envs.interface import BoolArray, FloatArray, Renderer, TaskInfo

NAMESPACE = "trcl"
MAX_SEED = 2**31


def register_envs() -> None:
    """Make every task known to Gymnasium as ``trcl/NAME``; calling it again changes nothing.

    Other packages' tasks are not loaded for that: their environments find out the horizon themselves.
    """
    for name in task_names():
        full = f"{NAMESPACE}/{name}"
        if full in gymnasium.registry:
            continue
        gymnasium.register(
            id=full,
            entry_point="trcl_envs.gym:TaskEnv",
            vector_entry_point="trcl_envs.gym:TaskVectorEnv",
            max_episode_steps=None if is_plugin(name) else task_info(name).horizon,
            kwargs={"task": name},
        )


def action_space(info: TaskInfo) -> gymnasium.spaces.Box:
    """Actions (Da,) in [-1, 1]."""
    return gymnasium.spaces.Box(-1.0, 1.0, (info.action_dim,), np.float32)


def observation_space(info: TaskInfo) -> gymnasium.spaces.Box:
    """Observations (Do,), within the task's bounds where it has some."""
    free = np.full(info.observation_dim, np.inf)
    low, high = observation_bounds(info.name) or (-free, free)
    return gymnasium.spaces.Box(low, high, dtype=np.float64)


class TaskEnv(gymnasium.Env[Any, Any]):
    """One world of one task. ``info["success"]`` tells whether this step counts as solved; that ends no episode.

    Episodes end by truncation at the task's horizon (Gymnasium's ``TimeLimit``, which does not know that of another
    package's task: there it is done here), or by termination if physics broke.

    Args:
        task: name of the task.
        render_mode: None or ``"rgb_array"``.
        width: picture width [px].
        height: picture height [px].
        camera: see ``make_renderer``.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 80}  # noqa: RUF012

    def __init__(
        self,
        task: str,
        render_mode: str | None = None,
        width: int = 480,
        height: int = 480,
        camera: str | None = None,
    ) -> None:
        self.render_mode = checked_mode(render_mode)
        self.info = task_info(task)
        self.metadata = {**self.metadata, "render_fps": round(self.info.control_frequency)}
        self.action_space, self.observation_space = action_space(self.info), observation_space(self.info)
        self._worlds = make_env(task, num_worlds=1)
        self._last = self.info.horizon if is_plugin(task) else None
        self._elapsed = 0
        self._picture = (width, height, camera)
        self._renderer: Renderer | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FloatArray, dict[str, Any]]:
        """Start an episode; with a seed, the one that this seed defines in every part of this package."""
        super().reset(seed=seed)
        episode = int(self.np_random.integers(MAX_SEED)) if seed is None else seed
        self._elapsed = 0
        return self._worlds.reset([episode])[0], {"success": False}

    def step(self, action: NDArray[np.float32]) -> tuple[FloatArray, float, bool, bool, dict[str, Any]]:
        """Advance one control step."""
        step = self._worlds.step(np.asarray(action)[None])
        success, failed = bool(step.success[0]), bool(step.failed[0])
        self._elapsed += 1
        truncated = self._last is not None and self._elapsed >= self._last
        return step.observation[0], float(step.reward[0]), failed, truncated, {"success": success}

    def render(self) -> NDArray[np.uint8] | None:
        """Return a picture (height, width, 3) of the world as it is now."""
        if self.render_mode is None:
            return None
        if self._renderer is None:
            self._renderer = make_renderer(self.info.name, *self._picture)
        return self._renderer.frame(self._worlds.scene(0))

    def close(self) -> None:
        """Release threads, memory and the GL context; safe to call twice."""
        self._worlds.close()
        if self._renderer is not None:
            self._renderer.close()


class TaskVectorEnv(gymnasium.vector.VectorEnv[Any, Any, NDArray[Any]]):
    """N worlds of one task on the batched physics, each started anew in the step after its episode ended.

    Args:
        task: name of the task.
        num_envs: N.
        max_episode_steps: control steps after which episodes are truncated; None = the task's horizon.
        threads: CPU threads.
        backend: see ``make_env``.
        render_mode: None or ``"rgb_array"``.
        width: picture width [px].
        height: picture height [px].
        camera: see ``make_renderer``.
    """

    metadata = {  # noqa: RUF012
        "render_modes": ["rgb_array"],
        "render_fps": 80,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        task: str,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        threads: int = 1,
        backend: str = "cpu",
        render_mode: str | None = None,
        width: int = 480,
        height: int = 480,
        camera: str | None = None,
    ) -> None:
        self.render_mode, self.num_envs = checked_mode(render_mode), num_envs
        self.info = task_info(task)
        self.metadata = {**self.metadata, "render_fps": round(self.info.control_frequency)}
        self._worlds = make_env(task, num_envs, threads, backend)
        self.single_action_space = action_space(self.info)
        self.single_observation_space = observation_space(self.info)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._horizon = max_episode_steps or self.info.horizon
        self._elapsed = np.zeros(num_envs, dtype=int)
        self._over: BoolArray = np.zeros(num_envs, dtype=bool)
        self._picture = (width, height, camera)
        self._renderer: Renderer | None = None

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FloatArray, dict[str, Any]]:
        """Start all episodes; a single seed s gives world i the episode s + i, as Gymnasium itself does."""
        super().reset(seed=seed if isinstance(seed, int) else None)
        wanted = self._episode_seeds(seed)
        if len(wanted) != self.num_envs:
            raise ValueError(f"seed must hold {self.num_envs} numbers (num_envs), got {len(wanted)}")
        self._elapsed[:], self._over[:] = 0, False
        observation = self._worlds.reset(wanted)
        return observation, self._infos(np.zeros(self.num_envs, dtype=bool))

    def step(
        self, actions: NDArray[np.float32]
    ) -> tuple[FloatArray, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Advance all worlds; those whose episode ended in the last step begin a new one and ignore their action."""
        begun = self._over.copy()
        step = self._worlds.step(actions, active=~begun)
        observation, reward = step.observation, np.where(begun, 0.0, step.reward)
        if begun.any():
            rows = np.flatnonzero(begun)
            observation[rows] = self._worlds.reset_rows(rows, self._fresh_seeds()[: len(rows)])
        self._elapsed = np.where(begun, 0, self._elapsed + 1)
        truncated, terminated = self._elapsed >= self._horizon, step.failed & ~begun
        self._over = truncated | terminated
        return observation, reward, terminated, truncated, self._infos(step.success & ~begun)

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """One picture (height, width, 3) of each world."""
        if self.render_mode is None:
            return None
        if self._renderer is None:
            self._renderer = make_renderer(self.info.name, *self._picture)
        return tuple(self._renderer.frame(self._worlds.scene(row)) for row in range(self.num_envs))

    def close_extras(self, **kwargs: Any) -> None:
        """Release threads, memory and the GL context."""
        self._worlds.close()
        if self._renderer is not None:
            self._renderer.close()

    def _episode_seeds(self, seed: int | Sequence[int | None] | None) -> list[int]:
        if isinstance(seed, int):
            return [seed + i for i in range(self.num_envs)]
        fresh = self._fresh_seeds()
        if seed is None:
            return fresh
        return [fresh[i % self.num_envs] if one is None else one for i, one in enumerate(seed)]

    def _fresh_seeds(self) -> list[int]:
        return self.np_random.integers(MAX_SEED, size=self.num_envs).tolist()

    def _infos(self, success: BoolArray) -> dict[str, Any]:
        """Gymnasium marks which worlds an entry speaks of by a second entry with an underscore."""
        return {"success": success, "_success": np.ones(self.num_envs, dtype=bool)}


def checked_mode(render_mode: str | None) -> str | None:
    """The render mode, if it is one of ours."""
    if render_mode not in (None, "rgb_array"):
        raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
    return render_mode
