"""The demonstrations that a run learns from: whether they are there, enough and of the right sizes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trcl_policy.config import RunConfig
from trcl_policy.data.store import EpisodeStore
from trcl_policy.schema import ConfigError


def open_demonstrations(config: RunConfig, tasks: Sequence[str]) -> EpisodeStore:
    """The run's episode store.

    Raises:
        ConfigError: it does not exist or holds too few episodes of a task; the message says how to make it.
    """
    path, wanted = config.data.store, config.data.episodes
    remedy = f"make it with: trcl collect --tasks {_spell(config.tasks)} --episodes {wanted} --out {path}"
    if not Path(path).exists():
        raise ConfigError(f"data.store must be an episode store, got {path}, which does not exist; {remedy}")
    store = EpisodeStore.open(path)
    for task in tasks:
        held = store.num_episodes(task) if task in store.task_names else 0
        if held < wanted:
            raise ConfigError(f"data.store must hold {wanted} episodes of {task}, got {held} in {path}; {remedy}")
    return store


def check_sizes(name: str, found: tuple[int, int], wanted: tuple[int, int]) -> None:
    """Hold the sizes of the data's observations and actions to those of the task."""
    for what, size, expected in zip(("observations", "actions"), found, wanted, strict=True):
        if size != expected:
            raise ConfigError(
                f"data.store must hold {what} of {expected} numbers for {name}, as it is simulated, got {size}"
            )


def _spell(tasks: str | Sequence[str]) -> str:
    return tasks if isinstance(tasks, str) else ",".join(tasks)
