"""Trains one run: the core's snapshots in, the run directory out."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from trcl_policy.config import RunConfig
from trcl_policy.continual.learner import Snapshot, learn
from trcl_policy.continual.methods import METHODS
from trcl_policy.continual.probes import held_out_loss
from trcl_policy.continual.streams import Streams, derive_seed
from trcl_policy.domains import DOMAINS, PolicyDomain
from trcl_policy.folder import RunFolder, now
from trcl_policy.rollout.retention import retention, task_of
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
    state = folder.load_state()
    _Trainer(config, folder, domain).run(state)
    return folder


class _Trainer:
    def __init__(self, config: RunConfig, folder: RunFolder, domain: PolicyDomain) -> None:
        self.config, self.folder, self.domain = config, folder, domain
        self.method = METHODS[config.method.name].build(config.method)
        self.names = domain.names
        self._saved_at = time.monotonic()
        self._save_seconds = 0.0
        self._stop = False
        self._writer: Any = None
        self._cost: dict[str, dict[str, float]] = (folder.metrics() or {}).get("cost", {"seconds": {}, "bytes": {}})
        self._bar: tqdm[Any] = tqdm(total=config.training.steps * len(self.names), unit="step", disable=None)

    def run(self, state: Mapping[str, torch.Tensor] | None) -> None:
        """Learn from ``state`` (None: from the start) to the end."""
        streams = Streams(derive_seed(self.config.seed, "learning"), self.domain.device)
        if state is not None:
            self._catch_up(state)
        every = self.config.log_every
        tasks, training = self.domain.tasks, self.config.training
        params, model = self.domain.params(), self.domain.model
        with self._signals(), self._bar:
            at_steps = self.config.evaluation.at_steps
            for snapshot in learn(model, params, tasks, self.method, training, streams, every, at_steps, state):
                self._receive(snapshot)
                if self._stop:
                    self._save(snapshot)
                    raise Interrupted
        self._write_metrics()
        self.folder.add_provenance(ended=now())
        self.domain.close()

    def _catch_up(self, state: Mapping[str, torch.Tensor]) -> None:
        """Bring the folder to where ``state`` stands: later log lines go, missing measurements of checkpoints come."""
        task, step, _ = state["position"].tolist()
        self.folder.cut_log(task, step)
        self.folder.episodes(repair=True)
        self._bar.update(task * self.config.training.steps + step)
        for checkpoint in self.folder.checkpoints():
            if int(checkpoint.name) <= self._num_learned(task, step) - 1:
                self._measure_checkpoint(int(checkpoint.name), checkpoint)

    def _num_learned(self, task: int, step: int) -> int:
        if self.method.joint:
            return len(self.names) if step >= self.config.training.steps * len(self.names) else 0
        return task + (step >= self.config.training.steps)

    def _receive(self, snapshot: Snapshot) -> None:
        position = snapshot.position
        if snapshot.kind == "settled":
            self._save(snapshot)
            return
        self._log(snapshot)
        if snapshot.kind == "learned":
            number = self._num_learned(position.task, position.step) - 1
            checkpoint = self.folder.path / "checkpoints" / f"{number:02d}"
            self.domain.save(checkpoint, snapshot.params, number + 1)
            self.folder.point_last_at(number)
            self._save(snapshot)
            self._measure(snapshot.params, number, None)
            self._write_metrics()
            self._tell(number)
        else:
            if position.step in self.config.evaluation.at_steps and not self.method.joint and position.task:
                self._measure(snapshot.params, position.task, position.step)
            if time.monotonic() - self._saved_at > max(self.config.save_every_s, SLOWEST_SAVE * self._save_seconds):
                self._save(snapshot)

    def _log(self, snapshot: Snapshot) -> None:
        position = snapshot.position
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
        if snapshot.kind == "learned":
            record["held_out_loss"] = self._held_out(snapshot)
        self.folder.append_log(record)
        self._tensorboard(record, self._done(snapshot))

    def _done(self, snapshot: Snapshot) -> int:
        return snapshot.position.task * self.config.training.steps + snapshot.position.step

    def _held_out(self, snapshot: Snapshot) -> dict[str, float | None]:
        """Held-out loss of every task seen, under noise that is the same for all methods and moments."""
        seen = self._num_learned(snapshot.position.task, snapshot.position.step)
        visits = dict(zip(self.names[:seen], self.domain.tasks.tasks[:seen], strict=True))
        return {
            name: held_out_loss(self.domain.model, snapshot.params, task, seed=0)
            for name, task in visits.items()
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

    def _measure_checkpoint(self, number: int, checkpoint: Path) -> None:
        from trcl_policy.policy.controller import load_policy

        self._measure(load_policy(checkpoint, self.domain.device).params, number, None)

    def _measure(self, params: Mapping[str, torch.Tensor], number: int, step: int | None) -> None:
        """Roll out every task seen, except for episodes that are on record already."""
        started = time.monotonic()
        done = {(line["checkpoint"], line.get("step"), line["task"], line["seed"]) for line in self.folder.episodes()}
        first, count = self.config.evaluation.seed, self.config.evaluation.episodes
        last = number + (step is None)
        for task in dict.fromkeys(task_of(name) for name in self.names[:last]):
            seeds = range(first, first + count)
            if all((number, step, task, seed) in done for seed in seeds):
                continue
            learned = number + (step is None)
            episodes = self.domain.measure(params, max(learned, 1), task, seeds)
            self.folder.append_episodes(
                {"checkpoint": number, "step": step, **episode.record()}
                for episode in episodes
                if (number, step, task, episode.seed) not in done
            )
            if self._stop:
                return
        seconds = self._cost["seconds"]
        seconds["evaluation"] = seconds.get("evaluation", 0.0) + time.monotonic() - started

    def _write_metrics(self) -> None:
        measured = retention(self.folder.episodes(), self.names)
        self.folder.write_metrics({"method": self.config.method.name, **measured, "cost": self._cost})

    def _tell(self, number: int) -> None:
        metrics = self.folder.metrics() or {}
        row, tasks = metrics["scores"][number], metrics["tasks"]
        shown = ", ".join(f"{task_of(n)} {s:.2f}" for n, s in zip(tasks, row, strict=True) if s is not None)
        self._bar.write(f"{self.config.method.name}: after task {number + 1} of {len(tasks)}: {shown}", file=sys.stderr)

    @contextmanager
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
