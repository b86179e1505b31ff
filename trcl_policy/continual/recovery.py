"""How an old task comes back while later tasks are learned: first passage, dips, and times that may be censored.

Notation:
    P(s)    score of the old task s updates after the switch to a later one, s >= 1, at the evaluated updates
    R       its reference: the score right after it was learned
    a       level; the target is a R, or R / a for losses and distances, where smaller is better
    S(t)    share that is not yet back t updates after its start
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from trcl_policy.continual.statistics import Z95

LEVELS = (0.99, 0.9, 0.8)
SLACK = 1e-9  # shares tie often, and 0.8 * 0.9 exceeds 0.72 by rounding


def reconvergence(
    curve: Mapping[int, float], reference: float, levels: Sequence[float] = LEVELS, higher_is_better: bool = True
) -> dict[str, int | None]:
    """First evaluated update s >= 1 at which a task is back at a share of its first score, by level; None is never.

    Args:
        curve: score by update since the switch to the next task.
        reference: P_i(i), the score right after learning.
        levels: shares of ``reference``.
        higher_is_better: False for losses and distances.
    """
    after = sorted(step for step in curve if step >= 1)
    return {
        f"{level:g}": next((s for s in after if _reached(curve[s], reference, level, higher_is_better)), None)
        for level in levels
    }


def _reached(value: float, reference: float, level: float, higher_is_better: bool) -> bool:
    if higher_is_better:
        return value >= level * reference - SLACK
    return value <= reference / level + SLACK


@dataclass(frozen=True)
class Dip:
    """What happened to one old task while one later task was learned.

    Attributes:
        reference: R.
        target: a R, or R / a where smaller is better.
        dropped: whether it was ever below the target.
        depth: how far the worst evaluation is from R, positive where worse than R.
        bottom: update of the worst evaluation, the first of equals.
        recovered_after: updates from the bottom to the first of ``held`` evaluations in a row at the target; 0 where it
            never dropped, None where that was not seen (censored).
        followed: updates from the bottom to the last evaluation.
    """

    reference: float
    target: float
    dropped: bool
    depth: float
    bottom: int
    recovered_after: int | None
    followed: int

    def spell(self) -> tuple[int, bool]:
        """(updates watched since the bottom, whether it came back): one line of a survival table."""
        return (self.followed, False) if self.recovered_after is None else (self.recovered_after, True)


def dip(
    curve: Mapping[int, float], reference: float, level: float = 0.9, held: int = 3, higher_is_better: bool = True
) -> Dip:
    """The dip of a curve, and how long after its bottom the target was reached and held.

    Args:
        curve: score by update since the switch; only s >= 1 counts.
        reference: score right after learning.
        level: a, in (0, 1].
        held: evaluations in a row that must be at the target.
        higher_is_better: False for losses and distances.

    Raises:
        ValueError: no evaluation at s >= 1.
    """
    steps = sorted(step for step in curve if step >= 1)
    if not steps:
        raise ValueError(f"curve must hold an evaluated update >= 1, got {sorted(curve)}")
    sign = 1.0 if higher_is_better else -1.0
    fine = [_reached(curve[step], reference, level, higher_is_better) for step in steps]
    bottom = min(range(len(steps)), key=lambda place: (sign * curve[steps[place]], place))
    runs = (place for place in range(bottom, len(steps) - held + 1) if all(fine[place : place + held]))
    back = next(runs, None)
    dropped = not fine[bottom]
    return Dip(
        reference=reference,
        target=level * reference if higher_is_better else reference / level,
        dropped=dropped,
        depth=sign * (reference - curve[steps[bottom]]),
        bottom=steps[bottom],
        recovered_after=0 if not dropped else None if back is None else steps[back] - steps[bottom],
        followed=steps[-1] - steps[bottom],
    )


@dataclass(frozen=True)
class Survival:
    """Kaplan-Meier curve: the share that is not yet back, by time.

    Attributes:
        num: spells.
        num_events: spells that ended with the event; the others are censored.
        times: times at which events happened, rising.
        at_risk: spells still watched at each time.
        events: events at each time.
        shares: S just after each time.
        intervals: interval of S at each time, Greenwood's variance on the log(-log S) scale; None where S is 0.
        longest: longest spell; S is known up to there.
    """

    num: int
    num_events: int
    times: tuple[float, ...]
    at_risk: tuple[int, ...]
    events: tuple[int, ...]
    shares: tuple[float, ...]
    intervals: tuple[tuple[float, float] | None, ...]
    longest: float

    def at(self, time: float) -> float:
        """S(time)."""
        return next((share for t, share in zip(self.times[::-1], self.shares[::-1], strict=True) if t <= time), 1.0)

    def median(self) -> float | None:
        """The first time with S <= 1/2; None where S stays above."""
        return next((t for t, share in zip(self.times, self.shares, strict=True) if share <= 0.5 + SLACK), None)

    def area(self, start: float, end: float) -> float:
        """Area under S from ``start`` to ``end``."""
        edges = [start, *(t for t in self.times if start < t < end), end]
        return sum((late - early) * self.at(early) for early, late in pairwise(edges))

    def restricted_mean(self, horizon: float | None = None) -> tuple[float, float]:
        """Mean time, no more than ``horizon`` of each counted, and its standard error.

        The area under S up to the horizon; its variance is sum over event times t_j <= horizon of
        (area from t_j to the horizon)^2 d_j / (n_j (n_j - d_j)) (Klein and Moeschberger 2003, 4.5.2).

        Args:
            horizon: at most ``longest`` (the default), unless S has reached 0 by then.

        Raises:
            ValueError: the horizon is not positive, or reaches beyond what was watched.
        """
        horizon = self.longest if horizon is None else horizon
        if horizon < 0 or (horizon > self.longest and self.at(self.longest) > 0):
            raise ValueError(f"horizon must be in [0, {self.longest:g}], the longest spell watched, got {horizon:g}")
        variance = sum(
            self.area(time, horizon) ** 2 * events / (risk * (risk - events))
            for time, risk, events in zip(self.times, self.at_risk, self.events, strict=True)
            if time <= horizon and risk > events
        )
        return self.area(0.0, horizon), math.sqrt(variance)


def kaplan_meier(spells: Sequence[tuple[float, bool]], z: float = Z95) -> Survival:
    """Kaplan-Meier estimate from (time, whether the event ended it) of each spell (Kaplan and Meier 1958).

    S(t) = product over event times t_j <= t of (1 - d_j / n_j); var log S = sum of d_j / (n_j (n_j - d_j)); the
    interval is S^exp(-+ z sd(log S) / log S). A spell censored at an event time is still at risk there.

    Raises:
        ValueError: no spells, or a negative time.
    """
    if not spells or min(time for time, _ in spells) < 0:
        raise ValueError(f"spells must be at least one and of time >= 0, got {list(spells)}")
    times = sorted({float(time) for time, happened in spells if happened})
    at_risk = [sum(t >= time for t, _ in spells) for time in times]
    events = [sum(happened and t == time for t, happened in spells) for time in times]
    share, variance = 1.0, 0.0
    shares: list[float] = []
    intervals: list[tuple[float, float] | None] = []
    for risk, count in zip(at_risk, events, strict=True):
        share *= (risk - count) / risk
        shares.append(share)
        if risk == count:
            intervals.append(None)
            continue
        variance += count / (risk * (risk - count))
        spread = z * math.sqrt(variance) / math.log(share)
        intervals.append((share ** math.exp(-spread), share ** math.exp(spread)))
    return Survival(
        num=len(spells),
        num_events=sum(events),
        times=tuple(times),
        at_risk=tuple(at_risk),
        events=tuple(events),
        shares=tuple(shares),
        intervals=tuple(intervals),
        longest=max(float(time) for time, _ in spells),
    )
