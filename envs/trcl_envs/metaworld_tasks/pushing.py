"""Pushing a puck, a block or a ball over the table."""

from __future__ import annotations

from trcl_envs.arrays import constant
from trcl_envs.metaworld import SawyerTask, Thing
from trcl_envs.metaworld_tasks.rules import (
    HAND_NEAR,
    OBJECT_WXYZ,
    PUCK,
    at_height,
    at_height_of,
    fixed,
    from_goal_draw,
    near_goal,
    put_object,
    transport,
)

HOLE = (0.0, 0.84, 0.02)

TASKS: dict[str, SawyerTask] = {
    "push-back-v3": transport(
        "Pull the puck back to the goal.",
        "sawyer_push_back_v3.xml",
        ((-0.1, 0.8, 0.02), (0.1, 0.85, 0.02)),
        ((-0.1, 0.6, 0.0199), (0.1, 0.7, 0.0201)),
        near_goal(0.07),
        PUCK,
        goal=at_height_of("body:obj", first=3),
        place=put_object(at_height_of("geom:objGeom")),
        hand=HAND_NEAR,
        horizon=400,  # the median expert needs 83, one in twenty more than 350
    ),
    "push-v3": transport(
        "Push the puck to the goal.",
        "sawyer_push_v3.xml",
        ((-0.1, 0.6, 0.02), (0.1, 0.7, 0.02)),
        ((-0.1, 0.8, 0.01), (0.1, 0.9, 0.02)),
        near_goal(0.05),
        goal=at_height_of("body:obj", first=3),
        place=put_object(at_height_of("body:obj")),
    ),
    "push-wall-v3": transport(
        "Push the puck around the wall to the goal.",
        "sawyer_push_wall_v3.xml",
        ((-0.05, 0.6, 0.015), (0.05, 0.65, 0.015)),
        ((-0.05, 0.85, 0.01), (0.05, 0.9, 0.02)),
        near_goal(0.07),
        PUCK,
        goal=at_height_of("body:obj", first=3),
        place=put_object(at_height_of("geom:objGeom")),
    ),
    "soccer-v3": transport(
        "Push the ball into the soccer goal.",
        "sawyer_soccer.xml",
        ((-0.1, 0.6, 0.03), (0.1, 0.7, 0.03)),
        ((-0.1, 0.8, 0.0), (0.1, 0.9, 0.0)),
        near_goal(0.07),
        Thing("body:soccer_ball", "body:soccer_ball"),
        moved={"goal_whole": from_goal_draw()},
    ),
    "sweep-into-v3": transport(
        "Sweep the block into the hole.",
        "sawyer_table_with_hole.xml",
        ((-0.1, 0.6, 0.02), (0.1, 0.7, 0.02)),
        (HOLE, HOLE),  # so that starts keep their distance from it
        near_goal(0.05, "xy"),
        goal=fixed(*HOLE),
        place=put_object(at_height_of("body:obj")),
        goal_low=(-0.001, 0.8399, 0.0199),
        goal_high=(0.001, 0.8401, 0.0201),
    ),
    "sweep-v3": SawyerTask(
        "Sweep the block off the table.",
        "sawyer_sweep_v3.xml",
        low=(-0.1, 0.6, 0.02),
        high=(0.1, 0.7, 0.02),
        things=(OBJECT_WXYZ,),
        goal=lambda draws, reading: fixed(0.5, 0.0, 0.01)(draws) + draws[:, :3] * constant((0.0, 1.0, 0.0), draws),
        success=near_goal(0.05),
        moved={},
        place=put_object(at_height(0.02)),
        goal_low=(0.49, 0.6, 0.0),
        goal_high=(0.51, 0.7, 0.02),
    ),
}
