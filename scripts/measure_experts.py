"""How often scripted experts solve their tasks, as a table for the documentation.

``python scripts/measure_experts.py --tasks robosuite3 --env-python ROBOSUITE/bin/python`` made the one of
docs/robosuite.md. Episode n starts from seed n; the noise of each is drawn from a stream of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tyro
from numpy.typing import NDArray
from tqdm import tqdm

from trcl_envs.catalog import resolve_sequence, simulator_versions
from trcl_policy.continual.statistics import wilson_interval
from trcl_policy.simulation import Simulation


@dataclass(frozen=True)
class Options:
    """What is measured.

    Attributes:
        tasks: a sequence, or task names joined by commas.
        episodes: of each task.
        noise: standard deviations of Gaussian noise on the expert's actions, one row a task each.
        worlds: simulated side by side.
        env_python: Python of another virtual environment that simulates.
    """

    tasks: str = "robosuite3"
    episodes: int = 40
    noise: tuple[float, ...] = (0.0, 0.1)
    worlds: int = 10
    env_python: str | None = None


def lengths(simulation: Simulation, task: str, episodes: int, noise: float, worlds: int) -> NDArray[np.int64]:
    """Control steps to success of each episode, 0 = none within the horizon."""
    env, expert = simulation.make_env(task, worlds), simulation.make_expert(task)
    starts = range(0, episodes, worlds)
    found = [block(env, expert, range(first, min(first + worlds, episodes)), noise) for first in starts]
    env.close()
    return np.concatenate(found)


def block(env, expert, seeds: range, noise: float) -> NDArray[np.int64]:
    """Control steps to success of the episodes with these seeds."""
    streams = [np.random.default_rng([seed, 1]) for seed in seeds]
    observation, steps = env.reset(seeds), np.zeros(len(seeds), dtype=np.int64)
    expert.reset(len(seeds))
    for now in range(1, env.info.horizon + 1):
        shaken = noise * np.stack([stream.standard_normal(env.info.action_dim) for stream in streams])
        step = env.step(np.clip(expert.actions(observation) + shaken, -1, 1), active=steps == 0)
        observation = step.observation
        steps[(steps == 0) & step.success & ~step.failed] = now
        if steps.all():
            break
    return steps


def row(task: str, noise: float, found: NDArray[np.int64]) -> str:
    """One line of the table."""
    solved = found[found > 0]
    low, high = wilson_interval(len(solved), len(found))
    times = f"{solved.mean():.0f} | {solved.max()}" if len(solved) else "- | -"
    return f"| {task} | {noise:g} | {len(solved) / len(found):.2f} [{low:.2f}, {high:.2f}] | {len(found)} | {times} |"


def main(options: Options) -> None:
    """Print the versions that simulate and the table."""
    simulation = Simulation(options.env_python)
    print(", ".join(f"{name} {version}" for name, version in simulator_versions(options.env_python).items()))
    print("\n| task | noise | solved | episodes | mean steps | longest |\n|---|---|---|---|---|---|")
    for task in tqdm(resolve_sequence(options.tasks), unit="task", disable=None):
        for noise in options.noise:
            found = lengths(simulation, task, options.episodes, noise, options.worlds)
            print(row(task, noise, found), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options))
