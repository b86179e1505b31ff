"""An early task at different moments of a run: just learned, after the last task, and coming back.

Everything here starts from checkpoints and never changes the run's own results.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trcl_envs.catalog import make_env, make_renderer, resolve_task, task_info
from trcl_policy.continual.metrics import wilson_interval
from trcl_policy.continual.probes import recover
from trcl_policy.domains import DOMAINS, PolicyDomain
from trcl_policy.folder import RunFolder
from trcl_policy.policy.controller import Policy, load_policy
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
class Probe:
    """How recovery is probed; the same for every method.

    Attributes:
        steps: updates.
        every: updates between measurements.
        episodes: rollouts at each measurement.
        learning_rate: constant Adam rate.
        target: share of the success right after learning that counts as recovered.
        seed: seed of batches, noise and start states.
    """

    steps: int
    every: int
    episodes: int
    learning_rate: float
    target: float
    seed: int

    def __post_init__(self) -> None:
        """Check every value once."""
        for name in ("steps", "every", "episodes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be >= 1, got {getattr(self, name)}")
        if not self.learning_rate > 0 or not 0 < self.target <= 1:
            raise ConfigError(
                f"learning_rate must be > 0 and target in (0, 1], got {self.learning_rate} and {self.target}"
            )


def recovery_curves(folder: RunFolder, tasks: str | None, probe: Probe) -> dict[str, Any]:
    """Probe recovery of old tasks from the newest checkpoint, measured by rollouts every few updates.

    Returns:
        A document with ``tasks`` {name: {steps, success, intervals, reference, recovered_after}}; ``reference`` is the
        success right after the task was learned, ``recovered_after`` the first update at ``target`` of it (null:
        never).
    """
    domain, policy = _open(folder)
    names = list(dict.fromkeys(domain.sequence[:-1])) if tasks is None else _chosen(domain, tasks)
    result: dict[str, Any] = {"run": str(folder.path), "checkpoint": folder.checkpoint().name, "tasks": {}}
    for name in names:
        result["tasks"][name] = _curve(folder, domain, policy, name, probe)
    domain.close()
    return {**result, "probe": asdict(probe)}


def _curve(folder: RunFolder, domain: PolicyDomain, policy: Policy, name: str, probe: Probe) -> dict[str, Any]:
    task = domain.tasks[domain.sequence.index(name)]
    seeds = range(probe.seed, probe.seed + probe.episodes)
    start = policy.params_of(domain.distinct.index(name))
    moments: dict[int, dict[str, torch.Tensor]] = {0: dict(start)}
    way = recover(domain.model, start, task, probe.steps, probe.every, probe.seed, probe.learning_rate)
    moments.update((snapshot.position.step, snapshot.params) for snapshot in way)
    wins = [
        sum(episode.success for episode in domain.measure(domain.agent(params, len(domain.sequence)), name, seeds))
        for params in moments.values()
    ]
    success = [count / probe.episodes for count in wins]
    reference = _learned_score(folder, domain, name)
    goal = None if reference is None else probe.target * reference
    back = None if goal is None else next((s for s, v in zip(moments, success, strict=True) if v >= goal), None)
    return {
        "steps": list(moments),
        "success": success,
        "intervals": [list(wilson_interval(count, probe.episodes)) for count in wins],
        "reference": reference,
        "recovered_after": back,
    }


def _learned_score(folder: RunFolder, domain: PolicyDomain, name: str) -> float | None:
    metrics = folder.metrics()
    if metrics is None:
        return None
    place = domain.sequence.index(name)
    score = metrics["scores"][place][place]
    return metrics["scores"][-1][place] if score is None else score


def _open(folder: RunFolder) -> tuple[PolicyDomain, Policy]:
    config = folder.config()
    torch.set_num_threads(config.threads)
    domain = DOMAINS[config.domain](config)
    return domain, load_policy(folder.checkpoint(), domain.device)


def _chosen(domain: PolicyDomain, tasks: str) -> list[str]:
    names = [resolve_task(name.strip()) for name in tasks.split(",")]
    for name in names:
        if name not in domain.sequence:
            raise ConfigError(f"task must be one of the run's ({', '.join(domain.distinct)}), got {name}")
    return names


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
    config = folder.config()
    chosen = _moments(moments)
    sequence = load_policy(folder.checkpoint()).spec.tasks
    task = sequence[0] if task is None else resolve_task(task)
    if task not in sequence:
        raise ConfigError(f"task must be one of the run's ({', '.join(sequence)}), got {task}")
    out = out or folder.path / "videos" / f"{task}.mp4"
    if out.suffix not in SUFFIXES:
        raise ConfigError(f"out must end in one of {', '.join(SUFFIXES)}, got {out.name}")
    renderer = make_renderer(task, size, size)
    env = make_env(task, 1)
    seed = _telling_seed(folder, task, config.evaluation.seed) if seed is None else seed
    try:
        panels = []
        for caption, policy in _policies(folder, task, chosen, recovery_steps):
            trace = record_episode(env, _Actor(policy, task, seed), seed, extra_steps=LINGER_STEPS)
            panels.append(draw(trace, renderer, [f"{task}, {SPEED:g} x speed", f"{config.method.name}: {caption}"]))
        _write(out, side_by_side(panels), frame_rate(task_info(task).control_frequency, SPEED))
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


def _policies(
    folder: RunFolder, task: str, moments: Sequence[str], recovery_steps: int
) -> Iterator[tuple[str, Policy]]:
    """Caption and policy of each moment."""
    last = folder.checkpoint()
    for moment in moments:
        if moment == "learned":
            yield "just learned", load_policy(folder.checkpoint(_learned_at(folder, task)))
        elif moment == "forgotten":
            yield "after the last task", load_policy(last)
        else:
            yield f"+{recovery_steps} steps of recovery", _recovered(folder, task, recovery_steps)


def _learned_at(folder: RunFolder, task: str) -> int:
    """Number of the first checkpoint that knows the task."""
    for path in folder.checkpoints():
        if task in load_policy(path).learned_tasks:
            return int(path.name)
    raise ConfigError(f"task must be a learned one, got {task}, which no checkpoint of {folder.path} knows")


def _recovered(folder: RunFolder, task: str, steps: int) -> Policy:
    if steps < 1:
        raise ConfigError(f"recovery_steps must be >= 1, got {steps}")
    domain, policy = _open(folder)
    rate = folder.config().training.learning_rate
    visit = domain.tasks[domain.sequence.index(task)]
    start = policy.params_of(domain.distinct.index(task))
    probe = recover(domain.model, start, visit, steps, steps, seed=0, learning_rate=rate)
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
