"""Distances between two sets of feature vectors, in float64.

Notation:
    X (N, D), Y (M, D)   features of real and of generated samples
    m, S                 mean and unbiased covariance of a set
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


def _checked(real: Tensor, made: Tensor, least: int) -> tuple[Tensor, Tensor]:
    if real.ndim != 2 or made.ndim != 2 or real.shape[1] != made.shape[1]:
        raise ValueError(f"features must be (N, D) and (M, D), got {tuple(real.shape)} and {tuple(made.shape)}")
    if min(len(real), len(made)) < least:
        raise ValueError(f"features must be of at least {least} samples, got {len(real)} and {len(made)}")
    return real.double(), made.double()


def frechet(real: Tensor, made: Tensor) -> float:
    """Frechet distance between the Gaussians fitted to two sets (Heusel et al. 2017).

    |m_X - m_Y|^2 + tr S_X + tr S_Y - 2 tr (S_X^1/2 S_Y S_X^1/2)^1/2

    The last trace is the sum of the singular values of A B with S_X = A' A and S_Y = B' B, which needs no root of a
    non-symmetric matrix and stays exact where a covariance is singular. It is biased upwards in finite samples, so only
    figures with equal sample counts compare.
    """
    real, made = _checked(real, made, 2)
    centred = [rows - rows.mean(0) for rows in (real, made)]
    roots = [rows / (len(rows) - 1) ** 0.5 for rows in centred]
    # R of a QR decomposition has the same R' R, and at most D rows.
    left, right = (torch.linalg.qr(root).R for root in roots)
    cross = torch.linalg.svdvals(left @ right.T).sum()
    traces = sum(root.square().sum() for root in roots)
    return float((real.mean(0) - made.mean(0)).square().sum() + traces - 2 * cross)


def kernel_distance(real: Tensor, made: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy under k(x, y) = (x'y / D + 1)^3, as in KID (Binkowski et al. 2018).

    Zero on average for two sets of one distribution, so single values may be negative.
    """
    real, made = _checked(real, made, 2)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(rows: Tensor) -> Tensor:
        gram = kernel(rows, rows)
        return (gram.sum() - gram.diagonal().sum()) / (len(rows) * (len(rows) - 1))

    return float(within(real) + within(made) - 2 * kernel(real, made).mean())


@dataclass(frozen=True)
class Neighbours:
    """Overlap of two sets by nearest neighbours.

    Attributes:
        precision: share of generated samples inside the ball of some real sample (Kynkaanniemi et al. 2019).
        recall: share of real samples inside the ball of some generated sample.
        density: mean number of real balls around a generated sample, over k (Naeem et al. 2020); may exceed 1.
        coverage: share of real samples with a generated sample in their ball.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def neighbours(real: Tensor, made: Tensor, k: int = 5) -> Neighbours:
    """Overlap of two sets; the ball of a sample reaches to its k-th nearest neighbour in its own set.

    Raises:
        ValueError: a set has no more than k samples.
    """
    real, made = _checked(real, made, k + 1)
    between = torch.cdist(real, made, compute_mode="donot_use_mm_for_euclid_dist")
    inside_real = between <= _radii(real, k)[:, None]  # (N, M)
    inside_made = between <= _radii(made, k)[None]
    return Neighbours(
        precision=float(inside_real.any(0).double().mean()),
        recall=float(inside_made.any(1).double().mean()),
        density=float(inside_real.sum(0).double().mean() / k),
        coverage=float(inside_real.any(1).double().mean()),
    )


def _radii(rows: Tensor, k: int) -> Tensor:
    """Distance of every row to its k-th nearest other row."""
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").kthvalue(k + 1, dim=1).values


def bootstrap(
    distance: Callable[[Tensor, Tensor], float], real: Tensor, made: Tensor, times: int, rng: torch.Generator
) -> tuple[float, float]:
    """95 % interval of ``distance`` at these sample counts: both sets are drawn again with replacement ``times`` times.

    Drawing again repeats samples, which raises distances such as Frechet's; so the spread of the drawn values is laid
    around the distance itself. It tells how much the figure varies, not how far its finite-sample bias reaches.
    """
    found = []
    for _ in range(times):
        pick = [torch.randint(len(rows), (len(rows),), generator=rng) for rows in (real, made)]
        found.append(distance(real[pick[0]], made[pick[1]]))
    values = torch.tensor(found, dtype=torch.float64)
    low, high = (float(torch.quantile(values, q) - values.mean()) for q in (0.025, 0.975))
    centre = distance(real, made)
    return centre + low, centre + high
