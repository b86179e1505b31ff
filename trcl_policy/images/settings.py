"""The configuration of the image domain."""

from __future__ import annotations

from dataclasses import dataclass, field

from trcl_policy.diffusion.guidance import Guidance
from trcl_policy.images.labelled import Format
from trcl_policy.images.model import ImageNetwork

SOURCES = ("digits", "scenes", "folder", "idx", "cifar10", "cifar100", "arrays", "parquet", "huggingface")
CONDITIONS = ("class", "task")


@dataclass(frozen=True)
class ImageData:
    """Where images come from.

    Attributes:
        source: ``digits`` (scikit-learn's), ``scenes`` (rendered tasks), ``folder`` (a folder a class), ``idx``
            (MNIST's files), ``cifar10`` and ``cifar100`` (binary version), ``arrays`` (npz or zarr), ``parquet`` (local
            files) or ``huggingface`` (a name for the datasets package).
        path: file or folder; for ``huggingface`` the name of the data set; unused by ``digits``.
        part: split of a ``huggingface`` data set.
        image_key: column or array with the images.
        label_key: column or array with the labels.
        form: size, colours and the way of resizing.
        held_out: share of each class that is never trained on and that generated images are compared with.
        per_class: most images used of a class, drawn by ``seed``; 0 uses all.
        seed: seed of what is held out and of what is used.
    """

    source: str = "digits"
    path: str = ""
    part: str = "train"
    image_key: str = "image"
    label_key: str = "label"
    form: Format = field(default_factory=Format)
    held_out: float = 0.3
    per_class: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every value once."""
        if self.source not in SOURCES:
            raise ValueError(f"source must be one of {', '.join(SOURCES)}, got {self.source!r}")
        if self.source != "digits" and not self.path:
            raise ValueError(f"path must name the data of source {self.source}, got nothing")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must be a share in (0, 1), got {self.held_out}")
        if self.per_class < 0 or self.seed < 0:
            raise ValueError(f"per_class and seed must be >= 0, got {self.per_class} and {self.seed}")


@dataclass(frozen=True)
class ImageSplit:
    """Which classes make up which task.

    Attributes:
        num_tasks: tasks of equally many classes, in the order of the classes; not used with ``classes`` or ``file``.
        num_classes: classes used, the first ones of the order; 0 uses all.
        order_seed: permutes ALL classes before they are divided; null keeps the data's order.
        classes: the classes of every task, by name, or by place from 0 where no class has that name.
        file: YAML file with such a list, or with one under ``tasks``.
    """

    num_tasks: int = 5
    num_classes: int = 0
    order_seed: int | None = None
    classes: tuple[tuple[str | int, ...], ...] = ()
    file: str = ""

    def __post_init__(self) -> None:
        """Check every value once."""
        if self.num_tasks < 1 or self.num_classes < 0:
            raise ValueError(
                f"num_tasks must be >= 1 and num_classes >= 0, got {self.num_tasks} and {self.num_classes}"
            )
        if self.order_seed is not None and self.order_seed < 0:
            raise ValueError(f"order_seed must be >= 0 or null, got {self.order_seed}")
        if self.classes and self.file:
            raise ValueError(
                f"classes must be empty where file is given, got {len(self.classes)} tasks and {self.file}"
            )
        if (self.classes or self.file) and (self.order_seed is not None or self.num_classes):
            raise ValueError("order_seed and num_classes must be unset where the classes of the tasks are listed")


@dataclass(frozen=True)
class ImageScores:
    """How generated images are scored.

    Attributes:
        samples: images generated of each task.
        inception: folder or file with Inception weights for FID and KID; empty uses the feature distance.
        features: size of the classifier's feature vector.
        width: channels of the classifier's first layer.
        epochs: passes of the classifier over the training data.
        neighbours: k of density and coverage.
        bootstrap: resamplings for the intervals.
        seed: seed of generation for scores, of the classifier and of the resamplings.
        cache: folder in which the trained classifier is kept.
    """

    samples: int = 1000
    inception: str = ""
    features: int = 16
    width: int = 16
    epochs: int = 30
    neighbours: int = 5
    bootstrap: int = 200
    seed: int = 0
    cache: str = "data/classifiers"

    def __post_init__(self) -> None:
        """Check every value once."""
        for name in ("features", "width", "epochs", "neighbours", "bootstrap"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.samples < 2:
            raise ValueError(f"samples must be >= 2, got {self.samples}")
        if self.seed < 0:
            raise ValueError(f"seed must be >= 0, got {self.seed}")


@dataclass(frozen=True)
class ImagesConfig:
    """Everything that the image domain adds to a run's configuration.

    Attributes:
        condition: what a label says: the ``class`` of an image, or only its ``task``.
    """

    condition: str = "class"
    data: ImageData = field(default_factory=ImageData)
    split: ImageSplit = field(default_factory=ImageSplit)
    network: ImageNetwork = field(default_factory=ImageNetwork)
    guidance: Guidance = field(default_factory=Guidance)
    scores: ImageScores = field(default_factory=ImageScores)

    def __post_init__(self) -> None:
        """Check what only the whole can tell."""
        if self.condition not in CONDITIONS:
            raise ValueError(f"condition must be one of {', '.join(CONDITIONS)}, got {self.condition!r}")
