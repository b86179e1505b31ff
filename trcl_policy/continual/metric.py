"""Fisher metrics: positive semi-definite matrices F (P, P) that multiply, measure and solve without being formed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor


class FisherMetric(Protocol):
    """A positive semi-definite matrix F (P, P) that is never formed."""

    def multiply(self, vector: Tensor) -> Tensor:
        """F v, (P,)."""
        ...

    def quadratic(self, vector: Tensor) -> Tensor:
        """v' F v, a float64 scalar."""
        ...

    def solve(self, vector: Tensor, scale: float) -> Tensor:
        """(I + scale F)^-1 v, (P,)."""
        ...


@dataclass(frozen=True)
class Isotropic:
    """F = value * I."""

    value: float

    def scaled(self, factor: float) -> Isotropic:
        """factor * F."""
        return Isotropic(self.value * factor)

    def multiply(self, vector: Tensor) -> Tensor:
        """F v, (P,)."""
        return vector * self.value

    def quadratic(self, vector: Tensor) -> Tensor:
        """v' F v, a float64 scalar."""
        return vector.double().square().sum() * self.value

    def solve(self, vector: Tensor, scale: float) -> Tensor:
        """(I + scale F)^-1 v, (P,)."""
        return vector / (1.0 + scale * self.value)


@dataclass(frozen=True)
class Diagonal:
    """F = diag(values), values (P,) >= 0."""

    values: Tensor

    def scaled(self, factor: float) -> Diagonal:
        """factor * F."""
        return Diagonal(self.values * factor)

    def multiply(self, vector: Tensor) -> Tensor:
        """F v, (P,)."""
        return self.values * vector

    def quadratic(self, vector: Tensor) -> Tensor:
        """v' F v, a float64 scalar."""
        return (self.values.double() * vector.double().square()).sum()

    def solve(self, vector: Tensor, scale: float) -> Tensor:
        """(I + scale F)^-1 v, (P,)."""
        return vector / (1.0 + scale * self.values)


@dataclass(frozen=True)
class LowRank:
    """F = sum_k values_k basis_k basis_k', basis (K, P) of any unit vectors, values (K,) >= 0.

    The basis need not be orthogonal, so stacking the bases of several tasks is their exact sum.
    """

    basis: Tensor
    values: Tensor

    @cached_property
    def gram(self) -> Tensor:
        """B B', float64 (K, K)."""
        return torch.stack([self.coordinates(row) for row in self.basis])

    def coordinates(self, vector: Tensor) -> Tensor:
        """B v, float64 (K,), a row at a time: small differences of large weights survive, B is not copied."""
        wide = vector.double()
        return torch.stack([torch.dot(row.double(), wide) for row in self.basis])

    def combine(self, weights: Tensor) -> Tensor:
        """B' w, (P,)."""
        return weights.to(self.basis.dtype) @ self.basis

    def scaled(self, factor: float) -> LowRank:
        """factor * F."""
        return LowRank(self.basis, self.values * factor)

    def multiply(self, vector: Tensor) -> Tensor:
        """F v, (P,)."""
        return self.combine(self.values * self.coordinates(vector))

    def quadratic(self, vector: Tensor) -> Tensor:
        """v' F v, a float64 scalar."""
        return (self.values.double() * self.coordinates(vector).square()).sum()

    def solve(self, vector: Tensor, scale: float) -> Tensor:
        """(I + scale F)^-1 v by Woodbury: v - B' (I/(scale values) + B B')^-1 B v, (P,)."""
        return vector - self.combine(self.coefficients(self.coordinates(vector), scale))

    def coefficients(self, projected: Tensor, scale: float) -> Tensor:
        """The inner solve of Woodbury: (I + S G)^-1 S p with S = scale diag(values), G = B B'; float64 (K,)."""
        weights = scale * self.values.double()
        system = torch.eye(len(weights), dtype=torch.float64, device=weights.device) + weights[:, None] * self.gram
        return torch.linalg.solve(system, weights * projected)

    def nearest(self, offset: Tensor, square: float) -> Tensor:
        """Float64 w (K,) for which v - B' w is the point nearest to v with sum_k values_k offset_k^2 <= square.

        ``offset`` (K,) belongs to v and changes by -B B' w. In the eigenvectors of sqrt(S) B B' sqrt(S), with
        eigenvalues m, the residual r turns into r / (1 + mu m); mu > 0 is found by bisection. Where dependent rows
        put the bound out of reach, the result is the limit of large mu.
        """
        root = self.values.double().sqrt()
        found, vectors = torch.linalg.eigh(root[:, None] * self.gram * root)
        found, residual = found.clamp_min(0), vectors.T @ (root * offset)

        def outside(mu: float) -> bool:
            return float((residual / (1 + mu * found)).square().sum()) > square

        most = 1e12 / float(found[-1])
        low, high = 0.0, 1e-3 / float(found[-1])
        while outside(high) and high < most:
            low, high = high, 2 * high
        for _ in range(50):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if outside(middle) else (low, middle)
        return root * (vectors @ (high / (1 + high * found) * residual))


Metric = Isotropic | Diagonal | LowRank
