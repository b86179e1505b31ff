"""Rows of a stored array at random: chunks are decoded one by one, and those read last stay in memory."""

from __future__ import annotations

import json
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import zarr
from numpy.typing import NDArray

from trcl_policy.files import explained

COMPRESSORS = ("blosc", "zlib", "gzip", "zstd", "lz4", "bz2", "lzma", "crc32", "crc32c", "adler32")
FILTERS = ("delta", "shuffle", "fixedscaleoffset", "quantize", "packbits", "astype", "zlib", "zstd")
MAX_CHUNK_BYTES = 2**30  # a chunk is decoded whole: a description that claims more is damaged, or meant to do harm


def check_description(name: str, description: Any) -> None:
    """Check a ``.zarray`` document before any chunk is decoded.

    numcodecs would also decode pickles, which run what a file contains; only numbers and plain compressors pass.

    Raises:
        ValueError: another codec, values that are no numbers, or a chunk that would not fit in memory; one line.
    """
    if not isinstance(description, dict) or not isinstance(description.get("chunks"), list):
        raise ValueError(f"{name} must be described by a .zarray of format 2, got {str(description)[:60]}")
    codecs: list[tuple[Any, tuple[str, ...]]] = [(description.get("compressor"), COMPRESSORS)]
    codecs += [(entry, FILTERS) for entry in description.get("filters") or ()]
    for codec, accepted in codecs:
        kind = codec.get("id") if isinstance(codec, dict) else codec
        if kind is not None and kind not in accepted:
            raise ValueError(f"{name} must be compressed by one of {', '.join(accepted)}, got {kind}")
    dtype = _dtype(name, description.get("dtype"))
    size = dtype.itemsize
    for length in description["chunks"]:
        size *= int(length)
    if not 0 < size <= MAX_CHUNK_BYTES:
        raise ValueError(f"{name} must have chunks of 1 to {MAX_CHUNK_BYTES} bytes, got {size}")


def _dtype(name: str, text: Any) -> np.dtype[Any]:
    """Return the type of an array's values; raises ValueError where they are no numbers."""
    try:
        dtype = np.dtype(text)
    except (TypeError, ValueError):
        dtype = np.dtype("O")
    if not isinstance(text, str) or dtype.kind not in "biuf":
        raise ValueError(f"{name} must hold numbers, got values of type {text}")
    return dtype


def check_folder(path: Path) -> None:
    """Check the description of every array in the groups of a folder of zarr format 2; raises ValueError, one line."""
    for file in sorted(path.glob("*/*/.zarray")):
        name = file.parent.relative_to(path).as_posix()
        with explained("read", file):
            text = file.read_bytes()
        try:
            description = json.loads(text)
        except ValueError as error:
            raise ValueError(f"folder must be a zarr group of format 2, got JSONDecodeError: {error}") from None
        check_description(name, description)


class RowReader:
    """Rows of one array of a zarr folder, in any order and with repetitions.

    Chunks that span whole rows, which is what the store writes, are read from their files directly: several times
    faster than slices through the zarr library. Others go through the library.

    Args:
        array: the array, described by a checked ``.zarray``.
        folder: where its chunks lie.
        cache_bytes: decoded chunks kept in memory [bytes]; at least one stays.
    """

    def __init__(self, array: zarr.Array, folder: Path, cache_bytes: int) -> None:
        self._array, self._folder, self._cache_bytes = array, folder, cache_bytes
        self._cache: OrderedDict[int, NDArray] = OrderedDict()
        description = json.loads((folder / ".zarray").read_text())
        self._dtype, self._chunk = np.dtype(description["dtype"]), tuple(description["chunks"])
        plain = not description.get("filters") and description.get("order") == "C"
        self._direct = plain and self._chunk[1:] == array.shape[1:]
        self._end = description.get("dimension_separator", ".").join(["", *["0"] * (len(self._chunk) - 1)])
        codec = description.get("compressor")
        self._codec = numcodecs.get_codec(codec) if codec else None
        self._fits = max(1, cache_bytes // max(1, self._dtype.itemsize * int(np.prod(self._chunk))))

    def take(self, rows: NDArray[np.int64], num_rows: int) -> NDArray:
        """Return rows (B,) -> (B, ...); raises ValueError for rows beyond ``num_rows`` and for damaged chunks."""
        if len(rows) and not (rows.min() >= 0 and rows.max() < num_rows):
            raise ValueError(f"rows must lie in 0..{num_rows - 1}, got {rows.min()} to {rows.max()}")
        out = np.empty((len(rows), *self._array.shape[1:]), self._dtype.newbyteorder("="))
        chunks, offsets = np.divmod(rows, self._chunk[0])
        order = np.argsort(chunks, kind="stable")
        borders = np.flatnonzero(np.diff(chunks[order])) + 1
        for places in np.split(order, borders) if len(order) else ():
            out[places] = self._decoded(int(chunks[places[0]]))[offsets[places]]
        return out

    def _decoded(self, number: int) -> NDArray:
        """Return one chunk, from memory or from its file."""
        if number in self._cache:
            self._cache.move_to_end(number)
            return self._cache[number]
        chunk = self._from_file(number) if self._direct else self._from_library(number)
        while len(self._cache) >= self._fits:
            self._cache.popitem(last=False)
        self._cache[number] = chunk
        return chunk

    def _from_file(self, number: int) -> NDArray:
        path = self._folder / f"{number}{self._end}"
        with explained("read", path):
            stored = path.read_bytes()
        size = self._dtype.itemsize * int(np.prod(self._chunk))
        try:
            _check_stored(stored, size, isinstance(self._codec, numcodecs.Blosc))
            raw = stored if self._codec is None else self._codec.decode(stored)
            return np.frombuffer(raw, self._dtype).reshape(self._chunk)
        except (ValueError, RuntimeError, TypeError) as error:
            raise ValueError(f"{path} must be a whole chunk, got bytes that can't be decoded: {error}") from None

    def _from_library(self, number: int) -> NDArray:
        start = number * self._chunk[0]
        return np.asarray(self._array[start : start + self._chunk[0]])


def _check_stored(stored: bytes, size: int, is_blosc: bool) -> None:
    """Check the length of a stored chunk that decodes to ``size`` bytes; blosc itself trusts what its header claims."""
    if len(stored) > size + 2**12:
        raise ValueError(f"{len(stored)} bytes where {size + 2**12} are the most")
    if is_blosc:
        decoded, _, encoded = struct.unpack("<III", stored[4:16].ljust(12, b"\0"))
        if (decoded, encoded) != (size, len(stored)):
            raise ValueError(f"{len(stored)} bytes whose header claims {encoded} that decode to {decoded}, not {size}")
