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
        matrix: every checkpoint on every task it has learned; goes on where it was stopped.
        checkpoint: number of tasks learned so far minus one, such as 03; the newest where not given.
        tasks: task names joined by commas; all that the checkpoint has learned where not given.
        episodes: rollouts of each task.
        samples: images of each task; as many as the run's scores were taken of where not given.
        seed: seed of the first episode, or of the images.
        workers: processes, or actors on a Ray cluster; 0 computes in this one. The result is the same.
        launcher: where workers come from: processes or ray.
        ray_address: of the Ray cluster; RAY_ADDRESS, or one started on this machine, where not given.
        timeout: seconds after which a job of a worker counts as hung; measured where not given.
        backend: physics backend: cpu; gpu, where one process advances all episodes at once and results are not exact to
            the last bit; warp-cpu, the same code on the CPU, slow, for tests.
        device: auto, cpu or cuda.
        env_python: Python of the virtual environment that simulates; the run's own where not given.
        acting_steps: sampler steps when the policy acts; as it was trained with where not given. Few give calm actions,
            many repeat the noise of the demonstrations.
        n_action_steps: actions executed before the policy looks again; as it was trained with where not given.
        json: print one JSON document.
    """

    run: tyro.conf.Positional[Path]
    matrix: bool = False
    checkpoint: str | None = None
    tasks: str | None = None
    episodes: int = 50
    samples: int | None = None
    seed: int = 1_000_000
    workers: int = 0
    launcher: str = "processes"
    ray_address: str | None = None
    timeout: float | None = None
    backend: str = "cpu"
    device: str = "auto"
    env_python: str | None = None
    acting_steps: int | None = None
    n_action_steps: int | None = None
    json: bool = False


def evaluate(options: Evaluate) -> int:
    """Run ``trcl evaluate``; the result also goes to ``RUN/evaluations/CHECKPOINT.json``, or ``matrix.json``."""
    from trcl_policy.commands.rollouts import roll_out
    from trcl_policy.commands.score import score
    from trcl_policy.folder import RunFolder

    for name, least in (("episodes", 1), ("seed", 0), ("workers", 0)):
        if getattr(options, name) < least:
            raise ConfigError(f"{name} must be >= {least}, got {getattr(options, name)}")
    is_images = RunFolder(options.run).config().domain == "images"
    return score(options) if is_images else roll_out(options)


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
