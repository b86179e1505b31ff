"""Files that appear whole or not at all, and one-line errors when the machine refuses.

A file is written beside its final name, flushed to the disk and renamed over it, so a process killed at any moment
leaves either the old file or the new one. The one exception is the line log: a line being appended when the process
dies may be torn, and :func:`read_jsonl` ignores it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


class FileError(OSError):
    """Raised when the machine refuses a file (full disk, no permission, not there); the message is one line."""


def reason(error: BaseException) -> str:
    """Return why the system refused, in its own words, such as ``no space left on device``."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    line = str(text).strip().splitlines()[0]
    return line[:1].lower() + line[1:]


@contextlib.contextmanager
def explained(action: str, path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn every OSError of the block into a FileError ``can't <action> <path>: <reason>``."""
    try:
        yield
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"can't {action} {path}: {reason(error)}") from error


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Hand out a name beside ``path`` to write to; when the block ends well, that file becomes ``path``.

    Missing parent folders are made. If the block raises, the half-written file is removed and ``path`` stays as it was.

    Raises:
        FileError: the disk is full, the folder can't be written, or the block wrote no file.
    """
    final = Path(path)
    beside = final.with_name(f".{final.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        with explained("write", final):
            final.parent.mkdir(parents=True, exist_ok=True)
            yield beside
            _flush_to_disk(beside)
            os.replace(beside, final)
            _flush_to_disk(final.parent)
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def _flush_to_disk(path: Path) -> None:
    """Make the contents of a file, or the names in a folder, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path`` atomically; raises FileError."""
    with replacing(path) as beside:
        beside.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8 to ``path`` atomically; raises FileError."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented JSON to ``path`` atomically, keys in their given order.

    numpy and torch numbers and arrays become plain numbers and lists.

    Raises:
        ValueError: a number is NaN or infinite, which JSON can't say.
        FileError: the machine refuses.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    """Return numbers and arrays of numpy and torch as Python's own."""
    try:
        return value.tolist()
    except AttributeError:
        raise TypeError(f"value must be JSON, numpy or torch, got {type(value).__name__}") from None


def read_text(path: str | os.PathLike[str]) -> str:
    """Return the UTF-8 text of ``path``; raises FileError when it can't be read, ValueError when it is not text."""
    with explained("read", path):
        data = Path(path).read_bytes()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be UTF-8 text, got bytes that are not at offset {error.start}") from error


def read_json(path: str | os.PathLike[str]) -> Any:
    """Return the JSON value of ``path``; raises FileError when it can't be read, ValueError when it is not JSON."""
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} must be JSON, got {error.msg} at line {error.lineno}") from error


def append_jsonl(path: str | os.PathLike[str], records: Iterable[Mapping[str, Any]]) -> None:
    """Append one JSON object a line in a single write, and wait until it is on the disk.

    A torn last line, left by a killed process, is cut first, so that it never ends up in the middle of the log. When
    the write itself fails (full disk), the file goes back to its former length.

    Raises:
        ValueError: a number is NaN or infinite.
        FileError: the machine refuses.
    """
    lines = [json.dumps(record, ensure_ascii=False, allow_nan=False, default=_plain) + "\n" for record in records]
    if not lines:
        return
    with explained("append to", path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        _mend_tail(Path(path))
        with open(path, "ab", buffering=0) as file:
            before = file.tell()
            try:
                _write_all(file.fileno(), "".join(lines).encode("utf-8"))
                os.fsync(file.fileno())
            except OSError:
                os.ftruncate(file.fileno(), before)
                raise


def _write_all(handle: int, data: bytes) -> None:
    """Write every byte; the system may take fewer at a time, for example when the disk is nearly full."""
    while data:
        data = data[os.write(handle, data) :]


def read_jsonl(path: str | os.PathLike[str], repair: bool = False) -> list[dict[str, Any]]:
    """Return the JSON objects of ``path`` in order, without a last line that was torn by a killed process.

    Args:
        path: the file.
        repair: also cut the torn line off the file.

    Raises:
        ValueError: a line other than the last is not a JSON object.
        FileError: the machine refuses.
    """
    with explained("read", path):
        if repair:
            _mend_tail(Path(path), must_exist=True)
        lines = Path(path).read_bytes().split(b"\n")
    last = lines.pop()  # what follows the last newline: empty, or torn
    records = [_parse_line(path, number, line) for number, line in enumerate(lines, start=1)]
    closing = _record(last)
    return records if closing is None else [*records, closing]


def _parse_line(path: str | os.PathLike[str], number: int, line: bytes) -> dict[str, Any]:
    record = _record(line)
    if record is None:
        raise ValueError(f"line {number} of {path} must be a JSON object, got {line[:40]!r}")
    return record


def _record(line: bytes) -> dict[str, Any] | None:
    """Return the JSON object that a line holds, or None if it holds none."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _mend_tail(path: Path, must_exist: bool = False) -> None:
    """Make the file end at a line's end: cut a torn last line, or close one that lacks only its newline."""
    if not path.exists() and not must_exist:
        return
    with open(path, "rb+") as file:
        tail = _last_line(file)
        if not tail:
            return
        if _record(tail) is None:
            file.truncate(file.seek(0, os.SEEK_END) - len(tail))
        else:
            file.seek(0, os.SEEK_END)
            file.write(b"\n")
        file.flush()
        os.fsync(file.fileno())


def _last_line(file: Any, block: int = 65536) -> bytes:
    """Return what follows the last newline, reading backwards so that long logs cost nothing."""
    position, tail = file.seek(0, os.SEEK_END), b""
    while position and b"\n" not in tail:
        step = min(block, position)
        position = file.seek(position - step)
        tail = file.read(step) + tail
    return tail.rpartition(b"\n")[2]


def write_safetensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write named tensors to ``path`` atomically; raises FileError, and ValueError for what safetensors can't hold.

    Tensors may sit on any device, need not be contiguous, and may share memory: each is stored in full.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    with replacing(path) as beside:
        try:
            save_file(plain, beside, metadata=dict(metadata or {}))
        except SafetensorError as error:
            raise FileError(f"can't write {path}: {_safetensors_reason(error)}") from error


def _safetensors_reason(error: Exception) -> str:
    """Return the system's reason out of safetensors' ``... (os error 28)``."""
    number = re.search(r"os error (\d+)", str(error))
    return reason(OSError(int(number[1]), os.strerror(int(number[1])))) if number else reason(error)


def read_safetensors(path: str | os.PathLike[str], device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of ``path`` by name, and its metadata.

    Raises:
        ValueError: the file is damaged or not a safetensors file.
        FileError: it can't be read.
    """
    from safetensors import SafetensorError, safe_open

    with explained("read", path):
        Path(path).open("rb").close()  # safetensors reports a missing file without its reason
    try:
        with safe_open(path, framework="pt", device=device) as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} must be a whole safetensors file, got a damaged one ({reason(error)})") from error
