"""Meta-World's scripted controllers: on arrays where we have them so, else asked row by row."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from trcl_envs.interface import FloatArray, SimulationError


class MetaworldExpert:
    """Fulfils ``Expert`` with one of Meta-World's scripted policies, which keep no memory.

    Args:
        task: name of the task, such as ``"hammer-v3"``.
    """

    def __init__(self, task: str) -> None:
        self._policy = scripted_policy(task)

    def reset(self, num_worlds: int) -> None:
        """Forget the previous episodes."""

    def actions(self, observations: FloatArray) -> FloatArray:
        """Actions (N, 4) for observations (N, 39); NOT clipped, they reach about 19 in size."""
        return np.stack([np.asarray(self._policy.get_action(row), dtype=np.float64) for row in observations])


def scripted_policy(task: str) -> Any:
    """A fresh scripted policy; importing them takes a second, so it happens here."""
    try:
        from metaworld.policies import ENV_POLICY_MAP
    except ImportError as error:
        raise SimulationError("Meta-World is not installed: run pip install 'trcl-policy[sim]'") from error
    # Each policy says at its first call that its actions exceed the bounds; our callers clip them.
    warnings.filterwarnings("ignore", message=r"Constant\(s\) may be too high")
    policies: dict[str, Any] = dict(ENV_POLICY_MAP)
    return policies[task]()
