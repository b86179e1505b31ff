"""What the past charges the weights: a quadratic around the weights at the end of every old task.

    Q(theta) = coefficient * sum_k (theta - theta_k*)' F_k (theta - theta_k*)         (paper, section 1)

Terms are merged where the algebra allows: a sum of diagonal terms is one diagonal term around the precision-weighted
mean of the centres (plus a constant); a sum of low-rank terms is one low-rank term that stores only the projections
``u_k' theta_k*``, not the centres. So memory is two vectors for diagonals and, for each task, ``rank`` vectors for low
rank (one for rank-1).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from trcl_policy.continual.fisher import ESTIMATORS, estimate
from trcl_policy.continual.gradients import Sampled
from trcl_policy.continual.metric import Diagonal, Isotropic, LowRank, Metric
from trcl_policy.continual.model import Model
from trcl_policy.continual.params import Layout
from trcl_policy.continual.streams import Streams
from trcl_policy.continual.tasks import Task, draw


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
    """

    task: Task
    task_index: int
    old_tasks: tuple[Task, ...]
    revisited: bool
    model: Model
    layout: Layout
    theta: Tensor
    streams: Streams


class Anchor(Protocol):
    """A convex quadratic Q over the weights that grows with every task."""

    def value(self, theta: Tensor) -> Tensor:
        """Q(theta) / 2, a float64 scalar: what a penalty adds to the loss, up to a constant."""
        ...

    def gradient(self, theta: Tensor) -> Tensor | None:
        """Gradient of Q / 2, (P,); None where it is zero everywhere."""
        ...

    def proximal(self, theta: Tensor, step: float) -> Tensor:
        """argmin_x |x - theta|^2 / (2 step) + Q(x) / 2, (P,)."""
        ...

    def project(self, theta: Tensor, radius: float) -> Tensor:
        """``theta`` where Q(theta) <= radius^2, else a point of that ball's surface, (P,)."""
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

    def value(self, theta: Tensor) -> Tensor:
        """Zero."""
        return theta.new_zeros((), dtype=torch.float64)

    def gradient(self, theta: Tensor) -> Tensor | None:
        """None: there is nothing to hold on to."""
        return None

    def proximal(self, theta: Tensor, step: float) -> Tensor:
        """``theta`` itself."""
        return theta

    def project(self, theta: Tensor, radius: float) -> Tensor:
        """``theta`` itself."""
        return theta

    def after_task(self, learned: Learned) -> NoAnchor:
        """Itself."""
        return self

    def state(self) -> dict[str, Tensor]:
        """Empty."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> NoAnchor:
        """Itself."""
        return self


@dataclass(frozen=True)
class FisherAnchor:
    """The sum of Fisher quadratics around the weights at the end of every old task.

    Attributes:
        kind: metric of each term, a name of ``fisher.ESTIMATORS``.
        weight: scale-free strength w. Each term is measured in units of its own task's loss (``c F``, see
            fisher.py) and terms are averaged over old tasks, so w = 1 charges the expected rise of the average old
            loss, whatever the network, the loss's scale or the number of tasks.
        raw_lambda: the published strength instead: terms are plain Fishers and are summed. None uses ``weight``.
        num_samples: samples the Fisher is averaged over.
        rank: eigenpairs that ``lowrank`` keeps of each task; memory is rank P numbers a task.
        metric: merged metric of all old tasks; None before the first is learned.
        center: where Q is smallest: the merged centre (P,) for diagonals, ``u_k' theta_k*``
            (K,) in float64 for low rank.
        num_tasks: number of old tasks held.
    """

    kind: str = "diagonal"
    weight: float = 1.0
    raw_lambda: float | None = None
    num_samples: int = 1024
    rank: int = 16
    metric: Metric | None = None
    center: Tensor | None = None
    num_tasks: int = 0

    def __post_init__(self) -> None:
        """Check the options once."""
        if self.kind not in ESTIMATORS:
            raise ValueError(f"metric must be one of {', '.join(ESTIMATORS)}, got {self.kind!r}")
        if self.weight < 0 or (self.raw_lambda is not None and self.raw_lambda < 0):
            raise ValueError(f"weight and lambda must be >= 0, got {self.weight} and {self.raw_lambda}")
        if self.num_samples < 1:
            raise ValueError(f"fisher_samples must be >= 1, got {self.num_samples}")
        if self.rank < 1:
            raise ValueError(f"rank must be >= 1, got {self.rank}")

    @property
    def coefficient(self) -> float:
        """What multiplies the merged metric."""
        return self.raw_lambda if self.raw_lambda is not None else self.weight / max(self.num_tasks, 1)

    def value(self, theta: Tensor) -> Tensor:
        """Q(theta) / 2, a float64 scalar, up to the constant that merging leaves."""
        return 0.5 * self._square(theta)

    def gradient(self, theta: Tensor) -> Tensor | None:
        """Gradient of Q / 2, (P,); None while it is zero everywhere."""
        if self.metric is None or self.coefficient == 0:
            return None
        if isinstance(self.metric, LowRank):
            pull = self.coefficient * self.metric.values * self._offset(theta)
            return self.metric.combine(pull)
        return self.coefficient * self.metric.multiply(self._offset(theta))

    def proximal(self, theta: Tensor, step: float) -> Tensor:
        """theta* + (I + step F)^-1 (theta - theta*) in closed form, (P,); stable for every weight."""
        if self.metric is None or step * self.coefficient == 0:
            return theta
        scale = step * self.coefficient
        if isinstance(self.metric, LowRank):
            return theta - self.metric.combine(self.metric.coefficients(self._offset(theta), scale))
        return self._center + self.metric.solve(self._offset(theta), scale)

    def project(self, theta: Tensor, radius: float) -> Tensor:
        """``theta`` if Q(theta) <= radius^2, else a point where Q = radius^2, (P,).

        Diagonals and multiples of the identity go straight towards their merged centre; low rank, which stores no
        centre, goes to the nearest such point. Q counts from the merged minimum for the former.
        """
        square = float(self._square(theta))
        if self.metric is None or square <= radius**2:
            return theta
        if isinstance(self.metric, LowRank):
            return theta - self.metric.combine(self.metric.nearest(self._offset(theta), radius**2 / self.coefficient))
        return self._center + radius / square**0.5 * self._offset(theta)

    @property
    def _center(self) -> Tensor:
        assert self.center is not None
        return self.center

    def _offset(self, theta: Tensor) -> Tensor:
        """theta - theta*: (P,) for diagonals, in float64 coordinates (K,) for low rank."""
        return (self.metric.coordinates(theta) if isinstance(self.metric, LowRank) else theta) - self._center

    def _square(self, theta: Tensor) -> Tensor:
        """Q(theta), a float64 scalar."""
        if self.metric is None:
            return theta.new_zeros((), dtype=torch.float64)
        if isinstance(self.metric, LowRank):
            return self.coefficient * (self.metric.values.double() * self._offset(theta).square()).sum()
        return self.coefficient * self.metric.quadratic(self._offset(theta))

    def after_task(self, learned: Learned) -> FisherAnchor:
        """Estimate the Fisher of the task just learned at its final weights, and merge its term."""
        streams = learned.streams
        batch = draw(learned.task.samples, self.num_samples, streams["fisher/samples"])
        corrupted = learned.model.corrupt(batch, streams["fisher/noise"])
        sampled = Sampled(learned.model, learned.layout, learned.theta, corrupted)
        found = estimate(self.kind, sampled, streams["fisher/directions"], self.rank)
        unit = 1.0 if self.raw_lambda is not None else found.curvature_ratio
        return self.merged_with(found.metric, unit, learned.theta)

    def merged_with(self, metric: Metric, unit: float, theta: Tensor) -> FisherAnchor:
        """The anchor with one more term ``unit * metric`` around ``theta``."""
        merged, center = _merge(self.metric, self.center, metric.scaled(unit), theta)
        return replace(self, metric=merged, center=center, num_tasks=self.num_tasks + 1)

    def state(self) -> dict[str, Tensor]:
        """Tensors of the merged metric and centre."""
        if self.metric is None:
            return {}
        state = {"center": self._center, "num_tasks": torch.tensor(self.num_tasks)}
        if isinstance(self.metric, Isotropic):
            return {**state, "value": torch.tensor(self.metric.value, dtype=torch.float64)}
        if isinstance(self.metric, LowRank):
            return {**state, "basis": self.metric.basis, "values": self.metric.values}
        return {**state, "values": self.metric.values}

    def restore(self, state: dict[str, Tensor]) -> FisherAnchor:
        """The anchor whose ``state`` was saved, with this one's options."""
        if not state:
            return replace(self, metric=None, center=None, num_tasks=0)
        metric: Metric
        if "value" in state:
            metric = Isotropic(float(state["value"]))
        elif "basis" in state:
            metric = LowRank(state["basis"], state["values"])
        else:
            metric = Diagonal(state["values"])
        return replace(self, metric=metric, center=state["center"], num_tasks=int(state["num_tasks"]))


def _merge(old: Metric | None, center: Tensor | None, new: Metric, theta: Tensor) -> tuple[Metric, Tensor]:
    """Metric and centre of the sum of two quadratics, the second one ``new`` around ``theta``."""
    at = new.coordinates(theta) if isinstance(new, LowRank) else theta.clone()
    if old is None or center is None:
        return new, at
    if isinstance(new, LowRank) and isinstance(old, LowRank):
        stacked = LowRank(torch.cat([old.basis, new.basis]), torch.cat([old.values, new.values]))
        return stacked, torch.cat([center, at])
    if isinstance(new, Isotropic) and isinstance(old, Isotropic):
        value = old.value + new.value
        return Isotropic(value), center + (new.value / value if value > 0 else 0.0) * (at - center)
    assert isinstance(new, Diagonal)
    assert isinstance(old, Diagonal)
    total = old.values + new.values
    share = torch.where(total > 0, new.values / total, 0.0)
    return Diagonal(total), center + share * (at - center)
