"""``trcl train``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tyro

from trcl_policy.commands.parsing import Stopped
from trcl_policy.config import RunConfig, load_config
from trcl_policy.schema import ConfigError, field_names

if TYPE_CHECKING:
    from trcl_policy.folder import RunFolder


def train(words: list[str]) -> int:
    """Run ``trcl train CONFIG [--section.key VALUE ...] --out RUN`` or ``trcl train --resume RUN``."""
    if "-h" in words or "--help" in words:
        print("usage: trcl train CONFIG --out RUN [--section.key VALUE ...]\n       trcl train --resume RUN\n")
        print("CONFIG is a YAML file or the name of one that ships with the package. Settings:\n")
        tyro.cli(RunConfig, prog="trcl train CONFIG --out RUN", args=["--help"], config=(tyro.conf.FlagCreatePairsOff,))
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
    import yaml

    positional: list[str] = []
    settings: dict[str, Any] = {}
    rest = iter(words)
    for word in rest:
        key, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") and (not equals or key not in field_names(RunConfig)):
            positional.append(word)
            continue
        if not equals:
            found = next(rest, None)
            if found is None:
                raise ConfigError(f"{word} needs a value, got nothing after it")
            value = found
        key = key.replace("-", "_")
        try:
            settings[key] = value if key in ("out", "resume") else yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"{word} needs a value that YAML can read, got {value!r}") from None
    return positional, settings


def _print_run(folder: RunFolder) -> None:
    from trcl_policy.report.page import summary_text

    print(summary_text([folder.path]))
    print(f"run: {folder.path}")
