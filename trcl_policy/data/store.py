"""The episode store: demonstrations of several tasks in one zarr folder, in diffusion_policy's ReplayBuffer layout.

    data/observation.state (N, Do) float32      meta/episode_ends (E,) int64   row after each episode's last row
    data/action            (N, Da) float32      meta/task         (E,) int64   index into the attribute ``task_names``
    data/success           (N,)    bool         meta/attempt      (E,) int64   which seeded attempt it was, -1 unknown
    data/observation.images.<camera> (N, H, W, 3) uint8, where there are images

Written through the zarr 3 library as ``zarr_format=2``, so that readers built on zarr 2 open it too. An episode exists
from the moment its end is in ``meta/episode_ends``, the last thing written; whatever a killed process left beyond that
is ignored by readers and cut off by the next writer.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray

from trcl_policy.data.arrays import acquire, create, open_group, place, resize
from trcl_policy.data.episode import Episode, StoredTask, TaskFacts
from trcl_policy.data.layout import META, Index, read_index, read_rows
from trcl_policy.files import explained

__all__ = ["Episode", "EpisodeStore", "StoredTask", "TaskFacts"]


class EpisodeStore:
    """Episodes of several tasks on disk; make one with :meth:`create` or :meth:`open`.

    One process at a time may hold a store open for appending (an advisory lock on the folder, released by
    :meth:`close`, by leaving a ``with`` block, or by the process's death). Readers need no lock: they see the episodes
    that were complete when they opened it.
    """

    def __init__(self, path: Path, group: zarr.Group, index: Index, lock: int | None) -> None:
        self.path = path
        self._group = group
        self._data = dict(group["data"].arrays()) if len(index.ends) else {}
        self._meta: dict[str, zarr.Array] = {}  # filled only for appending
        self._index = index
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
            FileError: nothing is there, the machine refuses, or another process appends to it.
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

    def arrays(self, task: str) -> dict[str, NDArray]:
        """Return a task's data: each of :attr:`keys`, (n, ...), and ``episode_ends`` (e,) within these rows."""
        spans = self.episodes_of(task)
        arrays = {key: self.read(key, task) for key in self.keys}
        return {**arrays, "episode_ends": np.cumsum(spans[:, 1] - spans[:, 0], dtype=np.int64)}

    def fingerprint(self) -> str:
        """Return the sha256 of the contents: tasks, episodes and every value, whatever the chunks and the compression.

        Provenance and attempts do not count: they say where the values come from.
        """
        index, digest = self._index, hashlib.sha256()
        digest.update(json.dumps([index.names, index.frequencies, len(self)]).encode())
        digest.update(index.ends.astype("<i8").tobytes() + index.tasks.astype("<i8").tobytes())
        for key in self.keys:
            block = read_rows(self._data[key], 0, 0)
            digest.update(json.dumps([key, block.dtype.str.lstrip("<>|="), block.shape[1:]]).encode())
            for start in range(0, self.num_rows, 65536 if block.ndim < 3 else 1024):
                stop = min(start + (65536 if block.ndim < 3 else 1024), self.num_rows)
                rows = read_rows(self._data[key], start, stop)
                digest.update(np.ascontiguousarray(rows, rows.dtype.newbyteorder("<")).tobytes())
        return digest.hexdigest()

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
        with explained("write", self.path):
            for key in parts[0]:
                self._place_data(key, np.concatenate([part[key] for part in parts]))
            for name, attribute in META.items():  # episode_ends comes last: it makes the episodes exist
                place(self._meta[name], len(self), getattr(index, attribute)[len(self) :])
        self._index = index

    def _place_data(self, key: str, rows: NDArray) -> None:
        if key not in self._data:
            self._data[key] = create(self._group, f"data/{key}", rows[:0])
        place(self._data[key], self.num_rows, rows)

    def _must_fit(self, parts: Sequence[Mapping[str, NDArray]]) -> None:
        known = {key: self._data[key].shape[1:] for key in self.keys}
        known = known or {key: value.shape[1:] for key, value in parts[0].items()}
        for part in parts:
            if set(part) != set(known):
                raise ValueError(f"keys of an episode must be {sorted(known)} as stored, got {sorted(part)}")
            for key, value in part.items():
                if value.shape[1:] != known[key]:
                    raise ValueError(f"{key} must have rows of shape {known[key]} as stored, got {value.shape[1:]}")

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
