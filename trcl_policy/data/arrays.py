"""Arrays on disk that grow in place, and the lock that keeps a second writer out."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import zarr
from numcodecs import Blosc
from numpy.typing import NDArray

from trcl_policy.files import FileError, explained

ZARR_2 = zarr.__version__.startswith("2.")  # Python 3.10 has no zarr 3; the files are the same
CHUNK_BYTES = 2**19  # one chunk holds about this much before compression: few files, yet cheap to rewrite on append
FRAME_CHUNK_BYTES = 2**17  # of images: a window reads few frames at a time, anywhere, and decodes whole chunks
CHUNK_ROWS = 1024
LONG_CHUNK_ROWS = 4096  # for arrays with one small entry per episode


class BusyError(FileError):
    """Another process, or a store that was not closed, is appending to the folder."""


def acquire(path: Path) -> int:
    """Return a handle that holds the folder's lock until it is closed; raises BusyError when another process has it."""
    import fcntl

    with explained("append to", path):
        handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise BusyError(f"can't append to {path}: another process (or an unclosed store) is appending to it") from error
    return handle


def open_group(path: Path, mode: str) -> zarr.Group:
    """Open or make (mode "w") a group of zarr format 2, with the zarr library of either generation."""
    if ZARR_2:
        return zarr.open_group(str(path), mode=mode, zarr_version=2)
    return zarr.open_group(path, mode=mode, zarr_format=2)


def create(group: zarr.Group, name: str, rows: NDArray) -> zarr.Array:
    """Make an array that holds ``rows`` and can grow, in chunks of about CHUNK_BYTES, or FRAME_CHUNK_BYTES for images.

    Floats start as NaN and integers as -1, so that a lost chunk is noticed instead of being read as zeros.
    """
    row_bytes = max(1, rows.dtype.itemsize * int(np.prod(rows.shape[1:])))
    chunk_bytes = FRAME_CHUNK_BYTES if rows.ndim >= 3 else CHUNK_BYTES
    longest = LONG_CHUNK_ROWS if rows.dtype.kind == "i" else CHUNK_ROWS
    form = {
        "shape": rows.shape,
        "dtype": rows.dtype,
        "chunks": (max(1, min(longest, chunk_bytes // row_bytes)), *rows.shape[1:]),
        "fill_value": {"f": np.nan, "i": -1}.get(rows.dtype.kind, 0),
    }
    blosc = Blosc(cname="zstd", clevel=3, shuffle=Blosc.SHUFFLE)
    if ZARR_2:
        array = group.create_dataset(name, **form, compressor=blosc, write_empty_chunks=True)
    else:
        array = group.create_array(name, **form, compressors=blosc, config={"write_empty_chunks": True})
    if len(rows):
        array[:] = rows
    return array


def place(array: zarr.Array, start: int, rows: NDArray) -> None:
    """Put ``rows`` at row ``start`` of an array and make it end there, whatever stood behind ``start`` before."""
    resize(array, start + len(rows))
    array[start:] = rows


def resize(array: zarr.Array, rows: int) -> None:
    """Make an array ``rows`` long."""
    if array.shape[0] != rows:
        array.resize((rows, *array.shape[1:]))
