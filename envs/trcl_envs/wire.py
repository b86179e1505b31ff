"""Messages between two Pythons over a pair of pipes: plain values and NumPy arrays, nothing that could run code.

A message is ``MAGIC``, two lengths (big endian, 4 and 8 bytes), a JSON header and the raw bytes of its arrays one after
another. The header holds ``value``, in which ``{"$array": i}`` stands for array i, and ``arrays`` with the
``[dtype, shape]`` of each.
"""

from __future__ import annotations

import json
import math
import os
import select
import struct
import time
from typing import Any

import numpy as np

PROTOCOL = 1
"""Grows with every change of what messages look like or mean; both ends must have the same."""
MAGIC = b"TRCL"
LENGTHS = struct.Struct(">IQ")
MOST_HEADER, MOST_BODY = 1 << 22, 1 << 31  # [bytes]
DTYPES = ("bool", "float32", "float64", "int64", "uint8")
CHUNK = 1 << 20  # [bytes]


class WireError(Exception):
    """Raised when no message comes or goes: the other side is gone, silent, or speaks another language."""


def pack(value: Any) -> bytes:
    """The bytes of a message: dictionaries, lists, texts, numbers, None and arrays of ``DTYPES``."""
    arrays: list[np.ndarray] = []
    header = json.dumps({"value": _lifted(value, arrays), "arrays": [[str(a.dtype), a.shape] for a in arrays]}).encode()
    body = b"".join(array.tobytes() for array in arrays)
    return MAGIC + LENGTHS.pack(len(header), len(body)) + header + body


def _lifted(value: Any, arrays: list[np.ndarray]) -> Any:
    """``value`` with its arrays moved into ``arrays``."""
    if isinstance(value, np.ndarray):
        if str(value.dtype) not in DTYPES:
            raise ValueError(f"an array must be one of {', '.join(DTYPES)} to be sent, got {value.dtype}")
        arrays.append(value)
        return {"$array": len(arrays) - 1}
    if isinstance(value, dict):
        return {key: _lifted(item, arrays) for key, item in value.items()}
    return [_lifted(item, arrays) for item in value] if isinstance(value, list | tuple) else value


def unpack(header: bytes, body: bytes) -> Any:
    """The value of a message.

    Raises:
        WireError: header and body do not fit.
    """
    try:
        document = json.loads(header)
        arrays, place = [], 0
        for dtype, shape in document["arrays"]:
            if dtype not in DTYPES or any(type(size) is not int or size < 0 for size in shape):
                raise ValueError(f"no array {dtype} {shape}")
            count = math.prod(shape)
            array = np.frombuffer(body, dtype, count, place) if count else np.empty(0, dtype)
            arrays.append(array.reshape(shape).copy())
            place += array.nbytes
        if place != len(body):
            raise ValueError(f"{len(body) - place} bytes too many")
        return _filled(document["value"], arrays)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise WireError(f"sent a damaged message ({' '.join(str(error).split())})") from None


def _filled(value: Any, arrays: list[np.ndarray]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"$array"}:
            return arrays[value["$array"]]
        return {key: _filled(item, arrays) for key, item in value.items()}
    return [_filled(item, arrays) for item in value] if isinstance(value, list) else value


class Channel:
    """One end of the pipes.

    Args:
        inbox: file descriptor to read from.
        outbox: file descriptor to write to.
    """

    def __init__(self, inbox: int, outbox: int) -> None:
        self._inbox, self._outbox = inbox, outbox

    def send(self, value: Any, timeout_s: float | None = None) -> None:
        """Send a message.

        Raises:
            WireError: the other side is gone, or takes nothing for ``timeout_s`` seconds (None: waits for ever).
        """
        rest, deadline = memoryview(pack(value)), _deadline(timeout_s)
        while rest:
            if not select.select([], [self._outbox], [], _left(deadline))[1]:
                raise WireError(f"took no message for {timeout_s:.0f} s")
            try:
                rest = rest[os.write(self._outbox, rest[:CHUNK]) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise WireError("ended") from error

    def receive(self, timeout_s: float | None = None) -> Any:
        """Wait for a message.

        Raises:
            WireError: the other side is gone, or nothing came for ``timeout_s`` seconds (None: waits for ever).
        """
        deadline = _deadline(timeout_s)
        start = self._read(len(MAGIC) + LENGTHS.size, deadline, timeout_s)
        header, body = LENGTHS.unpack(start[len(MAGIC) :])
        if start[: len(MAGIC)] != MAGIC or header > MOST_HEADER or body > MOST_BODY:
            raise WireError(f"sent something that is no message ({start!r})")
        return unpack(self._read(header, deadline, timeout_s), self._read(body, deadline, timeout_s))

    def _read(self, size: int, deadline: float | None, timeout_s: float | None) -> bytes:
        content = bytearray()
        while len(content) < size:
            if not select.select([self._inbox], [], [], _left(deadline))[0]:
                raise WireError(f"gave no answer for {timeout_s:.0f} s")
            part = os.read(self._inbox, min(CHUNK, size - len(content)))
            if not part:
                raise WireError("ended")
            content += part
        return bytes(content)


def _deadline(timeout_s: float | None) -> float | None:
    return None if timeout_s is None else time.monotonic() + timeout_s


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
