"""From the lines of ``scores.jsonl`` to the score matrix and everything in ``metrics.json``, for distances.

A line has ``checkpoint``, ``step`` and ``update`` as in ``episodes.jsonl``, ``task``, ``distance`` with
``distance_low`` and ``distance_high`` (95 %), ``num_made`` and the numbers of ``OTHERS``. Lower is better throughout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from trcl_policy.continual.metrics import summarize
from trcl_policy.continual.recovery import reconvergence
from trcl_policy.rollout.relearning import curves_document, relearning
from trcl_policy.rollout.retention import Cell, Record, ends_of, evaluated_curves

RISES = (0.1, 0.2, 0.3)
"""A task is back once its distance is at most 1 + this times the distance right after learning."""
OTHERS = ("kernel", "precision", "recall", "density", "coverage", "accuracy")
Value = TypeVar("Value")


def distance_retention(records: Iterable[Record], names: Sequence[str], score: str) -> dict[str, Any]:
    """Scores, intervals and summaries of a run whose T tasks are called ``names``.

    Args:
        records: lines of ``scores.jsonl``; of repeated ones the first counts.
        names: the tasks in order, each once.
        score: what the distance is called.

    Returns:
        What :func:`~trcl_policy.rollout.retention.retention` returns, with differences: ``scores`` are distances with
        their own ``intervals``, ``average_final_interval`` follows from those of the tasks, forgetting is the rise,
        ``reconvergence`` has the levels of ``RISES``, ``num_samples`` counts generated images, ``others`` holds the
        matrices of ``OTHERS``. Forward transfer and LIBERO's numbers are made for shares of success and are null.
    """
    records = list(records)
    found: dict[Cell, Record] = {}
    for record in records:
        found.setdefault((int(record["checkpoint"]), record.get("step"), str(record["task"])), record)
    scores = _matrix(found, names, partial(_number, "distance"))
    intervals = _matrix(found, names, _interval)
    summary = summarize(scores, higher_is_better=False)
    distances = {cell: float(record["distance"]) for cell, record in found.items()}
    curves = evaluated_curves(distances, ends_of(records), names)
    return {
        "tasks": list(names),
        "score": score,
        "scores": scores,
        "intervals": intervals,
        "num_samples": _matrix(found, names, lambda record: int(record["num_made"])),
        "others": {other: _matrix(found, names, partial(_number, other)) for other in OTHERS},
        "average_final": summary.average_final,
        "average_final_interval": interval_of_mean(scores[-1], intervals[-1]),
        "forgetting": summary.forgetting,
        "forgetting_old": summary.forgetting_old,
        "backward_transfer": summary.backward_transfer,
        "forward_transfer": None,
        "forward_transfers": None,
        "libero": {"fwt": None, "nbt": None, "auc": None},
        "reconvergence": _reconvergence(distances, names, scores),
        "curves": curves_document(curves, names),
        "recovery": relearning(curves, scores, names, higher_is_better=False),
    }


def interval_of_mean(values: Sequence[float | None], intervals: Sequence[Sequence[float] | None]) -> list[float] | None:
    """Interval of the mean of independent estimates, out of their own; None where one is missing.

    m - sqrt(sum_i (v_i - low_i)^2) / T and m + sqrt(sum_i (high_i - v_i)^2) / T (Zou and Donner 2008).
    """
    known = [(v, bounds) for v, bounds in zip(values, intervals, strict=True) if v is not None and bounds is not None]
    if len(known) < len(values):
        return None
    mean = sum(value for value, _ in known) / len(known)
    below, above = (math.hypot(*(value - bounds[end] for value, bounds in known)) / len(known) for end in (0, 1))
    return [mean - below, mean + above]


def _number(name: str, record: Record) -> float:
    return float(record[name])


def _interval(record: Record) -> list[float]:
    return [float(record["distance_low"]), float(record["distance_high"])]


def _matrix(
    found: Mapping[Cell, Record], names: Sequence[str], value: Callable[[Record], Value]
) -> list[list[Value | None]]:
    """``value`` of every (after task k, task i <= k), None elsewhere and where nothing was measured."""
    matrix: list[list[Value | None]] = [[None] * len(names) for _ in names]
    for row in range(len(names)):
        for column in range(row + 1):
            record = found.get((row, None, names[column]))
            matrix[row][column] = None if record is None else value(record)
    return matrix


def _reconvergence(
    distances: Mapping[Cell, float], names: Sequence[str], scores: Sequence[Sequence[float | None]]
) -> dict[str, dict[str, dict[str, int | None]]]:
    """First evaluated update at which a task is back below each threshold, by task and later task; null is never."""
    result: dict[str, dict[str, dict[str, int | None]]] = {}
    levels = [1 / (1 + rise) for rise in RISES]
    for old, name in enumerate(names):
        reference = scores[old][old]
        for new in range(old + 1, len(names)):
            curve = {
                s: d for (after, s, task), d in distances.items() if (after, task) == (new, name) and s is not None
            }
            if curve and reference is not None:
                back = reconvergence(curve, reference, levels, higher_is_better=False)
                spelt = (f"+{100 * rise:.0f} %" for rise in RISES)
                result.setdefault(name, {})[names[new]] = dict(zip(spelt, back.values(), strict=True))
    return result
