"""Scripted controllers for robosuite's Lift, Stack and Door: one function of the observation each, without memory.

What a step of the work needs, such as whether a cube is held, is read off the observation: a policy that sees the same
can learn the same. Actions are offsets of the hand, 1 = 5 cm or 0.5 rad a control step, and the gripper.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from trcl_envs.interface import BoolArray, FloatArray

REACH, TURN = 0.05, 0.5  # [m], [rad] that the hand is asked to move at full action
OPEN, CLOSE = -1.0, 1.0
HOVER = 0.08  # [m] above a cube where the hand waits until it is over it
OVER, SQUARE = 0.012, 0.25  # [m] sideways and [rad] within which the hand is over a cube
AT = 0.012  # [m] within which a cube is between the fingers
HELD_WIDTH = 0.055  # [m] between the fingers below which they are closed on a cube
STACKED = 0.045  # [m] between the centres of the cubes of ``stack``, the red one on the green one
SETTLED = 0.010  # [m] above that place at which a cube may be let go
ALIGNED = 0.010  # [m] sideways within which a cube is over its place
CLEAR = 0.03  # [m] above its place at which a cube may go across
GRIP = np.array([0.03, 0.005, 0.0])  # [m] from the handle's tip to where the fingers take it from above
ABOVE_HANDLE = 0.12  # [m]
ASTRIDE, KEPT = 0.03, 0.06  # [m] sideways within which the open fingers can go down around the handle, and stay there
DEEP = 0.03  # [m] of the hand below the handle, which presses it down
TURNED = 1.0  # [rad] of the handle from which the door can be pulled
AJAR = 0.03  # [rad] of the door from which the handle no longer matters


def lift(observations: FloatArray) -> FloatArray:
    """Actions (N, 7): over the cube, down, close, up."""
    offset, turn = observations[:, 9:12] - observations[:, :3], square_turn(observations)
    held = between(offset) & (fingers(observations) < HELD_WIDTH)
    way = np.where(held[:, None], np.array([0.0, 0.0, 0.2]), approach(offset, turn))
    return command(way, np.where(held, 0.0, turn), between(offset))


def stack(observations: FloatArray) -> FloatArray:
    """Actions (N, 7): fetch the red cube as ``lift`` does, over the green one with it, down, open, up."""
    red, green = observations[:, 9:12], observations[:, 16:19]
    offset, turn, place = red - observations[:, :3], square_turn(observations), green + np.array([0.0, 0.0, STACKED])
    closed = fingers(observations) < HELD_WIDTH
    there = (np.linalg.norm((place - red)[:, :2], axis=1) < ALIGNED) & (red[:, 2] - place[:, 2] < SETTLED)
    held = between(offset) & closed
    leave = np.where(closed[:, None], 0.0, np.array([0.0, 0.0, HOVER]))
    way = np.where(there[:, None], leave, np.where(held[:, None], carry(place - red), approach(offset, turn)))
    return command(way, np.where(held | there, 0.0, turn), between(offset) & ~there)


def door(observations: FloatArray) -> FloatArray:
    """Actions (N, 7): open fingers around the handle from above, press it down, pull the door (along y)."""
    hand, handle, hinge, angle = (observations[:, :3], observations[:, 12:15], observations[:, 15], observations[:, 22])
    way = handle + GRIP - hand
    aside, low = np.linalg.norm(way[:, :2], axis=1), hand[:, 2] < handle[:, 2] + DEEP
    astride = (aside < ASTRIDE) | (low & (aside < KEPT))
    down = np.where(low & (aside < ASTRIDE), -REACH, way[:, 2] - DEEP)
    level = np.where(astride, down, way[:, 2] + ABOVE_HANDLE)
    pull = np.column_stack([way[:, 0], np.full(len(way), 1.2 * REACH), np.clip(way[:, 2] - DEEP, -0.02, 0.02)])
    free = (angle > TURNED) | (hinge > AJAR)
    way = np.where(free[:, None], pull, np.column_stack([way[:, :2], level]))
    return command(way, np.zeros(len(way)), np.zeros(len(way), dtype=bool))


def carry(way: FloatArray) -> FloatArray:
    """Way (N, 3) [m] of a held thing to a place that is ``way`` from it: up until it is clear, across, then down."""
    far, low = np.linalg.norm(way[:, :2], axis=1) > ALIGNED, way[:, 2] > -CLEAR
    level = np.column_stack([np.where(low[:, None], 0.0, way[:, :2]), way[:, 2] + HOVER])
    return np.where(far[:, None], level, way)


def approach(offset: FloatArray, turn: FloatArray) -> FloatArray:
    """Way (N, 3) [m] to something at this offset from the hand: until the hand is over it and square, high above it."""
    off = (np.linalg.norm(offset[:, :2], axis=1) > OVER) | (np.abs(turn) > SQUARE)
    return np.where(off[:, None], offset + np.array([0.0, 0.0, HOVER]), offset)


def between(offset: FloatArray) -> BoolArray:
    """Whether (N,) something at this offset (N, 3) [m] from the hand is between its fingers."""
    return np.linalg.norm(offset, axis=1) < AT


def fingers(observations: FloatArray) -> FloatArray:
    """Distance (N,) [m] between the fingers."""
    return observations[:, 7] - observations[:, 8]


def square_turn(observations: FloatArray) -> FloatArray:
    """Angle (N,) [rad], up to pi / 4, about z by which the hand must turn for its fingers to meet a cube's faces."""
    hand, cube = (axis_angle(observations[:, first : first + 4]) for first in (3, 12))
    return (cube - hand + np.pi / 4) % (np.pi / 2) - np.pi / 4


def axis_angle(quaternion: FloatArray) -> FloatArray:
    """Direction (N,) [rad], seen from above, of the y axis of something turned by a quaternion (x, y, z, w)."""
    x, y, z, w = quaternion.T
    return np.arctan2(1 - 2 * (x * x + z * z), 2 * (x * y - z * w))


def command(way: FloatArray, turn: FloatArray, close: BoolArray) -> FloatArray:
    """Actions (N, 7) that go this way (N, 3) [m], turn about z (N,) [rad] and close the gripper or open it."""
    upright = np.zeros((len(way), 2))
    return np.column_stack([way / REACH, upright, turn / TURN, np.where(close, CLOSE, OPEN)])


EXPERTS: dict[str, Callable[[FloatArray], FloatArray]] = {
    "door-robosuite": door,
    "lift-robosuite": lift,
    "stack-robosuite": stack,
}
