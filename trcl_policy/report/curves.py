"""Pictures of forgetting and coming back: curves over the updates of the whole sequence, and Kaplan-Meier curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from trcl_policy.continual.recovery import Survival
from trcl_policy.report.plots import INK, STYLE, style_of
from trcl_policy.report.runs import Run, all_tasks, short_name
from trcl_policy.report.tables import score_name
from trcl_policy.rollout.relearning import survival_of

Points = tuple[list[float], list[float], list[list[float] | None]]


def sequence_curves(runs: Sequence[Run], key: str, what: str, label: str) -> Figure | None:
    """Curves of every task over all updates, one panel a task, one curve a run; dashed where the task is learned.

    Args:
        runs: drawn where they were measured inside tasks.
        key: ``curves`` or ``loss_curves`` of metrics.json.
        what: ``scores`` or ``losses``.
        label: of the vertical axis; losses get a logarithmic one.
    """
    drawn = [(n, run, _starts(run, key)) for n, run in enumerate(runs)]
    known = [(n, run, starts) for n, run, starts in drawn if starts is not None]
    if not known:
        return None
    tasks = all_tasks([run for _, run, _ in known])
    with mpl.rc_context(STYLE):
        figure, panels = _panels(len(tasks))
        for panel, task in zip(panels, tasks, strict=False):
            for n, run, starts in known:
                if task in run.tasks:
                    _line(panel, n, run.label, *_sequence_points(run, task, starts, key, what))
            place = next((starts[run.tasks.index(task)] for _, run, starts in known if task in run.tasks))
            panel.axvline(place, color=INK, linewidth=0.8, linestyle=(0, (2, 2)), alpha=0.6)
            panel.set_title(task, fontsize=9)
            panel.xaxis.set_major_locator(MaxNLocator(nbins=4))
        _finish(figure, panels[0], "updates over the sequence (dashed: the task is learned from here)", label, what)
    return figure


def _starts(run: Run, key: str) -> list[int] | None:
    """Update at which each task begins; None for a run that was not measured inside its tasks."""
    curves = run.metrics.get(key) or {}
    names = _names(run)
    own = [(curves.get(name) or {}).get(name, {}).get("updates", []) for name in names]
    if max(map(len, own), default=0) < 2 or not all(own):
        return None
    ends = np.cumsum([updates[-1] for updates in own])
    return [0, *ends[:-1].tolist()]


def _names(run: Run) -> list[str]:
    return [str(name) for name in run.metrics["tasks"]]


def _sequence_points(run: Run, task: str, starts: Sequence[int], key: str, what: str) -> Points:
    names = _names(run)
    during = run.metrics[key][names[run.tasks.index(task)]]
    points: Points = ([], [], [])
    for start, learned in zip(starts, names, strict=True):
        curve = during.get(learned, {"updates": [], what: []})
        points[0].extend(start + update for update in curve["updates"])
        points[1].extend(curve[what])
        points[2].extend(curve.get("intervals") or [None] * len(curve["updates"]))
    return points


def _line(axes: Axes, number: int, label: str, x: Sequence[float], y: Sequence[float], bounds: Sequence[Any]) -> None:
    look = {**style_of(number), "markersize": 2.5, "linewidth": 1.3}
    axes.plot(x, y, label=label, **look)
    if bounds and all(bound is not None for bound in bounds):
        axes.fill_between(x, *np.array(bounds, float).T, color=look["color"], alpha=0.15, linewidth=0)


def reconvergence_curves(runs: Sequence[Run]) -> Figure | None:
    """Mean over (old task, later task) pairs of the old task's share of its first score, after the switch."""
    series = [(n, run, _mean_after_switch(run)) for n, run in enumerate(runs)]
    series = [(n, run, curve) for n, run, curve in series if len(curve) > 1]
    if not series:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.8), layout="constrained")
        axes = figure.subplots()
        for n, run, curve in series:
            _line(axes, n, run.label, list(curve), list(curve.values()), [])
        is_share = all(run.is_success for _, run, _ in series)
        axes.axhline(0.9 if is_share else 1 / 0.9, color=INK, linewidth=0.8, linestyle=(0, (2, 2)), alpha=0.6)
        _updates_axis(axes, max(max(curve) for _, _, curve in series))
        axes.set_ylim(bottom=min(-0.03, *axes.get_ylim()))
        axes.set_xlabel("updates since the switch to a later task")
        axes.set_ylabel("share of the first score" if is_share else "times the first score")
        target = "90 %" if is_share else "1 / 0.9"
        axes.set_title(f"Old tasks while a later one is learned (mean over pairs; dashed: {target})")
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)
    return figure


def _mean_after_switch(run: Run) -> dict[int, float]:
    """Mean share of the first score by update, at updates where every pair was measured."""
    curves, names = run.metrics.get("curves") or {}, _names(run)
    tables = []
    for old, name in enumerate(names):
        reference = run.scores[old][old]
        for learned in names[old + 1 :]:
            curve = (curves.get(name) or {}).get(learned)
            if curve and reference and len(curve["updates"]) > 2:
                tables.append({u: s / reference for u, s in zip(curve["updates"], curve["scores"], strict=True)})
    if not tables:
        return {}
    common = sorted(set.intersection(*(set(table) for table in tables)))
    return {update: sum(table[update] for table in tables) / len(tables) for update in common}


def _updates_axis(axes: Axes, longest: float) -> None:
    """A logarithmic axis of updates that begins at 0."""
    axes.set_xscale("symlog", linthresh=1, linscale=0.4)
    axes.set_xlim(0, max(longest, 2) * 1.05)
    ticks = [0, *(10**power for power in range(int(math.log10(max(longest, 2))) + 1))]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])


SURVIVAL_PANELS = (
    ("recovery", "first_passage", "success: from the switch"),
    ("recovery", "from_bottom", "success: from the bottom of the dip"),
    ("loss_recovery", "first_passage", "loss: from the switch"),
    ("loss_recovery", "from_bottom", "loss: from the bottom of the dip"),
)


def survival_curves(runs: Sequence[Run]) -> Figure | None:
    """Share of (old task, later task) pairs that are not back yet, for success and loss, with 95 % bands."""
    found = [
        (
            title.replace("success", score_name(runs)),
            [(n, run.label, _survival(run, key, part)) for n, run in enumerate(runs)],
        )
        for key, part, title in SURVIVAL_PANELS
    ]
    return _survival_figure(found, "updates", "share of pairs not yet back")


def _survival(run: Run, key: str, part: str) -> Survival | None:
    table = (run.metrics.get(key) or {}).get(part)
    table = table["0.9"] if table and part == "first_passage" else table
    return survival_of(table) if table else None


def _survival_figure(
    found: Sequence[tuple[str, Sequence[tuple[int, str, Survival | None]]]], x: str, y: str
) -> Figure | None:
    panels = [(title, [(n, label, t) for n, label, t in tables if t is not None]) for title, tables in found]
    panels = [(title, tables) for title, tables in panels if tables]
    if not panels:
        return None
    with mpl.rc_context(STYLE):
        columns = min(2, len(panels))
        rows = -(-len(panels) // columns)
        figure = Figure(figsize=(4.3 * columns + 0.4, 2.7 * rows + 0.7), layout=ConstrainedLayoutEngine(w_pad=0.12))
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        for axes, (title, tables) in zip(grid, panels, strict=False):
            for n, label, table in tables:
                _steps(axes, n, label, table)
            _updates_axis(axes, max(table.longest for _, _, table in tables))
            axes.set_ylim(-0.03, 1.03)
            axes.set_title(title, fontsize=10)
        figure.supxlabel(x, fontsize=10)
        figure.supylabel(y, fontsize=10)
        _legend_above(figure, list(grid)[: len(panels)])
    return figure


def _steps(axes: Axes, number: int, label: str, table: Survival) -> None:
    """A Kaplan-Meier curve; a marker at its end where some were never seen back."""
    # Steps often lie on each other: later ones are thinner, so that the others show behind.
    look = {**style_of(number), "marker": "", "linewidth": max(1.2, 3.4 - 0.7 * number)}
    x, y = [0.0, *table.times, table.longest], [1.0, *table.shares, table.at(table.longest)]
    axes.step(x, y, where="post", label=label, **look)
    if y[-1] > 0:
        axes.plot(x[-1], y[-1], marker="|", markersize=9, color=look["color"], clip_on=False)
    bounds = [(1.0, 1.0), *(b if b is not None else (0.0, 0.0) for b in table.intervals)]
    low, high = np.array([*bounds, bounds[-1]], float).T
    axes.fill_between(x, low, high, step="post", color=look["color"], alpha=0.13, linewidth=0)


def probe_curves(runs: Sequence[Run]) -> Figure | None:
    """Success and held-out loss of every probed task over the updates of ``trcl recover``; dotted: the references."""
    probed = [(n, run) for n, run in enumerate(runs) if run.probe]
    tasks = list(dict.fromkeys(name for _, run in probed for name in run.probe["tasks"]))
    kinds = [kind for kind in PROBE_KINDS if any(_probe_points(run, t, kind[1]) for _, run in probed for t in tasks)]
    if not kinds:
        return None
    with mpl.rc_context(STYLE):
        size = (max(5.0, 2.3 * len(tasks) + 0.6), 2.1 * len(kinds) + 0.9)
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(len(kinds), len(tasks), sharex=True, sharey="row", squeeze=False)
        for row, (label, values, reference) in zip(panels, kinds, strict=True):
            for axes, task in zip(row, tasks, strict=True):
                _probe_panel(axes, probed, task, values, reference)
            row[0].set_ylabel(label)
            if values == "losses":
                _loss_axis(row[0])
            else:
                row[0].set_ylim(-0.03, 1.03)
        for axes, task in zip(panels[0], tasks, strict=True):
            axes.set_title(short_name(task), fontsize=9)
        figure.supxlabel("updates of the probe", fontsize=10)
        _legend_above(figure, list(panels.flat))
    return figure


PROBE_KINDS = (("success rate", "success", "reference"), ("held-out loss", "losses", "loss_reference"))


def _probe_panel(axes: Axes, probed: Sequence[tuple[int, Run]], task: str, values: str, reference: str) -> None:
    for n, run in probed:
        points = _probe_points(run, task, values)
        if points:
            _line(axes, n, run.probe_label, run.probe["tasks"][task]["steps"], points, [])
            level = run.probe["tasks"][task][reference]
            if level is not None:
                axes.axhline(level, color=style_of(n)["color"], linewidth=0.9, linestyle=(0, (1, 2)))


def _probe_points(run: Run, task: str, values: str) -> list[float]:
    """A curve of the probe; empty where it was not measured."""
    found = (run.probe["tasks"].get(task) or {}).get(values) or []
    return [] if None in found else list(found)


def probe_survival_curves(runs: Sequence[Run]) -> Figure | None:
    """Share of probed tasks that are not back yet, for success and loss."""
    kinds = (("success", "success"), ("loss", "held-out loss"))
    found = [
        (title, [(n, run.probe_label, _probe_survival(run, kind)) for n, run in enumerate(runs)])
        for kind, title in kinds
    ]
    return _survival_figure(found, "updates of the probe", "share of tasks not yet back")


def _probe_survival(run: Run, kind: str) -> Survival | None:
    table: Mapping[str, Any] | None = run.probe["survival"][kind] if run.probe else None
    return survival_of(table) if table else None


def _panels(count: int) -> tuple[Figure, Sequence[Axes]]:
    columns = min(count, 3 if count <= 6 else 4)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(max(5.0, 3.1 * columns), 2.0 * rows + 0.8), layout="constrained")
    panels = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for panel in panels[count:]:
        panel.set_axis_off()
    return figure, panels


def _finish(figure: Figure, first: Axes, x: str, y: str, what: str) -> None:
    if what == "losses":
        _loss_axis(first)
    elif y == "success rate":
        first.set_ylim(-0.03, 1.03)
    figure.supxlabel(x, fontsize=10)
    figure.supylabel(y, fontsize=10)
    _legend_above(figure, figure.axes)


def _loss_axis(axes: Axes) -> None:
    """A logarithmic axis with plain numbers."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")


def _legend_above(figure: Figure, panels: Sequence[Axes]) -> None:
    """One legend for all panels: each run once, wherever it is drawn."""
    entries = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(list(entries.values()), list(entries), loc="outside upper center", ncols=min(4, len(entries)))
