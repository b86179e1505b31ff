"""What several tasks share: where things start, what the goal is, what counts as solved, and two common shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from trcl_envs.arrays import columns, constant, lengths, rows_of
from trcl_envs.interface import Array, Placement, Reading
from trcl_envs.metaworld import Point, SawyerTask, Thing

OBJECT_QPOS = 9  # the arm's seven joints and two fingers come first
FREE_JOINT_QVEL = (9, 15)
ONE_JOINT_QVEL = (9, 10)

# Meta-World keeps some positions in single precision, and episodes start from exactly those.
HAND_NEAR = (0.0, float(np.float32(0.6)), float(np.float32(0.2)))
HAND_FAR = (0.0, float(np.float32(0.4)), float(np.float32(0.2)))

PUCK = Thing("geom:objGeom", "geom:objGeom")
OBJECT = Thing("body:obj", "geom:objGeom")
OBJECT_WXYZ = Thing("body:obj", "quat:obj")

Box = tuple[Point, Point]
PlaceRule = Callable[[Array, Reading], Placement]
GoalRule = Callable[[Array, Reading], Array]
SuccessRule = Callable[[Reading, Array, Array], Array]
PositionRule = Callable[[Reading, Array], Array]


# --- positions


def from_draw(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Callable[..., Array]:
    """The first three drawn numbers plus an offset [m]."""
    return lambda draws, reading=None: draws[:, :3] + constant((x, y, z), draws)


def from_goal_draw(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Callable[..., Array]:
    """The last three of six drawn numbers plus an offset [m]."""
    return lambda draws, reading=None: draws[:, 3:6] + constant((x, y, z), draws)


def fixed(x: float, y: float, z: float) -> Callable[..., Array]:
    """The same position [m] in every episode."""
    return lambda draws, reading=None: rows_of((x, y, z), draws)


def at_height(z: float, first: int = 0) -> Callable[..., Array]:
    """X and y drawn (as numbers ``first`` and ``first + 1``), z given [m]."""
    return lambda draws, reading=None: columns(draws[:, first : first + 2], rows_of((z,), draws))


def at_height_of(thing: str, first: int = 0) -> GoalRule:
    """X and y drawn (as numbers ``first`` and ``first + 1``), z that of a thing [m]."""
    return lambda draws, reading: columns(draws[:, first : first + 2], reading.position(thing)[:, 2])


def where_stands(thing: str, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> GoalRule:
    """Where a thing of the scene stands at the start, plus an offset [m]."""
    def stands(draws: Array, reading: Reading) -> Array:
        at = reading.position(thing)
        return at + constant((x, y, z), at)

    return stands


# --- the start


def put_object(at: GoalRule) -> PlaceRule:
    """A freely moving object is put at rest at a position."""
    return lambda draws, reading: Placement({OBJECT_QPOS: at(draws, reading)}, (FREE_JOINT_QVEL,))


def put_joints(*positions: float, still: tuple[tuple[int, int], ...] = ()) -> PlaceRule:
    """The scene's joints besides the arm's are set to positions."""
    return lambda draws, reading: Placement({OBJECT_QPOS: rows_of(positions, draws)}, still)


def put_nothing(draws: Array, reading: Reading) -> Placement:
    """The scene stays as it settled."""
    return Placement({})


# --- what counts as solved


def observed(thing: int = 0) -> PositionRule:
    """Position (N, 3) [m] of an observed thing, read off the observation (N, 39)."""
    return lambda reading, observation: observation[:, 4 + 7 * thing : 7 + 7 * thing]


def read(thing: str) -> PositionRule:
    """Position (N, 3) [m] of any thing of the scene."""
    return lambda reading, observation: reading.position(thing)


def near_goal(radius: float, axes: str = "xyz", of: PositionRule | None = None) -> SuccessRule:
    """Solved when the first observed thing (or another) is at most ``radius`` [m] from the goal along these axes."""
    x, y, z = (float(axis in axes) for axis in "xyz")
    return near_goal_scaled(radius, (x, y, z), of)


def near_goal_scaled(radius: float, scale: Point, of: PositionRule | None = None) -> SuccessRule:
    """``near_goal`` with distances along x, y and z multiplied by ``scale`` first."""
    position = of or observed()
    return lambda reading, observation, goal: (
        lengths((position(reading, observation) - goal) * constant(scale, goal)) <= radius
    )


def joint_beyond(joint: str, position: float) -> SuccessRule:
    """Solved when a joint is past a position ([m] or [rad])."""
    return lambda reading, observation, goal: reading.joint(joint) > position


# --- shapes of tasks


def fixture(
    instruction: str, scene: str, body: str, box: Box, thing: Thing, goal: GoalRule, success: SuccessRule, **rest: Any
) -> SawyerTask:
    """A thing fixed to the table, with a part that moves; it stands where three numbers were drawn from ``box``."""
    given: dict[str, Any] = {"place": put_nothing, **rest}
    moved = {body: from_draw()}
    return SawyerTask(instruction, scene, *box, (thing,), goal, success, moved, **given)


def transport(
    instruction: str, scene: str, start: Box, target: Box, success: SuccessRule, thing: Thing = OBJECT, **rest: Any
) -> SawyerTask:
    """A loose object is to come from a point drawn in ``start`` to a point drawn in ``target``."""
    given: dict[str, Any] = {
        "goal": from_goal_draw(),
        "moved": {},
        "place": put_object(from_draw()),
        "apart": 0.15,
        "goal_low": target[0],
        "goal_high": target[1],
        **rest,
    }
    low, high = start[0] + target[0], start[1] + target[1]
    return SawyerTask(instruction, scene, low, high, (thing,), success=success, **given)
