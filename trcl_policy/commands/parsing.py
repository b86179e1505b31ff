"""Words of the command line into typed options, and what every command prints with."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import re
import typing
from collections.abc import Iterator
from typing import Any, TypeVar

import tyro

from trcl_policy.schema import ConfigError, nearest

Options = TypeVar("Options")
KINDS = {"INT": "a whole number", "FLOAT": "a number"}


class Stopped(Exception):
    """Raised when a command was interrupted with its work saved; the message says how to go on."""


def parse(options: type[Options], name: str, words: list[str]) -> Options:
    """Options from words by tyro; what is wrong becomes one line.

    Raises:
        ConfigError: an unknown option, a missing one or a value of the wrong type.
    """
    if not {"-h", "--help"} & set(words):
        _check(options, name, words)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(options, prog=f"trcl {name}", args=words, config=(tyro.conf.FlagCreatePairsOff,))
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ConfigError(f"{_reworded(complaint.getvalue())}; see trcl {name} --help") from None


def _check(options: Any, name: str, words: list[str]) -> None:
    """Find what tyro would explain in a box: names that don't exist, values and words that are missing or too many."""
    fields = {field.name: field for field in dataclasses.fields(options)}
    hints = typing.get_type_hints(options, include_extras=True)
    positional = [field for field in fields if "Positional" in str(hints[field])]
    flags = [f"--{field.replace('_', '-')}" for field in fields if field not in positional]
    given, loose = _sorted_words(words, {field for field, hint in hints.items() if hint is bool}, name)
    for key in given:
        if key not in flags:
            raise ConfigError(f"unknown option {key}{nearest(key, flags)}; see trcl {name} --help")
    many = bool(positional) and "tuple" in str(hints[positional[0]])
    if len(loose) > len(positional) and not many:
        raise ConfigError(f"{name} takes no word {loose[len(positional)]!r} here; see trcl {name} --help")
    missing = [f"a {field.removesuffix('s').upper()}" for field in positional[len(loose) :]]
    missing += [flag for flag in flags if _required(fields[flag[2:].replace("-", "_")]) and flag not in given]
    if missing:
        raise ConfigError(f"{name} needs {' and '.join(missing)}, got {' '.join(words) or 'nothing'}")


def _sorted_words(words: list[str], booleans: set[str], name: str) -> tuple[list[str], list[str]]:
    """Names of the options in ``words``, with dashes, and the words that belong to none."""
    given, loose = [], []
    rest: Iterator[str] = iter(words)
    for word in rest:
        if not word.startswith("-") or word == "-":
            loose.append(word)
            continue
        key, equals, _ = word.partition("=")
        given.append(key.replace("_", "-"))
        if not equals and key.lstrip("-").replace("-", "_") not in booleans:
            value = next(rest, None)
            if value is None or value.startswith("--"):
                raise ConfigError(f"{key} needs a value, got {value or 'nothing after it'}; see trcl {name} --help")
    return given, loose


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _reworded(complaint: str) -> str:
    """One line of tyro's box: the fault, without frame and help."""
    text = " ".join(line.strip("│╭╮╰╯─ ") for line in complaint.splitlines()[1:])
    wrong = re.search(r"Error parsing (--\S+): .*? '(.*?)' .*?--\S+ (?:\{None\}\|)?([A-Z]+)", f"{text} ")
    if wrong:
        return f"{wrong[1]} must be {KINDS.get(wrong[3], wrong[3].lower())}, got {wrong[2]!r}"
    return re.split(r" For full helptext| ─{3}", text)[0].strip()


def say(as_json: bool, document: Any, text: str) -> None:
    """Print one JSON document, or the text for people."""
    print(json.dumps(document, indent=2) if as_json else text)
