"""Tasks and sequences of other packages, found by their entry points and loaded when they are asked for.

A package names them in its ``pyproject.toml``::

    [project.entry-points."trcl_envs.tasks"]
    my-task = "my_package:spec"

    [project.entry-points."trcl_envs.sequences"]
    my-sequence = "my_package:SEQUENCE"

Finding their names imports nothing of the package.
"""

from __future__ import annotations

import re
import sys
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from trcl_envs.interface import SimulationError, TaskSpec

TASKS = "trcl_envs.tasks"
SEQUENCES = "trcl_envs.sequences"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?<!-v3)(?<!-robosuite)")


def plugin_names(group: str) -> list[str]:
    """Names that installed packages give to what they add to ``group``, sorted."""
    return sorted(_found(group, tuple(sys.path)))


def load_task(name: str) -> TaskSpec:
    """The task of another package.

    Raises:
        SimulationError: the package can't be imported.
        ValueError: what it names is no ``TaskSpec`` of this name, nor a function that returns one.
    """
    entry, found = _load(TASKS, name)
    spec = found() if callable(found) else found
    if not isinstance(spec, TaskSpec):
        raise ValueError(f"{entry} must be a TaskSpec or a function that returns one, got {type(spec).__name__}")
    if spec.info.name != name or not NAME.fullmatch(name):
        raise ValueError(
            f"{entry} must be called by letters, digits, dots and dashes without -v3 or -robosuite at the end, "
            f"and have that name in its info too; got {name!r} and {spec.info.name!r}"
        )
    return spec


def load_sequence(name: str) -> list[Any]:
    """The task names in a sequence of another package, as it spells them.

    Raises:
        SimulationError: the package can't be imported.
        ValueError: what it names is no list or tuple.
    """
    entry, found = _load(SEQUENCES, name)
    if not isinstance(found, list | tuple):
        raise ValueError(f"{entry} must be a list or tuple of task names, got {type(found).__name__}")
    return list(found)


def _load(group: str, name: str) -> tuple[str, Any]:
    """How messages call an entry point, and what it names."""
    entry = _found(group, tuple(sys.path))[name]
    where = f"{group} {entry.name} = {entry.value!r}"
    try:
        return where, entry.load()
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SimulationError(f"{where} can't be loaded: {type(error).__name__}: {reason}") from error


@cache
def _found(group: str, path: tuple[str, ...]) -> dict[str, EntryPoint]:
    """Entry points of a group; looking through all installed packages takes milliseconds, so once for each path."""
    return {entry.name: entry for entry in entry_points(group=group)}
