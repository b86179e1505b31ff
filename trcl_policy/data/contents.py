"""What every format can say of a data set: arrays by the episode store's names, episodes, and what else is known.

A :class:`Source` reads one format, a :class:`Sink` writes one, and each knows only this. Rows are handed over in
blocks, so that no data set needs to fit in memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trcl_policy.data.layout import ACTION, IMAGES, STATE, SUCCESS, is_image

BLOCK_BYTES = 2**24  # rows of all arrays that are in memory at a time, about
NEXT = "next."
Rows = Mapping[str, NDArray]


@dataclass(frozen=True)
class Field:
    """Type and row shape of an array."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Size of one row [bytes]."""
        return self.dtype.itemsize * int(np.prod(self.shape))

    @property
    def is_picture(self) -> bool:
        """Whether a row is a picture (H, W, 3) uint8."""
        return is_image(self.dtype, (0, *self.shape))

    def to_json(self) -> list[Any]:
        """Return ``[type, shape]``."""
        return [self.dtype.str.lstrip("<>|="), list(self.shape)]


@dataclass(frozen=True)
class Contents:
    """A data set without its rows.

    Attributes:
        fields: arrays by their names in the episode store.
        lengths: rows of each episode, >= 1.
        tasks: index into ``names`` of each episode.
        attempts: see ``Episode.attempt``.
        names: task names.
        frequencies: control frequency of each task [Hz].
        provenance: JSON that travels along, among it what a foreign format says beyond the above.
    """

    fields: Mapping[str, Field]
    lengths: tuple[int, ...]
    tasks: tuple[int, ...]
    attempts: tuple[int, ...]
    names: tuple[str, ...]
    frequencies: tuple[float, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check what every source must deliver; raises ValueError, one line."""
        missing = [key for key in (STATE, ACTION, SUCCESS) if key not in self.fields]
        if missing:
            raise ValueError(f"data must hold {STATE} and {ACTION}, got {', '.join(sorted(self.fields)) or 'nothing'}")
        for key, kind, axes in ((STATE, "f", 1), (ACTION, "f", 1), (SUCCESS, "b", 0)):
            found = self.fields[key]
            if found.dtype.kind != kind or len(found.shape) != axes:
                wanted = {"f": "rows of floating-point numbers", "b": "one truth value a row"}[kind]
                raise ValueError(f"{key} must hold {wanted}, got {found.dtype} of shape {found.shape}")
        for key, found in self.fields.items():
            if found.dtype.kind not in "biuf":
                raise ValueError(f"{key} must hold numbers, got values of type {found.dtype}")
        if not self.lengths or min(self.lengths) < 1:
            raise ValueError(f"every episode must have at least one row, got lengths {list(self.lengths)[:8]}")
        if any(not 0 < frequency < float("inf") for frequency in self.frequencies):
            raise ValueError(f"control frequency must be > 0 [Hz], got {list(self.frequencies)}")

    @property
    def pictures(self) -> tuple[str, ...]:
        """Names of the arrays that hold pictures."""
        return tuple(key for key, found in self.fields.items() if found.is_picture)

    def blocks(self, episode: int, read: Callable[[str, int, int, int], NDArray]) -> Iterator[dict[str, NDArray]]:
        """Yield an episode's rows by name in blocks of about BLOCK_BYTES, from ``read(key, episode, start, stop)``."""
        size = max(1, BLOCK_BYTES // max(1, sum(found.row_bytes for found in self.fields.values())))
        for start in range(0, self.lengths[episode], size):
            stop = min(start + size, self.lengths[episode])
            yield {key: read(key, episode, start, stop) for key in self.fields}


class Source(Protocol):
    """A data set that is read.

    ``losses`` names what the episode store has no place for, one line each.
    """

    contents: Contents
    losses: tuple[str, ...]

    def rows(self, key: str, episode: int, start: int, stop: int) -> NDArray:
        """Return rows [start, stop) of an episode; raises ValueError where they can't be read."""
        ...

    def close(self) -> None:
        """Release what is open."""
        ...


class Sink(Protocol):
    """A data set that is written, in a folder of its own until it is whole."""

    lossy: tuple[str, ...]  # arrays that do not come back bit for bit

    @property
    def done(self) -> int:
        """Episodes that are safe on disk, also after this process dies."""
        ...

    def append(self, episode: int, blocks: Iterator[Mapping[str, NDArray]]) -> None:
        """Write the next episode."""
        ...

    def finish(self) -> Path:
        """Complete the data set and return where it lies."""
        ...

    def close(self) -> None:
        """Release what is open."""
        ...


def checked(key: str, rows: NDArray, found: Field, where: str) -> NDArray:
    """Return rows that fit their field and, for states and actions, are finite; raises ValueError, one line."""
    if rows.dtype != found.dtype or rows.shape[1:] != found.shape:
        raise ValueError(
            f"{key} must have rows of {found.dtype} {found.shape} everywhere, got {rows.dtype} {rows.shape[1:]} {where}"
        )
    if key in (STATE, ACTION) and not np.isfinite(rows).all():
        raise ValueError(f"{key} must be finite, got NaN or infinity {where}")
    return rows


def fingerprint(source: Source, without: Sequence[str] = (), seen: Callable[[int], None] | None = None) -> str:
    """Return the fingerprint of the episode store with these contents, whatever the format they are in.

    Args:
        source: the data set.
        without: arrays that do not count.
        seen: called with the size of every block that was read [bytes].
    """
    contents, digest = source.contents, hashlib.sha256()
    head = [list(contents.names), list(contents.frequencies), len(contents.lengths)]
    digest.update(json.dumps(head).encode())
    digest.update(np.cumsum(contents.lengths).astype("<i8").tobytes() + np.array(contents.tasks, "<i8").tobytes())
    for key in sorted(set(contents.fields) - set(without)):
        digest.update(json.dumps([key, *contents.fields[key].to_json()]).encode())
        for rows in all_rows(source, key):
            digest.update(np.ascontiguousarray(rows, rows.dtype.newbyteorder("<")).tobytes())
            if seen is not None:
                seen(rows.nbytes)
    return digest.hexdigest()


def all_rows(source: Source, key: str) -> Iterator[NDArray]:
    """Yield every row of an array in blocks of about BLOCK_BYTES, episode by episode."""
    found = source.contents.fields[key]
    size = max(1, BLOCK_BYTES // max(1, found.row_bytes))
    for episode, length in enumerate(source.contents.lengths):
        for start in range(0, length, size):
            stop = min(start + size, length)
            yield checked(key, source.rows(key, episode, start, stop), found, f"in episode {episode}")


@dataclass(frozen=True)
class Choices:
    """What a user can say about a conversion; every format takes what concerns it.

    Attributes:
        observation_keys: observations that make up ``observation.state``, in this order; empty takes all vectors.
        keys: foreign name -> name in the store.
        drop: names in the store of arrays that are left out on purpose.
        task: task name where the source has none, or a single other one.
        rename_tasks: task as the source calls it -> name that is written.
        control_frequency: [Hz] where the source has none.
        mask: filter of a robomimic file; other episodes are left out.
        allow_loss: write although something is lost.
        video_quality: x264's rate factor of pictures in videos, 1 to 51; 0 keeps every value.
    """

    observation_keys: tuple[str, ...] = ()
    keys: Mapping[str, str] = field(default_factory=dict)
    drop: tuple[str, ...] = ()
    task: str | None = None
    rename_tasks: Mapping[str, str] = field(default_factory=dict)
    control_frequency: float | None = None
    mask: str | None = None
    allow_loss: bool = False
    video_quality: int = 0


def camera_key(camera: str) -> str:
    """Return the store's name of a camera's images."""
    return f"{IMAGES}.{camera}"


def single_task(choices: Choices, found: str, frequency: float | None, what: str) -> tuple[str, float]:
    """Return name and control frequency [Hz] of a data set's only task; raises ValueError where nothing says them."""
    hertz = choices.control_frequency if choices.control_frequency is not None else frequency
    if hertz is None:
        raise ValueError(f"control frequency must be given with --control-frequency HZ: {what} does not say it")
    return choices.task or found, float(hertz)


def invented_success(length: int, start: int, stop: int) -> NDArray[np.bool_]:
    """Return ``success`` of a demonstration whose format has none: solved after its last action."""
    return np.arange(start, stop) == length - 1


def json_document(contents: Contents, **more: Any) -> dict[str, Any]:
    """Return what a foreign format can't say itself and is put beside its data, so that the way back is exact."""
    return {
        "version": 1,
        "fields": {key: found.to_json() for key, found in contents.fields.items()},
        "task_names": list(contents.names),
        "control_frequency": list(contents.frequencies),
        "provenance": dict(contents.provenance),
        **more,
    }


def fields_of(document: Any, what: str) -> dict[str, Field]:
    """Return the fields of :func:`json_document`; raises ValueError when the document is damaged."""
    try:
        return {key: Field(np.dtype(kind), tuple(shape)) for key, (kind, shape) in document["fields"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ValueError(f"{what} must list the arrays and their types, got {str(document)[:60]}") from None
