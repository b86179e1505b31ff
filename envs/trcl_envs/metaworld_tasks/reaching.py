"""The hand itself is to arrive somewhere: at a point, or with a block in a hole."""

from __future__ import annotations

from trcl_envs.interface import Array, Reading
from trcl_envs.metaworld import SawyerTask
from trcl_envs.metaworld_tasks.rules import HAND_NEAR, OBJECT_WXYZ, near_goal, transport


def between_fingers(reading: Reading, observation: Array) -> Array:
    """The point (N, 3) [m] midway between the fingertips."""
    return (reading.position("site:rightEndEffector") + reading.position("site:leftEndEffector")) / 2.0


TASKS: dict[str, SawyerTask] = {
    "hand-insert-v3": transport(
        "Insert the hand, holding the block, into the hole.",
        "sawyer_table_with_hole.xml",
        ((-0.1, 0.6, 0.05), (0.1, 0.7, 0.05)),
        ((-0.04, 0.8, -0.0201), (0.04, 0.88, -0.0199)),
        near_goal(0.05),
        OBJECT_WXYZ,
        hand=HAND_NEAR,
        hand_low=(-0.5, 0.40, -0.15),
    ),
    "reach-v3": transport(
        "Reach the goal.",
        "sawyer_reach_v3.xml",
        ((-0.1, 0.6, 0.02), (0.1, 0.7, 0.02)),
        ((-0.1, 0.8, 0.05), (0.1, 0.9, 0.3)),
        near_goal(0.05, of=between_fingers),
    ),
    "reach-wall-v3": transport(
        "Reach the goal behind the wall.",
        "sawyer_reach_wall_v3.xml",
        ((-0.05, 0.6, 0.015), (0.05, 0.65, 0.015)),
        ((-0.05, 0.85, 0.05), (0.05, 0.9, 0.3)),
        near_goal(0.05, of=between_fingers),
    ),
}
