"""The table of robosuite's tasks, and tasks as robomimic's data describe them; no simulator is needed here.

An observation is robosuite's own low-dimensional one, ``OBSERVATION_KEYS`` end to end; the table's tasks fill it up
with zeros to one size, so that any of them can follow each other. An action moves the hand (``OSC_POSE``): offsets
along and rotations about x, y and z, then the gripper (1 closes it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trcl_envs.interface import TaskInfo

OBSERVATION_KEYS = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos", "object-state")
OBJECT_DIM = 28  # of the nut assembly, the largest
OBSERVATION_DIM = 3 + 4 + 2 + OBJECT_DIM
CONTROL_FREQUENCY = 20.0  # [Hz]


@dataclass(frozen=True)
class RobosuiteTask:
    """One task of robosuite.

    Attributes:
        env_name: robosuite's name.
        instruction: one sentence a person would say.
        horizon: longest episode [control steps].
        kwargs: further arguments of ``robosuite.make``.
        keys: what an observation is made of.
        observation_dim: size that observations are filled up to with zeros; None = as they are.
    """

    env_name: str
    instruction: str
    horizon: int
    kwargs: Mapping[str, Any] = field(default_factory=lambda: {"robots": "Panda", "control_freq": CONTROL_FREQUENCY})
    keys: tuple[str, ...] = OBSERVATION_KEYS
    observation_dim: int | None = OBSERVATION_DIM


TASKS: dict[str, RobosuiteTask] = {
    "bread-robosuite": RobosuiteTask("PickPlaceBread", "Put the bread into its bin.", 300),
    "can-robosuite": RobosuiteTask("PickPlaceCan", "Put the can into its bin.", 300),
    "cereal-robosuite": RobosuiteTask("PickPlaceCereal", "Put the cereal box into its bin.", 300),
    "door-robosuite": RobosuiteTask("Door", "Turn the handle and open the door.", 200),
    "lift-robosuite": RobosuiteTask("Lift", "Lift the cube off the table.", 100),
    "milk-robosuite": RobosuiteTask("PickPlaceMilk", "Put the milk into its bin.", 300),
    "nut-assembly-robosuite": RobosuiteTask("NutAssembly", "Put both nuts onto their pegs.", 600),
    "round-robosuite": RobosuiteTask("NutAssemblyRound", "Put the round nut onto the round peg.", 400),
    "square-robosuite": RobosuiteTask("NutAssemblySquare", "Put the square nut onto the square peg.", 400),
    "stack-robosuite": RobosuiteTask("Stack", "Put the red cube onto the green one.", 250),
}


def task_info(name: str) -> TaskInfo:
    """The facts of a task of ``TASKS``; needs no simulator."""
    task = TASKS[name]
    return TaskInfo(name, task.instruction, OBSERVATION_DIM, 7, task.horizon, CONTROL_FREQUENCY)


def task_from_env_args(env_args: Mapping[str, Any], keys: Sequence[str] = ()) -> RobosuiteTask:
    """The task that robomimic data were recorded in.

    Args:
        env_args: what the attribute ``env_args`` of the group ``data`` of an HDF5 file says, read as JSON.
        keys: what an observation is made of, in this order, by robomimic's names; robosuite's ``object-state`` is
            called ``object`` there. Empty = ``OBSERVATION_KEYS``.

    Raises:
        ValueError: it isn't one of robosuite's.
    """
    name, kwargs = env_args.get("env_name"), env_args.get("env_kwargs")
    if not isinstance(name, str) or not isinstance(kwargs, Mapping) or env_args.get("type", 1) != 1:
        raise ValueError(
            f"env_args must be robosuite's, with type 1, env_name and env_kwargs, got {dict(env_args)!r:.200}"
        )
    known = next((task for task in TASKS.values() if task.env_name == name), None)
    horizon, instruction = (known.horizon, known.instruction) if known else (500, f"Do robosuite's {name}.")
    settings = dict(kwargs)
    if _version(str(env_args.get("env_version") or "1.4")) < (1, 5):
        settings.setdefault("lite_physics", False)  # the way physics was stepped then
    renamed = tuple("object-state" if key == "object" else key for key in keys) or OBSERVATION_KEYS
    return RobosuiteTask(name, instruction, horizon, settings, renamed, None)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
