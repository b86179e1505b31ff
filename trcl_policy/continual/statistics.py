"""Intervals over episodes and seeds, and comparisons of two methods on the same seeds; float64, 95 % unless said.

Notation:
    n     number of seeds (or episodes)
    x_s   result of seed s
    d_s   difference of two methods on seed s
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Z95 = 1.959963984540054
MOST_SIGN_FLIPS = 20
"""Seeds up to which all 2^n sign flips are looked at."""
ROUNDING = 1e-12
"""Differences that are equal on paper differ by this share of the largest at most."""


def wilson_interval(successes: int, total: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a share (95 % for the default z).

    Raises:
        ValueError: ``total`` is not positive, or ``successes`` is not within [0, total].
    """
    if total < 1 or not 0 <= successes <= total:
        raise ValueError(f"successes must be in [0, total] and total >= 1, got {successes} of {total}")
    share = successes / total
    scale = 1 + z * z / total
    middle = (share + z * z / (2 * total)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return (0.0 if successes == 0 else middle - half, 1.0 if successes == total else middle + half)


def mean_of_shares_interval(counts: Sequence[tuple[int, int]], z: float = Z95) -> tuple[float, float]:
    """Interval of the mean of independent shares, from (successes, total) of each.

    Recovers each share's spread from its own Wilson interval, so that shares of 0 or 1 still carry doubt (MOVER,
    Zou and Donner 2008).
    """
    shares = [successes / total for successes, total in counts]
    ends = [wilson_interval(successes, total, z) for successes, total in counts]
    mean = sum(shares) / len(shares)
    below = math.sqrt(sum((share - low) ** 2 for share, (low, _) in zip(shares, ends, strict=True))) / len(shares)
    above = math.sqrt(sum((high - share) ** 2 for share, (_, high) in zip(shares, ends, strict=True))) / len(shares)
    return max(0.0, mean - below), min(1.0, mean + above)


def t_within(angle: float, freedom: int) -> float:
    """P(|T| <= sqrt(freedom) tan(angle)) of Student's t, exact for whole degrees of freedom.

    Abramowitz and Stegun 26.7.3 (odd) and 26.7.4 (even): finite sums over powers of cos(angle).
    """
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    total, term = 0.0, cosine if odd else 1.0
    for power in range(1 + odd, freedom, 2):  # coefficients 2/3, 4/5, ... (odd) or 1/2, 3/4, ... (even)
        total += term
        term *= cosine * cosine * power / (power + 1)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def t_quantile(level: float, freedom: int) -> float:
    """The number that |T| stays within with probability ``level``, for Student's t.

    Raises:
        ValueError: ``level`` is not in (0, 1), or ``freedom`` is below 1.
    """
    if not 0 < level < 1 or freedom < 1:
        raise ValueError(f"level must be in (0, 1) and freedom >= 1, got {level} and {freedom}")
    low, high = 0.0, math.pi / 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_within(middle, freedom) < level else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


@dataclass(frozen=True)
class Mean:
    """Mean over seeds.

    Attributes:
        mean: sum_s x_s / n.
        interval: t interval mean -+ t_{n-1} s / sqrt(n); None for a single seed, whose spread nobody knows.
        num: n.
    """

    mean: float
    interval: tuple[float, float] | None
    num: int


def mean_interval(values: Sequence[float], level: float = 0.95) -> Mean:
    """Mean over seeds with its t interval.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("values must hold at least one number, got none")
    num = len(values)
    mean = math.fsum(values) / num
    if num == 1:
        return Mean(mean, None, 1)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (num - 1))
    half = t_quantile(level, num - 1) * deviation / math.sqrt(num)
    return Mean(mean, (mean - half, mean + half), num)


def bootstrap_interval(
    outcomes: Sequence[Sequence[Sequence[float]]], draws: int = 4000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of a mean over seeds, resampling seeds first and then the episodes of each.

    Steps, ``draws`` times: 1. draw n seeds with replacement; 2. for each drawn seed draw its episodes with replacement
    within every task, anew each time a seed comes up; 3. average over episodes, then tasks, then seeds.

    Args:
        outcomes: [seed][task][episode] outcomes, such as 0 and 1; tasks are fixed, seeds and episodes are drawn.
        draws: resamples.
        level: coverage asked for.
        seed: seed of the draws: the same arguments give the same interval.

    Raises:
        ValueError: a level without entries, or ``draws`` below 2.
    """
    if draws < 2 or not outcomes or not all(tasks and all(tasks) for tasks in outcomes):
        raise ValueError(f"outcomes must hold seeds, tasks and episodes, and draws be >= 2, got {draws} draws")
    rng = torch.Generator().manual_seed(seed)
    table = [[torch.tensor(episodes, dtype=torch.float64) for episodes in tasks] for tasks in outcomes]
    means = torch.zeros(draws, dtype=torch.float64)
    for _ in range(len(table)):
        chosen = torch.randint(len(table), (draws,), generator=rng)
        for number, tasks in enumerate(table):
            rows = (chosen == number).nonzero().squeeze(1)
            means[rows] += _resampled_mean(tasks, len(rows), rng) / len(table)
    tail = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.quantile(means, tail).tolist()
    return low, high


def _resampled_mean(tasks: Sequence[Tensor], count: int, rng: torch.Generator) -> Tensor:
    """Mean over tasks of the mean of resampled episodes, ``count`` times (count,)."""
    found = [task[torch.randint(len(task), (count, len(task)), generator=rng)].mean(dim=1) for task in tasks]
    return torch.stack(found).mean(dim=0)


@dataclass(frozen=True)
class Comparison:
    """Two methods on the same seeds; differences are second minus first.

    Attributes:
        num: seeds n.
        mean: mean difference.
        interval: its t interval; None for a single seed.
        p_value: exact two-sided sign-flip test: the share of the 2^n ways to turn signs of the d_s whose mean is at
            least as far from 0. It can't be below 2 / 2^n, so fewer than six seeds never reach .05.
        agreement: share of seeds whose difference has the sign of the mean; ties count for neither side.
    """

    num: int
    mean: float
    interval: tuple[float, float] | None
    p_value: float
    agreement: float


def compare(first: Sequence[float], second: Sequence[float]) -> Comparison:
    """Paired comparison; entry s of both belongs to the same seed.

    Raises:
        ValueError: no seeds, different numbers of seeds, or more than 20, too many for an exact test.
    """
    if len(first) != len(second) or not 1 <= len(first) <= MOST_SIGN_FLIPS:
        raise ValueError(
            f"seeds must be the same for both and 1 to {MOST_SIGN_FLIPS}, got {len(first)} and {len(second)}"
        )
    differences = [b - a for a, b in zip(first, second, strict=True)]
    found = mean_interval(differences)
    scale = max(map(abs, differences))
    signs = [0 if abs(d) <= ROUNDING * scale else math.copysign(1, d) for d in differences]
    side = 0 if abs(found.mean) <= ROUNDING * scale else math.copysign(1, found.mean)
    agreement = 0.0 if side == 0 else sum(sign == side for sign in signs) / len(signs)
    return Comparison(found.num, found.mean, found.interval, sign_flip_p_value(differences), agreement)


def sign_flip_p_value(differences: Sequence[float]) -> float:
    """Exact two-sided p-value of the sign-flip permutation test of a mean of 0."""
    sums = torch.zeros(1, dtype=torch.float64)
    for difference in differences:
        sums = torch.cat([sums + difference, sums - difference])
    slack = ROUNDING * math.fsum(map(abs, differences))  # flips that tie with the data count, whatever the rounding
    return float((sums.abs() >= abs(math.fsum(differences)) - slack).double().mean())
