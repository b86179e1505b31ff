"""LeRobot's statistics of an array, gathered block by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Summary:
    """Smallest, largest, mean and standard deviation of each entry of a row, or of each channel of pictures in [0, 1].

    Args:
        is_picture: rows are pictures (H, W, 3) uint8.
    """

    def __init__(self, is_picture: bool) -> None:
        self._is_picture, self._count = is_picture, 0
        self._low: Any = np.inf
        self._high: Any = -np.inf
        self._mean: Any = 0.0
        self._squares: Any = 0.0  # sum of squared distances from the mean

    def add(self, rows: NDArray) -> None:
        """Take rows (n, ...) in; blocks are joined by Chan's formula, which loses no digits to large means."""
        values = rows.reshape(-1, rows.shape[-1]) if self._is_picture else rows
        low, high = values.min(axis=0).astype(np.float64), values.max(axis=0).astype(np.float64)
        count, mean = len(values), values.mean(axis=0, dtype=np.float64)
        squares = values.var(axis=0, dtype=np.float64) * count
        total, apart = self._count + count, mean - self._mean
        self._squares = self._squares + squares + apart**2 * (self._count * count / total)
        self._mean = self._mean + apart * (count / total)
        self._low, self._high, self._count = np.minimum(self._low, low), np.maximum(self._high, high), total

    def result(self) -> dict[str, Any]:
        """Return min, max, mean, std as lists, pictures' of shape (3, 1, 1), and the number of rows or pixels.

        Nothing where values were NaN or infinite, which JSON can't say.
        """
        if not np.isfinite(self._squares).all():
            return {}
        scale, shape = (255.0, (3, 1, 1)) if self._is_picture else (1.0, None)
        found = {"min": self._low, "max": self._high, "mean": self._mean, "std": np.sqrt(self._squares / self._count)}
        lists = {}
        for name, value in found.items():
            array = np.atleast_1d(np.asarray(value) / scale)
            lists[name] = (array.reshape(shape) if shape else array).tolist()
        return {**lists, "count": [self._count]}

    @staticmethod
    def merged(entries: Sequence[Mapping[str, Any]], feature: str) -> dict[str, Any]:
        """Return the statistics of a whole data set from those of its episodes (rows of meta/episodes)."""
        if any(f"stats/{feature}/count" not in entry for entry in entries):
            return {}
        low, high, mean, std, count = [
            np.array([entry[f"stats/{feature}/{name}"] for entry in entries], np.float64)
            for name in ("min", "max", "mean", "std", "count")
        ]
        weight = (count / count.sum()).reshape(-1, *[1] * (mean.ndim - 1))
        middle = (weight * mean).sum(axis=0)
        spread = np.sqrt((weight * (std**2 + (mean - middle) ** 2)).sum(axis=0))
        found = {"min": low.min(axis=0), "max": high.max(axis=0), "mean": middle, "std": spread}
        return {**{name: value.tolist() for name, value in found.items()}, "count": [int(count.sum())]}
