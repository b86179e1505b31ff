"""docs/gallery.md: three early tasks, just learned, forgotten, kept and recovered, side by side.

.venv/bin/python scripts/make_gallery.py --forgets runs/cw10-small/finetune/seed-0 --keeps runs/cw10-small/replay/seed-0

Four panels of one start state: the first run right after it learned the task, after its last task, the second run after
its last task, and the first run after a short recovery on the task's demonstrations. Each animation is made smaller
until it is below the limit.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pages import write_page
from results_figures import EARLY

from trcl_envs.interface import SimulationError
from trcl_policy.config import ConfigError
from trcl_policy.files import FileError
from trcl_policy.folder import RunFolder
from trcl_policy.moments import film_panels
from trcl_policy.report.tables import Table, interval, number

ROOT = Path(__file__).resolve().parent.parent
SIZES = (224, 176, 128, 96)
"""Widths of a panel [pixels] that are tried, the largest first."""
LIMIT = 1_500_000


def main(words: Sequence[str] | None = None) -> int:
    """Film, then write the page; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forgets", type=Path, required=True, help="run that forgets, such as one of finetune")
    parser.add_argument("--keeps", type=Path, required=True, help="run that keeps, such as one of trcl")
    parser.add_argument("--tasks", help="names joined by commas (default: the first three of the sequence)")
    parser.add_argument("--suffix", choices=(".webp", ".mp4"), default=".webp", help="kind of files")
    parser.add_argument("--recovery-steps", type=int, default=300, help="updates of the recovery")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "gallery.md", help="page to fill")
    options = parser.parse_args(words)
    forgets, keeps = RunFolder(options.forgets), RunFolder(options.keeps)
    try:
        tasks = chosen_tasks(forgets, options.tasks)
        images = options.page.parent / "images"
        paths = [images / f"gallery-{task.removesuffix('-v3')}{options.suffix}" for task in tasks]
        panels = [(forgets, "learned"), (forgets, "forgotten"), (keeps, "forgotten"), (forgets, "recovered")]
        for task, path in zip(tasks, paths, strict=True):
            size = film_small(panels, task, path, options.recovery_steps)
            print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, panels of {size} pixels")
        blocks = {"pictures": pictures(paths), "numbers": numbers(forgets, keeps, tasks).markdown()}
        blocks["origin"] = origin(forgets, keeps, options.recovery_steps)
        write_page(options.page, blocks)
    except (ConfigError, ValueError, SimulationError, FileError) as error:
        print(f"make_gallery: {error}", file=sys.stderr)
        return 2
    return 0


def chosen_tasks(folder: RunFolder, spelled: str | None) -> list[str]:
    """The tasks to film: those named, or the first of the run's sequence.

    Raises:
        ValueError: the run has measured nothing, or lacks a named task.
    """
    metrics = measured(folder)
    names = list(dict.fromkeys(name.split("#")[0] for name in metrics["tasks"]))
    if spelled is None:
        return names[:EARLY]
    wanted = [word.strip() if word.strip().endswith("-v3") else f"{word.strip()}-v3" for word in spelled.split(",")]
    if unknown := [name for name in wanted if name not in names]:
        raise ValueError(f"tasks must be among {', '.join(names)}, got {', '.join(unknown)}")
    return wanted


def measured(folder: RunFolder) -> dict[str, Any]:
    """The metrics of a run.

    Raises:
        ValueError: it has none.
    """
    metrics = folder.metrics() if folder.path.is_dir() else None
    if metrics is None:
        raise ValueError(f"run must be a run directory with a metrics.json, got {folder.path}")
    return metrics


def film_small(panels: Sequence[tuple[RunFolder, str]], task: str, path: Path, recovery_steps: int) -> int:
    """Film in the largest size whose file is below the limit; returns the width of a panel [pixels].

    Raises:
        ValueError: even the smallest is too large.
    """
    for size in SIZES:
        film_panels(panels, task, recovery_steps=recovery_steps, size=size, out=path)
        if path.stat().st_size < LIMIT:
            return size
    path.unlink()
    raise ValueError(f"{path.name} must be below {LIMIT / 1e6} MB, got more even with panels of {SIZES[-1]} pixels")


def pictures(paths: Sequence[Path]) -> str:
    """One picture a task."""
    parts = []
    for path in paths:
        task = path.stem.removeprefix("gallery-")
        shown = f"![{task}: just learned, forgotten, kept, recovered](images/{path.name})"
        parts.append(f"### {task}\n\n{shown if path.suffix != '.mp4' else f'[video](images/{path.name})'}")
    return "\n\n".join(parts)


def numbers(forgets: RunFolder, keeps: RunFolder, tasks: Sequence[str]) -> Table:
    """Success of the tasks at the filmed moments, with 95 % intervals over episodes."""
    rows = []
    for task in tasks:
        cells = [success(measured(run), task, last) for run, last in ((forgets, False), (forgets, True), (keeps, True))]
        rows.append((task.removesuffix("-v3"), *cells))
    one, other = (run.config().method.name for run in (forgets, keeps))
    header = ("task", f"{one}: just learned", f"{one}: after the last task", f"{other}: after the last task")
    return Table("Success at these moments (95 % over episodes)", header, tuple(rows))


def success(metrics: Mapping[str, Any], task: str, last: bool) -> str:
    """Success of a task right after its first visit, or after the last task."""
    place = [name.split("#")[0] for name in metrics["tasks"]].index(task)
    row = -1 if last else place
    return f"{number(metrics['scores'][row][place])} ({interval(metrics['intervals'][row][place])})"


def origin(forgets: RunFolder, keeps: RunFolder, recovery_steps: int) -> str:
    """The command that made the pictures, and from what."""
    config = forgets.config()
    one, other = ("/".join(run.path.parts[-4:]).lstrip("/") for run in (forgets, keeps))
    words = f"--forgets {one} --keeps {other}"
    return (
        f"Made by `.venv/bin/python scripts/make_gallery.py {words}`: seed {config.seed}, {config.training.steps:,} "
        f"updates a task, recovery of {recovery_steps} updates on the task's demonstrations; each picture is one start "
        "state, solved when just learned and, where there is one, failed at the end."
    )


if __name__ == "__main__":
    sys.exit(main())
