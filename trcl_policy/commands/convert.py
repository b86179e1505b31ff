"""``trcl convert``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from trcl_policy.commands.parsing import say
from trcl_policy.schema import ConfigError


@dataclass(frozen=True)
class Convert:
    """Write a data set in another format; a stopped conversion goes on with the same command.

    Attributes:
        src: episode store, robomimic HDF5, LeRobotDataset v3, or diffusion_policy zarr (folder or zip).
        dst: what to write; must not exist.
        to: zarr, robomimic, lerobot or diffusion_policy; not needed where DST ends in .zarr, .hdf5 or .zarr.zip.
        observation_keys: of robomimic's vector observations, those that make up observation.state, joined by commas, in
            this order; the others are kept beside it. All of them where not given.
        keys: names of arrays, as FOREIGN=OURS joined by commas, such as img=observation.images.front.
        drop: arrays to leave out, by our names, joined by commas.
        task: name of the task, where SRC has only one.
        rename_tasks: as OLD=NEW joined by semicolons, such as "press the button=button-press-topdown-v3".
        control_frequency: control steps per second [Hz], where SRC does not say it; 0 takes what SRC says.
        mask: only the episodes of this filter of a robomimic file, such as train.
        video_quality: of pictures in LeRobot's videos: 0 keeps every value, 1 to 51 loses more and more (18 is good).
        allow_loss: write although something has no place in the format; what, is told.
        json: print one JSON document.
    """

    src: tyro.conf.Positional[Path]
    dst: tyro.conf.Positional[Path]
    to: str | None = None
    observation_keys: str = ""
    keys: str = ""
    drop: str = ""
    task: str | None = None
    rename_tasks: str = ""
    control_frequency: float = 0.0
    mask: str | None = None
    video_quality: int = 0
    allow_loss: bool = False
    json: bool = False


def convert(options: Convert) -> int:
    """Run ``trcl convert``."""
    from trcl_policy.commands.parsing import Stopped
    from trcl_policy.data.contents import Choices
    from trcl_policy.data.convert import convert as write

    choices = Choices(
        observation_keys=_words(options.observation_keys),
        keys=_pairs("keys", options.keys, ","),
        drop=_words(options.drop),
        task=options.task,
        rename_tasks=_pairs("rename-tasks", options.rename_tasks, ";"),
        control_frequency=options.control_frequency or None,
        mask=options.mask,
        allow_loss=options.allow_loss,
        video_quality=options.video_quality,
    )
    try:
        report = write(options.src, options.dst, options.to, choices)
    except KeyboardInterrupt:
        raise Stopped("stopped; the same command goes on from here") from None
    document = {
        "path": str(report.path),
        "format": report.format,
        "episodes": report.episodes,
        "rows": report.rows,
        "fingerprint": report.fingerprint,
        "resumed": report.resumed,
        "lost": list(report.losses),
        "errors": {key: {"mean": mean, "largest": largest} for key, mean, largest in report.errors},
    }
    lines = [f"lost: {line}" for line in report.losses]
    lines += [f"{key}: differs by {mean:.2f} on average, {most:g} at most, of 255" for key, mean, most in report.errors]
    if report.resumed:
        lines.append(f"went on after {report.resumed} episodes of a stopped conversion")
    lines.append(
        f"{report.path}: {report.format}, {report.episodes} episodes, {report.rows} rows, "
        f"fingerprint {report.fingerprint[:12]}, read back and equal"
    )
    say(options.json, document, "\n".join(lines))
    return 0


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _pairs(name: str, text: str, between: str) -> dict[str, str]:
    """Return ``A=B`` pairs; raises ConfigError for what is none."""
    pairs = {}
    for word in filter(None, (part.strip() for part in text.split(between))):
        old, equals, new = (part.strip() for part in word.partition("="))
        if not (old and equals and new):
            raise ConfigError(f"--{name} must be OLD=NEW pairs joined by {between!r}, got {word!r}")
        pairs[old] = new
    return pairs
