"""HDF5 files of demonstrations, opened and walked safely. The one file that imports h5py."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trcl_policy.files import explained

MAX_EXPANSION = 2000  # declared bytes per stored byte: gzip reaches 1032 at most, so more is damage or harm
FREE_BYTES = 2**20  # below this any expansion is fine


def open_hdf5(path: Path, mode: str = "r") -> Any:
    """Return an open file, "r" or "w"; raises ValueError for one that is truncated or no HDF5, FileError otherwise."""
    import h5py

    with explained("write" if mode == "w" else "read", path):
        if mode == "w":
            return h5py.File(path, "w", libver=("v110", "v110"))  # attributes beyond 64 KB need it
        path.open("rb").close()  # a missing file in the system's words
        try:
            return h5py.File(path, "r", rdcc_nbytes=0)  # else every open array keeps 1 MB of its last chunks
        except OSError as error:
            why = str(error).splitlines()[0]
            raise ValueError(f"{path} must be a whole HDF5 file, got one that can't be opened: {why}") from None


def group(parent: Any, name: str) -> Any:
    """Return a group of the file; raises ValueError when it is not there, or damaged."""
    import h5py

    try:
        found = parent.get(name)
    except (RuntimeError, KeyError, OSError) as error:
        raise ValueError(f"{name} must be a whole group, got {_line(error)} ({parent.file.filename})") from None
    if not isinstance(found, h5py.Group):
        raise ValueError(f"{name} must be there and be a group, got {_kind(found)} ({parent.file.filename})")
    return found


def arrays(parent: Any, prefix: str = "") -> tuple[dict[str, Any], list[str]]:
    """Return all arrays of numbers below a group by path, and the paths of what is neither such an array nor a group.

    Raises:
        ValueError: a link out of the file, an array whose values lie elsewhere, or one that claims to be far larger
            than what is stored.
    """
    import h5py

    found: dict[str, Any] = {}
    other: list[str] = []
    for name in _names(parent):
        where = f"{prefix}{name}"
        if not isinstance(parent.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{parent.name}/{name} must lie in the file itself, got a link ({parent.file.filename})")
        item = _item(parent, name)
        if isinstance(item, h5py.Group):
            inner, rest = arrays(item, f"{where}/")
            found, other = found | inner, other + rest
        elif isinstance(item, h5py.Dataset) and item.dtype.kind in "biuf" and item.ndim:
            _check_size(item)
            found[where] = item
        else:
            other.append(where)
    return found, other


def _names(parent: Any) -> list[str]:
    try:
        return sorted(parent.keys())
    except (RuntimeError, OSError) as error:
        raise ValueError(f"{parent.name} must be a whole group, got {_line(error)} ({parent.file.filename})") from None


def _item(parent: Any, name: str) -> Any:
    try:
        return parent[name]
    except (RuntimeError, KeyError, OSError) as error:
        raise ValueError(f"{parent.name}/{name} must be whole, got {_line(error)} ({parent.file.filename})") from None


def _check_size(item: Any) -> None:
    """Check that an array's values lie in the file, and are about as many as it claims."""
    if item.is_virtual or item.external:
        raise ValueError(f"{item.name} must lie in the file itself, got values elsewhere ({item.file.filename})")
    declared, stored = item.size * item.dtype.itemsize, item.id.get_storage_size()
    if declared > FREE_BYTES and declared > MAX_EXPANSION * stored:
        raise ValueError(
            f"{item.name} must hold its values, got {stored} bytes for {declared} that it claims ({item.file.filename})"
        )


def read(item: Any, start: int, stop: int) -> NDArray:
    """Return rows [start, stop) of an array in the machine's byte order; raises ValueError when they are damaged."""
    try:
        rows = np.asarray(item[start:stop])
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"{item.name} must be whole, got {_line(error)} ({item.file.filename})") from None
    return rows.astype(rows.dtype.newbyteorder("="), copy=False)


def text(value: Any) -> str:
    """Return the text of an attribute or a scalar string."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def read_json(value: Any, what: str) -> dict[str, Any]:
    """Return the JSON object that a string holds; raises ValueError where it holds none."""
    try:
        document = json.loads(text(value))
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise ValueError(f"{what} must be a JSON object, got {text(value)[:40]!r}")
    return document


def attributes(item: Any) -> dict[str, Any]:
    """Return an object's attributes as JSON; raises ValueError when one can't be read."""
    try:
        return {name: _plain(value) for name, value in item.attrs.items()}
    except (OSError, RuntimeError, TypeError) as error:
        where = f"{item.name} ({item.file.filename})"
        raise ValueError(f"attributes must be whole, got {_line(error)} at {where}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return text(value)
    if isinstance(value, (np.ndarray, np.generic)):
        plain = value.tolist()
        return [text(entry) for entry in plain] if isinstance(plain, list) and value.dtype.kind in "SO" else plain
    return value


def strings(item: Any) -> list[str]:
    """Return the strings of a vector, such as a robomimic mask."""
    return [text(entry) for entry in item[()]]


def write_strings(parent: Any, name: str, values: list[str]) -> None:
    """Write a vector of strings as robomimic does, in bytes of equal length."""
    parent.create_dataset(name, data=np.array(values, dtype="S"))


def make_array(parent: Any, name: str, num_rows: int, like: NDArray) -> Any:
    """Make an array of ``num_rows`` rows like those of ``like``; pictures are compressed one by one."""
    shape = (num_rows, *like.shape[1:])
    if like.ndim < 3:
        return parent.create_dataset(name, shape, like.dtype)
    packed = {"chunks": (1, *shape[1:]), "compression": "gzip", "compression_opts": 1}
    return parent.create_dataset(name, shape, like.dtype, **packed)


def write_scalar(parent: Any, name: str, document: Mapping[str, Any]) -> None:
    """Write a JSON document as one string of the file."""
    parent.create_dataset(name, data=json.dumps(document, allow_nan=False))


def is_array(item: Any) -> bool:
    """Return whether something in the file is an array, of any type."""
    import h5py

    return isinstance(item, h5py.Dataset)


def flush(file: Any) -> None:
    """Close a written file with its contents on the disk."""
    path = file.filename
    file.close()
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _line(error: BaseException) -> str:
    return str(error).splitlines()[0]


def _kind(item: Any) -> str:
    return "nothing" if item is None else type(item).__name__.lower()
