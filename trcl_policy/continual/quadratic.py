"""Sums of quadratics around different centres, merged: what the metrics of metric.py charge for leaving old weights.

    Q(x) = sum_k (x - theta_k)' F_k (x - theta_k)
         = (x - m)' D (x - m) + sum_j s_j (u_j'x - b_j)^2 + constant

Notation and how each part merges:
    D, m     sum of all diagonals and their precision-weighted mean of the centres, D^-1 sum_k D_k theta_k
    s, u, b  all eigenpairs of the low-rank parts, stacked, with b_j = u_j'theta_k in float64 instead of the centre
    A        I + t D, the diagonal matrix of a proximal step t; Woodbury adds the low-rank part to it
The constant, the price of the best compromise, is left out: it changes no gradient and no step.

A sum of Kronecker products is the one that is not exact (centered.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from trcl_policy.continual.centered import Centered
from trcl_policy.continual.metric import Diagonal, DiagonalLowRank, LowRank, Metric

FAR = 1e6
"""Proximal step, in units of 1 / mean curvature, that counts as infinite."""


@dataclass(frozen=True)
class Projected:
    """sum_j s_j (u_j'x - at_j)^2 for a low-rank metric with values s (K,) and rows u_j; ``at`` is float64 (K,)."""

    metric: LowRank
    at: Tensor

    def offset(self, theta: Tensor) -> Tensor:
        """u_j'theta - at_j, float64 (K,)."""
        return self.metric.coordinates(theta) - self.at

    def joined(self, other: Projected) -> Projected:
        """The sum of both: all rows."""
        basis = torch.cat([self.metric.basis, other.metric.basis])
        values = torch.cat([self.metric.values, other.metric.values])
        return Projected(LowRank(basis, values), torch.cat([self.at, other.at]))

    def split(self, rank: int) -> tuple[Projected, LowRank | None]:
        """The ``rank`` largest eigenpairs of H = B'SB, exact up to a constant, and the metric that they leave out.

        With S^1/2 B B' S^1/2 = W diag(m) W', the eigenvectors of H are v_i = B' S^1/2 w_i / sqrt(m_i). The linear term
        h = B'S b has v_i'h = sqrt(m_i) w_i'S^1/2 b, so that along v_i the sum is smallest at v_i'h / m_i.
        """
        root = self.metric.values.double().sqrt()
        found, vectors = torch.linalg.eigh(root[:, None] * self.metric.gram * root)
        found, vectors = found.flip(0).clamp_min(0), vectors.flip(1)
        count = max(1, int((found > len(found) * torch.finfo(self.metric.basis.dtype).eps * found[0]).sum()))
        found, vectors = found[:count], vectors[:, :count]
        lengths = found.sqrt().clamp_min(torch.finfo(torch.float64).tiny)
        weights = (vectors * root[:, None] / lengths).T  # rows: what combines B to v_i
        at = vectors.T @ (root * self.at) / lengths
        basis = weights.to(self.metric.basis.dtype) @ self.metric.basis
        values = found.to(self.metric.values.dtype)
        kept = Projected(LowRank(basis[:rank].clone(), values[:rank]), at[:rank])
        return kept, LowRank(basis[rank:], values[rank:]) if count > rank else None


@dataclass(frozen=True)
class Quadratic:
    """A merged sum of quadratics; empty without parts.

    Attributes:
        centered: the diagonal part, or that of Kronecker products, with its centre.
        projected: the low-rank part, with what its rows see of the centres.
    """

    centered: Centered | None = None
    projected: Projected | None = None

    @classmethod
    def around(cls, metric: Metric, theta: Tensor) -> Quadratic:
        """(x - theta)' F (x - theta); ``theta`` is copied."""
        if isinstance(metric, LowRank):
            return cls(projected=Projected(metric, metric.coordinates(theta)))
        if isinstance(metric, DiagonalLowRank):
            low = Projected(metric.low, metric.low.coordinates(theta))
            return cls(Centered(Diagonal(metric.values), theta.clone()), low)
        return cls(Centered(metric, theta.clone()))

    def plus(self, metric: Metric, unit: float, theta: Tensor) -> Quadratic:
        """With one more term ``unit * F`` around ``theta``, exact up to a constant for any mixture but Kronecker's."""
        return self.joined(Quadratic.around(metric.scaled(unit), theta))

    def joined(self, other: Quadratic) -> Quadratic:
        """The sum of both, exact up to a constant but for Kronecker products."""
        centered = self.centered or other.centered
        if self.centered and other.centered:
            centered = self.centered.joined(other.centered)
        projected = self.projected or other.projected
        if self.projected and other.projected:
            projected = self.projected.joined(other.projected)
        return Quadratic(centered, projected)

    def scaled(self, factor: float) -> Quadratic:
        """``factor`` times this; centres are shared."""
        centered = self.centered and Centered(self.centered.metric.scaled(factor), self.centered.center)
        return Quadratic(
            centered, self.projected and Projected(self.projected.metric.scaled(factor), self.projected.at)
        )

    def recentered(self, theta: Tensor, factor: float) -> Quadratic:
        """``factor`` times the same metric with ``theta`` as the centre of every term."""
        empty = Quadratic()
        for part in (self.centered, self.projected):
            empty = empty if part is None else empty.plus(part.metric, factor, theta)
        return empty

    @property
    def num_weights(self) -> int:
        """P; 0 without parts."""
        if self.centered is not None:
            return self.centered.center.numel()
        return 0 if self.projected is None else self.projected.metric.basis.shape[1]

    def trace(self) -> float:
        """Trace of the whole metric."""
        return sum(part.metric.trace() for part in (self.centered, self.projected) if part is not None)

    def square(self, theta: Tensor) -> Tensor:
        """Q(theta), a float64 scalar: from the merged centre of a diagonal or the lowest point of a mixture."""
        both = self.centered is not None and self.projected is not None
        return self._sum(theta) - self._floor if both else self._sum(theta)

    def _sum(self, theta: Tensor) -> Tensor:
        """Both parts at ``theta``, a float64 scalar."""
        total = theta.new_zeros((), dtype=torch.float64)
        if self.centered is not None:
            total = total + self.centered.metric.quadratic(theta - self.centered.center)
        if self.projected is not None:
            total = total + (self.projected.metric.values.double() * self.projected.offset(theta).square()).sum()
        return total

    def gradient(self, theta: Tensor) -> Tensor:
        """Gradient of Q / 2, (P,)."""
        return self.add_gradient(torch.zeros_like(theta), theta)

    def add_gradient(self, direction: Tensor, theta: Tensor) -> Tensor:
        """``direction`` (P,) with the gradient of Q / 2 added in place."""
        if self.centered is not None:
            self.centered.add_gradient(direction, theta)
        if self.projected is not None:
            metric = self.projected.metric
            direction.add_(metric.combine(metric.values * self.projected.offset(theta)))
        return direction

    def proximal(self, theta: Tensor, scale: float, out: Tensor | None = None) -> Tensor:
        """argmin_x |x - theta|^2 / (2 scale) + Q(x) / 2, (P,), in closed form; stable for every scale.

        ``out``, which may be ``theta``, takes the result without a new vector where there is no low-rank part.

        1. the diagonal part alone: y = m + A^-1 (theta - m);
        2. Woodbury: x = y - A^-1 B'w with w = (I + t S B A^-1 B')^-1 t S (B y - b).
        """
        if self.projected is None:
            return theta if self.centered is None else self.centered.proximal(theta, scale, out)
        start = theta if self.centered is None else self.centered.proximal(theta, scale)
        divisor = None if self.centered is None else self.centered.divisor(scale)
        metric = self.projected.metric
        step = metric.combine(metric.coefficients(self.projected.offset(start), scale, divisor))
        return start - (step if divisor is None else step.div_(divisor))

    def project(self, theta: Tensor, square: float) -> Tensor:
        """``theta`` itself if Q(theta) <= square, else a point where Q = square, (P,).

        A diagonal goes straight towards its merged centre; a low rank, which has no centre, to the nearest such point;
        a mixture straight towards its lowest point. Where dependent rows of a low rank put ``square`` out of reach, the
        weights come as near as they can.
        """
        here = float(self.square(theta))
        if here <= square:
            return theta
        if self.projected is None:
            assert self.centered is not None
            return torch.lerp(self.centered.center, theta, (square / here) ** 0.5)
        if self.centered is None:
            metric = self.projected.metric
            return theta - metric.combine(metric.nearest(self.projected.offset(theta), square))
        return self._towards_lowest(theta, here - square)

    def _towards_lowest(self, theta: Tensor, excess: float) -> Tensor:
        """The first point on the way to the lowest one where Q has fallen by ``excess``: a quadratic in the share."""
        way = self._lowest - theta
        slope = float((self.gradient(theta).double() * way.double()).sum())
        bend = sum(float(part.metric.quadratic(way)) for part in (self.centered, self.projected) if part is not None)
        if slope >= 0 or bend <= 0:
            return theta
        share = excess / (-slope + max(slope**2 - bend * excess, 0.0) ** 0.5)
        return theta + min(share, -slope / bend) * way

    @cached_property
    def _floor(self) -> Tensor:
        """The sum at the lowest point, a float64 scalar."""
        return self._sum(self._lowest)

    @cached_property
    def _lowest(self) -> Tensor:
        """Where Q is smallest, to a millionth of its way from the diagonal's centre where all weights are held."""
        assert self.centered is not None
        trace = self.trace()
        return self.proximal(self.centered.center, FAR * self.centered.center.numel() / trace if trace > 0 else 0.0)

    def compressed(self, rank: int) -> Quadratic:
        """With at most the ``rank`` largest eigenpairs of the low-rank part, exact on the span of those.

        The diagonal of what is cut off is added to the diagonal part, where there is one, around the centre that part
        has: the precision-weighted mean of the same tasks' weights. Otherwise it is dropped.
        """
        if self.projected is None or len(self.projected.at) <= rank:
            return self
        kept, rest = self.projected.split(rank)
        if self.centered is None or rest is None:
            return Quadratic(self.centered, kept)
        values = self.centered.values + rest.diagonal()
        return Quadratic(Centered(Diagonal(values), self.centered.center), kept)

    def state(self) -> dict[str, Tensor]:
        """Everything that ``restore`` needs."""
        found = {} if self.centered is None else self.centered.state()
        if self.projected is not None:
            low = self.projected.metric
            found = {**found, "basis": low.basis, "eigenvalues": low.values, "at": self.projected.at}
        return found

    @classmethod
    def restore(cls, state: Mapping[str, Tensor]) -> Quadratic:
        """The quadratic whose ``state`` was saved."""
        centered = Centered.restore(state) if "center" in state else None
        projected = None
        if "basis" in state:
            projected = Projected(LowRank(state["basis"], state["eigenvalues"]), state["at"])
        return cls(centered, projected)
