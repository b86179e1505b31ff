"""A scene's model on a device, set so that mujoco-warp 4.0 finds the contacts that MuJoCo finds on the CPU.

Two boxes touch by another algorithm there unless "native" collisions are switched off, which changes nothing else.
MuJoCo's tolerance for closest points is too fine for single precision, and a resting cylinder is now and then found
metres deep and thrown away. Things that touch without pressing, such as a plate on rails, press by rounding alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from trcl_envs.gl import import_mujoco

CLOSEST_TOLERANCE = 1e-5
"""Least tolerance [m] of the search for closest points."""
SHALLOWEST = 1e-6
"""Depth [m] from which two geoms touch: less is rounding."""


def put_model(warp: Any, mjw: Any, model: Any, num_worlds: int) -> Any:
    """The model on Warp's current device; every world has its own positions of bodies and sites."""
    put = mjw.put_model(model, batch_sizes={"body_pos": num_worlds, "site_pos": num_worlds})
    put.opt.disableflags |= int(import_mujoco().mjtDisableBit.mjDSBL_NATIVECCD)
    warp.to_torch(put.opt.ccd_tolerance).clamp_(min=CLOSEST_TOLERANCE)
    warp.to_torch(put.geom_margin).sub_(SHALLOWEST / 2)  # those of a pair are added
    return put


def static_geoms(model: Any) -> list[int]:
    """Geoms of bodies that are fixed to the world; those on a mocap body move."""
    bodies = model.geom_bodyid
    fixed = (model.body_weldid[bodies] == 0) & (model.body_mocapid[model.body_rootid[bodies]] == -1)
    return np.flatnonzero(fixed).tolist()
