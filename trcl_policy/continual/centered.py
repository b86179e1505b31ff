"""A quadratic around one point, with a metric that leaves no direction of its weights out: no centre is lost in a sum.

    Q(x) = (x - m)' D (x - m)

Diagonals add up without loss, around the precision-weighted mean of their centres. Kronecker products do not: their sum
is the nearest product, around the centre that came last. That is Laplace's approximation taken one task after another
(Huszar 2018; Ritter, Botev, Barber 2018): where a task has been learned against all that the past charges, its weights
are the lowest point of both together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from trcl_policy.continual.kronecker import Kronecker
from trcl_policy.continual.metric import Diagonal, Isotropic


@dataclass(frozen=True)
class Centered:
    """(x - center)' D (x - center) for a metric D."""

    metric: Diagonal | Isotropic | Kronecker
    center: Tensor

    def add_gradient(self, direction: Tensor, theta: Tensor) -> None:
        """Add D (theta - center) to ``direction`` (P,) in place, for a diagonal in two passes over the weights."""
        offset = torch.sub(theta, self.center, out=self._offset)
        if isinstance(self.metric, Isotropic):
            direction.add_(offset, alpha=self.metric.value)
        elif isinstance(self.metric, Diagonal):
            direction.addcmul_(offset, self.metric.values)
        else:
            self.metric.add_product(direction, offset)

    def divisor(self, scale: float) -> Tensor:
        """A = 1 + scale * D for a diagonal D, (P,); the tensor is the same each time, overwritten by the next call."""
        if isinstance(self.metric, Isotropic):
            return self._scratch.fill_(1.0 + scale * self.metric.value)
        return torch.add(self.center.new_ones(()), self.values, alpha=scale, out=self._scratch)

    @cached_property
    def _scratch(self) -> Tensor:
        """Memory for ``divisor``: a new vector at every step costs more than the arithmetic."""
        return torch.empty_like(self.center)

    @cached_property
    def _offset(self) -> Tensor:
        """Memory for theta - center."""
        return torch.empty_like(self.center)

    def proximal(self, theta: Tensor, scale: float, out: Tensor | None = None) -> Tensor:
        """center + (1 + scale D)^-1 (theta - center), (P,); into ``out`` if given.

        For a diagonal in three passes over the weights.
        """
        offset = torch.sub(theta, self.center, out=self._offset)
        if isinstance(self.metric, Kronecker):
            return torch.add(self.center, self.metric.solve(offset, scale), out=out)
        return torch.addcdiv(self.center, offset, self.divisor(scale), out=out)

    def joined(self, other: Centered) -> Centered:
        """The sum of both, around the precision-weighted mean; a weight that neither holds keeps this centre.

        Of Kronecker products the nearest one to the sum, around the other centre.
        """
        if isinstance(self.metric, Kronecker) and isinstance(other.metric, Kronecker):
            return Centered(self.metric.joined(other.metric), other.center)
        move = other.center - self.center
        if isinstance(self.metric, Isotropic) and isinstance(other.metric, Isotropic):
            value = self.metric.value + other.metric.value
            share = other.metric.value / value if value > 0 else 0.0
            return Centered(Isotropic(value, self.metric.size), self.center + share * move)
        new = other.values
        total = self.values + new
        return Centered(Diagonal(total), self.center + torch.where(total > 0, new / total, 0.0) * move)

    @property
    def values(self) -> Tensor:
        """The diagonal of a diagonal D, (P,).

        Raises:
            ValueError: D is none, and can't be added to one.
        """
        if isinstance(self.metric, Isotropic):
            return torch.full_like(self.center, self.metric.value)
        if isinstance(self.metric, Kronecker):
            raise ValueError("a metric of Kronecker products adds up with its like only, got a diagonal")
        return self.metric.values

    def state(self) -> dict[str, Tensor]:
        """Everything that ``restore`` needs."""
        if isinstance(self.metric, Kronecker):
            return {"center": self.center, **self.metric.state()}
        if isinstance(self.metric, Isotropic):
            return {"center": self.center, "values": torch.tensor(self.metric.value, dtype=torch.float64)}
        return {"center": self.center, "values": self.metric.values}

    @classmethod
    def restore(cls, state: Mapping[str, Tensor]) -> Centered:
        """The quadratic whose ``state`` was saved."""
        center, own = state["center"], state["values"]
        if "blocks" in state:
            return cls(Kronecker.restore(state), center)
        return cls(Isotropic(float(own), center.numel()) if own.ndim == 0 else Diagonal(own), center)
