"""``replay.jsonl``: how good the replayed samples of every old task are, each time a new teacher draws them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trcl_policy.continual.params import num_rows
from trcl_policy.continual.quality import can_judge, device_of, judge, of_task
from trcl_policy.continual.streams import derive_seed
from trcl_policy.continual.tasks import Task, TaskSequence
from trcl_policy.files import append_jsonl, read_jsonl

POOL = "replay/pool/"
"""Where replays that keep a pool of samples have it in the learner's state."""
FRESH = "replay/fresh/"
"""Where those that keep corrupted samples only have what was made just now."""


def log_replay(path: Path, state: Mapping[str, Tensor], tasks: TaskSequence, index: int) -> None:
    """Judge the pool drawn after task ``index`` and append one line for every old task, unless it is there already.

    Held-out samples serve this measurement only, and its random numbers depend on the two tasks' names alone: the run
    learns the same with and without it, and a resumed run writes the same lines once. Where only corrupted samples are
    kept, the task just learned alone gets a line. Replays that keep no samples, or corrupted ones of real samples, and
    tasks without held-out samples get none.
    """
    start = FRESH if any(key.startswith(FRESH) for key in state) else POOL
    pool = {key.removeprefix(start): leaf for key, leaf in state.items() if key.startswith(start)}
    there = {(line["after"], line["task"]) for line in read_replay(path)}
    seen, after = tasks.distinct(index + 1), tasks[index].name
    missing = [task for task in seen if (after, task.name) not in there and can_judge(pool, task)]
    if missing:
        append_jsonl(path, _lines(pool, tasks, index, missing))


def read_replay(path: Path) -> list[dict[str, Any]]:
    """The lines of ``replay.jsonl``, none where it does not exist; a torn last line is left out."""
    return read_jsonl(path) if path.exists() else []


def _lines(
    pool: Mapping[str, Tensor], tasks: TaskSequence, index: int, missing: list[Task]
) -> Iterator[dict[str, Any]]:
    seen, after = tasks.distinct(index + 1), tasks[index].name
    for task in missing:
        rng = torch.Generator(device_of(task))
        rng.manual_seed(derive_seed("replay quality", after, task.name))
        verdict = judge(pool, task, [other for other in seen if other is not task], rng)
        yield {
            "after": after,
            "after_index": index,
            "task": task.name,
            "generation": generation(tasks, task, index),
            "num_samples": num_rows(of_task(pool, task)),
            **verdict.made.record(),
            "real": verdict.real.record(),
            "other": verdict.other.record() if verdict.other else None,
        }


def generation(tasks: TaskSequence, task: Task, index: int) -> int:
    """How many models have learned ``task`` from one another's samples by the end of task ``index``; 1: from real ones.

    A second visit brings real samples, so the count begins again.
    """
    return 1 + index - max(i for i in range(index + 1) if tasks[i].samples is task.samples)
