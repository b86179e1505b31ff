"""Eyes for policies with cameras: worlds are drawn when the policy looks, and only those that have moved since."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from trcl_envs.interface import BatchedEnv, Renderer, Scene
from trcl_policy.data.layout import IMAGES, STATE
from trcl_policy.policy.controller import Policy

Pictures = dict[str, NDArray[np.uint8]]
C = TypeVar("C")


@runtime_checkable
class Drawable(Protocol):
    """Worlds that know how to draw themselves; trcl_envs' Worlds fit."""

    def renderer(self, width: int, height: int, camera: str | None = None) -> Renderer:
        """What draws these worlds from a camera; kept and closed by the worlds."""
        ...


class Eyes:
    """Pictures of worlds from some cameras.

    Args:
        env: the worlds.
        cameras: names.
        size: height and width [pixels].

    Raises:
        ValueError: a camera does not exist, or the worlds can't be drawn.
        SimulationError: this machine can't draw.
    """

    def __init__(self, env: BatchedEnv, cameras: Sequence[str], size: int) -> None:
        if not isinstance(env, Drawable):
            raise ValueError(f"cameras need worlds that can be drawn, got {type(env).__name__} for {env.info.name}")
        self._env, self._size = env, size
        self._renderers = {camera: env.renderer(size, size, camera) for camera in cameras}
        self._last: dict[int, tuple[Scene, Pictures]] = {}

    def look(self, num_rows: int) -> Pictures:
        """Pictures of the first worlds by camera, each (num_rows, size, size, 3) uint8."""
        views = [self.row(row) for row in range(num_rows)]
        return {camera: np.stack([view[camera] for view in views]) for camera in self._renderers}

    def row(self, row: int) -> Pictures:
        """Pictures of one world by camera, each (size, size, 3) uint8; drawn anew only where its state has changed.

        A world whose physics broke keeps its last picture.
        """
        scene, last = self._env.scene(row), self._last.get(row)
        is_broken = not np.isfinite(scene.state).all()
        if last is None or not (is_broken or _same(last[0], scene)):
            views = {camera: renderer.frame(scene).copy() for camera, renderer in self._renderers.items()}
            self._last[row] = (scene, views)
        return self._last[row][1]


def _same(one: Scene, other: Scene) -> bool:
    """Whether two scenes of a task look the same."""
    if one.overrides.keys() != other.overrides.keys() or not np.array_equal(one.state, other.state):
        return False
    return all(np.array_equal(value, other.overrides[name]) for name, value in one.overrides.items())


class Seeing:
    """A policy with cameras that acts on worlds: it is shown what it needs to see.

    Args:
        policy: the policy.
        env: the worlds that it acts on.
        every_step: draw at every step, not only when the policy looks, and keep the pictures in ``shown``.

    Attributes:
        shown: pictures of the latest step, where it was drawn.
    """

    def __init__(self, policy: Policy, env: BatchedEnv, every_step: bool = False) -> None:
        vision = policy.spec.vision
        if vision is None:
            raise ValueError("policy must have cameras to be shown anything, got one without")
        self._policy, self._every_step = policy, every_step
        self._eyes = Eyes(env, vision.cameras, vision.image_size)
        self.shown: Pictures = {}

    def reset(self, task: str | None = None, seeds: Sequence[int] = ()) -> None:
        """Forget the episode."""
        self._policy.reset(task, seeds)

    def select_action(self, observation: np.ndarray) -> np.ndarray:
        """Actions (B, Da) for observations (B, Do)."""
        look: dict[str, Any] = {STATE: observation}
        if self._every_step or self._policy.needs_pictures:
            self.shown = self._eyes.look(len(observation))
            look.update({f"{IMAGES}.{camera}": frames for camera, frames in self.shown.items()})
        return self._policy.select_action(look)


def with_eyes(controller: C, env: BatchedEnv, every_step: bool = False) -> C | Seeing:
    """``controller`` itself, or ``Seeing`` around a policy with cameras."""
    if isinstance(controller, Policy) and controller.spec.vision is not None:
        return Seeing(controller, env, every_step)
    return controller
