"""Pages whose tables and figures are made from stored results: written by one command, held to them by another.

The generated parts of a page stand between ``<!-- generated: NAME -->`` and ``<!-- end -->``; what is written around
them stays. A figure carries the fingerprint of the results it was drawn from, so that checking needs no drawing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from trcl_policy.files import write_text
from trcl_policy.report.plots import save_figure

BLOCK = re.compile(r"(<!-- generated: (\S+) -->\n).*?(<!-- end -->)", re.S)
KEY = "Description"


def fingerprint(files: Iterable[Path]) -> str:
    """What tells whether the contents of these files have changed."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.parent.name}/{path.name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def filled(page: str, blocks: Mapping[str, str]) -> str:
    """The page with its blocks replaced.

    Raises:
        ValueError: the page lacks a block, or has one that nothing is made for.
    """
    there = [match[2] for match in BLOCK.finditer(page)]
    if sorted(there) != sorted(blocks):
        raise ValueError(f"page must have the generated blocks {', '.join(blocks)}, once each, got {', '.join(there)}")
    return BLOCK.sub(lambda match: f"{match[1]}{blocks[match[2]].strip()}\n{match[3]}", page)


def write_page(path: Path, blocks: Mapping[str, str]) -> None:
    """Fill the blocks of a page."""
    write_text(path, filled(path.read_text(), blocks))


def write_figure(figure: Figure, path: Path, mark: str) -> None:
    """Write a PNG that carries the fingerprint of its data."""
    save_figure(figure, path, note=mark)


def complaints(
    path: Path, blocks: Mapping[str, str], figures: Mapping[Path, str], pattern: str, command: str
) -> list[str]:
    """One line for everything that is not as the command would make it now.

    Args:
        path: the page.
        blocks: what its blocks should hold.
        figures: fingerprints of the figures that should be there.
        pattern: the files beside which only those should lie.
        command: what makes page and figures.
    """
    found = []
    if filled(path.read_text(), blocks) != path.read_text():
        found.append(f"{path.name} is not that of the stored results; run {command}")
    for figure, mark in figures.items():
        if not figure.exists():
            found.append(f"{figure.name} is missing; run {command}")
        elif mark_of(figure) != mark:
            found.append(f"{figure.name} was drawn from other results; run {command}")
    folders = {figure.parent for figure in figures}
    stale = [p for folder in folders for p in sorted(folder.glob(pattern)) if p not in figures]
    return found + [f"{stray.name} belongs to no stored result; delete it" for stray in stale]


def mark_of(path: Path) -> str | None:
    """The fingerprint that a PNG carries."""
    with Image.open(path) as image:
        return image.info.get(KEY)
