"""Handles that slide up and down on a box, and the lever that swings up."""

from __future__ import annotations

import math

from trcl_envs.interface import Array, Reading
from trcl_envs.metaworld import SawyerTask, Thing
from trcl_envs.metaworld_tasks.rules import (
    HAND_FAR,
    ONE_JOINT_QVEL,
    fixture,
    from_draw,
    near_goal,
    put_joints,
    where_stands,
)

FRONT, SIDE = "sawyer_handle_press.xml", "sawyer_handle_press_sideways.xml"
FRONT_BOX = ((-0.1, 0.8, -0.001), (0.1, 0.9, 0.001))
UP, DOWN = (put_joints(position, still=(ONE_JOINT_QVEL,)) for position in (-0.001, -0.1))  # [m]


def lever_upright(reading: Reading, observation: Array, goal: Array) -> Array:
    """Solved when the lever is within 7.5 degrees of upright."""
    return abs(-reading.joint("LeverAxis") - math.pi / 2) <= math.pi / 24


TASKS: dict[str, SawyerTask] = {
    "handle-press-side-v3": fixture(
        "Press the handle down from the side.",
        SIDE,
        "box",
        ((-0.35, 0.65, -0.001), (-0.25, 0.75, 0.001)),
        Thing("site:handleStart"),
        where_stands("site:goalPress"),
        near_goal(0.02, "z"),
        place=UP,
    ),
    "handle-press-v3": fixture(
        "Press the handle down.",
        FRONT,
        "box",
        FRONT_BOX,
        Thing("site:handleStart"),
        where_stands("site:goalPress"),
        near_goal(0.02, "z"),
        place=UP,
        goal_low=(-0.1, 0.55, 0.04),
        goal_high=(0.1, 0.7, 0.08),
    ),
    "handle-pull-side-v3": fixture(
        "Pull the handle up from the side.",
        SIDE,
        "box",
        ((-0.35, 0.65, 0.0), (-0.25, 0.75, 0.0)),
        Thing("site:handleCenter"),
        where_stands("site:goalPull"),
        near_goal(0.08),
        place=DOWN,
    ),
    "handle-pull-v3": fixture(
        "Pull the handle up.",
        FRONT,
        "box",
        FRONT_BOX,
        Thing("site:handleRight"),
        where_stands("site:goalPull"),
        near_goal(0.05, "z"),
        place=DOWN,
        goal_low=(-0.1, 0.55, 0.04),
        goal_high=(0.1, 0.7, 0.18),
    ),
    "lever-pull-v3": fixture(
        "Pull the lever up.",
        "sawyer_lever_pull.xml",
        "lever",
        ((-0.1, 0.7, 0.0), (0.1, 0.8, 0.0)),
        Thing("site:leverStart", "geom:objGeom"),
        from_draw(0.12, 0.0, 0.45),
        lever_upright,
        hand=HAND_FAR,
        hand_low=(-0.5, 0.40, -0.15),
    ),
}
