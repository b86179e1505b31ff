"""What goes into an episode store: demonstrations and the facts of their tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trcl_policy.data.layout import ACTION, IMAGES, STATE, SUCCESS


class TaskFacts(Protocol):
    """What the store keeps of a task; trcl_envs' TaskInfo fits."""

    @property
    def name(self) -> str:
        """Registered name."""
        ...

    @property
    def control_frequency(self) -> float:
        """Control steps per second [Hz]."""
        ...


@dataclass(frozen=True)
class StoredTask:
    """A task as the store knows it: its name and its control frequency [Hz]."""

    name: str
    control_frequency: float


@dataclass(frozen=True)
class Episode:
    """One demonstration of T control steps.

    Attributes:
        task: name of a task that the store lists.
        state: (T, Do) observation before each action.
        action: (T, Da) what was executed.
        success: (T,) whether the task counted as solved after each action.
        images: by camera name, (T, H, W, 3) uint8.
        attempt: which seeded attempt this was, counted from 0; -1 when unknown.
        extra: other numbers by their names in the store, (T, ...), whose types are kept.
    """

    task: str
    state: NDArray[np.floating]
    action: NDArray[np.floating]
    success: NDArray[np.bool_]
    images: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    attempt: int = -1
    extra: Mapping[str, NDArray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.action)

    def arrays(self) -> dict[str, NDArray]:
        """Return the arrays by their names in the store; raises ValueError when they do not fit together."""
        arrays = {
            STATE: np.asarray(self.state, np.float32),
            ACTION: np.asarray(self.action, np.float32),
            SUCCESS: np.asarray(self.success, np.bool_),
            **{f"{IMAGES}.{camera}": np.asarray(image, np.uint8) for camera, image in self.images.items()},
        }
        both = sorted(set(arrays) & set(self.extra))
        if both:
            raise ValueError(f"extra must have names of its own, got {', '.join(both)}")
        num_axes = {STATE: 2, ACTION: 2, SUCCESS: 1}
        for key, value in {**arrays, **self.extra}.items():
            axes = num_axes.get(key, value.ndim if key in self.extra else 4)
            if value.ndim != axes or not axes or len(value) != len(self) or not len(self):
                raise ValueError(f"{key} must have one row per step ({len(self)} >= 1), got shape {value.shape}")
            if value.dtype.kind not in "biuf":
                raise ValueError(f"{key} must hold numbers, got values of type {value.dtype}")
            if key not in self.extra and value.dtype.kind == "f" and not np.isfinite(value).all():
                raise ValueError(f"{key} must be finite, got NaN or infinity in an episode of {self.task}")
        return {**arrays, **{key: np.asarray(value) for key, value in self.extra.items()}}
