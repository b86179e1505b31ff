"""Images, some classes a task, as something that a run learns."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trcl_policy.config import RunConfig
from trcl_policy.continual.methods import METHODS
from trcl_policy.continual.metrics import Curve
from trcl_policy.continual.params import Layout, Params
from trcl_policy.continual.streams import derive_seed
from trcl_policy.devices import resolve_device, settled
from trcl_policy.files import write_safetensors
from trcl_policy.images.generator import Generator, GeneratorSpec, load_generator
from trcl_policy.images.labelled import Labelled
from trcl_policy.images.scores import Scorer, TaskScore
from trcl_policy.images.sources import read
from trcl_policy.images.tasks import ImageTasks, make_tasks
from trcl_policy.rollout.distances import distance_retention
from trcl_policy.scenes import make_scenes
from trcl_policy.schema import ConfigError, nearest

SHOWN = 8
"""Images that are kept of each task after each task, for the report."""


@dataclass(frozen=True)
class Scored:
    """The score of one task.

    Attributes:
        task: its name.
        seed: seed of the generated images.
        score: what the distance is called.
        values: the score.
    """

    task: str
    seed: int
    score: str
    values: TaskScore

    def record(self) -> dict[str, Any]:
        """A line of ``scores.jsonl``."""
        return {"task": self.task, "seed": self.seed, "score": self.score, **self.values.to_json()}


class ImageDomain:
    """Diffusion models of images on a sequence of groups of classes.

    Args:
        config: the run's configuration; its images are read at once, so that all that is wrong shows before training.

    Raises:
        ConfigError: the images, the tasks and the network do not fit each other.
    """

    data_key = "images.data"
    record_file = "scores.jsonl"

    def __init__(self, config: RunConfig) -> None:
        self.config = config = settled(config)
        self.device = resolve_device(config.device)
        try:
            self.images = make_tasks(_read(config), config.images)
            self.scorer = Scorer(self.images, config.images.scores)
            self.spec = _spec(config, self.images)
            seed = derive_seed(config.seed, "network")
            self.model = self.spec.model(seed, self.device, config.precision, config.compile)
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(f"images: {error}") from None
        self.names = self.sequence = self.distinct = self.images.names
        self.tasks = self.images.sequence(self.device)

    @property
    def seeds(self) -> Sequence[int]:
        """The seed of the images that every measurement generates."""
        return (self.config.images.scores.seed,)

    def params(self) -> dict[str, Tensor]:
        """The first weights, drawn from the run's seed."""
        return {name: tensor.detach() for name, tensor in self.model.net.named_parameters()}

    def agent(self, params: Params, num_learned: int, owner: Tensor | None = None) -> Generator:
        """The generator with ``params`` after ``num_learned`` tasks; it refuses the labels of later ones.

        Where tasks have weights of their own, ``owner`` (P,) names each weight's.
        """
        owners = None if owner is None else Layout.of(params).unflatten(owner.clone())
        return Generator(self.spec, self.model, params, num_learned, owners)

    def load(self, folder: Path) -> Generator:
        """The generator of a checkpoint."""
        return load_generator(folder, self.device)

    def measure(self, agent: Generator, name: str, seeds: Sequence[int]) -> list[Scored]:
        """Generate images of one task and score them, once for every seed."""
        place = self.names.index(name)
        return [Scored(name, seed, self.scorer.name, self.scorer.score(agent, place, seed)) for seed in seeds]

    def illustrate(self, agent: Generator, number: int, folder: Path) -> None:
        """Keep a few images of every task that the generator knows, as bytes (N, C, H, W) by place of the task."""
        path = folder / "samples" / f"{number:02d}.safetensors"
        if path.exists():
            return
        first = number if METHODS[self.config.method.name].alone else 0
        made = {str(task): agent.sample_task(task, SHOWN, derive_seed("shown"))[0] for task in range(first, number + 1)}
        write_safetensors(path, {task: ((x + 1) * 127.5).round().to(torch.uint8) for task, x in made.items()})

    def retention(self, records: Iterable[Mapping[str, Any]], alone: Sequence[Curve] | None) -> dict[str, Any]:
        """Scores and summaries out of the lines of ``scores.jsonl``; nothing is compared with tasks learned alone."""
        return distance_retention(records, self.names, self.scorer.name)

    def resolve(self, task: str) -> str:
        """The full name of a task, given in full or by its number from 1."""
        for place, name in enumerate(self.names, 1):
            if task in (name, str(place)):
                return name
        raise ConfigError(f"task must be one of {', '.join(self.names)}{nearest(task, self.names)}, got {task}")

    def provenance(self) -> dict[str, Any]:
        """Facts about the images that results depend on."""
        data = self.config.images.data
        return {
            "device": str(self.device),
            "data": {
                "store": data.path or data.source,
                "fingerprint": _fingerprint(self.images),
                "num_images": {"train": len(self.images.train), "held_out": len(self.images.held_out)},
            },
            "num_parameters": sum(tensor.numel() for tensor in self.model.net.parameters()),
        }

    def close(self) -> None:
        """Nothing is open."""


def _read(config: RunConfig) -> Labelled:
    """The images; scenes are rendered into their file first."""
    data = config.images.data
    if data.source == "scenes":
        make_scenes(data.path, config.tasks, data.per_class, data.form.size, data.seed)
    return read(data)


def _spec(config: RunConfig, images: ImageTasks) -> GeneratorSpec:
    return GeneratorSpec(
        labels=images.train.names if config.images.condition == "class" else images.names,
        tasks=tuple(images.labels_of(task) for task in range(len(images.classes))),
        shape=config.images.data.form.shape,
        network=config.images.network,
        diffusion=config.diffusion,
        guidance=config.images.guidance,
    )


def _fingerprint(images: ImageTasks) -> str:
    """A hash that changes with any image, its label, its part or its task."""
    digest = hashlib.sha256(json.dumps([images.classes, images.condition, images.train.names]).encode())
    for part in (images.train, images.held_out):
        digest.update(part.images.contiguous().numpy().tobytes())
        digest.update(part.labels.contiguous().numpy().tobytes())
    return digest.hexdigest()
