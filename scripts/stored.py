"""The results that the repository keeps: ``results/BENCHMARK/METHOD/seed-N.json``, written small, read as runs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from trcl_policy.config import ConfigError, RunConfig, completed, dump_config, make_config
from trcl_policy.continual.statistics import wilson_interval
from trcl_policy.files import read_json, read_jsonl, write_text
from trcl_policy.report.groups import SEEDLESS
from trcl_policy.report.replay import by_generation
from trcl_policy.report.runs import Run, run_of

RESULTS = Path(__file__).resolve().parent.parent / "results"
LIMIT = 60_000
"""Largest file [bytes] before parts that follow from others are left out."""
DIGITS = 4
QUALITIES = ("share", "coverage", "energy")
Results = dict[int, dict[str, Any]]  # one method's documents by seed


def place(results: Path, benchmark: str, method: str, seed: int) -> Path:
    """Where the result of a run is kept."""
    return results / benchmark / method / f"seed-{seed}.json"


def export(folder: Path, path: Path) -> None:
    """Join a finished run's metrics, provenance and configuration; and where there are any, probe and replay's quality.

    Numbers are rounded to four digits; see :func:`slimmed` for what large files leave out.
    """
    document = {
        "metrics": read_json(folder / "metrics.json"),
        "provenance": read_json(folder / "provenance.json"),
        "config": yaml.safe_load((folder / "config.yaml").read_text()),
    }
    if (folder / "recovery.json").exists():
        probe = read_json(folder / "recovery.json")
        document["probe"] = {name: value for name, value in probe.items() if name != "run"}
    if (folder / "replay.jsonl").exists():
        document["replay"] = replay_quality(read_jsonl(folder / "replay.jsonl"))
    write_text(path, as_text(slimmed(document)))


def replay_quality(lines: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """What a run's ``replay.jsonl`` says of each old task's samples, generation after generation (docs/replay.md)."""
    return {
        task: {name: [line[name] for _, line in sorted(found.items())] for name in QUALITIES}
        for task, found in by_generation(lines).items()
    }


def slimmed(document: Mapping[str, Any], limit: int = LIMIT) -> dict[str, Any]:
    """The document rounded, and below ``limit`` bytes as far as leaving out goes.

    Left out in this order until it fits: curves that were measured at the ends of tasks alone (they repeat ``scores``
    and ``losses``), intervals (Wilson's, from ``scores`` and ``num_episodes``; :func:`load` puts them back), and curves
    of all but the first three tasks.
    """
    slim: dict[str, Any] = rounded(document)
    metrics = slim["metrics"]
    for drop in (_drop_end_curves, _drop_intervals, _drop_late_curves):
        if len(as_text(slim).encode()) <= limit:
            break
        drop(metrics)
    return slim


def _drop_end_curves(metrics: dict[str, Any]) -> None:
    for name in ("curves", "loss_curves"):
        if name in metrics:
            kept = {
                task: {late: curve for late, curve in during.items() if len(curve["updates"]) > 2}
                for task, during in metrics[name].items()
            }
            metrics[name] = {task: during for task, during in kept.items() if during}


def _drop_intervals(metrics: dict[str, Any]) -> None:
    if metrics.get("score") == "success":
        metrics.pop("intervals", None)


def _drop_late_curves(metrics: dict[str, Any]) -> None:
    for name in ("curves", "loss_curves"):
        early = metrics["tasks"][:3]
        metrics[name] = {task: during for task, during in metrics.get(name, {}).items() if task in early}


def rounded(value: Any) -> Any:
    """The same with all floats at four significant digits, or four decimals where that is finer."""
    if isinstance(value, Mapping):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [rounded(entry) for entry in value]
    if isinstance(value, float):
        return round(value, DIGITS) if abs(value) >= 1 else float(f"{value:.{DIGITS}g}")
    return value


def as_text(document: Mapping[str, Mapping[str, Any]]) -> str:
    """JSON with one line for every entry of every part: small, and readable in a diff."""
    parts = []
    for name, part in document.items():
        lines = [f"  {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in part.items()]
        parts.append(f"{json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n}")
    return "{" + ",\n".join(parts) + "}\n"


# ---- reading ----


def benchmarks(results: Path) -> list[str]:
    """Names of the benchmarks that have results, sorted."""
    return sorted({path.parent.parent.name for path in results.glob("*/*/seed-*.json")})


def load(results: Path, benchmark: str) -> dict[str, Results]:
    """All documents of a benchmark by method and seed, with intervals put back."""
    found: dict[str, Results] = {}
    for path in sorted((results / benchmark).glob("*/seed-*.json")):
        match = re.fullmatch(r"seed-(\d+)", path.stem)
        if match:
            found.setdefault(path.parent.name, {})[int(match[1])] = _whole(read_json(path))
    return {method: dict(sorted(seeds.items())) for method, seeds in found.items()}


def _whole(document: dict[str, Any]) -> dict[str, Any]:
    metrics = document["metrics"]
    if "intervals" not in metrics and metrics.get("score") == "success":
        rows = zip(metrics["scores"], metrics["num_episodes"], strict=True)
        metrics["intervals"] = [[_interval(*cell) for cell in zip(*row, strict=True)] for row in rows]
    return document


def _interval(score: float | None, count: int | None) -> list[float] | None:
    return None if score is None or count is None else list(wilson_interval(round(score * count), count))


def as_run(method: str, seed: int, document: Mapping[str, Any]) -> Run:
    """The stored result as the report sees a run; settings that are younger than it have their defaults."""
    return run_of(
        Path(method) / f"seed-{seed}",
        document["metrics"],
        config=completed(yaml.safe_dump(document["config"], sort_keys=False)),
        provenance=document["provenance"],
        probe=document.get("probe", {}),
    )


# ---- settings ----


def difference(found: Mapping[str, Any], wanted: RunConfig) -> str:
    """The first setting in which a stored configuration is not the wanted one, in words; empty where it is.

    What can't change a result, and where data lie, is not looked at; nor is the precision where any will do (``auto``).
    """
    try:
        known = make_config(found)
    except ConfigError as error:
        return f"it can't be read any more: {error}"
    one, other = (_flat(yaml.safe_load(dump_config(config))) for config in (known, wanted))
    counts = {"seed"} if wanted.precision == "auto" else {"seed", "precision"}
    ignored = {*SEEDLESS, "data.store", "evaluation.alone", "evaluation.threads"} - counts
    keys = [key for key in {**one, **other} if key not in ignored and one.get(key) != other.get(key)]
    return f"{keys[0]} is {one.get(keys[0])} there and {other.get(keys[0])} here" if keys else ""


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
