"""Training runs as the scripts beside this file start them: what is still to be done, read off the run folders."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trcl_envs.catalog import resolve_sequence
from trcl_policy.files import FileError, read_json, read_jsonl


@dataclass(frozen=True)
class Job:
    """One run, and what is done with it.

    Attributes:
        folder: the run directory.
        config: file or name of the configuration.
        settings: ``section.key=value`` on top of it.
        method, seed: what the folder is named after.
        kind: runs of the same kind take about as long as each other.
        probe: options of ``trcl recover`` after the run; None leaves it out.
    """

    folder: Path
    config: str
    settings: tuple[str, ...] = ()
    method: str = ""
    seed: int = 0
    kind: str = ""
    probe: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        """The folder from ``runs/`` on, or its last three parts."""
        parts = self.folder.parts
        return "/".join(parts[1:] if parts[0] == "runs" else parts[-3:])

    @property
    def lock(self) -> Path:
        """File that is locked while a process works on the run; beside it, because a new run's folder must be empty."""
        return self.folder.with_name(f".{self.folder.name}.lock")

    @property
    def log(self) -> Path:
        """What the run prints."""
        return self.folder.with_name(f"{self.folder.name}.out")

    def commands(self) -> list[list[str]]:
        """What is still to be done; nothing for a finished run."""
        todo: list[list[str]] = []
        if not is_trained(self.folder):
            begun = (self.folder / "config.yaml").exists()
            new = ["train", self.config, "--out", self.folder, *self.settings]
            todo.append(command(*(["train", "--resume", self.folder] if begun else new)))
        if self.probe is not None and not (self.folder / "recovery.json").exists():
            todo.append(command("recover", self.folder, *self.probe))
        return todo

    def share_done(self) -> float:
        """Share of the updates that is done, in [0, 1]."""
        with contextlib.suppress(FileError, ValueError, KeyError, IndexError):
            last = read_jsonl(self.folder / "log.jsonl")[-1]
            steps, total = _lengths(self.folder)
            return min(1.0, (last["task_index"] * steps + last["step"]) / total)
        return 0.0


def is_trained(folder: Path) -> bool:
    """Whether this is a run that has come to its end."""
    path = folder / "provenance.json"
    return path.exists() and read_json(path).get("ended") is not None and (folder / "metrics.json").exists()


def _lengths(folder: Path) -> tuple[int, int]:
    """Updates a task and in all of a run."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    steps = config["training"]["steps"]
    tasks = config["images"]["split"]["num_tasks"] if config["domain"] == "images" else None
    return steps, steps * (len(resolve_sequence(config["tasks"])) if tasks is None else tasks)


def method_jobs(
    root: Path, config: str, methods: Iterable[str], seeds: Iterable[int], settings: Sequence[str] = ()
) -> list[Job]:
    """Runs of one configuration as ROOT/METHOD/seed-N, all methods of a seed before the next seed."""
    names = list(methods)
    return [
        Job(
            folder=root / method / f"seed-{seed}",
            config=config,
            settings=(f"method.name={method}", f"seed={seed}", *settings),
            method=method,
            seed=seed,
            kind=f"{root.name}/{method}",
        )
        for seed in seeds
        for method in names
    ]


def seconds_of(metrics: Mapping[str, Any]) -> float:
    """Seconds of learning and evaluation that a run's metrics.json tells."""
    return float(sum(metrics["cost"]["seconds"].values()))


def trcl(*words: object) -> None:
    """Run one ``trcl`` command; ends the program with its status where it fails."""
    status = subprocess.run(command(*words), check=False).returncode
    if status:
        sys.exit(status)


def command(*words: object) -> list[str]:
    """The words that run ``trcl`` with this Python."""
    return [sys.executable, "-m", "trcl_policy", *map(str, words)]
