"""Which old data come back while a new task is learned."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from trcl_policy.continual.anchor import Learned
from trcl_policy.continual.model import Model, chunks
from trcl_policy.continual.params import Batch, Layout, concatenate, num_rows, rows
from trcl_policy.continual.streams import Streams


class Replay(Protocol):
    """A source of old samples."""

    def draw(self, model: Model, layout: Layout, count: int, streams: Streams) -> Batch | None:
        """``count`` corrupted old samples with their targets, or None while there are none."""
        ...

    def after_task(self, learned: Learned) -> Replay:
        """The replay that also brings back the task just learned."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Everything that ``restore`` needs."""
        ...

    def restore(self, state: dict[str, Tensor]) -> Replay:
        """The replay saved as ``state``."""
        ...


@dataclass(frozen=True)
class NoReplay:
    """Nothing comes back."""

    def draw(self, model: Model, layout: Layout, count: int, streams: Streams) -> Batch | None:
        """None."""
        return None

    def after_task(self, learned: Learned) -> NoReplay:
        """Itself."""
        return self

    def state(self) -> dict[str, Tensor]:
        """Empty."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> NoReplay:
        """Itself."""
        return self


@dataclass(frozen=True)
class StoredReplay:
    """Experience replay: a fixed number of real samples of every old task is kept.

    Attributes:
        samples_per_task: samples kept of each task, drawn uniformly without replacement.
        pool: the samples kept so far.
    """

    samples_per_task: int = 256
    pool: Batch = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the options once."""
        if self.samples_per_task < 1:
            raise ValueError(f"memory must be >= 1 [samples a task], got {self.samples_per_task}")

    def draw(self, model: Model, layout: Layout, count: int, streams: Streams) -> Batch | None:
        """Stored samples under new noise, matched to their own targets."""
        if not self.pool:
            return None
        return model.corrupt(_pick(self.pool, count, streams["replay/pick"]), streams["replay/noise"])

    def after_task(self, learned: Learned) -> StoredReplay:
        """Keep ``samples_per_task`` samples of the task just learned, or all where it has fewer; a task counts once."""
        if learned.revisited:
            return self
        rng = learned.streams["replay/keep"]
        total = len(learned.task.samples)
        chosen = torch.randperm(total, generator=rng, device=rng.device)[: self.samples_per_task]
        kept = learned.task.samples.gather(chosen)
        return replace(self, pool=concatenate([self.pool, kept]) if self.pool else dict(kept))

    def state(self) -> dict[str, Tensor]:
        """The pool."""
        return dict(self.pool)

    def restore(self, state: dict[str, Tensor]) -> StoredReplay:
        """The replay with the pool ``state``."""
        return replace(self, pool=dict(state))


@dataclass(frozen=True)
class GeneratedReplay:
    """Generative replay: the previous model makes the old data; no sample is stored from the past (paper, section 3).

    After every task the model of that moment, the teacher, generates a fresh pool for ALL tasks learned so far, equally
    many for each, each sample from its own noise. While the next task is learned, pool samples are noised again and the
    student matches the teacher's prediction (``distill``) or the drawn target (plain).

    Attributes:
        samples_per_task: samples generated for each old task.
        distill: match the teacher's prediction instead of the drawn target.
        chunk_size: samples per call of ``generate``.
        pool: generated samples.
        teacher: weights (P,) of the previous model.
    """

    samples_per_task: int = 2000
    distill: bool = True
    chunk_size: int = 2048
    pool: Batch = field(default_factory=dict)
    teacher: Tensor | None = None

    def __post_init__(self) -> None:
        """Check the options once."""
        if self.samples_per_task < 1:
            raise ValueError(f"replay_samples must be >= 1 [samples a task], got {self.samples_per_task}")
        if self.chunk_size < 1:
            raise ValueError(f"chunk_size must be >= 1 [samples a call], got {self.chunk_size}")

    def draw(self, model: Model, layout: Layout, count: int, streams: Streams) -> Batch | None:
        """Generated samples under new noise; with ``distill`` their target is the teacher's prediction."""
        if self.teacher is None:
            return None
        picked = _pick(self.pool, count, streams["replay/pick"])
        corrupted = model.corrupt(picked, streams["replay/noise"])
        if not self.distill:
            return corrupted
        with torch.no_grad():
            return {**corrupted, "target": model.predict(layout.unflatten(self.teacher), corrupted)}

    def after_task(self, learned: Learned) -> GeneratedReplay:
        """Make the model of this moment the teacher and let it generate every task seen so far."""
        teacher = learned.theta.clone()
        params = learned.layout.unflatten(teacher)
        conditions = [
            task.conditions(self.samples_per_task, learned.streams["replay/conditions"]) for task in learned.old_tasks
        ]
        rng = learned.streams["replay/generate"]
        with torch.no_grad():
            made = [learned.model.generate(params, c, rng) for c in chunks(concatenate(conditions), self.chunk_size)]
        return replace(self, pool=concatenate(made), teacher=teacher)

    def state(self) -> dict[str, Tensor]:
        """The pool and the teacher."""
        if self.teacher is None:
            return {}
        return {"teacher": self.teacher, **{f"pool/{key}": leaf for key, leaf in self.pool.items()}}

    def restore(self, state: dict[str, Tensor]) -> GeneratedReplay:
        """The replay saved as ``state``."""
        pool = {key.removeprefix("pool/"): leaf for key, leaf in state.items() if key.startswith("pool/")}
        return replace(self, pool=pool, teacher=state.get("teacher"))


def _pick(pool: Batch, count: int, rng: torch.Generator) -> Batch:
    return rows(pool, torch.randint(num_rows(pool), (count,), generator=rng, device=rng.device))
