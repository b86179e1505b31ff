"""Empirical Fisher of per-sample gradients, and the metrics made of it.

Notation (paper, section 2):
    g(x)   gradient of the loss of ONE sample under one draw of noise, (P,)
    d      E[g * g], the diagonal: a mean of squares, never the square of a batch mean
    mu, u  E[g] and its direction;  rho = E[(u'g)^2], the rank-1 weight
    c      curvature per Fisher: trace of the loss's Hessian over E|g|^2, measured by finite differences

A Fisher scales with the square of the loss's scale, a loss's curvature with the scale itself. ``c F`` therefore has
the unit of a curvature: 1/2 d' (c F) d estimates by how much the task's own loss rises when the weights move by d.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor
from torch.func import grad, vmap

from trcl_policy.continual.curvature import hessian_trace
from trcl_policy.continual.model import Model, chunks
from trcl_policy.continual.params import Batch, Layout, num_rows

MOST_NUMBERS = 2**28
"""Numbers that one chunk of per-sample gradients may hold (1 GiB in float32)."""
MOST_ROWS = 64
"""Samples in such a chunk at most: more gain no speed."""


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


@dataclass(frozen=True)
class Estimate:
    """A metric with what was measured beside it.

    Attributes:
        metric: the Fisher, not yet in curvature units.
        trace: E|g|^2, the trace of the full Fisher.
        curvature_ratio: c of the notation above; ``c * F`` is in units of the loss's own curvature.
        num_samples: samples that were averaged.
    """

    metric: Metric
    trace: float
    curvature_ratio: float
    num_samples: int


def per_sample_gradients(
    model: Model, layout: Layout, theta: Tensor, corrupted: Batch, chunk_size: int | None = None
) -> Iterator[Tensor]:
    """Yield per-sample gradients, rows (b, P) with b <= chunk_size; memory is a few times chunk_size * P numbers.

    Without ``chunk_size`` it is what MOST_NUMBERS and MOST_ROWS allow, so a large network goes a few samples at a time.
    """
    chunk_size = chunk_size or max(1, min(MOST_ROWS, MOST_NUMBERS // layout.size))

    def loss_of_one(params: dict[str, Tensor], row: dict[str, Tensor]) -> Tensor:
        return model.losses(params, {key: leaf[None] for key, leaf in row.items()}).squeeze(0)

    each = vmap(grad(loss_of_one), in_dims=(None, 0))
    params = layout.unflatten(theta.detach())
    for piece in chunks(corrupted, chunk_size):
        with torch.compiler.set_stance("force_eager"):  # compiled functions can't be vmapped
            gradients = each(params, dict(piece))
        yield layout.flatten_rows(gradients)


def estimate(
    kind: str,
    model: Model,
    layout: Layout,
    theta: Tensor,
    corrupted: Batch,
    rng: torch.Generator,
    chunk_size: int | None = None,
) -> Estimate:
    """Estimate the Fisher of the mean loss over ``corrupted`` at ``theta``.

    Args:
        kind: ``diagonal``, ``rank1`` (along the mean gradient, as published) or ``isotropic`` (the identity, in
            curvature units the loss's mean curvature).
        model: the model whose losses are differentiated.
        layout: layout of the parameters.
        theta: weights (P,).
        corrupted: samples with their noise already drawn.
        rng: draws the directions of the curvature measurement.
        chunk_size: samples per vmapped call; see ``per_sample_gradients``.

    Raises:
        ValueError: ``kind`` is not among ESTIMATORS.
    """
    if kind not in ESTIMATORS:
        raise ValueError(f"metric must be one of {', '.join(ESTIMATORS)}, got {kind!r}")
    metric, trace = ESTIMATORS[kind](model, layout, theta, corrupted, chunk_size)
    curvature = hessian_trace(model, layout, theta, corrupted, rng)
    if not math.isfinite(curvature) or not math.isfinite(trace):
        raise ValueError(f"losses must be finite near the weights, got Hessian trace {curvature}, Fisher trace {trace}")
    ratio = max(curvature, 0.0) / trace if trace > 0 else 0.0
    return Estimate(metric, trace, ratio, num_rows(corrupted))


Estimator = Callable[[Model, Layout, Tensor, Batch, int | None], tuple[Metric, float]]


def _diagonal(
    model: Model, layout: Layout, theta: Tensor, corrupted: Batch, chunk_size: int | None
) -> tuple[Metric, float]:
    total = torch.zeros_like(theta)
    for rows in per_sample_gradients(model, layout, theta, corrupted, chunk_size):
        total += rows.square().sum(0)
    values = total / num_rows(corrupted)
    return Diagonal(values), float(values.double().sum())


def _rank1(
    model: Model, layout: Layout, theta: Tensor, corrupted: Batch, chunk_size: int | None
) -> tuple[Metric, float]:
    count = num_rows(corrupted)
    total, trace = torch.zeros_like(theta, dtype=torch.float64), 0.0
    for rows in per_sample_gradients(model, layout, theta, corrupted, chunk_size):
        total += rows.sum(0, dtype=torch.float64)
        trace += float(rows.double().square().sum())
    direction = (total / total.norm().clamp_min(torch.finfo(torch.float64).tiny)).to(theta.dtype)
    squares = 0.0
    for rows in per_sample_gradients(model, layout, theta, corrupted, chunk_size):
        squares += float((rows.double() @ direction.double()).square().sum())
    rho = torch.tensor([squares / count], dtype=theta.dtype, device=theta.device)
    return LowRank(direction[None], rho), trace / count


def _isotropic(
    model: Model, layout: Layout, theta: Tensor, corrupted: Batch, chunk_size: int | None
) -> tuple[Metric, float]:
    trace = 0.0
    for rows in per_sample_gradients(model, layout, theta, corrupted, chunk_size):
        trace += float(rows.double().square().sum())
    trace /= num_rows(corrupted)
    return Isotropic(trace / theta.numel()), trace


ESTIMATORS: dict[str, Estimator] = {"diagonal": _diagonal, "rank1": _rank1, "isotropic": _isotropic}
