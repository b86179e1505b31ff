"""What parts of a method learn of a finished task, and the protocol of what holds the past."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from trcl_policy.continual.model import Model
from trcl_policy.continual.params import Layout
from trcl_policy.continual.streams import Streams
from trcl_policy.continual.tasks import Task


@dataclass(frozen=True)
class Learned:
    """What the parts of a method may see when a task has been learned.

    Attributes:
        task: the task.
        task_index: its place in the sequence, from 0.
        old_tasks: the different tasks up to and with it, for their conditions only.
        revisited: the task's samples have been learned before.
        model: the model.
        layout: layout of the parameters.
        theta: weights at the end of the task (P,), the ones that are kept.
        streams: the run's random streams.
        raw: weights at the end of the task before averaging (P,); None where they are not at hand.
    """

    task: Task
    task_index: int
    old_tasks: tuple[Task, ...]
    revisited: bool
    model: Model
    layout: Layout
    theta: Tensor
    streams: Streams
    raw: Tensor | None = None


class Anchor(Protocol):
    """A convex quadratic Q over the weights that grows with every task."""

    @property
    def memory(self) -> str:
        """What is kept of old tasks, in words."""
        ...

    @property
    def mean_curvature(self) -> float:
        """Mean eigenvalue of the metric, averaged over old tasks, without any weight; 0 before the first."""
        ...

    @property
    def mean_loss(self) -> float:
        """Average over old tasks of their mean loss at the end of learning them; 0 where it is not known."""
        ...

    def value(self, theta: Tensor) -> Tensor:
        """Q(theta) / 2, a float64 scalar: what a penalty adds to the loss, up to a constant."""
        ...

    def gradient(self, theta: Tensor) -> Tensor | None:
        """Gradient of Q / 2, (P,); None where it is zero everywhere."""
        ...

    def add_gradient(self, direction: Tensor, theta: Tensor) -> Tensor:
        """``direction`` (P,) with the gradient of Q / 2 added in place; untouched where that is zero everywhere."""
        ...

    def proximal(self, theta: Tensor, step: float, out: Tensor | None = None) -> Tensor:
        """argmin_x |x - theta|^2 / (2 step) + Q(x) / 2, (P,); ``out`` may serve as its memory, ``theta`` itself too."""
        ...

    def project(self, theta: Tensor, radius: float) -> Tensor:
        """``theta`` where Q(theta) <= radius^2, else a point of that ball's surface, (P,)."""
        ...

    @property
    def watches(self) -> bool:
        """Whether ``after_step`` has to be called."""
        ...

    def after_step(self, gradient: Tensor, before: Tensor, after: Tensor) -> Anchor:
        """The anchor that also knows of one update of the weights.

        Args:
            gradient: of the new task's loss at ``before``, (P,).
            before: weights before the optimiser's step (P,).
            after: weights after it (P,).
        """
        ...

    def after_task(self, learned: Learned) -> Anchor:
        """The anchor that also holds the task just learned."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Everything that ``restore`` needs."""
        ...

    def restore(self, state: dict[str, Tensor]) -> Anchor:
        """The anchor saved as ``state``."""
        ...


@dataclass(frozen=True)
class NoAnchor:
    """The past charges nothing."""

    memory: str = "nothing"
    mean_curvature: float = 0.0
    mean_loss: float = 0.0

    def value(self, theta: Tensor) -> Tensor:
        """Zero."""
        return theta.new_zeros((), dtype=torch.float64)

    def gradient(self, theta: Tensor) -> Tensor | None:
        """None: there is nothing to hold on to."""
        return None

    def add_gradient(self, direction: Tensor, theta: Tensor) -> Tensor:
        """``direction`` itself."""
        return direction

    def proximal(self, theta: Tensor, step: float, out: Tensor | None = None) -> Tensor:
        """``theta`` itself."""
        return theta

    def project(self, theta: Tensor, radius: float) -> Tensor:
        """``theta`` itself."""
        return theta

    @property
    def watches(self) -> bool:
        """False."""
        return False

    def after_step(self, gradient: Tensor, before: Tensor, after: Tensor) -> NoAnchor:
        """Itself."""
        return self

    def after_task(self, learned: Learned) -> NoAnchor:
        """Itself."""
        return self

    def state(self) -> dict[str, Tensor]:
        """Empty."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> NoAnchor:
        """Itself."""
        return self
