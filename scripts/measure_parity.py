"""Is the physics of a device backend that of the CPU? results/parity/TASK.json and the table of docs/gpu.md.

.venv/bin/python scripts/measure_parity.py                     # CW10, 200 episodes a task, on a CUDA device
.venv/bin/python scripts/measure_parity.py --backend warp-cpu --episodes 20
.venv/bin/python scripts/measure_parity.py --run runs/NAME     # also a trained policy, its newest checkpoint
.venv/bin/python scripts/measure_parity.py --table             # only the table, from the stored results

Free motion: both backends begin in the CPU's start states, and the hand is led up and around in the air for 100
control steps; how far apart its positions are at most. Through contacts trajectories may part, so there outcomes are
compared: scripted experts, from the starts that each backend makes of the same seeds. Run it in the environment of
``scripts/setup --gpu``.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trcl_envs.catalog import DEVICE_BACKENDS, make_env, make_expert, resolve_sequence
from trcl_policy.continual.statistics import wilson_interval
from trcl_policy.files import write_json
from trcl_policy.folder import RunFolder
from trcl_policy.rollout.device import roll_out_jobs
from trcl_policy.rollout.workers import Job, cut, run_jobs

RESULTS = Path(__file__).resolve().parent.parent / "results" / "parity"
FREE_STEPS, FREE_WORLDS = 100, 8
FIRST_SEED = 3_000_000


def main() -> None:
    """Measure and write what was asked for, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", default="cw10", help="a sequence, or task names joined by commas")
    parser.add_argument("--episodes", type=int, default=200, help="episodes of each task on each backend")
    parser.add_argument("--worlds", type=int, default=256, help="most worlds that run at once")
    parser.add_argument("--backend", choices=DEVICE_BACKENDS, default="gpu", help="what is held to the CPU")
    parser.add_argument("--run", type=Path, help="run directory of a trained policy")
    parser.add_argument("--table", action="store_true", help="only print the table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for task in () if options.table else resolve_sequence(options.tasks):
        write_json(RESULTS / f"{task}.json", measured(task, options))
    print(table())


def measured(task: str, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one task."""
    seeds = range(FIRST_SEED, FIRST_SEED + options.episodes)
    found: dict[str, Any] = {"free_motion_m": free_motion(task, options.backend)}
    found["expert"] = {
        backend: outcome(expert_lengths(task, backend, seeds, options.worlds)) for backend in ("cpu", options.backend)
    }
    if options.run is not None:
        found["policy"] = policy_outcomes(task, options.run, options.backend, seeds)
    device = torch.cuda.get_device_name() if options.backend == "gpu" else platform.machine()
    versions = {name: version(name) for name in ("mujoco", "mujoco-warp", "warp-lang", "torch")}
    return {**found, "backend": options.backend, "seeds": [seeds[0], seeds[-1]], "device": device, "versions": versions}


def free_motion(task: str, backend: str) -> list[float]:
    """Largest distance [m] so far between the hands of both backends after 1, ..., 100 control steps."""
    cpu, env = (make_env(task, FREE_WORLDS, backend=name) for name in ("cpu", backend))
    cpu.reset(range(FREE_WORLDS))
    env.reset(range(FREE_WORLDS))
    for field in ("qpos", "qvel", "mocap_pos"):
        getattr(env.physics, field).copy_(torch.as_tensor(getattr(cpu.physics, field)))
    env.physics.forward(env.physics.rows)
    apart = []
    for step in range(FREE_STEPS):
        action = np.array([0.5 * np.sin(step / 15), 0.2 * np.cos(step / 10), 0.5, 1.0])
        places = [each.step(np.tile(action, (FREE_WORLDS, 1))).observation[:, :3] for each in (cpu, env)]
        apart.append(float(np.linalg.norm(places[0] - places[1], axis=1).max()))
    cpu.close()
    env.close()
    return np.maximum.accumulate(apart).tolist()


def expert_lengths(task: str, backend: str, seeds: range, worlds: int) -> list[int]:
    """Control steps to success of the expert's episodes, 0 = none within the horizon."""
    env, expert = make_env(task, min(worlds, len(seeds)), backend=backend), make_expert(task)
    lengths: list[int] = []
    for start in range(0, len(seeds), env.num_worlds):
        block = seeds[start : start + env.num_worlds]
        observation, taken = env.reset(block), np.zeros(len(block), dtype=int)
        for steps in range(1, env.info.horizon + 1):
            # Leaving worlds out saves time on the CPU and costs time on a device.
            active = taken == 0 if backend == "cpu" else None
            step = env.step(np.clip(expert.actions(observation), -1, 1), active)
            observation = step.observation
            taken[(taken == 0) & step.success] = steps
            if taken.all():
                break
        lengths += taken.tolist()
    env.close()
    return lengths


def policy_outcomes(task: str, run: Path, backend: str, seeds: range) -> dict[str, Any]:
    """How the newest checkpoint does on both backends."""
    checkpoint = str(RunFolder(run).checkpoint(None))
    make: Any = functools.partial(make_env, backend=backend)
    jobs = run_jobs(cut(checkpoint, [task], seeds), make_env, 0)
    episodes = {"cpu": [one for job in jobs for one in job]}
    episodes[backend] = next(roll_out_jobs([Job(checkpoint, task, tuple(seeds))], make))[1]
    return {name: outcome([one.length * one.success for one in each]) for name, each in episodes.items()}


def outcome(lengths: list[int]) -> dict[str, Any]:
    """Share of successes with its 95 % interval, mean length of the solved episodes, and all lengths."""
    solved = [length for length in lengths if length]
    share, interval = len(solved) / len(lengths), wilson_interval(len(solved), len(lengths))
    return {"success": share, "interval": list(interval), "mean_length": mean(solved), "lengths": lengths}


def mean(numbers: list[int]) -> float | None:
    """The mean, None of nothing."""
    return sum(numbers) / len(numbers) if numbers else None


def table() -> str:
    """The stored results as Markdown."""
    rows = [
        "| task | on | hand apart [mm] | controller | CPU | device | same outcome | same steps | mean steps |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for path in sorted(RESULTS.glob("*.json")):
        found = json.loads(path.read_text())
        for who in ("expert", "policy"):
            if who in found:
                rows.append(row(path.stem, found, who))
    return "\n".join(rows)


def row(task: str, found: dict[str, Any], who: str) -> str:
    """One controller's line."""
    cpu, device = found[who]["cpu"], found[who][found["backend"]]
    pairs = list(zip(cpu["lengths"], device["lengths"], strict=True))
    shares = [f"{each['success']:.2f} [{each['interval'][0]:.2f}, {each['interval'][1]:.2f}]" for each in (cpu, device)]
    same = sum((a > 0) == (b > 0) for a, b in pairs), sum(a == b for a, b in pairs)
    steps = " / ".join("-" if each["mean_length"] is None else f"{each['mean_length']:.0f}" for each in (cpu, device))
    columns = [task, found["backend"], f"{1000 * found['free_motion_m'][-1]:.3f}", who, *shares]
    return "| " + " | ".join([*columns, *(f"{count} of {len(pairs)}" for count in same), steps]) + " |"


if __name__ == "__main__":
    main()
