"""What an episode store must look like on disk, and the one clear line when it does not."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray

from trcl_policy.data.arrays import open_group
from trcl_policy.data.rows import check_folder

STATE, ACTION, SUCCESS, IMAGES = "observation.state", "action", "success", "observation.images"
# arrays under meta/ and their attribute of Index, in the order in which they are written: the end commits an episode
META = {"attempt": "attempts", "task": "tasks", "episode_ends": "ends"}
REQUIRED = {STATE: "f", ACTION: "f", SUCCESS: "b"}


@dataclass(frozen=True)
class Index:
    """All of a store but its data arrays.

    Attributes:
        ends: (E,) int64, the row after each episode's last row, increasing.
        tasks: (E,) int64, index into ``names``.
        attempts: (E,) int64, which seeded attempt each episode was, -1 unknown.
        names: task names.
        frequencies: control frequency of each task [Hz].
        provenance: JSON.
    """

    ends: NDArray[np.int64]
    tasks: NDArray[np.int64]
    attempts: NDArray[np.int64]
    names: tuple[str, ...]
    frequencies: tuple[float, ...]
    provenance: Mapping[str, Any]

    def number(self, task: str) -> int:
        """Return the index of a task; raises ValueError when the store does not list it."""
        if task not in self.names:
            raise ValueError(f"task must be one of {list(self.names)}, got {task!r}")
        return self.names.index(task)

    def with_episode(self, task: int, length: int, attempt: int) -> Index:
        """Return the index after one more episode of ``length`` rows."""
        end = (int(self.ends[-1]) if len(self.ends) else 0) + length
        return replace(
            self,
            ends=np.append(self.ends, np.int64(end)),
            tasks=np.append(self.tasks, np.int64(task)),
            attempts=np.append(self.attempts, np.int64(attempt)),
        )

    def with_task(self, name: str, frequency: float) -> Index:
        """Return the index with one more task."""
        return replace(self, names=(*self.names, name), frequencies=(*self.frequencies, frequency))

    def with_provenance(self, provenance: Mapping[str, Any]) -> Index:
        """Return the index with this provenance."""
        return replace(self, provenance=dict(provenance))

    def attributes(self) -> dict[str, Any]:
        """Return the store's zarr attributes."""
        names, frequencies = list(self.names), list(self.frequencies)
        return {"task_names": names, "control_frequency": frequencies, "provenance": dict(self.provenance)}


def read_index(path: Path, mode: Literal["r", "r+"]) -> tuple[zarr.Group, Index]:
    """Return a store's zarr group and its index, checked against the layout.

    Rows and meta entries beyond the last complete episode are what a killed writer leaves, and no fault.

    Raises:
        ValueError: no store, or a damaged one; the line names the array, what is wrong with it, and the store.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # zarr warns of the half-written files of a killed writer
        try:
            check_folder(path)
            group = _open(path, mode)
            return group, _checked(group)
        except ValueError as error:
            raise ValueError(f"{str(error).splitlines()[0]} (episode store {path})") from error


def _checked(group: zarr.Group) -> Index:
    """Return the index of a group after checking every array against it."""
    ends = _meta(group, "episode_ends")
    while len(ends) and ends[-1] == -1:  # grown, but the writer was killed before it put the values in
        ends = ends[:-1]
    _must(
        not len(ends) or (ends[0] > 0 and (np.diff(ends) > 0).all()), "meta/episode_ends must rise from above 0", ends
    )
    tasks = _meta(group, "task")
    attempts = _meta(group, "attempt") if "attempt" in group["meta"] else np.full(len(ends), -1, np.int64)
    for name, values in (("task", tasks), ("attempt", attempts)):
        _must(len(values) >= len(ends), f"meta/{name} must have an entry for each of {len(ends)} episodes", len(values))
    names, frequencies, provenance = _attributes(group)
    tasks, attempts = tasks[: len(ends)], attempts[: len(ends)]
    unknown = tasks[(tasks < 0) | (tasks >= len(names))]
    _must(not len(unknown), f"meta/task must lie in 0..{len(names) - 1}", unknown)
    if len(ends):
        _check_data(group, int(ends[-1]))
    return Index(ends, tasks, attempts, names, frequencies, provenance)


def read_rows(array: zarr.Array, start: int, stop: int) -> NDArray:
    """Return rows [start, stop) of an array; raises ValueError when the stored bytes can't be decoded."""
    try:
        return np.asarray(array[start:stop])
    except (ValueError, RuntimeError, TypeError) as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"{array.path} must be whole, got bytes that can't be decoded: {why}") from error


def fingerprint(index: Index, arrays: Mapping[str, zarr.Array]) -> str:
    """Return the sha256 of tasks, episodes and every value of ``arrays``, whatever their chunks and compression."""
    digest, num_rows = hashlib.sha256(), int(index.ends[-1]) if len(index.ends) else 0
    digest.update(json.dumps([index.names, index.frequencies, len(index.ends)]).encode())
    digest.update(index.ends.astype("<i8").tobytes() + index.tasks.astype("<i8").tobytes())
    for key, array in arrays.items():
        digest.update(json.dumps([key, array.dtype.str.lstrip("<>|="), array.shape[1:]]).encode())
        step = 65536 if array.ndim < 3 else 1024
        for start in range(0, num_rows, step):
            rows = read_rows(array, start, min(start + step, num_rows))
            digest.update(np.ascontiguousarray(rows, rows.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def _open(path: Path, mode: Literal["r", "r+"]) -> zarr.Group:
    """Return the zarr group with its two subgroups."""
    try:
        group = open_group(path, mode)
        subgroups = dict(group.groups())
        for subgroup in subgroups.values():
            dict(subgroup.arrays())  # reads every array's description
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:  # zarr's own "group not found" is the first
        raise ValueError(f"folder must be a zarr group of format 2, got {type(error).__name__}: {error}") from error
    missing = sorted({"data", "meta"} - set(subgroups))
    _must(not missing, "groups must include data and meta", f"none called {', '.join(missing)}")
    return group


def _meta(group: zarr.Group, name: str) -> NDArray[np.int64]:
    """Return one array of ``meta/``, a vector of integers."""
    _must(name in group["meta"], f"meta/{name} must be there", "no such array")
    array = group["meta"][name]
    _must(array.ndim == 1 and array.dtype.kind in "iu", f"meta/{name} must be a vector of integers", array)
    return read_rows(array, 0, array.shape[0]).astype(np.int64)


def _attributes(group: zarr.Group) -> tuple[tuple[str, ...], tuple[float, ...], dict[str, Any]]:
    """Return task names, control frequencies [Hz] and provenance."""
    attributes = group.attrs.asdict()
    names, frequencies = attributes.get("task_names"), attributes.get("control_frequency")
    for name, value, kind in (("task_names", names, str), ("control_frequency", frequencies, (int, float))):
        fits = isinstance(value, list) and all(isinstance(entry, kind) for entry in value)
        _must(fits, f"attribute {name} must be a list with one entry per task", value)
    matches = len(names) == len(frequencies)
    _must(matches, f"attribute control_frequency must have {len(names)} entries", frequencies)
    return tuple(names), tuple(float(f) for f in frequencies), dict(attributes.get("provenance", {}))


def _check_data(group: zarr.Group, num_rows: int) -> None:
    """Check that the arrays of ``data/`` are there, long enough and of the right kind, and that actions are finite."""
    arrays = dict(group["data"].arrays())
    missing = sorted(set(REQUIRED) - set(arrays))
    _must(not missing, f"data must hold {', '.join(REQUIRED)}", f"none called {', '.join(missing)}")
    for key, array in arrays.items():
        _must(array.shape[0] >= num_rows, f"data/{key} must have {num_rows} rows", array.shape[0])
        kind = REQUIRED.get(key, array.dtype.kind)
        _must(array.dtype.kind == kind, f"data/{key} must be of kind {kind!r}", array.dtype)
        if key.startswith(f"{IMAGES}."):
            _must(is_image(array.dtype, array.shape), f"data/{key} must be (rows, H, W, 3) uint8", array)
    for key in (STATE, ACTION):
        _must(arrays[key].ndim == 2, f"data/{key} must be of shape (rows, dimension)", arrays[key].shape)
    broken = ~np.isfinite(read_rows(arrays[ACTION], 0, num_rows)).all(axis=1)
    _must(not broken.any(), "data/action must be finite", f"NaN or infinity in {broken.sum()} rows")


def is_image(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bool:
    """Return whether an array holds pictures (N, H, W, 3) uint8."""
    return len(shape) == 4 and shape[3] == 3 and dtype == np.uint8


def _must(holds: Any, rule: str, got: Any) -> None:
    """Raise one line that names the rule, what came."""
    if not holds:
        text = " ".join(str(got).split())
        raise ValueError(f"{rule}, got {text if len(text) <= 80 else text[:77] + '...'}")
