"""What docs/map.md shows of the stored cells: paired differences, sums over one side of the grid, and the heat map."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trcl_policy.continual.statistics import Mean, mean_interval
from trcl_policy.report.plots import STYLE
from trcl_policy.report.tables import NONE, Table

FIGURE = "map.png"
KINDS = ("plain", "distilled")
MEASURES = {"success": ("average_final", 100.0, 1.0), "loss": ("old_log_loss", 100.0, -1.0)}
"""Measure -> (number of a run, factor, sign of what is better): points of final success, and percent of the held-out
loss of old tasks (100 log ratio)."""
TITLES = {"success": "final success, points", "loss": "held-out loss of old tasks, %"}
SIDES = ("budget", "updates", "tasks", "width")
NOTHING = "No cell is stored yet."


def difference_by_seed(cell: Mapping[str, Any], kind: str, measure: str) -> dict[int, float]:
    """With the trust region minus without, by seed, on the seeds that both have."""
    key, factor, _ = MEASURES[measure]
    without, within = cell["runs"].get(kind, {}), cell["runs"].get(f"{kind}_trust", {})
    return {int(s): factor * (within[s][key] - without[s][key]) for s in sorted(without) if s in within}


def difference(cell: Mapping[str, Any], kind: str, measure: str) -> Mean | None:
    """Mean difference with its 95 % t interval over seeds; None without a pair."""
    found = difference_by_seed(cell, kind, measure)
    return mean_interval(list(found.values())) if found else None


def verdict(found: Mean | None, sign: float) -> int:
    """1 where the trust region helps by the interval, -1 where it hurts, 0 where that is open."""
    if found is None or found.interval is None or found.interval[0] <= 0 <= found.interval[1]:
        return 0
    return 1 if sign * found.mean > 0 else -1


def shown(found: Mean | None, digits: int = 1) -> str:
    """``+2.1 (-0.4 to +4.6)``, a dash without a pair."""
    if found is None:
        return NONE
    ends = "" if found.interval is None else f" ({found.interval[0]:+.{digits}f} to {found.interval[1]:+.{digits}f})"
    return f"{found.mean:+.{digits}f}{ends}"


def make_blocks(cells: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The generated parts of the page."""
    if not cells:
        return dict.fromkeys(("summary", "sides", "cells", "figure"), NOTHING)
    return {
        "summary": summary(cells),
        "sides": sides_table(cells).markdown(),
        "figure": f"![Trust region minus replay in every cell](images/{FIGURE})",
        "cells": cells_table(cells).markdown(),
    }


def summary(cells: Mapping[str, Mapping[str, Any]]) -> str:
    """How often the trust region helps, hurts, or neither is seen."""
    lines = [origin(cells), ""]
    for kind in KINDS:
        for measure, (_, _, sign) in MEASURES.items():
            votes = [verdict(difference(cell, kind, measure), sign) for cell in cells.values()]
            helps, hurts = votes.count(1), votes.count(-1)
            lines.append(
                f"* On {kind} replay, by {TITLES[measure].split(',')[0]}: helps in {helps} of {len(votes)} cells, "
                f"hurts in {hurts}, undecided in {len(votes) - helps - hurts}."
            )
    return "\n".join(lines)


def origin(cells: Mapping[str, Mapping[str, Any]]) -> str:
    """Which form at which weight, and how many seeds."""
    entries = [
        entry for cell in cells.values() for kind in KINDS for entry in cell["runs"].get(f"{kind}_trust", {}).values()
    ]
    forms = sorted({f"`{entry['name']}` at weight {entry['weight']:g}" for entry in entries})
    seeds = sorted({len(seeds) for cell in cells.values() for seeds in cell["runs"].values()})
    hours = sum(e["seconds"] for c in cells.values() for seeds in c["runs"].values() for e in seeds.values()) / 3600
    counts = " to ".join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))
    return f"{len(cells)} cells, {counts} seeds; {', '.join(forms)}; {hours:.1f} hours of one core."


def sides_table(cells: Mapping[str, Mapping[str, Any]]) -> Table:
    """One level of one side of the grid a row: the mean over its cells, paired by seed."""
    rows = []
    for side in SIDES:
        for level in dict.fromkeys(cell["cell"][side] for cell in cells.values()):
            group = [cell for cell in cells.values() if cell["cell"][side] == level]
            means = [over_cells(group, kind, measure) for kind in KINDS for measure in MEASURES]
            rows.append((f"{side} {level}", str(len(group)), *map(shown, means)))
    return Table("Mean over the cells of a level, 95 % over seeds", ("level", "cells", *columns()), tuple(rows))


def over_cells(cells: Sequence[Mapping[str, Any]], kind: str, measure: str) -> Mean | None:
    """Mean over cells of the difference of each seed, then over seeds; seeds that a cell lacks are left out."""
    found = [difference_by_seed(cell, kind, measure) for cell in cells]
    seeds = sorted(set.intersection(*(set(one) for one in found))) if found else []
    means = [sum(one[seed] for one in found) / len(found) for seed in seeds]
    return mean_interval(means) if means else None


def columns() -> list[str]:
    """Headers of the four differences."""
    return [f"{kind}: {TITLES[measure]}" for kind in KINDS for measure in MEASURES]


def cells_table(cells: Mapping[str, Mapping[str, Any]]) -> Table:
    """One cell a row: success of replay alone, and the differences."""
    rows = []
    for cell in cells.values():
        place = [str(cell["cell"][side]) for side in SIDES]
        alone = [level(cell["runs"].get(kind, {}).values()) for kind in KINDS]
        means = [shown(difference(cell, kind, measure)) for kind in KINDS for measure in MEASURES]
        rows.append((*place, *alone, *means))
    header = ("budget", "updates a task", "tasks", "width", "success of plain replay", "of distilled replay")
    return Table("Every cell: trust region minus replay", (*header, *columns()), tuple(rows))


def level(entries: Iterable[Mapping[str, float]]) -> str:
    """Mean final success."""
    finals = [entry["average_final"] for entry in entries]
    return f"{sum(finals) / len(finals):.2f}" if finals else NONE


def map_figure(cells: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Heat maps of the differences: rows tasks and width, columns budget and updates; a star where 0 is outside."""
    places = [cell["cell"] for cell in cells.values()]
    rows = list(dict.fromkeys((place["tasks"], place["width"]) for place in places))
    cols = list(dict.fromkeys((place["budget"], place["updates"]) for place in places))
    size = (2 * max(3.2, 0.95 * len(cols) + 1.2), 2 * max(1.9, 0.42 * len(rows) + 1.3))
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(len(MEASURES), len(KINDS), squeeze=False)
        for row, measure in zip(panels, MEASURES, strict=True):
            for axes, kind in zip(row, KINDS, strict=True):
                _panel(axes, cells, rows, cols, kind, measure)
            colours = row[0].collections[0]
            figure.colorbar(colours, ax=list(row), fraction=0.03, pad=0.01).outline.set_visible(False)
    return figure


def _panel(
    axes: Axes, cells: Mapping[str, Any], rows: Sequence[Any], cols: Sequence[Any], kind: str, measure: str
) -> None:
    _, _, sign = MEASURES[measure]
    values = np.full((len(rows), len(cols)), np.nan)
    marks = np.full(values.shape, "", object)
    for cell in cells.values():
        found, place = difference(cell, kind, measure), cell["cell"]
        if found is not None:
            spot = rows.index((place["tasks"], place["width"])), cols.index((place["budget"], place["updates"]))
            values[spot] = found.mean
            marks[spot] = f"{found.mean:+.1f}" + "*" * abs(verdict(found, sign))
    most = reach(cells, measure)
    map_name = "BrBG" if sign > 0 else "BrBG_r"
    axes.pcolormesh(np.ma.masked_invalid(values), cmap=map_name, vmin=-most, vmax=most)
    for (row, column), text in np.ndenumerate(marks):
        dark = abs(values[row, column]) > 0.7 * most
        ink = "white" if dark else "black"
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=8, color=ink)
    axes.set_xticks(np.arange(len(cols)) + 0.5, [f"{budget}\n{updates}" for budget, updates in cols], fontsize=8)
    axes.set_yticks(np.arange(len(rows)) + 0.5, [f"{tasks} tasks, width {width}" for tasks, width in rows], fontsize=8)
    axes.set_title(f"{kind}: {TITLES[measure]}", fontsize=10)
    axes.tick_params(length=0)


def reach(cells: Mapping[str, Any], measure: str) -> float:
    """The largest difference, which both ends of the colours stand for."""
    found = [difference(cell, kind, measure) for cell in cells.values() for kind in KINDS]
    return max((abs(mean.mean) for mean in found if mean is not None), default=0.0) or 1.0
