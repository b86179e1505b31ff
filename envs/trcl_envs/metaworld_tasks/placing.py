"""Lifting an object and putting it somewhere: in the air, in a bin, on a shelf, through a hoop, on a box."""

from __future__ import annotations

import numpy as np

from trcl_envs.arrays import columns, constant, lengths, rows_of
from trcl_envs.interface import Array, Reading
from trcl_envs.metaworld import SETTLING_STEPS, SawyerTask, Thing
from trcl_envs.metaworld_tasks.rules import (
    HAND_NEAR,
    OBJECT_WXYZ,
    PUCK,
    at_height,
    at_height_of,
    from_goal_draw,
    near_goal,
    observed,
    put_object,
    transport,
    where_stands,
)

HOOP_HEIGHT = 0.3  # [m]


def through_hoop(reading: Reading, observation: Array, goal: Array) -> Array:
    """Solved when the ball is within .08 m of the hoop's middle, heights counting double."""
    hoop = columns(goal[:, :2], rows_of((HOOP_HEIGHT,), goal))
    offset = (observed()(reading, observation) - hoop) * constant((1.0, 1.0, 2.0), goal)
    return lengths(offset) <= 0.08


TASKS: dict[str, SawyerTask] = {
    "basketball-v3": transport(
        "Put the ball into the basket.",
        "sawyer_basketball.xml",
        ((-0.1, 0.6, 0.0299), (0.1, 0.7, 0.0301)),
        ((-0.1, 0.85, 0.0), (0.1, 0.9 + 1e-7, 0.0)),
        through_hoop,
        Thing("body:bsktball", "quat:bsktball"),
        goal=where_stands("site:goal"),
        moved={"basket_goal": from_goal_draw()},
        place=put_object(at_height(float(np.float32(0.03)))),
        hand=HAND_NEAR,
        goal_low=(-0.1, 0.767, 0.2499),
        goal_high=(0.1, 0.817 + 1e-7, 0.2501),
    ),
    "bin-picking-v3": transport(
        "Pick the block out of one bin and put it into the other.",
        "sawyer_bin_picking.xml",
        ((-0.21, 0.65, 0.02), (-0.03, 0.75, 0.02)),
        ((0.1199, 0.699, -0.001), (0.1201, 0.701, 0.001)),
        near_goal(0.05),
        OBJECT_WXYZ,
        goal=where_stands("body:bin_goal"),
        place=put_object(at_height_of("body:obj")),
        apart=0.0,
        hand_low=(-0.5, 0.40, 0.07),
        horizon=300,  # the expert needs up to 226
    ),
    "box-close-v3": transport(
        "Put the lid on the box.",
        "sawyer_box.xml",
        ((-0.05, 0.5, 0.02), (0.05, 0.55, 0.02)),
        ((-0.1, 0.7, 0.133), (0.1, 0.8, 0.133)),
        near_goal(0.08),
        Thing("body:top_link", "quat:top_link"),
        moved={"boxbody": at_height(0.0, first=3)},
        place=put_object(at_height(float(np.float32(0.02)))),
        apart=0.25,
        hand=HAND_NEAR,
        settling=SETTLING_STEPS + 1,
    ),
    "pick-out-of-hole-v3": transport(
        "Pick the puck out of the hole and hold it at the goal.",
        "sawyer_pick_out_of_hole.xml",
        ((0.0, 0.75, 0.02), (0.0, 0.75, 0.02)),
        ((-0.1, 0.5, 0.15), (0.1, 0.6, 0.3)),
        near_goal(0.07),
        OBJECT_WXYZ,
        hand_low=(-0.5, 0.40, -0.05),
    ),
    "pick-place-v3": transport(
        "Pick up the puck and hold it at the goal.",
        "sawyer_pick_place_v3.xml",
        ((-0.1, 0.6, 0.02), (0.1, 0.7, 0.02)),
        ((-0.1, 0.8, 0.05), (0.1, 0.9, 0.3)),
        near_goal(0.07),
    ),
    "pick-place-wall-v3": transport(
        "Pick up the puck, lift it over the wall and hold it at the goal.",
        "sawyer_pick_place_wall_v3.xml",
        ((-0.05, 0.6, 0.015), (0.05, 0.65, 0.015)),
        ((-0.05, 0.85, 0.05), (0.05, 0.9, 0.3)),
        near_goal(0.07),
        PUCK,
    ),
    "shelf-place-v3": transport(
        "Place the block on the shelf.",
        "sawyer_shelf_placing.xml",
        ((-0.1, 0.5, 0.019), (0.1, 0.6, 0.021)),
        ((-0.1, 0.8, 0.299), (0.1, 0.9, 0.301)),
        near_goal(0.07),
        goal=where_stands("site:goal"),
        moved={"shelf": from_goal_draw(z=-0.3)},
        place=put_object(at_height_of("body:obj")),
        apart=0.1,
        hand=HAND_NEAR,
    ),
}
