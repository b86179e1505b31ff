"""Typed dataclasses from plain mappings, strictly: what is wrong becomes one line that tells the next step."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any


class ConfigError(ValueError):
    """Raised for a configuration that can't be used; the message is one line."""


def nearest(name: str, accepted: Sequence[str] | Mapping[str, Any]) -> str:
    """`` (did you mean X?)`` for the accepted name X most like ``name``, or nothing."""
    close = difflib.get_close_matches(str(name), list(accepted), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def copied(mapping: Mapping[Any, Any]) -> dict[Any, Any]:
    """A copy whose nested mappings are copies, too."""
    return {key: copied(value) if isinstance(value, Mapping) else value for key, value in mapping.items()}


def set_dotted(document: dict[Any, Any], key: str, value: Any) -> None:
    """Set ``document[a][b] = value`` for the key ``a.b``."""
    *groups, last = key.split(".")
    for group in groups:
        inner = document.setdefault(group, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--{key} can't be set: {group} must be a group of settings, got {inner!r}")
        document = inner
    document[last] = value


def build(cls: type, document: Mapping[Any, Any], origin: str = "", prefix: str = "", known: Sequence[str] = ()) -> Any:
    """The dataclass ``cls`` with the values of ``document``; groups of settings are nested dataclasses.

    Args:
        cls: a dataclass whose construction raises ValueError for impossible values.
        document: keys and values as YAML gives them.
        origin: where the document comes from, for messages.
        prefix: dotted name of this group with a final dot, empty at the top.
        known: dotted names of all settings, for the nearest match; found out at the top.

    Raises:
        ConfigError: an unknown key, a wrong type or an impossible value.
    """
    hints, known = typing.get_type_hints(cls), known or field_names(cls)
    values: dict[str, Any] = {}
    where = f"{origin}: " if origin else ""
    for key, value in document.items():
        name = f"{prefix}{key}"
        if key not in hints:
            accepted = ", ".join(prefix + hint for hint in hints)
            raise ConfigError(f"{where}unknown key {name}{nearest(name, known)}; accepted: {accepted}")
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{where}{name} must be a group of settings, got {value!r}")
            values[key] = build(hints[key], value, origin, f"{name}.", known)
        else:
            values[key] = _convert(hints[key], value, f"{where}{name}")
    try:
        return cls(**values)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{where}{prefix}{error}") from None


def field_names(cls: Any, prefix: str = "") -> list[str]:
    """Dotted names of all settings."""
    names: list[str] = []
    for name, hint in typing.get_type_hints(cls).items():
        names += field_names(hint, f"{prefix}{name}.") if dataclasses.is_dataclass(hint) else [f"{prefix}{name}"]
    return names


def _convert(hint: Any, value: Any, name: str) -> Any:
    """``value`` as the type ``hint``; whole numbers count as floats, lists as tuples, nothing else is bent."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        for option in arguments:
            try:
                return _convert(option, value, name)
            except ConfigError:
                continue
        raise ConfigError(f"{name} must be {_describe(hint)}, got {value!r}")
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_convert(arguments[0], item, f"{name}[{place}]") for place, item in enumerate(value))
    if hint is float and isinstance(value, str):
        with contextlib.suppress(ValueError):  # YAML 1.1 reads 1e-3 as text
            value = float(value)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool) and value == value:  # no NaN
        return float(value)
    if hint is type(None) and value is None:
        return None
    if hint in (int, str, bool) and type(value) is hint:
        return value
    raise ConfigError(f"{name} must be {_describe(hint)}, got {value!r}")


def _describe(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_describe(option) for option in arguments)
    if origin is tuple:
        return f"a list of {_describe(arguments[0]).split(' ', 1)[-1]}s"
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(hint, str(hint))
