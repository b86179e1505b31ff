"""Pegs that fit a hole, and the nut that fits a peg."""

from __future__ import annotations

from trcl_envs.arrays import columns, namespace, rows_of
from trcl_envs.interface import Array, Placement, Reading
from trcl_envs.metaworld import SawyerTask, Thing
from trcl_envs.metaworld_tasks.rules import (
    HAND_FAR,
    HAND_NEAR,
    OBJECT_QPOS,
    fixture,
    from_draw,
    from_goal_draw,
    near_goal,
    near_goal_scaled,
    observed,
    read,
    transport,
)

NUT = Thing("site:RoundNut-8", "quat:RoundNut")


def put_plug(draws: Array, reading: Reading) -> Placement:
    """The peg is put straight into its box."""
    straight = rows_of((1.0, 0.0, 0.0, 0.0), draws)
    pose = columns(from_draw(0.044, 0.0, 0.131)(draws), straight)
    return Placement({OBJECT_QPOS: pose}, ((9, 12),))


def nut_on_peg(reading: Reading, observation: Array, goal: Array) -> Array:
    """Solved when the nut's ring is around the peg's axis, to .02 m, and below its top."""
    x, y, z = (goal - reading.position("site:RoundNut")).T
    return (namespace(goal).hypot(x, y) < 0.02) & (z > 0.0)


def nut_lifted(reading: Reading, observation: Array, goal: Array) -> Array:
    """Solved when the nut is higher than the goal."""
    return observed()(reading, observation)[:, 2] > goal[:, 2]


TASKS: dict[str, SawyerTask] = {
    "assembly-v3": transport(
        "Put the nut on the peg.",
        "sawyer_assembly_peg.xml",
        ((0.0, 0.6, 0.02), (0.0, 0.6, 0.02)),
        ((-0.1, 0.75, 0.1), (0.1, 0.85, 0.1)),
        nut_on_peg,
        NUT,
        moved={"peg": from_goal_draw(z=-0.05)},
        apart=0.1,
        hand=HAND_NEAR,
    ),
    "disassemble-v3": transport(
        "Take the nut off the peg.",
        "sawyer_assembly_peg.xml",
        ((0.0, 0.6, 0.025), (0.1, 0.75, 0.02501)),
        ((-0.1, 0.6, 0.1699), (0.1, 0.75, 0.1701)),
        nut_lifted,
        NUT,
        goal=from_draw(z=0.15),
        moved={"peg": from_draw(z=0.03)},
        apart=0.1,
        hand=HAND_FAR,
        goal_low=(-0.1, 0.6, 0.1749),
        goal_high=(0.1, 0.75, 0.1751),
        horizon=300,  # the expert needs up to 225
    ),
    "peg-insert-side-v3": transport(
        "Insert the peg into the hole, sideways.",
        "sawyer_peg_insertion_side.xml",
        ((0.0, 0.5, 0.02), (0.2, 0.7, 0.02)),
        ((-0.35, 0.4, -0.001), (-0.25, 0.7, 0.001)),
        near_goal_scaled(0.07, (1.0, 2.0, 2.0), of=read("site:pegHead")),
        Thing("site:pegGrasp", "body:peg"),
        goal=from_goal_draw(0.03, 0.0, 0.13),
        moved={"box": from_goal_draw()},
        apart=0.1,
        goal_low=(-0.32, 0.4, 0.129),
        goal_high=(-0.22, 0.7, 0.131),
    ),
    "peg-unplug-side-v3": fixture(
        "Pull the peg out of its hole, sideways.",
        "sawyer_peg_unplug_side.xml",
        "box",
        ((-0.25, 0.6, -0.001), (-0.15, 0.8, 0.001)),
        Thing("site:pegEnd", "quat:plug1"),
        from_draw(0.194, 0.0, 0.131),
        near_goal(0.07),
        place=put_plug,
        goal_low=(-0.056, 0.6, 0.13),
        goal_high=(0.044, 0.8, 0.132),
    ),
}
