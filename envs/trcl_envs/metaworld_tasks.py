"""The table of Meta-World tasks. Adding one is adding one entry; ``metaworld.py`` says what each column means."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from trcl_envs.interface import BoolArray, FloatArray, Placement, Reading
from trcl_envs.metaworld import SawyerTask, Thing

OBJECT_QPOS = 9  # the arm's seven joints and two fingers come first
FREE_JOINT_QVEL = (9, 15)

# Meta-World keeps some hand positions in single precision, and episodes start from exactly those.
HAND_NEAR = (0.0, float(np.float32(0.6)), float(np.float32(0.2)))
HAND_FAR = (0.0, float(np.float32(0.4)), float(np.float32(0.2)))

PUCK = Thing("geom:objGeom", "geom:objGeom")
OBJECT = Thing("body:obj", "geom:objGeom")

PlaceRule = Callable[[FloatArray, Reading], Placement]
GoalRule = Callable[[FloatArray, Reading], FloatArray]
SuccessRule = Callable[[Reading, FloatArray, FloatArray], BoolArray]


def object_position(observation: FloatArray, thing: int = 0) -> FloatArray:
    """Position (N, 3) [m] of an observed thing in an observation (N, 39)."""
    return observation[:, 4 + 7 * thing : 7 + 7 * thing]


def near_goal(radius: float, axes: str = "xyz") -> SuccessRule:
    """Solved when the first thing is at most ``radius`` [m] from the goal along these axes."""
    columns = ["xyz".index(axis) for axis in axes]

    def solved(reading: Reading, observation: FloatArray, goal: FloatArray) -> BoolArray:
        offset = (object_position(observation) - goal)[:, columns]
        return np.linalg.norm(offset, axis=1) <= radius

    return solved


def joint_beyond(joint: str, position: float) -> SuccessRule:
    """Solved when a joint is past a position ([m] or [rad])."""
    return lambda reading, observation, goal: reading.joint(joint) > position


def handle_pulled(reading: Reading, observation: FloatArray, goal: FloatArray) -> BoolArray:
    """Solved when the handle is within .12 m of the goal and the stick is still in it."""
    handle, end = object_position(observation, 1), reading.position("site:stick_end")
    behind, aside, above = (end - handle).T
    inserted = (behind >= 0) & (np.abs(aside) <= 0.04) & (np.abs(above) <= 0.06)
    return inserted & (np.linalg.norm(handle - goal, axis=1) <= 0.12)


def from_draw(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Callable[..., FloatArray]:
    """The first three drawn numbers plus an offset [m]."""
    return lambda draws, reading=None: draws[:, :3] + np.array([x, y, z])


def at_site(site: str) -> GoalRule:
    """The goal is where a site of the scene stands at the start."""
    return lambda draws, reading: reading.position(f"site:{site}").copy()


def beside_object(thing: str) -> GoalRule:
    """The goal is drawn in x and y, and as high as the object lies."""
    return lambda draws, reading: np.column_stack([draws[:, 3:5], reading.position(thing)[:, 2]])


def put_object(at: Callable[[FloatArray, Reading], FloatArray]) -> PlaceRule:
    """A freely moving object is put at rest at a position."""
    return lambda draws, reading: Placement({OBJECT_QPOS: at(draws, reading)}, (FREE_JOINT_QVEL,))


def put_at_height_of(thing: str) -> PlaceRule:
    """A freely moving object is put where x and y were drawn, at the height at which ``thing`` came to rest."""
    return put_object(lambda draws, reading: np.column_stack([draws[:, :2], reading.position(thing)[:, 2]]))


def put_joint(position: float, still: tuple[tuple[int, int], ...] = ()) -> PlaceRule:
    """The scene's only joint besides the arm's is set to a position."""
    return lambda draws, reading: Placement({OBJECT_QPOS: np.full((len(draws), 1), position)}, still)


def put_nothing(draws: FloatArray, reading: Reading) -> Placement:
    """The scene stays as it settled."""
    return Placement({})


def put_plug(draws: FloatArray, reading: Reading) -> Placement:
    """The peg is put straight into its box."""
    straight = np.tile([1.0, 0.0, 0.0, 0.0], (len(draws), 1))
    pose = np.column_stack([from_draw(0.044, 0.0, 0.131)(draws), straight])
    return Placement({OBJECT_QPOS: pose}, ((9, 12),))


def put_stick_and_thermos(draws: FloatArray, reading: Reading) -> Placement:
    """The stick is put on the table and the thermos at its place.

    Meta-World stops joint velocities 16 and 17, which are not those of positions 16 and 17; kept, to start alike.
    """
    stick = np.column_stack([draws[:, :2], np.full(len(draws), 0.02)])
    thermos = np.tile([0.0, 0.09], (len(draws), 1))
    return Placement({OBJECT_QPOS: stick, 16: thermos}, (FREE_JOINT_QVEL, (16, 18)))


def fixed(x: float, y: float, z: float) -> Callable[[FloatArray], FloatArray]:
    """The same position in every episode."""
    return lambda draws: np.tile([x, y, z], (len(draws), 1))


TASKS: dict[str, SawyerTask] = {
    "button-press-topdown-v3": SawyerTask(
        "Press the button from above.",
        "sawyer_button_press_topdown.xml",
        low=(-0.1, 0.8, 0.115),
        high=(0.1, 0.9, 0.115),
        things=(Thing("body:button", "quat:button", (0.0, 0.0, 0.193)),),
        goal=at_site("hole"),
        success=near_goal(0.024, "z"),
        moved={"box": from_draw()},
        place=put_nothing,
        hand=HAND_FAR,
    ),
    "door-open-v3": SawyerTask(
        "Open the door.",
        "sawyer_door_pull.xml",
        low=(0.0, 0.85, 0.15),
        high=(0.1, 0.95, 0.15),
        things=(Thing("geom:handle", "geom:handle"),),
        goal=from_draw(-0.3, -0.45),
        success=near_goal(0.08, "x"),
        moved={"door": from_draw()},
        place=put_joint(0.0, ((9, 10),)),
        goal_low=(-0.3, 0.4, 0.1499),
        goal_high=(-0.2, 0.5, 0.1501),
    ),
    "drawer-open-v3": SawyerTask(
        "Open the drawer.",
        "sawyer_drawer.xml",
        low=(-0.1, 0.9, 0.0),
        high=(0.1, 0.9, 0.0),
        things=(Thing("body:drawer_link", "quat:drawer_link", (0.0, -0.16, 0.0)),),
        goal=from_draw(0.0, -0.36, 0.09),
        success=near_goal(0.03),
        moved={"drawer": from_draw()},
        place=put_nothing,
        hand=HAND_NEAR,
    ),
    "faucet-close-v3": SawyerTask(
        "Turn the faucet until it is closed.",
        "sawyer_faucet.xml",
        low=(-0.1, 0.8, 0.0),
        high=(0.1, 0.85, 0.0),
        things=(Thing("site:handleStartClose", "quat:faucetBase", (0.0, 0.0, -0.01)),),
        goal=from_draw(-0.175, 0.0, 0.125),
        success=near_goal(0.07),
        moved={"faucetBase": from_draw()},
        place=put_nothing,
        hand=(0.0, 0.4, 0.2),
        hand_low=(-0.5, 0.40, -0.15),
    ),
    "hammer-v3": SawyerTask(
        "Hammer the nail into the board.",
        "sawyer_hammer.xml",
        low=(-0.1, 0.4, 0.0),
        high=(0.1, 0.5, 0.0),
        things=(Thing("body:hammer", "quat:hammer"), Thing("body:nail_link", "quat:nail_link")),
        goal=at_site("goal"),
        success=joint_beyond("NailSlideJoint", 0.09),
        moved={"box": fixed(0.24, 0.85, 0.0)},
        place=put_object(from_draw()),
        hand=(0.0, 0.4, 0.2),
        goal_low=(0.2399, 0.7399, 0.109),
        goal_high=(0.2401, 0.7401, 0.111),
    ),
    "handle-press-side-v3": SawyerTask(
        "Press the handle down from the side.",
        "sawyer_handle_press_sideways.xml",
        low=(-0.35, 0.65, -0.001),
        high=(-0.25, 0.75, 0.001),
        things=(Thing("site:handleStart"),),
        goal=at_site("goalPress"),
        success=near_goal(0.02, "z"),
        moved={"box": from_draw()},
        place=put_joint(-0.001, ((9, 10),)),
    ),
    "peg-unplug-side-v3": SawyerTask(
        "Pull the peg out of its hole, sideways.",
        "sawyer_peg_unplug_side.xml",
        low=(-0.25, 0.6, -0.001),
        high=(-0.15, 0.8, 0.001),
        things=(Thing("site:pegEnd", "quat:plug1"),),
        goal=from_draw(0.194, 0.0, 0.131),
        success=near_goal(0.07),
        moved={"box": from_draw()},
        place=put_plug,
        goal_low=(-0.056, 0.6, 0.13),
        goal_high=(0.044, 0.8, 0.132),
    ),
    "push-back-v3": SawyerTask(
        "Pull the puck back to the goal.",
        "sawyer_push_back_v3.xml",
        low=(-0.1, 0.8, 0.02, -0.1, 0.6, 0.0199),
        high=(0.1, 0.85, 0.02, 0.1, 0.7, 0.0201),
        things=(PUCK,),
        goal=beside_object("body:obj"),
        success=near_goal(0.07),
        moved={},
        place=put_at_height_of("geom:objGeom"),
        apart=0.15,
        hand=HAND_NEAR,
        goal_low=(-0.1, 0.6, 0.0199),
        goal_high=(0.1, 0.7, 0.0201),
        horizon=400,  # the median expert needs 83, one in twenty more than 350
    ),
    "push-v3": SawyerTask(
        "Push the puck to the goal.",
        "sawyer_push_v3.xml",
        low=(-0.1, 0.6, 0.02, -0.1, 0.8, 0.01),
        high=(0.1, 0.7, 0.02, 0.1, 0.9, 0.02),
        things=(OBJECT,),
        goal=beside_object("body:obj"),
        success=near_goal(0.05),
        moved={},
        place=put_at_height_of("body:obj"),
        apart=0.15,
        goal_low=(-0.1, 0.8, 0.01),
        goal_high=(0.1, 0.9, 0.02),
    ),
    "push-wall-v3": SawyerTask(
        "Push the puck around the wall to the goal.",
        "sawyer_push_wall_v3.xml",
        low=(-0.05, 0.6, 0.015, -0.05, 0.85, 0.01),
        high=(0.05, 0.65, 0.015, 0.05, 0.9, 0.02),
        things=(PUCK,),
        goal=beside_object("body:obj"),
        success=near_goal(0.07),
        moved={},
        place=put_at_height_of("geom:objGeom"),
        apart=0.15,
        goal_low=(-0.05, 0.85, 0.01),
        goal_high=(0.05, 0.9, 0.02),
    ),
    "shelf-place-v3": SawyerTask(
        "Place the block on the shelf.",
        "sawyer_shelf_placing.xml",
        low=(-0.1, 0.5, 0.019, -0.1, 0.8, 0.299),
        high=(0.1, 0.6, 0.021, 0.1, 0.9, 0.301),
        things=(OBJECT,),
        goal=at_site("goal"),
        success=near_goal(0.07),
        moved={"shelf": lambda draws: draws[:, 3:6] - np.array([0.0, 0.0, 0.3])},
        place=put_at_height_of("body:obj"),
        apart=0.1,
        hand=HAND_NEAR,
        goal_low=(-0.1, 0.8, 0.299),
        goal_high=(0.1, 0.9, 0.301),
    ),
    "stick-pull-v3": SawyerTask(
        "Grasp the stick and pull the thermos with it to the goal.",
        "sawyer_stick_obj.xml",
        low=(-0.1, 0.55, 0.0, 0.35, 0.45, 0.0199),
        high=(0.0, 0.65, 0.001, 0.45, 0.55, 0.0201),
        things=(Thing("body:stick", "body:stick"), Thing("site:insertion")),
        goal=lambda draws, reading: np.column_stack([draws[:, 3:5], np.full(len(draws), 0.02)]),
        success=handle_pulled,
        moved={},
        place=put_stick_and_thermos,
        apart=0.1,
        hand_low=(-0.5, 0.35, 0.05),
        goal_low=(0.35, 0.45, 0.0199),
        goal_high=(0.45, 0.55, 0.0201),
    ),
    "window-close-v3": SawyerTask(
        "Close the window.",
        "sawyer_window_horizontal.xml",
        low=(0.0, 0.75, 0.2),
        high=(0.0, 0.9, 0.2),
        things=(Thing("site:handleCloseStart"),),
        goal=from_draw(),
        success=near_goal(0.05, "x"),
        moved={"window": from_draw()},
        place=put_joint(0.2),
        hand=HAND_FAR,
    ),
}
