"""Every source of labelled images, behind one function."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from trcl_policy.images import binary
from trcl_policy.images.labelled import Format, Labelled, from_bytes
from trcl_policy.images.settings import ImageData

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


def read(data: ImageData) -> Labelled:
    """The images that ``data`` names, all of them, in one format.

    Raises:
        ValueError: the data can't be used; one line that names the file.
        FileError: a file can't be read.
    """
    return READERS[data.source](data)


def _digits(data: ImageData) -> Labelled:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ValueError(
            'source digits needs scikit-learn, which is not installed: pip install "trcl-policy[images]"'
        ) from None
    found = load_digits()
    images = torch.from_numpy(found.images).float()[:, None] / 8 - 1  # 0..16
    return Labelled(data.form.fit(images, "digits"), torch.from_numpy(found.target).long(), tuple("0123456789"))


def _folder(data: ImageData) -> Labelled:
    root = Path(data.path)
    names = sorted(entry.name for entry in root.iterdir() if entry.is_dir()) if root.is_dir() else []
    if not names:
        raise ValueError(f"path must be a folder with one folder a class, got {root}")
    pieces, labels = [], []
    for label, name in enumerate(names):
        files = sorted(path for path in (root / name).iterdir() if path.suffix.lower() in SUFFIXES)
        if not files:
            raise ValueError(f"{root / name} must hold images ({', '.join(SUFFIXES)}), got none")
        pieces += [_opened(path, data.form, str(path)) for path in files]
        labels += [label] * len(files)
    return Labelled(torch.cat(pieces), torch.tensor(labels), tuple(names))


def _opened(file: Any, form: Format, where: str) -> Tensor:
    """One image (1, C, S, S) of a path or a file object."""
    try:
        with Image.open(file) as image:
            return decoded(image, form, where)
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{where} must be a whole image, got one with a fault: {reason}") from None


def decoded(image: Image.Image, form: Format, where: str) -> Tensor:
    """A PIL image as (1, C, S, S) in [-1, 1]."""
    plain = image.convert("L" if form.channels == 1 else "RGB")
    bytes_ = np.atleast_3d(np.asarray(plain, np.uint8)).transpose(2, 0, 1)
    return from_bytes(bytes_[None], form, where)


def _parquet(data: ImageData) -> Labelled:
    try:
        import pyarrow.parquet as parquet
        from pyarrow import ArrowInvalid
    except ImportError:
        raise ValueError("source parquet needs pyarrow, which is not installed: pip install pyarrow") from None
    root = Path(data.path)
    files = sorted(root.glob("*.parquet")) if root.is_dir() else [root]
    if not files or not files[0].is_file():
        raise ValueError(f"path must be a parquet file or a folder with some, got {root}")
    images: list[Any] = []
    labels: list[Any] = []
    names: Sequence[str] | None = None
    for path in files:
        try:
            table = parquet.read_table(path)
        except ArrowInvalid as error:
            raise ValueError(f"{path} must be a parquet file, got: {' '.join(str(error).split())}") from None
        _check_columns(table.column_names, data, str(path))
        images += table[data.image_key].to_pylist()
        labels += table[data.label_key].to_pylist()
        names = _names_in(table.schema.metadata or {}, data.label_key) or names
    return _from_rows(images, labels, names, data, str(root))


def _names_in(metadata: dict[bytes, bytes], key: str) -> Sequence[str] | None:
    """Class names that the datasets package leaves in a parquet file."""
    features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    names: Sequence[str] | None = features.get(key, {}).get("names")
    return names


def _huggingface(data: ImageData) -> Labelled:
    try:
        from datasets import ClassLabel, load_dataset
    except ImportError:
        raise ValueError("source huggingface needs datasets, which is not installed: pip install datasets") from None
    rows = load_dataset(data.path, split=data.part)
    _check_columns(list(rows.features), data, data.path)
    feature = rows.features[data.label_key]
    names = feature.names if isinstance(feature, ClassLabel) else None
    return _from_rows(rows[data.image_key], rows[data.label_key], names, data, data.path)


def _check_columns(found: Sequence[str], data: ImageData, where: str) -> None:
    missing = {data.image_key, data.label_key} - set(found)
    if missing:
        raise ValueError(f"{where} must have the columns {', '.join(sorted(missing))}, got {', '.join(found)}")


def _from_rows(
    images: Sequence[Any], labels: Sequence[Any], names: Sequence[str] | None, data: ImageData, where: str
) -> Labelled:
    """Rows of a table: PIL images, bytes of a file, or mappings with such ``bytes``."""
    if any(type(label) is not int for label in labels):
        raise ValueError(f"{data.label_key} of {where} must be whole numbers, got others")
    pieces = [_from_cell(cell, data.form, f"row {row} of {where}") for row, cell in enumerate(images)]
    spelt = names or [str(number) for number in range(max(labels, default=0) + 1)]
    return Labelled(torch.cat(pieces) if pieces else torch.empty(0), torch.tensor(labels), tuple(spelt))


def _from_cell(cell: Any, form: Format, where: str) -> Tensor:
    if isinstance(cell, Image.Image):
        return decoded(cell, form, where)
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(content, bytes):
        raise ValueError(f"{where} must be an image or its bytes, got {type(content).__name__}")
    return _opened(io.BytesIO(content), form, where)


def _arrays(data: ImageData) -> Labelled:
    return binary.arrays(Path(data.path), data.form, data.image_key, data.label_key)


READERS: dict[str, Callable[[ImageData], Labelled]] = {
    "digits": _digits,
    "scenes": _arrays,  # rendered and cached beforehand, at the top of the house
    "folder": _folder,
    "idx": lambda data: binary.idx(Path(data.path), data.form),
    "cifar10": lambda data: binary.cifar(Path(data.path), data.form, "cifar10"),
    "cifar100": lambda data: binary.cifar(Path(data.path), data.form, "cifar100"),
    "arrays": _arrays,
    "parquet": _parquet,
    "huggingface": _huggingface,
}
