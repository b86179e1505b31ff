"""Evaluation spread over workers; what comes back does not depend on how many there are, nor on those that fail.

Work is cut into jobs before anything is handed out, and a job is computed alike wherever it runs: in this process, in
spawned ones, or on a Ray cluster.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

from trcl_policy.policy.acting import AS_SAVED, Acting
from trcl_policy.rollout.crew import Crew, Patience, Report
from trcl_policy.rollout.evaluate import Episode
from trcl_policy.rollout.jobs import Job, MakeEnv, Setup, cut, load_on
from trcl_policy.rollout.launchers import Here, Launcher, Processes

__all__ = ["LAUNCHERS", "Job", "Report", "as_done", "cut", "run_jobs"]

LAUNCHERS = ("processes", "ray")


def run_jobs(
    jobs: Sequence[Job],
    make_env: MakeEnv,
    num_workers: int,
    device: str = "cpu",
    **options: Any,
) -> Iterator[list[Episode]]:
    """Yield the episodes of each job, in the order of the jobs; see ``as_done``."""
    setup = setup_for(make_env, device)
    waiting: dict[int, list[Episode]] = {}
    following = 0
    for place, episodes in as_done(jobs, setup, num_workers, **options):
        waiting[place] = episodes
        while following in waiting:
            yield waiting.pop(following)
            following += 1


def setup_for(make_env: MakeEnv, device: str, acting: Acting = AS_SAVED) -> Setup:
    """What workers need to roll out checkpoints of runs with their policy on ``device``, acting so."""
    return Setup(make_env, functools.partial(load_on, device, acting), gpus=int(device != "cpu"))


def as_done(
    jobs: Sequence[Job],
    setup: Setup,
    num_workers: int,
    *,
    launcher: str = "processes",
    address: str | None = None,
    timeout: float | None = None,
    report: Report | None = None,
) -> Iterator[tuple[int, list[Episode]]]:
    """Yield (place in ``jobs``, episodes) of each job as soon as it is done.

    Args:
        jobs: what to roll out.
        setup: what workers need; with workers its parts must be importable in another process.
        num_workers: workers; 0 computes here, where nothing can be ended that hangs.
        launcher: where workers come from, one of ``LAUNCHERS``.
        address: of a Ray cluster; None starts one on this machine, unless RAY_ADDRESS names one.
        timeout: seconds after which a job counts as hung; None measures how long jobs take.
        report: filled with faults and with dumps of broken physics.

    Raises:
        ValueError: an impossible option.
        SimulationError: a job failed too often, no worker starts, or Ray is not installed.
    """
    if num_workers < 0:
        raise ValueError(f"workers must be >= 0, got {num_workers}")
    patience = Patience(timeout)
    source = _launcher(launcher, setup, num_workers, address)
    try:
        yield from Crew(source, max(1, num_workers), patience, report or Report()).run(jobs)
    finally:
        source.close()


def _launcher(name: str, setup: Setup, num_workers: int, address: str | None) -> Launcher[Any]:
    if name not in LAUNCHERS:
        raise ValueError(f"launcher must be one of {', '.join(LAUNCHERS)}, got {name}")
    if address is not None and name != "ray":
        raise ValueError(f"ray_address must be left out where launcher is not ray, got {address}")
    if name == "processes":
        return Processes(setup) if num_workers else Here(setup)
    if not num_workers:
        raise ValueError("workers must be >= 1 with launcher ray, got 0")
    from trcl_policy.rollout.cluster import Cluster

    return Cluster(setup, num_workers, address)
