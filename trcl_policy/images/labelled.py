"""Labelled images in memory: what every source of data is read into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

RESIZES = ("bilinear", "bicubic", "area", "nearest")
COLOURS = {1: "grey", 3: "RGB"}
GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as PIL's mode L


@dataclass(frozen=True)
class Format:
    """What images are turned into.

    Attributes:
        size: height and width [pixels].
        channels: 1 (grey) or 3 (RGB).
        resize: ``bilinear`` or ``bicubic`` (both anti-aliased), ``area`` or ``nearest``.
        crop: cut the largest square out of the middle of an image that is no square; such an image is refused without.
    """

    size: int = 8
    channels: int = 1
    resize: str = "bilinear"
    crop: bool = False

    def __post_init__(self) -> None:
        """Check every value once."""
        if self.size < 2:
            raise ValueError(f"size must be >= 2 [pixels], got {self.size}")
        if self.channels not in COLOURS:
            raise ValueError(f"channels must be 1 (grey) or 3 (RGB), got {self.channels}")
        if self.resize not in RESIZES:
            raise ValueError(f"resize must be one of {', '.join(RESIZES)}, got {self.resize!r}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.channels, self.size, self.size

    def fit(self, images: Tensor, where: str) -> Tensor:
        """Images (N, C, H, W) in [-1, 1] in this format; ``where`` names them in messages.

        Raises:
            ValueError: neither grey nor RGB, or no square where none is cut out.
        """
        return self._resized(self._squared(self._coloured(images, where), where))

    def _coloured(self, images: Tensor, where: str) -> Tensor:
        if images.shape[1] not in COLOURS:
            raise ValueError(f"{where} must have 1 or 3 channels, got {images.shape[1]}")
        if images.shape[1] == self.channels:
            return images
        if self.channels == 3:
            return images.expand(-1, 3, -1, -1)
        return (images * images.new_tensor(GREY).view(3, 1, 1)).sum(1, keepdim=True)

    def _squared(self, images: Tensor, where: str) -> Tensor:
        height, width = images.shape[2:]
        if height == width:
            return images
        if not self.crop:
            raise ValueError(f"{where} must be square, or crop true, got {width} x {height} pixels")
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return images[:, :, top : top + side, left : left + side]

    def _resized(self, images: Tensor) -> Tensor:
        if images.shape[2] == self.size:
            return images
        if self.resize in ("area", "nearest"):
            return functional.interpolate(images, self.size, mode=self.resize)
        made = functional.interpolate(images, self.size, mode=self.resize, antialias=True)
        return made.clamp(-1, 1)  # bicubic overshoots


@dataclass(frozen=True)
class Labelled:
    """Images with their class.

    Attributes:
        images: (N, C, H, W) float32 in [-1, 1].
        labels: (N,) int64, index into ``names``.
        names: name of every class.
    """

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check that images, labels and names fit each other."""
        if len(self.images) != len(self.labels):
            raise ValueError(f"labels must be as many as images = {len(self.images)}, got {len(self.labels)}")
        if not len(self.images):
            raise ValueError("images must be at least one, got none")
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= len(self.names):
            raise ValueError(f"labels must be in [0, {len(self.names)}), got {low} to {high}")
        if not torch.isfinite(self.images).all() or self.images.abs().max() > 1 + 1e-6:
            raise ValueError("images must be in [-1, 1], got others")

    def __len__(self) -> int:
        """Number of images N."""
        return len(self.images)

    def rows(self, index: Tensor) -> Labelled:
        """The images at ``index``."""
        return Labelled(self.images[index], self.labels[index], self.names)

    def of(self, classes: Sequence[int]) -> Tensor:
        """Where images of the given classes lie, in order (M,)."""
        return torch.isin(self.labels, torch.tensor(classes)).nonzero().squeeze(1)


def from_bytes(images: NDArray[np.uint8], form: Format, where: str, chunk: int = 4096) -> Tensor:
    """Images (N, C, H, W) of bytes in the wanted format, float32 in [-1, 1]."""
    pieces = np.array_split(images, max(1, -(-len(images) // chunk)))
    return torch.cat([form.fit(torch.from_numpy(piece.copy()).float() / 127.5 - 1, where) for piece in pieces])
