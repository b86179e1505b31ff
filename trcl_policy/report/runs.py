"""A finished (or running) run as the report sees it: what its folder holds, checked."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from trcl_policy.continual.metrics import forward_transfer, mean_or_none
from trcl_policy.files import explained, read_json, read_jsonl, read_text
from trcl_policy.rollout.retention import learning_curves

ALONE = "alone"
"""The method that learns every task alone."""
Matrix = Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Run:
    """What one run directory says.

    Attributes:
        path: the folder.
        label: how the report calls it: the method's name, with the folder's where several runs share the method.
        method: name of the method.
        tasks: labels of the T tasks in learning order, short and unique.
        score: ``"success"``, or the name of a distance (smaller is better).
        scores: T x T, row k measured after task k; None where not measured.
        intervals: T x T pairs [low, high], None where unknown.
        metrics: the whole of metrics.json.
        config: text of config.yaml, empty if there is none.
        settings: the same, read.
        provenance: provenance.json, empty if there is none.
        log: records of log.jsonl.
        probe: recovery.json as ``trcl recover`` writes it, empty if there is none.
        videos: mp4 files, sorted.
        replay: records of replay.jsonl.
        samples: files with a few generated images of each task, by the number of their checkpoint.
    """

    path: Path
    label: str
    method: str
    tasks: tuple[str, ...]
    score: str
    scores: Matrix
    intervals: Matrix
    metrics: Mapping[str, Any]
    config: str
    settings: Mapping[str, Any]
    provenance: Mapping[str, Any]
    log: Sequence[Mapping[str, Any]]
    probe: Mapping[str, Any]
    videos: tuple[Path, ...]
    replay: Sequence[Mapping[str, Any]] = ()
    samples: Mapping[int, Path] = field(default_factory=dict)

    @property
    def is_success(self) -> bool:
        """Whether scores are shares of success: in [0, 1], larger is better."""
        return self.score == "success"

    @property
    def probe_label(self) -> str:
        """What the probe's pictures and tables call it: fewer seeds of a group may have a probe than runs."""
        return str(self.probe.get("label", self.label))

    def final(self, task: str) -> tuple[float | None, Sequence[float] | None]:
        """Return a task's score after the last task, and its interval; (None, None) for a task that is not there."""
        if task not in self.tasks:
            return None, None
        column = self.tasks.index(task)
        return self.scores[-1][column], self.intervals[-1][column]

    def seen_average(self) -> list[float | None]:
        """Return, after each task k, the mean score over tasks 0..k; None where one of them was not measured."""
        rows = [list(row[: k + 1]) for k, row in enumerate(self.scores)]
        return [None if None in row else sum(row) / len(row) for row in rows]


def load_runs(paths: Sequence[Path], completed: Callable[[str], str] = str) -> list[Run]:
    """Return the runs of these folders, with labels that differ.

    Args:
        paths: run directories.
        completed: gives the text of a config.yaml the settings that are younger than the run, so that runs from before
            and after are compared as what they are.

    Raises:
        ValueError: no folder given, one that is no run or has no results yet, or damaged results.
        FileError: a file can't be read.
    """
    if not paths:
        raise ValueError("runs must name at least one run directory, got none")
    runs = [_load(Path(path), completed) for path in paths]
    methods = Counter(run.method for run in runs)
    runs = [replace(r, label=f"{r.method} ({r.path.resolve().name})") if methods[r.method] > 1 else r for r in runs]
    seen: Counter[str] = Counter()
    for number, run in enumerate(runs):  # folders of the same name in different places
        seen[run.label] += 1
        if seen[run.label] > 1:
            runs[number] = replace(run, label=f"{run.label} #{seen[run.label]}")
    return [_with_transfer(run, runs) for run in runs]


def _with_transfer(run: Run, runs: Sequence[Run]) -> Run:
    """The run with its forward transfer, where an ``alone`` run on the same tasks and updates is among ``runs``.

    Of several such runs the one of the same seed counts.
    """
    if run.method == ALONE or not run.is_success or run.metrics.get("forward_transfer") is not None:
        return run
    seed = run.settings.get("seed")
    there = [r for r in runs if r.method == ALONE and r.metrics["tasks"] == run.metrics["tasks"]]
    mine = learning_curves(run.metrics)
    there = [r for r in there if [*map(sorted, learning_curves(r.metrics))] == [*map(sorted, mine)]]
    if not there or min(map(len, mine)) < 2:
        return run
    reference = next((r for r in there if r.settings.get("seed") == seed), there[0])
    gains = forward_transfer(mine, learning_curves(reference.metrics))
    return replace(run, metrics={**run.metrics, "forward_transfers": gains, "forward_transfer": mean_or_none(gains)})


def _load(path: Path, completed: Callable[[str], str]) -> Run:
    if not path.is_dir():
        raise ValueError(f"run must be a run directory, got {path}, which is not there")
    if not (path / "metrics.json").exists():
        raise ValueError(f"run must have a metrics.json, got {path} without one (has it measured anything yet?)")
    with explained("read", path):
        videos = tuple(sorted((path / "videos").glob("*.mp4")))
        samples = sorted((path / "samples").glob("[0-9]*.safetensors"))
    run = run_of(
        path,
        read_json(path / "metrics.json"),
        config=completed(read_text(path / "config.yaml")) if (path / "config.yaml").exists() else "",
        provenance=read_json(path / "provenance.json") if (path / "provenance.json").exists() else {},
        probe=read_json(path / "recovery.json") if (path / "recovery.json").exists() else {},
    )
    return replace(
        run,
        log=read_jsonl(path / "log.jsonl") if (path / "log.jsonl").exists() else [],
        videos=videos,
        replay=read_jsonl(path / "replay.jsonl") if (path / "replay.jsonl").exists() else [],
        samples={int(file.stem): file for file in samples},
    )


def run_of(
    path: Path,
    metrics: Any,
    config: str,
    provenance: Mapping[str, Any],
    probe: Mapping[str, Any] = MappingProxyType({}),
) -> Run:
    """Return the run that these documents describe, wherever they are kept; ``path`` names it in messages.

    Raises:
        ValueError: they are damaged.
    """
    tasks, scores, intervals = _checked(metrics, path / "metrics.json")
    return Run(
        path=path,
        label=str(metrics["method"]),
        method=str(metrics["method"]),
        tasks=_short(tasks),
        score=str(metrics.get("score", "success")),
        scores=scores,
        intervals=intervals,
        metrics=metrics,
        config=config,
        settings=_read_settings(config, path / "config.yaml"),
        provenance=provenance,
        log=[],
        probe=probe,
        videos=(),
    )


def _checked(metrics: Any, path: Path) -> tuple[list[str], Matrix, Matrix]:
    """Return tasks, scores and intervals of a metrics.json of the right shape."""
    missing = [name for name in ("tasks", "method", "scores") if not isinstance(metrics, dict) or name not in metrics]
    if missing:
        raise ValueError(f"{path} must hold tasks, method and scores, got none called {', '.join(missing)}")
    tasks, scores, size = metrics["tasks"], metrics["scores"], len(metrics["tasks"])
    intervals = metrics.get("intervals") or [[None] * size for _ in range(size)]
    if not size:
        raise ValueError(f"tasks in {path} must name at least one task, got none")
    for name, matrix in (("scores", scores), ("intervals", intervals)):
        if (
            not isinstance(matrix, list)
            or len(matrix) != size
            or any(not isinstance(row, list) or len(row) != size for row in matrix)
        ):
            shape = [len(row) if isinstance(row, list) else row for row in matrix or ()]
            raise ValueError(f"{name} in {path} must be {size} x {size}, one row per task, got rows of length {shape}")
    if any(not isinstance(entry, (int, float, type(None))) for row in scores for entry in row):
        raise ValueError(f"scores in {path} must be numbers or null")
    return tasks, scores, intervals


def _read_settings(config: str, path: Path) -> Mapping[str, Any]:
    try:
        settings = yaml.safe_load(config) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} must be readable YAML, got: {' '.join(str(error).split())}") from None
    if not isinstance(settings, Mapping):
        raise ValueError(f"{path} must be a mapping of keys to values, got {type(settings).__name__}")
    return settings


def short_name(name: str) -> str:
    """A task's name without its version, its later visits numbered: ``hammer-v3#2`` becomes ``hammer (2)``."""
    task, _, visit = name.partition("#")
    task = re.sub(r"-v\d+$", "", task)
    return f"{task} ({visit})" if visit else task


def _short(tasks: Sequence[str]) -> tuple[str, ...]:
    """Return task names without their version, numbered where a task comes back (``hammer``, ``hammer (2)``)."""
    seen: Counter[str] = Counter()
    labels = []
    for name in tasks:
        short = short_name(str(name))
        seen[short] += 1
        labels.append(short if seen[short] == 1 else f"{short} ({seen[short]})")
    return tuple(labels)


def all_tasks(runs: Sequence[Run]) -> list[str]:
    """Return the tasks of all runs, each once, in the order in which they first appear."""
    return list(dict.fromkeys(task for run in runs for task in run.tasks))
