"""The batched environment whose state, observations and successes stay on the device of its physics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trcl_envs.gpu import WarpPhysics
from trcl_envs.interface import BoolArray, FloatArray, Scene, SimulationError, Step, TaskSpec
from trcl_envs.worlds import check_rate, start_generator


@dataclass(frozen=True)
class DeviceStep:
    """``Step`` in torch tensors on the device: (N, Do), (N,), (N,) bool and (N,) bool."""

    observation: Tensor
    reward: Tensor
    success: Tensor
    failed: Tensor


@dataclass(frozen=True)
class Starts:
    """M episodes ready to begin in any world, so that beginning one simulates nothing.

    Attributes:
        state: what ``WarpPhysics.load`` takes, M rows.
        overrides: what the seeds changed in the model, M rows.
        goal: (M, 3) [m].
        frame: (M, F).
        observation: (M, Do).
    """

    state: dict[str, Tensor]
    overrides: dict[str, Tensor]
    goal: Tensor
    frame: Tensor
    observation: Tensor

    def first(self, count: int) -> Starts:
        """The first episodes, in tensors of their own."""
        state, overrides = (
            {key: value[:count].clone() for key, value in part.items()} for part in (self.state, self.overrides)
        )
        seen = (value[:count].clone() for value in (self.goal, self.frame, self.observation))
        return Starts(state, overrides, *seen)


def joined(parts: Sequence[Starts]) -> Starts:
    """The episodes of all parts, in order."""
    state = {key: torch.cat([part.state[key] for part in parts]) for key in parts[0].state}
    overrides = {key: torch.cat([part.overrides[key] for part in parts]) for key in parts[0].overrides}
    seen = (torch.cat([getattr(part, name) for part in parts]) for name in ("goal", "frame", "observation"))
    return Starts(state, overrides, *seen)


class DeviceWorlds:
    """N worlds of one task, in tensors on one device.

    Fulfils ``BatchedEnv`` in NumPy arrays, for everything written against that. What wants speed stays on the device:
    ``prepare`` makes start states, ``begin`` puts them into worlds, ``advance`` is a control step of all worlds, and
    none of the last two waits for the device.

    Args:
        spec: the task.
        physics: N worlds of the task's scene; owned from now on and closed with this environment.
    """

    def __init__(self, spec: TaskSpec, physics: WarpPhysics) -> None:
        self.spec, self.physics = spec, physics
        self.info, self.num_worlds, self.device = spec.info, physics.num_worlds, physics.device
        count = self.num_worlds
        self._count = 0
        check_rate(spec, physics.dt)
        self._goal, self._observation = self._zeros(count, 0), self._zeros(count, self.info.observation_dim)
        self._frame = self._zeros(count, 0)
        self._reward, self._success = self._zeros(count), self._zeros(count).bool()
        self._overrides: dict[str, Tensor] = {}

    # --- on the device

    def prepare(self, seeds: Sequence[int]) -> Starts:
        """The start states of these seeds, drawn as on every backend; the running worlds stay as they are.

        Settling takes all worlds at once, N seeds at a time.
        """
        if not len(seeds):
            raise ValueError("seeds must hold at least 1 number, got 0")
        draws = np.stack([self.spec.sample(start_generator(self.info.name, seed)) for seed in seeds])
        before = self.physics.snapshot()
        blocks = [draws[first : first + self.num_worlds] for first in range(0, len(draws), self.num_worlds)]
        parts = [self._settled(block) for block in blocks]
        self.check()
        self.physics.load(self.physics.rows, before)
        return joined(parts)

    def begin(self, rows: Tensor, starts: Starts, which: Tensor) -> Tensor:
        """Start episodes ``which`` (n,) of ``starts`` in worlds ``rows`` (n,); their first observations (n, Do)."""
        self.physics.load(rows, {name: values[which] for name, values in starts.state.items()})
        parts = (starts.frame, starts.goal)
        if [part.shape[1] for part in parts] != [self._frame.shape[1], self._goal.shape[1]]:
            self._frame, self._goal = (self._zeros(self.num_worlds, part.shape[1]) for part in parts)
        self._goal[rows], self._frame[rows] = starts.goal[which], starts.frame[which]
        self._observation[rows] = starts.observation[which]
        self._reward[rows], self._success[rows] = 0.0, False
        for key, value in starts.overrides.items():
            self._overrides.setdefault(key, self._zeros(self.num_worlds, 3))[rows] = value[which]
        return self._observation[rows]

    def advance(self, actions: Tensor, rows: Tensor | None = None) -> DeviceStep:
        """One control step with actions (N, Da), clipped to [-1, 1], of all worlds or of some, the others as they are.

        The tensors returned hold until the next call.
        """
        rows = self.physics.rows if rows is None else rows
        actions = actions.clip(-1.0, 1.0)
        ctrl, mocap_pos = self.spec.command(actions[rows], self.physics.mocap_pos[rows])
        self.physics.step(rows, ctrl, mocap_pos, self.spec.substeps, forward=True)
        self._look(rows, actions[rows])
        return DeviceStep(self._observation, self._reward, self._success, self.physics.failed)

    def check(self) -> None:
        """Wait for the device, and make sure that no world lost contacts for want of room.

        Raises:
            SimulationError: one did; the message says what to do.
        """
        fault = self.physics.fault()
        if fault:
            raise SimulationError(fault)

    # --- in NumPy arrays

    def reset(self, seeds: Sequence[int]) -> FloatArray:
        """Start ``len(seeds) <= num_worlds`` worlds anew; returns observations (len(seeds), Do)."""
        if not 1 <= len(seeds) <= self.num_worlds:
            raise ValueError(f"seeds must hold 1 to {self.num_worlds} numbers (num_worlds), got {len(seeds)}")
        self._count = len(seeds)
        # Worlds that nobody asked for move too: they get a start that is known to be at rest.
        which = self.physics.rows.clamp(max=self._count - 1)
        begun = self.begin(self.physics.rows, self.prepare(seeds), which)
        return begun[: self._count].double().cpu().numpy()

    def reset_rows(self, rows: NDArray[np.intp], seeds: Sequence[int]) -> FloatArray:
        """Start some worlds anew and leave the others as they are; returns observations (len(rows), Do)."""
        worlds = torch.as_tensor(rows, device=self.device)
        begun = self.begin(worlds, self.prepare(seeds), torch.arange(len(seeds), device=self.device))
        return begun.double().cpu().numpy()

    def step(self, actions: NDArray[np.floating], active: BoolArray | None = None) -> Step:
        """Advance one control step with actions (N, Da), clipped to [-1, 1]. Inactive rows keep all they had."""
        wanted = (self._count, self.info.action_dim)
        if not self._count:
            raise ValueError("reset must be called before step")
        if np.shape(actions) != wanted:
            raise ValueError(f"actions must have shape {wanted}, got {np.shape(actions)}")
        padded = self._zeros(self.num_worlds, self.info.action_dim)
        padded[: self._count] = torch.as_tensor(np.asarray(actions), device=self.device)
        rows = None
        if active is not None and not np.all(active):
            rows = torch.as_tensor(np.flatnonzero(active), device=self.device)
        made = self.advance(padded, rows)
        self.check()
        parts = (made.observation.double(), made.reward.double(), made.success, made.failed)
        return Step(*(part[: self._count].cpu().numpy().copy() for part in parts))

    def scene(self, row: int) -> Scene:
        """Return the drawable state of one world."""
        if not 0 <= row < self.num_worlds:
            raise ValueError(f"row must be in 0..{self.num_worlds - 1}, got {row}")
        overrides = {**self._overrides, "goal": self._goal}
        changed = {key: value[row].double().cpu().numpy() for key, value in overrides.items()}
        return Scene(self.info.name, self.physics.state(row), changed)

    def close(self) -> None:
        """Release the device's memory; safe to call twice."""
        self.physics.close()

    # ---

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, device=self.device)

    def _settled(self, draws: FloatArray) -> Starts:
        """Starts of n <= N draws, the last of which also fills the worlds that are left."""
        count, spec, physics = len(draws), self.spec, self.physics
        padded = np.concatenate([draws, np.tile(draws[-1], (self.num_worlds - count, 1))])
        drawn = torch.as_tensor(padded, dtype=torch.float32, device=self.device)
        overrides = spec.overrides(drawn)
        physics.restart(physics.rows, overrides)
        if spec.settling is None:
            physics.forward(physics.rows)
        else:
            settle = (spec.settling.ctrl, spec.settling.mocap_pos)
            ctrl, mocap_pos = (np.tile(array, (self.num_worlds, 1)) for array in settle)
            physics.step(physics.rows, ctrl, mocap_pos, spec.settling.substeps)
        physics.write(physics.rows, spec.place(drawn, physics.read(physics.rows)))
        physics.forward(physics.rows)
        reading = physics.read(physics.rows)
        frame, goal = spec.frame(reading), spec.goal(drawn, reading)
        starts = Starts(physics.snapshot(), dict(overrides), goal, frame, spec.observe(frame, frame, goal))
        return starts.first(count)

    def _look(self, rows: Tensor, actions: Tensor) -> None:
        """Update what is known of these worlds after they moved; broken ones show zeros."""
        reading, goal, sound = self.physics.read(rows), self._goal[rows], ~self.physics.failed[rows]
        frame = self.spec.frame(reading)
        observation = self.spec.observe(frame, self._frame[rows], goal)
        success = self.spec.success(reading, observation, goal) & sound
        reward = self.spec.reward(reading, observation, goal, success, actions)
        self._frame[rows] = frame
        self._observation[rows] = torch.where(sound[:, None], observation, 0.0)
        self._reward[rows], self._success[rows] = torch.where(sound, reward, 0.0), success
