"""Trains one run: the core's snapshots in, the run directory out."""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from trcl_policy.config import RunConfig
from trcl_policy.continual.learner import Snapshot, learn
from trcl_policy.continual.methods import METHODS
from trcl_policy.continual.params import Params
from trcl_policy.continual.probes import held_out_loss
from trcl_policy.continual.streams import Streams, derive_seed
from trcl_policy.domains import DOMAINS, PolicyDomain
from trcl_policy.folder import RunFolder, alone_curves, now
from trcl_policy.policy.controller import Policy
from trcl_policy.replay_log import log_replay
from trcl_policy.rollout.relearning import loss_retention
from trcl_policy.rollout.retention import cells, retention, task_of
from trcl_policy.schema import ConfigError

SLOWEST_SAVE = 20
"""A save of the state may take one part in this many of the time between saves."""


class Interrupted(Exception):
    """Raised when a signal asked the run to stop; its state is saved."""


def train(config: RunConfig, out: Path | str) -> RunFolder:
    """Learn the whole sequence into a new run directory.

    Raises:
        ConfigError: the configuration, data set or folder can't be used; nothing has been written.
        Interrupted: a signal asked to stop.
    """
    torch.set_num_threads(config.threads)
    RunFolder.check_new(out)
    domain = DOMAINS[config.domain](config)
    folder = RunFolder.create(out, config, domain.provenance())
    _Trainer(config, folder, domain).run(None)
    return folder


def resume(path: Path | str) -> RunFolder:
    """Go on with a run that was stopped, to the same result as if it never had been.

    Raises:
        ConfigError: the folder is no run, or its data set is no longer the same.
        ValueError: its state is damaged.
    """
    folder = RunFolder(path)
    config = folder.config()
    torch.set_num_threads(config.threads)
    domain = DOMAINS[config.domain](config)
    before, after = folder.provenance().get("data"), domain.provenance()["data"]
    if before is not None and before["fingerprint"] != after["fingerprint"]:
        raise ConfigError(f"data.store must be the one the run began with, got {config.data.store} with other contents")
    trainer = _Trainer(config, folder, domain)
    state = trainer.catch_up()
    if folder.provenance()["ended"] is None:
        folder.add_provenance(resumed=[*folder.provenance().get("resumed", []), now()])
    trainer.run(state)
    return folder


class _Trainer:
    def __init__(self, config: RunConfig, folder: RunFolder, domain: PolicyDomain) -> None:
        self.config, self.folder, self.domain = config, folder, domain
        self.method = METHODS[config.method.name].build(config.method)
        self.names = domain.names
        self.at_steps = config.evaluation.updates(config.training.steps)
        self.alone = alone_curves(config, self.names)
        self._saved_at = time.monotonic()
        self._save_seconds = 0.0
        self._stop = False
        self._changed = False
        self._writer: Any = None
        self._cost: dict[str, dict[str, float]] = (folder.metrics() or {}).get("cost", {"seconds": {}, "bytes": {}})
        self._bar: tqdm[Any] = tqdm(total=config.training.steps * len(self.names), unit="step", disable=None)

    def run(self, state: Mapping[str, torch.Tensor] | None) -> None:
        """Learn from ``state`` (None: from the start) to the end."""
        with self._signals(), self._bar, contextlib.closing(self.domain):
            try:
                self._measure_late(state)
                self._learn(state)
            finally:
                if self._writer is not None:
                    self._writer.close()
        if self._changed or self.folder.provenance()["ended"] is None:
            self._write_metrics()
            self.folder.add_provenance(ended=now())

    def _learn(self, state: Mapping[str, torch.Tensor] | None) -> None:
        streams = Streams(derive_seed(self.config.seed, "learning"), self.domain.device)
        tasks, training = self.domain.tasks, self.config.training
        params, model = self.domain.params(), self.domain.model
        every = self.config.log_every
        for snapshot in learn(model, params, tasks, self.method, training, streams, every, self.at_steps, state):
            self._changed = True
            self._receive(snapshot)
            if self._stop:
                self._save(snapshot)
                raise Interrupted

    def catch_up(self) -> dict[str, torch.Tensor] | None:
        """The saved state, with the folder brought to where it stands: log lines that come again are dropped.

        Raises:
            ValueError: the state is damaged or not of this run.
        """
        state = self.folder.load_state()
        task, step = (-1, 0) if state is None else self._position(state)
        self.folder.cut_log(task, step)
        self.folder.episodes(repair=True)
        self._bar.update(max(task, 0) * self.config.training.steps + step)
        return state

    def _position(self, state: Mapping[str, torch.Tensor]) -> tuple[int, int]:
        """Task and update of a state, which must be one of this run."""
        size = sum(leaf.numel() for leaf in self.domain.params().values())
        theta, position = state.get("optimizer/theta"), state.get("position")
        if theta is None or position is None or theta.shape != (size,) or position.shape != (3,):
            raise ValueError(
                f"{self.folder.path / 'state'} must hold the state of this run with its {size} weights, got another one"
            )
        return int(position[0]), int(position[1])

    def _measure_late(self, state: Mapping[str, torch.Tensor] | None) -> None:
        """Measure the checkpoints that the run was stopped before measuring."""
        learned = 0 if state is None else self._num_learned(*self._position(state))
        self._measure_before(self.domain.params(), 0, None)
        for checkpoint in self.folder.checkpoints():
            if int(checkpoint.name) < learned:
                agent = self.domain.load(checkpoint)
                self._measure(agent, int(checkpoint.name), None)
                self._measure_before(agent.params, int(checkpoint.name) + 1, agent.owner)

    def _num_learned(self, task: int, step: int) -> int:
        if self.method.joint:
            return len(self.names) if step >= self.config.training.steps * len(self.names) else 0
        return task + (step >= self.config.training.steps)

    def _receive(self, snapshot: Snapshot) -> None:
        position = snapshot.position
        if snapshot.kind == "settled":
            self._judge_replay(snapshot)
            self._save(snapshot)
            return
        self._log(snapshot)
        if snapshot.kind == "learned":
            number = self._num_learned(position.task, position.step) - 1
            checkpoint = self.folder.path / "checkpoints" / f"{number:02d}"
            agent = self.domain.agent(snapshot.params, number + 1, snapshot.owner)
            agent.save(checkpoint)
            self.folder.point_last_at(number)
            self._save(snapshot)
            self._measure(agent, number, None)
            self._measure_before(snapshot.params, number + 1, snapshot.owner)
            self._write_metrics()
            self._tell(number)
        else:
            if self._is_measured(snapshot):
                agent = self.domain.agent(snapshot.params, position.task + 1, snapshot.owner)
                self._measure(agent, position.task, position.step)
            if time.monotonic() - self._saved_at > max(self.config.save_every_s, SLOWEST_SAVE * self._save_seconds):
                self._save(snapshot)

    def _is_measured(self, snapshot: Snapshot) -> bool:
        """Whether ``at_steps`` asks for this moment inside a task; a joint run has none to be inside of."""
        return snapshot.kind == "step" and snapshot.position.step in self.at_steps and not self.method.joint

    def _judge_replay(self, snapshot: Snapshot) -> None:
        started = time.monotonic()
        path, tasks = self.folder.path / "replay.jsonl", self.domain.tasks
        log_replay(path, snapshot.state(), tasks, snapshot.position.task)
        self._spend("evaluation", time.monotonic() - started)

    def _spend(self, purpose: str, seconds: float) -> None:
        self._cost["seconds"][purpose] = self._cost["seconds"].get(purpose, 0.0) + seconds

    def _log(self, snapshot: Snapshot) -> None:
        position = snapshot.position
        if not all(map(math.isfinite, snapshot.scalars.values())):
            raise ValueError(
                f"training.learning_rate must be low enough to learn at, got {self.config.training.learning_rate}: "
                f"the loss is no longer finite at update {position.step} of {snapshot.task}"
            )
        self._bar.update(position.task * self.config.training.steps + position.step - self._bar.n)
        self._bar.set_postfix(task=snapshot.task, loss=f"{snapshot.scalars['loss_new']:.4f}")
        record: dict[str, Any] = {
            "task": snapshot.task,
            "task_index": position.task,
            "step": position.step,
            **snapshot.scalars,
            "seconds": snapshot.seconds["training"],
            "steps_per_second": round(self._done(snapshot) / max(snapshot.seconds["training"], 1e-9), 2),
        }
        if snapshot.kind == "learned" or self._is_measured(snapshot):
            record["learned"] = snapshot.kind == "learned"
            record["held_out_loss"] = self._held_out(snapshot)
        self.folder.append_log(record)
        self._tensorboard(record, self._done(snapshot))

    def _done(self, snapshot: Snapshot) -> int:
        return snapshot.position.task * self.config.training.steps + snapshot.position.step

    def _held_out(self, snapshot: Snapshot) -> dict[str, float | None]:
        """Held-out loss of every task seen and of the new one, under the same noise for all methods and moments."""
        seen = len(self.names) if self.method.joint else snapshot.position.task + 1
        visits = dict(zip(self.names[:seen], self.domain.tasks.tasks[:seen], strict=True))
        return {
            name: held_out_loss(self.domain.model, snapshot.params_of(place), task, seed=0)
            for place, (name, task) in enumerate(visits.items())
            if "#" not in name
        }

    def _tensorboard(self, record: Mapping[str, Any], step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if self._writer is None:
            self._writer = SummaryWriter(str(self.folder.path / "tensorboard"), purge_step=step)
        for name, value in record.items():
            if isinstance(value, float):
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def _save(self, snapshot: Snapshot) -> None:
        started = time.monotonic()
        state = snapshot.state()
        self._cost["bytes"] = {part: _bytes_of(state, part) for part in ("anchor", "replay")}
        self._cost["bytes"]["weights"] = snapshot.theta.numel() * snapshot.theta.element_size()
        self._cost["seconds"] = {**self._cost["seconds"], **snapshot.seconds}
        self.folder.save_state(state)
        self._saved_at = time.monotonic()
        self._save_seconds = self._saved_at - started

    def _measure(self, agent: Policy, number: int, step: int | None) -> None:
        """Roll out every task seen, the one being learned included, except for episodes that are on record already.

        At step 0 this is the new task alone: the others stand as the task before left them.

        Raises:
            Interrupted: between two tasks; the last save stands before these measurements.
        """
        started = time.monotonic()
        done = cells(self.folder.episodes())
        first, count = self.config.evaluation.seed, self.config.evaluation.episodes
        total = self.config.training.steps * (len(self.names) if self.method.joint else 1)
        update = total if step is None else step
        learned = number + 1
        for task in dict.fromkeys(task_of(name) for name in self.names[number * (step == 0) : learned]):
            there = done.get((number, step, task), {})
            if all(seed in there for seed in range(first, first + count)):
                continue
            if self._stop:
                raise Interrupted
            self._changed = True
            episodes = self.domain.measure(agent, task, range(first, first + count))
            self.folder.append_episodes(
                {"checkpoint": number, "step": step, "update": update, **episode.record()}
                for episode in episodes
                if episode.seed not in there
            )
            self._spend("evaluation", time.monotonic() - started)
            started = time.monotonic()

    def _measure_before(self, params: Params, number: int, owner: torch.Tensor | None) -> None:
        """Roll out task ``number`` before its first update, where ``at_steps`` asks for that."""
        if 0 in self.at_steps and not self.method.joint and number < len(self.names):
            self._measure(self.domain.agent(params, number + 1, owner), number, 0)

    def _write_metrics(self) -> None:
        measured = retention(self.folder.episodes(), self.names, self.alone)
        losses = loss_retention(self.folder.log(), self.names)
        self.folder.write_metrics({"method": self.config.method.name, **measured, **losses, "cost": self._cost})

    def _tell(self, number: int) -> None:
        metrics = self.folder.metrics() or {}
        row, tasks = metrics["scores"][number], metrics["tasks"]
        shown = ", ".join(f"{task_of(n)} {s:.2f}" for n, s in zip(tasks, row, strict=True) if s is not None)
        self._bar.write(f"{self.config.method.name}: after task {number + 1} of {len(tasks)}: {shown}", file=sys.stderr)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM stop the run at its next snapshot, saved; a second one stops at once."""

        def ask(number: int, frame: Any) -> None:
            if self._stop:
                raise KeyboardInterrupt
            self._stop = True

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _bytes_of(state: Mapping[str, torch.Tensor], part: str) -> int:
    return sum(leaf.numel() * leaf.element_size() for key, leaf in state.items() if key.startswith(f"{part}/"))
