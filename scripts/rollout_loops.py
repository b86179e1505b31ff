"""Closed loops over batched worlds as the benchmark times them: in one process, in two halves, in two processes."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch

from trcl_envs.catalog import make_env, make_expert, task_info
from trcl_envs.experts import MetaworldExpert
from trcl_envs.interface import FloatArray
from trcl_envs.worlds import Worlds
from trcl_policy.diffusion.process import Diffusion
from trcl_policy.policy.controller import Policy, PolicySpec
from trcl_policy.policy.normalizer import Normalizer
from trcl_policy.policy.trajectory import Network
from trcl_policy.policy.windows import Shape

Act = Callable[[FloatArray], Any]
NOTHING, EXPERT, PUBLIC_EXPERT = "nothing", "expert", "public expert"
"""What acts: actions given beforehand, the expert that this package makes, Meta-World's own asked row by row.
``"policy 5"`` is a diffusion policy with five sampler steps."""


def random_policy(task: str, acting_steps: int) -> Policy:
    """A policy of the size that runs train (MLP of width 256), with random weights: as fast as a trained one."""
    observation_dim, action_dim = task_info(task).observation_dim, task_info(task).action_dim
    shape = Shape(observation_dim, action_dim, 1, 8)
    diffusion = Diffusion(acting_steps=acting_steps)
    spec = PolicySpec((task,), shape, tuple(range(observation_dim)), 4, Network("mlp"), diffusion)
    model = spec.model()
    sizes = {"observation": observation_dim, "action": action_dim}
    high = {part: torch.ones(1, size) for part, size in sizes.items()}
    ranges = Normalizer({part: -leaf for part, leaf in high.items()}, high)
    return Policy(spec, model, {name: leaf.detach() for name, leaf in model.net.named_parameters()}, ranges)


class Loop:
    """N worlds and what acts on them.

    Args:
        task: its name.
        num_worlds: N.
        threads: physics threads.
        actor: what acts.
        first_seed: seed of the first world.
    """

    def __init__(self, task: str, num_worlds: int, threads: int, actor: str, first_seed: int = 0) -> None:
        self.env: Worlds = make_env(task, num_worlds, threads)
        self.seeds = range(first_seed, first_seed + num_worlds)
        self.actor, self.policy = actor, None
        self._act: Act = make_expert(task).actions
        if actor == PUBLIC_EXPERT:
            self._act = MetaworldExpert(task).actions
        elif actor.startswith("policy"):
            self.policy = random_policy(task, int(actor.split()[1]))
            self._act = self.policy.select_action

    def begin(self) -> FloatArray:
        """Start all worlds anew; returns observations."""
        if self.policy is not None:
            self.policy.reset(self.env.info.name, self.seeds)
        return self.env.reset(self.seeds)

    def run(self, observation: FloatArray, steps: int, actions: Sequence[FloatArray] = ()) -> float:
        """Seconds of some control steps of all worlds."""
        started = time.perf_counter()
        for number in range(steps):
            action = actions[number] if self.actor == NOTHING else self._act(observation)
            observation = self.env.step(action).observation
        return time.perf_counter() - started

    def seconds(self, steps: int, actions: Sequence[FloatArray] = ()) -> float:
        """Seconds of some control steps from the start, the reset left out."""
        return self.run(self.begin(), steps, actions)

    def shares(self, steps: int) -> dict[str, float]:
        """Share of the time in physics, in what acts, and in the rest (observations, success, bookkeeping)."""
        spent = {"physics": 0.0, "policy": 0.0}
        step, act = self.env.physics.step, self._act

        def timed(part: str, work: Callable[..., Any]) -> Callable[..., Any]:
            def run(*args: Any, **options: Any) -> Any:
                started = time.perf_counter()
                result = work(*args, **options)
                spent[part] += time.perf_counter() - started
                return result

            return run

        self.env.physics.step, self._act = timed("physics", step), timed("policy", act)  # type: ignore[method-assign]
        observation = self.begin()
        spent.update(physics=0.0, policy=0.0)
        total = self.run(observation, steps)
        self.env.physics.step, self._act = step, act  # type: ignore[method-assign]
        parts = {part: seconds / total for part, seconds in spent.items()}
        return {**parts, "bookkeeping": 1 - sum(parts.values())}

    def expert_actions(self, steps: int) -> list[FloatArray]:
        """What the expert does from these starts, to be replayed in open loop."""
        observation, actions = self.begin(), []
        for _ in range(steps):
            actions.append(np.clip(self._act(observation), -1, 1))
            observation = self.env.step(actions[-1]).observation
        return actions

    def episodes(self, seeds: Sequence[int]) -> float:
        """Seconds of one episode a seed, in lockstep, resets included, each to its first success."""
        started = time.perf_counter()
        for first in range(0, len(seeds), self.env.num_worlds):
            observation = self.env.reset(seeds[first : first + self.env.num_worlds])
            active = np.ones(len(observation), dtype=bool)
            for _ in range(self.env.info.horizon):
                step = self.env.step(self._act(observation), active)
                observation, active = step.observation, active & ~step.success
                if not active.any():
                    break
        return time.perf_counter() - started

    def close(self) -> None:
        """Release the worlds."""
        self.env.close()


class Halves:
    """Two half-batches in two threads of one process: one is in physics while the other is in the policy."""

    def __init__(self, task: str, num_worlds: int, actor: str) -> None:
        half = num_worlds // 2
        self.loops = [Loop(task, half, 1, actor, first_seed=first) for first in (0, half)]

    def seconds(self, steps: int) -> float:
        """Seconds until both are through, resets left out."""
        observations = [loop.begin() for loop in self.loops]
        threads = [
            threading.Thread(target=loop.run, args=(observation, steps))
            for loop, observation in zip(self.loops, observations, strict=True)
        ]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - started

    def close(self) -> None:
        """Release the worlds."""
        for loop in self.loops:
            loop.close()


class Fleet:
    """Processes that each run a loop of their own, as ``trcl evaluate --workers`` does."""

    def __init__(self, num_processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        pipes = [context.Pipe() for _ in range(num_processes)]
        self._ends = [mine for mine, _ in pipes]
        self._processes = [context.Process(target=serve, args=(theirs,), daemon=True) for _, theirs in pipes]
        for process in self._processes:
            process.start()

    def seconds(self, task: str, num_worlds: int, actor: str, steps: int) -> float:
        """Seconds until all are through with ``num_worlds`` worlds each, resets left out."""
        self._ask("begin", task, num_worlds, actor)
        started = time.perf_counter()
        self._ask("run", steps)
        return time.perf_counter() - started

    def _ask(self, *words: Any) -> None:
        for end in self._ends:
            end.send(words)
        for end in self._ends:
            end.recv()

    def close(self) -> None:
        """End the processes."""
        for end, process in zip(self._ends, self._processes, strict=True):
            end.send(("stop",))
            process.join()


def serve(end: Any) -> None:
    """What a process of the fleet does."""
    torch.set_num_threads(1)
    made = cache(lambda task, num_worlds, actor: Loop(task, num_worlds, 1, actor))
    loop, observation = None, None
    while (words := end.recv())[0] != "stop":
        if words[0] == "begin":
            loop = made(*words[1:])
            observation = loop.begin()
        elif loop is not None and observation is not None:
            loop.run(observation, words[1])
        end.send(True)
