"""From the lines of ``episodes.jsonl`` to the score matrix and everything in ``metrics.json``.

An episode line has ``checkpoint`` (tasks learned so far, minus one), ``step`` (updates since the switch to the task
being learned, null at its end), ``update`` (the same as a number, the end included), ``task``, ``seed``, ``success``,
``return`` and ``length``. Nothing else is needed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trcl_policy.continual.metrics import Curve, forward_transfer, libero, mean_or_none, summarize
from trcl_policy.continual.recovery import reconvergence
from trcl_policy.continual.statistics import mean_of_shares_interval, wilson_interval
from trcl_policy.rollout.relearning import curves_document, relearning

Record = Mapping[str, Any]
Cell = tuple[int, int | None, str]


def cells(records: Iterable[Record]) -> dict[Cell, dict[int, bool]]:
    """Success by seed for every (checkpoint, step, task); of repeated lines the first counts."""
    found: dict[Cell, dict[int, bool]] = defaultdict(dict)
    for record in records:
        cell = (int(record["checkpoint"]), record.get("step"), str(record["task"]))
        found[cell].setdefault(int(record["seed"]), bool(record["success"]))
    return dict(found)


def retention(records: Iterable[Record], names: Sequence[str], alone: Sequence[Curve] | None = None) -> dict[str, Any]:
    """Scores, intervals and summaries of a run whose T visits are called ``names`` (a second visit ``name#2``).

    Args:
        records: episode lines.
        names: the visits in order.
        alone: success of each task while it is trained alone, by update (see :func:`learning_curves`).

    Returns:
        ``scores``, ``intervals`` (Wilson, 95 %) and ``num_episodes``, each T x T with null where nothing was measured;
        ``average_final`` with ``average_final_interval`` over episodes; ``forgetting``, ``forgetting_old``,
        ``backward_transfer`` and ``libero`` (see continual/metrics.py); ``forward_transfers`` of each task and their
        mean ``forward_transfer`` (null without ``alone``); ``reconvergence`` {task: {after: {level: steps or null}}};
        ``curves`` {task: {while learning: {updates, scores}}} and ``recovery`` (see relearning.py).

    Raises:
        ValueError: ``alone`` was not evaluated at the run's updates.
    """
    records = list(records)
    found = cells(records)
    size = len(names)
    counts: list[list[tuple[int, int] | None]] = [[None] * size for _ in names]
    for row in range(size):
        for column in range(row + 1):
            outcome = found.get((row, None, task_of(names[column])))
            if outcome:
                counts[row][column] = (sum(outcome.values()), len(outcome))
    scores = [[c and c[0] / c[1] for c in row] for row in counts]
    summary = summarize(scores)
    final = [count for count in counts[-1] if count is not None]
    shares = {cell: sum(outcome.values()) / len(outcome) for cell, outcome in found.items()}
    curves = evaluated_curves(shares, ends_of(records), names)
    transfers = _forward_transfers(curves, alone)
    three = libero(curves)
    return {
        "tasks": list(names),
        "score": "success",
        "scores": scores,
        "intervals": [[c and list(wilson_interval(*c)) for c in row] for row in counts],
        "num_episodes": [[c and c[1] for c in row] for row in counts],
        "average_final": summary.average_final,
        "average_final_interval": list(mean_of_shares_interval(final)) if len(final) == size else None,
        "forgetting": summary.forgetting,
        "forgetting_old": summary.forgetting_old,
        "backward_transfer": summary.backward_transfer,
        "forward_transfer": mean_or_none(transfers) if transfers else None,
        "forward_transfers": transfers,
        "libero": {"fwt": three.fwt, "nbt": three.nbt, "auc": three.auc},
        "reconvergence": _reconvergence(found, names, scores),
        "curves": curves_document(curves, names),
        "recovery": relearning(curves, scores, names),
    }


def task_of(name: str) -> str:
    """The task behind the name of a visit."""
    return name.split("#")[0]


def visit_names(sequence: Sequence[str]) -> tuple[str, ...]:
    """Names of the visits of tasks: the second visit of a task is called ``name#2``."""
    seen: dict[str, int] = defaultdict(int)
    unique = []
    for name in sequence:
        seen[name] += 1
        unique.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return tuple(unique)


def learning_curves(metrics: Mapping[str, Any]) -> list[dict[int, float]]:
    """Success of each task while it is learned, by update, from a run's ``metrics.json``; empty where not measured."""
    found = []
    for name in metrics["tasks"]:
        curve = (metrics.get("curves") or {}).get(name, {}).get(name, {"updates": [], "scores": []})
        found.append(dict(zip(curve["updates"], curve["scores"], strict=True)))
    return found


def ends_of(records: Sequence[Record]) -> dict[int, int]:
    """Updates at the end of each task, by checkpoint; runs of an older version did not write them down."""
    return {r["checkpoint"]: r["update"] for r in records if r.get("step") is None and r.get("update") is not None}


def evaluated_curves(
    scores: Mapping[Cell, float], ends: Mapping[int, int], names: Sequence[str]
) -> list[list[dict[int, float]]]:
    """Curve [k][i] of task i while task k is learned, i <= k: {update: score}.

    At update 0 old tasks stand as the task before left them.
    """
    by_cell: dict[tuple[int, str], dict[int, float]] = defaultdict(dict)
    for (checkpoint, step, task), score in scores.items():
        update = ends.get(checkpoint) if step is None else step
        if update is not None:
            by_cell[checkpoint, task][update] = score
        if step is None:
            by_cell[checkpoint + 1, task].setdefault(0, score)
    tasks = [task_of(name) for name in names]
    rows = [[dict(sorted(by_cell[k, tasks[i]].items())) for i in range(k + 1)] for k in range(len(names))]
    return [[curve if max(curve, default=0) > 0 else {} for curve in row] for row in rows]


def _forward_transfers(curves: Sequence[Sequence[Curve]], alone: Sequence[Curve] | None) -> list[float | None] | None:
    own = [row[-1] for row in curves]
    if alone is None or any(len(curve) < 2 for curve in own):
        return None
    return forward_transfer(own, alone)


def _reconvergence(
    found: Mapping[Cell, Mapping[int, bool]], names: Sequence[str], scores: Sequence[Sequence[float | None]]
) -> dict[str, dict[str, dict[str, int | None]]]:
    result: dict[str, dict[str, dict[str, int | None]]] = {}
    for old, name in enumerate(names):
        reference = scores[old][old]
        for new in range(old + 1, len(names)):
            curve = {
                step: sum(outcome.values()) / len(outcome)
                for (checkpoint, step, task), outcome in found.items()
                if checkpoint == new and step is not None and task == task_of(name)
            }
            if curve and reference is not None:
                result.setdefault(name, {})[names[new]] = reconvergence(curve, reference)
    return result
