"""Faucets and dials: one part that turns about an upright axis."""

from __future__ import annotations

from trcl_envs.arrays import constant, lengths, namespace
from trcl_envs.interface import Array, Reading
from trcl_envs.metaworld import SawyerTask, Thing
from trcl_envs.metaworld_tasks.rules import HAND_NEAR, fixture, from_draw, near_goal, observed

FAUCET = "sawyer_faucet.xml"
FAUCET_HAND = (0.0, 0.4, 0.2)
FAUCET_HAND_LOW = (-0.5, 0.40, -0.15)
DIAL_RADIUS = 0.05  # [m]


def dial_mark(reading: Reading) -> Array:
    """Position (N, 3) [m] of the mark on the dial's rim."""
    angle = reading.joint("knob_Joint_1")
    xp = namespace(angle)
    rim = DIAL_RADIUS * xp.stack([xp.sin(angle), -xp.cos(angle), xp.zeros_like(angle)], axis=1)
    return reading.position("body:dial") + rim


def faucet_opened(reading: Reading, observation: Array, goal: Array) -> Array:
    """Solved when a point next to the observed one, further in on the handle, is at most .07 m from the goal."""
    inner = observed()(reading, observation) + constant((-0.04, 0.0, 0.03), goal)
    return lengths(inner - goal) <= 0.07


TASKS: dict[str, SawyerTask] = {
    "dial-turn-v3": fixture(
        "Turn the dial.",
        "sawyer_dial.xml",
        "dial",
        ((-0.1, 0.7, 0.0), (0.1, 0.8, 0.0)),
        Thing(dial_mark, "quat:dial"),
        from_draw(0.0, 0.03, 0.03),
        near_goal(0.07),
        hand=HAND_NEAR,
        goal_low=(-0.1, 0.73, 0.0299),
        goal_high=(0.1, 0.83, 0.0301),
    ),
    "faucet-close-v3": fixture(
        "Turn the faucet until it is closed.",
        FAUCET,
        "faucetBase",
        ((-0.1, 0.8, 0.0), (0.1, 0.85, 0.0)),
        Thing("site:handleStartClose", "quat:faucetBase", (0.0, 0.0, -0.01)),
        from_draw(-0.175, 0.0, 0.125),
        near_goal(0.07),
        hand=FAUCET_HAND,
        hand_low=FAUCET_HAND_LOW,
    ),
    "faucet-open-v3": fixture(
        "Turn the faucet until it is open.",
        FAUCET,
        "faucetBase",
        ((-0.05, 0.8, 0.0), (0.05, 0.85, 0.0)),
        Thing("site:handleStartOpen", "quat:faucetBase", (0.0, 0.0, -0.01)),
        from_draw(0.175, 0.0, 0.125),
        faucet_opened,
        hand=FAUCET_HAND,
        hand_low=FAUCET_HAND_LOW,
    ),
}
