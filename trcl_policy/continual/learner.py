"""The loop: tasks come one after another, and a snapshot leaves whenever something can be measured or saved."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trcl_policy.continual.anchor import Anchor, Learned, NoAnchor
from trcl_policy.continual.model import Model, gradient, leaves
from trcl_policy.continual.optimizer import FlatAdam, Training
from trcl_policy.continual.params import Layout, Params
from trcl_policy.continual.replay import NoReplay, Replay
from trcl_policy.continual.streams import Streams
from trcl_policy.continual.tasks import TaskSequence, draw
from trcl_policy.continual.update import Gradients, Penalty, Update


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
    """

    update: Update = field(default_factory=Penalty)
    anchor: Anchor = field(default_factory=NoAnchor)
    replay: Replay = field(default_factory=NoReplay)
    replay_weight: float = 1.0
    replay_ratio: float = 1.0
    joint: bool = False

    def __post_init__(self) -> None:
        """Check the weights once."""
        if self.replay_weight < 0:
            raise ValueError(f"replay_weight must be >= 0, got {self.replay_weight}")
        if not self.replay_ratio > 0:
            raise ValueError(f"replay_ratio must be > 0, got {self.replay_ratio}")


@dataclass(frozen=True)
class Position:
    """Where a run stands: ``step`` updates of task ``task`` are done; ``settled`` once its anchor and replay are."""

    task: int = 0
    step: int = 0
    settled: bool = False


@dataclass(frozen=True)
class Snapshot:
    """A moment at which something can be measured or saved.

    Attributes:
        kind: ``step`` within a task, ``learned`` at its end, ``settled`` once anchor and replay have been renewed.
        position: where the run stands.
        task: name of the task being learned.
        total_steps: updates that this task gets.
        theta: weights to use at this moment (P,): the moving average, or the raw weights where averaging is off. The
            learner's own tensor: it changes when the next snapshot is asked for; ``params`` is a copy.
        layout: layout of ``theta``.
        scalars: losses and rates of the last update (empty between tasks).
        seconds: time spent so far by purpose: ``training``, ``fisher``, ``replay``.
        state: call it, before the next snapshot is asked for, to get a copy of all that ``learn(resume=...)`` needs, on
            the CPU.
    """

    kind: str
    position: Position
    task: str
    total_steps: int
    theta: Tensor
    layout: Layout
    scalars: Mapping[str, float]
    seconds: Mapping[str, float]
    state: Callable[[], dict[str, Tensor]]

    @property
    def params(self) -> dict[str, Tensor]:
        """The weights under their names, a copy."""
        return self.layout.unflatten(self.theta.detach().clone())


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
    3. join with the anchor (update.py), step, correct;
    4. after the last step keep the averaged weights as theta_k*, renew anchor and replay there.

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
        self.optimizer = FlatAdam(self.layout.flatten(params).detach(), training)
        self.anchor, self.replay = method.anchor, method.replay
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
        self.optimizer.begin(self.optimizer.released.clone())
        self.position = Position(task)

    def _train(self, every: int, at: Collection[int]) -> Iterator[Snapshot]:
        params = leaves(self.layout, self.optimizer.theta)
        for step in range(self.position.step, self.total_steps):
            started = time.perf_counter()
            last = step + 1 == self.total_steps
            wanted = last or (step + 1) % every == 0 or step + 1 in at
            scalars = self._step(params, step, wanted)
            self.position = Position(self.position.task, step + 1)
            self.seconds["training"] += time.perf_counter() - started
            if last:
                self.optimizer.theta.copy_(self.optimizer.released)
                self.optimizer.average.copy_(self.optimizer.theta)
            if wanted:
                yield self._snapshot("learned" if last else "step", scalars)

    def _step(self, params: dict[str, Tensor], step: int, wanted: bool) -> dict[str, float]:
        """One update. ``params`` are leaves that share memory with the optimiser's vector, so they follow it."""
        task, optimizer = self.tasks[self.position.task], self.optimizer
        batch = draw(task.samples, self.training.batch_size, self.streams["train/pick"])
        corrupted = self.model.corrupt(batch, self.streams["train/noise"])
        losses = {"new": self.model.losses(params, corrupted).mean()}
        count = max(1, round(self.training.batch_size * self.method.replay_ratio))
        replayed = self.replay.draw(self.model, self.layout, count, self.streams)
        if replayed is not None:
            losses["old"] = self.model.losses(params, replayed).mean()
        rate = self.training.rate_at(step, self.total_steps)
        direction = self.method.update.direction(self._gradients(losses, params), optimizer.theta, self.anchor)
        norm = optimizer.step(direction, rate)
        corrected = self.method.update.correct(optimizer.theta, self.anchor, rate)
        if corrected is not optimizer.theta:
            optimizer.theta.copy_(corrected)
        optimizer.track(step)
        return self._scalars(losses, norm, rate) if wanted else {}

    def _gradients(self, losses: dict[str, Tensor], params: dict[str, Tensor]) -> Gradients:
        beta = self.method.replay_weight
        if "old" not in losses:
            return Gradients(gradient(losses["new"], params, self.layout), None)
        if self.method.update.separate:
            old = gradient(losses["old"], params, self.layout)
            return Gradients(gradient(losses["new"], params, self.layout), beta * old)
        return Gradients(gradient(losses["new"] + beta * losses["old"], params, self.layout), None)

    def _scalars(self, losses: dict[str, Tensor], norm: Tensor, rate: float) -> dict[str, float]:
        scalars = {f"loss_{name}": float(loss.detach()) for name, loss in losses.items()}
        penalty = float(self.anchor.value(self.optimizer.theta))
        return {**scalars, "penalty": penalty, "gradient_norm": float(norm), "learning_rate": rate}

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
        )
        started = time.perf_counter()
        self.anchor = self.anchor.after_task(learned)
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
        )

    def state(self) -> dict[str, Tensor]:
        """Everything that the rest of the run depends on."""
        where = (self.position.task, self.position.step, int(self.position.settled))
        parts: dict[str, Mapping[str, Tensor]] = {
            "optimizer": self.optimizer.state(),
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
        self.anchor = self.anchor.restore(_part(state, "anchor", device))
        self.replay = self.replay.restore(_part(state, "replay", device))
        self.streams.restore(_part(state, "streams", torch.device("cpu")))
        self.seconds = {name: float(value) for name, value in _part(state, "seconds", torch.device("cpu")).items()}


def _part(state: Mapping[str, Tensor], name: str, device: torch.device) -> dict[str, Tensor]:
    prefix = f"{name}/"
    return {k.removeprefix(prefix): v.to(device) for k, v in state.items() if k.startswith(prefix)}
