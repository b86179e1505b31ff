"""The run directory: every file of it, written atomically, read with checks."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import Tensor

from trcl_policy.config import RunConfig, dump_config, load_config
from trcl_policy.files import (
    FileError,
    append_jsonl,
    explained,
    read_json,
    read_jsonl,
    read_safetensors,
    write_json,
    write_safetensors,
    write_text,
)
from trcl_policy.rollout.retention import learning_curves
from trcl_policy.schema import ConfigError

PACKAGES = (
    "trcl-policy",
    "torch",
    "mujoco",
    "metaworld",
    "gymnasium",
    "diffusers",
    "zarr",
    "numpy",
    "robomimic",
    "scikit-learn",
)


class RunFolder:
    """One run directory, laid out as ``config.yaml``, ``log.jsonl``, ``episodes.jsonl``, ``checkpoints/00`` and so on.

    Args:
        path: the directory.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, path: Path | str, config: RunConfig, facts: Mapping[str, Any]) -> RunFolder:
        """A new run directory with its configuration and provenance.

        Raises:
            ConfigError: the directory already holds something.
            FileError: the machine refuses.
        """
        cls.check_new(path)
        folder = cls(path)
        beside = folder.path.with_name(f".{folder.path.name}.{os.getpid()}.tmp")
        try:
            write_json(beside / "provenance.json", {**provenance(), **facts, "seed": config.seed})
            write_text(beside / "config.yaml", dump_config(config))
            with explained("write", path):
                os.replace(beside, folder.path)
        except FileError as error:
            raise FileError(str(error).replace(str(beside), str(path))) from None
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        return folder

    @staticmethod
    def check_new(path: Path | str) -> None:
        """Raise ConfigError unless nothing, or an empty folder, is at ``path``."""
        path = Path(path)
        with explained("read", path):
            taken = path.exists() and (not path.is_dir() or any(path.iterdir()))
        if taken:
            hint = f"; go on with it: trcl train --resume {path}" if (path / "config.yaml").exists() else ""
            raise ConfigError(f"out must be a new or empty folder, got {path}, which exists{hint}")

    def config(self) -> RunConfig:
        """The run's configuration.

        Raises:
            ConfigError: the directory is no run, or its configuration is damaged.
        """
        path = self.path / "config.yaml"
        if not path.is_file():
            raise ConfigError(f"run must be a run directory with a config.yaml, got {self.path}")
        return load_config(path)

    def provenance(self) -> dict[str, Any]:
        """Versions, device, data and times."""
        return read_json(self.path / "provenance.json")

    def add_provenance(self, **facts: Any) -> None:
        """Add facts to the provenance."""
        write_json(self.path / "provenance.json", {**self.provenance(), **facts})

    def checkpoint(self, number: int | str | None = None) -> Path:
        """The folder of a checkpoint; None is the newest.

        Raises:
            ConfigError: there is no such checkpoint.
        """
        there = self.checkpoints()
        if number in (None, "last") and there:
            return there[-1]
        name = f"{int(number):02d}" if str(number).isdecimal() else str(number)  # type: ignore[arg-type]
        path = self.path / "checkpoints" / name
        if path not in there:
            raise ConfigError(
                f"checkpoint must be one of {', '.join(p.name for p in there) or '(none yet)'} in {self.path}, "
                f"got {number}"
            )
        return path

    def checkpoints(self) -> list[Path]:
        """All complete checkpoints in order."""
        found = (self.path / "checkpoints").glob("[0-9][0-9]*/config.json")
        return sorted((path.parent for path in found), key=lambda path: int(path.name))

    def point_last_at(self, number: int) -> None:
        """Make ``checkpoints/last`` the newest checkpoint."""
        link = self.path / "checkpoints" / "last"
        beside = link.with_name(f".last.{os.getpid()}.tmp")
        with explained("write", link):
            beside.unlink(missing_ok=True)
            beside.symlink_to(f"{number:02d}")
            os.replace(beside, link)

    def save_state(self, state: Mapping[str, Tensor]) -> None:
        """Replace the resumable state: one file, so that it is always of one moment."""
        write_safetensors(self.path / "state" / "learner.safetensors", state)

    def load_state(self) -> dict[str, Tensor] | None:
        """The resumable state, or None where nothing was saved yet.

        Raises:
            ValueError: the file is damaged.
        """
        path = self.path / "state" / "learner.safetensors"
        for place in ("state", "samples", "checkpoints", "checkpoints/*", "."):
            for leftover in self.path.glob(f"{place}/.*.tmp"):
                leftover.unlink(missing_ok=True)
        return read_safetensors(path)[0] if path.exists() else None

    def append_log(self, record: Mapping[str, Any]) -> None:
        """Add a line to ``log.jsonl``."""
        append_jsonl(self.path / "log.jsonl", [record])

    def cut_log(self, task: int, step: int) -> None:
        """Drop log lines after update ``step`` of task ``task``: a resumed run writes them again."""
        path = self.path / "log.jsonl"
        if path.exists():
            kept = [
                line for line in read_jsonl(path, repair=True) if (line["task_index"], line["step"]) <= (task, step)
            ]
            write_text(path, "".join(json.dumps(line) + "\n" for line in kept))

    def log(self) -> list[dict[str, Any]]:
        """Lines of ``log.jsonl``."""
        path = self.path / "log.jsonl"
        return read_jsonl(path) if path.exists() else []

    def records(self, name: str, repair: bool = False) -> list[dict[str, Any]]:
        """Lines of the file ``name``; a line torn by a crash is left out, and removed with ``repair``."""
        path = self.path / name
        return read_jsonl(path, repair=repair) if path.exists() else []

    def append_records(self, name: str, records: Iterable[Mapping[str, Any]]) -> None:
        """Add lines to the file ``name``."""
        append_jsonl(self.path / name, records)

    def episodes(self) -> list[dict[str, Any]]:
        """Lines of ``episodes.jsonl``."""
        return self.records("episodes.jsonl")

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Replace ``metrics.json``."""
        write_json(self.path / "metrics.json", metrics)

    def metrics(self) -> dict[str, Any] | None:
        """The metrics, or None before the first measurement."""
        path = self.path / "metrics.json"
        return read_json(path) if path.exists() else None


def provenance() -> dict[str, Any]:
    """What this machine and installation are."""
    return {
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "git_commit": _commit(),
        "started": now(),
        "ended": None,
    }


def alone_curves(config: RunConfig, names: Sequence[str]) -> list[dict[int, float]] | None:
    """Success of each task trained alone, by update, from the run that ``evaluation.alone`` names; None without one.

    Raises:
        ConfigError: it is no finished run of the method ``alone`` on these tasks with the same evaluated updates.
    """
    if config.evaluation.alone is None:
        return None
    metrics = RunFolder(config.evaluation.alone).metrics() or {"method": "nothing measured", "tasks": []}
    curves = learning_curves(metrics)
    wanted = [*config.evaluation.updates(config.training.steps), config.training.steps]
    for name, value, accepted in (
        ("method", metrics["method"], "alone"),
        ("tasks", ", ".join(metrics["tasks"]), ", ".join(names)),
        ("evaluated updates", next((sorted(c) for c in curves if sorted(c) != wanted), wanted), wanted),
    ):
        if value != accepted:
            raise ConfigError(
                f"evaluation.alone must be a run with {name} {accepted}, got {config.evaluation.alone} with {value}"
            )
    return curves


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The git commit of this source tree, with ``+`` where files differ from it; None outside a checkout."""
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
