"""What a report is made of: which tables and which pictures the runs have data for."""

from __future__ import annotations

import re
from collections.abc import Sequence

from matplotlib.figure import Figure

from trcl_policy.report import curves, plots
from trcl_policy.report.groups import averaged, group_runs, methods_table, paired_table
from trcl_policy.report.relearning import dips_table, losses_table, probe_table, times_table, transfer_table
from trcl_policy.report.replay import replay_figure, replay_table
from trcl_policy.report.runs import Run
from trcl_policy.report.tables import Table, cost_table, final_table, recovery_table, score_name, summary_table

SURVIVAL = "Kaplan-Meier curves with 95 % bands; a bar at the end of a curve: some were never seen back"


def shown_runs(runs: Sequence[Run]) -> list[Run]:
    """Return one run a method: those that differ in their seed alone as their mean."""
    return [averaged(group) for group in group_runs(runs)]


def tables_by_section(runs: Sequence[Run]) -> dict[str, list[Table]]:
    """Return the tables that have rows, under the heading they belong to."""
    shown = shown_runs(runs)
    sections = {
        "Result": [*seed_tables(runs)[0], summary_table(runs)],
        "Task by task": [final_table(shown), transfer_table(shown)],
        "Forgetting and coming back": [
            dips_table(shown),
            times_table(shown),
            losses_table(shown),
            recovery_table(runs),
        ],
        "Probe": [probe_table(shown)],
        "Replay": [replay_table(runs)],
        "Cost": [cost_table(shown)],
    }
    return {name: [table for table in tables if table.rows] for name, tables in sections.items()}


def seed_tables(runs: Sequence[Run]) -> tuple[list[Table], str]:
    """Return the tables over seeds, none without several seeds, and why methods can't be paired, empty if they can."""
    groups = group_runs(runs)
    if all(len(group.runs) == 1 for group in groups):
        return [], ""
    try:
        return [methods_table(groups), paired_table(groups)], ""
    except ValueError as error:
        return [methods_table(groups)], f"No comparison seed by seed: {error}."


def draw_figures(runs: Sequence[Run]) -> dict[str, tuple[str, Figure]]:
    """Return the plots that the runs have data for: file name -> (what its title leaves unsaid, figure)."""
    replay = replay_figure(runs)
    runs = shown_runs(runs)
    score = score_name(runs)
    success = curves.sequence_curves(runs, "curves", "scores", "success rate" if score == "success" else score)
    near = "90 % of" if score == "success" else "1 / 0.9 times"
    losses = curves.sequence_curves(runs, "loss_curves", "losses", "held-out loss")
    found = {
        "average": ("", plots.average_curve(runs)),
        "tasks": ("Each task over the sequence, with 95 % bands; dashed: where it is learned", plots.task_curves(runs)),
        **{f"matrix-{slug(run.label)}": (_matrix_caption(run), plots.score_matrix(run)) for run in runs},
        "retention": (f"{score.capitalize()} of each task over the sequence, inside the tasks too", success),
        "reconvergence": ("", curves.reconvergence_curves(runs)),
        "survival": (f"When old tasks are back at {near} their first score. {SURVIVAL}", curves.survival_curves(runs)),
        "losses": ("Held-out loss of each task over the sequence", losses),
        "probe": (
            "Old tasks trained again from the last weights; dotted: right after learning",
            curves.probe_curves(runs),
        ),
        "probe-survival": (f"When probed tasks are back, and stay so. {SURVIVAL}", curves.probe_survival_curves(runs)),
        "replay": ("", replay),
        "loss": ("", plots.loss_curves(runs)),
        "multiplier": ("", plots.multiplier_curves(runs)),
    }
    figures = {name: (what, figure) for name, (what, figure) in found.items() if figure is not None}
    for _, figure in figures.values():
        plots.settle(figure)
    return figures


def _matrix_caption(run: Run) -> str:
    return f"{run.label}: {run.score} of each task (columns) after each step of the sequence (rows)"


def slug(label: str) -> str:
    """Return a label as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-") or "run"
