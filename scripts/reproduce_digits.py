"""Methods on configs/images-digits.yaml: results/images-digits/METHOD/seed-N.json, a table and a picture.

.venv/bin/python scripts/reproduce_digits.py --methods finetune,replay,trcl   # train what is missing, export, print
.venv/bin/python scripts/reproduce_digits.py --table                          # only the table, from the stored results
.venv/bin/python scripts/reproduce_digits.py --picture docs/images/digits.png # finetune and trcl side by side
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml

from trcl_policy.config import load_config
from trcl_policy.continual.methods import METHODS
from trcl_policy.continual.statistics import mean_interval
from trcl_policy.files import write_json
from trcl_policy.image_domain import ImageDomain
from trcl_policy.images.grids import side_by_side, write_png
from trcl_policy.report.runs import load_runs
from trcl_policy.report.samples import sample_grids
from trcl_policy.run import train

RESULTS = Path(__file__).resolve().parent.parent / "results" / "images-digits"


def main() -> int:
    """Train what is missing, export, print; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", default="finetune,ewc,replay,trcl,joint", help="names joined by commas")
    parser.add_argument("--seeds", type=int, default=1, help="seeds 0 .. N-1")
    parser.add_argument("--runs", type=Path, default=Path("runs/images-digits"), help="folder for the runs")
    parser.add_argument("--table", action="store_true", help="only print the table of the stored results")
    parser.add_argument("--picture", type=Path, help="only draw finetune and trcl, seed 0, side by side")
    options = parser.parse_args()
    if options.picture:
        draw(options.runs, options.picture)
        return 0
    if not options.table:
        for seed in range(options.seeds):
            for method in options.methods.split(","):
                export(options.runs / method / f"seed-{seed}", method, seed)
        write_json(RESULTS / "floor.json", floor())
    print(table())
    return 0


def export(folder: Path, method: str, seed: int) -> None:
    """Train a run unless it is there, and join its metrics, provenance and configuration in one file."""
    if not folder.exists():
        train(load_config("images-digits", {"method.name": method, "seed": seed}), folder)
    document = {
        "metrics": json.loads((folder / "metrics.json").read_text()),
        "provenance": json.loads((folder / "provenance.json").read_text()),
        "config": yaml.safe_load((folder / "config.yaml").read_text()),
    }
    write_json(RESULTS / method / f"seed-{seed}.json", document)


def floor() -> dict[str, Any]:
    """What real training images get, by task: about the score of a perfect generator."""
    domain = ImageDomain(load_config("images-digits"))
    found = {name: domain.scorer.floor(place).to_json() for place, name in enumerate(domain.names)}
    return {"tasks": found, "classifier_accuracy": domain.scorer.classifier.accuracy}


def table() -> str:
    """Markdown table of all methods with stored results, and of real images."""
    columns = ("method", "seeds", "right after learning", "average final feature distance", "95 % interval")
    columns += ("forgetting of old tasks", "named right at the end", "learning, s")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for method in METHODS:
        found = [json.loads(path.read_text())["metrics"] for path in sorted((RESULTS / method).glob("seed-*.json"))]
        if found:
            lines.append(f"| {method} | {' | '.join(cells(found))} |")
    real = json.loads((RESULTS / "floor.json").read_text())["tasks"].values()
    distance, accuracy = (sum(entry[key] for entry in real) / len(real) for key in ("distance", "accuracy"))
    return "\n".join([*lines, f"| real training images | - | - | {distance:.2f} | - | - | {accuracy:.2f} | - |"])


def cells(found: list[dict[str, Any]]) -> list[str]:
    """The cells of one method: one seed has its bootstrap interval, several the t interval over seeds."""
    finals = [metrics["average_final"] for metrics in found]
    over_seeds = mean_interval(finals).interval
    low, high = found[0]["average_final_interval"] if over_seeds is None else over_seeds
    learned = [[row[place] for place, row in enumerate(metrics["scores"])] for metrics in found]
    forgot = [metrics["forgetting_old"] for metrics in found]
    named = [sum(metrics["others"]["accuracy"][-1]) / len(metrics["tasks"]) for metrics in found]
    seconds = [sum(v for k, v in metrics["cost"]["seconds"].items() if k != "evaluation") for metrics in found]
    return [
        str(len(found)),
        "-" if any(None in row for row in learned) else f"{mean([mean(row) for row in learned]):.2f}",
        f"{mean(finals):.2f}",
        f"{low:.2f} to {high:.2f}",
        "-" if None in forgot else f"{mean(forgot):.2f}",
        f"{mean(named):.2f}",
        f"{mean(seconds):.0f}",
    ]


def mean(values: list[float]) -> float:
    """Their mean."""
    return sum(values) / len(values)


def draw(runs: Path, path: Path) -> None:
    """Forgetting beside retention."""
    grids = [next(iter(sample_grids(load_runs([runs / name / "seed-0"])).values())) for name in ("finetune", "trcl")]
    write_png(path, side_by_side(grids, ["fine-tuning", "TRCL"]))


if __name__ == "__main__":
    sys.exit(main())
