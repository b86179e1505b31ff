"""Frames into files: mp4 to look at, animations and still strips for a README."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from trcl_policy.data.mp4 import Mp4Writer
from trcl_policy.files import replacing

Frame = NDArray[np.uint8]  # (H, W, 3), upright
ANIMATION_RATE = 25.0  # browsers slow GIFs down that ask for more [frames/s]


def frame_rate(control_frequency: float, speed: float = 1.0) -> float:
    """Return frames per second for one frame a control step, shown at ``speed`` times real time.

    Raises:
        ValueError: a number is not > 0.
    """
    if not (0 < control_frequency < math.inf and 0 < speed < math.inf):
        raise ValueError(f"control_frequency [Hz] and speed must be > 0, got {control_frequency} and {speed}")
    return control_frequency * speed


def write_mp4(
    path: Path, frames: Iterable[Frame], fps: float, total: int | None = None, quality: int = 23, progress: bool = True
) -> int:
    """Encode frames to H.264 (yuv420p, index first, so that browsers play it at once), atomically.

    Args:
        path: the mp4 file.
        frames: at least one, all of one size; odd sizes lose nothing, their last row or column is repeated.
        fps: frames per second.
        total: how many frames there will be, for the progress bar.
        quality: x264's rate factor, 1 (large, nearly lossless) to 51.
        progress: show a bar on stderr, if that is a terminal.

    Returns:
        The number of frames written.

    Raises:
        ValueError: no frame, or frames of different sizes.
        FileError: the machine refuses.
    """
    first, stream_of = _with_first(frames)
    size, count = first.shape, 0
    with replacing(path) as beside, Mp4Writer(beside, fps, max(quality, 1)) as file:
        for frame in tqdm(
            stream_of, total=total, desc=f"write {path.name}", unit="fr", disable=None if progress else True
        ):
            _must_match(frame, size)
            file.write(_even(frame))
            count += 1
    return count


def _with_first(frames: Iterable[Frame]) -> tuple[Frame, Iterable[Frame]]:
    """Return the first frame, and all of them."""
    rest = iter(frames)
    first = next(rest, None)
    if first is None:
        raise ValueError("frames must hold at least one frame, got none")
    return first, chain([first], rest)


def _must_match(frame: Frame, size: tuple[int, ...]) -> None:
    if frame.shape != size or frame.dtype != np.uint8:
        raise ValueError(f"frames must all be {size} uint8, got {frame.shape} {frame.dtype}")


def _even(frame: Frame) -> Frame:
    """Return the frame with even height and width, as yuv420p needs."""
    height, width = frame.shape[:2]
    if height % 2 or width % 2:
        frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return np.ascontiguousarray(frame)


def write_animation(path: Path, frames: Iterable[Frame], fps: float, width: int | None = None) -> int:
    """Write an endlessly repeating ``.gif`` or ``.webp`` for a README, atomically; returns the number of frames kept.

    Args:
        path: its suffix chooses the format; WebP is several times smaller.
        frames: at least one, all of one size; at most 25 a second are kept, the speed stays.
        fps: frames per second of ``frames``.
        width: width to scale to [px]; None keeps the size.

    Raises:
        ValueError: another suffix, or no frame.
        FileError: the machine refuses.
    """
    if path.suffix not in (".gif", ".webp"):
        raise ValueError(f"path must end in .gif or .webp, got {path.name}")
    stride = max(1, math.ceil(fps / ANIMATION_RATE))
    kept = [frame for number, frame in enumerate(_with_first(frames)[1]) if number % stride == 0]
    height = None if width is None else round(kept[0].shape[0] * width / kept[0].shape[1])
    pictures = [Image.fromarray(frame) for frame in kept]
    if width is not None and height is not None:
        pictures = [picture.resize((width, height), Image.Resampling.LANCZOS) for picture in pictures]
    if path.suffix == ".gif":  # few colours and no dithering: dither noise makes GIFs many times larger
        pictures = [picture.quantize(64, dither=Image.Dither.NONE) for picture in pictures]
    how: dict[str, Any] = {"quality": 60, "method": 4} if path.suffix == ".webp" else {"optimize": True}
    with replacing(path) as beside:
        pictures[0].save(
            beside,
            format=path.suffix[1:],
            save_all=True,
            append_images=pictures[1:],
            duration=round(1000 * stride / fps),
            loop=0,
            **how,
        )
    return len(kept)


def contact_sheet(frames: Sequence[Frame], columns: int, rows: int = 1, gap: int = 4) -> Frame:
    """Return one picture of ``columns * rows`` frames spread evenly from the first to the last, in reading order.

    Args:
        frames: at least one, all of one size; with fewer than there are places, some come twice.
        columns: places side by side, at least 1.
        rows: places one below the other, at least 1.
        gap: width of the white bars between them [px].
    """
    if columns < 1 or rows < 1 or not len(frames):
        raise ValueError(f"columns, rows and frames must be >= 1, got {columns}, {rows} and {len(frames)}")
    picks = np.linspace(0, len(frames) - 1, columns * rows).round().astype(int)
    height, width = frames[0].shape[:2]
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for place, pick in enumerate(picks):
        top, left = place // columns * (height + gap), place % columns * (width + gap)
        sheet[top : top + height, left : left + width] = frames[pick]
    return sheet


def write_png(path: Path, picture: Frame) -> None:
    """Write a picture (H, W, 3) as PNG, atomically; raises FileError."""
    with replacing(path) as beside:
        Image.fromarray(picture).save(beside, format="png", optimize=True)
