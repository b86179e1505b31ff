"""Batched simulated manipulation tasks behind one small interface.

Importing this package tells Gymnasium about the tasks (``gymnasium.make("trcl/hammer-v3")``) and does nothing else.
"""

from importlib.util import find_spec

from trcl_envs.catalog import (
    SEQUENCES,
    make_env,
    make_expert,
    make_renderer,
    resolve_sequence,
    resolve_task,
    task_info,
    task_names,
)
from trcl_envs.gl import choose_gl, gl_report
from trcl_envs.interface import BatchedEnv, Expert, Renderer, Scene, SimulationError, Step, TaskInfo

__all__ = [
    "SEQUENCES",
    "BatchedEnv",
    "Expert",
    "Renderer",
    "Scene",
    "SimulationError",
    "Step",
    "TaskInfo",
    "choose_gl",
    "gl_report",
    "make_env",
    "make_expert",
    "make_renderer",
    "register_envs",
    "resolve_sequence",
    "resolve_task",
    "task_info",
    "task_names",
]


def register_envs() -> None:
    """Make every task known to Gymnasium as ``trcl/NAME``; calling it again changes nothing."""
    from trcl_envs import gym

    gym.register_envs()


# An environment that only simulates (see trcl_envs.serve) can do without these.
if all(find_spec(package) for package in ("gymnasium", "array_api_compat")):
    register_envs()
