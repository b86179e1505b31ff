"""Success and scatter of actions by sampler steps, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from trcl_policy.continual.statistics import mean_of_shares_interval
from trcl_policy.report.plots import STYLE, style_of


def acting_figure(documents: Mapping[str, Mapping[str, Any]], looks: int) -> Figure | None:
    """Two panels over sampler steps: average success with its 95 % interval over episodes, and how far actions scatter.

    Args:
        documents: by name, what scripts/measure_acting.py keeps of a run.
        looks: actions executed before the policy looks again.
    """
    if not documents:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 3.2), layout="constrained")
        success, scatter = figure.subplots(1, 2)
        for number, (name, document) in enumerate(documents.items()):
            style = {"color": style_of(number)["color"], "marker": "o", "label": name}
            cells = {c["acting_steps"]: c["wins"] for c in document["cells"] if c["n_action_steps"] == looks}
            steps = sorted(cells)
            shares = [share_of(list(cells[n].values()), document["episodes"]) for n in steps]
            means, below, above = zip(*shares, strict=True)
            success.errorbar(steps, means, yerr=(below, above), capsize=3, **style)
            scatter.plot(steps, [document["scatter"][str(n)] for n in steps], **style)
        for panel, title in ((success, "average success"), (scatter, "actions scatter by (of the largest action)")):
            panel.set_xscale("log", base=2)
            panel.set_xticks(steps, [str(n) for n in steps])
            panel.set_xlabel("sampler steps")
            panel.set_title(title, fontsize=10)
        scatter.set_ylim(bottom=0)
        success.legend(loc="lower left", fontsize=9)
    return figure


def share_of(wins: Sequence[int], episodes: int) -> tuple[float, float, float]:
    """Mean share over tasks, and how far its interval reaches below and above."""
    low, high = mean_of_shares_interval([(count, episodes) for count in wins])
    mean = sum(wins) / len(wins) / episodes
    return mean, mean - low, high - mean
