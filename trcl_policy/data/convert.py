"""Data sets from one format into another: in blocks, resumable, verified, and there whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from trcl_policy.data.arrays import acquire
from trcl_policy.data.contents import Choices, Contents, Sink, Source, all_rows, checked, fingerprint, json_document
from trcl_policy.data.store_format import StoreSink, StoreSource, is_store, renamed
from trcl_policy.files import explained, read_json, write_json

FORMATS = ("zarr", "robomimic", "lerobot", "diffusion_policy")


@dataclass(frozen=True)
class Report:
    """What a conversion did.

    Attributes:
        path: what was written.
        format: one of FORMATS.
        episodes: episodes in it.
        rows: control steps in it.
        fingerprint: that of an episode store with these contents, without ``errors``.
        resumed: episodes that an earlier, stopped conversion had written.
        losses: what was lost, one line each.
        errors: by array that was compressed with loss, mean and largest difference of its values.
    """

    path: Path
    format: str
    episodes: int
    rows: int
    fingerprint: str
    resumed: int = 0
    losses: tuple[str, ...] = ()
    errors: tuple[tuple[str, float, float], ...] = ()


def detect(path: Path) -> str:
    """Return the format of what lies at ``path``, by what is in it.

    Raises:
        ValueError: none of FORMATS.
        FileError: nothing is there, or it can't be read.
    """
    with explained("read", path):
        if path.is_file():
            with open(path, "rb") as file:
                head = file.read(8)
            found = {b"\x89HDF\r\n\x1a\n": "robomimic", b"PK\x03\x04": "diffusion_policy"}
            for magic, name in found.items():
                if head.startswith(magic):
                    return name
        else:
            os.listdir(path)
    if (path / "meta" / "info.json").is_file():
        return "lerobot"
    if is_store(path):
        return "zarr"
    if (path / "meta" / "episode_ends").is_dir():
        return "diffusion_policy"
    raise ValueError(
        f"SRC must be an episode store, a robomimic HDF5, a LeRobotDataset v3 or a diffusion_policy zarr, got {path}"
    )


def guess(path: Path) -> str:
    """Return the format that a name asks for; raises ValueError where its ending leaves it open."""
    name = path.name.lower()
    if name.endswith((".hdf5", ".h5")):
        return "robomimic"
    if name.endswith(".zarr.zip"):
        return "diffusion_policy"
    if name.endswith(".zarr"):
        return "zarr"
    raise ValueError(f"--to must be one of {', '.join(FORMATS)} where DST's ending does not say it, got {path.name}")


def open_source(path: Path, choices: Choices, form: str | None = None) -> Source:
    """Open a data set of any format for reading; raises ValueError or FileError, one line."""
    form = form or detect(path)
    try:
        return _opened(path, choices, form)
    except (KeyError, TypeError, AttributeError, IndexError) as error:  # descriptions that are no lists, have no names
        why = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise ValueError(f"{path} must be described as {form} is, got a description that fails with {why}") from error


def _opened(path: Path, choices: Choices, form: str) -> Source:
    if form == "zarr":
        return StoreSource(path, choices)
    if form == "robomimic":
        from trcl_policy.data.robomimic import RobomimicSource

        return RobomimicSource(path, choices)
    if form == "lerobot":
        from trcl_policy.data.lerobot import LeRobotSource

        return LeRobotSource(path, choices)
    from trcl_policy.data.diffusion_policy import BufferSource

    return BufferSource(path, choices)


def open_sink(form: str, folder: Path, contents: Contents, choices: Choices, name: str) -> Sink:
    """Open a data set of any format for writing in ``folder``."""
    if form == "zarr":
        return StoreSink(folder, contents)
    if form == "robomimic":
        from trcl_policy.data.robomimic_writing import RobomimicSink

        return RobomimicSink(folder, contents)
    if form == "lerobot":
        from trcl_policy.data.lerobot_writing import LeRobotSink

        return LeRobotSink(folder, contents, choices)
    from trcl_policy.data.diffusion_policy import BufferSink

    return BufferSink(folder, contents, choices, zipped=name.endswith(".zip"))


def losses_of(form: str, contents: Contents) -> tuple[str, ...]:
    """Return what a format can't hold of these contents, one line each."""
    if form != "lerobot":
        return ()
    from trcl_policy.data.lerobot_writing import losses

    return losses(contents)


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    to: str | None = None,
    choices: Choices | None = None,
    progress: bool = True,
) -> Report:
    """Write the data set at ``source`` to ``target`` in another format.

    Work in progress lies in ``.<target>.converting`` beside the target, which appears only when it is whole and has
    been read back and found equal to the source. The same call goes on where a killed one stopped.

    Args:
        source: any format; which one is seen from its contents.
        target: must not exist.
        to: one of FORMATS; guessed from the target's ending where that is clear.
        choices: what the user says.
        progress: show bars on stderr, if that is a terminal.

    Raises:
        ValueError: a damaged source, something that would be lost, or a choice that does not fit; nothing is written.
        FileError: the machine refuses.
    """
    source, target, choices = Path(source), Path(target), choices or Choices()
    form = to if to is not None else guess(target)
    if form not in FORMATS:
        raise ValueError(f"to must be one of {', '.join(FORMATS)}, got {form!r}")
    if target.exists():
        raise ValueError(f"DST must be new, got {target}, which exists")
    reader = open_source(source, choices)
    try:
        contents = renamed(reader.contents, choices)
        reader.contents = contents
        lost = (*reader.losses, *losses_of(form, contents))
        if lost and not choices.allow_loss:
            raise ValueError(f"would be lost (--allow-loss writes nevertheless): {'; '.join(lost)}")
        with explained("write", target):
            target.parent.mkdir(parents=True, exist_ok=True)
        return _Work(reader, source, target, form, choices, progress).run(lost)
    finally:
        reader.close()


@dataclass(frozen=True)
class _Work:
    """One conversion: staging folder, copy, verification, appearance."""

    reader: Source
    source: Path
    target: Path
    form: str
    choices: Choices
    progress: bool

    def run(self, lost: tuple[str, ...]) -> Report:
        """Convert, verify and put the result in its place; ``lost`` names what the format can't hold."""
        staging = self.target.with_name(f".{self.target.name}.converting")
        with explained("write", staging):
            staging.mkdir(exist_ok=True)
        lock = acquire(staging)
        try:
            report = self._staged(staging, lost)
        except (ValueError, ImportError):  # the input's fault, or a package that is missing: nothing to go on with
            shutil.rmtree(staging, ignore_errors=True)
            raise
        finally:
            os.close(lock)
        shutil.rmtree(staging, ignore_errors=True)
        return report

    def _staged(self, staging: Path, lost: tuple[str, ...]) -> Report:
        work, contents = staging / "work", self.reader.contents
        self._prepare(staging, work)
        sink = open_sink(self.form, work, contents, self.choices, self.target.name)
        try:
            resumed = sink.done
            self._copy(sink, resumed)
            written = sink.finish()
        finally:
            sink.close()
        digest, errors = self._verify(written, sink.lossy)
        with explained("write", self.target):
            os.replace(written, self.target)
        rows = sum(contents.lengths)
        return Report(self.target, self.form, len(contents.lengths), rows, digest, resumed, lost, errors)

    def _prepare(self, staging: Path, work: Path) -> None:
        """Keep what an earlier conversion of the same source in the same way left; remove anything else."""
        changed = max((self.source, *self.source.glob("meta/*")), key=lambda path: path.stat().st_mtime_ns).stat()
        contents = json.loads(json.dumps(json_document(self.reader.contents), sort_keys=True))
        plan: dict[str, Any] = {
            "source": [str(self.source.resolve()), changed.st_mtime_ns],
            "contents": [contents, list(self.reader.contents.lengths), list(self.reader.contents.tasks)],
            "to": self.form,
            "choices": json.loads(json.dumps(asdict(self.choices))),
        }
        file = staging / "plan.json"
        if not file.exists() or read_json(file) != plan:
            shutil.rmtree(work, ignore_errors=True)
            write_json(file, plan)
        with explained("write", work):
            work.mkdir(exist_ok=True)

    def _copy(self, sink: Sink, done: int) -> None:
        contents, reader = self.reader.contents, self.reader
        with self._bar(f"write {self.form}", sum(contents.lengths), "rows") as bar:
            bar.update(sum(contents.lengths[:done]))
            for episode in range(done, len(contents.lengths)):

                def read(key: str, episode: int, start: int, stop: int) -> np.ndarray:
                    rows = reader.rows(key, episode, start, stop)
                    return checked(key, rows, contents.fields[key], f"in episode {episode}")

                sink.append(episode, contents.blocks(episode, read))
                bar.update(contents.lengths[episode])

    def _verify(self, written: Path, lossy: tuple[str, ...]) -> tuple[str, tuple[tuple[str, float, float], ...]]:
        """Read back what was written and compare it with the source; returns fingerprint and errors of videos."""
        plain = replace(self.choices, **NEUTRAL)
        result = open_source(written, plain, self.form)
        try:
            exact = [key for key in self.reader.contents.fields if key not in lossy]
            size = sum(self.reader.contents.fields[key].row_bytes for key in exact) * sum(self.reader.contents.lengths)
            with self._bar("verify", 2 * size, "B") as bar:
                wanted = fingerprint(self.reader, lossy, bar.update)
                got = fingerprint(result, lossy, bar.update)
            if got != wanted:
                raise ValueError(f"what was written must have the fingerprint {wanted}, got {got}; nothing is kept")
            return wanted, tuple(_error(self.reader, result, key) for key in lossy)
        finally:
            result.close()

    def _bar(self, what: str, total: int, unit: str) -> Any:
        return tqdm(total=total, desc=what, unit=unit, unit_scale=True, disable=None if self.progress else True)


NEUTRAL: dict[str, Any] = {
    name: getattr(Choices(), name) for name in ("observation_keys", "keys", "drop", "task", "rename_tasks", "mask")
}
"""Choices that concern the source only: what was written is read back without them."""


def _error(source: Source, result: Source, key: str) -> tuple[str, float, float]:
    """Return an array's name and the mean and largest difference of its values between two data sets."""
    total, largest, count = 0.0, 0.0, 0
    for one, other in zip(all_rows(source, key), all_rows(result, key), strict=True):
        apart = np.abs(one.astype(np.int16) - other.astype(np.int16))
        total, count = total + float(apart.sum(dtype=np.int64)), count + apart.size
        largest = max(largest, float(apart.max()))
    return key, total / max(count, 1), largest
