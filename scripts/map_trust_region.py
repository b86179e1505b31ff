"""Where does the trust region help? A grid of short runs, paired by seed: results/map/CELL.json and docs/map.md.

.venv/bin/python scripts/map_trust_region.py --dry-run      # the cells, and about how long they take
.venv/bin/python scripts/map_trust_region.py                # run what is missing, draw docs/map.md and its figure
.venv/bin/python scripts/map_trust_region.py --cells w64    # only the cells whose names end so, or whole names
.venv/bin/python scripts/map_trust_region.py --form trcl_prox --weight .05 --results results/map-prox
.venv/bin/python scripts/map_trust_region.py --smoke --results /tmp/map --page ''   # one tiny cell, a minute
.venv/bin/python scripts/map_trust_region.py --page-only    # only docs/map.md, from the stored cells
.venv/bin/python scripts/map_trust_region.py --check        # status 1 where the page is not that of the stored cells

A cell is a replay budget x updates a task x number of tasks x network width. In each, replay and the same replay with
the trust region are learned from the same seeds, plain and distilled. The same command goes on after a stop.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from job_queue import Forecast, run_jobs, show_plan
from jobs import Job, seconds_of, trcl
from launchers import LAUNCHERS, make_launcher
from map_page import FIGURE, make_blocks, map_figure
from pages import complaints, fingerprint, write_figure, write_page
from stored import RESULTS, rounded

from trcl_policy.continual.methods import METHODS
from trcl_policy.files import read_json, write_json
from trcl_policy.folder import RunFolder

ROOT = Path(__file__).resolve().parent.parent
TASKS = (
    "button-press-topdown-v3",
    "drawer-open-v3",
    "window-close-v3",
    "faucet-close-v3",
    "door-open-v3",
    "plate-slide-v3",
    "door-lock-v3",
    "handle-press-side-v3",
    "window-open-v3",
    "coffee-button-v3",
)
"""A cell of length L learns the first L."""
BATCH = 128
BUDGETS = {"starved": (32, 8), "scarce": (256, 32), "ample": (2000, 128)}
"""Samples generated of each old task, and old samples in a step beside 128 new ones."""
COMMON = ("data.store=data/map.zarr", "data.episodes=55", "data.held_out=5", f"training.batch_size={BATCH}")
COMMON += ("evaluation.episodes=15", "method.fisher_samples=512")


@dataclass(frozen=True)
class Cell:
    """One place of the map.

    Attributes:
        budget: key of BUDGETS.
        updates: a task.
        tasks: length of the sequence.
        width: of the MLP.
    """

    budget: str
    updates: int
    tasks: int
    width: int

    @property
    def name(self) -> str:
        """Name of its file, such as ``starved-300x4-w64``."""
        return f"{self.budget}-{self.updates}x{self.tasks}-w{self.width}"

    @classmethod
    def named(cls, name: str) -> Cell:
        """The cell of a file's name.

        Raises:
            ValueError: it is none.
        """
        match = re.fullmatch(r"([a-z]+)-(\d+)x(\d+)-w(\d+)", name)
        if match is None:
            raise ValueError(f"cell must be named like starved-300x4-w64, got {name!r}")
        return cls(match[1], int(match[2]), int(match[3]), int(match[4]))

    def settings(self) -> tuple[str, ...]:
        """What all its runs share."""
        samples, count = BUDGETS[self.budget]
        return (
            *COMMON,
            f"tasks={json.dumps(TASKS[: self.tasks])}",
            f"training.steps={self.updates}",
            f"network.width={self.width}",
            f"method.replay_samples={samples}",
            f"method.replay_ratio={count / BATCH}",
        )

    def rough_seconds(self) -> float:
        """About what a run takes on one core: start, updates with replay, rollouts of every task after every task."""
        return 12 + self.updates * self.tasks * (5e-3 + 8e-5 * self.width) + 0.8 * self.tasks * (self.tasks + 1) / 2


GRID = tuple(itertools.starmap(Cell, itertools.product(BUDGETS, (300, 1200), (4, 8), (64, 128))))
SMOKE = (Cell("starved", 20, 2, 16),)


def main(words: Sequence[str] | None = None) -> int:
    """Run what is missing, write the page; returns the exit status."""
    options = make_parser().parse_args(words)
    try:
        methods = methods_of(options.form)
        cells = SMOKE if options.smoke else chosen_cells(options.cells)
        wanted = make_jobs(cells, methods, options.seeds or (2 if options.smoke else 3), options.runs, options.weight)
        launcher = make_launcher("local" if options.dry_run else options.launcher, options.jobs)
    except ValueError as error:
        print(f"map_trust_region: {error}", file=sys.stderr)
        return 2
    if options.check:
        return check(options.results, options.page)
    status = 0
    if not options.page_only:
        jobs = [job for job in wanted if not is_stored(options.results, job)]
        forecast = Forecast({}, lambda kind: Cell.named(kind.split("/")[0]).rough_seconds())
        if options.dry_run:
            show_plan(jobs, forecast, launcher.slots)
            return 0
        if jobs:
            longest = max(cell.tasks for cell in cells)
            trcl("collect", "--tasks", ",".join(TASKS[:longest]), "--episodes", 55, "--out", "data/map.zarr")
        status = run_jobs(jobs, launcher, forecast, lambda job: keep(options.results, job), keep_going=True, quiet=True)
    if options.page is not None:
        write(options.results, options.page)
    return status


def make_parser() -> argparse.ArgumentParser:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--form", default="trcl_kfac", help="trcl_kfac, trcl_diag or trcl_prox, which have twins on plain replay"
    )
    parser.add_argument("--weight", type=float, default=10.0, help="of the trust region, in all cells")
    parser.add_argument("--cells", default="all", help="names or their endings joined by commas (default: all)")
    parser.add_argument("--seeds", type=int, help="seeds 0 .. N-1 (default: 3)")
    parser.add_argument("--jobs", type=int, help="runs at a time (default: one a core)")
    parser.add_argument("--launcher", choices=LAUNCHERS, default="local", help="local cores or a Ray cluster")
    parser.add_argument("--runs", type=Path, default=Path("runs/map"), help="folder for the runs")
    parser.add_argument("--results", type=Path, default=RESULTS / "map", help="folder for the stored cells")
    page = {"type": lambda word: Path(word) if word else None, "default": ROOT / "docs" / "map.md"}
    parser.add_argument("--page", **page, help="page to fill; '' for none")
    parser.add_argument("--smoke", action="store_true", help="one tiny cell, to see that all of it runs")
    parser.add_argument("--dry-run", action="store_true", help="only list what would run and about how long")
    parser.add_argument("--page-only", action="store_true", help="only fill the page from the stored cells")
    parser.add_argument("--check", action="store_true", help="only compare the page with the stored cells")
    return parser


def chosen_cells(spelled: str) -> tuple[Cell, ...]:
    """The cells of the grid whose names end with one of the words of a list joined by commas; ``all`` are all.

    Raises:
        ValueError: a word fits none.
    """
    words = ("",) if spelled == "all" else tuple(word.strip() for word in spelled.split(","))
    if lost := [word for word in words if not any(cell.name.endswith(word) for cell in GRID)]:
        raise ValueError(f"cells must end like starved-300x4-w64, got {', '.join(lost)}")
    return tuple(cell for cell in GRID if cell.name.endswith(words))


def methods_of(form: str) -> dict[str, str]:
    """What runs in a cell, by its name there.

    Raises:
        ValueError: the form has no twin on plain replay.
    """
    forms = [name.removesuffix("_plain") for name in METHODS if name.startswith("trcl") and name.endswith("_plain")]
    if form not in forms:
        raise ValueError(f"form must be one of {', '.join(forms)}, got {form!r}")
    plain = {"plain": "replay_plain", "plain_trust": f"{form}_plain"}
    return {**plain, "distilled": "replay", "distilled_trust": form}


def make_jobs(cells: Sequence[Cell], methods: dict[str, str], seeds: int, runs: Path, weight: float) -> list[Job]:
    """The runs of all cells: seed by seed, so that a stopped map is even, and cell by cell within."""
    if seeds < 1 or weight < 0:
        raise ValueError(f"seeds must be >= 1 and weight >= 0, got {seeds} and {weight}")
    return [
        Job(
            folder=runs / cell.name / role / f"seed-{seed}",
            config="quickstart",
            settings=(
                *cell.settings(),
                f"method.name={method}",
                f"seed={seed}",
                *([f"method.weight={weight}"] if role.endswith("trust") else []),
            ),
            method=role,
            seed=seed,
            kind=f"{cell.name}/{role}",
        )
        for seed in range(seeds)
        for cell in cells
        for role, method in methods.items()
    ]


def cell_of(job: Job) -> str:
    """Name of the cell of a job."""
    return job.folder.parent.parent.name


def is_stored(results: Path, job: Job) -> bool:
    """Whether this run is in its cell's file.

    Raises:
        ValueError: it was made with another method or weight.
    """
    path = results / f"{cell_of(job)}.json"
    entry = read_json(path)["runs"].get(job.method, {}).get(str(job.seed)) if path.exists() else None
    if entry is not None:
        found = {f"method.{key}={entry[key]}" for key in ("name", "weight")}
        asked = {word for word in job.settings if word.startswith(("method.name=", "method.weight="))}
        if not asked <= found:
            raise ValueError(f"{path} holds {sorted(found)}, got {sorted(asked)}: name another --results and --runs")
    return entry is not None


def keep(results: Path, job: Job) -> None:
    """Add a finished run to the file of its cell."""
    path, folder = results / f"{cell_of(job)}.json", RunFolder(job.folder)
    metrics, method = folder.metrics(), folder.config().method
    assert metrics is not None, "a finished run has measured something"
    before = read_json(path) if path.exists() else {"cell": vars(Cell.named(cell_of(job))), "runs": {}}
    entry = {"name": method.name, "weight": method.weight, **rounded(measures(metrics))}
    runs = {**before["runs"], job.method: {**before["runs"].get(job.method, {}), str(job.seed): entry}}
    facts = {"command": "scripts/map_trust_region.py", "provenance": folder.provenance()}
    write_json(path, {**before, **facts, "runs": runs})


def measures(metrics: dict[str, Any]) -> dict[str, float]:
    """The numbers of a run that the map needs; ``old_log_loss`` is the mean over old tasks of log(held-out loss)."""
    losses = metrics["losses"][-1][:-1]
    return {
        "average_final": metrics["average_final"],
        "forgetting_old": metrics["forgetting_old"],
        "old_log_loss": sum(map(math.log, losses)) / len(losses),
        "seconds": seconds_of(metrics),
    }


def load_cells(results: Path) -> dict[str, dict[str, Any]]:
    """The stored cells by name, in the order of the grid, others last."""
    found = {path.stem: read_json(path) for path in sorted(results.glob("*.json"))}
    order = [cell.name for cell in GRID if cell.name in found]
    return {name: found[name] for name in (*order, *(name for name in found if name not in order))}


def write(results: Path, page: Path) -> None:
    """Fill the page and draw its figure."""
    cells = load_cells(results)
    if cells:
        mark = fingerprint(results.glob("*.json"))
        write_figure(map_figure(cells), page.parent / "images" / FIGURE, mark)
    write_page(page, make_blocks(cells))


def check(results: Path, page: Path) -> int:
    """Compare the page with the stored cells; returns the exit status."""
    cells = load_cells(results)
    figures = {page.parent / "images" / FIGURE: fingerprint(results.glob("*.json"))} if cells else {}
    wrong = complaints(page, make_blocks(cells), figures, "map.png", "scripts/map_trust_region.py --page-only")
    print("\n".join(wrong) or f"{page.name} is that of the stored cells")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
