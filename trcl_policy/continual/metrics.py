"""Numbers made of a score matrix and of learning curves: average, forgetting, transfer.

Notation (paper, section 6):
    P[k][i]   score of task i after learning task k; None where it was not measured
    c[k][i]   curve of task i while task k is learned: {updates of task k that are done: score}, the end included
    T         number of tasks
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

Row = Sequence[float | None]
Curve = Mapping[int, float]


@dataclass(frozen=True)
class Summary:
    """What a score matrix says; None where the needed entries were not measured.

    Attributes:
        average_final: mean_i P[T][i].
        forgetting: mean over all T tasks of P[i][i] - P[T][i], as in the paper.
        forgetting_old: the same mean over the first T - 1 tasks.
        backward_transfer: mean over the first T - 1 tasks of P[T][i] - P[i][i].
    """

    average_final: float | None
    forgetting: float | None
    forgetting_old: float | None
    backward_transfer: float | None


def summarize(scores: Sequence[Row], higher_is_better: bool = True) -> Summary:
    """Summary of a T x T score matrix; signs are turned for distances, so that forgetting is positive when it hurts."""
    last = scores[-1]
    sign = 1.0 if higher_is_better else -1.0
    drops = [_drop(scores[i][i], last[i], sign) for i in range(len(last))]
    old = drops[:-1]
    forgetting_old = mean_or_none(old) if old else None
    return Summary(
        average_final=mean_or_none(last),
        forgetting=mean_or_none(drops),
        forgetting_old=forgetting_old,
        backward_transfer=None if forgetting_old is None else -forgetting_old,
    )


def _drop(learned: float | None, final: float | None, sign: float) -> float | None:
    return None if learned is None or final is None else sign * (learned - final)


def mean_or_none(values: Row) -> float | None:
    """Mean, None where one value is missing."""
    if any(value is None for value in values):
        return None
    return sum(v for v in values if v is not None) / len(values)


def area_under_curve(curve: Curve) -> float:
    """Mean height of a curve from its first evaluated update to its last, by trapezoids; in [0, 1] for shares.

    Raises:
        ValueError: fewer than two updates.
    """
    steps = sorted(curve)
    if len(steps) < 2:
        raise ValueError(f"curve must hold at least two evaluated updates, got {len(steps)}")
    area = sum((late - early) * (curve[early] + curve[late]) / 2 for early, late in pairwise(steps))
    return area / (steps[-1] - steps[0])


def forward_transfer(learned: Sequence[Curve], alone: Sequence[Curve]) -> list[float | None]:
    """Continual World's forward transfer of each task (Wolczyk et al. 2021, section 4.2).

    (AUC_i - AUC_i^b) / (1 - AUC_i^b), with AUC the mean height of the task's success while it is learned and b the same
    task trained alone. None where a task alone is perfect all along, which leaves nothing to gain.

    Args:
        learned: for each task its success while it is learned in the sequence.
        alone: the same while it is learned alone.

    Raises:
        ValueError: the two were not evaluated at the same updates, or at fewer than two.
    """
    gains: list[float | None] = []
    for curve, reference in zip(learned, alone, strict=True):
        if sorted(curve) != sorted(reference):
            raise ValueError(
                f"alone must be evaluated at the run's updates {sorted(curve)}, got updates {sorted(reference)}"
            )
        base = area_under_curve(reference)
        gains.append(None if base >= 1 else (area_under_curve(curve) - base) / (1 - base))
    return gains


@dataclass(frozen=True)
class Libero:
    """The three numbers of LIBERO (Liu et al. 2023); None where the needed evaluations were not made."""

    fwt: float | None
    nbt: float | None
    auc: float | None


def libero(curves: Sequence[Sequence[Curve]]) -> Libero:
    """LIBERO's forward transfer, negative backward transfer and area under the curve.

    Notation: c_{k,i,e} = ``curves[k][i][e]``; e*_k the earliest evaluated update of task k at which c_{k,k,e} is best.
    Their agent keeps the weights of e*_k, so

        c_{k,k} = max_e c_{k,k,e};   c_{k,k,e} counts as c_{k,k} from e*_k on;   c_{k,i} = c_{k,i,e*_k} for i < k
        FWT_k = mean over evaluated e of c_{k,k,e}                 FWT = mean over all K tasks
        NBT_k = mean over t > k of (c_{k,k} - c_{t,k})             NBT = mean over the K - 1 tasks that have a later one
        AUC_k = (FWT_k + sum over t > k of c_{t,k}) / (K - k + 1)  AUC = mean over all K tasks

    They evaluate at 0, 5, ..., 50 epochs: numbers compare only between runs with the same evenly spaced updates. A run
    of ours goes on from its last weights, not from those of e*_k.

    Args:
        curves: [k][i] for i <= k; without updates inside a task (only its end) FWT and AUC are None.
    """
    size = len(curves)
    best = [_best(curves[k][k]) for k in range(size)]
    kept: list[Row] = [
        [None if e is None else curves[k][i].get(e) for i in range(k)] + [None if e is None else curves[k][k][e]]
        for k, e in enumerate(best)
    ]
    gained = [_flattened_mean(curves[k][k], best[k]) for k in range(size)]
    later = [[kept[t][k] for t in range(k + 1, size)] for k in range(size)]
    lost = [mean_or_none([_drop(kept[k][k], score, 1.0) for score in later[k]]) for k in range(size - 1)]
    areas = [mean_or_none([gained[k], *later[k]]) for k in range(size)]
    return Libero(fwt=mean_or_none(gained), nbt=mean_or_none(lost) if lost else None, auc=mean_or_none(areas))


def _best(curve: Curve) -> int | None:
    """The earliest update with the best score; None for an empty curve."""
    return min(curve, key=lambda step: (-curve[step], step)) if curve else None


def _flattened_mean(curve: Curve, best: int | None) -> float | None:
    if best is None or len(curve) < 2:
        return None
    return sum(curve[min(step, best)] for step in curve) / len(curve)
