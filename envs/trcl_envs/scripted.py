"""Meta-World's scripted controllers as stages on arrays: N observations in, N actions out, without a loop over rows.

What such a controller does: the hand heads for one of a few points, straight and with a gain; which point depends on
how far the hand and the object have come. ``scripted_tasks`` holds one entry a task.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from trcl_envs.interface import BoolArray, FloatArray


@dataclass(frozen=True)
class Seen:
    """What controllers look at, each (N, 3) [m]: the hand, the first and the second thing, and the goal."""

    hand: FloatArray
    thing: FloatArray
    second: FloatArray
    goal: FloatArray

    @classmethod
    def of(cls, observations: FloatArray) -> Seen:
        """The parts of observations (N, 39)."""
        return cls(observations[:, :3], observations[:, 4:7], observations[:, 11:14], observations[:, -3:])


Where = Callable[[Seen], FloatArray]
When = Callable[[Seen], BoolArray]


@dataclass(frozen=True)
class Stage:
    """While ``when`` holds (and no earlier stage's does), head for ``target`` with ``gain`` [action per metre]."""

    when: When
    target: Where
    gain: float


@dataclass(frozen=True)
class Script:
    """A controller.

    Attributes:
        stages: the first one that applies counts; the last one applies always.
        grip: finger effort: a number, or (when the hand is not there yet, effort until then, effort from then on).
    """

    stages: tuple[Stage, ...]
    grip: float | tuple[When, float, float]

    def actions(self, observations: FloatArray) -> FloatArray:
        """Actions (N, 4) for observations (N, 39), unclipped."""
        seen = Seen.of(observations)
        pulls = [stage.gain * (stage.target(seen) - seen.hand) for stage in self.stages]
        choose = [np.broadcast_to(stage.when(seen)[:, None], pulls[0].shape) for stage in self.stages]
        actions = np.empty((len(observations), 4))
        actions[:, :3] = np.select(choose, pulls)
        if isinstance(self.grip, float):
            actions[:, 3] = self.grip
        else:
            open_while, before, after = self.grip
            actions[:, 3] = np.where(open_while(seen), before, after)
        # Meta-World's controllers answer in single precision.
        return actions.astype(np.float32).astype(np.float64)


# --- where


def near(x: float = 0.0, y: float = 0.0, z: float = 0.0, after: Where | None = None) -> Where:
    """The first thing plus an offset [m]; with ``after``, that position plus another offset."""
    base = after or (lambda seen: seen.thing)
    offset = np.array([x, y, z])
    return lambda seen: base(seen) + offset


def from_hand(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Where:
    """The hand's own place plus an offset [m]."""
    return lambda seen: seen.hand + np.array([x, y, z])


def mixed(x: Where, y: Where, z: Where) -> Where:
    """Each coordinate of another position."""
    return lambda seen: np.stack([x(seen)[:, 0], y(seen)[:, 1], z(seen)[:, 2]], axis=1)


def goal(seen: Seen) -> FloatArray:
    """The goal."""
    return seen.goal


def hand(seen: Seen) -> FloatArray:
    """The hand."""
    return seen.hand


def at(x: float, y: float, z: float) -> Where:
    """A fixed place [m]."""
    return lambda seen: np.tile([x, y, z], (len(seen.hand), 1))


# --- when


def beside(place: Where, radius: float, axes: tuple[int, int] = (0, 1)) -> When:
    """The hand is farther than ``radius`` [m] from a place in a plane, from above unless told otherwise."""

    def is_beside(seen: Seen) -> BoolArray:
        a, b = ((seen.hand - place(seen))[:, axis] for axis in axes)
        return np.sqrt(a * a + b * b) > radius

    return is_beside


def apart(one: Where, other: Where, axis: int, distance: float) -> When:
    """Two positions differ by more than ``distance`` [m] along an axis."""
    return lambda seen: np.abs(one(seen)[:, axis] - other(seen)[:, axis]) > distance


def off_height(place: Where, distance: float) -> When:
    """The hand is higher or lower than a place by more than ``distance`` [m]."""
    return apart(hand, place, 2, distance)


def both(one: When, other: When) -> When:
    """Both hold."""
    return lambda seen: one(seen) & other(seen)


def either(one: When, other: When) -> When:
    """At least one holds."""
    return lambda seen: one(seen) | other(seen)


def always(seen: Seen) -> BoolArray:
    """Holds."""
    return np.ones(len(seen.hand), dtype=bool)


def away(place: Where, radius: float, height: float) -> When:
    """The hand is not at a place yet: beside it, or at another height."""
    return either(beside(place, radius), off_height(place, height))


# --- a shape that most of them have


def over_then_down(
    place: Where, radius: float, above: float, then: tuple[tuple[When, Where], ...], gain: float
) -> tuple[Stage, ...]:
    """Come within ``radius`` [m] of a place ``above`` [m] over it first, then what follows."""
    first = Stage(beside(place, radius), near(z=above, after=place), gain)
    return (first, *(Stage(when, target, gain) for when, target in then))
