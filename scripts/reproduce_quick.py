"""Every method on the quick sequence: results/quick/METHOD/seed-N.json and the table of docs/methods.md.

.venv/bin/python scripts/reproduce_quick.py            # train what is missing, export, print the table
.venv/bin/python scripts/reproduce_quick.py --methods trcl,replay --seeds 3
.venv/bin/python scripts/reproduce_quick.py --table    # only the table, from the stored results
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from job_queue import run_jobs
from jobs import Job, method_jobs
from launchers import make_launcher
from quickstart import collect
from stored import RESULTS, export, place

from trcl_policy.continual.methods import METHODS
from trcl_policy.continual.statistics import mean_of_shares_interval

SETTINGS = ("training.steps=300", "evaluation.episodes=20")
"""Half the updates of the quickstart: enough to learn most of each task, few enough to tell methods apart."""
BENCHMARK = "quick"


def main() -> int:
    """Train what is missing, export, print; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", default=",".join(METHODS), help="names joined by commas (default: all)")
    parser.add_argument("--seeds", type=int, default=1, help="seeds 0 .. N-1")
    parser.add_argument("--jobs", type=int, default=None, help="runs at a time (default: one a core)")
    parser.add_argument("--runs", type=Path, default=Path("runs/quick"), help="folder for the runs")
    parser.add_argument("--data", type=Path, default=Path("data/quick.zarr"), help="episode store")
    parser.add_argument("--table", action="store_true", help="only print the table of the stored results")
    options = parser.parse_args()
    chosen = options.methods.split(",")
    if unknown := [name for name in chosen if name not in METHODS]:
        parser.error(f"methods must be among {', '.join(METHODS)}, got {', '.join(unknown)}")
    if not options.table:
        collect(options.data)
        settings = [f"data.store={options.data}", *SETTINGS]
        jobs = method_jobs(options.runs, "quickstart", chosen, range(options.seeds), settings)
        if status := run_jobs(jobs, make_launcher("local", options.jobs), when_done=keep):
            return status
    print(table())
    return 0


def keep(job: Job) -> None:
    """Store the results of a finished run."""
    export(job.folder, place(RESULTS, BENCHMARK, job.method, job.seed))


def table() -> str:
    """Markdown table of all methods with stored results."""
    columns = ("method", "seeds", "right after learning", "average final success", "95 % interval over episodes")
    columns += ("range over seeds", "forgetting of old tasks", "learning, s", "kept, MB")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for method in METHODS:
        paths = sorted((RESULTS / BENCHMARK / method).glob("seed-*.json"))
        found = [json.loads(path.read_text())["metrics"] for path in paths]
        if found:
            lines.append(f"| {method} | {' | '.join(cells(found))} |")
    return "\n".join(lines)


def cells(found: list[dict[str, Any]]) -> list[str]:
    """The cells of one method, from the metrics of its seeds; seconds leave evaluation out."""
    finals = [metrics["average_final"] for metrics in found]
    counts = [
        (round(score * episodes), episodes)
        for metrics in found
        for score, episodes in zip(metrics["scores"][-1], metrics["num_episodes"][-1], strict=True)
        if score is not None
    ]
    low, high = mean_of_shares_interval(counts)
    spread = f"{min(finals):.2f} to {max(finals):.2f}" if None not in finals else "-"
    learned = [mean([row[place] for place, row in enumerate(metrics["scores"])]) for metrics in found]
    seconds = [sum(spent(metrics).values()) for metrics in found]
    kept = [metrics["cost"]["bytes"] for metrics in found]
    return [
        str(len(found)),
        shown(mean(learned)),
        shown(mean(finals)),
        "-" if None in finals else f"{low:.2f} to {high:.2f}",
        spread if len(found) > 1 else "-",
        shown(mean([metrics["forgetting_old"] for metrics in found])),
        f"{sum(seconds) / len(found):.0f}",
        f"{sum(sum(b[part] for part in ('anchor', 'update', 'replay')) for b in kept) / len(found) / 1e6:.1f}",
    ]


def spent(metrics: dict[str, Any]) -> dict[str, float]:
    """Seconds of learning by purpose."""
    return {name: value for name, value in metrics["cost"]["seconds"].items() if name != "evaluation"}


def mean(values: list[float | None]) -> float | None:
    """Their mean; None where one is missing."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def shown(value: float | None) -> str:
    """Two decimals, or a dash."""
    return "-" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    sys.exit(main())
