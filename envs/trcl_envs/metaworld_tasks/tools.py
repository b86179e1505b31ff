"""Using one object to move another: hammer and nail, stick and thermos."""

from __future__ import annotations

from trcl_envs.arrays import lengths, namespace, rows_of
from trcl_envs.interface import Array, Placement, Reading
from trcl_envs.metaworld import SawyerTask, Thing
from trcl_envs.metaworld_tasks.rules import (
    FREE_JOINT_QVEL,
    OBJECT_QPOS,
    PlaceRule,
    at_height,
    at_height_of,
    fixed,
    from_draw,
    joint_beyond,
    observed,
    put_object,
    where_stands,
)

STICK = Thing("body:stick", "body:stick")
STICK_HEIGHT = 0.02  # [m] of a stick that lies on the table
FINGERS_ON_STICK = (("leftpad_geom", "objGeom"), ("rightpad_geom", "objGeom"))


def put_stick_and_thermos(*thermos: float) -> PlaceRule:
    """The stick is put on the table where it was drawn, and the thermos at a position of its two sliding joints [m].

    Meta-World stops joint velocities 16 and 17, which are not those of positions 16 and 17; kept, to start alike.
    """

    def place(draws: Array, reading: Reading) -> Placement:
        stick = at_height(STICK_HEIGHT)(draws)
        return Placement({OBJECT_QPOS: stick, 16: rows_of(thermos, draws)}, (FREE_JOINT_QVEL, (16, 18)))

    return place


def handle_pulled(reading: Reading, observation: Array, goal: Array) -> Array:
    """Solved when the handle is within .12 m of the goal and the stick is still in it."""
    handle, end = observed(1)(reading, observation), reading.position("site:stick_end")
    behind, aside, above = (end - handle).T
    inserted = (behind >= 0) & (abs(aside) <= 0.04) & (abs(above) <= 0.06)
    return inserted & (lengths(handle - goal) <= 0.12)


def thermos_pushed(reading: Reading, observation: Array, goal: Array) -> Array:
    """Solved when the thermos is within .12 m of the goal while the open-enough hand presses on and lifts the stick."""
    stick, thermos = observed()(reading, observation), observed(1)(reading, observation)
    held = namespace(goal).all(reading.contact_force > 0.0, axis=1) & (observation[:, 3] > 0.0)
    lifted = stick[:, 2] - 0.01 > STICK_HEIGHT
    return held & lifted & (lengths(thermos - goal) <= 0.12)


TASKS: dict[str, SawyerTask] = {
    "hammer-v3": SawyerTask(
        "Hammer the nail into the board.",
        "sawyer_hammer.xml",
        low=(-0.1, 0.4, 0.0),
        high=(0.1, 0.5, 0.0),
        things=(Thing("body:hammer", "quat:hammer"), Thing("body:nail_link", "quat:nail_link")),
        goal=where_stands("site:goal"),
        success=joint_beyond("NailSlideJoint", 0.09),
        moved={"box": fixed(0.24, 0.85, 0.0)},
        place=put_object(from_draw()),
        hand=(0.0, 0.4, 0.2),
        goal_low=(0.2399, 0.7399, 0.109),
        goal_high=(0.2401, 0.7401, 0.111),
    ),
    "stick-pull-v3": SawyerTask(
        "Grasp the stick and pull the thermos with it to the goal.",
        "sawyer_stick_obj.xml",
        low=(-0.1, 0.55, 0.0, 0.35, 0.45, 0.0199),
        high=(0.0, 0.65, 0.001, 0.45, 0.55, 0.0201),
        things=(STICK, Thing("site:insertion")),
        goal=at_height(STICK_HEIGHT, first=3),
        success=handle_pulled,
        moved={},
        place=put_stick_and_thermos(0.0, 0.09),
        apart=0.1,
        hand_low=(-0.5, 0.35, 0.05),
        goal_low=(0.35, 0.45, 0.0199),
        goal_high=(0.45, 0.55, 0.0201),
    ),
    "stick-push-v3": SawyerTask(
        "Grasp the stick and push the thermos with it to the goal.",
        "sawyer_stick_obj.xml",
        low=(-0.08, 0.58, 0.0, 0.399, 0.55, 0.1319),
        high=(-0.03, 0.62, 0.001, 0.401, 0.6, 0.1321),
        things=(STICK, Thing("site:insertion", offset=(0.0, 0.09, 0.0))),
        goal=at_height_of("site:insertion", first=3),
        success=thermos_pushed,
        moved={},
        place=put_stick_and_thermos(0.0, 0.0),
        apart=0.1,
        goal_low=(0.399, 0.55, 0.1319),
        goal_high=(0.401, 0.6, 0.1321),
        contacts=FINGERS_ON_STICK,
    ),
}
