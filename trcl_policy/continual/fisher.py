"""Empirical Fisher of per-sample gradients, as one of the metrics of metric.py.

Notation (paper, section 2):
    g(x)   gradient of the loss of ONE sample under one draw of noise, (P,)
    d      E[g * g], the diagonal: a mean of squares, never the square of a batch mean
    mu, u  E[g] and its direction;  rho = E[(u'g)^2], the rank-1 weight
    G      the n gradients as rows, (n, P);  F = G'G / n has the eigenvalues of G G' / n
    a      E|gradient of |prediction|^2|, the importance of memory-aware synapses (Aljundi et al. 2018, eq. 2 and 5)
    c      curvature per Fisher: trace of the loss's Hessian over E|g|^2 (or over the sum of a), by finite differences

A Fisher scales with the square of the loss's scale, a loss's curvature with the scale itself. ``c F`` therefore has
the unit of a curvature: 1/2 d' (c F) d estimates by how much the task's own loss rises when the weights move by d.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trcl_policy.continual import gradients
from trcl_policy.continual.curvature import hessian_trace
from trcl_policy.continual.factors import kronecker_fisher
from trcl_policy.continual.gradients import Sampled, per_sample_gradients
from trcl_policy.continual.metric import Diagonal, DiagonalLowRank, FisherMetric, Isotropic, LowRank, Metric
from trcl_policy.continual.params import Batch, Params

__all__ = [
    "ESTIMATORS",
    "Diagonal",
    "DiagonalLowRank",
    "Estimate",
    "FisherMetric",
    "Isotropic",
    "LowRank",
    "Metric",
    "estimate",
    "per_sample_gradients",
]

OVERSAMPLING = 16
"""Directions that the sketch carries beyond those it is asked for."""
PASSES = 4
"""Products with the Fisher that the sketch takes, each a pass over all samples."""


@dataclass(frozen=True)
class Estimate:
    """A metric with what was measured beside it.

    Attributes:
        metric: the Fisher, not yet in curvature units.
        trace: E|g|^2, the trace of the full Fisher; for ``mas`` the sum of a, for ``kronecker`` with drawn targets.
        curvature_ratio: c of the notation above; ``c * F`` is in units of the loss's own curvature.
        num_samples: samples that were averaged.
    """

    metric: Metric
    trace: float
    curvature_ratio: float
    num_samples: int


def estimate(kind: str, sampled: Sampled, rng: torch.Generator, rank: int = 16) -> Estimate:
    """Estimate the Fisher of the mean loss over ``sampled``.

    Args:
        kind: ``diagonal``, ``rank1`` (along the mean gradient, as published), ``lowrank`` (its ``rank`` largest
            eigenpairs), ``diagonal_lowrank`` (those and the diagonal of what they leave), ``kronecker`` (a product of
            two matrices a layer, factors.py), ``isotropic`` (the identity, in curvature units the loss's mean
            curvature) or ``mas`` (the diagonal a, which knows no targets).
        sampled: model, weights and samples with their noise already drawn.
        rng: draws the directions of the curvature measurement and of the sketch, and the targets of ``kronecker``.
        rank: number of eigenpairs; fewer where the samples have fewer.

    Raises:
        ValueError: ``kind`` is not among ESTIMATORS, or a loss is not finite.
    """
    if kind not in ESTIMATORS:
        raise ValueError(f"metric must be one of {', '.join(ESTIMATORS)}, got {kind!r}")
    metric, trace = ESTIMATORS[kind](sampled, rank, rng)
    curvature = hessian_trace(sampled.model, sampled.layout, sampled.theta, sampled.corrupted, rng)
    _check_finite("Fisher trace", trace)
    _check_finite("Hessian trace", curvature)
    ratio = max(curvature, 0.0) / trace if trace > 0 else 0.0
    return Estimate(metric, trace, ratio, sampled.num_samples)


def _check_finite(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise ValueError(f"losses must be finite near the weights, got {name} {value}")


Estimator = Callable[[Sampled, int, torch.Generator], tuple[Metric, float]]


def _diagonal(sampled: Sampled, rank: int, rng: torch.Generator) -> tuple[Metric, float]:
    values = sampled.mean_squares()
    return Diagonal(values), float(values.double().sum())


def _rank1(sampled: Sampled, rank: int, rng: torch.Generator) -> tuple[Metric, float]:
    mean = sampled.mean_gradient()
    direction = (mean / mean.norm().clamp_min(torch.finfo(torch.float64).tiny)).to(sampled.theta.dtype)
    rho = sampled.projections(direction).double().square().mean()[None].to(direction.dtype)
    return LowRank(direction[None], rho), float(sampled.mean_squares().double().sum())


def _isotropic(sampled: Sampled, rank: int, rng: torch.Generator) -> tuple[Metric, float]:
    trace = float(sampled.mean_squares().double().sum())
    return Isotropic(trace / sampled.theta.numel(), sampled.theta.numel()), trace


def _lowrank(sampled: Sampled, rank: int, rng: torch.Generator) -> tuple[LowRank, float]:
    if sampled.num_samples * sampled.layout.size <= gradients.MOST_NUMBERS:
        return top_of_gram(sampled, rank)
    return top_of_sketch(sampled, rank, rng)


def _diagonal_lowrank(sampled: Sampled, rank: int, rng: torch.Generator) -> tuple[Metric, float]:
    low, trace = _lowrank(sampled, rank, rng)
    left = sampled.mean_squares() - low.diagonal()
    return DiagonalLowRank(left.clamp_min(0), low), trace


def _kronecker(sampled: Sampled, rank: int, rng: torch.Generator) -> tuple[Metric, float]:
    metric = kronecker_fisher(sampled, rng)
    return metric, metric.trace()


def _mas(sampled: Sampled, rank: int, rng: torch.Generator) -> tuple[Metric, float]:
    def lengths(params: Params, corrupted: Batch) -> Tensor:
        return sampled.model.predict(params, corrupted).square().flatten(1).sum(1)

    total = torch.zeros_like(sampled.theta)
    for rows in sampled.gradients_of(lengths):
        total += rows.abs().sum(0)
    values = total / sampled.num_samples
    return Diagonal(values), float(values.double().sum())


def top_of_gram(sampled: Sampled, rank: int) -> tuple[LowRank, float]:
    """Exact top eigenpairs, largest first, and the trace; holds all gradients, n P numbers.

    With G G' / n = U diag(values) U', the eigenvectors of F are the rows of U'G / sqrt(n values).
    """
    rows = sampled.all_gradients()
    gram = (rows @ rows.T).double() / len(rows)
    trace = float(gram.trace())
    _check_finite("Fisher trace", trace)
    values, vectors = _largest(gram, min(rank, sampled.layout.size), rows.dtype)
    return _unit_rows(vectors.T.to(rows.dtype) @ rows, values), trace


def top_of_sketch(
    sampled: Sampled, rank: int, rng: torch.Generator, oversampling: int = OVERSAMPLING, passes: int = PASSES
) -> tuple[LowRank, float]:
    """Top eigenpairs, largest first, and the exact trace, from gradients that stream by and are never held.

    Randomised subspace iteration (Halko, Martinsson, Tropp 2011, algorithm 4.4) with a Rayleigh-Ritz step at the end.
    It holds two matrices of (rank + oversampling) P numbers and one block of gradients. Eigenvalue j comes out too
    small by a share that shrinks like (value of number rank + oversampling + 1 / value j) ^ (2 passes - 1).
    """
    size = min(rank + oversampling, sampled.num_samples, sampled.layout.size)
    draw = torch.randn(size, sampled.layout.size, generator=rng, device=rng.device)
    basis = _orthonormal(draw.to(sampled.theta))
    for _ in range(passes - 1):
        basis = _orthonormal(_product(sampled, basis)[0])
    product, trace = _product(sampled, basis)
    _check_finite("Fisher trace", trace)
    small = (product @ basis.T).double()
    values, vectors = _largest(0.5 * (small + small.T), rank, basis.dtype)
    return _unit_rows(vectors.T.to(basis.dtype) @ basis, values), trace


def _product(sampled: Sampled, basis: Tensor) -> tuple[Tensor, float]:
    """B F, (K, P), and the trace of F."""
    total, trace = torch.zeros_like(basis), 0.0
    for rows in sampled.gradients():
        total += (basis @ rows.T) @ rows
        trace += float(rows.double().square().sum())
    return total / sampled.num_samples, trace / sampled.num_samples


def _orthonormal(rows: Tensor) -> Tensor:
    """Rows with the same span, orthonormal."""
    return torch.linalg.qr(rows.T).Q.T.contiguous()


def _largest(matrix: Tensor, rank: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The ``rank`` largest eigenvalues, largest first, and vectors in columns; at least one, else none that is noise.

    ``matrix`` was computed in ``dtype``, so what is below that precision of the largest one counts as zero.
    """
    values, vectors = torch.linalg.eigh(matrix)
    values, vectors = values.flip(0)[:rank].clamp_min(0), vectors.flip(1)[:, :rank]
    count = max(1, int((values > len(matrix) * torch.finfo(dtype).eps * values[0]).sum()))
    return values[:count], vectors[:, :count]


def _unit_rows(rows: Tensor, values: Tensor) -> LowRank:
    """The metric with these eigenvalues along the directions of ``rows``; a row of zeros stays one."""
    lengths = rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
    return LowRank(rows / lengths, values.to(rows.dtype))


ESTIMATORS: dict[str, Estimator] = {
    "diagonal": _diagonal,
    "rank1": _rank1,
    "lowrank": _lowrank,
    "diagonal_lowrank": _diagonal_lowrank,
    "kronecker": _kronecker,
    "isotropic": _isotropic,
    "mas": _mas,
}
