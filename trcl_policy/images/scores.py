"""Scores of generated images, task by task, against real images that were never trained on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from trcl_policy.continual.streams import derive_seed
from trcl_policy.images.classifier import Classifier, ClassifierSettings, classifier
from trcl_policy.images.distances import bootstrap, frechet, kernel_distance, neighbours
from trcl_policy.images.generator import Generator
from trcl_policy.images.inception import inception_features, load_inception
from trcl_policy.images.settings import ImageScores
from trcl_policy.images.tasks import ImageTasks

FEATURE_DISTANCE = "feature distance"
FID = "FID"


@dataclass(frozen=True)
class TaskScore:
    """How close generated images of one task are to real held-out ones.

    Attributes:
        distance: Frechet distance of their features; lower is better.
        distance_low, distance_high: 95 % bootstrap interval.
        kernel: unbiased squared MMD (KID where the features are Inception's); about 0 for equal distributions.
        kernel_low, kernel_high: 95 % bootstrap interval.
        precision, recall, density, coverage: see ``Neighbours``.
        accuracy: share that the classifier names as the label asked for; as any class of the task where the label
            names only the task.
        num_made: generated images.
        num_real: held-out images.
    """

    distance: float
    distance_low: float
    distance_high: float
    kernel: float
    kernel_low: float
    kernel_high: float
    precision: float
    recall: float
    density: float
    coverage: float
    accuracy: float
    num_made: int
    num_real: int

    def to_json(self) -> dict[str, Any]:
        """Plain numbers by name."""
        return asdict(self)


class Scorer:
    """Scores generators on an image set; holds the classifier and the features of the real images.

    Args:
        tasks: the image set.
        config: how to score.

    Raises:
        ValueError: Inception weights are asked for and not there, or a task has too few held-out images.
    """

    def __init__(self, tasks: ImageTasks, config: ImageScores) -> None:
        self.tasks, self.config = tasks, config
        self._inception = load_inception(config.inception) if config.inception else None
        for task, name in enumerate(tasks.names):
            held = len(tasks.real(task, held_out=True))
            if min(held, config.samples) <= config.neighbours:
                raise ValueError(
                    f"neighbours must be below samples and the held-out images of {name}, {config.samples} and {held}, "
                    f"got {config.neighbours}"
                )

    @property
    def name(self) -> str:
        """What the distance is called: ``FID`` with Inception weights only."""
        return FEATURE_DISTANCE if self._inception is None else FID

    @cached_property
    def classifier(self) -> Classifier:
        """The classifier of the real images, trained at the first use and then cached on disk."""
        form, config = self.tasks.train.images.shape, self.config
        settings = ClassifierSettings(
            len(self.tasks.train.names), form[1], form[2], config.features, config.width, config.epochs, config.seed
        )
        return classifier(settings, self.tasks.train, self.tasks.held_out, config.cache)

    def features(self, images: Tensor) -> Tensor:
        """Features (N, D), float64."""
        if self._inception is None:
            return self.classifier.features(images)
        return inception_features(self._inception, images)

    def score(self, generator: Generator, task: int, seed: int | None = None, samples: int | None = None) -> TaskScore:
        """Generate images of a task, under seeds of their own, and score them.

        Args:
            generator: makes the images.
            task: place of the task.
            seed: of the images; None takes the settings'.
            samples: number of images; None takes the settings'.
        """
        seed, samples = self.config.seed if seed is None else seed, samples or self.config.samples
        made, labels = generator.sample_task(task, samples, derive_seed("scores", seed))
        return self.compare(made, labels, task)

    def floor(self, task: int) -> TaskScore:
        """The score of real TRAINING images: what a perfect generator gets about, at its count of images."""
        real = self.tasks.real(task, held_out=False)
        labels = real.labels if self.tasks.condition == "class" else torch.full_like(real.labels, task)
        return self.compare(real.images, labels, task)

    def compare(self, made: Tensor, labels: Tensor, task: int) -> TaskScore:
        """Score images (M, C, H, W) made for ``labels`` (M,) against the held-out images of a task."""
        held_out = self.tasks.real(task, held_out=True)
        real, features = self.features(held_out.images), self.features(made)
        rng = torch.Generator().manual_seed(derive_seed("bootstrap", self.config.seed, task))
        times = self.config.bootstrap
        low, high = bootstrap(frechet, real, features, times, rng)
        kernel_low, kernel_high = bootstrap(kernel_distance, real, features, times, rng)
        overlap = neighbours(real, features, self.config.neighbours)
        return TaskScore(
            distance=frechet(real, features),
            distance_low=low,
            distance_high=high,
            kernel=kernel_distance(real, features),
            kernel_low=kernel_low,
            kernel_high=kernel_high,
            **asdict(overlap),
            accuracy=self._accuracy(made, labels),
            num_made=len(made),
            num_real=len(held_out),
        )

    def _accuracy(self, made: Tensor, labels: Tensor) -> float:
        found = self.classifier.classes(made)
        if self.tasks.condition == "class":
            return float((found == labels).double().mean())
        wanted = [torch.tensor(self.tasks.classes[task]) for task in labels.tolist()]
        return sum(bool((own == one).any()) for own, one in zip(wanted, found, strict=True)) / len(found)
