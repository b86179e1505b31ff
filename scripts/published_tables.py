"""The paper's two tables with our columns beside theirs; its figures stand in results/published.json."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from results_tables import average_final, best_form, by_seed, forgetting, ordered
from stored import Results

from trcl_policy.report.tables import NONE, Table


def published_table(published: Mapping[str, Any], ours: Mapping[str, Mapping[str, Results]]) -> Table:
    """Average final score and forgetting (mean over all tasks) in percent, mean and standard error over seeds.

    Args:
        published: ``final`` of published.json.
        ours: stored results by method, by benchmark.
    """
    forms = [best_form(found) for found in ours.values()]
    names = [*published, *dict.fromkeys(form for form in [*forms, "joint"] if form and form not in published)]
    rows = []
    for name in names:
        known = published.get(name, {})
        cells = [_pair(known.get(part)) for part in ("imagenet500", "cw10")]
        rows.append((name, *cells, *(_ours(found.get(name, {})) for found in ours.values())))
    header = ("method", "published: ImageNet-500, FID / forgetting", "published: CW10, % / forgetting")
    return Table(
        "Average and forgetting beside the published", (*header, *(f"ours: {name}, %" for name in ours)), tuple(rows)
    )


def _pair(entry: Sequence[Sequence[float]] | None) -> str:
    return NONE if entry is None else " / ".join(f"{mean:.1f} ± {error:.1f}" for mean, error in entry)


def _ours(seeds: Results) -> str:
    found = [list(by_seed(seeds, measure).values()) for measure in (average_final, forgetting)]
    if not found[0]:
        return NONE
    cells = [f"{_with_error([100 * value for value in values])}" if values else NONE for values in found]
    return f"{' / '.join(cells)} ({len(found[0])})"


def _with_error(values: Sequence[float]) -> str:
    mean = sum(values) / len(values)
    if len(values) < 2:
        return f"{mean:.1f}"
    error = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))
    return f"{mean:.1f} ± {error:.1f}"


def reconvergence_table(published: Mapping[str, Sequence[int | None]], found: Mapping[str, Results]) -> Table:
    """Updates until the first task is back at 90 % while each later one is learned; ours is the median over seeds."""
    rows = []
    names = [*published, *(name for name in ordered(found) if name not in published)]
    for name in names:
        if name in published:
            rows.append((f"{name}, published", *map(_steps, published[name])))
        if name in found and (times := first_task_times(found[name])):
            rows.append((f"{name}, ours ({len(found[name])})", *map(_steps, times)))
    width = max(len(row) for row in rows)
    header = ("method", *(f"task {number}" for number in range(2, width + 1)))
    return Table("Updates until task 1 is back", header, tuple((*row, *[NONE] * (width - len(row))) for row in rows))


def first_task_times(seeds: Results) -> list[float | None]:
    """Median over seeds of the updates until the first task is back, by later task; None where most never are.

    NaN where a later task was not watched; empty where nothing was measured inside the tasks.
    """
    columns: list[list[float]] = []
    for document in seeds.values():
        tasks = document["metrics"]["tasks"]
        known = document["metrics"].get("reconvergence", {}).get(tasks[0], {})
        for place, later in enumerate(tasks[1:]):
            if later in known:
                columns += [[] for _ in range(place + 1 - len(columns))]
                steps = known[later]["0.9"]
                columns[place].append(math.inf if steps is None else float(steps))
    return [_median(column) for column in columns]


def _median(values: Sequence[float]) -> float | None:
    """The lower median: a time that was seen; None where it is never, NaN where nothing is known."""
    middle = sorted(values)[(len(values) - 1) // 2] if values else math.nan
    return None if math.isinf(middle) else middle


def _steps(steps: float | None) -> str:
    return "never" if steps is None else NONE if math.isnan(steps) else f"{steps:g}"
