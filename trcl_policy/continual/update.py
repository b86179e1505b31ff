"""How gradients become a step of the weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from trcl_policy.continual.past import Learned
from trcl_policy.continual.turn import Turn


class Update(ABC):
    """Takes the steps of a method. What it remembers between steps lies in its successor.

    Only ``step`` must be written. An update that remembers something saves and restores it.
    """

    memory: str = "nothing"

    @abstractmethod
    def step(self, turn: Turn) -> Update:
        """Move the weights of ``turn`` by one step; returns the successor, or itself where nothing is remembered."""

    def after_task(self, learned: Learned) -> Update:
        """The update for the next task."""
        return self

    def state(self) -> dict[str, Tensor]:
        """Everything that ``restore`` needs."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> Update:
        """The update saved as ``state``."""
        return self

    @property
    def owner(self) -> Tensor | None:
        """Where weights belong to tasks: each one's task (P,), -1 for none. A task then uses only its own and older."""
        return None


@dataclass(frozen=True)
class Penalty(Update):
    """The published form: the anchor's gradient is added and goes through the optimiser."""

    def step(self, turn: Turn) -> Update:
        """Descend along new + beta old + gradient of the anchor."""
        turn.descend(turn.anchor.add_gradient(turn.joined(), turn.theta))
        return self


@dataclass(frozen=True)
class Proximal(Update):
    """A proximal step on the anchor after the optimiser's own step, as AdamW decouples weight decay.

    theta <- argmin_x |x - theta|^2 / (2 rate) + Q(x) / (2 m), with m the mean curvature of the anchor's metric, so the
    pull on an average weight is rate * w whatever the network or the loss's scale, and no weight w is too large.

    Attributes:
        every: optimiser's steps to one proximal step, which is then as many times as long: a metric that is dear to
            solve costs next to nothing so. The last step of a task is always followed by one.
    """

    every: int = 1

    def __post_init__(self) -> None:
        """Check the options once."""
        if self.every < 1:
            raise ValueError(f"every must be >= 1 [updates a proximal step], got {self.every}")

    def step(self, turn: Turn) -> Update:
        """Descend along new + beta old, then, where its time has come, the anchor's proximal map."""
        turn.descend(turn.joined())
        scale, passed = turn.anchor.mean_curvature, turn.step % self.every + 1
        if scale > 0 and (passed == self.every or turn.step + 1 == turn.total_steps):
            turn.move_to(turn.anchor.proximal(turn.theta, passed * turn.rate / scale, turn.theta))
        return self


@dataclass(frozen=True)
class Ball(Update):
    """A hard trust region: after each step the weights return into Q(theta) / 2 <= rise * (average old loss).

    Attributes:
        rise: with a scale-free anchor of weight 1, the share by which the average old loss may rise, as the anchor
            estimates it and, with several old tasks, counted from their best compromise; > 0.
    """

    rise: float = 0.1

    def __post_init__(self) -> None:
        """Check the options once."""
        if not self.rise > 0:
            raise ValueError(f"rise must be > 0 [share of the old loss], got {self.rise}")

    def step(self, turn: Turn) -> Update:
        """Descend along new + beta old, then project."""
        turn.descend(turn.joined())
        square = 2 * self.rise * turn.anchor.mean_loss
        if square > 0:
            turn.move_to(turn.anchor.project(turn.theta, square**0.5))
        return self


@dataclass(frozen=True)
class Projected(Update):
    """A-GEM: a new gradient that would raise the replayed loss loses its component along that loss's gradient."""

    def step(self, turn: Turn) -> Update:
        """Descend along ``projected``."""
        new, old = turn.apart()
        turn.descend(new if old is None else projected(new, old))
        return self


def projected(new: Tensor, old: Tensor) -> Tensor:
    """new - (new'old / old'old) old where new'old < 0, else new (Chaudhry et al. 2019, eq. 11)."""
    overlap = torch.dot(new, old)
    return new if overlap >= 0 else new - overlap / torch.dot(old, old) * old
