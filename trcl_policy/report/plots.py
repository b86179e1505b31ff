"""Pictures of results, drawn with matplotlib without a screen; colours that colour-blind readers can tell apart.

Every function returns a Figure that the caller saves with :func:`save_figure` or turns into page text with
:func:`themed_svg`. Figures are made without pyplot, so nothing global changes and nothing has to be closed.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trcl_policy.files import replacing
from trcl_policy.report.runs import Run, all_tasks

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#7F7F7F")  # Okabe and Ito
MARKERS = "osD^vPX*"
INK = "#24292f"
STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "svg.hashsalt": "trcl",
    "svg.fonttype": "path",
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), INK
    ),
}


def style_of(number: int) -> dict[str, Any]:
    """Return colour, marker and line style of the run with this number; eight differ in colour, all in style."""
    lines = ("-", "--", ":", "-.")
    return {
        "color": PALETTE[number % len(PALETTE)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": lines[number // len(PALETTE) % len(lines)],
        "markersize": 4.5,
        "linewidth": 1.8,
    }


def average_curve(runs: Sequence[Run]) -> Figure:
    """Mean score over the tasks seen so far, after each task, one curve a run; a joint run is a single point."""
    with mpl.rc_context(STYLE):
        figure, axes = _figure(7.2, 3.8)
        for number, run in enumerate(runs):
            points = [(k + 1, value) for k, value in enumerate(run.seen_average()) if value is not None]
            look = style_of(number)
            if len(points) == 1:
                axes.axhline(points[0][1], color=look["color"], linewidth=1, linestyle=(0, (1, 2)))
            axes.plot(*_columns(points), label=run.label, **look)
        _score_axis(axes, runs)
        axes.set_xlabel("tasks learned")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title("Average over the tasks seen so far")
        _legend_beside(axes)
    return figure


def task_curves(runs: Sequence[Run]) -> Figure:
    """Score of each task over the sequence, one panel a task, one curve a run, with 95 % bands.

    A vertical line marks where the task is learned in the first run that has it.
    """
    tasks = all_tasks(runs)
    columns = min(len(tasks), 5 if len(tasks) > 4 else len(tasks))
    rows = math.ceil(len(tasks) / columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(max(5.0, 2.15 * columns), 1.9 * rows + 0.7), layout="constrained")
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for panel, task in zip(panels, tasks, strict=False):
            _task_panel(panel, runs, task)
        for panel in panels[len(tasks) :]:
            panel.set_axis_off()
        _score_axis(panels[0], runs, label=False)
        figure.supxlabel("tasks learned", fontsize=10)
        figure.supylabel(_score_label(runs), fontsize=10)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=min(4, len(runs)))
    return figure


def _task_panel(panel: Axes, runs: Sequence[Run], task: str) -> None:
    for number, run in enumerate(runs):
        column = run.tasks.index(task) if task in run.tasks else 0
        rows = [k for k, row in enumerate(run.scores) if task in run.tasks and row[column] is not None]
        look = style_of(number)
        panel.plot([k + 1 for k in rows], [run.scores[k][column] for k in rows], label=run.label, **look)
        banded = [k for k in rows if run.intervals[k][column] and None not in run.intervals[k][column]]
        bounds = np.array([run.intervals[k][column] for k in banded], np.float64).reshape(-1, 2)
        if len(banded) == 1:
            panel.vlines(banded[0] + 1, *bounds[0], color=look["color"], alpha=0.45, linewidth=3)
        panel.fill_between([k + 1 for k in banded], *bounds.T, color=look["color"], alpha=0.15, linewidth=0)
    learned = next(run.tasks.index(task) for run in runs if task in run.tasks) + 1
    panel.axvline(learned, color=INK, linewidth=0.8, linestyle=(0, (2, 2)), alpha=0.6)
    panel.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    panel.set_title(task, fontsize=9)


def score_matrix(run: Run) -> Figure:
    """Heat map of one run's score matrix; hatched where nothing was measured."""
    size = len(run.tasks)
    values = np.array([[np.nan if entry is None else entry for entry in row] for row in run.scores], float)
    side = min(9.5, max(3.0, 0.46 * size + 1.6))
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure, axes = _figure(side + 1.0, side)
        axes.set_facecolor("#88888822")
        top = 1.0 if run.is_success or np.isnan(values).all() else float(np.nanmax(values)) or 1.0
        colours = mpl.colormaps["cividis" if run.is_success else "cividis_r"]
        mesh = axes.pcolormesh(np.ma.masked_invalid(values), cmap=colours, vmin=0, vmax=top, edgecolors="none")
        for (row, column), value in np.ndenumerate(values):
            _matrix_cell(axes, row, column, value, colours(value / top), size)
        axes.set_xticks(np.arange(size) + 0.5, run.tasks, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(np.arange(size) + 0.5, [f"{k + 1}. {task}" for k, task in enumerate(run.tasks)])
        axes.tick_params(length=0, labelsize=9 if size <= 10 else 7)
        axes.invert_yaxis()
        axes.spines[:].set_visible(False)
        axes.set_xlabel(f"{run.score} on")
        axes.set_ylabel("after learning")
        axes.set_title(run.label)
        figure.colorbar(mesh, ax=axes, fraction=0.045, pad=0.02).outline.set_visible(False)
    return figure


def _matrix_cell(axes: Axes, row: int, column: int, value: float, colour: Any, size: int) -> None:
    if np.isnan(value):
        return
    dark = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] < 0.5
    text = f"{value:.2f}" if value < 10 else f"{value:.0f}"
    font = 8 if size <= 10 else 5
    axes.text(
        column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=font, color="white" if dark else "black"
    )


def loss_curves(runs: Sequence[Run]) -> Figure | None:
    """Loss on the task being learned over all updates, smoothed, one curve a run; None when no log has a loss."""
    series = _logged_of(runs, "loss_new")
    if not series:
        return None
    with mpl.rc_context(STYLE):
        figure, axes = _figure(7.2, 3.4)
        _over_updates(axes, runs, series)
        if all((values > 0).all() for _, values, _ in series.values()):
            axes.set_yscale("log")
        axes.set_xlabel("updates (dashed: next task)")
        axes.set_ylabel("loss on the new task")
        axes.set_title("Loss on the task being learned")
        _legend_beside(axes)
    return figure


def multiplier_curves(runs: Sequence[Run]) -> Figure | None:
    """Multiplier of what holds the past, and the old loss as a share of its target; None when no method follows one."""
    series, shares = _logged_of(runs, "multiplier"), _logged_of(runs, "share_of_target")
    if not shares:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 4.8), layout="constrained")
        upper, lower = figure.subplots(2, sharex=True)
        _over_updates(upper, runs, {number: series[number] for number in shares})
        upper.set_yscale("log")
        upper.set_ylabel("multiplier")
        upper.set_title("What holds the past, as strong as its target asks")
        _over_updates(lower, runs, shares)
        lower.axhline(1.0, color=INK, linewidth=0.9)
        lower.set_ylabel("old loss / target")
        lower.set_xlabel("updates (dashed: next task)")
        _legend_beside(upper)
    return figure


Series = tuple[np.ndarray, np.ndarray, list[int]]


def _over_updates(axes: Axes, runs: Sequence[Run], series: Mapping[int, Series]) -> None:
    """Draw one smoothed curve a run, by its number, and where the tasks of the first change."""
    for number, (steps, values, _) in series.items():
        look = {**style_of(number), "marker": "", "linewidth": 1.4}
        axes.plot(steps, _smooth(values), label=runs[number].label, **look)
    for switch in next(iter(series.values()))[2]:
        axes.axvline(switch, color=INK, linewidth=0.7, linestyle=(0, (2, 2)), alpha=0.5)


def _logged_of(runs: Sequence[Run], name: str) -> dict[int, Series]:
    """Return what ``_logged`` finds, by the number of the run, of those that have any."""
    found = {number: _logged(run.log, name) for number, run in enumerate(runs)}
    return {number: series for number, series in found.items() if len(series[0])}


def _logged(log: Sequence[Mapping[str, Any]], name: str) -> Series:
    """Return updates over the whole sequence, the number logged at each, and the updates at which tasks change."""
    found: list[tuple[float, float]] = []
    switches, offset, at, before = [], 0, 0, None
    for record in (record for record in log if "step" in record):
        step = int(record["step"])
        if before is not None and step < int(before["step"]):  # steps counted within each task
            offset = at
        if before is not None and record.get("task") != before.get("task"):
            switches.append(at)
        at, before = step + offset, record
        if isinstance(value := record.get(name), (int, float)):
            found.append((at, float(value)))
    steps, values = _columns(found)
    return np.array(steps), np.array(values, float), switches


def _smooth(values: np.ndarray) -> np.ndarray:
    """Return a running mean over 2 % of the points."""
    width = max(1, len(values) // 50)
    padded = np.pad(values, (width // 2, width - 1 - width // 2), mode="edge")
    return np.convolve(padded, np.full(width, 1 / width), mode="valid")


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _score_label(runs: Sequence[Run]) -> str:
    return "success rate" if all(run.is_success for run in runs) else " / ".join(dict.fromkeys(r.score for r in runs))


def _score_axis(axes: Axes, runs: Sequence[Run], label: bool = True) -> None:
    if all(run.is_success for run in runs):
        axes.set_ylim(-0.03, 1.03)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    if label:
        axes.set_ylabel(_score_label(runs))


def _legend_beside(axes: Axes) -> None:
    """A legend right of the axes; the figure grows with it, or nothing would be left for the axes."""
    entries = axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0).get_texts()
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.set_figheight(max(figure.get_figheight(), 0.23 * len(entries) + 0.4))


def settle(figure: Figure) -> None:
    """Lay a figure out once and for all, instead of at every drawing (the slow part with many panels)."""
    with mpl.rc_context(STYLE):
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


def save_figure(figure: Figure, path: Path, note: str | None = None) -> Path:
    """Write a figure as ``.png`` (160 dots per inch, white ground) or ``.svg``, atomically; raises FileError.

    ``note`` goes into the file as its description.
    """
    metadata: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    metadata |= {} if note is None else {"Description": note}
    with mpl.rc_context(STYLE), replacing(path) as beside:
        figure.savefig(beside, format=path.suffix[1:], dpi=160, facecolor="white", metadata=metadata)
    return path


def themed_svg(figure: Figure, title: str) -> str:
    """Return a figure as an SVG element that takes the colour of the page's text, so it reads on light and dark."""
    buffer = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Title": title})
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor").replace("<svg ", '<svg role="img" ', 1)
