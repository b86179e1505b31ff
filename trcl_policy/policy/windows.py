"""Episodes as training windows: an observation history and the actions that follow.

    observation   o[t - n_obs_steps + 1 .. t]
    action                                  a[t .. t + horizon - 1]

Before the first step the first observation is repeated, after the last step the last action.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trcl_policy.continual.params import Batch


@dataclass(frozen=True)
class Shape:
    """Sizes of a window.

    Attributes:
        observation_dim: size of one observation as the policy sees it.
        action_dim: size of one action.
        n_obs_steps: observations in the history.
        horizon: predicted actions.
        guided: a window also tells how far along its episode it is, and generation can be told.
    """

    observation_dim: int
    action_dim: int
    n_obs_steps: int
    horizon: int
    guided: bool = False

    @property
    def parts(self) -> dict[str, int]:
        """Flattened size of each part of a window."""
        observation, action = self.n_obs_steps * self.observation_dim, self.horizon * self.action_dim
        return {"observation": observation, **({"progress": 1} if self.guided else {}), "action": action}


class Windows:
    """All windows of some episodes of one task, one for every time step.

    Args:
        arrays: ``observation`` (N, Do) and ``action`` (N, Da), already normalised; episodes one after another.
        episode_ends: (E,) exclusive ends of the episodes.
        task: index of the task.
        shape: sizes of a window.
    """

    def __init__(self, arrays: Mapping[str, Tensor], episode_ends: np.ndarray, task: int, shape: Shape) -> None:
        self.observation, self.action = arrays["observation"], arrays["action"]
        device = self.action.device
        ends = np.asarray(episode_ends, dtype=np.int64)
        lengths = np.diff(ends, prepend=0)
        if len(ends) == 0 or (lengths <= 0).any() or ends[-1] != len(self.action):
            raise ValueError(
                f"episode_ends must rise to the number of steps {len(self.action)}, got {ends.tolist()[-3:]}"
            )
        self.starts = torch.from_numpy(np.repeat(ends - lengths, lengths)).to(device)
        self.lasts = torch.from_numpy(np.repeat(ends - 1, lengths)).to(device)
        self.task, self.guided = task, shape.guided
        self._past = torch.arange(-shape.n_obs_steps + 1, 1, device=device)
        self._future = torch.arange(shape.horizon, device=device)

    def __len__(self) -> int:
        """Number of windows N."""
        return len(self.action)

    def gather(self, index: Tensor) -> Batch:
        """Windows at steps ``index`` (B,): ``observation`` and ``action`` flattened (B, size), ``task`` (B,).

        Guided ones also have ``progress`` (B, 1): -1 at the first step of the episode, 1 at the last.
        """
        past = self.history(index)
        future = torch.minimum(index[:, None] + self._future, self.lasts[index, None])
        return {
            "observation": self.observation[past].flatten(1),
            "action": self.action[future].flatten(1),
            "task": torch.full_like(index, self.task),
            **({"progress": self._progress(index)} if self.guided else {}),
        }

    def history(self, index: Tensor) -> Tensor:
        """Steps whose observations a window at step ``index`` (B,) has, (B, n_obs_steps)."""
        return torch.maximum(index[:, None] + self._past, self.starts[index, None])

    def _progress(self, index: Tensor) -> Tensor:
        first, last = self.starts[index], self.lasts[index]
        return (2 * (index - first) / (last - first).clamp_min(1) - 1)[:, None]
