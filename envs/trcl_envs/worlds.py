"""The one batched environment: a task on arrays, on any physics backend."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trcl_envs.interface import BoolArray, FloatArray, Physics, Renderer, Scene, Step, TaskSpec


class Worlds:
    """N worlds of one task in lockstep; fulfils ``BatchedEnv``.

    Args:
        spec: the task.
        physics: N worlds of the task's scene; owned from now on and closed with this environment.
    """

    def __init__(self, spec: TaskSpec, physics: Physics) -> None:
        self.spec, self.physics = spec, physics
        self.info, self.num_worlds = spec.info, physics.num_worlds
        self._rows: NDArray[np.intp] = np.arange(0)
        check_rate(spec, physics.dt)
        self._goal: FloatArray = np.zeros((self.num_worlds, 0))
        self._frame: FloatArray = np.zeros((self.num_worlds, 0))
        self._observation = np.zeros((self.num_worlds, self.info.observation_dim))
        self._reward = np.zeros(self.num_worlds)
        self._success: BoolArray = np.zeros(self.num_worlds, dtype=bool)
        self._overrides: list[dict[str, FloatArray]] = [{} for _ in range(self.num_worlds)]
        self._renderers: dict[tuple[int, int, str | None], Renderer] = {}

    def reset(self, seeds: Sequence[int]) -> FloatArray:
        """Start ``len(seeds) <= num_worlds`` worlds anew; returns observations (len(seeds), Do)."""
        if not 1 <= len(seeds) <= self.num_worlds:
            raise ValueError(f"seeds must hold 1 to {self.num_worlds} numbers (num_worlds), got {len(seeds)}")
        self._rows = np.arange(len(seeds))
        return self.reset_rows(self._rows, seeds)

    def reset_rows(self, rows: NDArray[np.intp], seeds: Sequence[int]) -> FloatArray:
        """Start some worlds anew and leave the others as they are; returns observations (len(rows), Do)."""
        spec, physics = self.spec, self.physics
        draws = np.stack([spec.sample(start_generator(self.info.name, seed)) for seed in seeds])
        overrides = spec.overrides(draws)
        for place, row in enumerate(rows):
            self._overrides[row] = {key: value[place].copy() for key, value in overrides.items()}
        physics.restart(rows, overrides)
        if spec.settling is None:
            physics.forward(rows)
        else:
            ctrl, mocap_pos = (np.tile(a, (len(rows), 1)) for a in (spec.settling.ctrl, spec.settling.mocap_pos))
            physics.step(rows, ctrl, mocap_pos, spec.settling.substeps)
        physics.write(rows, spec.place(draws, physics.read(rows)))
        physics.forward(rows)
        return self._begin(rows, draws)

    def step(self, actions: NDArray[np.floating], active: BoolArray | None = None) -> Step:
        """Advance one control step with actions (N, Da), clipped to [-1, 1]. Inactive rows keep all they had."""
        actions = self._checked(actions)
        mask = np.ones(len(self._rows), dtype=bool) if active is None else np.asarray(active, dtype=bool)
        rows = self._rows[mask & ~self.physics.failed[self._rows]]
        ctrl, mocap_pos = self.spec.command(actions[rows], self.physics.mocap_pos[rows])
        self.physics.step(rows, ctrl, mocap_pos, self.spec.substeps, forward=True)
        self._look(rows, actions)
        now = slice(0, len(self._rows))
        return Step(
            self._observation[now].copy(),
            self._reward[now].copy(),
            self._success[now].copy(),
            self.physics.failed[now].copy(),
        )

    def scene(self, row: int) -> Scene:
        """Return the drawable state of one world."""
        if not 0 <= row < len(self._rows):
            raise ValueError(f"row must be in 0..{len(self._rows) - 1}, got {row}")
        overrides = {**self._overrides[row], "goal": self._goal[row].copy()}
        sizes = {name: getattr(self.physics, name).shape[1] for name in ("qpos", "qvel", "mocap_pos")}
        return Scene(self.info.name, self.physics.state(row), overrides, sizes)

    def renderer(self, width: int, height: int, camera: str | None = None) -> Renderer:
        """What draws these worlds off screen from a named camera; made on first use, closed with the worlds."""
        from trcl_envs.render import MujocoRenderer

        key = (width, height, camera)
        if key not in self._renderers:
            self._renderers[key] = MujocoRenderer(self.spec, width, height, camera)
        return self._renderers[key]

    def close(self) -> None:
        """Release threads and memory; safe to call twice."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers = {}
        self.physics.close()

    def _checked(self, actions: NDArray[np.floating]) -> FloatArray:
        wanted = (len(self._rows), self.info.action_dim)
        if not len(self._rows):
            raise ValueError("reset must be called before step")
        if np.shape(actions) != wanted:
            raise ValueError(f"actions must have shape {wanted}, got {np.shape(actions)}")
        return np.clip(np.asarray(actions, dtype=np.float64), -1.0, 1.0)

    def _begin(self, rows: NDArray[np.intp], draws: FloatArray) -> FloatArray:
        """First observation of fresh worlds: the previous frame is the current one."""
        reading = self.physics.read(rows)
        frame = self.spec.frame(reading)
        goal = self.spec.goal(draws, reading)
        if (self._frame.shape[1], self._goal.shape[1]) != (frame.shape[1], goal.shape[1]):
            self._frame, self._goal = (np.zeros((self.num_worlds, part.shape[1])) for part in (frame, goal))
        observation = self.spec.observe(frame, frame, goal)
        wanted = (len(rows), self.info.observation_dim)
        if observation.shape != wanted:
            raise ValueError(f"observe of {self.info.name} must give {wanted}, as info says, got {observation.shape}")
        self._goal[rows], self._frame[rows], self._observation[rows] = goal, frame, observation
        self._reward[rows], self._success[rows] = 0.0, False
        return self._observation[rows].copy()

    def _look(self, rows: NDArray[np.intp], actions: FloatArray) -> None:
        """Update what is known of these worlds after they moved; broken ones show zeros."""
        broken = rows[self.physics.failed[rows]]
        self._observation[broken], self._reward[broken], self._success[broken] = 0.0, 0.0, False
        rows = rows[~self.physics.failed[rows]]
        reading, goal = self.physics.read(rows), self._goal[rows]
        frame = self.spec.frame(reading)
        observation = self.spec.observe(frame, self._frame[rows], goal)
        success = self.spec.success(reading, observation, goal)
        self._frame[rows], self._observation[rows], self._success[rows] = frame, observation, success
        self._reward[rows] = self.spec.reward(reading, observation, goal, success, actions[rows])


def check_rate(spec: TaskSpec, dt: float) -> None:
    """Hold a task's control frequency [Hz] to its scene's time step ``dt`` [s].

    Raises:
        ValueError: they don't fit.
    """
    found = 1.0 / (spec.substeps * dt)
    if abs(found - spec.info.control_frequency) > 1e-6 * found:
        raise ValueError(
            f"control_frequency of {spec.info.name} must be 1 / (substeps * timestep) = {found:g} Hz, "
            f"got {spec.info.control_frequency:g}"
        )


def start_generator(task: str, seed: int) -> np.random.Generator:
    """The generator that alone decides how an episode of ``task`` starts; ``seed`` is a whole number >= 0."""
    if seed < 0:
        raise ValueError(f"seed must be >= 0, got {seed}")
    return np.random.default_rng([zlib.crc32(task.encode()), int(seed)])
