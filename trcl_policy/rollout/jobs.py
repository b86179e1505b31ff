"""A piece of an evaluation, and the one object that computes it wherever it runs: here, in a process, on a cluster.

Messages between the one who hands out work and a worker are JSON in UTF-8. JSON writes a float so that reading it gives
the same float again, so nothing is lost on the way.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import json
import math
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from trcl_envs.interface import BatchedEnv
from trcl_policy.policy.acting import Acting
from trcl_policy.rollout.dumps import Dump, trace
from trcl_policy.rollout.evaluate import BLOCK, Controller, Episode, evaluate

MakeEnv = Callable[[str, int], BatchedEnv]
MOST_DUMPS = 5
"""Broken episodes of one job that are run once more to save how they broke."""

SIMULATORS = ("mujoco", "mujoco-warp", "robosuite")
VERSIONS = (*SIMULATORS, "torch", "numpy")
"""Packages whose version can change a result; all workers of an evaluation must have the same."""


@dataclass(frozen=True)
class Job:
    """Some episodes of one task under one checkpoint.

    Attributes:
        checkpoint: folder of the policy.
        task: name of the task.
        seeds: one episode each.
    """

    checkpoint: str
    task: str
    seeds: tuple[int, ...]

    def __str__(self) -> str:
        return f"task {self.task}, {spell_seeds(self.seeds)}"


def cut(checkpoint: str, tasks: Sequence[str], seeds: Sequence[int], block: int = BLOCK) -> list[Job]:
    """Jobs of at most ``block`` seeds for every task over all seeds; ``block`` changes the speed, not the episodes."""
    blocks = [tuple(seeds[start : start + block]) for start in range(0, len(seeds), block)]
    return [Job(checkpoint, task, block) for task in tasks for block in blocks]


def spell_seeds(seeds: Sequence[int]) -> str:
    """Seeds as people write them: ``seed 7``, ``seeds 7 to 31``, or all of them where there are gaps."""
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    if list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"seeds {seeds[0]} to {seeds[-1]}"
    return f"seeds {', '.join(map(str, seeds))}"


def load_on(device: str, acting: Acting, checkpoint: str) -> Controller:
    """The policy saved in ``checkpoint``, on ``device`` and acting so; torch computes with one thread from now on.

    Matrix products may round differently for different numbers of threads.
    """
    import torch

    from trcl_policy.policy.controller import load_policy

    torch.set_num_threads(1)
    return load_policy(checkpoint, device, acting)


@dataclass(frozen=True)
class Setup:
    """What a worker needs before its first job; it travels to other processes, so its parts must be importable there.

    Attributes:
        make_env: ``make_env(task, num_worlds)``.
        load: ``load(checkpoint)`` gives the policy.
        gpus: GPUs that a worker's policy needs; 0 where it runs on the CPU.
    """

    make_env: MakeEnv
    load: Callable[[str], Controller]
    gpus: int = 0


@dataclass(frozen=True)
class Answer:
    """What a worker makes of a job.

    Attributes:
        episodes: in the order of the seeds; empty where it failed.
        dumps: how episodes broke whose physics became non-finite.
        error: kind (name of the exception) and message, where the job raised.
    """

    episodes: tuple[Episode, ...] = ()
    dumps: tuple[Dump, ...] = ()
    error: tuple[str, str] | None = None

    def pack(self) -> bytes:
        """The message that says so."""
        dumps = [base64.b64encode(dump.to_bytes()).decode() for dump in self.dumps]
        records = [episode.record() for episode in self.episodes]
        return _pack({"records": records, "dumps": dumps, "error": self.error})

    @classmethod
    def unpack(cls, message: bytes, job: Job) -> Answer:
        """The answer to ``job`` in ``message``.

        Raises:
            ValueError: it is no answer to this job, or holds numbers that no finite episode has.
        """
        document = json.loads(message)
        if document["error"] is not None:
            return cls(error=tuple(document["error"]))
        episodes = tuple(_episode(record) for record in document["records"])
        came = [(episode.task, episode.seed) for episode in episodes]
        if came != [(job.task, seed) for seed in job.seeds]:
            raise ValueError(f"answer must hold {job}, got {came}")
        broken = [episode.seed for episode in episodes if not math.isfinite(episode.return_)]
        if broken:
            raise ValueError(f"return must be finite, got other numbers for {spell_seeds(broken)}")
        return cls(episodes, tuple(Dump.from_bytes(base64.b64decode(text)) for text in document["dumps"]))


@dataclass
class Worker:
    """Answers jobs one after another; keeps the last policy and the last environment for the next."""

    setup: Setup
    _policy: tuple[str, Controller] | None = field(default=None, init=False)
    _env: BatchedEnv | None = field(default=None, init=False)

    def hello(self) -> bytes:
        """The first message: who it is, and which versions it computes with."""
        versions = {"python": platform.python_version(), **versions_here()}
        return _pack({"pid": os.getpid(), "host": platform.node(), "versions": versions})

    def answer(self, message: bytes) -> bytes:
        """The answer to a job, as a message; whatever goes wrong is part of it."""
        document = json.loads(message)
        job = Job(document["checkpoint"], document["task"], tuple(document["seeds"]))
        try:
            return self.work(job).pack()
        except Exception as error:  # whoever hands out the work decides what to make of it
            self.close()
            return Answer(error=(_kind(error), " ".join(str(error).split()) or type(error).__name__)).pack()

    def work(self, job: Job) -> Answer:
        """Roll out one job."""
        num_worlds = min(len(job.seeds), BLOCK)
        if self._policy is None or self._policy[0] != job.checkpoint:
            self._policy = (job.checkpoint, self.setup.load(job.checkpoint))
        if self._env is None or self._env.info.name != job.task or self._env.num_worlds < num_worlds:
            self.close_env()
            self._env = self.setup.make_env(job.task, num_worlds)
        episodes = evaluate(self._policy[1], self._env, job.seeds)
        broken = [episode for episode in episodes if episode.failed][:MOST_DUMPS]
        physics = physics_of(versions_here())
        dumps = [trace(self._policy[1], self._env, job.checkpoint, episode, physics) for episode in broken]
        return Answer(tuple(episodes), tuple(dumps))

    def close_env(self) -> None:
        """Release the simulation."""
        if self._env is not None:
            self._env.close()
            self._env = None
            _return_memory()

    def close(self) -> None:
        """Forget everything; the next job begins as the first one did."""
        self.close_env()
        self._policy = None


def _return_memory() -> None:
    """Give freed memory back to the system: compiled scenes of different sizes leave holes that glibc keeps for itself.

    Without it a worker that changes its task a hundred times holds twice what it needs.
    """
    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def order(job: Job) -> bytes:
    """The message that hands out a job."""
    return _pack({"checkpoint": job.checkpoint, "task": job.task, "seeds": job.seeds})


def greeting(message: bytes) -> Mapping[str, Any]:
    """What a worker's first message says."""
    return json.loads(message)


def versions_here() -> dict[str, str]:
    """Versions of the installed packages of ``VERSIONS``."""
    found = {}
    for name in VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def physics_of(versions: Mapping[str, str]) -> str:
    """The simulator's packages among ``versions`` as text, such as ``mujoco 3.3.0``."""
    return ", ".join(f"{name} {versions[name]}" for name in SIMULATORS if name in versions)


def _episode(record: Mapping[str, Any]) -> Episode:
    return Episode(**{"return_" if name == "return" else name: value for name, value in record.items()})


def _kind(error: Exception) -> str:
    """The house's three kinds of error: the user's, the machine's, and the rest."""
    return next((kind.__name__ for kind in (ValueError, OSError) if isinstance(error, kind)), type(error).__name__)


def _pack(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document).encode()
