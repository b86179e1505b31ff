"""Which versions simulate: results depend on them."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("numpy", "mujoco", "mujoco-warp", "metaworld", "robosuite")


def simulating() -> dict[str, str]:
    """Versions of Python and of the packages that simulate, as far as they are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
