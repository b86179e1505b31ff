"""The episode store as one of the formats that data sets are converted from and to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trcl_policy.data.contents import Choices, Contents, Field
from trcl_policy.data.layout import STATE
from trcl_policy.data.store import EpisodeStore, StoredTask
from trcl_policy.files import read_json


class StoreSource:
    """An episode store that is read.

    Args:
        path: the store.
        choices: what the user says; only ``drop`` concerns it here.
    """

    losses: tuple[str, ...] = ()

    def __init__(self, path: Path, choices: Choices) -> None:
        self._store = EpisodeStore.open(path)
        spans = self._store.episodes_of()
        if not len(spans):
            raise ValueError(f"{path} must hold at least one episode, got none")
        self._starts, index = spans[:, 0], self._store.index
        stored = {key: self._store.read_from(key, 0, 0) for key in self._store.keys}
        self.contents = Contents(
            fields={key: Field(rows.dtype, rows.shape[1:]) for key, rows in stored.items() if key not in choices.drop},
            lengths=tuple((spans[:, 1] - spans[:, 0]).tolist()),
            tasks=tuple(index.tasks.tolist()),
            attempts=tuple(index.attempts.tolist()),
            names=index.names,
            frequencies=index.frequencies,
            provenance=dict(index.provenance),
        )

    def rows(self, key: str, episode: int, start: int, stop: int) -> NDArray:
        """Return rows [start, stop) of an episode; raises ValueError where they can't be decoded."""
        first = int(self._starts[episode])
        return self._store.read_from(key, first + start, first + stop)

    def close(self) -> None:
        """Release what is open."""
        self._store.close()


class StoreSink:
    """An episode store that is written.

    Args:
        folder: where it is made, or goes on being made.
        contents: what will be in it.
    """

    lossy: tuple[str, ...] = ()

    def __init__(self, folder: Path, contents: Contents) -> None:
        self._path, self._contents = folder / "store.zarr", contents
        if self._path.exists():
            self._store = EpisodeStore.open(self._path, "a")
        else:
            self._store = EpisodeStore.create(self._path, provenance=contents.provenance)
        for name, frequency in zip(contents.names, contents.frequencies, strict=True):
            self._store.add_task(StoredTask(name, frequency))

    @property
    def done(self) -> int:
        """Episodes that are whole."""
        return len(self._store)

    def append(self, episode: int, blocks: Iterator[Mapping[str, NDArray]]) -> None:
        """Write the next episode."""
        contents = self._contents
        self._store.append_blocks(contents.names[contents.tasks[episode]], blocks, contents.attempts[episode])

    def finish(self) -> Path:
        """Return the store's folder, closed."""
        self._store.close()
        return self._path

    def close(self) -> None:
        """Release the store's lock."""
        self._store.close()


def renamed(contents: Contents, choices: Choices) -> Contents:
    """Return the contents with the task names that the user asks for; raises ValueError where two become one."""
    unknown = sorted(set(choices.rename_tasks) - set(contents.names))
    if unknown:
        raise ValueError(f"rename-tasks must name tasks of the source, {list(contents.names)}, got {unknown[0]!r}")
    names = tuple(choices.rename_tasks.get(name, name) for name in contents.names)
    if len(set(names)) != len(names):
        raise ValueError(f"rename-tasks must keep names distinct, got {list(names)}")
    return replace(contents, names=names)


def is_store(path: Path) -> bool:
    """Return whether a folder looks like an episode store, not only like diffusion_policy's buffer."""
    file = path / ".zattrs"
    return (path / "data" / STATE).is_dir() and file.is_file() and "task_names" in read_json(file)


def episode_ends(contents: Contents) -> NDArray[np.int64]:
    """Return the row after each episode's last row, (E,)."""
    return np.cumsum(contents.lengths, dtype=np.int64)
