"""Batched simulated manipulation tasks behind one small interface."""

from trcl_envs.catalog import SEQUENCES, make_env, make_expert, resolve_sequence, task_info, task_names
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
    "make_env",
    "make_expert",
    "resolve_sequence",
    "task_info",
    "task_names",
]
