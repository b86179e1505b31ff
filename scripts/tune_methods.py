"""Every method's own knob, tuned with the same number of trials on a sequence that the comparison never uses.

.venv/bin/python scripts/tune_methods.py                        # the compared methods: results/tuning/METHOD.json
.venv/bin/python scripts/tune_methods.py --methods ewc,trcl --seeds 2
.venv/bin/python scripts/tune_methods.py --dry-run              # what would run, and how long
.venv/bin/python scripts/tune_methods.py --table                # only choose anew and print, from what is stored

The four tasks are none of CW10's, and each gets the 3,000 updates that a task of cw10-small gets, with its network,
batches and windows: with fewer, a weight is chosen that is too stiff for long training (docs/experiments.md). A method
gets five trials. Chosen is the one with the lowest held-out loss of all tasks at the end, among those whose success is
within one standard error of the best: rollouts alone can't tell near trials apart. finetune, joint and alone have no
knob. What is chosen goes to results/tuning/chosen.json, which scripts/reproduce_cw10.py reads.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import FIXED, SLOW
from job_queue import Forecast, run_jobs, show_plan
from jobs import Job, seconds_of, trcl
from knobs import COMPARED, KNOBS
from launchers import LAUNCHERS, make_launcher
from stored import RESULTS, rounded

from trcl_policy.continual.methods import METHODS
from trcl_policy.files import read_json, write_json
from trcl_policy.folder import RunFolder
from trcl_policy.report.tables import Table, number

SEQUENCE = ("coffee-push-v3", "drawer-open-v3", "hand-insert-v3", "door-lock-v3")
CONFIG = "cw10-small"
STORE = "data/tuning-100.zarr"
MINUTES = 3.0


def main(words: Sequence[str] | None = None) -> int:
    """Run what is missing, choose, print; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(COMPARED), help="names joined by commas, or 'all'")
    parser.add_argument("--seeds", type=int, default=1, help="seeds 0 .. N-1 of every trial")
    parser.add_argument("--jobs", type=int, help="runs at a time (default: one a core)")
    parser.add_argument("--launcher", choices=LAUNCHERS, default="local", help="local cores or a Ray cluster")
    parser.add_argument("--runs", type=Path, default=Path("runs/tuning"), help="folder for the runs")
    parser.add_argument("--results", type=Path, default=RESULTS / "tuning", help="folder for the stored trials")
    parser.add_argument("--dry-run", action="store_true", help="only list what would run and about how long")
    parser.add_argument("--table", action="store_true", help="only choose from the stored trials and print them")
    parser.add_argument("settings", nargs="*", help="for all runs, such as training.steps=100; use --results with it")
    options = parser.parse_args(words)
    try:
        methods = chosen_methods(options.methods)
        if options.seeds < 1:
            raise ValueError(f"seeds must be >= 1, got {options.seeds}")
        launcher = make_launcher("local" if options.dry_run else options.launcher, options.jobs)
    except ValueError as error:
        print(f"tune_methods: {error}", file=sys.stderr)
        return 2
    status = 0
    if not options.table:
        jobs = [job for job in make_jobs(options, methods) if not is_stored(options.results, job)]
        forecast = Forecast({}, lambda kind: 60 * MINUTES * (3 if kind.startswith(SLOW) else 1))
        if options.dry_run:
            show_plan(jobs, forecast, launcher.slots)
            return 0
        if jobs:
            trcl(*collection(jobs[0]))
        status = run_jobs(jobs, launcher, forecast, lambda job: keep(options.results, job), keep_going=True, quiet=True)
    write_chosen(options.results)
    print(table(options.results).markdown())
    return status


def chosen_methods(spelled: str) -> tuple[str, ...]:
    """The methods of a list joined by commas.

    Raises:
        ValueError: one has no knob.
    """
    names = tuple(KNOBS) if spelled == "all" else tuple(name.strip() for name in spelled.split(","))
    if unknown := [name for name in names if name not in KNOBS]:
        raise ValueError(f"methods must be among {', '.join(KNOBS)}, got {', '.join(unknown)}")
    return names


def make_jobs(options: argparse.Namespace, methods: Sequence[str]) -> list[Job]:
    """The runs: every trial of every method, seed by seed; what was set beforehand beside the knob is set here, too."""
    common = (f"tasks={json.dumps(list(SEQUENCE))}", f"data.store={STORE}")
    return [
        Job(
            folder=options.runs / method / f"{value:g}" / f"seed-{seed}",
            config=CONFIG,
            settings=(
                *common,
                *(f"{key}={held}" for key, held in FIXED.get(method, {}).items() if key != knob),
                *options.settings,
                f"method.name={method}",
                f"seed={seed}",
                f"{knob}={value}",
            ),
            method=method,
            seed=seed,
            kind=method,
        )
        for seed in range(options.seeds)
        for method in methods
        for knob, values in [KNOBS[method]]
        for value in values
    ]


def collection(job: Job) -> list[object]:
    """The words of ``trcl collect`` for the trials."""
    found = dict(setting.partition("=")[::2] for setting in job.settings)
    tasks = found["tasks"] if found["tasks"][0] != "[" else ",".join(json.loads(found["tasks"]))
    amount = found.get("data.episodes", 100)
    return ["collect", "--tasks", tasks, "--episodes", amount, "--out", found["data.store"]]


def trial_of(job: Job) -> str:
    """The value of the knob, as files and tables call it."""
    return job.folder.parent.name


def is_stored(results: Path, job: Job) -> bool:
    """Whether this trial and seed is in the method's file."""
    path = results / f"{job.method}.json"
    return path.exists() and str(job.seed) in read_json(path)["trials"].get(trial_of(job), {})


def keep(results: Path, job: Job) -> None:
    """Add a finished run to the file of its method."""
    path, folder = results / f"{job.method}.json", RunFolder(job.folder)
    knob = KNOBS[job.method][0]
    before = read_json(path) if path.exists() else {"method": job.method, "knob": knob, "trials": {}}
    metrics, config = folder.metrics(), folder.config()
    assert metrics is not None, "a finished run has measured something"
    losses = [loss for loss in metrics["losses"][-1] if loss is not None]
    entry = {
        "average_final": metrics["average_final"],
        "learned": mean([row[place] for place, row in enumerate(metrics["scores"]) if row[place] is not None] or [0.0]),
        "forgetting_old": metrics["forgetting_old"],
        "loss": mean(losses),
        "seconds": seconds_of(metrics),
    }
    trials = {**before["trials"]}
    trials[trial_of(job)] = {**trials.get(trial_of(job), {}), str(job.seed): rounded(entry)}
    facts = {"tasks": list(metrics["tasks"]), "steps": config.training.steps, "episodes": config.evaluation.episodes}
    ordered = dict(sorted(trials.items(), key=lambda pair: float(pair[0])))
    write_json(path, {**before, **facts, "provenance": folder.provenance(), "trials": ordered})


def best(trials: Mapping[str, Mapping[str, Any]], rollouts: int) -> str:
    """The trial with the lowest held-out loss among those within a standard error of the highest final success.

    Only trials with as many seeds as the most complete one take part.

    Args:
        trials: entries by seed, by value of the knob.
        rollouts: of all tasks together at the end of a run; the standard error is that of a share p of them,
            sqrt(p (1 - p) / n), which is a little too large where tasks differ.
    """
    most = max(map(len, trials.values()))
    whole = {name: list(seeds.values()) for name, seeds in trials.items() if len(seeds) == most}
    finals = {name: average(entries, "average_final") for name, entries in whole.items()}
    top = max(finals.values())
    least = top - math.sqrt(top * (1 - top) / (rollouts * most)) - 1e-9
    near = [name for name, final in finals.items() if final >= least]
    return min(near, key=lambda name: (average(whole[name], "loss"), -finals[name]))


def chosen(found: Mapping[str, Any]) -> str:
    """The value that the stored trials of a method decide for."""
    return best(found["trials"], len(found["tasks"]) * found["episodes"])


def average(entries: Sequence[Mapping[str, float]], key: str) -> float:
    """Mean of one number over the seeds of a trial."""
    return mean([entry[key] for entry in entries])


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean."""
    return sum(values) / len(values)


def stored(results: Path) -> dict[str, dict[str, Any]]:
    """The files of all methods, in the order of the table of methods."""
    return {name: read_json(results / f"{name}.json") for name in METHODS if (results / f"{name}.json").exists()}


def write_chosen(results: Path) -> None:
    """Write chosen.json from the methods that have all their trials."""
    methods = {
        name: {found["knob"]: float(chosen(found))}
        for name, found in stored(results).items()
        if len(found["trials"]) == len(KNOBS[name][1])
    }
    if methods:
        write_json(results / "chosen.json", {"command": "scripts/tune_methods.py", "methods": methods})


def table(results: Path) -> Table:
    """One method a row: what was tried, average final success there, and what was chosen."""
    rows = []
    for name, found in stored(results).items():
        trials = found["trials"]
        finals = {value: average(list(seeds.values()), "average_final") for value, seeds in trials.items()}
        shown = ", ".join(f"{value}: {number(final)}" for value, final in finals.items())
        whole = len(trials) == len(KNOBS[name][1])
        seeds = str(max(map(len, trials.values())))
        rows.append((name, found["knob"].removeprefix("method."), seeds, shown, chosen(found) if whole else "not yet"))
    header = ("method", "knob", "seeds", "average final success by value", "chosen")
    return Table("Knobs, tuned on " + ", ".join(task.removesuffix("-v3") for task in SEQUENCE), header, tuple(rows))


if __name__ == "__main__":
    sys.exit(main())
