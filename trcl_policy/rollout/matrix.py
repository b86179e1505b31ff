"""A whole retention matrix, every checkpoint on every task it has learned, so that nothing is computed twice.

Every episode that is done is a line of a journal, with all that defines its result: weights, task, seed, and what
simulated it. Lines of other weights or another simulator are left alone and not counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trcl_policy.files import explained
from trcl_policy.rollout.evaluate import BLOCK, Episode
from trcl_policy.rollout.jobs import Job, cut

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """One checkpoint on one task.

    Attributes:
        checkpoint: folder of the policy; its name is the number of tasks learned minus one.
        weights: fingerprint of the policy.
        task: a task that it has learned.
    """

    checkpoint: Path
    weights: str
    task: str

    @property
    def number(self) -> int:
        """Tasks learned so far, minus one."""
        return int(self.checkpoint.name)


def fingerprint_policy(checkpoint: Path) -> str:
    """Twelve hex digits of everything that a saved policy consists of; raises FileError."""
    digest = hashlib.sha256()
    paths = [checkpoint / "config.json", *sorted(checkpoint.glob("*.safetensors"))]
    with explained("read", checkpoint):
        for path in paths:
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                while piece := file.read(1 << 20):
                    digest.update(piece)
    return digest.hexdigest()[:12]


def lines(cell: Cell, episodes: Iterable[Episode], facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Journal lines of a cell's episodes; ``facts`` say what simulated them, those that are None are left out."""
    told = {name: value for name, value in facts.items() if value is not None}
    head = {"checkpoint": cell.number, "step": None, "weights": cell.weights, **told}
    return [{**head, **episode.record()} for episode in episodes]


def held(journal: Iterable[Record], cells: Sequence[Cell], seeds: Sequence[int], facts: Mapping[str, Any]) -> list[Any]:
    """Lines of the journal that answer these cells and seeds under these facts, without repetitions."""
    wanted = {(cell.number, cell.weights, cell.task) for cell in cells}
    chosen, found = set(seeds), {}
    for line in journal:
        cell = (line.get("checkpoint"), line.get("weights"), line.get("task"))
        same = all(line.get(name) == value for name, value in facts.items())
        if same and cell in wanted and line.get("seed") in chosen:
            found[(*cell, line["seed"])] = line
    return list(found.values())


def missing(done: Iterable[Record], cells: Sequence[Cell], seeds: Sequence[int]) -> list[tuple[Cell, Job]]:
    """Jobs for the episodes that no line of ``done`` answers, cell by cell."""
    there: dict[tuple[int, str], set[int]] = {}
    for line in done:
        there.setdefault((line["checkpoint"], line["task"]), set()).add(line["seed"])
    found = []
    for cell in cells:
        rest = [seed for seed in seeds if seed not in there.get((cell.number, cell.task), set())]
        found += [(cell, job) for job in cut(str(cell.checkpoint), [cell.task], rest, BLOCK)]
    return found


def table(document: Mapping[str, Any]) -> str:
    """The matrix for people: a row for every checkpoint, a column for every visit, and the summaries below."""
    width = max(map(len, document["tasks"]))
    head = " ".join(f"{number:>5}" for number in range(len(document["tasks"])))
    rows = [f"{'success after learning':<{width + 4}} {head}"]
    for number, (name, scores) in enumerate(zip(document["tasks"], document["scores"], strict=True)):
        cells = " ".join("    -" if score is None else f"{score:5.2f}" for score in scores)
        rows.append(f"{number:>2}  {name:<{width}} {cells}".rstrip())
    summaries = {"average final": _share(document["average_final"], document["average_final_interval"])}
    summaries |= {name.replace("_", " "): _share(document[name]) for name in ("forgetting", "forgetting_old")}
    return "\n".join([*rows, *(f"{name:<{width + 4}} {value}" for name, value in summaries.items())])


def _share(value: float | None, interval: Sequence[float] | None = None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" + (f"  [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")
