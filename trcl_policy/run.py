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
from trcl_policy.continual.streams import Streams, derive_seed
from trcl_policy.devices import is_faster_in_bf16
from trcl_policy.domains import DOMAINS, Domain, open_domain
from trcl_policy.folder import RunFolder, now
from trcl_policy.gauge import Gauge
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
    folder = RunFolder.create(out, domain.config, domain.provenance())
    _Trainer(domain.config, folder, domain).run(None)
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
    domain = open_domain(config, folder.path)
    before, after = folder.provenance().get("data"), domain.provenance()["data"]
    if before is not None and before["fingerprint"] != after["fingerprint"]:
        raise ConfigError(
            f"{domain.data_key} must be the one the run began with, got {after['store']} with other contents"
        )
    trainer = _Trainer(domain.config, folder, domain)
    state = trainer.catch_up()
    if folder.provenance()["ended"] is None:
        folder.add_provenance(resumed=[*folder.provenance().get("resumed", []), now()])
    trainer.run(state)
    return folder


class _Trainer:
    def __init__(self, config: RunConfig, folder: RunFolder, domain: Domain[Any]) -> None:
        self.config, self.folder, self.domain = config, folder, domain
        self.method = METHODS[config.method.name].build(config.method)
        self.names = domain.names
        self._saved_at = time.monotonic()
        self._save_seconds = 0.0
        self._stop = False
        self._changed = False
        self._writer: Any = None
        self.gauge = Gauge(config, folder, domain, self.method, self._check)
        self._bar: tqdm[Any] = tqdm(total=config.training.steps * len(self.names), unit="step", disable=None)

    def run(self, state: Mapping[str, torch.Tensor] | None) -> None:
        """Learn from ``state`` (None: from the start) to the end."""
        with self._signals(), self._bar, contextlib.closing(self.domain):
            if self.config.precision == "bf16" and not is_faster_in_bf16(self.domain.device):
                advice = "a new run with --precision auto, or fp32, is faster here"
                self._bar.write(f"trcl: this machine has no fast bf16 and emulates it; {advice}", file=sys.stderr)
            try:
                self.gauge.catch_up(*((0, 0) if state is None else self._position(state)))
                self._learn(state)
            finally:
                if self._writer is not None:
                    self._writer.close()
        if self._changed or self.gauge.has_measured or self.folder.provenance()["ended"] is None:
            self.gauge.write_metrics()
            self.folder.add_provenance(ended=now())

    def _learn(self, state: Mapping[str, torch.Tensor] | None) -> None:
        streams = Streams(derive_seed(self.config.seed, "learning"), self.domain.device)
        tasks, training = self.domain.tasks, self.config.training
        params, model = self.domain.params(), self.domain.model
        every, at = self.config.log_every, self.gauge.at_steps
        for snapshot in learn(model, params, tasks, self.method, training, streams, every, at, state):
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
        self.folder.records(self.domain.record_file, repair=True)
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

    def _receive(self, snapshot: Snapshot) -> None:
        position = snapshot.position
        if snapshot.kind == "settled":
            self.gauge.judge_replay(snapshot)
            self._save(snapshot)
            return
        self._log(snapshot)
        if snapshot.kind == "learned":
            number = self.gauge.num_learned(position.task, position.step) - 1
            checkpoint = self.folder.path / "checkpoints" / f"{number:02d}"
            agent = self.domain.agent(snapshot.params, number + 1, snapshot.owner)
            agent.save(checkpoint)
            self.folder.point_last_at(number)
            self._save(snapshot)
            self.gauge.measure(agent, number, None)
            self.gauge.measure_before(snapshot.params, number + 1, snapshot.owner)
            self.gauge.write_metrics()
            self._bar.write(self.gauge.told(number), file=sys.stderr)
        else:
            if self.gauge.is_measured(snapshot):
                agent = self.domain.agent(snapshot.params, position.task + 1, snapshot.owner)
                self.gauge.measure(agent, position.task, position.step)
            if time.monotonic() - self._saved_at > max(self.config.save_every_s, SLOWEST_SAVE * self._save_seconds):
                self._save(snapshot)

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
        if snapshot.kind == "learned" or self.gauge.is_measured(snapshot):
            record["learned"] = snapshot.kind == "learned"
            record["held_out_loss"] = self.gauge.held_out(snapshot)
        self.folder.append_log(record)
        self._tensorboard(record, self._done(snapshot))

    def _done(self, snapshot: Snapshot) -> int:
        return snapshot.position.task * self.config.training.steps + snapshot.position.step

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
        cost = self.gauge.cost
        cost["bytes"] = {part: _bytes_of(state, part) for part in ("anchor", "update", "replay")}
        cost["bytes"]["weights"] = snapshot.theta.numel() * snapshot.theta.element_size()
        cost["seconds"] = {**cost["seconds"], **snapshot.seconds}
        self.folder.save_state(state)
        self._saved_at = time.monotonic()
        self._save_seconds = self._saved_at - started

    def _check(self) -> None:
        if self._stop:
            raise Interrupted

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
