"""Fisher metrics: positive semi-definite matrices F (P, P) that multiply, measure and solve without being formed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from trcl_policy.continual.kronecker import Kronecker

COLUMNS = 2**16
"""Columns of a basis that are widened to float64 at a time."""


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

    def trace(self) -> float:
        """Sum of the diagonal of F."""
        ...


@dataclass(frozen=True)
class Isotropic:
    """F = value * I for ``size`` weights."""

    value: float
    size: int

    def scaled(self, factor: float) -> Isotropic:
        """factor * F."""
        return Isotropic(self.value * factor, self.size)

    def multiply(self, vector: Tensor) -> Tensor:
        """F v, (P,)."""
        return vector * self.value

    def quadratic(self, vector: Tensor) -> Tensor:
        """v' F v, a float64 scalar."""
        return vector.double().square().sum() * self.value

    def solve(self, vector: Tensor, scale: float) -> Tensor:
        """(I + scale F)^-1 v, (P,)."""
        return vector / (1.0 + scale * self.value)

    def trace(self) -> float:
        """Sum of the diagonal of F."""
        return self.value * self.size


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

    def trace(self) -> float:
        """Sum of the diagonal of F."""
        return float(self.values.double().sum())


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
        return self.gram_over(None)

    def gram_over(self, divisor: Tensor | None) -> Tensor:
        """B diag(1 / divisor) B', float64 (K, K), for a divisor (P,); None stands for ones."""
        total = torch.zeros(len(self.basis), len(self.basis), dtype=torch.float64, device=self.basis.device)
        for start in range(0, self.basis.shape[1], COLUMNS):
            wide = self.basis[:, start : start + COLUMNS].double()
            total += (wide if divisor is None else wide / divisor[start : start + COLUMNS]) @ wide.T
        return total

    def coordinates(self, vector: Tensor) -> Tensor:
        """B v, float64 (K,), some columns at a time: small differences of large weights survive, B is not copied."""
        total = torch.zeros(len(self.basis), dtype=torch.float64, device=self.basis.device)
        for start in range(0, self.basis.shape[1], COLUMNS):
            total += self.basis[:, start : start + COLUMNS].double() @ vector[start : start + COLUMNS].double()
        return total

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

    def coefficients(self, projected: Tensor, scale: float, divisor: Tensor | None = None) -> Tensor:
        """The inner solve of Woodbury: (I + S G)^-1 S p with S = scale diag(values), G = B B'; float64 (K,).

        With a ``divisor`` (P,), the diagonal of a matrix A, G is B A^-1 B'.
        """
        weights = scale * self.values.double()
        gram = self.gram if divisor is None else self.gram_over(divisor)
        system = torch.eye(len(weights), dtype=torch.float64, device=weights.device) + weights[:, None] * gram
        return torch.linalg.solve(system, weights * projected)

    def trace(self) -> float:
        """Sum of the diagonal of F: the rows of B have length 1."""
        return float(self.values.double().sum())

    def diagonal(self) -> Tensor:
        """The diagonal of F, (P,)."""
        total = torch.zeros_like(self.basis[0])
        for row, value in zip(self.basis, self.values, strict=True):
            total.addcmul_(row, value * row)
        return total

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
        reachable = found > len(found) * torch.finfo(found.dtype).eps * found[-1]  # along others no move helps
        return root * (vectors @ (high / (1 + high * found) * residual * reachable))


@dataclass(frozen=True)
class DiagonalLowRank:
    """F = diag(values) + low, values (P,) >= 0."""

    values: Tensor
    low: LowRank

    def scaled(self, factor: float) -> DiagonalLowRank:
        """factor * F."""
        return DiagonalLowRank(self.values * factor, self.low.scaled(factor))

    def multiply(self, vector: Tensor) -> Tensor:
        """F v, (P,)."""
        return self.values * vector + self.low.multiply(vector)

    def quadratic(self, vector: Tensor) -> Tensor:
        """v' F v, a float64 scalar."""
        return Diagonal(self.values).quadratic(vector) + self.low.quadratic(vector)

    def solve(self, vector: Tensor, scale: float) -> Tensor:
        """(A + scale low)^-1 v with A = I + scale diag(values), by Woodbury around A, (P,)."""
        divisor = 1.0 + scale * self.values
        start = vector / divisor
        weights = self.low.coefficients(self.low.coordinates(start), scale, divisor)
        return start - self.low.combine(weights) / divisor

    def trace(self) -> float:
        """Sum of the diagonal of F."""
        return Diagonal(self.values).trace() + self.low.trace()


Metric = Isotropic | Diagonal | LowRank | DiagonalLowRank | Kronecker
