"""Figures of the comparison from stored results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import matplotlib as mpl
from matplotlib.figure import Figure
from results_tables import best_form
from stored import Results, as_run

from trcl_policy.report import curves, plots
from trcl_policy.report.groups import Group, averaged
from trcl_policy.report.runs import Run

SHOWN = (
    "finetune",
    "ewc",
    "ewc_rank1",
    "ewc_kfac",
    "replay_plain",
    "replay",
    "replay_kept",
    "replay_dark",
    "er",
    "ftml",
    "vrmcl",
    "trcl_rank1",
    "trcl",
)
SHOWN += ("joint",)
"""Methods that are drawn; with the best trust-region form, where it is another."""
EARLY = 3


def drawn_runs(found: Mapping[str, Results]) -> list[Run]:
    """The methods to draw, each as the mean over its seeds."""
    form = best_form(found)
    names = [*SHOWN[:-1], *([form] if form not in (*SHOWN, None) else []), SHOWN[-1]]
    return [mean_run(name, found[name]) for name in names if name in found]


def mean_run(method: str, seeds: Results) -> Run:
    """One method as one run; seeds may have learned different tasks, whose places count then."""
    runs = tuple(as_run(method, seed, document) for seed, document in seeds.items())
    return averaged(Group(method, runs))


def figures(found: Mapping[str, Results]) -> dict[str, Figure]:
    """The figures that the results have data for, by name."""
    runs = drawn_runs(found)
    same = len({tuple(d["metrics"]["tasks"]) for seeds in found.values() for d in seeds.values()}) == 1
    probed = [early_probe(run) for run in runs]
    made = {"average": plots.average_curve(runs) if runs else None}
    if same and runs:
        made |= {
            "tasks": plots.task_curves(runs),
            "reconvergence": early_task_curves(runs),
            "probe": curves.probe_curves(probed),
            "probe-survival": curves.probe_survival_curves(runs),
        }
    return {name: figure for name, figure in made.items() if figure is not None}


def early_probe(run: Run) -> Run:
    """The run with the probe of its first tasks alone."""
    if not run.probe:
        return run
    first = list(dict.fromkeys(run.metrics["tasks"]))[:EARLY]
    return replace(run, probe={**run.probe, "tasks": {k: v for k, v in run.probe["tasks"].items() if k in first}})


def early_task_curves(runs: Sequence[Run], count: int = EARLY) -> Figure | None:
    """Share of its first score that each early task has after the switch to a later one, mean over the later tasks.

    One panel a task, one curve a method; None where nothing was measured inside the tasks.
    """
    tables = {(task, number): after_switch(run, task) for task in range(count) for number, run in enumerate(runs)}
    tasks = [task for task in range(count) if any(tables[task, number] for number in range(len(runs)))]
    if not tasks:
        return None
    with mpl.rc_context(plots.STYLE):
        figure = Figure(figsize=(max(5.0, 3.1 * len(tasks)), 3.2), layout="constrained")
        panels = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
        for panel, task in zip(panels, tasks, strict=True):
            for number, run in enumerate(runs):
                if table := tables[task, number]:
                    look = {**plots.style_of(number), "markersize": 2.5, "linewidth": 1.3}
                    panel.plot(list(table), list(table.values()), label=run.label, **look)
            panel.axhline(0.9, color=plots.INK, linewidth=0.8, linestyle=(0, (2, 2)), alpha=0.6)
            panel.set_xscale("symlog", linthresh=1)
            panel.set_xlim(-0.2, 1.3 * max(update for number in range(len(runs)) for update in tables[task, number]))
            panel.set_title(runs[0].tasks[task], fontsize=9)
        panels[0].set_ylabel("share of the first score")
        figure.supxlabel("updates since the switch to a later task (dashed: 90 %)", fontsize=10)
        handles = {label: h for p in panels for h, label in zip(*p.get_legend_handles_labels(), strict=True)}
        figure.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=min(5, len(handles)))
    return figure


def after_switch(run: Run, task: int) -> dict[int, float]:
    """Share of the first score of a task by update since the switch, mean over the later tasks that were watched."""
    names = run.metrics["tasks"]
    if task >= len(names) or not run.scores[task][task]:
        return {}
    during = (run.metrics.get("curves") or {}).get(names[task], {})
    watched = [during[later] for later in names[task + 1 :] if later in during and len(during[later]["updates"]) > 2]
    if not watched:
        return {}
    shares = [{u: s / run.scores[task][task] for u, s in zip(c["updates"], c["scores"], strict=True)} for c in watched]
    common = sorted(set.intersection(*(set(share) for share in shares)))
    return {update: sum(share[update] for share in shares) / len(shares) for update in common}
