"""Synaptic Intelligence: importance of weights from the path that training takes (Zenke, Poole, Ganguli 2017).

Notation (paper, eq. 3-5):
    omega    sum over a task's steps of -g * (after - before): what each weight's moves took off the loss, first order
    Omega    sum over tasks of max(omega, 0) / (Delta^2 + damping), Delta = how far the weight came during the task
    penalty  c sum_i Omega_i (theta_i - theta*_i)^2 around the LATEST weights theta*; c is ``weight``
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from trcl_policy.continual.metric import Diagonal
from trcl_policy.continual.past import Learned
from trcl_policy.continual.quadratic import Quadratic


@dataclass(frozen=True)
class PathAnchor:
    """A diagonal quadratic around the latest weights, weighted by what each weight has done for the loss.

    Attributes:
        weight: c of the penalty; Q / 2 is the penalty.
        damping: keeps weights that hardly moved from dividing by zero [squared weights].
        held: sum of Omega_i (theta_i - theta*_i)^2; None before the first task is learned.
        start: weights at the first step of the current task (P,); None before it.
        omega: sum of the current task's steps so far (P,); None before the first.
    """

    weight: float = 1.0
    damping: float = 0.1
    held: Quadratic | None = None
    start: Tensor | None = None
    omega: Tensor | None = None

    def __post_init__(self) -> None:
        """Check the options once."""
        if self.weight < 0:
            raise ValueError(f"weight must be >= 0, got {self.weight}")
        if not self.damping > 0:
            raise ValueError(f"damping must be > 0 [squared weights], got {self.damping}")

    @property
    def memory(self) -> str:
        """What is kept of old tasks, in words."""
        return "two vectors in all, two more while learning"

    @property
    def mean_curvature(self) -> float:
        """Mean of 2 Omega, without ``weight``; 0 before the first task."""
        return 0.0 if self.held is None else 2 * self.held.trace() / self.held.num_weights

    @property
    def mean_loss(self) -> float:
        """Zero: it is not measured."""
        return 0.0

    @cached_property
    def _charged(self) -> Quadratic | None:
        """Q, twice the penalty; None where it is zero everywhere."""
        return self.held.scaled(2 * self.weight) if self.held is not None and self.weight > 0 else None

    def value(self, theta: Tensor) -> Tensor:
        """The penalty Q(theta) / 2, a float64 scalar."""
        charged = self._charged
        return 0.5 * (theta.new_zeros((), dtype=torch.float64) if charged is None else charged.square(theta))

    def gradient(self, theta: Tensor) -> Tensor | None:
        """Gradient of the penalty, (P,); None while it is zero everywhere."""
        return None if self._charged is None else self._charged.gradient(theta)

    def add_gradient(self, direction: Tensor, theta: Tensor) -> Tensor:
        """``direction`` (P,) with the gradient of Q / 2 added in place."""
        return direction if self._charged is None else self._charged.add_gradient(direction, theta)

    def proximal(self, theta: Tensor, step: float, out: Tensor | None = None) -> Tensor:
        """argmin_x |x - theta|^2 / (2 step) + Q(x) / 2, (P,)."""
        return theta if self._charged is None or step == 0 else self._charged.proximal(theta, step, out)

    def project(self, theta: Tensor, radius: float) -> Tensor:
        """``theta`` where Q(theta) <= radius^2, else the point towards the centre where they are equal, (P,)."""
        return theta if self._charged is None else self._charged.project(theta, radius**2)

    @property
    def watches(self) -> bool:
        """True: every step counts."""
        return True

    def after_step(self, gradient: Tensor, before: Tensor, after: Tensor) -> PathAnchor:
        """With -gradient * (after - before) added to omega."""
        omega = torch.zeros_like(before) if self.omega is None else self.omega
        start = before.clone() if self.start is None else self.start
        return replace(self, start=start, omega=torch.addcmul(omega, gradient, after - before, value=-1))

    def after_task(self, learned: Learned) -> PathAnchor:
        """Turn the task's omega into importance, and move the centre to the weights just learned."""
        theta = learned.theta
        past = Quadratic() if self.held is None else self.held.recentered(theta, 1.0)
        if self.start is None or self.omega is None:  # a task without steps adds nothing
            return replace(self, held=past.plus(Diagonal(torch.zeros_like(theta)), 1.0, theta))
        importance = self.omega.clamp_min(0) / ((theta - self.start).square() + self.damping)
        return replace(self, held=past.plus(Diagonal(importance), 1.0, theta), start=None, omega=None)

    def state(self) -> dict[str, Tensor]:
        """Importance and centre, and where the current task stands."""
        own = {} if self.held is None else self.held.state()
        if self.start is None or self.omega is None:
            return own
        return {**own, "start": self.start, "omega": self.omega}

    def restore(self, state: Mapping[str, Tensor]) -> PathAnchor:
        """The anchor whose ``state`` was saved, with this one's options."""
        held = Quadratic.restore(state) if "center" in state else None
        return replace(self, held=held, start=state.get("start"), omega=state.get("omega"))
