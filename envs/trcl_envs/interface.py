"""What a batched simulated task looks like from outside: array types in, array types out, no simulator named.

Everything that consumes simulation (rollouts, collection, videos) is written against this file alone. One world is
one row; a batch of worlds holds N copies of ONE task, each at its own state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


class SimulationError(RuntimeError):
    """Raised when a simulator can't be built or can't go on; the message is one line that names the next step."""


@dataclass(frozen=True)
class TaskInfo:
    """The facts of a task that a learner or a report needs.

    Attributes:
        name: registered name, such as ``"hammer-v3"``.
        instruction: one sentence a person would say, such as ``"Hammer the nail into the board."``.
        observation_dim: size Do of an observation.
        action_dim: size Da of an action; actions lie in [-1, 1].
        horizon: longest episode [control steps].
        control_frequency: control steps per second of simulated time [Hz].
    """

    name: str
    instruction: str
    observation_dim: int
    action_dim: int
    horizon: int
    control_frequency: float


@dataclass(frozen=True)
class Step:
    """What one control step of N worlds returned.

    Attributes:
        observation: (N, Do) float64.
        reward: (N,) float64, the task's own dense reward.
        success: (N,) bool, whether the task counts as solved in THIS step.
        failed: (N,) bool, the physics of that world became non-finite; its observation is all zeros from then on.
    """

    observation: FloatArray
    reward: FloatArray
    success: BoolArray
    failed: BoolArray


@dataclass(frozen=True)
class Scene:
    """Everything needed to draw one world later, in another process, without simulating it again.

    Attributes:
        task: name of the task.
        state: flat simulator state (the backend defines the layout).
        overrides: per-world changes of the model, such as moved bodies, by field name.
    """

    task: str
    state: FloatArray
    overrides: dict[str, FloatArray] = field(default_factory=dict)


@runtime_checkable
class BatchedEnv(Protocol):
    """N worlds of one task in lockstep.

    A world is defined by its reset seed alone: the same seed gives the same start state whatever N, the row it sits in,
    the number of threads, or what ran before.
    """

    info: TaskInfo
    num_worlds: int

    def reset(self, seeds: Sequence[int]) -> FloatArray:
        """Start ``len(seeds) <= num_worlds`` worlds anew; returns observations (len(seeds), Do). Later calls use that many rows."""
        ...

    def step(self, actions: NDArray[np.floating], active: BoolArray | None = None) -> Step:
        """Advance one control step with actions (N, Da), clipped to [-1, 1]. Rows where ``active`` is false stay as they are."""
        ...

    def scene(self, row: int) -> Scene:
        """Return the drawable state of one world."""
        ...

    def close(self) -> None:
        """Release threads and memory; safe to call twice."""
        ...


class Expert(Protocol):
    """A scripted controller for one task."""

    def reset(self, num_worlds: int) -> None:
        """Forget the previous episodes."""
        ...

    def actions(self, observations: FloatArray) -> FloatArray:
        """Actions (N, Da) for observations (N, Do); NOT clipped: whoever stores or executes them clips to [-1, 1]."""
        ...


class Renderer(Protocol):
    """Draws scenes of one task off screen."""

    def frame(self, scene: Scene) -> NDArray[np.uint8]:
        """An upright picture (H, W, 3)."""
        ...

    def close(self) -> None:
        """Release the GL context; safe to call twice."""
        ...
