"""From the lines of ``episodes.jsonl`` to the score matrix and everything in ``metrics.json``.

An episode line has ``checkpoint`` (tasks learned so far, minus one), ``step`` (updates since the switch to the task
being learned, null at its end), ``task``, ``seed``, ``success``, ``return`` and ``length``. Nothing else is needed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trcl_policy.continual.metrics import mean_of_shares_interval, reconvergence, summarize, wilson_interval

Record = Mapping[str, Any]
Cell = tuple[int, int | None, str]


def cells(records: Iterable[Record]) -> dict[Cell, dict[int, bool]]:
    """Success by seed for every (checkpoint, step, task); of repeated lines the first counts."""
    found: dict[Cell, dict[int, bool]] = defaultdict(dict)
    for record in records:
        cell = (int(record["checkpoint"]), record.get("step"), str(record["task"]))
        found[cell].setdefault(int(record["seed"]), bool(record["success"]))
    return dict(found)


def retention(records: Iterable[Record], names: Sequence[str]) -> dict[str, Any]:
    """Scores, intervals and summaries of a run whose T visits are called ``names`` (a second visit ``name#2``).

    Returns:
        ``scores``, ``intervals`` (Wilson, 95 %) and ``num_episodes``, each T x T with null where nothing was measured;
        ``average_final`` with ``average_final_interval`` over episodes; ``forgetting``, ``forgetting_old``,
        ``backward_transfer`` (see continual/metrics.py), ``forward_transfer`` (null: it needs runs of each task alone)
        and ``reconvergence`` {task: {after: {level: steps or null}}}.
    """
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
        "forward_transfer": None,
        "reconvergence": _reconvergence(found, names, scores),
    }


def task_of(name: str) -> str:
    """The task behind the name of a visit."""
    return name.split("#")[0]


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
