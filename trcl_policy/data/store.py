"""The episode store: demonstrations of several tasks in one zarr folder, in diffusion_policy's ReplayBuffer layout.

    data/observation.state (N, Do) float32      meta/episode_ends (E,) int64   row after each episode's last row
    data/action            (N, Da) float32      meta/task         (E,) int64   index into the attribute ``task_names``
    data/success           (N,)    bool         meta/attempt      (E,) int64   which seeded attempt it was, -1 unknown
    data/observation.images.<camera> (N, H, W, 3) uint8, where there are images; data/<anything else> (N, ...) as given

Written through the zarr 3 library as ``zarr_format=2``, so that readers built on zarr 2 open it too. An episode exists
from the moment its end is in ``meta/episode_ends``, the last thing written; whatever a killed process left beyond that
is ignored by readers and cut off by the next writer.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray

from trcl_policy.data.arrays import acquire, create, open_group, place, resize
from trcl_policy.data.episode import Episode, StoredTask, TaskFacts
from trcl_policy.data.layout import META, REQUIRED, Index, read_index
from trcl_policy.data.reading import StoredEpisodes
from trcl_policy.files import explained

__all__ = ["Episode", "EpisodeStore", "StoredTask", "TaskFacts"]


class EpisodeStore(StoredEpisodes):
    """Episodes of several tasks on disk; make one with :meth:`create` or :meth:`open`.

    One process at a time may hold a store open for appending (an advisory lock on the folder, released by
    :meth:`close`, by leaving a ``with`` block, or by the process's death). Readers need no lock: they see the episodes
    that were complete when they opened it.
    """

    def __init__(self, path: Path, group: zarr.Group, index: Index, lock: int | None) -> None:
        super().__init__(path, dict(group["data"].arrays()) if len(index.ends) else {}, index)
        self._group = group
        self._meta: dict[str, zarr.Array] = {}  # filled only for appending
        self._release = weakref.finalize(self, os.close, lock) if lock is not None else None

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        tasks: Iterable[TaskFacts] = (),
        provenance: Mapping[str, Any] | None = None,
    ) -> EpisodeStore:
        """Make an empty store and open it for appending; it appears whole or not at all.

        Raises:
            ValueError: something is at ``path`` already, or two tasks share a name.
            FileError: the folder can't be written.
        """
        path = Path(path)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ValueError(f"path must be new or an empty folder, got {path}, which exists")
        beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        with explained("write", path):
            try:
                group = open_group(beside, "w")
                group.attrs.update(task_names=[], control_frequency=[], provenance=dict(provenance or {}))
                group.create_group("data")
                for name in META:
                    create(group, f"meta/{name}", np.empty(0, np.int64))
                os.replace(beside, path)
            finally:
                shutil.rmtree(beside, ignore_errors=True)
        store = cls.open(path, "a")
        for task in tasks:
            store.add_task(task)
        return store

    @classmethod
    def open(cls, path: str | os.PathLike[str], mode: Literal["r", "a"] = "r") -> EpisodeStore:
        """Open a store for reading ("r") or also for appending ("a"), which cuts off what a killed writer left.

        Raises:
            ValueError: no episode store, or a damaged one; the line says what is wrong.
            FileError: nothing is there, the machine refuses, or (BusyError) another process appends to it.
        """
        if mode not in ("r", "a"):
            raise ValueError(f"mode must be 'r' or 'a', got {mode!r}")
        path = Path(path)
        lock = acquire(path) if mode == "a" else None
        try:
            with explained("read", path):
                os.listdir(path)
                group, index = read_index(path, "r+" if mode == "a" else "r")
            store = cls(path, group, index, lock)
        except BaseException:
            if lock is not None:
                os.close(lock)
            raise
        if mode == "a":
            store._cut_surplus()
        return store

    def close(self) -> None:
        """Release the lock of a store opened for appending; safe to call twice."""
        if self._release is not None:
            self._release()

    def __enter__(self) -> EpisodeStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add_task(self, task: TaskFacts) -> None:
        """List a task, so that episodes of it can be appended; a task already listed must have the same frequency.

        Raises:
            ValueError: the frequency is not > 0, or not that of the task already listed.
        """
        self._must_be_writable()
        frequency = float(task.control_frequency)
        if not 0 < frequency < float("inf"):
            raise ValueError(f"control_frequency must be > 0 [Hz], got {frequency}")
        if task.name in self.task_names:
            known = self.tasks[self._index.number(task.name)].control_frequency
            if known != frequency:
                raise ValueError(f"control_frequency of {task.name} must be {known} Hz as stored, got {frequency}")
            return
        self._set_index(self._index.with_task(task.name, frequency))

    def update_provenance(self, entries: Mapping[str, Any]) -> None:
        """Merge ``entries`` (JSON) into the top level of the provenance; raises ValueError for what JSON can't say."""
        self._must_be_writable()
        json.dumps(dict(entries), allow_nan=False)
        self._set_index(self._index.with_provenance({**self._index.provenance, **entries}))

    def append(self, episode: Episode) -> None:
        """Add one episode; see :meth:`extend`."""
        self.extend([episode])

    def extend(self, episodes: Sequence[Episode]) -> None:
        """Add episodes; after a crash at any moment the store holds each of them whole or not at all.

        Many at a time are faster than one by one: each call rewrites the last chunk of every array.

        Raises:
            ValueError: not a listed task, or arrays that do not fit the stored ones; nothing is added.
            FileError: the disk is full or the folder can't be written; nothing is added.
        """
        self._must_be_writable()
        if not episodes:
            return
        parts, index = [episode.arrays() for episode in episodes], self._index
        for episode in episodes:
            index = index.with_episode(index.number(episode.task), len(episode), episode.attempt)
        self._must_fit(parts)
        with self._whole_or_nothing():
            for key in parts[0]:
                self._place_data(key, self.num_rows, np.concatenate([part[key] for part in parts]))
            self._commit(index)

    def append_blocks(self, task: str, blocks: Iterable[Mapping[str, NDArray]], attempt: int = -1) -> int:
        """Add one episode that comes as blocks of rows, so that it never needs to be in memory as a whole.

        Args:
            task: name of a listed task.
            blocks: arrays (n, ...) by their names in the store, every block with the same names; types are kept.
            attempt: see :class:`Episode`.

        Returns:
            The episode's number of rows.

        Raises:
            ValueError: not a listed task, no row, or arrays that do not fit the stored ones; no episode is added.
            FileError: the disk is full or the folder can't be written; no episode is added.
        """
        self._must_be_writable()
        number, length = self._index.number(task), 0
        with self._whole_or_nothing():
            for block in blocks:
                sizes = {len(rows) for rows in block.values()}
                if len(sizes) != 1:
                    raise ValueError(f"arrays of a block must have equally many rows, got {sorted(sizes)}")
                self._must_fit([block])
                for key, rows in block.items():
                    self._place_data(key, self.num_rows + length, rows)
                length += sizes.pop()
            if not length:
                raise ValueError(f"blocks must hold at least one row, got none for an episode of {task}")
            self._commit(self._index.with_episode(number, length, attempt))
        return length

    @contextlib.contextmanager
    def _whole_or_nothing(self) -> Iterator[None]:
        """Remove what the block has put in place when it fails."""
        self._readers = {}
        with explained("write", self.path):
            try:
                yield
            except BaseException:
                with contextlib.suppress(OSError):
                    self._cut_surplus()
                raise

    def _commit(self, index: Index) -> None:
        """Make the new episodes of ``index`` exist, whose rows are in place."""
        for name, attribute in META.items():  # episode_ends comes last
            place(self._meta[name], len(self), getattr(index, attribute)[len(self) :])
        self._index = index

    def _place_data(self, key: str, start: int, rows: NDArray) -> None:
        if key not in self._data:
            self._data[key] = create(self._group, f"data/{key}", rows[:0])
        place(self._data[key], start, rows)

    def _must_fit(self, parts: Sequence[Mapping[str, NDArray]]) -> None:
        known = {key: (array.shape[1:], array.dtype) for key, array in self._data.items()}
        known = known or {key: (value.shape[1:], value.dtype) for key, value in parts[0].items()}
        missing = sorted(set(REQUIRED) - set(known))
        if missing:
            raise ValueError(f"keys of an episode must include {', '.join(REQUIRED)}, got none called {missing[0]}")
        for part in parts:
            if set(part) != set(known):
                raise ValueError(f"keys of an episode must be {sorted(known)} as stored, got {sorted(part)}")
            for key, value in part.items():
                shape, dtype = known[key]
                if value.shape[1:] != shape:
                    raise ValueError(f"{key} must have rows of shape {shape} as stored, got {value.shape[1:]}")
                if value.dtype != dtype:
                    raise ValueError(f"{key} must be of type {dtype} as stored, got {value.dtype}")

    def _must_be_writable(self) -> None:
        if self._release is None or not self._release.alive:
            raise ValueError(f"mode must be 'a' to change a store, got {self.path} opened for reading, or closed")

    def _set_index(self, index: Index) -> None:
        with explained("write", self.path):
            self._group.attrs.update(index.attributes())
        self._index = index

    def _cut_surplus(self) -> None:
        """Remove what a killed writer left: half-written files, rows and meta entries of no complete episode."""
        with explained("write", self.path):
            for partial in self.path.rglob("*.partial"):
                partial.unlink(missing_ok=True)
            if not len(self):
                for leftover in [entry for entry in (self.path / "data").iterdir() if entry.is_dir()]:
                    shutil.rmtree(leftover)
                self._data = {}
            for array in self._data.values():
                resize(array, self.num_rows)
            self._meta = dict(self._group["meta"].arrays())
            for name, attribute in META.items():
                if name not in self._meta:
                    self._meta[name] = create(self._group, f"meta/{name}", getattr(self._index, attribute))
                resize(self._meta[name], len(self))
