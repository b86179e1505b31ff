"""Every method on the quick sequence over several seeds: results/quick/METHOD/seed-N.json and the table of the README.

.venv/bin/python scripts/reproduce_quick.py            # train what is missing, export, print the table
.venv/bin/python scripts/reproduce_quick.py --table    # only the table, from the stored results
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import yaml
from quickstart import collect, train_all

from trcl_policy.continual.statistics import mean_of_shares_interval
from trcl_policy.files import write_json

METHODS = ("finetune", "ewc", "replay", "trcl", "joint")
RESULTS = Path(__file__).resolve().parent.parent / "results" / "quick"


def main() -> int:
    """Train what is missing, export, print; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 .. N-1")
    parser.add_argument("--runs", type=Path, default=Path("runs/quick"), help="folder for the runs")
    parser.add_argument("--data", type=Path, default=Path("data/quick.zarr"), help="episode store")
    parser.add_argument("--table", action="store_true", help="only print the table of the stored results")
    options = parser.parse_args()
    if not options.table:
        collect(options.data)
        runs = [(options.runs / m / f"seed-{s}", m, s) for s in range(options.seeds) for m in METHODS]
        train_all(runs, options.data, [])
        for folder, method, seed in runs:
            export(folder, RESULTS / method / f"seed-{seed}.json")
    print(table())
    return 0


def export(run: Path, target: Path) -> None:
    """Join a run's metrics, provenance and configuration in one file."""
    document = {
        "metrics": json.loads((run / "metrics.json").read_text()),
        "provenance": json.loads((run / "provenance.json").read_text()),
        "config": yaml.safe_load((run / "config.yaml").read_text()),
    }
    write_json(target, document)


def table() -> str:
    """Markdown table; seconds count training, Fisher and generation, not evaluation."""
    columns = ("method", "average final success", "95 % interval over episodes", "range over seeds")
    columns += ("forgetting of old tasks", "learning, s")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for method in METHODS:
        found = [json.loads(path.read_text())["metrics"] for path in sorted((RESULTS / method).glob("seed-*.json"))]
        if found:
            lines.append(f"| {method} | {row(found)} |")
    return "\n".join(lines)


def row(found: list[dict[str, object]]) -> str:
    """The cells of one method, from the metrics of its seeds."""
    finals = [metrics["average_final"] for metrics in found]
    counts = [
        (round(score * episodes), episodes)
        for metrics in found
        for score, episodes in zip(metrics["scores"][-1], metrics["num_episodes"][-1], strict=True)
    ]
    low, high = mean_of_shares_interval(counts)
    lost = [metrics["forgetting_old"] for metrics in found]
    forgetting = "-" if None in lost else f"{sum(lost) / len(lost):.2f}"
    seconds = sum(
        sum(metrics["cost"]["seconds"].values()) - metrics["cost"]["seconds"]["evaluation"] for metrics in found
    )
    cells = [
        f"{sum(finals) / len(finals):.2f}",
        f"{low:.2f} to {high:.2f}",
        f"{min(finals):.2f} to {max(finals):.2f}",
        forgetting,
        f"{seconds / len(found):.0f}",
    ]
    return " | ".join(cells)


if __name__ == "__main__":
    sys.exit(main())
