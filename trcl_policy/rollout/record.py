"""One episode of a controller, kept as drawable scenes, and drawn later with captions and a success badge."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from trcl_envs.interface import BatchedEnv, Renderer, Scene, TaskInfo

Frame = NDArray[np.uint8]  # (H, W, 3), upright

SUCCESS_COLOUR = (0, 130, 90)  # bluish green and vermilion: told apart by colour-blind viewers too, and by their words
FAILURE_COLOUR = (190, 75, 0)
STRIP_COLOUR = (16, 20, 26)
STRIP_OPACITY = 0.62


class Controller(Protocol):
    """What acts; a loaded policy fits."""

    def reset(self) -> None:
        """Forget the previous episode."""
        ...

    def select_action(self, observation: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return actions (B, Da) for observations (B, Do)."""
        ...


@dataclass(frozen=True)
class EpisodeTrace:
    """One episode, ready to be drawn.

    Attributes:
        info: the task.
        scenes: L + 1 scenes: the start, and what each control step led to.
        success: (L,) bool, whether the task counted as solved after each step.
        length: L, control steps.
    """

    info: TaskInfo
    scenes: tuple[Scene, ...]
    success: NDArray[np.bool_]
    length: int

    @property
    def solved_at(self) -> int | None:
        """The number of the first scene in which the task is solved, None if there is none."""
        return int(self.success.argmax()) + 1 if self.success.any() else None


def record_episode(env: BatchedEnv, controller: Controller, seed: int, extra_steps: int = 0) -> EpisodeTrace:
    """Run one episode in the first world and return its trace.

    It ends at the first success, at the horizon, or when the physics breaks.

    Args:
        env: worlds of the task; the others are left alone.
        controller: is reset first.
        seed: the world's start state, as for ``env.reset``.
        extra_steps: control steps recorded after the first success, so that a viewer sees it.
    """
    if extra_steps < 0:
        raise ValueError(f"extra_steps must be >= 0 [control steps], got {extra_steps}")
    observation = env.reset([seed])
    controller.reset()
    scenes, left = [env.scene(0)], env.info.horizon
    success: list[bool] = []
    while left > 0:
        step = env.step(np.asarray(controller.select_action(observation), np.float64))
        observation, left = step.observation, left - 1
        if step.failed[0]:
            break
        if step.success[0] and not any(success):
            left = min(left, extra_steps)
        scenes.append(env.scene(0))
        success.append(bool(step.success[0]))
    return EpisodeTrace(env.info, tuple(scenes), np.array(success, bool), len(success))


def draw(trace: EpisodeTrace, renderer: Renderer, captions: Sequence[str] = ()) -> Iterator[Frame]:
    """Yield the frames of a trace, one a scene, with captions above and the outcome below.

    The badge says ``success`` from the first solved scene on, and ``failed`` in the last scene when there was none.

    Args:
        trace: an episode.
        renderer: of the same task; its size is the frames'.
        captions: lines drawn at the top, such as the task's name and the checkpoint's label.
    """
    strip: _Overlay | None = None
    for number, scene in enumerate(trace.scenes):
        frame = np.array(renderer.frame(scene))  # a copy: renderers may reuse their picture
        if strip is None:
            strip, good, bad = _overlays(frame.shape[1], frame.shape[0], captions)
        strip.blend(frame, 0)
        if trace.solved_at is not None and number >= trace.solved_at:
            good.blend(frame, len(frame) - len(good.opacity))
        elif trace.solved_at is None and number == trace.length:
            bad.blend(frame, len(frame) - len(bad.opacity))
        yield frame


@dataclass(frozen=True)
class _Overlay:
    """A picture (h, w, 3) and how opaque it is, (h, w, 1) in [0, 1]: drawn once, blended into many frames."""

    colour: NDArray[np.floating]
    opacity: NDArray[np.floating]

    def blend(self, frame: Frame, top: int) -> None:
        """Blend into the frame from row ``top`` on, in place, cut to what fits."""
        part = frame[max(0, top) :][: len(self.colour), : self.colour.shape[1]]
        colour, opacity = (layer[: part.shape[0], : part.shape[1]] for layer in (self.colour, self.opacity))
        part[:] = (colour * opacity + part * (1 - opacity)).round().astype(np.uint8)


def _overlays(width: int, height: int, captions: Sequence[str]) -> tuple[_Overlay, _Overlay, _Overlay]:
    """Return the caption strip (empty without captions) and the two badges for frames of this size."""
    size = max(10, round(height / 18))
    good, bad = (
        (_text([word], size, colour, 1.0)) for word, colour in (("success", SUCCESS_COLOUR), ("failed", FAILURE_COLOUR))
    )
    if not captions:
        return _Overlay(np.zeros((0, width, 3), np.float32), np.zeros((0, width, 1), np.float32)), good, bad
    return _text(captions, size, STRIP_COLOUR, STRIP_OPACITY, width), good, bad


def _text(
    lines: Sequence[str], size: int, ground: tuple[int, int, int], opacity: float, width: int | None = None
) -> _Overlay:
    """Return white text on a ground, as wide as the text or ``width``; text that is too wide gets smaller."""
    margin = size // 2
    font = ImageFont.load_default(size)
    while width is not None and size > 6 and max(font.getlength(line) for line in lines) > width - 2 * margin:
        size -= 1
        font = ImageFont.load_default(size)
    wide = width or round(max(font.getlength(line) for line in lines)) + 2 * margin
    pitch = round(size * 1.3)
    mask = Image.new("L", (wide, pitch * len(lines) + margin))
    pen = ImageDraw.Draw(mask)
    for number, line in enumerate(lines):
        pen.text((margin, margin // 2 + pitch * number), line, fill=255, font=font)
    ink = np.asarray(mask, np.float32)[..., None] / 255
    return _Overlay(255 * ink + np.array(ground, np.float32) * (1 - ink), opacity + (1 - opacity) * ink)


def side_by_side(panels: Sequence[Iterable[Frame]], gap: int = 4) -> Iterator[Frame]:
    """Yield frames with the panels' frames next to each other; panels that end early hold their last frame.

    Args:
        panels: at least one; each yields at least one frame, all of the same height.
        gap: width of the black bars between panels [px].

    Raises:
        ValueError: no panel, an empty panel, or panels of different heights.
    """
    streams = [iter(panel) for panel in panels]
    shown = [next(stream, None) for stream in streams]
    if not shown or any(frame is None for frame in shown):
        raise ValueError(f"panels must be at least one, none of them empty, got {len(shown)}")
    if len({len(frame) for frame in shown if frame is not None}) > 1:
        raise ValueError(f"panels must be equally high, got {[len(frame) for frame in shown if frame is not None]} px")
    while True:
        yield _joined([frame for frame in shown if frame is not None], gap)
        fresh = [next(stream, None) for stream in streams]
        if all(frame is None for frame in fresh):
            return
        shown = [old if new is None else new for old, new in zip(shown, fresh, strict=True)]


def _joined(frames: Sequence[Frame], gap: int) -> Frame:
    bar = np.zeros((len(frames[0]), gap, 3), np.uint8)
    parts = [part for frame in frames for part in (bar, frame)][1:]
    return np.concatenate(parts, axis=1)
