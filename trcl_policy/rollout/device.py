"""Rollouts that stay on the device of the physics: many episodes on fewer worlds, kept full from a queue.

All worlds look at the same time, every ``n_action_steps`` control steps. Between two looks nothing waits for the
device; at a look one small table comes back, and worlds whose episode is over begin the next one in the queue. A world
that finishes between two looks idles until then.

What an episode does depends on its checkpoint, task and seed, but here not to the last bit: matrix products round
differently for other numbers of rows, and a GPU's physics is not the same from run to run. Exact results come from the
CPU backend.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from trcl_envs.interface import TaskInfo
from trcl_policy.policy.acting import AS_SAVED, Acting
from trcl_policy.policy.controller import Policy, load_policy
from trcl_policy.rollout.evaluate import Episode, fingerprint
from trcl_policy.rollout.jobs import Job

MOST_WORLDS = 4096
"""Worlds that are simulated at once where nobody says otherwise; more need memory and gain little."""


class Moved(Protocol):
    """What a control step of N worlds returned, in tensors on the device; see ``trcl_envs.interface.Step``."""

    @property
    def observation(self) -> Tensor:
        """(N, Do)."""

    @property
    def reward(self) -> Tensor:
        """(N,)."""

    @property
    def success(self) -> Tensor:
        """(N,) bool."""

    @property
    def failed(self) -> Tensor:
        """(N,) bool."""


class DeviceEnv(Protocol):
    """N worlds of one task on a device. ``Any`` is what ``prepare`` made, which only the environment reads."""

    info: TaskInfo
    num_worlds: int
    device: torch.device

    def prepare(self, seeds: Sequence[int]) -> Any:
        """The start states of these seeds."""
        ...

    def begin(self, rows: Tensor, starts: Any, which: Tensor) -> Tensor:
        """Start episodes ``which`` (n,) of ``starts`` in worlds ``rows`` (n,); their first observations (n, Do)."""
        ...

    def advance(self, actions: Tensor) -> Moved:
        """One control step of all worlds with actions (N, Da)."""
        ...

    def check(self) -> None:
        """Wait for the device; raises SimulationError if its results can't be trusted."""
        ...

    def close(self) -> None:
        """Release memory."""
        ...


def roll_out(
    policy: Policy,
    env: DeviceEnv,
    seeds: Sequence[int],
    starts: Any = None,
    progress: Callable[[int], Any] = lambda finished: None,
) -> list[Episode]:
    """Roll a policy out on every seed, each until its first success, in the order of the seeds.

    Args:
        policy: the policy, on the device of the worlds.
        env: any number of worlds of one task, fewer or more than there are seeds.
        seeds: one episode each.
        starts: ``env.prepare(seeds)``, where several policies are to start from the same states.
        progress: told how many episodes have come to their end, whenever some have.
    """
    run = Run(policy, env, seeds, env.prepare(seeds) if starts is None else starts)
    while run.refill():
        finished = run.advance()
        if finished:
            progress(finished)
    return [episode for episode in run.episodes if episode is not None]


def roll_out_jobs(
    jobs: Sequence[Job],
    make_env: Callable[[str, int], DeviceEnv],
    progress: Callable[[int], Any] = lambda finished: None,
    acting: Acting = AS_SAVED,
) -> Iterator[tuple[int, list[Episode]]]:
    """Yield (place in ``jobs``, episodes) of each job, task by task.

    All jobs of a task share its worlds, and those of one checkpoint are one batch: a retention matrix builds
    each task's worlds and, for the same seeds, its start states once.

    Args:
        jobs: what to roll out.
        make_env: ``make_env(task, num_worlds)``.
        progress: see :func:`roll_out`.
        acting: how the policies act where that is to differ from what they were saved with.
    """
    places: dict[str, dict[str, list[int]]] = {}
    for place, job in enumerate(jobs):
        places.setdefault(job.task, {}).setdefault(job.checkpoint, []).append(place)
    for task, by_checkpoint in places.items():
        batches = {one: [seed for place in mine for seed in jobs[place].seeds] for one, mine in by_checkpoint.items()}
        env = make_env(task, min(max(map(len, batches.values())), MOST_WORLDS))
        prepared: tuple[list[int], Any] = ([], None)
        try:
            for checkpoint, seeds in batches.items():
                if prepared[0] != seeds:
                    prepared = (seeds, env.prepare(seeds))
                policy = load_policy(checkpoint, env.device, acting)
                episodes = iter(roll_out(policy, env, seeds, prepared[1], progress))
                for place in by_checkpoint[checkpoint]:
                    yield place, list(itertools.islice(episodes, len(jobs[place].seeds)))
        finally:
            env.close()


class Run:
    """Worlds, what runs in each, and what has come out so far.

    Args:
        policy, env, seeds, starts: see :func:`roll_out`.

    Attributes:
        episodes: in the order of the seeds; None = not over yet.
    """

    def __init__(self, policy: Policy, env: DeviceEnv, seeds: Sequence[int], starts: Any) -> None:
        self._policy, self._env, self._seeds, self._starts = policy, env, list(seeds), starts
        policy.reset(env.info.name)
        count = env.num_worlds
        self.episodes: list[Episode | None] = [None] * len(self._seeds)
        self._running = np.full(count, -1)  # number of the episode in each world, -1 for none
        self._rngs = [torch.Generator()] * count
        self._fingerprints = [""] * count
        self._history = torch.zeros(
            count, policy.spec.shape.n_obs_steps, env.info.observation_dim, dtype=torch.float32, device=env.device
        )
        # A world is a column; the rows are: it goes on, it succeeded, it broke, control steps, sum of rewards.
        self._table = torch.zeros(5, count, dtype=torch.float64, device=env.device)
        # Worlds for which there is no episode move too: they get a start that is known to be at rest.
        self._begin(np.arange(count), np.minimum(np.arange(count), len(self._seeds) - 1))
        self._running[len(self._seeds) :], self._table[0, len(self._seeds) :] = -1, 0.0
        self._next = min(count, len(self._seeds))

    def refill(self) -> bool:
        """Begin the next episodes in the worlds that are free; whether any world has an episode."""
        free = np.flatnonzero(self._running < 0)[: len(self._seeds) - self._next]
        if len(free):
            self._begin(free, np.arange(self._next, self._next + len(free)))
            self._next += len(free)
        return bool((self._running >= 0).any())

    def _begin(self, worlds: np.ndarray, numbers: np.ndarray) -> None:
        rows, which = (torch.as_tensor(array, device=self._env.device) for array in (worlds, numbers))
        observation = self._env.begin(rows, self._starts, which)
        self._history[rows] = observation.float()[:, None]
        self._table[:, rows], self._table[0, rows] = 0.0, 1.0
        self._running[worlds] = numbers
        begun = observation.double().cpu().numpy()
        for world, number, first in zip(worlds.tolist(), numbers.tolist(), begun, strict=True):
            self._rngs[world] = self._policy.noise_stream(self._seeds[number])
            self._fingerprints[world] = fingerprint(first)

    def advance(self) -> int:
        """Look once and execute ``n_action_steps`` actions; returns how many episodes came to their end."""
        actions = self._policy.plan(self._history, self._rngs, len(self._rngs))
        for number in range(actions.shape[1]):
            step = self._env.advance(actions[:, number])
            self._history = torch.cat([self._history[:, 1:], step.observation.float()[:, None]], dim=1)
            self._count(step)
        self._env.check()
        table = self._table.cpu().numpy()
        over = np.flatnonzero((self._running >= 0) & (table[0] == 0))
        for world in over.tolist():
            self.episodes[self._running[world]] = self._episode(world, table[:, world])
        self._running[over] = -1
        return len(over)

    def _count(self, step: Moved) -> None:
        going, won, broke, length, total = self._table
        active = going > 0
        length += going
        total += torch.where(active, step.reward.double(), 0.0)
        won.copy_(torch.where(active & step.success & ~step.failed, 1.0, won))
        broke.copy_(torch.where(active & step.failed, 1.0, broke))
        going.copy_(active & (won == 0) & (broke == 0) & (length < self._env.info.horizon))

    def _episode(self, world: int, column: np.ndarray) -> Episode:
        _, won, broke, length, total = column.tolist()
        seed, start = self._seeds[self._running[world]], self._fingerprints[world]
        return Episode(self._env.info.name, int(seed), won > 0, total, int(length), broke > 0, start)
