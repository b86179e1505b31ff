"""Moments of a run at which something can be measured or saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from trcl_policy.continual.packing import weights_of
from trcl_policy.continual.params import Layout


@dataclass(frozen=True)
class Position:
    """Where a run stands: ``step`` updates of task ``task`` are done; ``settled`` once its anchor and replay are."""

    task: int = 0
    step: int = 0
    settled: bool = False


@dataclass(frozen=True)
class Snapshot:
    """A moment at which something can be measured or saved.

    Attributes:
        kind: ``step`` within a task, ``learned`` at its end, ``settled`` once anchor and replay have been renewed.
        position: where the run stands.
        task: name of the task being learned.
        total_steps: updates that this task gets.
        theta: weights to use at this moment (P,): the moving average, or the raw weights where averaging is off. The
            learner's own tensor: it changes when the next snapshot is asked for; ``params`` is a copy.
        layout: layout of ``theta``.
        scalars: losses and rates of the last update (empty between tasks).
        seconds: time spent so far by purpose: ``training``, ``fisher``, ``replay``.
        state: call it, before the next snapshot is asked for, to get a copy of all that ``learn(resume=...)`` needs, on
            the CPU.
        owner: the task that each weight belongs to (P,), where tasks have weights of their own; see packing.py.
    """

    kind: str
    position: Position
    task: str
    total_steps: int
    theta: Tensor
    layout: Layout
    scalars: Mapping[str, float]
    seconds: Mapping[str, float]
    state: Callable[[], dict[str, Tensor]]
    owner: Tensor | None = None

    @property
    def params(self) -> dict[str, Tensor]:
        """The weights under their names, a copy."""
        return self.layout.unflatten(self.theta.detach().clone())

    def params_of(self, task_index: int) -> dict[str, Tensor]:
        """The weights that the task at this place of the sequence uses, a copy."""
        if self.owner is None:
            return self.params
        return self.layout.unflatten(weights_of(self.theta.detach(), self.owner, task_index))
