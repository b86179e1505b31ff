"""robomimic's HDF5 files, written: in parts of whole demonstrations, put together at the end.

HDF5 files do not survive their writer's death, so each part appears whole, and what a killed conversion left is gone on
with after the last part. What robomimic expects and the store does not have is derived: ``next_obs`` (the following
observation, the last one repeated), ``rewards`` (success as 0 or 1) and ``dones`` (1 in the last row). The document
``trcl`` beside the data lists what was derived and keeps what robomimic's layout can't say.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trcl_policy.data import hdf5
from trcl_policy.data.contents import Contents, json_document
from trcl_policy.data.layout import SUCCESS
from trcl_policy.data.robomimic import DOCUMENT, Part, path_in_demo

PART_BYTES = 2**27
GYM_TYPE = 2  # robomimic's EnvType.GYM_TYPE, for tasks of ours that name no environment of robomimic's


class RobomimicSink:
    """A robomimic file that is written.

    Args:
        folder: for the parts.
        contents: what will be in it.
    """

    lossy: tuple[str, ...] = ()

    def __init__(self, folder: Path, contents: Contents) -> None:
        self._folder, self._contents = folder, contents
        self._known = dict(contents.provenance.get("robomimic") or {})
        self.layout = {key: _parts(key, contents, self._known.get("layout", {})) for key in contents.fields}
        _check_paths(self.layout)
        self._derived = _derived(self.layout)
        demos = self._known.get("demos", [])
        plain = [f"demo_{number}" for number in range(len(contents.lengths))]
        self._demos = demos if len(demos) == len(plain) else plain
        self._file: Any = None
        self._first = self._next = self.done
        self._bytes = 0

    @property
    def done(self) -> int:
        """Demonstrations in complete parts."""
        parts = self._complete()
        return int(parts[-1].stem.split("-")[2]) if parts else 0

    def _complete(self) -> list[Path]:
        return sorted(self._folder.glob("part-*.hdf5"))

    def append(self, episode: int, blocks: Iterator[Mapping[str, NDArray]]) -> None:
        """Write the next demonstration into the current part; closes the part when it is large."""
        if self._file is None:
            self._file, self._first, self._bytes = hdf5.open_hdf5(self._folder / "part.tmp", "w"), episode, 0
        demo = self._file.create_group(self._demos[episode])
        start = 0
        for block in blocks:
            start += self._write(demo, block, start, self._contents.lengths[episode])
            self._bytes += sum(rows.nbytes for rows in block.values())
        self._describe(demo, episode)
        self._next = episode + 1
        if self._bytes >= PART_BYTES:
            self._close_part()

    def _write(self, demo: Any, block: Mapping[str, NDArray], start: int, length: int) -> int:
        """Write rows from ``start`` on; returns their number."""
        for key, rows in block.items():
            column = 0
            for path, size, dtype in self.layout[key]:
                part = rows if len(self.layout[key]) == 1 else rows[:, column : column + size].astype(dtype)
                column += size
                _put(demo, path, part, start, length)
                following = path.replace("obs/", "next_obs/", 1)
                if path.startswith("obs/") and following in self._derived:
                    _put_shifted(demo, following, part, start, length)
        success = block[SUCCESS]
        if "rewards" in self._derived:
            _put(demo, "rewards", success.astype(np.float64), start, length)
        if "dones" in self._derived:
            ends = np.arange(start, start + len(success)) == length - 1
            _put(demo, "dones", ends.astype(np.int64), start, length)
        return len(success)

    def _describe(self, demo: Any, episode: int) -> None:
        """Write a demonstration's attributes."""
        contents = self._contents
        table = self._known.get("demo_attributes", {"values": [], "of": {}})
        for name, places in table["of"].items():
            if len(places) == len(contents.lengths) and places[episode] >= 0:
                demo.attrs[name] = table["values"][places[episode]]
        demo.attrs["num_samples"] = contents.lengths[episode]
        demo.attrs["task"] = contents.names[contents.tasks[episode]]
        demo.attrs["attempt"] = contents.attempts[episode]

    def _close_part(self) -> None:
        if self._file is not None:
            hdf5.flush(self._file)
            self._file = None
            os.replace(self._folder / "part.tmp", self._folder / f"part-{self._first:08d}-{self._next:08d}.hdf5")

    def finish(self) -> Path:
        """Put the parts together and return the file."""
        self._close_part()
        path = self._folder / "data.hdf5"
        file = hdf5.open_hdf5(path, "w")
        data = file.create_group("data")
        for part in self._complete():
            with hdf5.open_hdf5(part) as source:
                for name in source:
                    source.copy(name, data)
        for name, value in self._known.get("attributes", {}).items():
            data.attrs[name] = value
        data.attrs["total"] = sum(self._contents.lengths)
        data.attrs["env_args"] = self._known.get("env_args") or self._env_args()
        made = self._write_masks(file)
        layout = {key: [list(part) for part in parts] for key, parts in self.layout.items()}
        derived = sorted(self._derived)
        hdf5.write_scalar(file, DOCUMENT, json_document(self._contents, layout=layout, derived=derived, masks=made))
        hdf5.flush(file)
        return path

    def _env_args(self) -> str:
        """Return robomimic's description of the first task's environment."""
        name, hertz = self._contents.names[0], self._contents.frequencies[0]
        return json.dumps({"env_name": name, "type": GYM_TYPE, "env_kwargs": {"control_freq": hertz}})

    def _write_masks(self, file: Any) -> list[str]:
        """Write the filters that came along, and one for each of several tasks; returns the names of the latter."""
        for name, demos in self._known.get("masks", {}).items():
            hdf5.write_strings(file, f"mask/{name}", [demo for demo in demos if demo in self._demos])
        contents, made = self._contents, []
        for number, name in enumerate(contents.names if len(contents.names) > 1 else ()):
            mask = name.replace("/", ".")
            demos = [demo for demo, task in zip(self._demos, contents.tasks, strict=True) if task == number]
            if demos and mask not in self._known.get("masks", {}):
                hdf5.write_strings(file, f"mask/{mask}", demos)
                made.append(mask)
        return made

    def close(self) -> None:
        """Close an unfinished part, which is written anew next time."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _parts(key: str, contents: Contents, known: Mapping[str, Any]) -> list[Part]:
    """Return the arrays of a demonstration that hold an array of the store: as they were, or one by our own rule."""
    found, size = contents.fields[key], int(np.prod(contents.fields[key].shape))
    parts: list[Part] = [(str(path), int(count), str(dtype)) for path, count, dtype in known.get(key, ())]
    if parts and sum(count for _, count, _ in parts) == size:
        return parts
    return [(path_in_demo(key), size, found.to_json()[0])]


def _check_paths(layout: Mapping[str, list[Part]]) -> None:
    """Raise ValueError where two arrays would lie in one place of a demonstration, or one inside the other."""
    paths = sorted((f"{path}/", key) for key, parts in layout.items() for path, _, _ in parts)
    for (one, key), (other, second) in itertools.pairwise(paths):
        if other.startswith(one):
            raise ValueError(
                f"arrays must have places of their own in robomimic's layout, got {one} of {key} and {second}"
            )


def _derived(layout: Mapping[str, list[Part]]) -> set[str]:
    """Return what robomimic expects of a demonstration and the store does not have."""
    paths = {path for parts in layout.values() for path, _, _ in parts}
    expected = {"rewards", "dones"} | {f"next_{path}" for path in paths if path.startswith("obs/")}
    return expected - paths


def _put(demo: Any, path: str, rows: NDArray, start: int, length: int) -> None:
    """Write rows of an array, which is made with the first of them."""
    item = demo[path] if start else hdf5.make_array(demo, path, length, rows)
    item[start : start + len(rows)] = rows


def _put_shifted(demo: Any, path: str, rows: NDArray, start: int, length: int) -> None:
    """Write observations one row earlier, and the last one twice."""
    item = demo[path] if start else hdf5.make_array(demo, path, length, rows)
    if start:
        item[start - 1 : start - 1 + len(rows)] = rows
    else:
        item[: len(rows) - 1] = rows[1:]
    if start + len(rows) == length:
        item[length - 1] = rows[-1]
