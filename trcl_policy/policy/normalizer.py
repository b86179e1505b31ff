"""Ranges that map observations and actions of every task to [-1, 1], fixed once a task has been met.

Each task brings its own ranges, taken from its own demonstrations when it arrives, and keeps them for good: learning a
later task changes no number that an earlier one uses. A task that was never met has no ranges, and using it is an error
rather than a silent extrapolation. Within a task, values beyond the range seen in its demonstrations map linearly to
beyond [-1, 1] and are not clipped; actions are clipped to their own bounds where they are executed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Normalizer:
    """Affine maps to [-1, 1] by part and task.

    Attributes:
        low: lower ends by part, each (T, D); NaN rows for tasks not met yet.
        high: upper ends by part, each (T, D).
    """

    low: Mapping[str, Tensor]
    high: Mapping[str, Tensor]

    @classmethod
    def empty(cls, sizes: Mapping[str, int], num_tasks: int) -> Normalizer:
        """No ranges yet, for parts of the given sizes D."""
        blank = {name: torch.full((num_tasks, size), float("nan")) for name, size in sizes.items()}
        return cls(blank, {name: leaf.clone() for name, leaf in blank.items()})

    def fitted(self, task: int, values: Mapping[str, Tensor], min_range: float) -> Normalizer:
        """The normaliser that also knows ``task``, from its demonstrations ``values`` (N, D) by part.

        Ranges narrower than ``min_range`` are widened around their middle, so that constant dimensions stay near zero
        instead of blowing up noise.
        """
        low, high = dict(self.low), dict(self.high)
        for name, value in values.items():
            bottom, top = value.amin(0), value.amax(0)
            widen = ((min_range - (top - bottom)) / 2).clamp_min(0)
            low[name], high[name] = low[name].clone(), high[name].clone()
            low[name][task], high[name][task] = bottom - widen, top + widen
        return Normalizer(low, high)

    def knows(self, task: int) -> bool:
        """Whether ``task`` has ranges."""
        return not bool(torch.stack([leaf[task].isnan().any() for leaf in self.low.values()]).any())

    def normalize(self, part: str, value: Tensor, task: int | Tensor) -> Tensor:
        """``value`` (..., D) of one task, or (B, ..., D) with tasks (B,), to [-1, 1]."""
        low, high = self._ends(part, value, task)
        return (value - low) / (high - low) * 2 - 1

    def unnormalize(self, part: str, value: Tensor, task: int | Tensor) -> Tensor:
        """The inverse of ``normalize``."""
        low, high = self._ends(part, value, task)
        return (value + 1) / 2 * (high - low) + low

    def _ends(self, part: str, value: Tensor, task: int | Tensor) -> tuple[Tensor, Tensor]:
        low, high = self.low[part].to(value.device)[task], self.high[part].to(value.device)[task]
        if isinstance(task, Tensor):
            shape = (len(task), *([1] * (value.dim() - 2)), -1)
            return low.view(shape), high.view(shape)
        return low, high

    def state(self) -> dict[str, Tensor]:
        """Tensors ``<part>.low`` and ``<part>.high``."""
        lows = {f"{name}.low": leaf.contiguous() for name, leaf in self.low.items()}
        return {**lows, **{f"{name}.high": leaf.contiguous() for name, leaf in self.high.items()}}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Normalizer:
        """The normaliser saved as ``state``."""
        names = [key.removesuffix(".low") for key in state if key.endswith(".low")]
        return cls({n: state[f"{n}.low"] for n in names}, {n: state[f"{n}.high"] for n in names})
