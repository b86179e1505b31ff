"""Speed of batched rollouts on the CPU as ratios on this machine, beside their peers; under three minutes.

.venv/bin/python scripts/benchmark_rollouts.py                                              # prints tables
.venv/bin/python scripts/benchmark_rollouts.py --json results/benchmarks/rollouts.json      # and keeps them
.venv/bin/python scripts/benchmark_rollouts.py --only render

Everything is timed on the same cores in turns, and the fastest of each one's turns counts: other work on the machine
then disturbs least. All loops begin at the starts of the same seeds; a control step is five physics steps of 2.5 ms and
a forward pass over the new state. ``mujoco.rollout`` replays the expert's commands from the same starts in open loop.

ratio_async: control steps/s of our worlds in closed loop with Meta-World's own expert, asked row by row, over those of
    gymnasium's AsyncVectorEnv over Meta-World's environments with the same expert, at its best number of processes.
ratio_limit: evaluations of the dynamics/s in closed loop with the expert, over ``mujoco.rollout``'s with a thread a
    core. Our control step counts six: five steps, and the forward pass, which is a step without its integration.
ratio_limit_five: the same, the forward pass not counted: control steps/s over those that open loop could do.
Each is the smallest over the tasks; ours uses the cores in the better of two ways, threads of one process or one
process a core. ``_threads``, ``_processes`` and ``_one_thread`` (against one thread) tell them apart.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import mujoco
import torch
from rollout_loops import EXPERT, NOTHING, PUBLIC_EXPERT, Fleet, Halves, Loop
from rollout_peers import REPEATS, OpenLoop, PublicLoop, PublicVector
from rollout_pictures import render
from timing import fastest, heading, line, timed

from trcl_envs.catalog import make_env
from trcl_envs.experts import MetaworldExpert
from trcl_envs.worlds import Worlds
from trcl_policy.files import read_json, write_json

TASKS = ("push-v3", "drawer-open-v3")
WORLDS = 64
STEPS = 30
FORWARD_AND_STEPS = 6
PROCESSES = (2, 4)
"""Processes of AsyncVectorEnv; its best number counts."""
CORES = 2
POLICIES = ("policy 5", "policy 8")


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), help="tasks")
    parser.add_argument("--rounds", type=int, default=5, help="turns, of which the fastest counts")
    parser.add_argument("--only", choices=("physics", "policy", "resets", "render"), help="measure one part")
    parser.add_argument("--json", type=Path, help="file to write; what other parts left there stays")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds must be >= 1, got {options.rounds}")
    torch.set_num_threads(1)
    parts = {"physics": physics, "policy": policy, "resets": resets, "render": render}
    cpu: dict[str, Any] = {}
    for name in [options.only] if options.only else parts:
        cpu |= parts[name](options.tasks, options.rounds)
    if options.json:
        before = read_json(options.json) if options.json.exists() else {}
        found = {**before, "cpu": {**before.get("cpu", {}), **cpu, "machine": machine(options.rounds)}}
        write_json(options.json, found)


def physics(tasks: list[str], rounds: int) -> dict[str, Any]:
    """Control steps/s and episodes/s of every task, and the ratios of them all."""
    fleet = Fleet(CORES)
    found = {task: one_task(task, rounds, fleet) for task in tasks}
    fleet.close()
    names = [name for name in found[tasks[0]] if name.startswith("ratio")]
    smallest = {name: min(result[name] for result in found.values()) for name in names}
    heading("smallest over the tasks")
    for name, value in smallest.items():
        line(name, value, "x", 2)
    return {**smallest, "tasks": found}


def one_task(task: str, rounds: int, fleet: Fleet) -> dict[str, Any]:
    """Rates of one task, ours and the peers', and their ratios."""
    loops = {
        f"ours, {threads} threads, {actor}": Loop(task, WORLDS, threads, actor)
        for threads in (1, CORES)
        for actor in (NOTHING, EXPERT, PUBLIC_EXPERT)
    }
    given = next(iter(loops.values())).expert_actions(STEPS)
    next(iter(loops.values())).begin()
    opens = {count: OpenLoop(next(iter(loops.values())).env, given, count) for count in (1, CORES)}
    public, vectors = PublicLoop(task), {count: PublicVector(task, count) for count in PROCESSES}
    expert = MetaworldExpert(task)
    works: dict[str, tuple[int, Callable[[], float]]] = {
        name: (WORLDS * STEPS, partial(loop.seconds, STEPS, given)) for name, loop in loops.items()
    }
    halved = WORLDS // CORES
    for actor in (EXPERT, PUBLIC_EXPERT):
        name = f"ours, {CORES} processes, {actor}"
        works[name] = (WORLDS * STEPS, partial(fleet.seconds, task, halved, actor, STEPS))
    works["Meta-World in a loop, public expert"] = (REPEATS * STEPS, partial(public.steps, expert, STEPS))
    for count, vector in vectors.items():
        name = f"AsyncVectorEnv, {count} processes, public expert"
        works[name] = (REPEATS * count * STEPS, partial(vector.steps, expert, STEPS))
    for count, opened in opens.items():
        works[f"mujoco.rollout, {count} threads, physics steps"] = (WORLDS * opened.num_steps, opened.steps)
    seconds = fastest({name: work for name, (_, work) in works.items()}, rounds)
    rates = {name: count / seconds[name] for name, (count, _) in works.items()}
    episodes = episode_rates(loops[f"ours, {CORES} threads, {EXPERT}"], public, vectors[PROCESSES[0]], expert)
    for part in [*loops.values(), *opens.values(), *vectors.values()]:
        part.close()
    ratios = compare(rates, episodes)
    heading(f"{task}: control steps/s")
    for name, value in rates.items():
        line(name, value)
    for name, value in episodes.items():
        line(f"episodes/s: {name}", value, digits=2)
    for name, value in ratios.items():
        line(name, value, "x", 2)
    return {**ratios, "control_steps_per_s": rates, "episodes_per_s": episodes}


def episode_rates(ours: Loop, public: PublicLoop, vector: PublicVector, expert: MetaworldExpert) -> dict[str, float]:
    """Episodes/s to the first success, resets included, from starts that nothing has seen before."""
    seeds = iter(range(10_000, 10**9, 2 * WORLDS))
    works = {
        "ours": lambda: ours.episodes(range(first := next(seeds), first + 2 * WORLDS)),
        "Meta-World in a loop": partial(public.episodes, expert, 3),
        f"AsyncVectorEnv, {PROCESSES[0]} processes": partial(vector.episodes, expert, 2),
    }
    counts = dict(zip(works, (2 * WORLDS, 3, 2 * PROCESSES[0]), strict=True))
    return {name: counts[name] / value for name, value in fastest(works, 2).items()}


def compare(rates: Mapping[str, float], episodes: Mapping[str, float]) -> dict[str, float]:
    """The ratios that are promised, and their neighbours."""
    asynchronous = max(rate for name, rate in rates.items() if name.startswith("AsyncVectorEnv"))
    limit, limit_one = (rates[f"mujoco.rollout, {count} threads, physics steps"] for count in (CORES, 1))
    ways = {"threads": f"ours, {CORES} threads", "processes": f"ours, {CORES} processes"}
    found = {f"ratio_async_{way}": rates[f"{name}, {PUBLIC_EXPERT}"] / asynchronous for way, name in ways.items()}
    for way, name in ways.items():
        found[f"ratio_limit_{way}"] = FORWARD_AND_STEPS * rates[f"{name}, {EXPERT}"] / limit
    best = max(ways, key=lambda way: found[f"ratio_limit_{way}"])
    one = rates[f"ours, 1 threads, {EXPERT}"] / limit_one
    return {
        "ratio_async": max(found["ratio_async_threads"], found["ratio_async_processes"]),
        "ratio_limit": found[f"ratio_limit_{best}"],
        "ratio_limit_five": found[f"ratio_limit_{best}"] * (FORWARD_AND_STEPS - 1) / FORWARD_AND_STEPS,
        **found,
        "ratio_limit_threads_without_expert": FORWARD_AND_STEPS * rates[f"{ways['threads']}, {NOTHING}"] / limit,
        "ratio_limit_one_thread": FORWARD_AND_STEPS * one,
        "ratio_limit_five_one_thread": (FORWARD_AND_STEPS - 1) * one,
        "ratio_async_our_expert": max(rates[f"{name}, {EXPERT}"] for name in ways.values()) / asynchronous,
        "ratio_async_episodes": episodes["ours"] / episodes[f"AsyncVectorEnv, {PROCESSES[0]} processes"],
        "ratio_loop": rates[f"ours, 1 threads, {PUBLIC_EXPERT}"] / rates["Meta-World in a loop, public expert"],
    }


def policy(tasks: list[str], rounds: int) -> dict[str, Any]:
    """Closed loop with a diffusion policy: rates, where the time goes, and what overlapping is worth."""
    task, fleet, found = tasks[0], Fleet(CORES), {}
    for actor in POLICIES:
        single, pool = (Loop(task, WORLDS, threads, actor) for threads in (1, CORES))
        halves = Halves(task, WORLDS, actor)
        works = {
            "one thread": partial(single.seconds, STEPS),
            f"{CORES} physics threads": partial(pool.seconds, STEPS),
            "two halves in two threads": partial(halves.seconds, STEPS),
            f"{CORES} processes": partial(fleet.seconds, task, WORLDS // CORES, actor, STEPS),
        }
        rates = {name: WORLDS * STEPS / value for name, value in fastest(works, rounds).items()}
        shares = {"one thread": single.shares(STEPS), f"{CORES} physics threads": pool.shares(STEPS)}
        for part in (single, pool, halves):
            part.close()
        found[actor] = {"control_steps_per_s": rates, "shares": shares}
        found[actor]["ratio_to_one_thread"] = {name: rate / rates["one thread"] for name, rate in rates.items()}
        heading(f"{task}, diffusion policy with {actor.split()[1]} sampler steps: control steps/s")
        for name, value in rates.items():
            line(name, value)
        for name, parts in shares.items():
            line(f"{name}: " + ", ".join(f"{part} {share:.0%}" for part, share in parts.items()), None)
    fleet.close()
    return {"policy": {"task": task, **found}}


def resets(tasks: list[str], rounds: int) -> dict[str, Any]:
    """Milliseconds of one reset: settled anew, remembered, and Meta-World's."""
    found = {}
    for task in tasks:
        env, public = make_env(task, 1), PublicLoop(task)
        works = {
            "settled anew": partial(timed_reset, env, forget=True),
            "remembered": partial(timed_reset, env, forget=False),
            "Meta-World": public.reset,
        }
        seconds = fastest(works, 3 * rounds)
        env.close()
        found[task] = {f"{name}_ms": 1e3 * value for name, value in seconds.items()}
        found[task]["ratio_public"] = seconds["Meta-World"] / seconds["remembered"]
        heading(f"{task}: one reset, ms")
        for name, value in found[task].items():
            line(name, value, digits=2)
    return {"reset": found}


def timed_reset(env: Worlds, forget: bool) -> float:
    """Seconds of one reset of one world."""
    if forget:
        env.physics._starts._known.clear()
    return timed(lambda: env.reset([7]))


def machine(rounds: int) -> dict[str, Any]:
    """What ran this, and how busy it was."""
    return {
        "processor": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
        "mujoco": mujoco.__version__,
        "torch": torch.__version__,
        "rounds": rounds,
        "worlds": WORLDS,
        "steps": STEPS,
    }


if __name__ == "__main__":
    main()
