"""Readers of binary files that hold nothing but numbers: IDX (MNIST), the binary version of CIFAR, npz and zarr."""

from __future__ import annotations

import gzip
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trcl_policy.files import explained, read_text
from trcl_policy.images.labelled import COLOURS, Format, Labelled, from_bytes

IDX_BYTES = 0x08
CIFAR_ROW = 3 * 32 * 32
CIFAR_LABELS = {"cifar10": (1, 10, "batches.meta.txt"), "cifar100": (2, 100, "fine_label_names.txt")}


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The array of bytes in an IDX file, plain or compressed with gzip.

    Raises:
        ValueError: not IDX, not bytes, or cut short.
    """
    with explained("read", path):
        data = path.read_bytes()
    if path.suffix == ".gz":
        try:
            data = gzip.decompress(data)
        except (gzip.BadGzipFile, EOFError, OSError) as error:
            raise ValueError(f"{path} must be a whole gzip file, got a damaged one ({error})") from None
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != IDX_BYTES or not 1 <= data[3] <= 4:
        raise ValueError(f"{path} must begin with the magic number 00 00 08 0d of IDX bytes, got {data[:4].hex(' ')}")
    start = 4 + 4 * data[3]
    shape = tuple(np.frombuffer(data[4:start], ">u4").tolist())
    if len(data) - start != math.prod(shape):
        raise ValueError(f"{path} must hold {math.prod(shape)} bytes for shape {shape}, got {len(data) - start}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def idx(folder: Path, form: Format) -> Labelled:
    """``train-images-idx3-ubyte`` and ``train-labels-idx1-ubyte`` of a folder, each plain or with ``.gz``."""
    images, labels = read_idx(_idx_file(folder, "train-images-idx3")), read_idx(_idx_file(folder, "train-labels-idx1"))
    if images.ndim != 3 or labels.ndim != 1:
        raise ValueError(f"{folder} must hold images (N, H, W) and labels (N), got {images.shape} and {labels.shape}")
    names = tuple(str(number) for number in range(int(labels.max(initial=0)) + 1))
    return Labelled(from_bytes(images[:, None], form, str(folder)), torch.from_numpy(labels.astype(np.int64)), names)


def _idx_file(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}-ubyte", folder / f"{name}-ubyte.gz"):
        if path.is_file():
            return path
    raise ValueError(f"path must be a folder with {name}-ubyte or {name}-ubyte.gz, got {folder}")


def cifar(folder: Path, form: Format, version: str) -> Labelled:
    """The training part of CIFAR-10 or CIFAR-100, binary version; the Python version is pickled and never read."""
    label_bytes, num_classes, names_file = CIFAR_LABELS[version]
    files = sorted(folder.glob("data_batch_*.bin")) if version == "cifar10" else sorted(folder.glob("train.bin"))
    if not files:
        raise ValueError(f"path must be a folder with the binary version of {version} (*.bin), got {folder}")
    rows = np.concatenate([_cifar_rows(path, label_bytes) for path in files])
    labels = rows[:, label_bytes - 1].astype(np.int64)  # CIFAR-100 puts the coarse label first
    if labels.max() >= num_classes:
        raise ValueError(f"labels of {folder} must be below {num_classes}, got {labels.max()}")
    found = folder / names_file
    lines = read_text(found).split() if found.is_file() else [str(number) for number in range(num_classes)]
    if len(lines) != num_classes:
        raise ValueError(f"{found} must name {num_classes} classes, got {len(lines)}")
    images = rows[:, label_bytes:].reshape(-1, 3, 32, 32)
    return Labelled(from_bytes(images, form, str(folder)), torch.from_numpy(labels), tuple(lines))


def _cifar_rows(path: Path, label_bytes: int) -> NDArray[np.uint8]:
    with explained("read", path):
        data = np.fromfile(path, np.uint8)
    row = label_bytes + CIFAR_ROW
    if not len(data) or len(data) % row:
        raise ValueError(f"{path} must hold whole rows of {row} bytes, got {len(data)} bytes")
    return data.reshape(-1, row)


def arrays(path: Path, form: Format, image_key: str, label_key: str) -> Labelled:
    """Images and labels in an npz file or a zarr group.

    Images are bytes, or floats in [-1, 1], of shape (N, H, W), (N, C, H, W) or (N, H, W, C). Labels are whole numbers
    from 0, or texts. ``names`` (K,), where it is there, names the classes.
    """
    found = _npz(path) if path.suffix == ".npz" else _zarr(path)
    missing = {image_key, label_key} - set(found)
    if missing:
        raise ValueError(f"{path} must hold {', '.join(sorted(missing))}, got {', '.join(sorted(found)) or 'nothing'}")
    labels, names = _indexed(found[label_key], found.get("names"), path)
    return Labelled(_planes(found[image_key], form, str(path)), labels, names)


def _npz(path: Path) -> dict[str, NDArray[Any]]:
    with explained("read", path):
        try:
            with np.load(path, allow_pickle=False) as file:
                return {key: file[key] for key in file.files}
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{path} must be an npz file of plain arrays, got one with a fault: {reason}") from None


def _zarr(path: Path) -> dict[str, NDArray[Any]]:
    import zarr

    if not path.is_dir():
        raise ValueError(f"path must be an npz file or a zarr folder, got {path}")
    try:
        group = zarr.open_group(str(path), mode="r")
        return {key: np.asarray(group[key][...]) for key in group.array_keys()}
    except (ValueError, KeyError, FileNotFoundError, RuntimeError) as error:
        raise ValueError(f"{path} must be a zarr group of arrays, got: {' '.join(str(error).split())}") from None


def _indexed(labels: NDArray[Any], names: NDArray[Any] | None, path: Path) -> tuple[Tensor, tuple[str, ...]]:
    """Labels as indices, and the names of the classes."""
    if labels.ndim != 1:
        raise ValueError(f"labels of {path} must be (N,), got {labels.shape}")
    if labels.dtype.kind == "U":
        unique, index = np.unique(labels, return_inverse=True)
        return torch.from_numpy(index.astype(np.int64)), tuple(unique.tolist())
    if labels.dtype.kind not in "iu":
        raise ValueError(f"labels of {path} must be whole numbers or texts, got {labels.dtype}")
    spelt = [str(number) for number in range(int(labels.max(initial=0)) + 1)] if names is None else names.tolist()
    return torch.from_numpy(labels.astype(np.int64)), tuple(map(str, spelt))


def _planes(images: NDArray[Any], form: Format, where: str) -> Tensor:
    """Images of an array file in the wanted format."""
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4:
        raise ValueError(f"images of {where} must be (N, H, W), (N, C, H, W) or (N, H, W, C), got {images.shape}")
    if images.shape[3] in COLOURS and images.shape[1] not in COLOURS:
        images = images.transpose(0, 3, 1, 2)
    if images.dtype == np.uint8:
        return from_bytes(images, form, where)
    if images.dtype.kind != "f":
        raise ValueError(f"images of {where} must be bytes or floats in [-1, 1], got {images.dtype}")
    return form.fit(torch.from_numpy(np.ascontiguousarray(images, np.float32)), where)
