"""Methods on the image benchmarks: results/images-digits/METHOD/seed-N.json (or images-scenes), tables and a picture.

.venv/bin/python scripts/reproduce_images.py                                   # every method on the digits, 3 seeds
.venv/bin/python scripts/reproduce_images.py --benchmark scenes --methods finetune,replay,trcl --seeds 1
.venv/bin/python scripts/reproduce_images.py --table                           # only the table, from the stored results
.venv/bin/python scripts/reproduce_images.py --compare trcl                    # paired by seed against other methods
.venv/bin/python scripts/reproduce_images.py --page                            # puts both into docs/images.md
.venv/bin/python scripts/reproduce_images.py --picture docs/images/digits.png  # finetune and trcl side by side

What is stored already is not trained again, and a stopped run goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from job_queue import run_jobs
from jobs import Job, method_jobs
from launchers import make_launcher
from pages import write_page
from stored import RESULTS, export, place

from trcl_policy.config import load_config
from trcl_policy.continual.methods import METHODS
from trcl_policy.continual.statistics import mean_interval
from trcl_policy.files import write_json
from trcl_policy.image_domain import ImageDomain
from trcl_policy.images.grids import side_by_side, write_png
from trcl_policy.report.runs import load_runs
from trcl_policy.report.samples import sample_grids

PAGE = RESULTS.parent / "docs" / "images.md"
NOT_MEASURED = "Not measured yet."
SETTINGS = {"digits": ("training.steps=100",), "scenes": (), "scenes-large": ()}
"""Digits: half the updates of the configuration, enough to learn, few enough for every method."""
UNFIT = ("replay_rollout", "tdgr")  # they need sequences
RIVALS = ("finetune", "ewc", "ewc_rank1", "ewc_kfac", "replay", "replay_plain", "er")


def main() -> int:
    """Train what is missing, export, print; returns the exit status."""
    fit = [name for name in METHODS if name not in UNFIT]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--benchmark", choices=tuple(SETTINGS), default="digits", help="which images")
    parser.add_argument("--methods", default=",".join(fit), help="names joined by commas (default: all)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 .. N-1")
    parser.add_argument("--jobs", type=int, default=None, help="runs at a time (default: one a core)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder for the runs")
    parser.add_argument("--table", action="store_true", help="only print the table of the stored results")
    parser.add_argument("--compare", metavar="METHOD", help="only compare this method with others, seed by seed")
    parser.add_argument("--page", action="store_true", help="only put all tables into docs/images.md")
    parser.add_argument("--picture", type=Path, help="only draw finetune and trcl, seed 0, side by side")
    options = parser.parse_args()
    chosen = options.methods.split(",")
    if unknown := [name for name in chosen if name not in fit]:
        parser.error(f"methods must be among {', '.join(fit)}, got {', '.join(unknown)}")
    config = f"images-{options.benchmark}"
    results, runs = RESULTS / config, options.runs / config
    if options.picture:
        draw(runs, options.picture)
    elif options.page:
        write_page(PAGE, blocks())
    elif options.compare:
        print(comparison(results, options.compare))
    elif options.table:
        print(table(results))
    else:
        settings = SETTINGS[options.benchmark]
        wanted = method_jobs(runs, config, chosen, range(options.seeds), settings)
        missing = [job for job in wanted if not place(RESULTS, config, job.method, job.seed).exists()]
        if status := run_jobs(missing, make_launcher("local", options.jobs), when_done=lambda job: keep(config, job)):
            return status
        if not (results / "floor.json").exists():
            write_json(results / "floor.json", floor(config))
        print(table(results))
    return 0


def keep(benchmark: str, job: Job) -> None:
    """Store the results of a finished run."""
    export(job.folder, place(RESULTS, benchmark, job.method, job.seed))


def blocks() -> dict[str, str]:
    """The generated parts of docs/images.md."""
    return {
        "digits": table(RESULTS / "images-digits"),
        "digits-paired": comparison(RESULTS / "images-digits", "trcl"),
        "scenes": table(RESULTS / "images-scenes"),
    }


def floor(config: str) -> dict[str, Any]:
    """What real training images get, by task: about the score of a perfect generator."""
    domain = ImageDomain(load_config(config))
    found = {name: domain.scorer.floor(place).to_json() for place, name in enumerate(domain.names)}
    return {"tasks": found, "classifier_accuracy": domain.scorer.classifier.accuracy}


def stored(results: Path, method: str) -> dict[int, dict[str, Any]]:
    """Metrics of a method's stored runs, by seed."""
    paths = {int(path.stem.removeprefix("seed-")): path for path in (results / method).glob("seed-*.json")}
    return {seed: json.loads(paths[seed].read_text())["metrics"] for seed in sorted(paths)}


def table(results: Path) -> str:
    """Markdown table of all methods with stored results, and of real images."""
    columns = ("method", "seeds", "right after learning", "average final feature distance", "95 % interval")
    columns += ("forgetting of old tasks", "named right at the end", "learning, s")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for method in METHODS:
        if found := list(stored(results, method).values()):
            lines.append(f"| {method} | {' | '.join(cells(found))} |")
    if not (results / "floor.json").exists():
        return NOT_MEASURED
    real = json.loads((results / "floor.json").read_text())["tasks"].values()
    distance, accuracy = (sum(entry[key] for entry in real) / len(real) for key in ("distance", "accuracy"))
    return "\n".join([*lines, f"| real training images | - | - | {distance:.2f} | - | - | {accuracy:.2f} | - |"])


def cells(found: list[dict[str, Any]]) -> list[str]:
    """The cells of one method: one seed has its bootstrap interval, several the t interval over seeds."""
    finals = [metrics["average_final"] for metrics in found]
    forgot = [metrics["forgetting_old"] for metrics in found]
    learned = [[row[place] for place, row in enumerate(metrics["scores"])] for metrics in found]
    seconds = [sum(v for k, v in metrics["cost"]["seconds"].items() if k != "evaluation") for metrics in found]
    right = "-" if any(None in row for row in learned) else f"{mean([mean(row) for row in learned]):.2f}"
    if None in finals:  # old tasks are not measured: each was learned by weights of its own
        return [str(len(found)), right, "-", "-", "-", "-", f"{mean(seconds):.0f}"]
    over_seeds = mean_interval(finals).interval
    low, high = found[0]["average_final_interval"] if over_seeds is None else over_seeds
    named = [sum(metrics["others"]["accuracy"][-1]) / len(metrics["tasks"]) for metrics in found]
    return [
        str(len(found)),
        right,
        f"{mean(finals):.2f}",
        f"{low:.2f} to {high:.2f}",
        "-" if None in forgot else f"{mean(forgot):.2f}",
        f"{mean(named):.2f}",
        f"{mean(seconds):.0f}",
    ]


def comparison(results: Path, method: str) -> str:
    """Markdown table of the differences to other methods on the same seeds, with 95 % t intervals over seeds."""
    columns = (f"{method} minus", "seeds", "average final feature distance", "95 % interval")
    columns += ("forgetting of old tasks", "95 % interval")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    mine = stored(results, method)
    for rival in (*RIVALS, *(name for name in METHODS if name.startswith("trcl"))):
        theirs = stored(results, rival)
        seeds = sorted(set(mine) & set(theirs))
        if rival == method or len(seeds) < 2:
            continue
        cells = [rival, str(len(seeds))]
        for key in ("average_final", "forgetting_old"):
            cells += shown([mine[seed][key] - theirs[seed][key] for seed in seeds])
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def shown(differences: Sequence[float]) -> tuple[str, str]:
    """Their mean and its interval."""
    found = mean_interval(differences)
    assert found.interval is not None, "two seeds or more"
    return f"{found.mean:+.2f}", f"{found.interval[0]:+.2f} to {found.interval[1]:+.2f}"


def mean(values: list[float]) -> float:
    """Their mean."""
    return sum(values) / len(values)


def draw(runs: Path, path: Path) -> None:
    """Forgetting beside retention."""
    grids = [next(iter(sample_grids(load_runs([runs / name / "seed-0"])).values())) for name in ("finetune", "trcl")]
    write_png(path, side_by_side(grids, ["fine-tuning", "TRCL"]))


if __name__ == "__main__":
    sys.exit(main())
