"""Which OpenGL draws off screen on this machine: the GPU's or Mesa's EGL, else OSMesa, else a clear message."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from functools import cache
from typing import Any

from trcl_envs.interface import SimulationError

BACKENDS = ("egl", "osmesa")
PACKAGES = {"egl": "libegl1 libgl1-mesa-dri", "osmesa": "libosmesa6"}
GL_MODULES = ("mujoco.rendering.classic.gl_context", "mujoco.gl_context")  # since MuJoCo 3.9, and before
PROBE_SECONDS = 60.0
PROBE = """
import mujoco
model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><geom size="1"/></worldbody></mujoco>')
renderer = mujoco.Renderer(model, 8, 8)
renderer.update_scene(mujoco.MjData(model))
renderer.render()
renderer.close()
"""


def choose_gl() -> str:
    """Make MuJoCo draw with the first backend that works here, and return its name.

    A MUJOCO_GL set by the user is taken as it is. MuJoCo reads the variable when it is imported, so where that has
    happened already its GL module is loaded again.

    Raises:
        SimulationError: no backend works.
    """
    if sys.platform != "linux":
        return "native"
    chosen = os.environ.get("MUJOCO_GL", "").strip().lower()
    if not chosen:
        chosen = working_backend()
        os.environ["MUJOCO_GL"] = chosen
        for name in GL_MODULES:
            if name in sys.modules:
                importlib.reload(sys.modules[name])
    return chosen


def import_mujoco() -> Any:
    """The ``mujoco`` package; importing it loads the OpenGL that MUJOCO_GL names, which may be missing."""
    try:
        import mujoco
    except ModuleNotFoundError as error:
        raise SimulationError("MuJoCo is not installed: run pip install 'trcl-policy[sim]'") from error
    except (ImportError, AttributeError, RuntimeError) as error:
        wish, reason = os.environ.get("MUJOCO_GL", ""), " ".join(str(error).split())
        raise SimulationError(f"MUJOCO_GL={wish} does not work here ({reason}): unset it to have one found") from error
    return mujoco


def working_backend() -> str:
    """The first backend that draws a picture on this machine."""
    for backend in BACKENDS:
        if not probe(backend):
            return backend
    packages = " or ".join(PACKAGES.values())
    raise SimulationError(f"no OpenGL for pictures without a screen: on Debian run apt-get install {packages}")


@cache
def probe(backend: str) -> str:
    """Try a backend in a process of its own, where its failure can't spoil this one; empty if it drew a picture.

    What is missing shows as FatalError, AttributeError or ImportError, or as a crash; the last line says which.
    """
    environment = {**os.environ, "MUJOCO_GL": backend}
    command = [sys.executable, "-c", PROBE]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        return f"no picture within {PROBE_SECONDS:.0f} s"
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return lines[-1] if done.returncode else ""


def gl_report() -> dict[str, str | dict[str, str]]:
    """What this machine can draw with: chosen backend, state of each, and what would mend it.

    Returns:
        ``chosen``: the backend that pictures would use, empty if none; ``backends``: name -> ``"works"`` or the reason
        why not; ``mend``: the command that installs what is missing, empty if nothing is.
    """
    reasons = {backend: probe(backend) for backend in BACKENDS}
    wished = os.environ.get("MUJOCO_GL", "").strip().lower()
    working = [backend for backend, reason in reasons.items() if not reason]
    chosen = wished or (working[0] if working else "")
    mend = "" if working else f"apt-get install {PACKAGES['egl']} (or {PACKAGES['osmesa']})"
    states = {backend: reason or "works" for backend, reason in reasons.items()}
    return {"chosen": chosen, "backends": states, "mend": mend}
