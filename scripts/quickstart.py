"""The main job on a small sequence: five tasks, fine-tuning beside TRCL and joint training, a page and a video.

Called by ``scripts/quickstart``. Finished runs are kept, stopped ones go on; delete the folder to start anew.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

METHODS = ("trcl", "finetune", "joint")
STORY = "button-press-topdown-v3"


def main() -> int:
    """Collect, train, compare, film; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart"), help="folder for the runs and the report")
    parser.add_argument("--data", type=Path, default=Path("data/quick.zarr"), help="episode store")
    parser.add_argument("settings", nargs="*", help="settings for all runs, such as training.steps=100")
    options = parser.parse_args()
    started = time.monotonic()
    trcl("collect", "--tasks", "quick", "--episodes", "55", "--out", options.data)
    train_all(options)
    runs = [options.out / method for method in METHODS]
    videos = film_all(options.out)
    page = options.out / "report"
    trcl("report", *runs, "--out", page)
    print(f"\nThe main job took {(time.monotonic() - started) / 60:.1f} minutes. Look at:")
    for path in [page / "index.html", *sorted(page.rglob("*.png"))[:1], *videos]:
        print(f"  {path}")
    return 0


def train_all(options: argparse.Namespace) -> None:
    """Train every method; as many at a time as there are cores."""
    waiting, running = list(METHODS), {}
    at_once = max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    while waiting or running:
        while waiting and len(running) < at_once:
            method = waiting.pop(0)
            print(f"learning five tasks with {method} ...", flush=True)
            running[method] = subprocess.Popen(command(*train_words(options, method)))
        time.sleep(0.2)
        for method in [name for name, process in running.items() if process.poll() is not None]:
            status = running.pop(method).returncode
            if status:
                for process in running.values():
                    process.terminate()
                sys.exit(status)


def train_words(options: argparse.Namespace, method: str) -> list[object]:
    """The ``trcl train`` command of a method: a new run, or one that goes on."""
    run = options.out / method
    if (run / "config.yaml").exists():
        return ["train", "--resume", run]
    settings = [word for setting in options.settings for word in ("--" + setting.removeprefix("--"),)]
    return ["train", "quickstart", "--method.name", method, "--data.store", options.data, "--out", run, *settings]


def film_all(out: Path) -> list[Path]:
    """Videos of the first task under fine-tuning and TRCL; none, with the reason, where this machine can't draw."""
    videos = []
    for method in ("finetune", "trcl"):
        done = subprocess.run(command("record", out / method, "--task", STORY), check=False)
        if done.returncode:
            print("No video: the line above says what is missing. Everything else is there.", file=sys.stderr)
            break
        videos.append(out / method / "videos" / f"{STORY}.mp4")
    return videos


def trcl(*words: object) -> None:
    """Run one ``trcl`` command; ends with its status where it fails."""
    status = subprocess.run(command(*words), check=False).returncode
    if status:
        sys.exit(status)


def command(*words: object) -> list[str]:
    """The words that run ``trcl`` with this Python."""
    return [sys.executable, "-m", "trcl_policy", *map(str, words)]


if __name__ == "__main__":
    sys.exit(main())
