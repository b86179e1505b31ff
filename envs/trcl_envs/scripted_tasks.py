"""Scripted controllers on arrays for the tasks of the sequences ``cw10`` and ``quick``.

The numbers are Meta-World's; tests hold the actions to its own policies bit for bit.
"""

from __future__ import annotations

import numpy as np

from trcl_envs.interface import BoolArray
from trcl_envs.scripted import (
    Script,
    Seen,
    Stage,
    When,
    always,
    apart,
    at,
    away,
    beside,
    both,
    from_hand,
    goal,
    hand,
    mixed,
    near,
    off_height,
    over_then_down,
)

PUCK = near(-0.005)
FAUCET = near(0.04, 0.0, 0.03)
WINDOW = near(0.03, -0.03, -0.08)
PEG = near(-0.02, 0.0, 0.035)
BLOCK = near(-0.005, 0.0, 0.015)
DRAWER = near(0.0, 0.0, -0.02)
DOOR = near(-0.05)
HAMMER = near(-0.04, 0.0, -0.01)
NAIL = at(0.24 - 0.19, 0.71, 0.11 + 0.05)
STICK = near(-0.015, 0.0, 0.03)
THERMOS = near(-0.015, 0.0, 0.03, after=lambda seen: seen.second)
PUSH_DOWN = (off_height(PUCK, 0.04), near(z=0.03, after=PUCK))
PUSH_GRIP = (away(near(), 0.02, 0.1), 0.0, 0.6)


def within(x: tuple[float, float], y: tuple[float, float]) -> When:
    """The puck is inside a rectangle [m], edges included."""

    def is_within(seen: Seen) -> BoolArray:
        puck = PUCK(seen)
        return (x[0] <= puck[:, 0]) & (puck[:, 0] <= x[1]) & (y[0] <= puck[:, 1]) & (puck[:, 1] <= y[1])

    return is_within


def at_the_walls_ends(seen: Seen) -> BoolArray:
    """The puck is beyond the wall's one end or the other, edges of x excluded."""
    x, y = PUCK(seen)[:, 0], PUCK(seen)[:, 1]
    ends = ((x > -0.15) & (x < 0.05)) | ((x > 0.15) & (x < 0.35))
    return ends & (y >= 0.695) & (y <= 0.755)


def stick_is_in(seen: Seen) -> BoolArray:
    """The stick is in the thermos's handle."""
    return ~apart(STICK, THERMOS, 0, 0.04)(seen)


SCRIPTS: dict[str, Script] = {
    "button-press-topdown-v3": Script(over_then_down(near(), 0.04, 0.1, ((always, near()),), 25.0), 1.0),
    "door-open-v3": Script(
        (
            Stage(beside(DOOR, 0.12), near(0.06, 0.02, 0.2, after=DOOR), 25.0),
            Stage(off_height(DOOR, 0.04), near(0.06, 0.02, after=DOOR), 25.0),
            Stage(always, DOOR, 25.0),
        ),
        1.0,
    ),
    "drawer-open-v3": Script(
        (
            Stage(beside(DRAWER, 0.06), near(z=0.3, after=DRAWER), 4.0),
            Stage(off_height(DRAWER, 0.04), DRAWER, 4.0),
            Stage(always, near(y=-0.06, after=DRAWER), 50.0),
        ),
        -1.0,
    ),
    "faucet-close-v3": Script(
        over_then_down(
            FAUCET, 0.04, 0.1, ((off_height(FAUCET, 0.04), FAUCET), (always, near(-0.1, 0.05, after=FAUCET))), 25.0
        ),
        1.0,
    ),
    "hammer-v3": Script(
        over_then_down(
            HAMMER,
            0.04,
            0.1,
            (
                (both(off_height(HAMMER, 0.05), lambda seen: HAMMER(seen)[:, 2] < 0.03), near(z=0.03, after=HAMMER)),
                (beside(NAIL, 0.02, (0, 2)), mixed(NAIL, hand, NAIL)),
                (always, NAIL),
            ),
            10.0,
        ),
        (away(HAMMER, 0.04, 0.1), 0.0, 0.8),
    ),
    "handle-press-side-v3": Script(over_then_down(near(), 0.02, 0.2, ((always, near(z=-0.5)),), 25.0), 1.0),
    "peg-unplug-side-v3": Script(
        over_then_down(
            PEG,
            0.04,
            0.2,
            ((off_height(at(0.0, 0.0, 0.15), 0.02), mixed(PEG, PEG, at(0.0, 0.0, 0.15))), (always, from_hand(0.01))),
            25.0,
        ),
        (away(PEG, 0.04, 0.15), -1.0, 0.1),
    ),
    "push-back-v3": Script(
        over_then_down(
            near(),
            0.04,
            0.3,
            (
                (off_height(near(), 0.055), near()),
                (always, lambda seen: seen.goal + mixed(at(0, 0, 0), at(0, 0, 0), hand)(seen)),
            ),
            10.0,
        ),
        (away(near(), 0.04, 0.05), 0.0, 0.9),
    ),
    "push-v3": Script(over_then_down(PUCK, 0.02, 0.2, (PUSH_DOWN, (always, goal)), 10.0), PUSH_GRIP),
    "push-wall-v3": Script(
        over_then_down(
            PUCK,
            0.02,
            0.2,
            (
                PUSH_DOWN,
                (within((-0.1, 0.3), (0.65, 0.75)), from_hand(-1.0)),
                (at_the_walls_ends, from_hand(y=1.0)),
                (always, goal),
            ),
            10.0,
        ),
        PUSH_GRIP,
    ),
    "shelf-place-v3": Script(
        over_then_down(
            BLOCK,
            0.04,
            0.3,
            (
                (off_height(BLOCK, 0.04), BLOCK),
                (apart(hand, goal, 0, 0.02), mixed(goal, hand, at(0.0, 0.0, 0.3))),
                (lambda seen: seen.hand[:, 2] < 0.3, from_hand(z=0.3)),
                (always, from_hand(y=0.05)),
            ),
            25.0,
        ),
        (away(near(), 0.04, 0.15), -1.0, 0.7),
    ),
    "stick-pull-v3": Script(
        (
            Stage(stick_is_in, lambda seen: seen.goal + np.array([-0.05, 0.0, 0.0]), 25.0),
            *over_then_down(
                STICK,
                0.02,
                0.1,
                (
                    (off_height(STICK, 0.02), STICK),
                    (apart(STICK, THERMOS, 1, 0.02), mixed(STICK, THERMOS, STICK)),
                    (apart(STICK, THERMOS, 2, 0.02), mixed(STICK, THERMOS, THERMOS)),
                    (always, THERMOS),
                ),
                25.0,
            ),
        ),
        (away(STICK, 0.02, 0.1), -1.0, 0.7),
    ),
    "window-close-v3": Script(
        over_then_down(
            WINDOW, 0.04, 0.25, ((off_height(WINDOW, 0.02), WINDOW), (always, near(-0.1, after=WINDOW))), 25.0
        ),
        1.0,
    ),
}
