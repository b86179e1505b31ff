"""The paper's claims as a picture: what each form gains over its rivals, seed by seed, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from claims_table import BRIEF, COPIES, PUBLISHED_CLAIMS, published_difference, with_copies
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from results_tables import Measure, paired
from stored import Results

from trcl_policy.report.plots import INK, STYLE, style_of

CLOSE = ("replay", "er", "ftml", "vrmcl", COPIES, "joint")
"""Rivals that are near enough for one axis; fine-tuning and the rank-1 EWC are tens of points away."""
PANELS = (
    ("ends better than …", "final success, points"),
    ("forgets less than …", "forgetting, points"),
    ("has old tasks back sooner than …", "updates until an old task is back"),
)
"""Title and axis of each of the paper's claims."""
NORMAL = 1.96
"""Standard errors to either side that hold 95 % of a normal distribution, for published means."""
SPREAD = 0.13
"""Rows between two forms of a rival, of which there is one a row."""


def claims_figure(found: Mapping[str, Results], published: Mapping[str, Any], domain: str) -> Figure | None:
    """One panel a claim, one row a rival, one mark a form: the mean difference and its 95 % t interval over seeds.

    A hollow diamond is the published difference with 1.96 of its standard errors. None where no form met a close rival.

    Args:
        found: stored results by method, scores success rates.
        published: ``final`` of published.json.
        domain: column of the published figures.
    """
    found = with_copies(found)
    forms = [form for form in BRIEF if form in found]
    rivals = [rival for rival in CLOSE if rival in found]
    if not forms or not rivals:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 1.2 + 0.62 * len(rivals)), layout="constrained")
        panels = figure.subplots(1, len(PUBLISHED_CLAIMS), sharey=True)
        for panel, (title, words), claim in zip(panels, PANELS, PUBLISHED_CLAIMS, strict=True):
            _, measure, place, smaller = claim
            scale = 1.0 if place is None else 100.0
            _panel(panel, found, forms, rivals, measure, scale)
            for row, rival in enumerate(rivals):
                pair = published_difference(published, rival, domain, place)
                if pair is not None:
                    lowest = row + SPREAD * len(forms) / 2  # below the forms
                    _mark(panel, lowest, pair[0], NORMAL * pair[1], "published", color=INK, marker="D")
            panel.set_title(title, fontsize=10)
            panel.set_xlabel(f"{words}\n{'← better' if smaller else 'better →'}", fontsize=9)
        panels[0].set_yticks(range(len(rivals)), rivals)
        panels[0].set_ylim(len(rivals) - 0.45, -0.55)
        handles = {
            label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles))
    return figure


def _panel(
    panel: Axes,
    found: Mapping[str, Results],
    forms: Sequence[str],
    rivals: Sequence[str],
    measure: Measure,
    scale: float,
) -> None:
    """The differences of all forms from all rivals, on one measure."""
    panel.axvline(0, color=INK, linewidth=0.8)
    panel.grid(visible=False, axis="y")
    panel.tick_params(axis="y", length=0)
    for number, form in enumerate(forms):
        look = style_of(number)
        for row, rival in enumerate(rivals):
            pair = paired(found, form, rival, measure, scale)
            if pair is not None and pair.interval is not None and form != rival:
                offset = SPREAD * (number - len(forms) / 2)
                half = pair.interval[1] - pair.mean
                _mark(panel, row + offset, pair.mean, half, form, color=look["color"], marker=look["marker"])


def _mark(panel: Axes, row: float, mean: float, half: float, label: str, color: str, marker: str) -> None:
    """A difference with its interval, hollow for what was published."""
    face = "none" if label == "published" else color
    panel.errorbar(
        mean,
        row,
        xerr=half,
        label=label,
        color=color,
        marker=marker,
        markerfacecolor=face,
        markersize=4.5,
        linewidth=1.4,
    )
