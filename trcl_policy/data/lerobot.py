"""LeRobotDataset v3, read: parquet and mp4 shards, and their index under ``meta/``.

    meta/info.json                       version, fps, features (type and shape by name), paths
    meta/tasks.parquet                   task strings and their numbers
    meta/episodes/chunk-*/file-*.parquet a row an episode: length, and where its rows and frames lie
    data/chunk-*/file-*.parquet          rows of many episodes
    videos/<key>/chunk-*/file-*.mp4      frames of many episodes

Written against the format, without the lerobot package. Names are the episode store's, but for ``next.success``.
"""

from __future__ import annotations

import io
import string
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trcl_policy.data import parquet
from trcl_policy.data.contents import Choices, Contents, Field, fields_of, invented_success
from trcl_policy.data.layout import SUCCESS
from trcl_policy.data.mp4 import Frame, read_frames
from trcl_policy.files import read_json

VERSION = "v3.0"
DOCUMENT = "meta/trcl.json"
INDEX = ("timestamp", "frame_index", "episode_index", "index", "task_index")
NAMES = {"next.success": SUCCESS}
EPISODE = ("episode_index", "length", "dataset_from_index", "dataset_to_index", "data/chunk_index", "data/file_index")
PATHS = {
    "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
    "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
}


class LeRobotSource:
    """A LeRobotDataset that is read.

    Args:
        path: its folder.
        choices: what the user says.

    Raises:
        ValueError: damaged, or of another version; one line.
        FileError: can't be read.
    """

    def __init__(self, path: Path, choices: Choices) -> None:
        parquet.require()
        self._path, self._info = path, _info(path)
        self.fps = float(self._info["fps"])
        self._document = read_json(path / DOCUMENT) if (path / DOCUMENT).exists() else {}
        self._features, lost = _features(self._info["features"], choices, path)
        self._episodes = _episodes(path, [f for f, kind in self._kinds() if kind == "video"])
        self._offsets = _offsets(self._episodes)
        self._files: dict[Path, parquet.ParquetRows] = {}
        self._frames: dict[str, tuple[tuple[int, int], Iterator[Frame]]] = {}
        tasks, more = self._tasks(choices)
        self.losses: tuple[str, ...] = (*lost, *more)
        self.contents = self._contents(tasks)

    def _kinds(self) -> list[tuple[str, str]]:
        return [(feature, str(self._info["features"][feature]["dtype"])) for feature in self._features.values()]

    def _contents(self, tasks: tuple[int, ...]) -> Contents:
        features = self._info["features"]
        fields = {
            key: _field(features[feature], key.startswith(("observation", "action")))
            for key, feature in self._features.items()
        }
        fields.setdefault(SUCCESS, Field(np.dtype(bool), ()))
        lengths = tuple(int(entry["length"]) for entry in self._episodes)
        strings = _task_strings(self._path)
        if min(tasks) < 0 or max(tasks) >= len(strings):
            raise ValueError(f"task_index must lie in 0..{len(strings) - 1}, got {max(tasks)} ({self._path})")
        document = self._document
        if document:
            known = fields_of(document, f"{self._path / DOCUMENT}")
            fields = {key: known.get(key, found) for key, found in fields.items()}
            names, hertz = tuple(document["task_names"]), tuple(document["control_frequency"])
            attempts = tuple(document.get("attempts", ()))
            if len(names) != len(strings) or len(attempts) != len(lengths):
                raise ValueError(f"{self._path / DOCUMENT} must fit the data set beside it, got that of another one")
            return Contents(fields, lengths, tasks, attempts, names, hertz, document["provenance"])
        kept = {
            "task_strings": list(strings),
            "robot_type": self._info.get("robot_type"),
            "splits": self._info.get("splits", {}),
            "names": {key: self._info["features"][feature].get("names") for key, feature in self._features.items()},
        }
        provenance = {"source": self._path.name, "lerobot": kept}
        attempts, hertz = (-1,) * len(lengths), (self.fps,) * len(strings)
        return Contents(fields, lengths, tasks, attempts, strings, hertz, provenance)

    def _tasks(self, choices: Choices) -> tuple[tuple[int, ...], list[str]]:
        """Return each episode's task, and what is lost of tasks and times; checks that rows are in place."""
        tasks, several, irregular = [], 0, 0
        for number, entry in enumerate(self._episodes):
            file, first = self._file(number)
            length = int(entry["length"])
            owner = file.numbers("episode_index", first, first + length)
            if (owner != entry["episode_index"]).any():
                raise ValueError(f"rows of episode {number} must lie together in {file.path}, got those of others")
            found = file.numbers("task_index", first, first + length)
            several += int(found.min() != found.max())
            tasks.append(int(found[0]))
            times = file.numbers("timestamp", first, first + length)
            irregular += int(np.abs(times - np.arange(length) / self.fps).max() > 0.25 / self.fps)
        lost = [f"the task after the first in {several} episodes"] if several else []
        lost += [f"times that are no multiples of 1 / fps in {irregular} episodes"] if irregular else []
        return tuple(tasks), lost

    def _file(self, episode: int) -> tuple[parquet.ParquetRows, int]:
        """Return the file that holds an episode's rows, and the number of its first row there."""
        entry = self._episodes[episode]
        place = int(entry["data/chunk_index"]), int(entry["data/file_index"])
        path = self._path / _fill(self._info, "data_path", *place)
        if path not in self._files:
            for other in self._files.values():  # one at a time, as they come in order
                other.close()
            self._files = {path: parquet.ParquetRows(path, INDEX)}
            missing = sorted({f for f, kind in self._kinds() if kind != "video"} - set(self._files[path].columns))
            if missing:
                raise ValueError(f"{path} must have a column for every feature, got none called {', '.join(missing)}")
        return self._files[path], int(entry["dataset_from_index"]) - self._offsets[place]

    def rows(self, key: str, episode: int, start: int, stop: int) -> NDArray:
        """Return rows [start, stop) of an episode; raises ValueError where they can't be read."""
        if key not in self._features:
            return invented_success(self.contents.lengths[episode], start, stop)
        feature, found = self._features[key], self.contents.fields[key]
        kind = self._info["features"][feature]["dtype"]
        if kind == "video":
            return self._pictures(feature, episode, start, stop, found)
        file, first = self._file(episode)
        if kind == "image":
            packed = file.values(feature, first + start, first + stop)
            return np.stack([_png(entry, found, f"{feature} in {file.path}") for entry in packed])
        return file.numbers(feature, first + start, first + stop, found.shape)

    def _pictures(self, feature: str, episode: int, start: int, stop: int, found: Field) -> NDArray[np.uint8]:
        """Return frames of an episode; a call that goes on where the last one stopped goes on decoding."""
        place, frames = self._frames.pop(feature, ((-1, -1), iter(())))
        if place != (episode, start):
            entry = self._episodes[episode]
            numbers = [int(entry[f"videos/{feature}/{name}_index"]) for name in ("chunk", "file")]
            path = self._path / _fill(self._info, "video_path", numbers[0], numbers[1], feature)
            since = float(entry[f"videos/{feature}/from_timestamp"]) + start / self.fps
            frames = read_frames(path, since, int(entry["length"]) - start, self.fps)
        rows = np.empty((stop - start, *found.shape), np.uint8)
        for number in range(stop - start):
            frame = next(frames)
            if frame.shape != found.shape:
                raise ValueError(f"frames of {feature} must be {found.shape} as its feature says, got {frame.shape}")
            rows[number] = frame
        if stop < self.contents.lengths[episode]:
            self._frames[feature] = ((episode, stop), frames)
        return rows

    def close(self) -> None:
        """Close the open file."""
        for file in self._files.values():
            file.close()


def _info(path: Path) -> dict[str, Any]:
    """Return meta/info.json, checked; raises ValueError."""
    info = read_json(path / "meta" / "info.json")
    version = info.get("codebase_version") if isinstance(info, dict) else None
    if not str(version).startswith("v3."):
        raise ValueError(f"codebase_version must be {VERSION}, got {version} in {path}; lerobot converts older ones")
    if not isinstance(info.get("features"), dict) or not isinstance(info.get("fps"), (int, float)):
        raise ValueError(f"meta/info.json must hold features and fps, got none in {path}")
    for name, default in PATHS.items():
        template = info.get(name) or default
        fields = {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}
        parts = PurePosixPath(template).parts
        if not fields <= {"video_key", "chunk_index", "file_index"} or template.startswith("/") or ".." in parts:
            raise ValueError(f"{name} must lead to files of the data set, got {template!r} in {path}")
        info[name] = template
    return info


def _fill(info: Mapping[str, Any], name: str, chunk: int, file: int, video_key: str = "") -> str:
    return str(info[name].format(chunk_index=chunk, file_index=file, video_key=video_key))


def _features(features: Mapping[str, Any], choices: Choices, path: Path) -> tuple[dict[str, str], list[str]]:
    """Return features by names in the store, and what has no place there."""
    found: dict[str, str] = {}
    lost = []
    for feature, entry in features.items():
        key = choices.keys.get(feature) or NAMES.get(feature, feature)
        if feature in INDEX or key in choices.drop:
            continue
        if "/" in feature or feature.startswith("."):
            raise ValueError(f"features must have plain names, got {feature!r} in {path}")
        kind = str(entry.get("dtype"))
        depth = any("is_depth_map" in name and value for name, value in (entry.get("info") or {}).items())
        if depth or (kind not in ("video", "image") and not _is_number(kind)):
            lost.append(f"{feature}, which holds {'compressed depth' if depth else kind}")
            continue
        if key == SUCCESS and kind != "bool":
            key = feature
        if key in found:
            raise ValueError(f"keys must give every feature a name of its own, got {key} twice")
        found[key] = feature
    unknown = sorted(set(choices.keys) - set(features))
    if unknown:
        raise ValueError(f"keys must name features, {sorted(features)}, got {unknown[0]}")
    return found, lost


def _is_number(kind: str) -> bool:
    try:
        return np.dtype(kind).kind in "biuf"
    except TypeError:
        return False


def _field(entry: Mapping[str, Any], is_vector: bool) -> Field:
    """Return type and row shape of a feature; LeRobot calls a single number a row (1,), as a vector of one entry."""
    shape = tuple(int(size) for size in entry["shape"])
    if entry["dtype"] in ("video", "image"):
        height_first = shape if shape[-1] == 3 else (*shape[1:], shape[0])
        return Field(np.dtype(np.uint8), height_first)
    return Field(np.dtype(entry["dtype"]), () if shape == (1,) and not is_vector else shape)


def _episodes(path: Path, videos: list[str]) -> list[dict[str, Any]]:
    """Return the rows of meta/episodes in order; raises ValueError where a column or an episode is missing."""
    more = [f"videos/{key}/{name}" for key in videos for name in ("chunk_index", "file_index", "from_timestamp")]
    entries: list[dict[str, Any]] = []
    files = sorted((path / "meta" / "episodes").glob("*/*.parquet"))
    for file in files:
        table = parquet.ParquetRows(file, (*EPISODE, *more))
        columns = {name: table.numbers(name, 0, table.num_rows).tolist() for name in (*EPISODE, *more)}
        table.close()
        entries += [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    ends = 0
    for number, entry in enumerate(entries):
        fits = entry["episode_index"] == number and entry["length"] >= 1 and entry["dataset_from_index"] == ends
        ends += int(entry["length"])
        if not fits or entry["dataset_to_index"] != ends:
            raise ValueError(
                f"episodes must follow each other without gaps, got episode_index {entry['episode_index']} with rows "
                f"{entry['dataset_from_index']} to {entry['dataset_to_index']} at place {number} in {path}"
            )
    if not entries:
        raise ValueError(f"meta/episodes must list episodes, got none in {path}")
    return entries


def _offsets(episodes: list[dict[str, Any]]) -> dict[tuple[int, int], int]:
    """Return, by chunk and file, the number of the first row that lies in it."""
    first: dict[tuple[int, int], int] = {}
    for entry in episodes:
        first.setdefault((int(entry["data/chunk_index"]), int(entry["data/file_index"])), entry["dataset_from_index"])
    return first


def _task_strings(path: Path) -> tuple[str, ...]:
    """Return the task strings by their numbers; raises ValueError where they are not 0, 1, 2, ..."""
    table = parquet.ParquetRows(path / "meta" / "tasks.parquet", ("task_index",))
    column = next((name for name in ("task", "__index_level_0__") if name in table.columns), None)
    if column is None:
        raise ValueError(f"{table.path} must have the column task, got {', '.join(table.columns)}")
    numbers, strings = table.values("task_index"), table.values(column)
    table.close()
    if sorted(numbers) != list(range(len(numbers))):
        raise ValueError(f"task_index must count from 0, got {sorted(numbers)[:8]} in {table.path}")
    return tuple(str(text) for _, text in sorted(zip(numbers, strings, strict=True)))


def _png(entry: Any, found: Field, what: str) -> NDArray[np.uint8]:
    """Return a picture that lies in a parquet file; raises ValueError where it is damaged or of another size."""
    from PIL import Image, UnidentifiedImageError

    try:
        picture = Image.open(io.BytesIO(entry["bytes"]), formats=("PNG", "JPEG", "WEBP", "TIFF", "BMP"))
        if picture.size != (found.shape[1], found.shape[0]):
            raise ValueError(f"pictures of {what} must be {found.shape} as the feature says, got {picture.size}")
        return np.asarray(picture.convert("RGB"), np.uint8)
    except (UnidentifiedImageError, OSError, TypeError, KeyError) as error:
        raise ValueError(f"pictures of {what} must be whole, got {str(error).splitlines()[0]}") from None
