"""Images of the project's own simulated tasks: class = task, random starts, experts in motion, kept in one npz file."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from trcl_envs.catalog import make_env, make_expert, make_renderer, resolve_sequence
from trcl_policy.files import write_bytes
from trcl_policy.rollout.collect import episode_seed

FORMAT = 1
WORLDS = 8
STEPS = 60
"""Each episode gives one image, from a control step drawn from 0 to STEPS - 1."""


def make_scenes(
    path: Path | str, tasks: str | Sequence[str], per_class: int, size: int = 32, seed: int = 0, progress: bool = True
) -> Path:
    """Render ``per_class`` images of every task, unless ``path`` holds these very images already.

    The file holds ``image`` (N, size, size, 3) bytes, ``label`` (N,) and ``names`` (K,), as ``arrays`` data do. Image n
    of a task depends on (task, seed, n) alone.

    Args:
        path: the npz file.
        tasks: a sequence or task names, as for ``trcl collect``.
        per_class: images of each task, each from an episode of its own.
        size: height and width [pixels].
        seed: defines, with the task, all starts and moments.
        progress: show a bar on stderr, if that is a terminal.

    Raises:
        ValueError: an impossible number, an unknown task, or ``path`` holds other images.
        SimulationError: this machine can't simulate or draw.
        FileError: the file can't be written.
    """
    if per_class < 1 or size < 2:
        raise ValueError(f"per_class must be >= 1 and size >= 2 [pixels], got {per_class} and {size}")
    path, names = Path(path), tuple(dict.fromkeys(resolve_sequence(tasks)))
    settings = json.dumps([FORMAT, names, per_class, size, seed])
    if path.exists():
        _check_same(path, settings)
        return path
    with tqdm(total=len(names) * per_class, desc="scenes", unit="image", disable=None if progress else True) as bar:
        images = np.concatenate([_rendered(name, per_class, size, seed, bar) for name in names])
    content = io.BytesIO()
    labels = np.repeat(np.arange(len(names)), per_class)
    np.savez_compressed(content, image=images, label=labels, names=np.array(names), settings=np.array(settings))
    write_bytes(path, content.getvalue())
    return path


def _check_same(path: Path, settings: str) -> None:
    try:
        with np.load(path, allow_pickle=False) as file:
            found = str(file["settings"]) if "settings" in file.files else "none"
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} must be an npz file of scenes, got: {' '.join(str(error).split())}") from None
    if found != settings:
        raise ValueError(f"{path} must hold the scenes {settings}, got {found}: delete it or name another path")


def _rendered(task: str, count: int, size: int, seed: int, bar: Any) -> NDArray[np.uint8]:
    """Images (count, size, size, 3) of one task."""
    env, expert = make_env(task, min(WORLDS, count)), make_expert(task)
    renderer = make_renderer(task, size, size)
    images = np.empty((count, size, size, 3), np.uint8)
    try:
        for start in range(0, count, WORLDS):
            numbers = range(start, min(start + WORLDS, count))
            moments = np.array([episode_seed("moment", task, seed, n) % STEPS for n in numbers])
            observation = env.reset([episode_seed("scene", task, seed, n) for n in numbers])
            expert.reset(len(numbers))
            for _ in range(int(moments.max())):
                going = moments > 0
                actions = np.clip(expert.actions(observation), -1, 1)
                observation = env.step(actions, active=going).observation
                moments = moments - going
            for row, number in enumerate(numbers):
                images[number] = renderer.frame(env.scene(row))
            bar.update(len(numbers))
    finally:
        renderer.close()
        env.close()
    return images
