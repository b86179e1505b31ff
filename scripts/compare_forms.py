"""Forms of the trust region and of replay, side by side in a few cells: results/forms/CELL.json and docs/forms.md.

.venv/bin/python scripts/compare_forms.py --dry-run         # the runs, and about how long they take
.venv/bin/python scripts/compare_forms.py                   # run what is missing, fill docs/forms.md
.venv/bin/python scripts/compare_forms.py --seeds 1 --forms "replay; trcl_diag-10"
.venv/bin/python scripts/compare_forms.py --page-only       # only docs/forms.md, from the stored runs
.venv/bin/python scripts/compare_forms.py --check           # status 1 where the page is not that of the stored runs

A form is a method with its knobs. All forms of a cell (see scripts/map_trust_region.py) learn from the same seeds and
are paired with distilled replay. The same command goes on after a stop.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from job_queue import Forecast, run_jobs, show_plan
from jobs import Job, trcl
from launchers import make_launcher
from map_page import MEASURES, NOTHING, TITLES, shown
from map_trust_region import TASKS, Cell, cell_of, measures
from pages import complaints, write_page
from stored import RESULTS, rounded

from trcl_policy.continual.statistics import mean_interval
from trcl_policy.files import read_json, write_json
from trcl_policy.folder import RunFolder
from trcl_policy.report.tables import NONE, Table, number

ROOT = Path(__file__).resolve().parent.parent
CELLS = tuple(map(Cell.named, ("starved-1200x8-w128", "ample-300x8-w64", "ample-1200x8-w64")))
BASE, TUNED = "replay", "trcl-0.1"
"""What every form is paired with: distilled replay, and the form that finds its weight."""


def form(name: str, **knobs: float | str) -> dict[str, float | str]:
    """The settings of a form: a method and its knobs."""
    return {"method.name": name, **{f"method.{key}": value for key, value in knobs.items()}}


FORMS: dict[str, dict[str, float | str]] = {
    BASE: form("replay"),
    "joint": form("joint"),
    "replay_plain": form("replay_plain"),
    **{f"trcl_rank1-{w:g}": form("trcl_rank1", weight=w) for w in (1.0, 10.0, 100.0)},
    **{f"trcl_diag-{w:g}": form("trcl_diag", weight=w) for w in (0.1, 1.0, 10.0, 100.0)},
    **{f"trcl_kfac-{w:g}": form("trcl_kfac", weight=w) for w in (1.0, 10.0, 100.0)},
    **{f"ewc_kfac-{w:g}": form("ewc_kfac", weight=w) for w in (100.0, 1000.0)},
    **{f"ewc-{w:g}": form("ewc", weight=w) for w in (10.0, 100.0)},
    **{f"trcl_prox-{w:g}": form("trcl_prox", weight=w) for w in (1.0, 10.0)},
    **{f"trcl_lowrank-{w:g}": form("trcl_lowrank", weight=w) for w in (1.0, 10.0)},
    **{f"trcl_mixed-{w:g}": form("trcl_mixed", weight=w) for w in (1.0, 10.0)},
    "trcl_diag-10, noisy half": form("trcl_diag", weight=10.0, noise_range="[0.5, 1.0]"),
    "replay_kept": form("replay_kept"),
    "trcl_kept-10": form("trcl_kept", weight=10.0),
    "replay_dark": form("replay_dark"),
    **{f"trcl_fixed-{w:g}": form("trcl_fixed", weight=w) for w in (1.0, 10.0)},
    **{f"trcl-{rise:g}": form("trcl", rise=rise) for rise in (0.05, 0.1)},
    **{f"trcl_kept_prox-{w:g}": form("trcl_kept_prox", weight=w) for w in (1.0, 10.0, 100.0)},
    "trcl_ball-0.1": form("trcl_ball", rise=0.1),
    "trcl_dual-0.1": form("trcl_dual", rise=0.1),
    "replay_dual-0.1": form("replay_dual", rise=0.1),
    "replay x 4": form("replay", replay_weight=4.0),
    "replay, 384 windows": form("replay", replay_samples=384),
    "replay, anew every 100": form("replay", replay_refresh=100),
    "replay, anew every 20": form("replay", replay_refresh=20),
    "trcl_kfac-10, anew every 100": form("trcl_kfac", weight=10.0, replay_refresh=100),
    "trcl_diag-1, anew every 100": form("trcl_diag", weight=1.0, replay_refresh=100),
    "trcl_diag-10, anew every 100": form("trcl_diag", weight=10.0, replay_refresh=100),
}
"""``anew every N``: the 32 windows of each old task are generated again after N updates; in 1,200 updates
that makes 384 windows for N = 100."""


def main(words: Sequence[str] | None = None) -> int:
    """Run what is missing, write the page; returns the exit status."""
    options = make_parser().parse_args(words)
    if options.check:
        wrong = complaints(options.page, make_blocks(options.results), {}, "-", "scripts/compare_forms.py --page-only")
        print("\n".join(wrong) or f"{options.page.name} is that of the stored runs")
        return 1 if wrong else 0
    status = 0
    if not options.page_only:
        try:
            jobs = make_jobs(options.cells.split(), options.forms, options.seeds, options.runs)
            jobs = [job for job in jobs if not is_stored(options.results, job)]
            launcher = make_launcher("local", options.jobs)
        except ValueError as error:
            print(f"compare_forms: {error}", file=sys.stderr)
            return 2
        forecast = Forecast({}, lambda kind: Cell.named(kind.split("/")[0]).rough_seconds())
        if options.dry_run:
            show_plan(jobs, forecast, launcher.slots)
            return 0
        if jobs:
            trcl("collect", "--tasks", ",".join(TASKS), "--episodes", 55, "--out", "data/map.zarr")
        status = run_jobs(jobs, launcher, forecast, lambda job: keep(options.results, job), keep_going=True, quiet=True)
    write_page(options.page, make_blocks(options.results))
    return status


def make_parser() -> argparse.ArgumentParser:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", default=" ".join(cell.name for cell in CELLS), help="names with blanks between")
    parser.add_argument("--forms", help="names, split at semicolons (default: all)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 .. N-1")
    parser.add_argument("--jobs", type=int, help="runs at a time (default: one a core)")
    parser.add_argument("--runs", type=Path, default=Path("runs/forms"), help="folder for the runs")
    parser.add_argument("--results", type=Path, default=RESULTS / "forms", help="folder for the stored runs")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "forms.md", help="page to fill")
    parser.add_argument("--dry-run", action="store_true", help="only list what would run and about how long")
    parser.add_argument("--page-only", action="store_true", help="only fill the page from the stored runs")
    parser.add_argument("--check", action="store_true", help="only compare the page with the stored runs")
    return parser


def make_jobs(cells: Sequence[str], forms: str | None, seeds: int, runs: Path) -> list[Job]:
    """The runs: seed by seed, cell by cell.

    Raises:
        ValueError: a form or cell does not exist, or there are no seeds.
    """
    names = tuple(FORMS) if forms is None else tuple(name.strip() for name in forms.split(";"))
    if unknown := [name for name in names if name not in FORMS]:
        raise ValueError(f"forms must be among {'; '.join(FORMS)}, got {'; '.join(unknown)}")
    if seeds < 1:
        raise ValueError(f"seeds must be >= 1, got {seeds}")
    return [
        Job(
            folder=runs / cell.name / name.replace(", ", "-").replace(" ", "-") / f"seed-{seed}",
            config="quickstart",
            settings=(*cell.settings(), *(f"{key}={value}" for key, value in FORMS[name].items()), f"seed={seed}"),
            method=name,
            seed=seed,
            kind=f"{cell.name}/{name}",
        )
        for seed in range(seeds)
        for cell in map(Cell.named, cells)
        for name in names
    ]


def is_stored(results: Path, job: Job) -> bool:
    """Whether this run is in its cell's file.

    Raises:
        ValueError: it was made with other knobs.
    """
    path = results / f"{cell_of(job)}.json"
    found = read_json(path)["forms"].get(job.method) if path.exists() else None
    if found is not None and found["settings"] != FORMS[job.method]:
        raise ValueError(f"{path} holds {job.method} with {found['settings']}: delete it, or name another --results")
    return found is not None and str(job.seed) in found["runs"]


def keep(results: Path, job: Job) -> None:
    """Add a finished run to the file of its cell."""
    path, folder = results / f"{cell_of(job)}.json", RunFolder(job.folder)
    metrics = folder.metrics()
    assert metrics is not None, "a finished run has measured something"
    before = read_json(path) if path.exists() else {"cell": vars(Cell.named(cell_of(job))), "forms": {}}
    runs = before["forms"].get(job.method, {}).get("runs", {})
    entry = {"settings": FORMS[job.method], "runs": {**runs, str(job.seed): rounded(measures(metrics))}}
    facts = {"command": "scripts/compare_forms.py", "provenance": folder.provenance()}
    write_json(path, {**before, **facts, "forms": {**before["forms"], job.method: entry}})


def make_blocks(results: Path) -> dict[str, str]:
    """The generated part of the page: a table for each cell."""
    cells = [read_json(path) for path in sorted(results.glob("*.json"))]
    return {"cells": "\n\n".join(cell_table(cell).markdown() for cell in cells) or NOTHING}


def cell_table(cell: Mapping[str, Any]) -> Table:
    """A form a row: final success, forgetting, and its paired differences from distilled replay and from TUNED."""
    base, rows = cell["forms"].get(BASE, {"runs": {}})["runs"], []
    for name in filter(cell["forms"].__contains__, FORMS):
        runs = cell["forms"][name]["runs"]
        means = [mean_interval([run[key] for run in runs.values()]).mean for key in ("average_final", "seconds")]
        forgetting = [run["forgetting_old"] for run in runs.values()]
        lost = NONE if None in forgetting else number(mean_interval(forgetting).mean, signed=True)
        gains = [difference(base, runs, measure) if name != BASE else NONE for measure in MEASURES]
        tuned = cell["forms"].get(TUNED, {"runs": {}})["runs"]
        gains += [difference(runs, tuned, measure) if name != TUNED else NONE for measure in MEASURES]
        rows.append((name, str(len(runs)), number(means[0]), lost, *gains, f"{means[1]:.0f}"))
    facts = cell["cell"]
    sides = f"{facts['updates']} updates for each of {facts['tasks']} tasks, width {facts['width']}"
    title = f"{facts['budget']} replay, {sides}"
    header = ("form", "seeds", "final success", "forgetting (old tasks)")
    pairs = [f"{words}: {title}" for words in (f"minus {BASE}", f"{TUNED} minus it") for title in TITLES.values()]
    return Table(title, (*header, *pairs, "seconds"), tuple(rows))


def difference(base: Mapping[str, Any], runs: Mapping[str, Any], measure: str) -> str:
    """Mean paired difference of ``runs`` from ``base`` with its 95 % t interval over seeds."""
    key, factor, _ = MEASURES[measure]
    found = [factor * (runs[seed][key] - base[seed][key]) for seed in sorted(runs) if seed in base]
    return shown(mean_interval(found)) if found else NONE


if __name__ == "__main__":
    sys.exit(main())
