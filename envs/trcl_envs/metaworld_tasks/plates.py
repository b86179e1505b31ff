"""Sliding a plate into or out of a goal on the table."""

from __future__ import annotations

from typing import Any

from trcl_envs.metaworld import SawyerTask, Thing
from trcl_envs.metaworld_tasks.rules import HAND_NEAR, Box, fixed, from_goal_draw, near_goal, put_joints, transport

FRONT, SIDE = "sawyer_plate_slide.xml", "sawyer_plate_slide_sideway.xml"


def slide(instruction: str, scene: str, start: Box, goal: Box, at: tuple[float, float], **rest: Any) -> SawyerTask:
    """The plate starts ``at`` a position of its two sliding joints [m]."""
    plate = Thing("geom:puck", "geom:puck")
    near = near_goal(0.07)
    columns: dict[str, Any] = {"place": put_joints(*at), "apart": 0.0, "hand": HAND_NEAR, **rest}
    return transport(instruction, scene, start, goal, near, plate, **columns)


TASKS: dict[str, SawyerTask] = {
    "plate-slide-v3": slide(
        "Slide the plate forwards into the goal.",
        FRONT,
        ((0.0, 0.6, 0.0), (0.0, 0.6, 0.0)),
        ((-0.1, 0.85, 0.0), (0.1, 0.9, 0.0)),
        (0.0, 0.0),
        moved={"puck_goal": from_goal_draw()},
    ),
    "plate-slide-back-v3": slide(
        "Slide the plate back out of the goal.",
        FRONT,
        ((0.0, 0.85, 0.0), (0.0, 0.85, 0.0)),
        ((-0.1, 0.6, 0.015), (0.1, 0.6, 0.015)),
        (0.0, 0.15),
    ),
    "plate-slide-back-side-v3": slide(
        "Slide the plate sideways out of the goal.",
        SIDE,
        ((-0.25, 0.6, 0.0), (-0.25, 0.6, 0.0)),
        ((-0.05, 0.6, 0.015), (0.15, 0.6, 0.015)),
        (-0.15, 0.0),
        moved={"puck_goal": fixed(-0.25, 0.6, 0.0)},
    ),
    "plate-slide-side-v3": slide(
        "Slide the plate sideways into the goal.",
        SIDE,
        ((0.0, 0.6, 0.0), (0.0, 0.6, 0.0)),
        ((-0.3, 0.54, 0.0), (-0.25, 0.66, 0.0)),
        (0.0, 0.0),
    ),
}
