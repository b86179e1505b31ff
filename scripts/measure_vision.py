"""Policies that see: results/vision/NAME/seed-N.json, results/benchmarks/vision.json and the tables of docs/vision.md.

.venv/bin/python scripts/measure_vision.py                        # train what is missing, export, print the table
.venv/bin/python scripts/measure_vision.py --names er --seeds 3
.venv/bin/python scripts/measure_vision.py --speed                # read rate, encoder and renderer, in images a second
.venv/bin/python scripts/measure_vision.py --table                # only the tables, from the stored results

It needs the episode store that configs/vision-quick.yaml names, with pictures of the camera ``robot``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from trcl_policy.continual.statistics import mean_of_shares_interval
from trcl_policy.data.store import EpisodeStore
from trcl_policy.files import write_json
from trcl_policy.policy.vision import Vision

ROOT = Path(__file__).resolve().parent.parent
RESULTS, SPEEDS = ROOT / "results" / "vision", ROOT / "results" / "benchmarks" / "vision.json"
STORE, KEY = Path("data/vision.zarr"), "observation.images.robot"
FIXED, ALWAYS = "--policy.encoder.learns=first_task", "--policy.encoder.learns=always"
SMALL = "--training.batch_size=48"
"""An encoder that learns sees every picture of every step: a smaller batch for that."""
RUNS: dict[str, tuple[str, ...]] = {
    "finetune, first_task": ("--method.name=finetune", FIXED),
    "replay, never": ("--method.name=replay", "--policy.encoder.learns=never"),
    "replay, first_task": ("--method.name=replay", FIXED),
    "er, first_task": ("--method.name=er", FIXED),
    "joint, first_task": ("--method.name=joint", FIXED),
    "finetune, always": ("--method.name=finetune", ALWAYS, SMALL),
    "er, always": ("--method.name=er", ALWAYS, SMALL),
    "replay_rollout, always": ("--method.name=replay_rollout", ALWAYS, SMALL, "--method.replay_samples=600"),
}
BATCH = 64


def main() -> int:
    """Do what the options say; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", default=";".join(RUNS), help="names joined by ';' (default: all)")
    parser.add_argument("--seeds", type=int, default=1, help="seeds 0 .. N-1")
    parser.add_argument("--runs", type=Path, default=Path("runs/vision"), help="folder for the runs")
    parser.add_argument("--speed", action="store_true", help="measure rates instead of training")
    parser.add_argument("--table", action="store_true", help="only print the tables of the stored results")
    options = parser.parse_args()
    chosen = options.names.split(";")
    if unknown := [name for name in chosen if name not in RUNS]:
        parser.error(f"names must be among {'; '.join(RUNS)}, got {'; '.join(unknown)}")
    if options.speed:
        write_json(SPEEDS, speeds())
    elif not options.table:
        for seed in range(options.seeds):
            for name in chosen:
                learn(name, seed, options.runs)
    print("\n\n".join([table(), *([speed_table()] if SPEEDS.exists() else [])]))
    return 0


def learn(name: str, seed: int, runs: Path) -> None:
    """Train a run unless it is finished, and join its metrics, provenance and configuration in one file."""
    folder = runs / name.replace(", ", "-") / f"seed-{seed}"
    provenance = folder / "provenance.json"
    if not provenance.exists() or json.loads(provenance.read_text())["ended"] is None:
        words = ["--resume", str(folder)] if provenance.exists() else ["vision-quick", f"--seed={seed}", *RUNS[name]]
        words += [] if provenance.exists() else ["--out", str(folder)]
        subprocess.run([sys.executable, "-m", "trcl_policy", "train", *words], check=True)
    document = {
        "metrics": json.loads((folder / "metrics.json").read_text()),
        "provenance": json.loads(provenance.read_text()),
        "config": yaml.safe_load((folder / "config.yaml").read_text()),
    }
    write_json(RESULTS / name.replace(", ", "-") / f"seed-{seed}.json", document)


def table() -> str:
    """Markdown table of all stored runs."""
    columns = ("method, encoder learns", "seeds", "first task, right after", "first task, at the end", "second task")
    columns += ("average, 95 % interval over episodes", "learning, s")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name in RUNS:
        paths = sorted((RESULTS / name.replace(", ", "-")).glob("seed-*.json"))
        found = [json.loads(path.read_text())["metrics"] for path in paths]
        if found:
            lines.append(f"| {name} | {' | '.join(cells(found))} |")
    return "\n".join(lines)


def cells(found: list[dict[str, Any]]) -> list[str]:
    """The cells of one row, from the metrics of its seeds; seconds leave evaluation out."""
    counts = [
        (round(score * episodes), episodes)
        for metrics in found
        for score, episodes in zip(metrics["scores"][-1], metrics["num_episodes"][-1], strict=True)
    ]
    low, high = mean_of_shares_interval(counts)
    average = sum(wins for wins, _ in counts) / sum(total for _, total in counts)
    seconds = [sum(v for k, v in m["cost"]["seconds"].items() if k != "evaluation") for m in found]
    places = [(0, 0), (-1, 0), (-1, -1)]
    scores = [[metrics["scores"][row][column] for metrics in found] for row, column in places]
    shown = ["-" if None in values else f"{np.mean(values):.2f}" for values in scores]
    return [str(len(found)), *shown, f"{average:.2f}, {low:.2f} to {high:.2f}", f"{np.mean(seconds):.0f}"]


def speeds() -> dict[str, Any]:
    """Images a second of what a run does with pictures, on one thread."""
    torch.set_num_threads(1)
    store, rng = EpisodeStore.open(STORE), np.random.default_rng(0)
    size = store.take(KEY, np.array([0])).shape[1]

    def draw() -> np.ndarray:
        return rng.integers(store.num_rows, size=BATCH)

    small, large = EpisodeStore.open(STORE), EpisodeStore.open(STORE)
    large.take(KEY, np.arange(store.num_rows), 2**31)
    vision = Vision(("robot",), size, round(size * 7 / 8))
    encoder = vision.build(0)
    crops = torch.randint(256, (BATCH, 1, vision.crop_size, vision.crop_size, 3), dtype=torch.uint8)
    with torch.no_grad():
        forward = rate(lambda: encoder(crops))
    return {
        "image_size": size,
        "batch": BATCH,
        "stored_bytes_per_image": sum(f.stat().st_size for f in (STORE / "data" / KEY).iterdir()) / store.num_rows,
        "read_cached": rate(lambda: large.take(KEY, draw())),
        "read_uncached": rate(lambda: small.take(KEY, draw(), 1)),
        "encode": forward,
        "encode_and_learn": rate(lambda: encoder(crops).square().sum().backward()),
        "render": render_rate(size),
    }


def rate(work: Callable[[], Any], seconds: float = 3.0) -> float:
    """Images a second of ``work``, which handles BATCH of them."""
    work()
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        work()
        done += BATCH
    return done / (time.perf_counter() - started)


def render_rate(size: int) -> float:
    """Images a second that the renderer draws, each of another state."""
    from trcl_envs.catalog import make_env

    env = make_env("button-press-topdown-v3", BATCH)
    env.reset(range(BATCH))
    renderer, scenes = env.renderer(size, size, "robot"), [env.scene(row) for row in range(BATCH)]
    found = rate(lambda: [renderer.frame(scene) for scene in scenes])
    env.close()
    return found


def speed_table() -> str:
    """Markdown table of the stored rates."""
    found = json.loads(SPEEDS.read_text())
    rows = {
        "rendered": found["render"],
        "read at random, decoded chunks in memory": found["read_cached"],
        "read at random, every chunk decoded anew": found["read_uncached"],
        "encoded": found["encode"],
        "encoded, with gradients": found["encode_and_learn"],
    }
    head = f"| {found['image_size']} x {found['image_size']} pixels, one thread | images a second |"
    return "\n".join([head, "|---|---|", *(f"| {name} | {value:,.0f} |" for name, value in rows.items())])


if __name__ == "__main__":
    sys.exit(main())
