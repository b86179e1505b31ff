"""How gradients become a step of the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from trcl_policy.continual.anchor import Anchor


@dataclass(frozen=True)
class Gradients:
    """Gradients of one step, each (P,).

    Attributes:
        new: of the mean loss on the new task.
        old: of the mean loss on replayed samples; None where nothing is replayed.
    """

    new: Tensor
    old: Tensor | None


class Update(Protocol):
    """Joins the gradients before the optimiser's step, and may correct the weights after it."""

    @property
    def separate(self) -> bool:
        """Whether ``direction`` needs the two gradients apart; if not, their sum comes as ``new``."""
        ...

    def direction(self, gradients: Gradients, theta: Tensor, anchor: Anchor) -> Tensor:
        """What the optimiser gets as the gradient, (P,)."""
        ...

    def correct(self, theta: Tensor, anchor: Anchor, learning_rate: float) -> Tensor:
        """Weights after the optimiser's step, corrected, (P,)."""
        ...


@dataclass(frozen=True)
class Penalty:
    """The published form: the anchor's gradient is added and goes through the optimiser."""

    separate: bool = False

    def direction(self, gradients: Gradients, theta: Tensor, anchor: Anchor) -> Tensor:
        """new + gradient of the anchor."""
        pull = anchor.gradient(theta)
        return gradients.new if pull is None else gradients.new + pull

    def correct(self, theta: Tensor, anchor: Anchor, learning_rate: float) -> Tensor:
        """``theta`` itself."""
        return theta


@dataclass(frozen=True)
class Proximal:
    """A proximal step on the anchor after the optimiser's own step, as AdamW decouples weight decay.

    The step is ``learning_rate * speed``: Adam moves every weight by about the learning rate whatever the gradient's
    size, so ``speed`` sets how strong a curvature must be to hold against it.

    Attributes:
        speed: multiple of the learning rate used as the proximal step, > 0.
    """

    speed: float = 100.0
    separate: bool = False

    def __post_init__(self) -> None:
        """Check the options once."""
        if not self.speed > 0:
            raise ValueError(f"proximal speed must be > 0, got {self.speed}")

    def direction(self, gradients: Gradients, theta: Tensor, anchor: Anchor) -> Tensor:
        """new."""
        return gradients.new

    def correct(self, theta: Tensor, anchor: Anchor, learning_rate: float) -> Tensor:
        """The anchor's proximal map of ``theta``."""
        return anchor.proximal(theta, learning_rate * self.speed)


@dataclass(frozen=True)
class Ball:
    """A hard trust region: after each step the weights return into Q(theta) <= radius^2.

    Attributes:
        radius: with a scale-free anchor of weight 1, radius^2 / 2 is the rise of the average old loss that is allowed,
            as the anchor estimates it and, with several old tasks, counted from their best compromise.
    """

    radius: float = 0.1
    separate: bool = False

    def __post_init__(self) -> None:
        """Check the options once."""
        if not self.radius > 0:
            raise ValueError(f"radius must be > 0 [Fisher length], got {self.radius}")

    def direction(self, gradients: Gradients, theta: Tensor, anchor: Anchor) -> Tensor:
        """new."""
        return gradients.new

    def correct(self, theta: Tensor, anchor: Anchor, learning_rate: float) -> Tensor:
        """``theta`` projected onto the ball."""
        return anchor.project(theta, self.radius)


@dataclass(frozen=True)
class Projected:
    """A-GEM: a new gradient that would raise the replayed loss loses its component along that loss's gradient."""

    separate: bool = True

    def direction(self, gradients: Gradients, theta: Tensor, anchor: Anchor) -> Tensor:
        """new - (new'old / old'old) old where new'old < 0, else new (Chaudhry et al. 2019, eq. 11)."""
        if gradients.old is None:
            return gradients.new
        overlap = torch.dot(gradients.new, gradients.old)
        if overlap >= 0:
            return gradients.new
        return gradients.new - overlap / torch.dot(gradients.old, gradients.old) * gradients.old

    def correct(self, theta: Tensor, anchor: Anchor, learning_rate: float) -> Tensor:
        """``theta`` itself."""
        return theta
