"""Controllers written as one function of the observation."""

from __future__ import annotations

from collections.abc import Callable

from trcl_envs.interface import FloatArray


class ScriptedExpert:
    """Fulfils ``Expert`` with a function that keeps no memory.

    Args:
        act: observations (N, Do) -> actions (N, Da).
    """

    def __init__(self, act: Callable[[FloatArray], FloatArray]) -> None:
        self._act = act

    def reset(self, num_worlds: int) -> None:
        """Forget the previous episodes."""

    def actions(self, observations: FloatArray) -> FloatArray:
        """Actions (N, Da) for observations (N, Do); NOT clipped."""
        return self._act(observations)
