"""The comparison on Continual World and Meta-World: results/BENCHMARK/METHOD/seed-N.json.

.venv/bin/python scripts/reproduce_cw10.py --benchmark quick                     # minutes
.venv/bin/python scripts/reproduce_cw10.py --benchmark cw10-small --dry-run      # what would run, and how long
.venv/bin/python scripts/reproduce_cw10.py --benchmark cw10-small --methods replay,trcl --seeds 5
.venv/bin/python scripts/reproduce_cw10.py --benchmark cw10-small --setting dense --methods replay,trcl,ftml --seeds 1
.venv/bin/python scripts/reproduce_cw10.py --benchmark mt50 --launcher ray --jobs 50

Finished runs are skipped, stopped ones go on, so the same command may be killed and given again at any time. Each
method runs with the knobs that scripts/tune_methods.py chose for it (results/tuning/chosen.json), or that were set
beforehand (FIXED in benchmarks.py). Afterwards:
.venv/bin/python scripts/make_results.py
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml
from benchmarks import BENCHMARKS, SETTINGS, Benchmark, make_jobs, read_chosen, settled, stored_forecast, target
from job_queue import run_jobs, show_plan, tell
from jobs import Job, trcl
from launchers import LAUNCHERS, make_launcher
from stored import RESULTS, difference, export

from trcl_envs.catalog import resolve_sequence
from trcl_policy.config import ConfigError, RunConfig, load_config
from trcl_policy.continual.methods import METHODS
from trcl_policy.files import read_json


def main(words: Sequence[str] | None = None) -> int:
    """Collect, train what is missing, probe, store; returns the exit status."""
    parser = make_parser()
    options = parser.parse_args(words)
    benchmark = BENCHMARKS[options.benchmark]
    try:
        methods = None if options.methods is None else chosen_methods(options.methods)
        jobs = make_jobs(
            benchmark,
            options.setting,
            methods,
            options.seeds,
            options.runs,
            {} if options.untuned else settled(read_chosen()),
            options.settings,
            not options.no_probe,
        )
        wanted = {job.folder: configuration(job) for job in jobs}
        launcher = make_launcher("local" if options.dry_run else options.launcher, options.jobs, options.gpus)
        open_jobs = missing(jobs, wanted, benchmark, options.setting, options.results)
    except (ConfigError, ValueError) as error:
        print(f"reproduce_cw10: {error}", file=sys.stderr)
        return 2
    forecast = stored_forecast(benchmark, options.setting, options.results)
    if options.dry_run:
        stored = len(jobs) - len(open_jobs)
        print(f"{options.benchmark}, {options.setting}: {len(jobs)} runs, {stored} of them stored")
        show_plan(open_jobs, forecast, launcher.slots)
        return 0
    if open_jobs:
        collect(benchmark, wanted[open_jobs[0].folder], any(word.startswith("tasks=") for word in options.settings))
    return run_jobs(
        open_jobs,
        launcher,
        forecast,
        when_done=lambda job: export(job.folder, target(options.results, benchmark, options.setting, job)),
        keep_going=True,
        quiet=True,
    )


def make_parser() -> argparse.ArgumentParser:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark", choices=tuple(BENCHMARKS), default="quick")
    parser.add_argument("--setting", choices=tuple(SETTINGS), default="plain", help="a variant of the benchmark")
    parser.add_argument("--methods", help="names joined by commas, or 'all' (default: those of the benchmark)")
    parser.add_argument("--seeds", type=positive, help="seeds 0 .. N-1 (default: those of the benchmark)")
    parser.add_argument("--jobs", type=positive, help="runs at a time (default: one a core)")
    parser.add_argument("--launcher", choices=LAUNCHERS, default="local", help="local cores or a Ray cluster")
    parser.add_argument("--gpus", type=float, default=0.0, help="GPUs a run takes of a Ray cluster, such as .5")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder for the runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the stored results")
    parser.add_argument("--untuned", action="store_true", help="all knobs at their defaults")
    parser.add_argument("--no-probe", action="store_true", help="leave out the probe recovery after each run")
    parser.add_argument("--dry-run", action="store_true", help="only list what would run and about how long")
    parser.add_argument("settings", nargs="*", help="for all runs, such as training.steps=100; use --results with it")
    return parser


def positive(word: str) -> int:
    """A whole number of at least 1."""
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be >= 1, got {number}")
    return number


def chosen_methods(spelled: str) -> tuple[str, ...]:
    """The methods of a list joined by commas.

    Raises:
        ValueError: one is not in the table.
    """
    names = tuple(METHODS) if spelled == "all" else tuple(name.strip() for name in spelled.split(","))
    if unknown := [name for name in names if name not in METHODS]:
        raise ValueError(f"methods must be among {', '.join(METHODS)}, got {', '.join(unknown)}")
    return names


def configuration(job: Job) -> RunConfig:
    """What a job's run will be configured as; raises ConfigError where a setting can't be used."""
    pairs = [word.partition("=") for word in job.settings]
    return load_config(job.config, {key: yaml.safe_load(value) for key, _, value in pairs})


def missing(
    jobs: Sequence[Job], wanted: dict[Path, RunConfig], benchmark: Benchmark, setting: str, results: Path
) -> list[Job]:
    """The jobs without a stored result.

    Raises:
        ValueError: a result or a begun run has other settings than it would get now.
    """
    rest = []
    for job in jobs:
        path = target(results, benchmark, setting, job)
        begun = job.folder / "config.yaml"
        if path.exists():
            _check_same(read_json(path)["config"], wanted[job.folder], path)
        else:
            if begun.exists():
                _check_same(yaml.safe_load(begun.read_text()), wanted[job.folder], job.folder)
            rest.append(job)
    return rest


def _check_same(found: dict[str, object], wanted: RunConfig, where: Path) -> None:
    if other := difference(found, wanted):
        raise ValueError(f"{where} was made with other settings: {other}; delete it, or give the same settings")


def collect(benchmark: Benchmark, config: RunConfig, own_tasks: bool) -> None:
    """Bring the demonstrations into the store, of the benchmark's tasks or the run's own; what is there stays."""
    tasks = ",".join(resolve_sequence(config.tasks)) if own_tasks else benchmark.tasks
    tell(f"demonstrations: {config.data.store}")
    amount = ("--episodes", config.data.episodes, "--noise", benchmark.noise)
    trcl("collect", "--tasks", tasks, *amount, "--out", config.data.store)


if __name__ == "__main__":
    sys.exit(main())
