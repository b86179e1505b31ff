"""Headless rollouts that measure how well a policy still does each task."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from trcl_envs.interface import BatchedEnv, BoolArray
from trcl_policy.rollout.seeing import with_eyes

BLOCK = 25
"""Episodes that run in lockstep. Blocks are cut by position in the list of seeds, never by the number of workers."""


class Controller(Protocol):
    """What a rollout needs of a policy."""

    def reset(self, task: str | None = None, seeds: Sequence[int] = ()) -> None:
        """Forget the episode, choose the task and the noise streams of the rows."""
        ...

    def select_action(self, observation: np.ndarray) -> np.ndarray:
        """Actions (B, Da) for observations (B, Do)."""
        ...


@dataclass(frozen=True)
class Episode:
    """One rollout.

    Attributes:
        task: name of the task.
        seed: seed of the start state and of the policy's noise.
        success: the task was solved at some step.
        return_: sum of rewards.
        length: control steps until success, or the horizon.
        failed: the physics became non-finite; counts as no success.
        start: fingerprint of the first observation.
    """

    task: str
    seed: int
    success: bool
    return_: float
    length: int
    failed: bool
    start: str

    def record(self) -> dict[str, Any]:
        """The line that goes into ``episodes.jsonl``."""
        record = asdict(self)
        record["return"] = record.pop("return_")
        return record


def evaluate(controller: Controller, env: BatchedEnv, seeds: Sequence[int]) -> list[Episode]:
    """Roll ``controller`` out on every seed, ``BLOCK`` episodes at a time; ends each at its first success.

    Args:
        controller: the policy; one with cameras is shown pictures of the worlds when it looks.
        env: at least ``min(BLOCK, len(seeds))`` worlds of one task.
        seeds: one episode each.
    """
    episodes: list[Episode] = []
    controller = with_eyes(controller, env)
    for start in range(0, len(seeds), BLOCK):
        episodes += _block(controller, env, list(seeds[start : start + BLOCK]))
    return episodes


def _block(controller: Controller, env: BatchedEnv, seeds: list[int]) -> list[Episode]:
    observation = env.reset(seeds)
    starts = [fingerprint(row) for row in observation]
    controller.reset(env.info.name, seeds)
    active: BoolArray = np.ones(len(seeds), dtype=bool)
    success, failed = np.zeros_like(active), np.zeros_like(active)
    returns, lengths = np.zeros(len(seeds)), np.zeros(len(seeds), dtype=int)
    for _ in range(env.info.horizon):
        step = env.step(controller.select_action(observation), active)
        observation = step.observation
        returns += np.where(active, step.reward, 0.0)
        lengths += active
        success |= active & step.success & ~step.failed
        failed |= active & step.failed
        active = active & ~success & ~failed
        if not active.any():
            break
    columns = zip(seeds, success, returns, lengths, failed, starts, strict=True)
    return [
        Episode(env.info.name, int(seed), bool(won), float(total), int(length), bool(broke), start)
        for seed, won, total, length, broke, start in columns
    ]


def fingerprint(observation: np.ndarray) -> str:
    """Twelve hex digits of the observation's bytes, to tell whether two episodes started alike."""
    return hashlib.sha256(np.ascontiguousarray(observation, dtype=np.float64).tobytes()).hexdigest()[:12]
