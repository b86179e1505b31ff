"""The pictures of ``trcl fisher``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from trcl_policy.report.plots import STYLE, style_of

Tasks = Mapping[str, Mapping[str, Mapping[str, Any] | None]]
"""Entries of spectrum.Spectrum by range of noise levels, by task."""


def spectrum_figure(tasks: Tasks) -> Figure:
    """Share of the trace in the k largest eigenvalues, one panel a task, one curve a range of noise levels."""
    return _panels(tasks, "top_shares", "eigenvalues k", "share of the trace")


def convergence_figure(tasks: Tasks) -> Figure:
    """Cosine between the diagonals from two disjoint sets of samples, by the size of the sets."""
    return _panels(tasks, "convergence", "samples in each of two sets", "cosine of their diagonals")


def _panels(tasks: Tasks, key: str, x_label: str, y_label: str) -> Figure:
    columns = min(len(tasks), 5)
    rows = -(-len(tasks) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.5 + 2.8 * columns, 0.6 + 2.6 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
        for axes in panels[len(tasks) :]:
            axes.set_visible(False)
        for axes, (task, ranges) in zip(panels, tasks.items(), strict=False):
            _curves(axes, ranges, key)
            axes.set_title(task)
            axes.set_xlabel(x_label)
        panels[0].set_ylabel(y_label)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper")
    return figure


def _curves(axes: Any, ranges: Mapping[str, Mapping[str, Any] | None], key: str) -> None:
    places: set[int] = set()
    for number, (name, entry) in enumerate(ranges.items()):
        if entry is not None:
            curve = {int(place): value for place, value in entry[key].items()}
            axes.plot(list(curve), list(curve.values()), label=f"noise {name}", **style_of(number))
            places |= set(curve) if number == 0 else set()
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(places), [str(place) for place in sorted(places)])
    axes.set_ylim(0, 1)
