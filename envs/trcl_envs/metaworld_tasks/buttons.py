"""Pressing a button: from above or from the front, with or without a wall before it."""

from __future__ import annotations

from trcl_envs.metaworld import SawyerTask, Thing
from trcl_envs.metaworld_tasks.rules import (
    HAND_FAR,
    ONE_JOINT_QVEL,
    Box,
    fixture,
    near_goal,
    put_joints,
    put_nothing,
    where_stands,
)


def from_above(instruction: str, scene: str) -> SawyerTask:
    """The button's face points up."""
    box = ((-0.1, 0.8, 0.115), (0.1, 0.9, 0.115))
    face = Thing("body:button", "quat:button", (0.0, 0.0, 0.193))
    solved = near_goal(0.024, "z")
    return fixture(
        instruction, scene, "box", box, face, where_stands("site:hole"), solved, hand=HAND_FAR, place=put_nothing
    )


def from_front(instruction: str, scene: str, box: Box, radius: float) -> SawyerTask:
    """The button's face points to the robot."""
    face = Thing("body:button", "quat:button", (0.0, -0.193, 0.0))
    pressed_out = put_joints(0.0, still=(ONE_JOINT_QVEL,))
    solved = near_goal(radius, "y")
    return fixture(
        instruction, scene, "box", box, face, where_stands("site:hole"), solved, hand=HAND_FAR, place=pressed_out
    )


TASKS: dict[str, SawyerTask] = {
    "button-press-topdown-v3": from_above("Press the button from above.", "sawyer_button_press_topdown.xml"),
    "button-press-topdown-wall-v3": from_above(
        "Press the button behind the wall from above.", "sawyer_button_press_topdown_wall.xml"
    ),
    "button-press-v3": from_front(
        "Press the button.", "sawyer_button_press.xml", ((-0.1, 0.85, 0.115), (0.1, 0.9, 0.115)), 0.02
    ),
    "button-press-wall-v3": from_front(
        "Press the button behind the wall.",
        "sawyer_button_press_wall.xml",
        ((-0.05, 0.85, 0.1149), (0.05, 0.9, 0.1151)),
        0.03,
    ),
}
