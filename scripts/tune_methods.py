"""Every method's own knob, tuned with the same rules on sequences that the comparison never uses.

.venv/bin/python scripts/tune_methods.py                        # the compared methods: results/tuning/METHOD.json
.venv/bin/python scripts/tune_methods.py --methods ewc,trcl --seeds 2
.venv/bin/python scripts/tune_methods.py --dry-run              # what would run, and how long
.venv/bin/python scripts/tune_methods.py --table                # only choose anew and print, from what is stored

No task is one of CW10's, and each gets the 3,000 updates that a task of cw10-small gets, with its network, batches and
windows: with fewer, a weight is chosen that is too stiff for long training (docs/experiments.md). In the first round a
method gets five trials on four tasks. In the second, the trials whose success is within one standard error of the best
learn ten tasks, as many as the comparison has: what replay loses there, four tasks don't show. Where a standard error
leaves several, the one with the lowest held-out loss of all tasks at the end is chosen: rollouts alone can't tell near
trials apart. finetune, joint and alone have no knob. What is chosen goes to results/tuning/chosen.json, which
scripts/reproduce_cw10.py reads.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks import SLOW
from job_queue import Forecast, run_jobs, show_plan
from jobs import Job, trcl
from knobs import COMPARED, KNOBS
from launchers import LAUNCHERS, make_launcher
from stored import RESULTS
from trials import ROUNDS, is_stored, is_whole, keep, near_the_best, stored, table, write_chosen

FOUR = ("coffee-push-v3", "drawer-open-v3", "hand-insert-v3", "door-lock-v3")
SIX = ("plate-slide-v3", "button-press-topdown-v3", "sweep-into-v3", "door-open-v3", "coffee-button-v3", "dial-turn-v3")
SEQUENCES = {"first": FOUR, "second": (*FOUR, *SIX)}
CONFIG = "cw10-small"
STORE = "data/tuning-100.zarr"
MINUTES = {"first": 3.0, "second": 10.0}
"""About what a trial takes on one core."""


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
    if options.table:
        return finish(options.results)
    for name in ROUNDS:
        jobs = [job for job in make_jobs(options, methods, name) if not is_stored(options.results, job, name)]
        forecast = Forecast({}, partial(rough_seconds, name))
        if options.dry_run:
            print(f"{name} round")
            show_plan(jobs, forecast, launcher.slots)
        elif jobs:
            trcl(*collection(jobs[0]))
            done = partial(keep, options.results, name=name)
            if status := run_jobs(jobs, launcher, forecast, done, keep_going=True, quiet=True):
                return status
    return 0 if options.dry_run else finish(options.results)


def rough_seconds(name: str, kind: str) -> float:
    """About how long a trial of a method takes in a round."""
    return 60 * MINUTES[name] * (3 if kind.startswith(SLOW) else 1)


def finish(results: Path) -> int:
    """Choose from what is stored and print it; returns the exit status."""
    write_chosen(results)
    print(table(results).markdown())
    return 0


def chosen_methods(spelled: str) -> tuple[str, ...]:
    """The methods of a list joined by commas.

    Raises:
        ValueError: one has no knob.
    """
    names = tuple(KNOBS) if spelled == "all" else tuple(name.strip() for name in spelled.split(","))
    if unknown := [name for name in names if name not in KNOBS]:
        raise ValueError(f"methods must be among {', '.join(KNOBS)}, got {', '.join(unknown)}")
    return names


def make_jobs(options: argparse.Namespace, methods: Sequence[str], name: str) -> list[Job]:
    """The runs of a round, seed by seed: the second has none for a method that the first has decided or not ended.

    Settings that name tasks of their own are one round on these.
    """
    own = any(setting.startswith("tasks=") for setting in options.settings)
    if name == "second" and own:
        return []
    common = (f"tasks={json.dumps(list(SEQUENCES[name]))}", f"data.store={STORE}")
    runs = options.runs if name == "first" else options.runs.with_name(f"{options.runs.name}-{name}")
    return [
        Job(
            folder=runs / method / f"{value:g}" / f"seed-{seed}",
            config=CONFIG,
            settings=(*common, *options.settings, f"method.name={method}", f"seed={seed}", f"{knob}={value}"),
            method=method,
            seed=seed,
            kind=method,
        )
        for seed in range(options.seeds)
        for method in methods
        for knob, values in [KNOBS[method]]
        for value in values
        if name == "first" or f"{value:g}" in finalists(options.results, method)
    ]


def finalists(results: Path, method: str) -> list[str]:
    """The trials between which the second round has to decide."""
    found = stored(results).get(method)
    near = near_the_best(found) if found is not None and is_whole(found) else []
    return near if len(near) > 1 else []


def collection(job: Job) -> list[object]:
    """The words of ``trcl collect`` for the trials."""
    found = dict(setting.partition("=")[::2] for setting in job.settings)
    tasks = found["tasks"] if found["tasks"][0] != "[" else ",".join(json.loads(found["tasks"]))
    amount = found.get("data.episodes", 100)
    return ["collect", "--tasks", tasks, "--episodes", amount, "--out", found["data.store"]]


if __name__ == "__main__":
    sys.exit(main())
