"""Zip files of zarr arrays, read without trusting them."""

from __future__ import annotations

import json
import os
import stat
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import zarr

from trcl_policy.files import explained

MAX_EXPANSION = 1000  # deflate reaches 1032: an entry near it holds nothing but repetition
FREE_BYTES = 2**20  # below this any expansion is fine
MAX_DESCRIPTION_BYTES = 2**24


def check_archive(path: Path) -> dict[str, Any]:
    """Return the descriptions of a zip's arrays by name, after checking every entry.

    Raises:
        ValueError: not a whole zip; entries that lead out of it, are links, come twice, or unpack to far more than they
            take; one line.
        FileError: can't be read.
    """
    found: dict[str, Any] = {}
    with explained("read", path):
        try:
            with zipfile.ZipFile(path) as archive:
                seen: set[str] = set()
                for entry in archive.infolist():
                    _check_entry(entry, seen, path)
                    if PurePosixPath(entry.filename).name == ".zarray":
                        found[str(PurePosixPath(entry.filename).parent)] = _description(archive, entry, path)
        except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
            raise ValueError(f"{path} must be a whole zip file, got one that can't be read: {error}") from None
    return found


def _check_entry(entry: zipfile.ZipInfo, seen: set[str], path: Path) -> None:
    name = entry.filename
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if name.startswith(("/", "\\")) or ".." in parts or (parts and parts[0].endswith(":")):
        raise ValueError(f"entries must stay inside the archive, got {name!r} in {path}")
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise ValueError(f"entries must be files, got the link {name!r} in {path}")
    if name in seen:
        raise ValueError(f"entries must have names of their own, got {name!r} twice in {path}")
    if entry.flag_bits & 1:
        raise ValueError(f"entries must not be encrypted, got {name!r} in {path}")
    seen.add(name)
    if entry.file_size > FREE_BYTES and entry.file_size > MAX_EXPANSION * max(entry.compress_size, 1):
        raise ValueError(
            f"entries must hold what they claim, got {name!r} with {entry.file_size} bytes "
            f"from {entry.compress_size} in {path}"
        )


def _description(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> Any:
    if entry.file_size > MAX_DESCRIPTION_BYTES:
        raise ValueError(f"{entry.filename} must be a short description, got {entry.file_size} bytes in {path}")
    try:
        return json.loads(archive.read(entry))
    except ValueError:
        raise ValueError(f"{entry.filename} must be JSON, got something else in {path}") from None


def open_zip(path: Path) -> tuple[Any, zarr.Group]:
    """Return a zip's store, to be closed, and its zarr group; check it with :func:`check_archive` first."""
    store = zarr.storage.ZipStore(str(path), mode="r")
    try:
        return store, zarr.open_group(store, mode="r")
    except (KeyError, FileNotFoundError, ValueError) as error:
        store.close()
        raise ValueError(f"{path} must hold a zarr group, got {str(error).splitlines()[0]}") from None


def pack(folder: Path, path: Path) -> Path:
    """Put a folder's files into a zip, uncompressed as they are already, and return it; names come in order."""
    beside = path.with_suffix(".tmp")
    with explained("write", path), zipfile.ZipFile(beside, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for file in sorted(entry for entry in folder.rglob("*") if entry.is_file()):
            archive.write(file, file.relative_to(folder).as_posix())
    os.replace(beside, path)
    return path
