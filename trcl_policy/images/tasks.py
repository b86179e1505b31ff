"""Labelled images as a sequence of tasks: which classes come when, and what is held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from trcl_policy.continual.streams import derive_seed
from trcl_policy.continual.tasks import Task, TaskSequence, TensorSamples
from trcl_policy.files import read_text
from trcl_policy.images.labelled import Labelled
from trcl_policy.images.settings import ImageData, ImagesConfig, ImageSplit


@dataclass(frozen=True)
class ImageTasks:
    """A task-incremental image set.

    Attributes:
        train: training images of all tasks.
        held_out: images of the same classes that are never trained on.
        classes: classes of every task, in order, as indices into ``train.names``.
        condition: what a label says, ``class`` or ``task``.
    """

    train: Labelled
    held_out: Labelled
    classes: tuple[tuple[int, ...], ...]
    condition: str = "class"

    @property
    def names(self) -> tuple[str, ...]:
        """Unique name of every task: its classes, shortened, behind its number."""
        spelt = [[self.train.names[c] for c in classes] for classes in self.classes]
        # A name behind # would be taken for another visit of the same task.
        return tuple(f"{place}:{'+'.join(_short(names))}".replace("#", "_") for place, names in enumerate(spelt, 1))

    @property
    def num_labels(self) -> int:
        """Labels that a network must have room for."""
        return len(self.train.names) if self.condition == "class" else len(self.classes)

    def labels_of(self, task: int) -> tuple[int, ...]:
        """The labels under which a generator makes images of a task."""
        return self.classes[task] if self.condition == "class" else (task,)

    def real(self, task: int, held_out: bool) -> Labelled:
        """Training or held-out images of a task."""
        images = self.held_out if held_out else self.train
        return images.rows(images.of(self.classes[task]))

    def sequence(self, device: torch.device | str = "cpu") -> TaskSequence:
        """The tasks for the core: ``x`` (N, C*H*W) in [-1, 1] and ``label`` (N,)."""
        return TaskSequence(tuple(self._task(number, device) for number in range(len(self.classes))))

    def _task(self, number: int, device: torch.device | str) -> Task:
        samples, held_out = (self._samples(number, part, device) for part in (False, True))
        labels = torch.tensor(self.labels_of(number), device=device)
        return Task(self.names[number], samples, {"label": labels}, held_out)

    def _samples(self, number: int, held_out: bool, device: torch.device | str) -> TensorSamples:
        real = self.real(number, held_out)
        label = real.labels if self.condition == "class" else torch.full_like(real.labels, number)
        return TensorSamples({"x": real.images.flatten(1).to(device), "label": label.to(device)})


def _short(names: Sequence[str], most: int = 4) -> list[str]:
    return [*names[:most], f"{len(names) - most} more"] if len(names) > most else list(names)


def make_tasks(images: Labelled, config: ImagesConfig) -> ImageTasks:
    """The image set divided into tasks and into training and held-out images.

    Raises:
        ValueError: the classes of the tasks do not fit the images; one line.
    """
    classes = task_classes(images.names, config.split)
    train, held_out = parted(images, sorted(c for task in classes for c in task), config.data)
    return ImageTasks(images.rows(train), images.rows(held_out), classes, config.condition)


def task_classes(names: Sequence[str], split: ImageSplit) -> tuple[tuple[int, ...], ...]:
    """Classes of every task as indices into ``names``: listed, or dealt out in equal numbers.

    With ``order_seed`` ALL classes are permuted first, so any two may meet in a task and no group stays together.
    """
    if split.classes or split.file:
        return listed(names, split.classes or _read_classes(Path(split.file)))
    order = list(range(len(names)))
    if split.order_seed is not None:
        rng = torch.Generator().manual_seed(derive_seed("class order", split.order_seed))
        order = torch.randperm(len(names), generator=rng).tolist()
    if split.num_classes > len(names):
        raise ValueError(f"num_classes must be <= {len(names)}, the classes there are, got {split.num_classes}")
    order = order[: split.num_classes or len(names)]
    if len(order) % split.num_tasks:
        raise ValueError(f"num_tasks must divide the {len(order)} classes, got {split.num_tasks}")
    size = len(order) // split.num_tasks
    return tuple(tuple(order[start : start + size]) for start in range(0, len(order), size))


def listed(names: Sequence[str], lists: Sequence[Sequence[str | int]]) -> tuple[tuple[int, ...], ...]:
    """Listed classes, by name or number, as indices; no class may come twice."""
    found = tuple(tuple(_class_index(names, name) for name in classes) for classes in lists)
    flat = [index for classes in found for index in classes]
    if any(not classes for classes in found):
        raise ValueError("classes must be at least one of every task, got a task without")
    repeated = sorted({names[index] for index in flat if flat.count(index) > 1})
    if repeated:
        raise ValueError(f"classes must be in one task each, got {', '.join(repeated)} twice")
    return found


def _class_index(names: Sequence[str], name: str | int) -> int:
    """A number is first of all a name: YAML reads the class 7 as one."""
    if str(name) in names:
        return names.index(str(name))
    if isinstance(name, int) and 0 <= name < len(names):
        return name
    raise ValueError(f"classes must be among {', '.join(_short(names, 12))}, got {name!r}")


def _read_classes(path: Path) -> Sequence[Sequence[str | int]]:
    try:
        content: Any = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} must be YAML, got: {' '.join(str(error).split())}") from None
    lists = content.get("tasks") if isinstance(content, dict) else content
    if not isinstance(lists, list) or not lists or not all(isinstance(item, list) for item in lists):
        raise ValueError(f"{path} must hold a list of lists of classes, or one under 'tasks', got {content!r}")
    if any(type(name) not in (int, str) for item in lists for name in item):
        raise ValueError(f"{path} must name classes by text or number, got {lists}")
    return lists


def parted(images: Labelled, classes: Sequence[int], data: ImageData) -> tuple[Tensor, Tensor]:
    """Indices of training and of held-out images; each class is shuffled by its own seed and divided.

    Raises:
        ValueError: a class has too few images for both parts.
    """
    train, held_out = [], []
    for index in classes:
        found = images.of([index])
        rng = torch.Generator().manual_seed(derive_seed("held out", data.seed, images.names[index]))
        shuffled = found[torch.randperm(len(found), generator=rng)]
        shuffled = shuffled[: data.per_class or len(found)]
        kept = round(data.held_out * len(shuffled))
        if not 0 < kept < len(shuffled):
            raise ValueError(
                f"class {images.names[index]} must have images to train on and to hold out, got {len(shuffled)}"
            )
        held_out.append(shuffled[:kept])
        train.append(shuffled[kept:])
    return torch.cat(train), torch.cat(held_out)
