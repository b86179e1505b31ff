"""An early task at different moments of a run: just learned, after the last task, and coming back.

Everything here starts from checkpoints and never changes the run's own results.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trcl_envs.catalog import resolve_task
from trcl_envs.interface import Renderer
from trcl_policy.continual.probes import recover
from trcl_policy.folder import RunFolder
from trcl_policy.policy.controller import Policy, load_policy
from trcl_policy.recovery import open_run
from trcl_policy.rollout.record import EpisodeTrace, draw, record_episodes, side_by_side, tiled
from trcl_policy.rollout.retention import cells, task_of
from trcl_policy.rollout.seeing import Seeing, with_eyes
from trcl_policy.rollout.video import contact_sheet, frame_rate, write_animation, write_mp4, write_png
from trcl_policy.schema import ConfigError, nearest
from trcl_policy.simulation import run_simulation

MOMENTS = ("learned", "forgotten", "recovered")
SUFFIXES = (".mp4", ".webp", ".gif", ".png")
STILLS = 3
SPEED = 0.5
"""Speed of videos against real time."""
SIZE = 256
"""Width and height of a panel [px]."""
MOST_TILES = 16
LINGER_STEPS = 15
"""Control steps shown after a success."""


@dataclass(frozen=True)
class _Actor:
    """A policy tied to one task and the noise streams of some episodes."""

    policy: Policy | Seeing
    task: str
    seeds: Sequence[int]

    def reset(self) -> None:
        """Start the episodes."""
        self.policy.reset(self.task, self.seeds)

    def select_action(self, observation: np.ndarray) -> np.ndarray:
        """Actions for the current observations."""
        return self.policy.select_action(observation)


def film(
    folder: RunFolder,
    task: str | None = None,
    moments: str = "learned,forgotten,recovered",
    seed: int | None = None,
    recovery_steps: int = 100,
    size: int | None = None,
    out: Path | None = None,
    tile: int = 1,
    backend: str = "cpu",
    env_python: str | None = None,
) -> Path:
    """Film one start state, or a grid of them, at the chosen moments, side by side; returns the video's path.

    Args:
        folder: the run.
        task: task to film; None takes the first of the sequence.
        moments: names of ``MOMENTS`` joined by commas.
        seed: (first) start state; None takes an evaluation seed that tells the story, or for a grid the first ones.
        recovery_steps: updates of the recovery.
        size: width and height of a panel [pixels]; None is ``SIZE``, for a grid twice that.
        out: file, whose suffix chooses the format; None is ``RUN/videos/TASK.mp4``, for a grid ``TASK-xN.mp4``.
        tile: start states in the grid of a panel, 1 to ``MOST_TILES``; their seeds follow each other.
        backend: physics; the pictures are drawn afterwards from its states.
        env_python: Python of the virtual environment that simulates and draws; None = the first run's own.

    Raises:
        ConfigError: an impossible number, an unknown task or moment, or a run without the needed checkpoint.
        SimulationError: this machine can't draw.
    """
    panels = [(folder, moment) for moment in _moments(moments)]
    return film_panels(panels, task, seed, recovery_steps, size, out, tile, backend, env_python)


def film_panels(
    panels: Sequence[tuple[RunFolder, str]],
    task: str | None = None,
    seed: int | None = None,
    recovery_steps: int = 100,
    size: int | None = None,
    out: Path | None = None,
    tile: int = 1,
    backend: str = "cpu",
    env_python: str | None = None,
) -> Path:
    """Film the same start states in several (run, moment) side by side; returns the video's path.

    The first run has the first task of its sequence where ``task`` is None, the seed that tells a story where ``seed``
    is, and the video where ``out`` is. Other arguments and errors are those of :func:`film`.
    """
    first = panels[0][0]
    for folder, _ in panels:
        if (domain := folder.config().domain) != "policy":
            raise ConfigError(f"run must be one of policies to be filmed, got {folder.path} of domain {domain}")
    if not 1 <= tile <= MOST_TILES:
        raise ConfigError(f"tile must be in 1..{MOST_TILES} [worlds], got {tile}")
    columns, size = math.ceil(math.sqrt(tile)), SIZE * min(tile, 2) if size is None else size
    if size < columns:
        raise ConfigError(f"size must be >= {columns} [pixels], got {size}")
    task = _common_task(panels, task)
    out = out or first.path / "videos" / (f"{task}.mp4" if tile == 1 else f"{task}-x{tile}.mp4")
    if out.suffix not in SUFFIXES:
        raise ConfigError(f"out must end in one of {', '.join(SUFFIXES)}, got {out.name}")
    simulation = run_simulation(first, env_python, backend)
    renderer = simulation.make_renderer(task, size // columns, size // columns)
    env = simulation.make_env(task, tile)
    start = _first_seed(first, task, first.config().evaluation.seed, tile) if seed is None else seed
    seeds = range(start, start + tile)
    try:
        strips = []
        for folder, moment in panels:
            caption, policy = _policy(folder, task, moment, recovery_steps)
            actor = _Actor(with_eyes(policy, env), task, seeds)
            traces = record_episodes(env, actor, seeds, extra_steps=LINGER_STEPS)
            strips.append(_panel(traces, renderer, columns, f"{folder.config().method.name}: {caption}"))
        _write(out, side_by_side(strips), frame_rate(env.info.control_frequency, SPEED))
    finally:
        renderer.close()
        env.close()
    return out


def _common_task(panels: Sequence[tuple[RunFolder, str]], task: str | None) -> str:
    """The task to film, which every run must have: the first of the first run where none is named."""
    task = load_policy(panels[0][0].checkpoint()).spec.tasks[0] if task is None else resolve_task(task)
    for folder, _ in panels:
        sequence = load_policy(folder.checkpoint()).spec.tasks
        if task not in sequence:
            raise ConfigError(f"task must be one of the run's ({', '.join(sequence)}), got {task}")
    return task


def _panel(traces: Sequence[EpisodeTrace], renderer: Renderer, columns: int, caption: str) -> Iterator[np.ndarray]:
    """What one policy did: one episode with its captions, or a grid of them under a strip that counts the solved."""
    task = traces[0].info.name
    if len(traces) == 1:
        return draw(traces[0], renderer, [f"{task}, {SPEED:g} x speed", caption])
    solved = sum(trace.solved_at is not None for trace in traces)
    captions = [f"{task}, {SPEED:g} x speed", f"{caption}: {solved} of {len(traces)} solved"]
    return tiled([draw(trace, renderer) for trace in traces], columns, captions)


def _write(out: Path, frames: Iterator[np.ndarray], fps: float) -> None:
    """A video, a small animation for a README, or a strip of stills, as the suffix says."""
    if out.suffix == ".mp4":
        write_mp4(out, frames, fps)
    elif out.suffix == ".png":
        write_png(out, contact_sheet(list(frames), columns=1, rows=STILLS))
    else:
        write_animation(out, frames, fps)


def _moments(spelled: str) -> list[str]:
    moments = [moment.strip() for moment in spelled.split(",")]
    for moment in moments:
        if moment not in MOMENTS:
            raise ConfigError(f"moments must be among {', '.join(MOMENTS)}{nearest(moment, MOMENTS)}, got {moment}")
    return moments


def _policy(folder: RunFolder, task: str, moment: str, recovery_steps: int) -> tuple[str, Policy]:
    """Caption and policy of a moment."""
    if moment == "learned":
        return "just learned", load_policy(folder.checkpoint(_learned_at(folder, task)))
    if moment == "forgotten":
        return "after the last task", load_policy(folder.checkpoint())
    return f"+{recovery_steps} steps of recovery", _recovered(folder, task, recovery_steps)


def _learned_at(folder: RunFolder, task: str) -> int:
    """Number of the first checkpoint that knows the task."""
    for path in folder.checkpoints():
        if task in load_policy(path).learned_tasks:
            return int(path.name)
    raise ConfigError(f"task must be a learned one, got {task}, which no checkpoint of {folder.path} knows")


def _recovered(folder: RunFolder, task: str, steps: int) -> Policy:
    if steps < 1:
        raise ConfigError(f"recovery_steps must be >= 1, got {steps}")
    domain, _ = open_run(folder)
    policy = load_policy(folder.checkpoint(), domain.device)
    rate = folder.config().training.learning_rate
    visit = domain.tasks[domain.sequence.index(task)]
    start = policy.params_of(domain.distinct.index(task))
    probe = recover(policy.model, start, visit, steps, steps, seed=0, learning_rate=rate)
    params = [snapshot.params for snapshot in probe][-1]
    return Policy(policy.spec, policy.model, params, policy.normalizer, encoder=policy.encoder)


def _first_seed(folder: RunFolder, task: str, default: int, tile: int) -> int:
    """The seed to film where none was asked for."""
    return default if tile > 1 else _telling_seed(folder, task, default)


def _telling_seed(folder: RunFolder, task: str, default: int) -> int:
    """An evaluation seed that tells the story: solved when just learned and, if there is one, failed at the end."""
    checkpoints = folder.checkpoints()
    found = cells(folder.episodes())
    learned = found.get((_learned_at(folder, task), None, task_of(task)), {})
    final = found.get((int(checkpoints[-1].name), None, task_of(task)), {})
    solved = [seed for seed, success in learned.items() if success]
    return next((seed for seed in solved if not final.get(seed, True)), next(iter(solved), default))
