"""Evaluation spread over processes; what comes back does not depend on how many there are.

Work is cut into jobs of at most ``BLOCK`` seeds before anything is handed out, and a job is computed alike wherever it
runs. Workers are spawned, never forked, so that no thread pool or GL context is inherited.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import torch

from trcl_envs.interface import BatchedEnv, SimulationError
from trcl_policy.policy.controller import Policy, load_policy
from trcl_policy.rollout.evaluate import BLOCK, Episode, evaluate

MakeEnv = Callable[[str, int], BatchedEnv]


@dataclass(frozen=True)
class Job:
    """Some episodes of one task under one checkpoint.

    Attributes:
        checkpoint: folder of the policy.
        task: name of the task.
        seeds: at most ``BLOCK`` seeds.
    """

    checkpoint: str
    task: str
    seeds: tuple[int, ...]


def cut(checkpoint: str, tasks: Sequence[str], seeds: Sequence[int]) -> list[Job]:
    """Jobs for every task over all seeds."""
    blocks = [tuple(seeds[start : start + BLOCK]) for start in range(0, len(seeds), BLOCK)]
    return [Job(checkpoint, task, block) for task in tasks for block in blocks]


def run_jobs(jobs: Sequence[Job], make_env: MakeEnv, num_workers: int, device: str = "cpu") -> Iterator[list[Episode]]:
    """Yield the episodes of each job, in the order of the jobs.

    Args:
        jobs: what to roll out.
        make_env: ``make_env(task, num_worlds)``; with workers it must be importable in another process.
        num_workers: processes; 0 computes here.
        device: where the policy runs.
    """
    if num_workers < 0:
        raise ValueError(f"workers must be >= 0, got {num_workers}")
    if num_workers == 0:
        worker = _Worker(make_env, device)
        try:
            yield from map(worker, jobs)
        finally:
            worker.close()
        return
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(num_workers, context, _start, (make_env, device)) as pool:
            yield from pool.map(_run, jobs)
    except BrokenProcessPool:
        raise SimulationError("a worker process died, perhaps out of memory; try fewer with --workers") from None


class _Worker:
    """Keeps the last policy and the last environment for the next job."""

    def __init__(self, make_env: MakeEnv, device: str) -> None:
        self._make_env, self._device = make_env, device
        self._policy: tuple[str, Policy] | None = None
        self._env: BatchedEnv | None = None

    def __call__(self, job: Job) -> list[Episode]:
        if self._policy is None or self._policy[0] != job.checkpoint:
            self._policy = (job.checkpoint, load_policy(job.checkpoint, self._device))
        if self._env is None or self._env.info.name != job.task:
            self.close()
            self._env = self._make_env(job.task, BLOCK)
        return evaluate(self._policy[1], self._env, job.seeds)

    def close(self) -> None:
        """Release the simulation."""
        if self._env is not None:
            self._env.close()
        self._env = None


_worker: _Worker | None = None


def _start(make_env: MakeEnv, device: str) -> None:
    global _worker  # one worker a process, made by the pool's initializer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends the pool
    torch.set_num_threads(1)
    _worker = _Worker(make_env, device)


def _run(job: Job) -> list[Episode]:
    assert _worker is not None, "the pool's initializer makes the worker"
    return _worker(job)
