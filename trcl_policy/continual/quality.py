"""How good replayed samples are, held against real ones that were never trained on.

Rows x_1..x_n are made, y_1..y_m are real. Distances are in spreads a dimension:

    s_d         max(standard deviation of y_.d, floor): a constant dimension can't blow a small error up
    d(x, y)     sqrt(mean_d ((x_d - y_d) / s_d)^2)
    r           radius: the q-quantile of the distances of every y_j to its nearest other real row
    share       share of made rows with a real row within r         (are they like real ones? precision)
    coverage    share of real rows with a made row within r         (is anything missing? recall)
    harmonic    2 share coverage / (share + coverage)
    energy      2 E d(x, y) - E d(x, x') - E d(y, y') over pairs of different rows: 0 in expectation for two samples of
                one distribution, so it may be negative (Szekely and Rizzo 2013)

Identical distributions give a share and a coverage of about q; far away gives 0; copies of one good sample have a high
share and a low coverage. Where real rows are not independent, as neighbours in one recording are not, r is too
small and the energy test too sure of itself: so every number is given beside those of real training samples (the best
that can be hoped for) and of other tasks' samples (the worst).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trcl_policy.continual.params import Batch, num_rows, rows
from trcl_policy.continual.tasks import Samples, Task

FLOOR = 0.1
"""Smallest spread of a dimension [units of the samples]."""
QUANTILE = 0.95
DISTANCE_QUANTILES = (0.05, 0.5, 0.95)
MOST_ROWS = 1000
"""Rows of each side that ``judge`` compares."""
ENERGY_ROWS = 500
"""Rows of each side whose energy ``compare`` takes."""
MOST_NUMBERS = 2**22
"""Distances held at a time by ``nearest``."""
ROUNDING = 1e-6
"""Reach beyond the radius [spreads a dimension], so that equal rows are near where all real rows are equal."""


@dataclass(frozen=True)
class Quality:
    """Made rows against real ones.

    Attributes:
        num_made: rows judged.
        num_real: rows they are held against.
        radius: what counts as near [spreads a dimension].
        share: made rows near a real one.
        coverage: real rows near a made one.
        distance_mean: mean distance of a made row to its nearest real one.
        distance_quantiles: quantiles of the same, by DISTANCE_QUANTILES.
        energy: energy distance without bias [spreads a dimension].
        p_value: of the energy distance under permutations of independent rows.
    """

    num_made: int
    num_real: int
    radius: float
    share: float
    coverage: float
    distance_mean: float
    distance_quantiles: tuple[float, ...]
    energy: float
    p_value: float

    @property
    def harmonic(self) -> float:
        """Harmonic mean of share and coverage; 0 where both are."""
        total = self.share + self.coverage
        return 2 * self.share * self.coverage / total if total else 0.0

    def record(self) -> dict[str, int | float | dict[str, float]]:
        """All measures by name, ready for JSON."""
        levels = map(str, DISTANCE_QUANTILES)
        quantiles = dict(zip(levels, self.distance_quantiles, strict=True))
        return {**vars(self), "harmonic": self.harmonic, "distance_quantiles": quantiles}


@dataclass(frozen=True)
class Verdict:
    """Replayed samples of one task against its held-out ones, with the controls.

    Attributes:
        made: the replayed samples.
        real: as many training samples of the task, or all where it has fewer: what a perfect generator would get.
        other: samples of other tasks: what a generator that takes one task for another gets; None without other tasks.
    """

    made: Quality
    real: Quality
    other: Quality | None


def compare(
    made: Tensor,
    real: Tensor,
    rng: torch.Generator,
    quantile: float = QUANTILE,
    floor: float = FLOOR,
    permutations: int = 99,
) -> Quality:
    """All measures of rows ``made`` (N, D) against rows ``real`` (M, D).

    Share, coverage and distances are those of all rows; the energy is that of at most ENERGY_ROWS rows a side, so that
    memory does not grow with N times M (about 50 MB).

    Args:
        made: rows to judge.
        real: real rows, never trained on.
        rng: draws the permutations.
        quantile: q in (0, 1], which decides what counts as near.
        floor: smallest spread of a dimension, > 0.
        permutations: relabellings behind the p-value, >= 1; the smallest p-value is 1 / (permutations + 1).

    Raises:
        ValueError: fewer than two rows on a side, rows of different size, numbers that are not finite, or an option
            out of its range.
    """
    _check(made, real, quantile, floor, permutations)
    scale = spreads(real, floor)
    made, real = made.double() / scale, real.double() / scale
    radius = float(nearest(real, real, itself=True).quantile(quantile))
    reach = radius + ROUNDING
    distance = nearest(made, real)
    energy, p_value = energy_test(_some(made, rng), _some(real, rng), permutations, rng)
    levels = torch.tensor(DISTANCE_QUANTILES, dtype=torch.float64, device=distance.device)
    return Quality(
        num_made=len(made),
        num_real=len(real),
        radius=radius,
        share=float((distance <= reach).double().mean()),
        coverage=float((nearest(real, made) <= reach).double().mean()),
        distance_mean=float(distance.mean()),
        distance_quantiles=tuple(distance.quantile(levels).tolist()),
        energy=energy,
        p_value=p_value,
    )


def _check(made: Tensor, real: Tensor, quantile: float, floor: float, permutations: int) -> None:
    for name, value in (("made", made), ("real", real)):
        if value.dim() != 2 or len(value) < 2 or value.shape[1] < 1:
            raise ValueError(f"{name} must be at least two rows (N, D), got shape {tuple(value.shape)}")
        if not bool(value.isfinite().all()):
            raise ValueError(f"{name} must be finite, got {int((~value.isfinite()).any(1).sum())} rows that are not")
    if made.shape[1] != real.shape[1]:
        raise ValueError(f"made must have rows of size {real.shape[1]}, got {made.shape[1]}")
    if not 0 < quantile <= 1:
        raise ValueError(f"quantile must be in (0, 1], got {quantile}")
    if not floor > 0:
        raise ValueError(f"floor must be > 0 [units of the samples], got {floor}")
    if permutations < 1:
        raise ValueError(f"permutations must be >= 1, got {permutations}")


def spreads(real: Tensor, floor: float) -> Tensor:
    """Standard deviation of every dimension (D,), float64, and at least ``floor``."""
    return real.double().std(0, correction=0).clamp_min(floor)


def nearest(queries: Tensor, reference: Tensor, itself: bool = False) -> Tensor:
    """Distance (N,) of each query (N, D) to its nearest reference row (M, D), root mean square over dimensions.

    With ``itself`` row i of the reference is query i and does not count for it. Holds at most MOST_NUMBERS distances,
    and one row's where M is larger.
    """
    height = max(1, MOST_NUMBERS // len(reference))
    found = []
    for top in range(0, len(queries), height):
        block = _pairwise(queries[top : top + height], reference)
        if itself:
            block.diagonal(top).fill_(torch.inf)
        found.append(block.amin(1))
    return torch.cat(found)


def _pairwise(a: Tensor, b: Tensor) -> Tensor:
    """Distances (N, M) by way of a matrix product around the mean of ``b``: exact to 1e-7 of the rows' own length."""
    centre = b.mean(0)
    a, b = a - centre, b - centre
    squares = torch.addmm(a.square().sum(1)[:, None] + b.square().sum(1), a, b.T, alpha=-2)
    return squares.clamp_min_(0).div_(a.shape[1]).sqrt_()


def energy_test(made: Tensor, real: Tensor, permutations: int, rng: torch.Generator) -> tuple[float, float]:
    """Unbiased energy distance of rows (N, D) and (M, D), and the p-value under random exchanges of rows.

    The p-value is (1 + number of exchanges with at least this energy) / (1 + permutations): exact for independent rows.
    Holds the distances between all pairs of the N + M rows, and ``permutations`` labels of each row.
    """
    both = torch.cat([made, real])
    pairs = _pairwise(both, both).fill_diagonal_(0)
    labels = torch.zeros(len(pairs), permutations + 1, dtype=pairs.dtype, device=pairs.device)
    labels[: len(made), 0] = 1
    order = torch.rand(len(pairs), permutations, generator=rng, device=rng.device).to(pairs.device)
    labels[:, 1:].scatter_(0, order.argsort(0)[: len(made)], 1)
    energies = _energies(pairs, labels, len(made))
    exceed = energies[1:] >= energies[0] - ROUNDING  # an exchange that changes nothing ties, whatever the rounding
    return float(energies[0]), (1 + int(exceed.sum())) / (1 + permutations)


def _some(values: Tensor, rng: torch.Generator) -> Tensor:
    """At most ENERGY_ROWS rows, drawn without replacement."""
    if len(values) <= ENERGY_ROWS:
        return values
    return values[torch.randperm(len(values), generator=rng, device=rng.device)[:ENERGY_ROWS].to(values.device)]


def _energies(pairs: Tensor, labels: Tensor, count: int) -> Tensor:
    """Energy distance for every column of ``labels`` (N + M, K), which marks ``count`` rows by 1."""
    rest = len(pairs) - count
    within = (labels * (pairs @ labels)).sum(0)  # sums over ordered pairs
    touching = labels.T @ pairs.sum(1)
    across, beyond = touching - within, pairs.sum() - 2 * touching + within
    return 2 * across / (count * rest) - within / (count * (count - 1)) - beyond / (rest * (rest - 1))


def of_task(pool: Batch, task: Task) -> dict[str, Tensor]:
    """The rows of ``pool`` whose condition is one of the task's."""
    wanted = _flat({key: pool[key] for key in task.condition}, ())
    known = _flat({key: leaf.to(wanted.device) for key, leaf in task.condition.items()}, ())
    _, label = torch.cat([wanted, known]).unique(dim=0, return_inverse=True)
    return rows(pool, torch.isin(label[: len(wanted)], label[len(wanted) :]))


def can_judge(pool: Batch, task: Task) -> bool:
    """Whether there are held-out samples of the task, and ``pool`` holds the like: not nothing, nor corrupted ones.

    Samples made of bytes are not judged: distances between them mean little.
    """
    if task.held_out is None or min(len(task.held_out), len(task.samples)) < 2:
        return False
    first = torch.zeros(1, dtype=torch.int64, device=device_of(task))
    real = task.held_out.gather(first)
    has_bytes = any(leaf.dtype == torch.uint8 for leaf in real.values())
    return set(real) == set(pool) and not has_bytes and num_rows(of_task(pool, task)) > 1


def device_of(task: Task) -> torch.device:
    """Where the task's conditions lie, and so its samples."""
    return next(iter(task.condition.values())).device


def judge(pool: Batch, task: Task, others: Sequence[Task], rng: torch.Generator, most: int = MOST_ROWS) -> Verdict:
    """Replayed samples of ``task`` in ``pool`` against the task's held-out samples; nothing is learned from these.

    At most ``most`` samples of each side are compared, drawn without replacement, and as many replayed as real ones, so
    that coverage is not a matter of numbers.

    Args:
        pool: replayed samples of all old tasks, leaves (N, ...).
        task: the old task; it needs held-out samples.
        others: other old tasks, whose samples serve as the control ``other``.
        rng: draws samples and permutations, and belongs to nothing that learns.
        most: largest number of samples on a side, >= 2.

    Raises:
        ValueError: the task has no held-out samples, or fewer than two of some kind are there.
    """
    if task.held_out is None:
        raise ValueError(f"task must have held-out samples, got {task.name} without")
    keys = tuple(task.condition)
    replayed = _flat(of_task(pool, task), keys).to(rng.device)
    count = min(most, len(replayed), len(task.samples))
    held_out = _draw(task.held_out, most, keys, rng)
    made = replayed[torch.randperm(len(replayed), generator=rng, device=rng.device)[:count]]
    elsewhere = [_draw(other.samples, -(-count // len(others)), keys, rng) for other in others]
    return Verdict(
        made=compare(made, held_out, rng),
        real=compare(_draw(task.samples, count, keys, rng), held_out, rng),
        other=compare(torch.cat(elsewhere), held_out, rng) if elsewhere else None,
    )


def _draw(samples: Samples, count: int, conditions: Sequence[str], rng: torch.Generator) -> Tensor:
    index = torch.randperm(len(samples), generator=rng, device=rng.device)[:count]
    return _flat(samples.gather(index), conditions)


def _flat(batch: Batch, without: Sequence[str]) -> Tensor:
    """Leaves (N, ...) side by side in the order of their names, float64 (N, D)."""
    leaves = [batch[key].reshape(len(batch[key]), -1) for key in sorted(batch) if key not in without]
    return torch.cat(leaves, dim=1).double()
