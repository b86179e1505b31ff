"""``trcl evaluate`` and ``trcl recover``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from trcl_policy.commands.parsing import say
from trcl_policy.schema import ConfigError


@dataclass(frozen=True)
class Evaluate:
    """Roll out a policy's checkpoint without a screen, or score the images that a generator's makes.

    Attributes:
        run: run directory.
        checkpoint: number of tasks learned so far minus one, such as 03; the newest where not given.
        tasks: task names joined by commas; all that the checkpoint has learned where not given.
        episodes: rollouts of each task.
        samples: images of each task; as many as the run's scores were taken of where not given.
        seed: seed of the first episode, or of the images.
        workers: processes; 0 computes in this one. The result is the same.
        backend: physics backend: cpu.
        device: auto, cpu or cuda.
        env_python: Python of the virtual environment that simulates; the run's own where not given.
        json: print one JSON document.
    """

    run: tyro.conf.Positional[Path]
    checkpoint: str | None = None
    tasks: str | None = None
    episodes: int = 50
    samples: int | None = None
    seed: int = 1_000_000
    workers: int = 0
    backend: str = "cpu"
    device: str = "auto"
    env_python: str | None = None
    json: bool = False


def evaluate(options: Evaluate) -> int:
    """Run ``trcl evaluate``; the result also goes to ``RUN/evaluations/CHECKPOINT.json``."""
    from trcl_policy.commands.score import score
    from trcl_policy.folder import RunFolder

    for name, least in (("episodes", 1), ("seed", 0), ("workers", 0)):
        if getattr(options, name) < least:
            raise ConfigError(f"{name} must be >= {least}, got {getattr(options, name)}")
    is_images = RunFolder(options.run).config().domain == "images"
    return score(options) if is_images else _roll_out(options)


def _roll_out(options: Evaluate) -> int:
    import torch
    from tqdm import tqdm

    from trcl_policy.continual.statistics import wilson_interval
    from trcl_policy.devices import resolve_device
    from trcl_policy.files import write_json
    from trcl_policy.folder import RunFolder, provenance
    from trcl_policy.rollout.workers import cut, run_jobs
    from trcl_policy.simulation import run_simulation

    if options.samples is not None:
        raise ConfigError(f"samples must be left out for policies, which have episodes, got {options.samples}")
    device = str(resolve_device(options.device))
    folder = RunFolder(options.run)
    torch.set_num_threads(folder.config().threads)
    checkpoint = folder.checkpoint(options.checkpoint)
    tasks = _learned_tasks(checkpoint, options.tasks)
    jobs = cut(str(checkpoint), tasks, range(options.seed, options.seed + options.episodes))
    make = run_simulation(folder, options.env_python, options.backend).make_env
    episodes = []
    with tqdm(total=len(tasks) * options.episodes, unit="episode", disable=None) as bar:
        for done in run_jobs(jobs, make, options.workers, device):
            episodes += done
            bar.update(len(done))
    result: dict[str, Any] = {
        "run": str(options.run),
        "checkpoint": checkpoint.name,
        "backend": options.backend,
        "tasks": {},
    }
    for task in tasks:
        wins = [episode.success for episode in episodes if episode.task == task]
        low, high = wilson_interval(sum(wins), len(wins))
        result["tasks"][task] = {"success": sum(wins) / len(wins), "interval": [low, high], "episodes": len(wins)}
    result["average"] = sum(entry["success"] for entry in result["tasks"].values()) / len(tasks)
    records = [episode.record() for episode in episodes]
    target = folder.path / "evaluations" / f"{checkpoint.name}.json"
    write_json(target, {**result, "provenance": provenance(), "records": records})
    lines = [
        f"{task:<28} {entry['success']:.2f}  [{entry['interval'][0]:.2f}, {entry['interval'][1]:.2f}]"
        f"  {entry['episodes']} episodes"
        for task, entry in result["tasks"].items()
    ]
    say(options.json, result, "\n".join([*lines, f"{'average':<28} {result['average']:.2f}", f"written: {target}"]))
    return 0


def _learned_tasks(checkpoint: Path, wanted: str | None) -> list[str]:
    from trcl_envs.catalog import resolve_sequence
    from trcl_policy.policy.controller import load_policy

    policy = load_policy(checkpoint)
    if wanted is None:
        return policy.learned_tasks
    tasks = list(dict.fromkeys(resolve_sequence(wanted)))
    for task in tasks:
        policy.reset(task)
    return tasks


@dataclass(frozen=True)
class Recover:
    """Train old tasks again from the final weights, the same way for every method, and watch how fast they come back.

    Attributes:
        run: run directory.
        tasks: task names joined by commas; all but the last where not given.
        steps: updates.
        every: updates between measurements.
        episodes: rollouts at each measurement; 0 measures the held-out loss alone, which is cheap.
        learning_rate: constant Adam rate; low, so that methods can be told apart.
        target: share of the success right after learning that counts as recovered; for losses its inverse.
        seed: seed of batches, noise and start states.
        json: print one JSON document.
    """

    run: tyro.conf.Positional[Path]
    tasks: str | None = None
    steps: int = 100
    every: int = 10
    episodes: int = 25
    learning_rate: float = 2e-4
    target: float = 0.9
    seed: int = 2_000_000
    json: bool = False


def recover(options: Recover) -> int:
    """Run ``trcl recover``; the result also goes to ``RUN/recovery.json``."""
    from trcl_policy.files import write_json
    from trcl_policy.folder import RunFolder
    from trcl_policy.recovery import Probe, recovery_curves

    folder = RunFolder(options.run)
    settings = {name: value for name, value in vars(options).items() if name not in ("run", "tasks", "json")}
    result = recovery_curves(folder, options.tasks, Probe(**settings))
    write_json(folder.path / "recovery.json", result)
    lines = [line for task, curve in result["tasks"].items() for line in _recovery_lines(task, curve)]
    pooled = [f"{what:<28} {_pooled(table)}" for what, table in result["survival"].items() if table is not None]
    say(options.json, result, "\n".join([*lines, *pooled, f"written: {folder.path / 'recovery.json'}"]))
    return 0


def _recovery_lines(task: str, curve: Mapping[str, Any]) -> Iterator[str]:
    """Success and loss of a task over the probe's updates, each with the update it is back and stays so."""
    for what, values, held, digits in (
        ("success", "success", "held_after", 2),
        ("loss", "losses", "loss_held_after", 4),
    ):
        if None not in curve[values]:
            shown = zip(curve["steps"], curve[values], strict=True)
            back = "never" if curve[held] is None else curve[held]
            yield (
                f"{f'{task} {what}':<36} " + " ".join(f"{s}:{v:.{digits}f}" for s, v in shown) + f"  back after {back}"
            )


def _pooled(table: Mapping[str, Any]) -> str:
    median = "not reached" if table["median"] is None else f"{table['median']:g}"
    return (
        f"back and held: {table['num_events']} of {table['num']} tasks; median {median}; mean within "
        f"{table['longest']:g} updates {table['restricted_mean']:.1f} +- {table['restricted_mean_se']:.1f}"
    )
