"""Cameras that need no MJCF."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class View:
    """A camera that needs no MJCF: where it looks [m], from how far [m], azimuth and elevation [deg]."""

    lookat: tuple[float, float, float]
    distance: float
    azimuth: float
    elevation: float
