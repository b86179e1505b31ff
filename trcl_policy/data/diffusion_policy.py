"""diffusion_policy's zarr ReplayBuffer, as a folder or inside a zip: ``data/<key>`` end to end, ``meta/episode_ends``.

``data/state`` and ``data/action`` become ``observation.state`` and ``action``, pictures ``observation.images.<key>``,
everything else keeps its name. Pictures stored as floating-point numbers, as in the published Push-T file, become uint8
where every value is a whole number from 0 to 255, and come back as they were.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from trcl_policy.data.archive import check_archive, open_zip, pack
from trcl_policy.data.arrays import create, open_group, place, resize
from trcl_policy.data.contents import (
    Choices,
    Contents,
    Field,
    camera_key,
    fields_of,
    invented_success,
    json_document,
    single_task,
)
from trcl_policy.data.layout import ACTION, IMAGES, META, STATE, SUCCESS, read_rows
from trcl_policy.data.rows import check_description, check_folder
from trcl_policy.data.store_format import episode_ends

NAMES = {"state": STATE, "action": ACTION}
DOCUMENT = "trcl"


class BufferSource:
    """A replay buffer that is read.

    Args:
        path: folder or zip.
        choices: what the user says; ``control_frequency`` is needed where our own document is not beside the data.

    Raises:
        ValueError: damaged, unsafe, or not what the choices ask for; one line.
    """

    def __init__(self, path: Path, choices: Choices) -> None:
        self._zip: Any = None
        if path.is_file():
            for name, description in check_archive(path).items():
                check_description(name, description)
            self._zip, group = open_zip(path)
        else:
            check_folder(path)
            group = open_group(path, "r")
        self._arrays = dict(group["data"].arrays())
        self._ends = _ends(group, path)
        document = dict(group.attrs.asdict().get(DOCUMENT) or {})
        self._layout, self._floats = self._arrange(choices, document, path)
        self.losses: tuple[str, ...] = ()
        fields = {key: self._field(key) for key in self._layout}
        if SUCCESS not in fields:
            fields[SUCCESS] = Field(np.dtype(bool), ())
        self.contents = self._contents(group, fields, document, choices, path)

    def _arrange(
        self, choices: Choices, document: Mapping[str, Any], path: Path
    ) -> tuple[dict[str, str], dict[str, str]]:
        """Return foreign names by names in the store, and the types of pictures that are stored as floats."""
        known = {foreign: key for key, foreign in document.get("layout", {}).items() if foreign in self._arrays}
        layout: dict[str, str] = {}
        floats: dict[str, str] = {}
        for foreign, array in self._arrays.items():
            if array.shape[0] != self._ends[-1]:
                raise ValueError(f"data/{foreign} must have {self._ends[-1]} rows, got {array.shape[0]} ({path})")
            picture = array.ndim == 4 and array.shape[3] == 3
            name = NAMES.get(foreign) or (camera_key(foreign) if picture else foreign)
            key = choices.keys.get(foreign) or known.get(foreign) or name
            if key in layout:
                raise ValueError(f"keys must give every array a name of its own, got {key} twice")
            if key in choices.drop:
                continue
            layout[key] = foreign
            if key.startswith(f"{IMAGES}.") and array.dtype.kind == "f":
                floats[key] = array.dtype.str.lstrip("<>|=")
        unknown = sorted(set(choices.keys) - set(self._arrays))
        if unknown:
            raise ValueError(f"keys must name arrays of {path}, {sorted(self._arrays)}, got {unknown[0]}")
        return layout, floats

    def _field(self, key: str) -> Field:
        array = self._arrays[self._layout[key]]
        dtype = np.dtype(np.uint8) if key in self._floats else array.dtype.newbyteorder("=")
        return Field(dtype, array.shape[1:])

    def _contents(
        self, group: zarr.Group, fields: Mapping[str, Field], document: Mapping[str, Any], choices: Choices, path: Path
    ) -> Contents:
        lengths = tuple(np.diff(self._ends, prepend=0).tolist())
        if document:
            fields_of(document, f"attribute {DOCUMENT} of {path}")
            names, hertz = tuple(document["task_names"]), tuple(document["control_frequency"])
            tasks, attempts = [
                tuple(read_rows(group["meta"][name], 0, len(lengths)).tolist()) for name in ("task", "attempt")
            ]
            if len(tasks) != len(lengths) or not all(0 <= task < len(names) for task in tasks):
                raise ValueError(f"meta/task must lie in 0..{len(names) - 1} for every episode, got others ({path})")
            return Contents(fields, lengths, tasks, attempts, names, hertz, document["provenance"])
        stem = path.name.removesuffix(".zip").removesuffix(".zarr")
        name, frequency = single_task(choices, stem, None, f"{path}")
        kept = {"layout": self._layout, "float_pictures": self._floats, "attributes": group.attrs.asdict()}
        provenance = {"source": path.name, "diffusion_policy": kept}
        many = (0,) * len(lengths), (-1,) * len(lengths)
        return Contents(fields, lengths, *many, (name,), (frequency,), provenance)

    def rows(self, key: str, episode: int, start: int, stop: int) -> NDArray:
        """Return rows [start, stop) of an episode; raises ValueError where they can't be read."""
        if key not in self._layout:
            return invented_success(self.contents.lengths[episode], start, stop)
        first = int(self._ends[episode]) - self.contents.lengths[episode]
        array = self._arrays[self._layout[key]]
        rows = read_rows(array, first + start, first + stop)
        rows = rows.astype(rows.dtype.newbyteorder("="), copy=False)
        return _whole(rows, f"data/{self._layout[key]}") if key in self._floats else rows

    def close(self) -> None:
        """Close the zip."""
        if self._zip is not None:
            self._zip.close()


def _ends(group: zarr.Group, path: Path) -> NDArray[np.int64]:
    """Return the row after each episode's last row; raises ValueError where they do not rise."""
    if "meta" not in group or "episode_ends" not in group["meta"] or not dict(group["data"].arrays()):
        raise ValueError(f"{path} must hold data/<key> and meta/episode_ends, got neither or one of them")
    array = group["meta"]["episode_ends"]
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"meta/episode_ends must be a vector of integers, got {array.dtype} {array.shape} ({path})")
    ends = read_rows(array, 0, array.shape[0]).astype(np.int64)
    if not len(ends) or ends[0] <= 0 or (np.diff(ends) <= 0).any():
        raise ValueError(f"meta/episode_ends must rise from above 0, got {ends.tolist()[:8]} ({path})")
    return ends


def _whole(rows: NDArray, name: str) -> NDArray[np.uint8]:
    """Return pictures as uint8; raises ValueError where that would change a value."""
    whole = rows.astype(np.uint8)
    if not np.array_equal(whole, rows):
        raise ValueError(
            f"{name} must hold whole numbers from 0 to 255 to be pictures, got others; "
            "keep it as plain numbers with --keys NAME=NAME"
        )
    return whole


class BufferSink:
    """A replay buffer that is written.

    Args:
        folder: where it is made, or goes on being made.
        contents: what will be in it.
        choices: what the user says; ``keys`` names arrays.
        zipped: as one zip file.
    """

    lossy: tuple[str, ...] = ()

    def __init__(self, folder: Path, contents: Contents, choices: Choices, zipped: bool) -> None:
        self._path, self._contents, self._zipped = folder / "buffer.zarr", contents, zipped
        self._ends = episode_ends(contents)
        known = dict(contents.provenance.get("diffusion_policy") or {})
        self._floats = known.get("float_pictures", {})
        self._layout = _names(contents, known.get("layout", {}))
        fresh = not (self._path / "meta" / "episode_ends").exists()
        self._group = open_group(self._path, "w" if fresh else "r+")
        if fresh:
            self._group.create_group("data")
            self._group.attrs.update({**known.get("attributes", {}), DOCUMENT: self._document()})
            for name in META:
                create(self._group, f"meta/{name}", np.empty(0, np.int64))

    def _document(self) -> dict[str, Any]:
        return json_document(self._contents, layout=self._layout)

    @property
    def done(self) -> int:
        """Episodes that are whole: the end of each is the last thing written."""
        ends = self._group["meta"]["episode_ends"]
        return int((read_rows(ends, 0, ends.shape[0]) > 0).sum())

    def append(self, episode: int, blocks: Iterator[Mapping[str, NDArray]]) -> None:
        """Write the next episode."""
        ends = self._ends
        row = int(ends[episode]) - self._contents.lengths[episode]
        for block in blocks:
            for key, rows in block.items():
                stored = rows.astype(self._floats[key]) if key in self._floats else rows
                name = f"data/{self._layout[key]}"
                if name not in self._group:
                    create(self._group, name, stored[:0])
                place(self._group[name], row, stored)
            row += len(rows)
        values = {"attempt": self._contents.attempts, "task": self._contents.tasks, "episode_ends": ends.tolist()}
        for name in META:
            place(self._group["meta"][name], episode, np.array([values[name][episode]], np.int64))

    def finish(self) -> Path:
        """Return the folder or the zip."""
        total = sum(self._contents.lengths)
        for _, array in self._group["data"].arrays():
            resize(array, total)
        if not self._zipped:
            return self._path
        return pack(self._path, self._path.with_suffix(".zarr.zip"))

    def close(self) -> None:
        """Nothing is open."""


def _names(contents: Contents, known: Mapping[str, str]) -> dict[str, str]:
    """Return diffusion_policy's names by the store's: those that came along, or ``state``, ``action``, ``img``."""
    back = {key: foreign for foreign, key in NAMES.items()}
    cameras = [key for key in contents.fields if key.startswith(f"{IMAGES}.")]
    names = {}
    for key in contents.fields:
        camera = key.removeprefix(f"{IMAGES}.")
        plain = ("img" if len(cameras) == 1 else camera) if key in cameras else back.get(key, key)
        names[key] = known.get(key, plain)
    if len(set(names.values())) != len(names):
        return {key: key for key in contents.fields}
    return names
