"""The cabinet's door and its lock."""

from __future__ import annotations

from trcl_envs.metaworld import SETTLING_STEPS, SawyerTask, Thing
from trcl_envs.metaworld_tasks.rules import (
    HAND_NEAR,
    ONE_JOINT_QVEL,
    fixture,
    from_draw,
    near_goal,
    put_joints,
    where_stands,
)

QUARTER_TURN = 1.5708  # [rad], as Meta-World rounds it
DOOR, LOCK = "sawyer_door_pull.xml", "sawyer_door_lock.xml"
DOOR_BOX = ((0.0, 0.85, 0.15), (0.1, 0.95, 0.15))
LOCK_BOX = ((-0.1, 0.8, 0.15), (0.1, 0.85, 0.15))
HANDLE = Thing("geom:handle", "geom:handle")

TASKS: dict[str, SawyerTask] = {
    "door-close-v3": fixture(
        "Close the door.",
        DOOR,
        "door",
        DOOR_BOX,
        HANDLE,
        from_draw(0.2, -0.2),
        near_goal(0.08),
        place=put_joints(-QUARTER_TURN, still=(ONE_JOINT_QVEL,)),
        hand=(-0.5, *HAND_NEAR[1:]),
        goal_low=(0.2, 0.65, 0.1499),
        goal_high=(0.3, 0.75, 0.1501),
    ),
    "door-lock-v3": fixture(
        "Turn the lock of the door until it is locked.",
        LOCK,
        "door",
        LOCK_BOX,
        Thing("site:lockStartLock", "quat:door_link"),
        where_stands("body:lock_link", y=-0.04, z=-0.1),
        near_goal(0.02, "z"),
        settling=SETTLING_STEPS + 1,
        hand=HAND_NEAR,
        hand_low=(-0.5, 0.40, -0.15),
    ),
    "door-open-v3": fixture(
        "Open the door.",
        DOOR,
        "door",
        DOOR_BOX,
        HANDLE,
        from_draw(-0.3, -0.45),
        near_goal(0.08, "x"),
        place=put_joints(0.0, still=(ONE_JOINT_QVEL,)),
        goal_low=(-0.3, 0.4, 0.1499),
        goal_high=(-0.2, 0.5, 0.1501),
    ),
    "door-unlock-v3": fixture(
        "Turn the lock of the door until it is unlocked.",
        LOCK,
        "door",
        LOCK_BOX,
        Thing("site:lockStartUnlock", "quat:door_link"),
        where_stands("body:lock_link", x=0.1, y=-0.04),
        near_goal(0.02, "x"),
        place=put_joints(QUARTER_TURN, still=(ONE_JOINT_QVEL,)),
        hand=HAND_NEAR,
        hand_low=(-0.5, 0.40, -0.15),
        goal_low=(0.0, 0.64, 0.21),
        goal_high=(0.2, 0.7, 0.2111),
    ),
}
