"""What a run can learn: the table of domains, and what a domain must be able to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from trcl_policy.config import RunConfig
from trcl_policy.continual.metrics import Curve
from trcl_policy.continual.model import GradedModel
from trcl_policy.continual.params import Params
from trcl_policy.continual.tasks import TaskSequence
from trcl_policy.image_domain import ImageDomain
from trcl_policy.policy_domain import PolicyDomain

__all__ = ["DOMAINS", "Agent", "Domain", "ImageDomain", "Measured", "PolicyDomain", "open_domain"]


class Agent(Protocol):
    """What a checkpoint holds: a policy, an image generator."""

    @property
    def params(self) -> Params:
        """Its weights."""
        ...

    @property
    def owner(self) -> Tensor | None:
        """The visit that each weight belongs to, flat (P,); None where all tasks share all."""
        ...

    def params_of(self, task: int) -> Params:
        """The weights that the task with this index in ``Domain.distinct`` uses."""
        ...

    def save(self, folder: Path) -> None:
        """Write a checkpoint, ``config.json`` last."""
        ...


class Measured(Protocol):
    """One measurement of one task."""

    @property
    def seed(self) -> int:
        """Its seed."""
        ...

    def record(self) -> dict[str, Any]:
        """Its line of the domain's ``record_file``, with ``task`` and ``seed``."""
        ...


A = TypeVar("A", bound=Agent)


class Domain(Protocol[A]):
    """Tasks, a model and a way to measure it, built from a configuration.

    Attributes:
        config: the configuration, with what depends on the machine decided (see ``devices.settled``).
        data_key: the setting that names the data.
        record_file: the file of a run directory that has a line for every measurement.
    """

    config: RunConfig
    data_key: str
    record_file: str

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        ...

    @property
    def model(self) -> GradedModel:
        """The model, for the core."""
        ...

    @property
    def tasks(self) -> TaskSequence:
        """The tasks, for the core."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Name of every visit of a task, unique."""
        ...

    @property
    def sequence(self) -> tuple[str, ...]:
        """The task of every visit."""
        ...

    @property
    def distinct(self) -> tuple[str, ...]:
        """Every task once."""
        ...

    @property
    def seeds(self) -> Sequence[int]:
        """Seeds of every measurement of a run."""
        ...

    def params(self) -> dict[str, Tensor]:
        """The first weights."""
        ...

    def agent(self, params: Params, num_learned: int, owner: Tensor | None = None) -> A:
        """What these weights are after ``num_learned`` tasks; ``owner`` (P,) where tasks have weights of their own."""
        ...

    def load(self, folder: Path) -> A:
        """What a checkpoint holds."""
        ...

    def measure(self, agent: A, name: str, seeds: Sequence[int]) -> Sequence[Measured]:
        """One measurement of a task for every seed."""
        ...

    def illustrate(self, agent: A, number: int, folder: Path) -> None:
        """Keep in the run directory what the report shows of a checkpoint, unless it is there."""
        ...

    def retention(self, records: Iterable[Mapping[str, Any]], alone: Sequence[Curve] | None) -> dict[str, Any]:
        """Scores and summaries, for ``metrics.json``, out of the lines of ``record_file``."""
        ...

    def resolve(self, task: str) -> str:
        """The full name of a task that was named in short."""
        ...

    def provenance(self) -> dict[str, Any]:
        """Facts that results depend on; ``data`` has a ``fingerprint``."""
        ...

    def close(self) -> None:
        """Release what is open."""
        ...


DOMAINS: dict[str, Callable[[RunConfig], Domain[Any]]] = {"policy": PolicyDomain, "images": ImageDomain}


def open_domain(config: RunConfig, home: Path) -> Domain[Any]:
    """The domain of a run that has a directory, ``home``: what its checkpoints hold is not learned again."""
    return PolicyDomain(config, home) if config.domain == "policy" else DOMAINS[config.domain](config)
