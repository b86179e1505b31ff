"""Numbers made of a score matrix: average, forgetting, transfer, re-convergence, and their intervals.

Notation (paper, section 6):
    P[k][i]   score of task i after learning task k; None where it was not measured
    T         number of tasks
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Row = Sequence[float | None]
Z95 = 1.959963984540054


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
    forgetting_old = _mean(old) if old else None
    return Summary(
        average_final=_mean(last),
        forgetting=_mean(drops),
        forgetting_old=forgetting_old,
        backward_transfer=None if forgetting_old is None else -forgetting_old,
    )


def _drop(learned: float | None, final: float | None, sign: float) -> float | None:
    return None if learned is None or final is None else sign * (learned - final)


def _mean(values: Row) -> float | None:
    if any(value is None for value in values):
        return None
    return sum(v for v in values if v is not None) / len(values)


def reconvergence(
    curve: Mapping[int, float], reference: float, levels: Sequence[float] = (0.99, 0.9, 0.8)
) -> dict[str, int | None]:
    """First evaluated update s >= 1 at which a task is back at a share of its first score, by level; None is never.

    Args:
        curve: score by update since the switch to the next task.
        reference: P_i(i), the score right after learning.
        levels: shares of ``reference``.
    """
    after = sorted(step for step in curve if step >= 1)
    # Shares tie often, and 0.8 * 0.9 exceeds 0.72 by rounding.
    targets = {f"{level:g}": level * reference - 1e-9 for level in levels}
    return {name: next((s for s in after if curve[s] >= target), None) for name, target in targets.items()}
