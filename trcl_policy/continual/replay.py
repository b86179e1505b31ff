"""Which old data come back while a new task is learned: the parts that keep real samples, or none."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import reduce

import torch
from torch import Tensor

from trcl_policy.continual.model import Model, chunks, corrupted_for
from trcl_policy.continual.params import Batch, Layout, concatenate, num_rows, rows
from trcl_policy.continual.past import Learned
from trcl_policy.continual.streams import Streams
from trcl_policy.continual.tasks import Task

CHUNK = 2048
"""Samples a prediction is asked for at a time."""


@dataclass(frozen=True)
class Request:
    """What is asked of a replay in a step.

    Attributes:
        model: the model.
        layout: layout of the parameters.
        count: samples wanted.
        streams: the run's random streams.
        new: the step's samples of the new task, not corrupted.
        old_tasks: the different tasks before the one being learned, for their conditions only.
        step: index of this update within the task, from 0.
        task: number of the old task wanted, in order of first meeting; None for all of them.
    """

    model: Model
    layout: Layout
    count: int
    streams: Streams
    new: Batch
    old_tasks: tuple[Task, ...]
    step: int
    task: int | None = None


class Replay(ABC):
    """A source of old samples. What it keeps lies in its successor.

    Only ``draw`` must be written. A replay that keeps something saves and restores it.
    """

    distilled: bool = False
    """Targets are a teacher's predictions."""
    memory: str = "nothing"

    @property
    def num_tasks(self) -> int:
        """Old tasks that can be asked for by number."""
        return 0

    def before_step(self, request: Request) -> Replay:
        """The replay to use in this step."""
        return self

    @abstractmethod
    def draw(self, request: Request) -> Batch | None:
        """Corrupted old samples with their targets, or None while there are none."""

    def held_out(self, request: Request) -> Batch | None:
        """Corrupted old samples with their targets that are never learned from; None while there are none."""
        return None

    def after_task(self, learned: Learned) -> Replay:
        """The replay that also brings back the task just learned."""
        return self

    def state(self) -> dict[str, Tensor]:
        """Everything that ``restore`` needs."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> Replay:
        """The replay saved as ``state``."""
        return self


@dataclass(frozen=True)
class NoReplay(Replay):
    """Nothing comes back."""

    def draw(self, request: Request) -> Batch | None:
        """None."""
        return None


@dataclass(frozen=True)
class Pool:
    """Samples of several tasks that can be drawn from.

    Attributes:
        samples: leaves (N, ...).
        origin: number of each sample's task (N,) int64, tasks counted from 0 in order of first meeting.
    """

    samples: Batch = field(default_factory=dict)
    origin: Tensor | None = None

    @property
    def num_tasks(self) -> int:
        """Number of tasks."""
        return 0 if self.origin is None else int(self.origin[-1]) + 1

    def joined(self, samples: Batch) -> Pool:
        """With the samples of one more task."""
        first = next(iter(samples.values()))
        origin = torch.full((len(first),), self.num_tasks, device=first.device)
        if self.origin is None:
            return Pool(dict(samples), origin)
        return Pool(concatenate([self.samples, samples]), torch.cat([self.origin, origin]))

    def extended(self, parts: Iterable[Batch]) -> Pool:
        """With the samples of some more tasks."""
        return reduce(Pool.joined, parts, self)

    def pick(self, request: Request, stream: str = "replay/pick") -> Batch:
        """Samples drawn uniformly with replacement, of the task asked for."""
        rng = request.streams[stream]
        there = None
        if request.task is not None and self.origin is not None:
            there = (self.origin == request.task).nonzero().squeeze(1)
        total = num_rows(self.samples) if there is None else len(there)
        index = torch.randint(total, (request.count,), generator=rng, device=rng.device)
        return rows(self.samples, index if there is None else there[index])

    def state(self) -> dict[str, Tensor]:
        """The samples and where they come from."""
        if self.origin is None:
            return {}
        return {"origin": self.origin, **{f"pool/{key}": leaf for key, leaf in self.samples.items()}}

    @classmethod
    def restored(cls, state: dict[str, Tensor]) -> Pool:
        """The pool saved in ``state``."""
        samples = {key.removeprefix("pool/"): leaf for key, leaf in state.items() if key.startswith("pool/")}
        return cls(samples, state.get("origin"))


@dataclass(frozen=True)
class StoredReplay(Replay):
    """Experience replay: a fixed number of real samples of every old task is kept.

    Attributes:
        samples_per_task: samples kept of each task, drawn uniformly without replacement.
        pool: the samples kept so far.
    """

    samples_per_task: int = 256
    pool: Pool = field(default_factory=Pool)

    memory = "`memory` real samples a task"

    def __post_init__(self) -> None:
        """Check the options once."""
        if self.samples_per_task < 1:
            raise ValueError(f"memory must be >= 1 [samples a task], got {self.samples_per_task}")

    @property
    def num_tasks(self) -> int:
        """Old tasks held."""
        return self.pool.num_tasks

    def draw(self, request: Request) -> Batch | None:
        """Stored samples under new noise, matched to their own targets."""
        if not self.num_tasks:
            return None
        return request.model.corrupt(self.pool.pick(request), request.streams["replay/noise"])

    def after_task(self, learned: Learned) -> Replay:
        """Keep ``samples_per_task`` samples of the task just learned, or all where it has fewer; a task counts once."""
        if learned.revisited:
            return self
        return replace(self, pool=self.pool.joined(self._kept(learned)))

    def _kept(self, learned: Learned) -> Batch:
        rng = learned.streams["replay/keep"]
        total = len(learned.task.samples)
        chosen = torch.randperm(total, generator=rng, device=rng.device)[: self.samples_per_task]
        return learned.task.samples.gather(chosen)

    def state(self) -> dict[str, Tensor]:
        """The pool."""
        return self.pool.state()

    def restore(self, state: dict[str, Tensor]) -> Replay:
        """The replay with the pool ``state``."""
        return replace(self, pool=Pool.restored(state))


@dataclass(frozen=True)
class DarkReplay(StoredReplay):
    """Dark experience replay (Buzzega et al. 2020): stored samples are matched to what the model said of them then.

    A prediction belongs to a sample AND its noise, so of every stored sample some corruptions are kept with the
    prediction at the end of its task.

    Attributes:
        draws: corruptions kept of every sample.
    """

    draws: int = 8

    distilled = True
    memory = "`memory` x `dark_draws` corrupted real samples a task, with predictions"

    def __post_init__(self) -> None:
        """Check the options once."""
        super().__post_init__()
        if self.draws < 1:
            raise ValueError(f"dark_draws must be >= 1, got {self.draws}")

    def draw(self, request: Request) -> Batch | None:
        """Stored corruptions with the predictions of their time."""
        return self.pool.pick(request) if self.num_tasks else None

    def _kept(self, learned: Learned) -> Batch:
        samples = super()._kept(learned)
        return remembered(learned, learned.theta, [samples] * self.draws)


@dataclass(frozen=True)
class InputReplay(Replay):
    """Learning without forgetting (Li and Hoiem 2016): nothing old is stored or generated.

    On the NEW task's samples, asked about under the conditions of old tasks, the model is to say what the previous
    model says.

    Attributes:
        teacher: weights (P,) of the previous model.
    """

    teacher: Tensor | None = None

    distilled = True
    memory = "one vector in all (the previous model)"

    def draw(self, request: Request) -> Batch | None:
        """New samples under old conditions, drawn uniformly over old tasks, with the teacher's predictions."""
        if self.teacher is None:
            return None
        rng = request.streams["replay/pick"]
        index = torch.randint(num_rows(request.new), (request.count,), generator=rng, device=rng.device)
        asked = {**rows(request.new, index), **self._conditions(request, rng)}
        return taught(request, self.teacher, request.model.corrupt(asked, request.streams["replay/noise"]))

    def _conditions(self, request: Request, rng: torch.Generator) -> Batch:
        whose = torch.randint(len(request.old_tasks), (request.count,), generator=rng, device=rng.device)
        drawn = [task.conditions(request.count, rng) for task in request.old_tasks]
        place = torch.arange(request.count, device=rng.device)
        return {key: torch.stack([each[key] for each in drawn])[whose, place] for key in drawn[0]}

    def after_task(self, learned: Learned) -> Replay:
        """Make the model of this moment the teacher."""
        return replace(self, teacher=learned.theta.clone())

    def state(self) -> dict[str, Tensor]:
        """The teacher."""
        return {} if self.teacher is None else {"teacher": self.teacher}

    def restore(self, state: dict[str, Tensor]) -> Replay:
        """The replay saved as ``state``."""
        return replace(self, teacher=state.get("teacher"))


def remembered(learned: Learned, theta: Tensor, parts: Iterable[Batch], recall: str = "all") -> Batch:
    """Samples under noise with the predictions of the weights ``theta`` (P,) as targets, all parts in one batch."""
    params, model, rng = learned.layout.unflatten(theta), learned.model, learned.streams["replay/noise"]
    corrupted = concatenate([dict(corrupted_for(recall, model, part, rng)) for part in parts])
    with torch.no_grad():
        told = torch.cat([model.predict(params, part) for part in chunks(corrupted, CHUNK)])
    return {**corrupted, "target": told}


def taught(request: Request, teacher: Tensor, corrupted: Batch) -> Batch:
    """``corrupted`` with the predictions of the weights ``teacher`` (P,) as targets."""
    with torch.no_grad():
        return {**corrupted, "target": request.model.predict(request.layout.unflatten(teacher), corrupted)}
