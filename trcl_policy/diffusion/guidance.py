"""Classifier-free guidance of a generator by what it is told of a sample."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance (Ho and Salimans 2022).

    Attributes:
        label_dropout: share of the generator's training samples whose label is hidden.
        scale: the sampler uses f(x, none) + scale * (f(x, label) - f(x, none)); 1 is no guidance.
    """

    label_dropout: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Check every value once."""
        if not 0 <= self.label_dropout < 1:
            raise ValueError(f"label_dropout must be in [0, 1), got {self.label_dropout}")
        if self.scale < 0 or (self.scale != 1 and not self.label_dropout):
            raise ValueError(f"scale must be >= 0, and 1 where label_dropout is 0, got {self.scale}")


UNGUIDED = Guidance()
