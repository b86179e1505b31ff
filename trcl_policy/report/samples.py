"""Generated images in a report: what each task looks like after each task."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from trcl_policy.files import read_safetensors
from trcl_policy.images.grids import Canvas, progress_grid
from trcl_policy.report.runs import Run

COLUMNS = 4
WIDTH = 32
"""An image is enlarged to about this many pixels."""


def sample_grids(runs: Sequence[Run]) -> dict[str, Canvas]:
    """One picture for every run that kept images, by the run's label: rows are tasks, columns are moments.

    Raises:
        ValueError: a file of images is damaged.
        FileError: it can't be read.
    """
    return {run.label: _grid(run) for run in runs if run.samples}


def _grid(run: Run) -> Canvas:
    size = range(len(run.tasks))
    kept = {number: read_safetensors(path)[0] for number, path in run.samples.items()}
    cells: list[list[Tensor | None]] = [
        [_signed(kept[k][str(i)]) if k in kept and str(i) in kept[k] else None for i in size] for k in size
    ]
    width = next(cell.shape[-1] for row in cells for cell in row if cell is not None)
    return progress_grid(cells, run.tasks, COLUMNS, max(1, WIDTH // width), run.label)


def _signed(images: Tensor) -> Tensor:
    """Bytes as numbers in [-1, 1]."""
    return images.float() / 127.5 - 1


def grid_html(label: str, canvas: Canvas) -> str:
    """A picture as an HTML element that loads nothing."""
    content = io.BytesIO()
    Image.fromarray(canvas).save(content, "PNG")
    source = f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
    what = html.escape(f"{label}: images of each task (rows) after each task (columns)")
    return f'<figure><img alt="{what}" src="{source}"><figcaption>{what}</figcaption></figure>'
