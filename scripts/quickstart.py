"""The main job on a small sequence: five tasks, fine-tuning beside TRCL and joint training, a page and a video.

Called by ``scripts/quickstart``. Finished runs are kept, stopped ones go on; delete the folder to start anew.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

METHODS = ("trcl", "finetune", "joint")
STORY = "button-press-topdown-v3"
Run = tuple[Path, str, int]  # folder, method, seed


def main() -> int:
    """Collect, train, compare, film; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart"), help="folder for the runs and the report")
    parser.add_argument("--data", type=Path, default=Path("data/quick.zarr"), help="episode store")
    parser.add_argument("settings", nargs="*", help="settings for all runs, such as training.steps=100")
    options = parser.parse_args()
    started = time.monotonic()
    collect(options.data)
    runs = [(options.out / method, method, 0) for method in METHODS]
    train_all(runs, "quickstart", [f"data.store={options.data}", *options.settings])
    videos = film_all(options.out)
    page = options.out / "report"
    trcl("report", *(folder for folder, _, _ in runs), "--out", page)
    print(f"\nThe main job took {(time.monotonic() - started) / 60:.1f} minutes. Look at:")
    for path in [page / "index.html", page / "average.png", *videos]:
        print(f"  {path}")
    return 0


def collect(data: Path) -> None:
    """Bring the demonstrations of the quick sequence into the episode store."""
    trcl("collect", "--tasks", "quick", "--episodes", "55", "--out", data)


def train_all(
    runs: Sequence[Run],
    config: str,
    settings: Sequence[str],
    jobs: int | None = None,
    when_done: Callable[[Run], None] = lambda run: None,
) -> None:
    """Train all runs of a configuration, ``jobs`` at a time (None: one a core).

    Finished runs are kept and stopped ones go on. Where one fails, the others are stopped and the program ends with
    its status.
    """
    waiting = list(runs)
    running: dict[Run, subprocess.Popen[bytes]] = {}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    while waiting or running:
        while waiting and len(running) < (jobs or cores):
            run = waiting.pop(0)
            folder, method, seed = run
            print(f"learning {config} with {method}, seed {seed} ...", flush=True)
            running[run] = subprocess.Popen(command(*train_words(folder, method, seed, config, settings)))
        time.sleep(0.2)
        for run in [run for run, process in running.items() if process.poll() is not None]:
            status = running.pop(run).returncode
            if not status:
                when_done(run)
            if status:
                for process in running.values():
                    process.terminate()
                sys.exit(status)


def train_words(folder: Path, method: str, seed: int, config: str, settings: Sequence[str]) -> list[object]:
    """The words of ``trcl train`` for a run: a new one, or one that goes on."""
    if (folder / "config.yaml").exists():
        return ["train", "--resume", folder]
    return ["train", config, "--out", folder, "--method.name", method, "--seed", seed, *settings]


def film_all(out: Path) -> list[Path]:
    """Videos of the first task under fine-tuning and TRCL; none, with the reason, where this machine can't draw."""
    videos = []
    for method in ("finetune", "trcl"):
        done = subprocess.run(command("record", out / method, "--task", STORY), check=False, stdout=subprocess.DEVNULL)
        if done.returncode:
            print("No video: the line above says what is missing. Everything else is there.", file=sys.stderr)
            break
        videos.append(out / method / "videos" / f"{STORY}.mp4")
    return videos


def trcl(*words: object) -> None:
    """Run one ``trcl`` command; ends the program with its status where it fails."""
    status = subprocess.run(command(*words), check=False).returncode
    if status:
        sys.exit(status)


def command(*words: object) -> list[str]:
    """The words that run ``trcl`` with this Python."""
    return [sys.executable, "-m", "trcl_policy", *map(str, words)]


if __name__ == "__main__":
    sys.exit(main())
