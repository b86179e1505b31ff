"""Demonstrations from scripted experts: lockstep worlds in, successful episodes in the store out.

Attempt i of a task is defined by (task, seed, i) alone: its start state and its noise do not depend on how many worlds
run side by side, nor on when the collection was interrupted. The store keeps the first successful attempts, in order.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from trcl_envs.interface import BatchedEnv, Expert
from trcl_policy.data.layout import IMAGES
from trcl_policy.data.store import Episode, EpisodeStore
from trcl_policy.rollout.seeing import Eyes

MAX_ATTEMPTS_PER_EPISODE = 10


class CollectError(RuntimeError):
    """Raised when an expert succeeds too rarely to go on."""


@dataclass(frozen=True)
class CollectReport:
    """What one call of :func:`collect` did.

    Attributes:
        kept: successful episodes added to the store.
        failed: attempts thrown away.
        steps: control steps added to the store.
        seconds: wall-clock time [s].
        already: episodes of the task that the store held before.
    """

    kept: int
    failed: int
    steps: int
    seconds: float
    already: int


@dataclass(frozen=True)
class Settings:
    """What defines a task's attempts; episodes collected under other settings do not go into the same store.

    Attributes:
        seed: first part of every attempt's own seed.
        noise: standard deviation of Gaussian noise on the expert's actions [action units], added before clipping.
        extra_steps: control steps kept after the first success.
    """

    seed: int = 0
    noise: float = 0.1
    extra_steps: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.noise < float("inf"):
            raise ValueError(f"noise must be >= 0 [action units], got {self.noise}")
        if self.extra_steps < 0:
            raise ValueError(f"extra_steps must be >= 0 [control steps], got {self.extra_steps}")


def episode_seed(purpose: str, task: str, seed: int, attempt: int) -> int:
    """Return the seed, in [0, 2**31), of one attempt; different for every purpose, task, seed and attempt."""
    digest = hashlib.sha256(f"{purpose}/{task}/{seed}/{attempt}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def collect(
    store: EpisodeStore,
    make_env: Callable[[str, int], BatchedEnv],
    make_expert: Callable[[str], Expert],
    task: str,
    episodes: int,
    seed: int = 0,
    noise: float = 0.1,
    num_worlds: int = 10,
    extra_steps: int = 0,
    progress: bool = True,
    cameras: Sequence[str] = (),
    image_size: int = 64,
) -> CollectReport:
    """Bring a task's successful episodes in the store to ``episodes``, going on after what is there already.

    Args:
        store: open for appending; lists the task afterwards.
        make_env: builds worlds from (task, num_worlds).
        make_expert: builds the scripted controller from (task).
        task: registered name.
        episodes: wanted in the store, at least 0; episodes held already count.
        seed: defines, with the task, all attempts.
        noise: standard deviation of Gaussian action noise [action units], added before clipping to [-1, 1].
        num_worlds: worlds in lockstep; changes the speed, not the episodes.
        extra_steps: control steps kept after the first success; an episode ends at the horizon at the latest.
        progress: show a bar on stderr, if that is a terminal.
        cameras: names of cameras whose pictures are kept of every step.
        image_size: height and width of the pictures [pixels].

    Raises:
        ValueError: an impossible number, or the store holds episodes of the task collected with other settings, or
            pictures of other cameras or of another size.
        SimulationError: there are cameras and this machine can't draw.
        CollectError: fewer than one success in 10 attempts over all.
        FileError: the store can't be written; the episodes appended so far stay.
    """
    if num_worlds < 1 or episodes < 0:
        raise ValueError(f"num_worlds must be >= 1 and episodes >= 0, got {num_worlds} and {episodes}")
    settings = Settings(seed, noise, extra_steps)
    _check_settings(store, task, settings)
    _check_cameras(store, cameras, image_size)
    started, already = time.perf_counter(), store.num_episodes(task) if task in store.task_names else 0
    if already >= episodes:
        return CollectReport(0, 0, 0, time.perf_counter() - started, already)
    env, expert = make_env(task, min(num_worlds, episodes - already)), make_expert(task)
    try:
        _register(store, env, settings)
        rows, first = store.num_rows, _next_attempt(store, task)
        with tqdm(total=episodes, initial=already, desc=f"collect {task}", unit="ep", disable=_hidden(progress)) as bar:
            _fill(store, env, expert, settings, episodes, bar, Eyes(env, cameras, image_size) if cameras else None)
    finally:
        env.close()
    tried, kept = _next_attempt(store, task) - first, episodes - already
    return CollectReport(kept, tried - kept, store.num_rows - rows, time.perf_counter() - started, already)


def _hidden(progress: bool) -> bool | None:
    """Return tqdm's ``disable``: None hides the bar where stderr is no terminal."""
    return None if progress else True


def _check_settings(store: EpisodeStore, task: str, settings: Settings) -> None:
    """Refuse to mix episodes of different settings under one task."""
    earlier = store.provenance.get("collect", {}).get(task, asdict(settings))
    for name, value in asdict(settings).items():
        if earlier.get(name) != value:
            raise ValueError(f"{name} must be {earlier.get(name)}, as for {task} in {store.path}, got {value}")


def _check_cameras(store: EpisodeStore, cameras: Sequence[str], size: int) -> None:
    """Refuse pictures that do not fit those in the store."""
    if len(set(cameras)) != len(cameras) or size < 1:
        raise ValueError(f"cameras must differ and image_size be >= 1 [px], got {', '.join(cameras)} and {size}")
    if not len(store):
        return
    if set(store.cameras) != set(cameras):
        stored = ",".join(store.cameras) or "none"
        raise ValueError(f"cameras must be {stored}, as in {store.path}, got {','.join(cameras) or 'none'}")
    stored_sizes = {store.take(f"{IMAGES}.{camera}", np.array([0])).shape[1:3] for camera in cameras}
    if stored_sizes - {(size, size)}:
        raise ValueError(f"image_size must be that of {store.path}, {stored_sizes.pop()[0]} [px], got {size}")


def _register(store: EpisodeStore, env: BatchedEnv, settings: Settings) -> None:
    """List the task in the store, with the settings of its episodes."""
    store.add_task(env.info)
    collected = store.provenance.get("collect", {})
    store.update_provenance({"collect": {**collected, env.info.name: asdict(settings)}})


def _next_attempt(store: EpisodeStore, task: str) -> int:
    """Return the attempt after the last one that the store holds."""
    return int(store.attempts_of(task).max(initial=-1)) + 1


def _fill(
    store: EpisodeStore,
    env: BatchedEnv,
    expert: Expert,
    settings: Settings,
    episodes: int,
    bar: tqdm,
    eyes: Eyes | None = None,
) -> None:
    """Try attempt after attempt, a batch at a time, until the store holds ``episodes``."""
    task, attempt = env.info.name, _next_attempt(store, env.info.name)
    while (missing := episodes - store.num_episodes(task)) > 0:
        if attempt >= MAX_ATTEMPTS_PER_EPISODE * episodes:
            held = store.num_episodes(task)
            raise CollectError(
                f"{task}: {held} of {episodes} episodes after {attempt} attempts; try less noise than {settings.noise}"
            )
        batch = range(attempt, attempt + min(env.num_worlds, missing))
        kept = list(demonstrate(env, expert, settings, batch, eyes))
        store.extend(kept)
        bar.update(len(kept))
        attempt = batch.stop


def demonstrate(
    env: BatchedEnv, expert: Expert, settings: Settings, attempts: range, eyes: Eyes | None = None
) -> Iterator[Episode]:
    """Run attempts side by side and yield those that succeed, in order.

    Args:
        env: at least ``len(attempts)`` worlds.
        expert: controller of the same task.
        settings: seed, noise and length.
        attempts: their numbers.
        eyes: draw every step that is kept; None where there are no cameras.
    """
    info, num = env.info, len(attempts)
    seeds = [episode_seed("collect", info.name, settings.seed, attempt) for attempt in attempts]
    noise = _noise(settings, info.name, attempts, info.horizon, info.action_dim)
    states = np.zeros((info.horizon, num, info.observation_dim), np.float32)
    actions = np.zeros((info.horizon, num, info.action_dim), np.float32)
    success = np.zeros((info.horizon, num), bool)
    left = np.full(num, info.horizon)  # control steps still to record, one count per world
    lengths, broken = np.zeros(num, int), np.zeros(num, bool)
    views: list[list[dict[str, NDArray[np.uint8]]]] = [[] for _ in attempts]
    observation = env.reset(seeds)
    expert.reset(num)
    for now in range(info.horizon):
        states[now] = observation
        if eyes is not None:
            for row in np.flatnonzero(left > 0).tolist():
                views[row].append(eyes.row(row))
        actions[now] = np.clip(expert.actions(observation) + noise[now], -1, 1)
        step = env.step(actions[now].astype(np.float64), active=left > 0)
        success[now] = step.success
        lengths += left > 0
        broken |= step.failed
        first = success[now] & ~success[:now].any(axis=0)
        left = np.where(broken, 0, np.where(first, settings.extra_steps, np.maximum(left - 1, 0)))
        observation = step.observation
        if not left.any():
            break
    for row in range(num):
        end = lengths[row]
        if success[:end, row].any() and not broken[row]:
            images = {camera: np.stack([view[camera] for view in views[row]]) for camera in (views[row] or [{}])[0]}
            arrays = (states[:end, row], actions[:end, row], success[:end, row])
            yield Episode(info.name, *arrays, images, attempt=attempts[row])


def _noise(settings: Settings, task: str, attempts: range, horizon: int, action_dim: int) -> NDArray[np.float64]:
    """Return each attempt's own action noise, (horizon, len(attempts), action_dim)."""
    streams = [np.random.default_rng(episode_seed("noise", task, settings.seed, attempt)) for attempt in attempts]
    return settings.noise * np.stack([stream.standard_normal((horizon, action_dim)) for stream in streams], axis=1)
