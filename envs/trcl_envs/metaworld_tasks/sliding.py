"""Drawers and windows: one part that slides."""

from __future__ import annotations

from trcl_envs.metaworld import SawyerTask, Thing
from trcl_envs.metaworld_tasks.rules import HAND_FAR, HAND_NEAR, fixture, from_draw, near_goal, put_joints

DRAWER, WINDOW = "sawyer_drawer.xml", "sawyer_window_horizontal.xml"
DRAWER_BOX = ((-0.1, 0.9, 0.0), (0.1, 0.9, 0.0))

TASKS: dict[str, SawyerTask] = {
    "drawer-close-v3": fixture(
        "Close the drawer.",
        DRAWER,
        "drawer",
        DRAWER_BOX,
        Thing("body:drawer_link", offset=(0.0, -0.16, 0.05)),
        from_draw(0.0, -0.16, 0.09),
        near_goal(0.065),
        place=put_joints(-0.15),
        hand=HAND_NEAR,
    ),
    "drawer-open-v3": fixture(
        "Open the drawer.",
        DRAWER,
        "drawer",
        DRAWER_BOX,
        Thing("body:drawer_link", "quat:drawer_link", (0.0, -0.16, 0.0)),
        from_draw(0.0, -0.36, 0.09),
        near_goal(0.03),
        hand=HAND_NEAR,
    ),
    "window-close-v3": fixture(
        "Close the window.",
        WINDOW,
        "window",
        ((0.0, 0.75, 0.2), (0.0, 0.9, 0.2)),
        Thing("site:handleCloseStart"),
        from_draw(),
        near_goal(0.05, "x"),
        place=put_joints(0.2),
        hand=HAND_FAR,
    ),
    "window-open-v3": fixture(
        "Open the window.",
        WINDOW,
        "window",
        ((-0.1, 0.7, 0.16), (0.1, 0.9, 0.16)),
        Thing("site:handleOpenStart"),
        from_draw(0.2),
        near_goal(0.05, "x"),
        place=put_joints(0.0),
        hand=HAND_FAR,
    ),
}
