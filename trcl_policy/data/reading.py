"""What can be read out of an episode store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from trcl_policy.data.episode import StoredTask
from trcl_policy.data.layout import IMAGES, Index, fingerprint, read_rows
from trcl_policy.data.rows import RowReader


class StoredEpisodes:
    """The reading half of an episode store.

    Args:
        path: the store's folder.
        data: its arrays by name.
        index: its episodes and tasks.
    """

    def __init__(self, path: Path, data: Mapping[str, zarr.Array], index: Index) -> None:
        self.path = path
        self._data, self._index = dict(data), index
        self._readers: dict[str, RowReader] = {}

    def __len__(self) -> int:
        """Return the number of episodes."""
        return len(self._index.ends)

    @property
    def tasks(self) -> tuple[StoredTask, ...]:
        """The tasks in the order in which they were added, also those without episodes."""
        return tuple(StoredTask(n, f) for n, f in zip(self._index.names, self._index.frequencies, strict=True))

    @property
    def task_names(self) -> tuple[str, ...]:
        """The names of :attr:`tasks`."""
        return self._index.names

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the episodes come from, as JSON."""
        return dict(self._index.provenance)

    @property
    def keys(self) -> tuple[str, ...]:
        """The sorted names of the arrays under ``data/``; empty before the first episode."""
        return tuple(sorted(self._data)) if len(self) else ()

    @property
    def cameras(self) -> tuple[str, ...]:
        """The sorted names of the cameras, whose images lie under ``observation.images.<camera>``."""
        return tuple(key.removeprefix(f"{IMAGES}.") for key in self.keys if key.startswith(f"{IMAGES}."))

    @property
    def num_rows(self) -> int:
        """Control steps over all episodes."""
        return int(self._index.ends[-1]) if len(self) else 0

    def num_episodes(self, task: str | None = None) -> int:
        """Return how many episodes a task has, or all tasks together; raises ValueError for a task not listed."""
        return len(self.episodes_of(task))

    def episodes_of(self, task: str | None = None) -> NDArray[np.int64]:
        """Return the (first, past-last) rows of a task's episodes, or of all, in store order: (E, 2) int64."""
        ends = self._index.ends
        spans = np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1) if len(ends) else np.empty((0, 2), np.int64)
        return spans if task is None else spans[self._index.tasks == self._index.number(task)]

    def attempts_of(self, task: str) -> NDArray[np.int64]:
        """Return which seeded attempt each of a task's episodes was, (E,) int64, -1 where unknown."""
        return self._index.attempts[self._index.tasks == self._index.number(task)]

    def read(self, key: str, task: str | None = None) -> NDArray:
        """Return an array's rows of one task's episodes, end to end, or of all episodes.

        Raises:
            ValueError: the key or the task is not in the store, or the stored bytes are damaged.
        """
        if key not in self.keys:
            raise ValueError(f"key must be one of {list(self.keys)}, got {key!r}")
        spans = self.episodes_of(task)
        if not len(spans):
            return read_rows(self._data[key], 0, 0)
        first = int(spans[0, 0])
        rows = read_rows(self._data[key], first, int(spans[-1, 1]))
        if len(rows) == int((spans[:, 1] - spans[:, 0]).sum()):
            return rows  # the task's episodes lie side by side
        return np.concatenate([rows[start - first : stop - first] for start, stop in spans])

    def take(self, key: str, rows: NDArray[np.int64], cache_bytes: int = 2**28) -> NDArray:
        """Return rows of an array in any order: rows of shape S -> (*S, ...), rows counted over the whole store.

        Made for windows of images from stores larger than memory: only the chunks that are needed are decoded, and
        those read last stay in memory.

        Args:
            key: one of :attr:`keys`.
            rows: row numbers, such as those of :meth:`episodes_of`; of any shape.
            cache_bytes: memory for decoded chunks of this key [bytes]; the first call decides.

        Raises:
            ValueError: the key is not in the store, a row is out of range, or the stored bytes are damaged.
        """
        if key not in self.keys:
            raise ValueError(f"key must be one of {list(self.keys)}, got {key!r}")
        wanted = np.asarray(rows, np.int64)
        if key not in self._readers:
            self._readers[key] = RowReader(self._data[key], self.path / "data" / key, cache_bytes)
        taken = self._readers[key].take(wanted.reshape(-1), self.num_rows)
        return taken.reshape(*wanted.shape, *taken.shape[1:])

    def arrays(self, task: str, keys: Sequence[str] | None = None) -> dict[str, NDArray]:
        """Return a task's data: each of ``keys``, (n, ...), and ``episode_ends`` (e,) within these rows.

        Where ``keys`` is not given, all of :attr:`keys` but the images, which may not fit in memory; see :meth:`take`.
        """
        spans = self.episodes_of(task)
        wanted = [key for key in self.keys if f"{IMAGES}." not in key] if keys is None else keys
        arrays = {key: self.read(key, task) for key in wanted}
        return {**arrays, "episode_ends": np.cumsum(spans[:, 1] - spans[:, 0], dtype=np.int64)}

    def fingerprint(self) -> str:
        """Return the sha256 of the contents: tasks, episodes and every value, whatever the chunks and the compression.

        Provenance and attempts do not count: they say where the values come from.
        """
        return fingerprint(self._index, {key: self._data[key] for key in self.keys})
