"""How closed-loop control scales with the number of worlds on a device: results/benchmarks/gpu.json.

.venv/bin/python scripts/benchmark_gpu.py                                                # 1 ... 16,384 worlds on CUDA
.venv/bin/python scripts/benchmark_gpu.py --backend warp-cpu --worlds 1 4 16 --looks 5   # the same code on the CPU

The small policy (an MLP of width 256 with drawn weights, 5 DDIM steps, 4 of 8 actions executed) drives every world of
one task. For each number of worlds N: control steps per second summed over worlds, the share of the time that goes to
physics, to the policy and to bookkeeping (observations, successes, counting, the queue), and memory per world. The knee
is the smallest N that reaches 90 % of the highest rate. The rate is of runs in which nothing waits for the device but
the look itself; the shares come from runs of their own, in which each part is waited for.

Needs the environment of ``scripts/setup --gpu``. Worlds begin anew as their episodes end, as in ``trcl evaluate``.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from trcl_envs.catalog import DEVICE_BACKENDS, make_env, resolve_task, task_info
from trcl_policy.diffusion.process import Diffusion
from trcl_policy.files import write_json
from trcl_policy.policy.controller import Policy, PolicySpec
from trcl_policy.policy.normalizer import Normalizer
from trcl_policy.policy.trajectory import Network
from trcl_policy.policy.windows import Shape
from trcl_policy.rollout.device import Run

WORLDS = [2**power for power in range(15)]
KNEE = 0.9
WANTED = 100_000
"""Control steps per second that a GPU is to reach."""


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", choices=DEVICE_BACKENDS, default="gpu", help="where the worlds are")
    parser.add_argument("--task", default="push-v3", help="task of CW10")
    parser.add_argument("--worlds", type=int, nargs="+", default=WORLDS, help="numbers of worlds")
    parser.add_argument("--looks", type=int, default=50, help="looks of the policy in each timed run")
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args()
    task, rows = resolve_task(options.task), []
    first = make_env(task, 1, backend=options.backend)  # what it takes once, however many worlds follow
    first.reset([0])
    first.close()
    for count in options.worlds:
        rows.append(measured(task, count, options.backend, options.looks))
        print("  ".join(f"{key} {value:.4g}" for key, value in rows[-1].items()), flush=True)
    result = summary(task, options, rows)
    print(f"knee at {result['knee_worlds']} worlds; {result['control_steps_per_s']:.0f} control steps/s at most")
    if options.json is not None:
        write_json(options.json, {"gpu": result})


def summary(task: str, options: argparse.Namespace, rows: list[dict[str, float]]) -> dict[str, Any]:
    """All rows, the best rate and the knee, and what they were measured with."""
    best = max(row["control_steps_per_s"] for row in rows)
    knee = min(int(row["worlds"]) for row in rows if row["control_steps_per_s"] >= KNEE * best)
    device = torch.cuda.get_device_name() if options.backend == "gpu" else platform.processor() or platform.machine()
    return {
        "task": task,
        "backend": options.backend,
        "device": device,
        "control_steps_per_s": best,
        "ratio_wanted": best / WANTED,
        "knee_worlds": knee,
        "rows": rows,
        "versions": {name: version(name) for name in ("mujoco", "mujoco-warp", "warp-lang", "torch")},
    }


def measured(task: str, count: int, backend: str, looks: int) -> dict[str, float]:
    """One number of worlds."""
    device = torch.device(DEVICE_BACKENDS[backend])
    before = used_bytes(device)
    env = make_env(task, count, backend=backend)
    policy = small_policy(task, env.device)
    # More episodes than can end in the time, so that the queue never runs dry.
    seeds = list(range(count)) * (2 + 8 * looks // task_info(task).horizon)
    starts = env.prepare(seeds)
    run: Any = Run(policy, env, seeds, starts)
    look(run, 3)  # compiles, then captures
    synchronise(device)
    begun = time.perf_counter()
    look(run, looks)
    synchronise(device)
    seconds = time.perf_counter() - begun
    memory = (used_bytes(device) - before) / count
    steps = count * looks * policy.spec.n_action_steps
    shares = timed_parts(run, policy, env, looks)
    env.close()
    return {
        "worlds": count,
        "control_steps_per_s": steps / seconds,
        **{f"share_{name}": part for name, part in shares.items()},
        "memory_per_world_bytes": memory,
    }


def look(run: Any, times: int) -> None:
    """Advance all worlds by as many looks of the policy."""
    for _ in range(times):
        run.refill()
        run.advance()


def timed_parts(run: Any, policy: Policy, env: Any, looks: int) -> dict[str, float]:
    """Share of the time in physics, policy and all the rest, each part waited for."""
    spent = {"physics": 0.0, "policy": 0.0}
    begun = time.perf_counter()
    with timed(env.physics, "step", env.device, spent, "physics"), timed(policy, "plan", env.device, spent, "policy"):
        look(run, looks)
    total = time.perf_counter() - begun
    return {**{name: part / total for name, part in spent.items()}, "bookkeeping": 1 - sum(spent.values()) / total}


@contextmanager
def timed(owner: Any, name: str, device: torch.device, spent: dict[str, float], part: str) -> Iterator[None]:
    """Let a method of one object add the seconds it takes to ``spent[part]``."""
    inner: Callable[..., Any] = getattr(owner, name)

    def call(*args: Any, **options: Any) -> Any:
        synchronise(device)
        begun = time.perf_counter()
        answer = inner(*args, **options)
        synchronise(device)
        spent[part] += time.perf_counter() - begun
        return answer

    setattr(owner, name, call)
    yield
    delattr(owner, name)


def small_policy(task: str, device: torch.device) -> Policy:
    """A policy of the size that CW10 is learned with; what it does to the worlds is no matter here."""
    info = task_info(task)
    spec = PolicySpec(
        tasks=(task,),
        shape=Shape(info.observation_dim, info.action_dim, 1, 8),
        observation_indices=tuple(range(info.observation_dim)),
        n_action_steps=4,
        network=Network(width=256),
        diffusion=Diffusion(acting_steps=5),
    )
    model = spec.model(device=device)
    ends = {"observation": torch.ones(1, info.observation_dim), "action": torch.ones(1, info.action_dim)}
    normalizer = Normalizer({part: -end for part, end in ends.items()}, ends)
    params = {name: value.detach() for name, value in model.net.named_parameters()}
    return Policy(spec, model, params, normalizer)


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def used_bytes(device: torch.device) -> int:
    """Memory in use: the device's, or this process's on the CPU."""
    if device.type == "cuda":
        synchronise(device)
        free, total = torch.cuda.mem_get_info(device)
        return total - free
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return 1024 * int(line.split()[1])
    return 0


if __name__ == "__main__":
    main()
