"""Words of the command line into typed options, and what every command prints with."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any, TypeVar

import tyro

from trcl_policy.schema import ConfigError

Options = TypeVar("Options")


class Stopped(Exception):
    """Raised when a command was interrupted with its work saved; the message says how to go on."""


def parse(options: type[Options], name: str, words: list[str]) -> Options:
    """Options from words by tyro, whose boxed complaints become one line."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(options, prog=f"trcl {name}", args=words, config=(tyro.conf.FlagCreatePairsOff,))
    except SystemExit as stop:
        if not stop.code:
            raise
        text = [line.strip("│╭╮╰╯─ ") for line in complaint.getvalue().splitlines()[1:]]
        useful = [line for line in text if line and "full helptext" not in line and "helptext:" not in line]
        raise ConfigError(f"trcl {name}: {'; '.join(useful[:4])}; see trcl {name} --help") from None


def say(as_json: bool, document: Any, text: str) -> None:
    """Print one JSON document, or the text for people."""
    print(json.dumps(document, indent=2) if as_json else text)
