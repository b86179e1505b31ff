"""``trcl train``."""

from __future__ import annotations

import dataclasses
import typing
from typing import TYPE_CHECKING, Any

import tyro

from trcl_policy.commands.parsing import Stopped
from trcl_policy.config import RunConfig, load_config
from trcl_policy.schema import ConfigError, field_names, nearest

if TYPE_CHECKING:
    from trcl_policy.folder import RunFolder

GROUPS = tuple(field.name for field in dataclasses.fields(RunConfig))
SHORT = {"env-python": "simulation.env_python", "env_python": "simulation.env_python"}
SWITCHES = tuple(name for name, kind in typing.get_type_hints(RunConfig).items() if kind is bool)


def train(words: list[str]) -> int:
    """Run ``trcl train CONFIG [--section.key VALUE ...] --out RUN`` or ``trcl train --resume RUN``."""
    if "-h" in words or "--help" in words:
        print("usage: trcl train CONFIG --out RUN [--section.key VALUE ...]\n       trcl train --resume RUN\n")
        print("CONFIG is a YAML file or the name of one that ships with the package.")
        print("--env-python PATH is short for --simulation.env_python PATH. Settings:\n")
        tyro.cli(RunConfig, prog="trcl train CONFIG --out RUN", args=["--help"], config=(tyro.conf.FlagConversionOff,))
    positional, settings = _split(words)
    goes_on, out = settings.pop("resume", None), settings.pop("out", None)
    from trcl_policy.run import Interrupted, resume
    from trcl_policy.run import train as learn

    if goes_on is not None:
        if positional or settings or out is not None:
            raise ConfigError(f"--resume takes a run and nothing else, got also {' '.join(words)}")
        where = str(goes_on)
    elif len(positional) != 1 or out is None:
        raise ConfigError(
            "train needs one CONFIG and --out RUN (or --resume RUN), got " + (" ".join(words) or "nothing")
        )
    else:
        where = str(out)
    try:
        folder = resume(where) if goes_on is not None else learn(load_config(positional[0], settings), where)
    except Interrupted:
        raise Stopped(f"stopped and saved; go on with: trcl train --resume {where}") from None
    _print_run(folder)
    return 0


def _split(words: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Positional words and settings; ``--a.b value``, ``--a.b=value`` and ``a.b=value`` are all read."""
    positional: list[str] = []
    settings: dict[str, Any] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        key, equals, value = word.removeprefix("--").partition("=")
        key = SHORT.get(key, key).replace("-", "_")
        if not word.startswith("--") and (not equals or key.split(".")[0] not in GROUPS):
            positional.append(word)
            continue
        if key not in (*field_names(RunConfig), *GROUPS, "out", "resume"):
            close = nearest(key, [*field_names(RunConfig), "out", "resume"])
            raise ConfigError(f"unknown setting {key}{close}; see trcl train --help")
        if not equals:
            value = _following(word, key, rest)
        settings[key] = value if key in ("out", "resume") else _read(word, value)
    return positional, settings


def _following(word: str, key: str, rest: list[str]) -> str:
    """The value after ``word``, taken off ``rest``; a switch needs none."""
    if key in SWITCHES and (not rest or rest[0].lower() not in ("true", "false")):
        return "true"
    if not rest or rest[0].startswith("--"):
        raise ConfigError(f"{word} needs a value, got {rest[0] if rest else 'nothing after it'}")
    return rest.pop(0)


def _read(word: str, value: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"{word} needs a value that YAML can read, got {value!r}") from None


def _print_run(folder: RunFolder) -> None:
    from trcl_policy.report.page import summary_text

    print(summary_text([folder.path]))
    print(f"run: {folder.path}")
