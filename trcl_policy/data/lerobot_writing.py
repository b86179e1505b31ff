"""LeRobotDataset v3, written: shards of whole episodes, then their index.

A shard is one parquet file and, for each camera, one mp4. It is safe once its note lies in ``shards/``, so a killed
conversion goes on with the next shard. ``meta/trcl.json`` keeps what the format can't say.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trcl_policy.data import parquet
from trcl_policy.data.contents import BLOCK_BYTES, Choices, Contents, Field, json_document
from trcl_policy.data.layout import SUCCESS
from trcl_policy.data.lerobot import DOCUMENT, INDEX, PATHS, VERSION
from trcl_policy.data.mp4 import Mp4Writer
from trcl_policy.data.statistics import Summary
from trcl_policy.data.store_format import episode_ends
from trcl_policy.files import read_json, write_json

DATA_MB, VIDEO_MB, CHUNK_FILES = 100, 200, 1000  # LeRobot's own
INTEGERS = ("frame_index", "episode_index", "index", "task_index")


def losses(contents: Contents) -> tuple[str, ...]:
    """Return what a LeRobotDataset can't hold of these contents, one line each; raises ValueError for what it can't be.

    Raises:
        ValueError: an array has a name that LeRobot uses or forbids, or rows of no values.
    """
    for key, found in contents.fields.items():
        if _feature(key) in INDEX or "/" in key or 0 in found.shape:
            raise ValueError(f"arrays need values, and names without / that are none of {', '.join(INDEX)}, got {key}")
    used = sorted({contents.frequencies[task] for task in contents.tasks})
    if len(used) > 1:
        rates = ", ".join(f"{hertz:g}" for hertz in used)
        return (f"control frequencies of {rates} Hz: LeRobot has one, {_fps(contents):g} is written",)
    return ()


def _fps(contents: Contents) -> float:
    hertz = contents.frequencies[contents.tasks[0]]
    return int(hertz) if float(hertz).is_integer() else hertz


def _feature(key: str) -> str:
    return "next.success" if key == SUCCESS else key


class LeRobotSink:
    """A LeRobotDataset that is written.

    Args:
        folder: where it is made, or goes on being made.
        contents: what will be in it.
        choices: what the user says; ``video_quality``.
    """

    def __init__(self, folder: Path, contents: Contents, choices: Choices) -> None:
        parquet.require()
        if not 0 <= choices.video_quality <= 51:
            raise ValueError(f"video-quality must be in 0 (bit for bit) to 51, got {choices.video_quality}")
        self._root, self._notes = folder / "dataset", folder / "shards"
        self._notes.mkdir(exist_ok=True)
        self._ends = episode_ends(contents)
        self._contents, self._quality = contents, choices.video_quality
        self.lossy = contents.pictures if choices.video_quality else ()
        self._fps = _fps(contents)
        self._plain = {key: found for key, found in contents.fields.items() if key not in contents.pictures}
        self._known = dict(contents.provenance.get("lerobot") or {})
        self._notes_done = sorted(self._notes.glob("*.json"))
        self._data: parquet.ParquetWriter | None = None
        self._videos: dict[str, Mp4Writer] = {}
        self._paths: dict[str, Path] = {}
        self._entries: list[dict[str, Any]] = []
        self._shard_rows = 0

    @property
    def done(self) -> int:
        """Episodes in complete shards."""
        return int(self._notes_done[-1].stem) if self._notes_done else 0

    def append(self, episode: int, blocks: Iterator[Mapping[str, NDArray]]) -> None:
        """Write the next episode into the current shard; closes the shard when it is large."""
        if self._data is None:
            self._open_shard()
        summaries = {key: Summary(found.is_picture) for key, found in self._contents.fields.items()}
        start, held, size = 0, [], 0
        for block in blocks:
            for key, rows in block.items():
                summaries[key].add(rows)
            for key, video in self._videos.items():
                for frame in block[key]:
                    video.write(frame)
            count = len(block[SUCCESS])
            held.append({**{key: block[key] for key in self._plain}, **self._index(episode, start, count)})
            start, size = start + count, size + sum(rows.nbytes for rows in held[-1].values())
            if size > BLOCK_BYTES:
                self._write(held)
                held, size = [], 0
        if held:
            self._write(held)
        self._entries.append(self._entry(episode, summaries))
        self._shard_rows += start
        limits = {key: VIDEO_MB if key in self._videos else DATA_MB for key in self._paths}
        if any(path.stat().st_size > limits[key] * 2**20 for key, path in self._paths.items()):
            self._close_shard(episode + 1)

    def _open_shard(self) -> None:
        number = len(self._notes_done)
        where = {"chunk_index": number // CHUNK_FILES, "file_index": number % CHUNK_FILES}
        self._paths = {"": self._root / PATHS["data_path"].format(**where)}
        for key in self._contents.pictures:
            self._paths[key] = self._root / PATHS["video_path"].format(video_key=key, **where)
        for path in self._paths.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        columns = {_feature(key): (found.dtype, _row_shape(found)) for key, found in self._plain.items()}
        columns |= {"timestamp": (np.dtype(np.float32), ())} | {name: (np.dtype(np.int64), ()) for name in INTEGERS}
        self._data = parquet.ParquetWriter(self._paths[""], columns)
        for key in self._contents.pictures:
            self._videos[key] = Mp4Writer(self._paths[key], self._fps, self._quality, seekable=True)
        self._entries, self._shard_rows, self._place = [], 0, where

    def _index(self, episode: int, start: int, count: int) -> dict[str, NDArray]:
        frames = np.arange(start, start + count)
        first = int(self._ends[episode]) - self._contents.lengths[episode]
        return {
            "timestamp": (frames / self._fps).astype(np.float32),
            "frame_index": frames,
            "episode_index": np.full(count, episode),
            "index": first + frames,
            "task_index": np.full(count, self._contents.tasks[episode]),
        }

    def _write(self, held: list[dict[str, NDArray]]) -> None:
        assert self._data is not None
        columns = {_feature(key): np.concatenate([part[key] for part in held]) for key in held[0]}
        self._data.write(columns)

    def _entry(self, episode: int, summaries: Mapping[str, Summary]) -> dict[str, Any]:
        """Return the row of meta/episodes."""
        length, end = self._contents.lengths[episode], int(self._ends[episode])
        entry = {
            "episode_index": episode,
            "tasks": [self._task_strings()[self._contents.tasks[episode]]],
            "length": length,
            "dataset_from_index": end - length,
            "dataset_to_index": end,
            **{f"data/{name}": value for name, value in self._place.items()},
        }
        for key in self._contents.pictures:
            since, until = self._shard_rows / self._fps, (self._shard_rows + length) / self._fps
            where = {**self._place, "from_timestamp": since, "to_timestamp": until}
            entry |= {f"videos/{key}/{name}": value for name, value in where.items()}
        for key, summary in summaries.items():
            entry |= {f"stats/{_feature(key)}/{name}": value for name, value in summary.result().items()}
        return {**entry, "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}

    def _task_strings(self) -> list[str]:
        """Return what tasks are called: the language of the data set they come from, or their names."""
        strings = self._known.get("task_strings", [])
        return strings if len(strings) == len(self._contents.names) else list(self._contents.names)

    def _close_shard(self, past: int) -> None:
        self._release()
        for path in self._paths.values():
            _flush(path)
        note = self._notes / f"{past:08d}.json"
        write_json(note, self._entries)
        self._notes_done.append(note)

    def finish(self) -> Path:
        """Write the index and return the folder."""
        if self._data is not None:
            self._close_shard(len(self._contents.lengths))
        entries = [entry for note in self._notes_done for entry in read_json(note)]
        contents, meta = self._contents, self._root / "meta"
        parquet.write_records(meta / "episodes/chunk-000/file-000.parquet", entries)
        tasks = [{"task_index": number, "task": text} for number, text in enumerate(self._task_strings())]
        parquet.write_records(meta / "tasks.parquet", tasks, index="task")
        merged = {_feature(key): Summary.merged(entries, _feature(key)) for key in contents.fields}
        merged = {feature: found for feature, found in merged.items() if found}
        write_json(meta / "stats.json", merged)
        write_json(meta / "info.json", self._info())
        write_json(self._root / DOCUMENT, json_document(contents, attempts=list(contents.attempts)))
        return self._root

    def _info(self) -> dict[str, Any]:
        contents = self._contents
        features = {_feature(key): self._describe(key, found) for key, found in contents.fields.items()}
        features["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
        features |= {name: {"dtype": "int64", "shape": [1], "names": None} for name in INTEGERS}
        return {
            "codebase_version": VERSION,
            "robot_type": self._known.get("robot_type"),
            "total_episodes": len(contents.lengths),
            "total_frames": sum(contents.lengths),
            "total_tasks": len(contents.names),
            "chunks_size": CHUNK_FILES,
            "data_files_size_in_mb": DATA_MB,
            "video_files_size_in_mb": VIDEO_MB,
            "fps": self._fps,
            "splits": self._known.get("splits") or {"train": f"0:{len(contents.lengths)}"},
            **PATHS,
            "video_path": PATHS["video_path"] if contents.pictures else None,
            "features": features,
        }

    def _describe(self, key: str, found: Field) -> dict[str, Any]:
        """Return a feature."""
        if not found.is_picture:
            names = self._known.get("names", {}).get(key)
            return {"dtype": found.dtype.name, "shape": list(_row_shape(found)) or [1], "names": names}
        even = all(size % 2 == 0 for size in found.shape[:2])
        pixels = ("yuv420p" if even else "yuv444p") if self._quality else "gbrp"
        video = {"codec": "h264", "pix_fmt": pixels, "height": found.shape[0], "width": found.shape[1], "channels": 3}
        info = {f"video.{name}": value for name, value in {**video, "fps": self._fps, "is_depth_map": False}.items()}
        names = ["height", "width", "channels"]
        return {"dtype": "video", "shape": list(found.shape), "names": names, "info": {**info, "has_audio": False}}

    def _release(self) -> None:
        for video in self._videos.values():
            video.close()
        if self._data is not None:
            self._data.close()
        self._videos, self._data = {}, None

    def close(self) -> None:
        """Close an unfinished shard, which is written anew next time."""
        self._release()


def _row_shape(found: Field) -> tuple[int, ...]:
    """Return the shape that LeRobot gives a row: single numbers have none."""
    return () if found.shape == (1,) else found.shape


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
