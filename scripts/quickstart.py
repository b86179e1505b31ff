"""The main job on a small sequence: five tasks, fine-tuning beside TRCL and joint training, a page and a video.

Called by ``scripts/quickstart``. Finished runs are kept, stopped ones go on; delete the folder to start anew.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from job_queue import run_jobs
from jobs import Job, command, trcl

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
    collect(options.data)
    settings = [f"data.store={options.data}", *options.settings]
    runs = [Job(options.out / m, "quickstart", (f"method.name={m}", "seed=0", *settings)) for m in METHODS]
    if status := run_jobs(runs):
        return status
    videos = film_all(options.out)
    page = options.out / "report"
    trcl("report", *(run.folder for run in runs), "--out", page)
    print(f"\nThe main job took {(time.monotonic() - started) / 60:.1f} minutes. Look at:")
    for path in [page / "index.html", page / "average.png", *videos]:
        print(f"  {path}")
    return 0


def collect(data: Path) -> None:
    """Bring the demonstrations of the quick sequence into the episode store."""
    trcl("collect", "--tasks", "quick", "--episodes", "55", "--out", data)


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


if __name__ == "__main__":
    sys.exit(main())
