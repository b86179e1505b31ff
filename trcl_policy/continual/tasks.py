"""What is learned: tasks with their samples, one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from trcl_policy.continual.params import Batch, Params, concatenate, num_rows, rows


class Samples(Protocol):
    """A finite set of samples that hands out batches by index."""

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def gather(self, index: Tensor) -> Batch:
        """The samples at ``index`` (B,), leaves (B, ...)."""
        ...


class TensorSamples:
    """Samples held in memory as a mapping of tensors (N, ...)."""

    def __init__(self, batch: Batch) -> None:
        lengths = {key: leaf.shape[0] for key, leaf in batch.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"samples must have one length, got {lengths}")
        self.batch = dict(batch)

    def __len__(self) -> int:
        """Number of samples N."""
        return num_rows(self.batch)

    def gather(self, index: Tensor) -> Batch:
        """The rows at ``index`` (B,)."""
        return rows(self.batch, index)


class JoinedSamples:
    """Several sample sets behind one index range."""

    def __init__(self, parts: Sequence[Samples]) -> None:
        self.parts = tuple(parts)
        self.ends = torch.tensor([len(part) for part in parts]).cumsum(0)

    def __len__(self) -> int:
        """Sum of the parts' lengths."""
        return int(self.ends[-1])

    def gather(self, index: Tensor) -> Batch:
        """The samples at ``index`` (B,), in the order of ``index``."""
        part_of = torch.searchsorted(self.ends, index.cpu(), right=True)
        found, places = [], []
        for number, part in enumerate(self.parts):
            place = (part_of == number).nonzero().squeeze(1)
            if len(place):
                start = int(self.ends[number]) - len(part)
                found.append(part.gather(index[place] - start))
                places.append(place)
        order = torch.cat(places).argsort()
        joined = concatenate(found)
        return rows(joined, order.to(next(iter(joined.values())).device))


def draw(samples: Samples, count: int, rng: torch.Generator) -> Batch:
    """``count`` samples drawn uniformly with replacement."""
    return samples.gather(torch.randint(len(samples), (count,), generator=rng, device=rng.device))


@dataclass(frozen=True)
class Task:
    """One task of a sequence.

    Attributes:
        name: unique within the sequence.
        samples: training samples.
        condition: leaves (C, ...), the C conditions under which a generator makes samples of this task.
        held_out: samples never trained on, for losses and generator quality; None where there are none.
        rehearse: (weights, count, rng) -> ``count`` samples, leaves (count, ...), of what a model with these weights
            meets when it does the task itself; None where the task can't be done at will.
    """

    name: str
    samples: Samples
    condition: Batch
    held_out: Samples | None = None
    rehearse: Callable[[Params, int, torch.Generator], Batch] | None = None

    def conditions(self, count: int, rng: torch.Generator) -> Batch:
        """``count`` rows of the task's conditions, drawn uniformly."""
        index = torch.randint(num_rows(self.condition), (count,), generator=rng, device=rng.device)
        return rows(self.condition, index)


@dataclass(frozen=True)
class TaskSequence:
    """Tasks in the order in which they arrive."""

    tasks: tuple[Task, ...]

    def __post_init__(self) -> None:
        """Reject an empty sequence."""
        if not self.tasks:
            raise ValueError("a task sequence needs at least one task, got none")

    def __len__(self) -> int:
        """Number of tasks T."""
        return len(self.tasks)

    def __iter__(self) -> Iterator[Task]:
        """Tasks in order."""
        return iter(self.tasks)

    def __getitem__(self, index: int) -> Task:
        """The task at ``index``."""
        return self.tasks[index]

    def distinct(self, count: int) -> tuple[Task, ...]:
        """The different tasks among the first ``count``: a task met twice shares its sample set and counts once."""
        first: dict[int, Task] = {}
        for task in self.tasks[:count]:
            first.setdefault(id(task.samples), task)
        return tuple(first.values())

    def merged(self) -> TaskSequence:
        """All different tasks as a single one: training on it is the joint bound."""
        tasks = self.distinct(len(self))
        held_out = [task.held_out for task in tasks if task.held_out is not None]
        task = Task(
            name="joint",
            samples=JoinedSamples([task.samples for task in tasks]),
            condition=concatenate([task.condition for task in tasks]),
            held_out=JoinedSamples(held_out) if held_out else None,
        )
        return TaskSequence((task,))
