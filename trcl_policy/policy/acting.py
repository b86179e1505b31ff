"""How a saved policy acts, where that is to differ from what it was trained with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Acting:
    """Settings of acting alone, which need no training; None keeps what was saved.

    Attributes:
        acting_steps: sampler steps for a chunk of actions. Few give actions near the mean of what the demonstrations
            would do, many give them the spread of the demonstrations, noise included.
        n_action_steps: actions executed before the policy looks again.
    """

    acting_steps: int | None = None
    n_action_steps: int | None = None


AS_SAVED = Acting()
