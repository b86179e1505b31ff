"""The coffee machine and its mug."""

from __future__ import annotations

from trcl_envs.interface import Placement
from trcl_envs.metaworld import SawyerTask, Thing
from trcl_envs.metaworld_tasks.rules import (
    PlaceRule,
    fixture,
    from_draw,
    from_goal_draw,
    near_goal,
    transport,
)

SCENE = "sawyer_coffee.xml"
HAND = (0.0, 0.4, 0.2)
SPOUT = 0.22  # [m] from the machine's origin to the mug under its spout
MUG = Thing("body:obj", "geom:mug")


def put_mug(y: float = 0.0) -> PlaceRule:
    """The mug is put where the first three numbers were drawn, plus ``y`` [m].

    It comes before the arm in this scene, yet Meta-World stops the velocities 9 to 14 as elsewhere, which here are the
    arm's; kept, to start alike.
    """
    return lambda draws, reading: Placement({0: from_draw(y=y)(draws)}, ((9, 15),))


TASKS: dict[str, SawyerTask] = {
    "coffee-button-v3": fixture(
        "Press the button of the coffee machine.",
        SCENE,
        "coffee_machine",
        ((-0.1, 0.8, -0.001), (0.1, 0.9, 0.001)),
        Thing("site:buttonStart", "quat:world"),
        from_draw(0.0, 0.03 - SPOUT, 0.3),
        near_goal(0.02, "y"),
        place=put_mug(-SPOUT),
        hand=HAND,
        goal_low=(-0.101, 0.83 - SPOUT, 0.298),
        goal_high=(0.101, 0.93 - SPOUT, 0.302),
    ),
    "coffee-pull-v3": transport(
        "Pull the mug away from the coffee machine to the goal.",
        SCENE,
        ((-0.05, 0.7, -0.001), (0.05, 0.75, 0.001)),
        ((-0.1, 0.55, -0.001), (0.1, 0.65, 0.001)),
        near_goal(0.07),
        MUG,
        moved={"coffee_machine": from_draw(y=SPOUT)},
        place=put_mug(),
        hand=HAND,
    ),
    "coffee-push-v3": transport(
        "Push the mug under the coffee machine.",
        SCENE,
        ((-0.1, 0.55, -0.001), (0.1, 0.65, 0.001)),
        ((-0.05, 0.7, -0.001), (0.05, 0.75, 0.001)),
        near_goal(0.07),
        MUG,
        moved={"coffee_machine": from_goal_draw(y=SPOUT)},
        place=put_mug(),
        hand=HAND,
    ),
}
