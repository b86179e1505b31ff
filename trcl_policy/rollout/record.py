"""Episodes of a controller, kept as drawable scenes, and drawn later with captions and a success badge."""

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
    """Run one episode in the first world and return its trace; see ``record_episodes``."""
    return record_episodes(env, controller, [seed], extra_steps)[0]


def record_episodes(
    env: BatchedEnv, controller: Controller, seeds: Sequence[int], extra_steps: int = 0
) -> list[EpisodeTrace]:
    """Run one episode a seed, in lockstep, and return their traces.

    Each ends at its first success, at the horizon, or when its physics breaks.

    Args:
        env: at least ``len(seeds)`` worlds of the task, on any backend; the others are left alone.
        controller: is reset first.
        seeds: the worlds' start states, as for ``env.reset``.
        extra_steps: control steps recorded after a first success, so that a viewer sees it.
    """
    if extra_steps < 0:
        raise ValueError(f"extra_steps must be >= 0 [control steps], got {extra_steps}")
    observation, rows = env.reset(seeds), range(len(seeds))
    controller.reset()
    scenes, success = [[env.scene(row)] for row in rows], [list[bool]() for _ in rows]
    left = np.full(len(seeds), env.info.horizon)
    while (left > 0).any():
        active = left > 0
        step = env.step(np.asarray(controller.select_action(observation), np.float64), active)
        observation, left = step.observation, np.where(step.failed, 0, left - active)
        for row in np.flatnonzero(active & ~step.failed).tolist():
            if step.success[row] and not any(success[row]):
                left[row] = min(left[row], extra_steps)
            scenes[row].append(env.scene(row))
            success[row].append(bool(step.success[row]))
    return [
        EpisodeTrace(env.info, tuple(shown), np.array(flags, bool), len(flags))
        for shown, flags in zip(scenes, success, strict=True)
    ]


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
    for shown in _together(panels):
        if len({len(frame) for frame in shown}) > 1:
            raise ValueError(f"panels must be equally high, got {[len(frame) for frame in shown]} px")
        yield _joined(shown, gap)


def tiled(
    panels: Sequence[Iterable[Frame]], columns: int, captions: Sequence[str] = (), gap: int = 2
) -> Iterator[Frame]:
    """Yield frames with the panels' frames in a grid, in reading order; panels that end early hold their last frame.

    Args:
        panels: at least one; each yields at least one frame, all of one size. Places without a panel stay black.
        columns: panels in a row, at least 1.
        captions: lines on a strip above the grid.
        gap: width of the black bars between panels [px].

    Raises:
        ValueError: no column, no panel, an empty panel, or frames of different sizes.
    """
    if columns < 1:
        raise ValueError(f"columns must be >= 1, got {columns}")
    strip: Frame | None = None
    for shown in _together(panels):
        if len({frame.shape for frame in shown}) > 1:
            raise ValueError(f"panels must be of one size, got {[frame.shape[:2] for frame in shown]} px")
        black = np.zeros_like(shown[0])
        whole = [*shown, *[black] * (-len(shown) % columns)]
        rows = [_joined(whole[first : first + columns], gap) for first in range(0, len(whole), columns)]
        bar = np.zeros((gap, rows[0].shape[1], 3), np.uint8)
        strip = _strip(rows[0].shape[1], captions) if strip is None else strip
        yield np.concatenate([strip, *[part for row in rows for part in (bar, row)][1:]])


def _together(panels: Sequence[Iterable[Frame]]) -> Iterator[list[Frame]]:
    """Yield the frames that are shown at the same time, until the last panel ends."""
    streams = [iter(panel) for panel in panels]
    shown = [frame for stream in streams for frame in [next(stream, None)] if frame is not None]
    if not shown or len(shown) < len(streams):
        raise ValueError(f"panels must be at least one, none of them empty, got {len(streams)}")
    while True:
        yield shown
        fresh = [next(stream, None) for stream in streams]
        if all(frame is None for frame in fresh):
            return
        shown = [old if new is None else new for old, new in zip(shown, fresh, strict=True)]


def _strip(width: int, captions: Sequence[str]) -> Frame:
    """A strip (h, width, 3) with lines of text; of no height without any."""
    if not captions:
        return np.zeros((0, width, 3), np.uint8)
    return _text(captions, max(10, round(width / 28)), STRIP_COLOUR, 1.0, width).colour.round().astype(np.uint8)


def _joined(frames: Sequence[Frame], gap: int) -> Frame:
    bar = np.zeros((len(frames[0]), gap, 3), np.uint8)
    parts = [part for frame in frames for part in (bar, frame)][1:]
    return np.concatenate(parts, axis=1)
