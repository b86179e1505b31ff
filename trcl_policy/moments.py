"""An early task at different moments of a run: just learned, after the last task, and coming back.

Everything here starts from checkpoints and never changes the run's own results.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trcl_envs.catalog import make_env, make_renderer, resolve_task, task_info
from trcl_policy.continual.probes import recover
from trcl_policy.folder import RunFolder
from trcl_policy.policy.controller import Policy, load_policy
from trcl_policy.recovery import open_run
from trcl_policy.rollout.record import draw, record_episode, side_by_side
from trcl_policy.rollout.retention import cells, task_of
from trcl_policy.rollout.video import contact_sheet, frame_rate, write_animation, write_mp4, write_png
from trcl_policy.schema import ConfigError, nearest

MOMENTS = ("learned", "forgotten", "recovered")
SUFFIXES = (".mp4", ".webp", ".gif", ".png")
STILLS = 3
SPEED = 0.5
"""Speed of videos against real time."""
LINGER_STEPS = 15
"""Control steps shown after a success."""


@dataclass(frozen=True)
class _Actor:
    """A policy tied to one task and one noise stream."""

    policy: Policy
    task: str
    seed: int

    def reset(self) -> None:
        """Start the episode."""
        self.policy.reset(self.task, [self.seed])

    def select_action(self, observation: np.ndarray) -> np.ndarray:
        """Actions for the current observations."""
        return self.policy.select_action(observation)


def film(
    folder: RunFolder,
    task: str | None = None,
    moments: str = "learned,forgotten,recovered",
    seed: int | None = None,
    recovery_steps: int = 100,
    size: int = 256,
    out: Path | None = None,
) -> Path:
    """Film one start state at the chosen moments, side by side; returns the video's path.

    Args:
        folder: the run.
        task: task to film; None takes the first of the sequence.
        moments: names of ``MOMENTS`` joined by commas.
        seed: start state; None takes an evaluation seed that tells the story.
        recovery_steps: updates of the recovery.
        size: width and height of a panel [pixels].
        out: file, whose suffix chooses the format; None is ``RUN/videos/TASK.mp4``.

    Raises:
        ConfigError: an unknown task or moment, or a run without the needed checkpoint.
        SimulationError: this machine can't draw.
    """
    panels = [(folder, moment) for moment in _moments(moments)]
    return film_panels(panels, task, seed, recovery_steps, size, out)


def film_panels(
    panels: Sequence[tuple[RunFolder, str]],
    task: str | None = None,
    seed: int | None = None,
    recovery_steps: int = 100,
    size: int = 256,
    out: Path | None = None,
) -> Path:
    """Film one start state in several (run, moment) side by side; returns the video's path.

    The first run has the first task of its sequence where ``task`` is None, the seed that tells a story where ``seed``
    is, and the video where ``out`` is. Other arguments and errors are those of :func:`film`.
    """
    first = panels[0][0]
    for folder, _ in panels:
        if (domain := folder.config().domain) != "policy":
            raise ConfigError(f"run must be one of policies to be filmed, got {folder.path} of domain {domain}")
    task = load_policy(first.checkpoint()).spec.tasks[0] if task is None else resolve_task(task)
    for folder, _ in panels:
        sequence = load_policy(folder.checkpoint()).spec.tasks
        if task not in sequence:
            raise ConfigError(f"task must be one of the run's ({', '.join(sequence)}), got {task}")
    out = out or first.path / "videos" / f"{task}.mp4"
    if out.suffix not in SUFFIXES:
        raise ConfigError(f"out must end in one of {', '.join(SUFFIXES)}, got {out.name}")
    renderer = make_renderer(task, size, size)
    env = make_env(task, 1)
    seed = _telling_seed(first, task, first.config().evaluation.seed) if seed is None else seed
    try:
        strips = []
        for folder, moment in panels:
            caption, policy = _policy(folder, task, moment, recovery_steps)
            trace = record_episode(env, _Actor(policy, task, seed), seed, extra_steps=LINGER_STEPS)
            lines = [f"{task}, {SPEED:g} x speed", f"{folder.config().method.name}: {caption}"]
            strips.append(draw(trace, renderer, lines))
        _write(out, side_by_side(strips), frame_rate(task_info(task).control_frequency, SPEED))
    finally:
        renderer.close()
        env.close()
    return out


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
    return Policy(policy.spec, policy.model, params, policy.normalizer)


def _telling_seed(folder: RunFolder, task: str, default: int) -> int:
    """An evaluation seed that tells the story: solved when just learned and, if there is one, failed at the end."""
    checkpoints = folder.checkpoints()
    found = cells(folder.episodes())
    learned = found.get((_learned_at(folder, task), None, task_of(task)), {})
    final = found.get((int(checkpoints[-1].name), None, task_of(task)), {})
    solved = [seed for seed, success in learned.items() if success]
    return next((seed for seed in solved if not final.get(seed, True)), next(iter(solved), default))
