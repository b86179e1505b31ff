"""The picture of ``trcl fisher``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from trcl_policy.report.plots import STYLE, style_of


def spectrum_figure(tasks: Mapping[str, Mapping[str, Mapping[str, Any] | None]]) -> Figure:
    """Share of the trace in the k largest eigenvalues, one panel a task, one curve a range of noise levels."""
    columns = min(len(tasks), 5)
    rows = -(-len(tasks) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.5 + 2.8 * columns, 0.6 + 2.6 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
        for axes in panels[len(tasks) :]:
            axes.set_visible(False)
        for axes, (task, ranges) in zip(panels, tasks.items(), strict=False):
            for number, (name, entry) in enumerate(ranges.items()):
                if entry is not None:
                    shares = entry["top_shares"]
                    axes.plot(list(shares), list(shares.values()), label=f"noise {name}", **style_of(number))
            axes.set_xscale("log", base=2)
            counts = next(list(entry["top_shares"]) for entry in ranges.values() if entry is not None)
            axes.set_xticks(counts, [str(count) for count in counts])
            axes.set_ylim(0, 1)
            axes.set_title(task)
            axes.set_xlabel("eigenvalues k")
        panels[0].set_ylabel("share of the trace")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper")
    return figure
