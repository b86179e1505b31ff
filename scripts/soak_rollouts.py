"""Whether thousands of rollouts leak memory or file handles: results/benchmarks/soak.json.

.venv/bin/python scripts/soak_rollouts.py                          # 5,000 episodes, one worker process
.venv/bin/python scripts/soak_rollouts.py --episodes 500 --workers 2

A small policy learns two tasks (runs/soak, kept for the next time). Then it is rolled out through the same path as
``trcl evaluate --workers``: jobs of 25 episodes, and the task changes every 100, so that workers build and release
environments all the time. After every job the resident memory and the open file handles of this process and of each
worker are read from /proc. They may not grow: the last fifth of a process's life is compared with its second fifth,
after the caches have filled.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from quickstart import trcl

from trcl_envs.catalog import make_env
from trcl_policy.files import write_json
from trcl_policy.folder import provenance
from trcl_policy.rollout.evaluate import BLOCK
from trcl_policy.rollout.jobs import Job, cut
from trcl_policy.rollout.workers import Report, as_done, setup_for

ROOT = Path(__file__).resolve().parent.parent
TASKS = ("button-press-topdown-v3", "window-close-v3")
CELL = 100
MOST_GROWTH_MB = 20.0
"""More between second and last fifth counts as a leak: at most 4 KB an episode at 5,000 episodes."""


def main() -> int:
    """Train, roll out, watch, judge, store; returns 1 where memory or handles grew."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--run", type=Path, default=Path("runs/soak"), help="trained first where it is not there")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "benchmarks" / "soak.json")
    options = parser.parse_args()
    if options.episodes < 20 * BLOCK or options.workers < 1:
        parser.error(f"episodes must be >= {20 * BLOCK} and workers >= 1, got {options.episodes}, {options.workers}")
    if not (options.run / "metrics.json").exists():
        learn(options.run)
    result = soak(str(options.run / "checkpoints" / "01"), options.episodes, options.workers)
    write_json(options.out, {**result, "provenance": provenance()})
    for name, entry in result["processes"].items():
        print(f"{name}: memory {entry['growth_mb']:+.1f} MB, handles {entry['growth_handles']:+d}")
    print(f"{result['episodes']} episodes in {result['seconds']:.0f} s, success {result['success']:.2f}; {options.out}")
    return 0 if result["steady"] else 1


def learn(run: Path) -> None:
    """A run of two tasks with the quickstart's small network."""
    data = run.with_suffix(".zarr")
    trcl("collect", "--tasks", ",".join(TASKS), "--episodes", 40, "--out", data)
    settings = ["--tasks", ",".join(TASKS), "--data.store", data, "--data.episodes", 40, "--training.steps", 300]
    trcl("train", "quickstart", "--method.name", "replay", "--evaluation.episodes", 5, *settings, "--out", run)


def soak(checkpoint: str, episodes: int, workers: int) -> dict[str, Any]:
    """Roll out and watch; returns the document that is stored."""
    jobs = plan(checkpoint, episodes)
    setup = setup_for(functools.partial(make_env, threads=1), "cpu")
    report, started = Report(), time.monotonic()
    samples: dict[str, list[tuple[int, float, int]]] = {}
    wins, done = 0, 0
    for _, block in as_done(jobs, setup, workers, report=report):
        done += len(block)
        wins += sum(episode.success for episode in block)
        for name, pid in processes().items():
            samples.setdefault(name, []).append((done, resident_mb(pid), handles(pid)))
        if done % (10 * BLOCK) < len(block):
            now = {name: f"{rows[-1][1]:.0f} MB {rows[-1][2]} handles" for name, rows in samples.items()}
            print(f"{done:>6} episodes, {time.monotonic() - started:.0f} s: {now}", flush=True)
    judged = {name: judge(rows) for name, rows in samples.items()}
    return {
        "command": f"scripts/soak_rollouts.py --episodes {episodes} --workers {workers}",
        "policy": "quickstart's network (0.2 M parameters), two tasks, 300 updates each",
        "tasks": list(TASKS),
        "episodes": done,
        "success": wins / done,
        "seconds": time.monotonic() - started,
        "faults": [fault.record() for fault in report.faults],
        "steady": all(entry["steady"] for entry in judged.values()),
        "processes": judged,
    }


def plan(checkpoint: str, episodes: int) -> list[Job]:
    """Jobs of ``BLOCK`` new seeds; the task changes every ``CELL`` episodes."""
    starts = range(0, episodes, CELL)
    cells = [(TASKS[number % 2], range(first, min(first + CELL, episodes))) for number, first in enumerate(starts)]
    return [job for task, seeds in cells for job in cut(checkpoint, [task], seeds)]


def processes() -> dict[str, int]:
    """This process and its workers."""
    children = sorted(child.pid for child in multiprocessing.active_children() if child.pid is not None)
    return {"parent": os.getpid(), **{f"worker {pid}": pid for pid in children}}


def resident_mb(pid: int) -> float:
    """Resident memory of a process [MB]."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def handles(pid: int) -> int:
    """Open file handles of a process."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def judge(rows: list[tuple[int, float, int]]) -> dict[str, Any]:
    """Growth between the second and the last fifth of a process's samples (episodes, MB, handles)."""
    fifth = len(rows) // 5
    early, late = rows[fifth : 2 * fifth], rows[-fifth:]
    growth = statistics.median(row[1] for row in late) - statistics.median(row[1] for row in early)
    more = max(row[2] for row in late) - max(row[2] for row in early)
    shown = rows[:: max(1, len(rows) // 40)]
    return {
        "growth_mb": growth,
        "growth_handles": more,
        "steady": growth <= MOST_GROWTH_MB and more <= 0,
        "samples": [{"episodes": n, "resident_mb": round(mb, 1), "handles": count} for n, mb, count in shown],
    }


if __name__ == "__main__":
    sys.exit(main())
