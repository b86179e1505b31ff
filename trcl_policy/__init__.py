"""Robots that learn manipulation tasks one after another and keep them.

>>> from trcl_policy import load_policy, load_config, learn, METHODS
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trcl_policy.config import load_config
    from trcl_policy.continual.learner import learn
    from trcl_policy.continual.methods import METHODS
    from trcl_policy.dumps import replay_dump
    from trcl_policy.policy.controller import load_policy

__all__ = ["METHODS", "learn", "load_config", "load_policy", "replay_dump"]

_HOMES = {
    "METHODS": "trcl_policy.continual.methods",
    "learn": "trcl_policy.continual.learner",
    "load_config": "trcl_policy.config",
    "load_policy": "trcl_policy.policy.controller",
    "replay_dump": "trcl_policy.dumps",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``trcl --help`` need not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
