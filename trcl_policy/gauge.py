"""What a run measures on the way: scores, held-out losses, replayed samples and what all of it costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from trcl_policy.config import RunConfig
from trcl_policy.continual.learner import Method
from trcl_policy.continual.params import Params
from trcl_policy.continual.probes import held_out_loss
from trcl_policy.continual.snapshot import Snapshot
from trcl_policy.domains import Agent, Domain
from trcl_policy.folder import RunFolder, alone_curves
from trcl_policy.replay_log import log_replay
from trcl_policy.rollout.relearning import loss_retention
from trcl_policy.rollout.retention import Cell, task_of


class Gauge:
    """Measures a run and writes what it finds into the run directory.

    Args:
        config: the run's configuration.
        folder: the run directory.
        domain: what is learned.
        method: what the run learns with.
        check: called between two measurements of tasks; raises where the run is to stop.
    """

    def __init__(
        self, config: RunConfig, folder: RunFolder, domain: Domain[Any], method: Method, check: Callable[[], None]
    ) -> None:
        self.config, self.folder, self.domain, self.method, self.check = config, folder, domain, method, check
        self.names = domain.names
        self.at_steps = config.evaluation.updates(config.training.steps)
        self.alone = alone_curves(config, self.names)
        self.cost: dict[str, dict[str, float]] = (folder.metrics() or {}).get("cost", {"seconds": {}, "bytes": {}})
        self.has_measured = False

    def catch_up(self, task: int, step: int) -> None:
        """Measure what a run that stands at this update of this task was stopped before measuring."""
        learned = self.num_learned(task, step)
        self.measure_before(self.domain.params(), 0, None)
        for checkpoint in self.folder.checkpoints():
            if int(checkpoint.name) < learned:
                agent = self.domain.load(checkpoint)
                self.measure(agent, int(checkpoint.name), None)
                self.measure_before(agent.params, int(checkpoint.name) + 1, agent.owner)

    def num_learned(self, task: int, step: int) -> int:
        """Tasks that have been learned at this update of this task."""
        if self.method.joint:
            return len(self.names) if step >= self.config.training.steps * len(self.names) else 0
        return task + (step >= self.config.training.steps)

    def is_measured(self, snapshot: Snapshot) -> bool:
        """Whether ``at_steps`` asks for this moment inside a task; a joint run has none to be inside of."""
        return snapshot.kind == "step" and snapshot.position.step in self.at_steps and not self.method.joint

    def measure(self, agent: Agent, number: int, step: int | None) -> None:
        """Measure every task seen, the one being learned included, except for what is on record already.

        At step 0 this is the new task alone: the others stand as the task before left them. A method that learns each
        task alone has no others at all.

        The last save stands before these measurements, so that a stop between two tasks loses nothing.
        """
        started = time.monotonic()
        done, seeds = _seeds_of(self.folder.records(self.domain.record_file)), self.domain.seeds
        if step is None:
            self.domain.illustrate(agent, number, self.folder.path)
        total = self.config.training.steps * (len(self.names) if self.method.joint else 1)
        update = total if step is None else step
        learned = number + 1
        for task in dict.fromkeys(
            task_of(name) for name in self.names[number * (step == 0 or self.method.alone) : learned]
        ):
            there = done.get((number, step, task), set())
            if there.issuperset(seeds):
                continue
            self.check()
            self.has_measured = True
            measured = self.domain.measure(agent, task, seeds)
            self.folder.append_records(
                self.domain.record_file,
                (
                    {"checkpoint": number, "step": step, "update": update, **one.record()}
                    for one in measured
                    if one.seed not in there
                ),
            )
            self._spend("evaluation", time.monotonic() - started)
            started = time.monotonic()

    def measure_before(self, params: Params, number: int, owner: torch.Tensor | None) -> None:
        """Measure task ``number`` before its first update, where ``at_steps`` asks for that."""
        if 0 in self.at_steps and not self.method.joint and number < len(self.names):
            start = self.domain.params() if self.method.alone else params
            self.measure(self.domain.agent(start, number + 1, owner), number, 0)

    def write_metrics(self) -> None:
        """Renew ``metrics.json`` from all that is on record."""
        measured = self.domain.retention(self.folder.records(self.domain.record_file), self.alone)
        losses = loss_retention(self.folder.log(), self.names)
        self.folder.write_metrics({"method": self.config.method.name, **measured, **losses, "cost": self.cost})

    def judge_replay(self, snapshot: Snapshot) -> None:
        """Measure the replayed samples that were made just now."""
        started = time.monotonic()
        path, tasks = self.folder.path / "replay.jsonl", self.domain.tasks
        log_replay(path, snapshot.state(), tasks, snapshot.position.task)
        self._spend("evaluation", time.monotonic() - started)

    def _spend(self, purpose: str, seconds: float) -> None:
        self.cost["seconds"][purpose] = self.cost["seconds"].get(purpose, 0.0) + seconds

    def held_out(self, snapshot: Snapshot) -> dict[str, float | None]:
        """Held-out loss of every task seen and of the new one, under the same noise for all methods and moments."""
        seen = len(self.names) if self.method.joint else snapshot.position.task + 1
        visits = list(zip(self.names[:seen], self.domain.tasks.tasks[:seen], strict=True))
        latest = {task_of(name): place for place, (name, _) in enumerate(visits)}
        return {
            name: held_out_loss(self.domain.model, snapshot.params_of(latest[name]), task, seed=0)
            for name, task in visits
            if "#" not in name
        }

    def told(self, number: int) -> str:
        """The scores after task ``number`` in a line."""
        metrics = self.folder.metrics() or {}
        row, tasks = metrics["scores"][number], metrics["tasks"]
        shown = ", ".join(f"{task_of(n)} {s:.2f}" for n, s in zip(tasks, row, strict=True) if s is not None)
        return f"{self.config.method.name}: after task {number + 1} of {len(tasks)}: {shown}"


def _seeds_of(records: Iterable[Mapping[str, Any]]) -> dict[Cell, set[int]]:
    """Seeds on record for every (checkpoint, step, task)."""
    found: dict[Cell, set[int]] = {}
    for record in records:
        cell = (int(record["checkpoint"]), record.get("step"), str(record["task"]))
        found.setdefault(cell, set()).add(int(record["seed"]))
    return found
