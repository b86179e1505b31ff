"""The loop: tasks come one after another, and a snapshot leaves whenever something can be measured or saved."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from trcl_policy.continual.model import Model, leaves
from trcl_policy.continual.optimizer import FlatAdam, Training
from trcl_policy.continual.params import Layout, Params
from trcl_policy.continual.past import Anchor, Learned, NoAnchor
from trcl_policy.continual.replay import NoReplay, Replay, Request
from trcl_policy.continual.snapshot import Position, Snapshot
from trcl_policy.continual.streams import Streams
from trcl_policy.continual.tasks import TaskSequence, draw
from trcl_policy.continual.turn import Turn
from trcl_policy.continual.update import Penalty, Update

__all__ = ["Method", "Position", "Snapshot", "learn"]


@dataclass(frozen=True)
class Method:
    """A continual-learning method is a composition of four choices.

    Attributes:
        update: how gradients become a step.
        anchor: what the past charges the weights.
        replay: which old samples come back.
        replay_weight: beta, weight of the mean replayed loss against the mean new loss.
        replay_ratio: replayed samples per new sample in a step.
        joint: learn all tasks at once instead of in sequence (the upper bound).
        alone: begin every task with the first weights (the reference for forward transfer).
    """

    update: Update = field(default_factory=Penalty)
    anchor: Anchor = field(default_factory=NoAnchor)
    replay: Replay = field(default_factory=NoReplay)
    replay_weight: float = 1.0
    replay_ratio: float = 1.0
    joint: bool = False
    alone: bool = False

    def __post_init__(self) -> None:
        """Check the weights once."""
        if self.replay_weight < 0:
            raise ValueError(f"replay_weight must be >= 0, got {self.replay_weight}")
        if not self.replay_ratio > 0:
            raise ValueError(f"replay_ratio must be > 0, got {self.replay_ratio}")


def learn(
    model: Model,
    params: Params,
    tasks: TaskSequence,
    method: Method,
    training: Training,
    streams: Streams,
    snapshot_every: int = 50,
    snapshot_at: Collection[int] = (),
    resume: Mapping[str, Tensor] | None = None,
) -> Iterator[Snapshot]:
    """Learn ``tasks`` one after another and yield snapshots.

    Numbered as in the paper's Algorithm 1:
    1. draw a batch of the new task, corrupt it, take the mean loss;
    2. draw replayed samples, add beta times their mean loss;
    3. let the update take the step, with the anchor (update.py and its neighbours);
    4. after the last step keep the averaged weights as theta_k*, renew anchor, update and replay there.

    Args:
        model: domain model; see model.py.
        params: first weights.
        tasks: the sequence; a joint method learns ``tasks.merged()`` with as many steps in total.
        method: composition of update, anchor and replay.
        training: steps and rates.
        streams: random streams; the run is a function of their seed.
        snapshot_every: updates between ``step`` snapshots, >= 1.
        snapshot_at: further updates within a task at which a ``step`` snapshot is wanted.
        resume: a former ``Snapshot.state()``: the run goes on from there, bit for bit as if it had never stopped.

    Raises:
        ValueError: ``snapshot_every`` is below 1.
    """
    if snapshot_every < 1:
        raise ValueError(f"snapshot_every must be >= 1 [updates], got {snapshot_every}")
    run = _Run(model, params, tasks, method, training, streams)
    if resume is not None:
        run.restore(resume)
    return run.snapshots(snapshot_every, frozenset(snapshot_at))


class _Run:
    def __init__(
        self, model: Model, params: Params, tasks: TaskSequence, method: Method, training: Training, streams: Streams
    ) -> None:
        self.model, self.method, self.training, self.streams = model, method, training, streams
        self.tasks = tasks.merged() if method.joint else tasks
        self.total_steps = training.steps * (len(tasks) if method.joint else 1)
        self.layout = Layout.of(params)
        self.first = self.layout.flatten(params).detach()
        self.optimizer = FlatAdam(self.first, training)
        self.update, self.anchor, self.replay = method.update, method.anchor, method.replay
        self.position = Position()
        self.seconds = {"training": 0.0, "fisher": 0.0, "replay": 0.0}

    def snapshots(self, every: int, at: Collection[int]) -> Iterator[Snapshot]:
        """All snapshots from the current position on."""
        while True:
            if self.position.step < self.total_steps:
                yield from self._train(every, at)
            if not self.position.settled:
                if self.position.task == len(self.tasks) - 1:
                    return
                self._settle()
                yield self._snapshot("settled")
            self._begin(self.position.task + 1)

    def _begin(self, task: int) -> None:
        self.optimizer.begin(self.first if self.method.alone else self.optimizer.released.clone())
        self.position = Position(task)

    def _train(self, every: int, at: Collection[int]) -> Iterator[Snapshot]:
        params = leaves(self.layout, self.optimizer.theta)
        for step in range(self.position.step, self.total_steps):
            started = time.perf_counter()
            last = step + 1 == self.total_steps
            wanted = last or (step + 1) % every == 0 or step + 1 in at
            turn = self._turn(params, step)
            before = turn.theta.clone() if self.anchor.watches else None
            self.update = self.update.step(turn)
            if before is not None and turn.new_gradient is not None:
                self.anchor = self.anchor.after_step(turn.new_gradient, before, turn.theta)
            self.optimizer.track(step)
            self.position = Position(self.position.task, step + 1)
            scalars = self._scalars(turn) if wanted else {}
            self.seconds["training"] += time.perf_counter() - started
            if last:
                self.optimizer.finish()
            if wanted:
                yield self._snapshot("learned" if last else "step", scalars)

    def _turn(self, params: dict[str, Tensor], step: int) -> Turn:
        """One step. ``params`` are leaves that share memory with the optimiser's vector, so they follow it."""
        index = self.position.task
        batch = draw(self.tasks[index].samples, self.training.batch_size, self.streams["train/pick"])
        request = Request(
            model=self.model,
            layout=self.layout,
            count=max(1, round(self.training.batch_size * self.method.replay_ratio)),
            streams=self.streams,
            new=batch,
            old_tasks=self.tasks.distinct(index),
            step=step,
        )
        self.replay = self.replay.before_step(request)
        return Turn(
            model=self.model,
            layout=self.layout,
            optimizer=self.optimizer,
            params=params,
            anchor=self.anchor,
            new=self.model.corrupt(batch, self.streams["train/noise"]),
            recall=lambda task: self.replay.draw(replace(request, task=task)),
            num_recalled=self.replay.num_tasks,
            held_out=lambda: self.replay.held_out(request),
            distilled=self.replay.distilled,
            streams=self.streams,
            beta=self.method.replay_weight,
            rate=self.training.rate_at(step, self.total_steps),
            step=step,
            total_steps=self.total_steps,
            task_index=index,
            num_tasks=len(self.tasks),
        )

    def _scalars(self, turn: Turn) -> dict[str, float]:
        found = {f"loss_{name}": loss.detach() for name, loss in turn.losses.items()}
        found = {**found, **turn.notes, "penalty": self.anchor.value(self.optimizer.theta)}
        if turn.norm is not None:
            found["gradient_norm"] = turn.norm
        return {**{name: float(value) for name, value in found.items()}, "learning_rate": turn.rate}

    def _settle(self) -> None:
        index = self.position.task
        learned = Learned(
            task=self.tasks[index],
            task_index=index,
            old_tasks=self.tasks.distinct(index + 1),
            revisited=len(self.tasks.distinct(index)) == len(self.tasks.distinct(index + 1)),
            model=self.model,
            layout=self.layout,
            theta=self.optimizer.released.clone(),
            streams=self.streams,
            raw=self.optimizer.raw,
        )
        started = time.perf_counter()
        self.anchor = self.anchor.after_task(learned)
        self.update = self.update.after_task(learned)
        between = time.perf_counter()
        self.replay = self.replay.after_task(learned)
        self.seconds["fisher"] += between - started
        self.seconds["replay"] += time.perf_counter() - between
        self.position = Position(index, self.position.step, settled=True)

    def _snapshot(self, kind: str, scalars: Mapping[str, float] | None = None) -> Snapshot:
        return Snapshot(
            kind=kind,
            position=self.position,
            task=self.tasks[self.position.task].name,
            total_steps=self.total_steps,
            theta=self.optimizer.released,
            layout=self.layout,
            scalars=scalars or {},
            seconds=dict(self.seconds),
            state=self.state,
            owner=self.update.owner,
        )

    def state(self) -> dict[str, Tensor]:
        """Everything that the rest of the run depends on."""
        where = (self.position.task, self.position.step, int(self.position.settled))
        parts: dict[str, Mapping[str, Tensor]] = {
            "optimizer": self.optimizer.state(),
            "update": self.update.state(),
            "anchor": self.anchor.state(),
            "replay": self.replay.state(),
            "streams": self.streams.state(),
            "seconds": {name: torch.tensor(value, dtype=torch.float64) for name, value in self.seconds.items()},
        }
        flat = {f"{part}/{key}": leaf for part, named in parts.items() for key, leaf in named.items()}
        # Always a copy: the optimiser goes on to write into its tensors.
        return {"position": torch.tensor(where), **{k: v.detach().to("cpu", copy=True) for k, v in flat.items()}}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from ``state``."""
        task, step, settled = state["position"].tolist()
        self.position = Position(task, step, bool(settled))
        device = self.optimizer.theta.device
        self.optimizer.restore(_part(state, "optimizer", device))
        self.update = self.update.restore(_part(state, "update", device))
        self.anchor = self.anchor.restore(_part(state, "anchor", device))
        self.replay = self.replay.restore(_part(state, "replay", device))
        self.streams.restore(_part(state, "streams", torch.device("cpu")))
        self.seconds = {name: float(value) for name, value in _part(state, "seconds", torch.device("cpu")).items()}


def _part(state: Mapping[str, Tensor], name: str, device: torch.device) -> dict[str, Tensor]:
    prefix = f"{name}/"
    return {k.removeprefix(prefix): v.to(device) for k, v in state.items() if k.startswith(prefix)}
