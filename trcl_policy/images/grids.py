"""Pictures of generated images: what each task looks like after each task, and two methods side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from trcl_policy.files import replacing

Canvas = NDArray[np.uint8]
PAPER, INK, EMPTY = (255, 255, 255), (30, 30, 30), (236, 236, 236)
GAP = 2
MARGIN = 10
TITLE = 18


def mosaic(images: Tensor, columns: int, scale: int = 1) -> Canvas:
    """Images (N, C, H, W) in [-1, 1], row by row, as one picture (H', W', 3); each pixel ``scale`` pixels wide."""
    if columns < 1 or scale < 1:
        raise ValueError(f"columns and scale must be >= 1, got {columns} and {scale}")
    bytes_ = ((images.clamp(-1, 1) + 1) * 127.5).round().byte().expand(-1, 3, -1, -1)
    tiles = bytes_.permute(0, 2, 3, 1).numpy().repeat(scale, 1).repeat(scale, 2)
    height, width = tiles.shape[1:3]
    rows = -(-len(tiles) // columns)
    canvas = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), PAPER, np.uint8)
    for number, tile in enumerate(tiles):
        top, left = number // columns * (height + GAP), number % columns * (width + GAP)
        canvas[top : top + height, left : left + width] = tile
    return canvas


def progress_grid(
    samples: Sequence[Sequence[Tensor | None]], tasks: Sequence[str], columns: int = 4, scale: int = 2, title: str = ""
) -> Canvas:
    """Rows are tasks, columns are moments: what task i looks like after learning task k.

    Args:
        samples: ``samples[k][i]``, images (N, C, H, W) of task i after task k, None where it was not learned yet.
        tasks: a name for every row, also for every column.
        columns: images side by side within a cell.
        scale: pixels a pixel.
        title: line above.

    Raises:
        ValueError: no square table of ``tasks``, or no images at all.
    """
    size = len(tasks)
    if len(samples) != size or any(len(row) != size for row in samples):
        raise ValueError(f"samples must be {size} x {size} for {size} tasks, got {[len(row) for row in samples]}")
    cells = [[None if one is None else mosaic(one, columns, scale) for one in row] for row in samples]
    shown = [cell for row in cells for cell in row if cell is not None]
    if not shown:
        raise ValueError("samples must hold images of at least one task, got none")
    height, width = (max(cell.shape[axis] for cell in shown) for axis in (0, 1))
    size_of_text = max(12, height // 8)
    font = ImageFont.load_default(size_of_text)
    left = round(max(font.getlength(name) for name in tasks)) + 2 * MARGIN
    line = round(size_of_text * 1.4)
    top = MARGIN + line * (2 if title else 1)
    step_x, step_y = max(width, round(font.getlength("after 00"))) + MARGIN, height + MARGIN
    picture = Image.new("RGB", (left + step_x * size, top + step_y * size), PAPER)
    pen = ImageDraw.Draw(picture)
    pen.text((MARGIN, MARGIN // 2), title, fill=INK, font=font)
    for k in range(size):
        pen.text((left + k * step_x, top - line), f"after {k + 1}", fill=INK, font=font)
        pen.text((MARGIN, top + k * step_y + height // 2 - line // 2), tasks[k], fill=INK, font=font)
        for i in range(size):
            corner, cell = (left + k * step_x, top + i * step_y), cells[k][i]
            if cell is None:
                pen.rectangle((*corner, corner[0] + width - 1, corner[1] + height - 1), fill=EMPTY)
            else:
                picture.paste(Image.fromarray(cell), corner)
    return np.asarray(picture)


def side_by_side(panels: Sequence[Canvas], titles: Sequence[str]) -> Canvas:
    """Pictures next to each other, each under its title, such as forgetting beside retention."""
    if not panels or len(panels) != len(titles):
        raise ValueError(f"titles must be one a panel, got {len(titles)} for {len(panels)}")
    font, line = ImageFont.load_default(TITLE), round(TITLE * 1.6)
    width = sum(max(panel.shape[1], round(font.getlength(t))) for panel, t in zip(panels, titles, strict=True))
    height = max(panel.shape[0] for panel in panels) + line
    picture = Image.new("RGB", (width + 2 * MARGIN * (len(panels) - 1), height), PAPER)
    pen, left = ImageDraw.Draw(picture), 0
    for panel, title in zip(panels, titles, strict=True):
        pen.text((left, 0), title, fill=INK, font=font)
        picture.paste(Image.fromarray(panel), (left, line))
        left += max(panel.shape[1], round(font.getlength(title))) + 2 * MARGIN
    return np.asarray(picture)


def write_png(path: Path | str, picture: Canvas) -> None:
    """Write a picture (H, W, 3) as PNG, atomically; raises FileError."""
    with replacing(path) as beside:
        Image.fromarray(picture).save(beside, format="PNG")
