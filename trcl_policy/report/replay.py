"""How good replayed samples are, generation after generation, from the lines of ``replay.jsonl``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trcl_policy.report.plots import INK, STYLE, style_of
from trcl_policy.report.runs import Run
from trcl_policy.report.tables import NONE, Table, number

Line = Mapping[str, Any]
MEASURES = {"share": "share near real samples", "coverage": "coverage of real samples"}


def by_generation(lines: Sequence[Line]) -> dict[str, dict[int, Line]]:
    """Return the latest line of every task and generation: task -> generation -> line."""
    found: dict[str, dict[int, Line]] = {}
    for line in lines:
        found.setdefault(line["task"], {})[line["generation"]] = line
    return found


def replay_table(runs: Sequence[Run]) -> Table:
    """One task of a run a row: share / coverage of each generation, and those of real samples."""
    tasks = [(run.label, task, found) for run in runs for task, found in by_generation(run.replay).items()]
    generations = sorted({generation for _, _, found in tasks for generation in found})
    rows = [
        (label, task, *(_cell(found.get(g)) for g in generations), _cell(next(iter(found.values()))["real"]))
        for label, task, found in tasks
    ]
    header = ("method", "task", *(f"generation {g}" for g in generations), "real samples")
    return Table("Replayed samples: share near held-out ones / share of these covered", header, tuple(rows))


def _cell(line: Line | None) -> str:
    return NONE if line is None else f"{number(line['share'])} / {number(line['coverage'])}"


def replay_figure(runs: Sequence[Run]) -> Figure | None:
    """Share and coverage by generation, mean over the tasks that have it; dashed: real samples. None without lines."""
    measured = [(place, run, curve(run.replay)) for place, run in enumerate(runs) if run.replay]
    if not measured:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.2, 3.4), layout="constrained")
        panels = figure.subplots(1, 2, sharex=True, sharey=True)
        for axes, (measure, title) in zip(panels, MEASURES.items(), strict=True):
            for place, run, points in measured:
                axes.plot(
                    list(points), [made[measure] for made, _ in points.values()], label=run.label, **style_of(place)
                )
            _, _, points = max(measured, key=lambda entry: len(entry[2]))
            real = [control[measure] for _, control in points.values()]
            axes.plot(list(points), real, color=INK, linewidth=1, linestyle=(0, (4, 3)), label="real samples")
            axes.set_title(title)
            axes.set_xlabel("generation")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_ylim(0, 1.02)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper")
    return figure


def curve(lines: Sequence[Line]) -> dict[int, tuple[dict[str, float], dict[str, float]]]:
    """Return, by generation, the mean measures over its tasks, of replayed and of real samples."""
    found: dict[int, list[Line]] = {}
    for generations in by_generation(lines).values():
        for generation, line in generations.items():
            found.setdefault(generation, []).append(line)
    return {g: (_mean(found[g]), _mean([line["real"] for line in found[g]])) for g in sorted(found)}


def _mean(lines: Sequence[Line]) -> dict[str, float]:
    return {measure: sum(line[measure] for line in lines) / len(lines) for measure in MEASURES}
