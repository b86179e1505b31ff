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

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor
from torch.func import grad, vmap

from trcl_policy.continual.model import Model, chunks
from trcl_policy.continual.params import Batch, Layout, num_rows


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
        wide = self.basis.double()
        return wide @ wide.T

    def multiply(self, vector: Tensor) -> Tensor:
        """F v, (P,)."""
        return self.basis.T @ (self.values * (self.basis @ vector))

    def quadratic(self, vector: Tensor) -> Tensor:
        """v' F v, a float64 scalar."""
        return (self.values.double() * (self.basis.double() @ vector.double()).square()).sum()

    def solve(self, vector: Tensor, scale: float) -> Tensor:
        """(I + scale F)^-1 v by Woodbury: v - B' (I/(scale values) + B B')^-1 B v, (P,)."""
        return vector - self.basis.T @ self.coefficients(self.basis @ vector, scale)

    def coefficients(self, projected: Tensor, scale: float) -> Tensor:
        """The inner solve of Woodbury: (I + S G)^-1 S p with S = scale diag(values), G = B B'; (K,)."""
        weights = scale * self.values.double()
        system = torch.eye(len(weights), dtype=torch.float64, device=weights.device) + weights[:, None] * self.gram
        return torch.linalg.solve(system, weights * projected.double()).to(projected.dtype)


@dataclass(frozen=True)
class Estimate:
    """A metric with what was measured beside it.

    Attributes:
        metric: the Fisher, not yet in curvature units.
        trace: E|g|^2, the trace of the full Fisher.
        curvature_ratio: c of the notation above; ``c * F`` is in units of the loss's own curvature.
        num_samples: samples that were averaged.
    """

    metric: Isotropic | Diagonal | LowRank
    trace: float
    curvature_ratio: float
    num_samples: int


def per_sample_gradients(
    model: Model, layout: Layout, theta: Tensor, corrupted: Batch, chunk_size: int = 64
) -> Iterator[Tensor]:
    """Yield per-sample gradients, rows (b, P) with b <= chunk_size; memory is O(chunk_size * P)."""

    def loss_of_one(params: dict[str, Tensor], row: dict[str, Tensor]) -> Tensor:
        return model.losses(params, {key: leaf[None] for key, leaf in row.items()}).squeeze(0)

    each = vmap(grad(loss_of_one), in_dims=(None, 0))
    params = layout.unflatten(theta.detach())
    for piece in chunks(corrupted, chunk_size):
        with torch.compiler.set_stance("force_eager"):  # compiled functions can't be vmapped
            gradients = each(params, dict(piece))
        yield layout.flatten_rows(gradients)


def estimate(
    kind: str, model: Model, layout: Layout, theta: Tensor, corrupted: Batch, rng: torch.Generator, chunk_size: int = 64
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
        chunk_size: samples per vmapped call.
    """
    if kind not in ESTIMATORS:
        raise ValueError(f"metric must be one of {', '.join(ESTIMATORS)}, got {kind!r}")
    metric, trace = ESTIMATORS[kind](model, layout, theta, corrupted, chunk_size)
    curvature = hessian_trace(model, layout, theta, corrupted, rng)
    ratio = max(curvature, 0.0) / trace if trace > 0 else 0.0
    return Estimate(metric, trace, ratio, num_rows(corrupted))


def _diagonal(
    model: Model, layout: Layout, theta: Tensor, corrupted: Batch, chunk_size: int
) -> tuple[Isotropic | Diagonal | LowRank, float]:
    total = torch.zeros_like(theta)
    for rows in per_sample_gradients(model, layout, theta, corrupted, chunk_size):
        total += rows.square().sum(0)
    values = total / num_rows(corrupted)
    return Diagonal(values), float(values.double().sum())


def _rank1(
    model: Model, layout: Layout, theta: Tensor, corrupted: Batch, chunk_size: int
) -> tuple[Isotropic | Diagonal | LowRank, float]:
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
    model: Model, layout: Layout, theta: Tensor, corrupted: Batch, chunk_size: int
) -> tuple[Isotropic | Diagonal | LowRank, float]:
    trace = 0.0
    for rows in per_sample_gradients(model, layout, theta, corrupted, chunk_size):
        trace += float(rows.double().square().sum())
    trace /= num_rows(corrupted)
    return Isotropic(trace / theta.numel()), trace


ESTIMATORS = {"diagonal": _diagonal, "rank1": _rank1, "isotropic": _isotropic}


def hessian_trace(
    model: Model,
    layout: Layout,
    theta: Tensor,
    corrupted: Batch,
    rng: torch.Generator,
    num_directions: int = 8,
    relative_rise: float = 0.03,
) -> float:
    """Trace of the Hessian of the mean loss, from symmetric differences along random sign directions.

    For z with independent signs, E[z'Hz] = tr H, and z'Hz = (L(theta + e z) + L(theta - e z) - 2 L(theta)) / e^2 up to
    O(e^2). The same noise is used in all three losses, so only the displacement differs. The step e is the one at which
    the loss rises by at least ``relative_rise`` of itself: far above rounding, still near the weights.
    """

    def loss_at(weights: Tensor) -> float:
        with torch.no_grad():
            params = layout.unflatten(weights)
            return float(torch.cat([model.losses(params, piece).double() for piece in chunks(corrupted, 1024)]).mean())

    here = loss_at(theta)
    floor = torch.finfo(theta.dtype).eps * float(theta.norm()) / theta.numel() ** 0.5
    step, estimates = max(1e-4 * float(theta.norm()) / theta.numel() ** 0.5, floor, 1e-8), []
    for _ in range(num_directions):
        signs = torch.randint(2, theta.shape, generator=rng, device=rng.device).to(theta) * 2 - 1
        rise = 0.5 * (loss_at(theta + step * signs) + loss_at(theta - step * signs)) - here
        for _ in range(40):
            if rise >= relative_rise * here:
                break
            step *= 2
            rise = 0.5 * (loss_at(theta + step * signs) + loss_at(theta - step * signs)) - here
        estimates.append(2 * rise / step**2)
    return sum(estimates) / len(estimates)
