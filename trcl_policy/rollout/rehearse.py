"""What a policy meets when it does a task itself: the raw material of replay by rollouts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from trcl_envs.interface import BatchedEnv
from trcl_policy.rollout.evaluate import Controller
from trcl_policy.rollout.seeing import Pictures, Seeing, with_eyes


@dataclass(frozen=True)
class Experience:
    """Steps of several episodes, one after another.

    Attributes:
        observation: (N, Do), before each action.
        action: (N, Da), as executed.
        episode_ends: (E,) exclusive ends.
        images: by camera, (N, H, W, 3), where the policy has cameras.
    """

    observation: NDArray[np.float32]
    action: NDArray[np.float32]
    episode_ends: NDArray[np.int64]
    images: Pictures = field(default_factory=dict)


def rehearse(
    controller: Controller, env: BatchedEnv, num_steps: int, draw_seeds: Callable[[int], Sequence[int]]
) -> Experience:
    """Let ``controller`` act, all worlds side by side and as often as needed, until ``num_steps`` steps are together.

    Solved or not, every episode counts: it is the policy's own behaviour, not a demonstration.

    Args:
        controller: the policy.
        env: worlds of one task.
        num_steps: steps wanted; whole episodes come, so there are usually some more.
        draw_seeds: count -> as many seeds, one episode each.
    """
    met: list[_Met] = []
    controller = with_eyes(controller, env, every_step=True)
    while sum(len(action) for _, action, _ in met) < num_steps:
        met += _episodes(controller, env, draw_seeds(env.num_worlds))
    observation, action = (np.concatenate(parts) for parts in list(zip(*met, strict=True))[:2])
    images = {camera: np.concatenate([views[camera] for *_, views in met]) for camera in met[0][2]}
    return Experience(observation, action, np.cumsum([len(action) for _, action, _ in met]), images)


_Met = tuple[NDArray[np.float32], NDArray[np.float32], Pictures]


def _episodes(controller: Controller, env: BatchedEnv, seeds: Sequence[int]) -> list[_Met]:
    """Observations, actions and pictures of one episode a seed, until success, failure or the horizon."""
    info, num = env.info, len(seeds)
    states = np.zeros((num, info.horizon, info.observation_dim), np.float32)
    actions = np.zeros((num, info.horizon, info.action_dim), np.float32)
    lengths, active = np.zeros(num, int), np.ones(num, bool)
    views: list[Pictures] = []
    observation = env.reset(list(seeds))
    controller.reset(info.name, seeds)
    for now in range(info.horizon):
        states[:, now], actions[:, now] = observation, controller.select_action(observation)
        views.append(controller.shown if isinstance(controller, Seeing) else {})
        step = env.step(actions[:, now].astype(np.float64), active)
        lengths += active
        active = active & ~step.success & ~step.failed
        observation = step.observation
        if not active.any():
            break
    met = []
    for row, end in enumerate(lengths):
        images = {camera: np.stack([view[camera][row] for view in views[:end]]) for camera in views[0]}
        met.append((states[row, :end], actions[row, :end], images))
    return met
