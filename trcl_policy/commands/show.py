"""``trcl record``, ``report``, ``methods``, ``tasks`` and ``doctor``."""

from __future__ import annotations

import dataclasses
import textwrap
from dataclasses import dataclass
from pathlib import Path

import tyro

from trcl_policy.commands.parsing import say


@dataclass(frozen=True)
class Record:
    """Film rollouts of one start state, or of a grid of them.

    Attributes:
        run: run directory.
        task: task to film; the first of the sequence where not given.
        moments: learned, forgotten, recovered, joined by commas: just after the task was learned, after the last task,
            and after a short recovery from there. Side by side.
        seed: start state; where not given, the first evaluation seed that succeeded when learned and, if there is one,
            failed after the last task. With tile: the first of the grid's, else the first evaluation seed.
        recovery_steps: updates of the recovery.
        size: width and height of a panel [pixels]; 256 where not given, with tile 512.
        out: file: .mp4, .webp or .gif (animation), .png (stills); RUN/videos/TASK.mp4 where not given.
        tile: start states in a grid, 1 to 16, with the share that was solved above it.
        backend: physics backend: cpu. Pictures are drawn afterwards, from the states of any backend.
        env_python: Python of the virtual environment that simulates; the run's own where not given.
    """

    run: tyro.conf.Positional[Path]
    task: str | None = None
    moments: str = "learned,forgotten,recovered"
    seed: int | None = None
    recovery_steps: int = 100
    size: int | None = None
    out: Path | None = None
    tile: int = 1
    backend: str = "cpu"
    env_python: str | None = None


def record(options: Record) -> int:
    """Run ``trcl record``."""
    from trcl_policy.folder import RunFolder
    from trcl_policy.moments import film

    choices = {name: value for name, value in vars(options).items() if name != "run"}
    print(film(RunFolder(options.run), **choices))
    return 0


@dataclass(frozen=True)
class Report:
    """Compare runs on one page.

    Attributes:
        runs: run directories.
        out: folder for the page, its plots and tables.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    out: Path = Path("report")


def report(options: Report) -> int:
    """Run ``trcl report``."""
    from trcl_policy.config import completed
    from trcl_policy.report.page import build_report

    files = build_report(options.runs, options.out, completed=completed)
    print(files.summary)
    print(f"page: {files.page}")
    return 0


@dataclass(frozen=True)
class Listing:
    """List what there is.

    Attributes:
        json: print one JSON document.
    """

    json: bool = False


def methods(options: Listing) -> int:
    """Run ``trcl methods``."""
    from trcl_policy.continual.methods import METHODS, Options

    table = {name: {**dataclasses.asdict(r), "memory": r.memory(Options())} for name, r in METHODS.items()}
    lines = [
        f"{name:<15} {r.summary} ({r.source})\n"
        f"{'':<15} update {r.update}, anchor {r.anchor}, replay {r.replay}; keeps {r.memory(Options())}"
        for name, r in METHODS.items()
    ]
    knobs = ["", "a vector has as many numbers as the network has weights; knobs: trcl train --help, method.*"]
    say(options.json, table, "\n".join([*lines, *knobs]))
    return 0


def tasks(options: Listing) -> int:
    """Run ``trcl tasks``."""
    from trcl_envs.catalog import resolve_sequence, sequence_names, task_info, task_names

    infos = {name: dataclasses.asdict(task_info(name)) for name in task_names()}
    lines = [f"{name:<28} {info['horizon']:>4} steps  {info['instruction']}" for name, info in infos.items()]
    fill = textwrap.TextWrapper(width=110, subsequent_indent=" " * 9, break_on_hyphens=False).fill
    members = {name: resolve_sequence(name) for name in sequence_names()}
    sequences = [fill(f"{name:<8} {', '.join(names)}") for name, names in members.items()]
    sequences.append("random orders: random20:7 (20 of the fifty, seed 7), shuffle:cw10:7 (any sequence, seed 7)")
    say(options.json, {"tasks": infos, "sequences": members}, "\n".join([*lines, "", "sequences:", *sequences]))
    return 0


def doctor(options: Listing) -> int:
    """Run ``trcl doctor``; status 1 where something needed is broken."""
    from trcl_policy import doctor as examination

    checks = examination.diagnose()
    print(examination.report(options.json, checks))
    return 0 if examination.healthy(checks) else 1
