"""Meta-World v3 as ``TaskSpec``: what its Sawyer scenes share, filled in by one table entry a task.

Held to Meta-World's own environments: same state, same observation and success flag. Two things are defined more
strictly here: the first observation of an episode is computed from the start state (Meta-World's may lag one physics
behind, or show the scene before the goal moved), and it is clipped to the bounds like all later ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from trcl_envs.arrays import constant, device, lengths, namespace, zeros
from trcl_envs.gl import import_mujoco
from trcl_envs.interface import (
    Array,
    FloatArray,
    Placement,
    Reading,
    Settling,
    SimulationError,
    TaskInfo,
    TaskSpec,
)
from trcl_envs.views import View

TIMESTEP = 0.0025  # [s], from the scenes' MJCF
FRAME_SKIP = 5  # physics steps per control step
SETTLING_STEPS = 50  # control steps in which the hand moves to its start
ACTION_SCALE = 0.01  # [m] of hand motion per control step at full action
FRAME_DIM = 18  # hand (3), gripper opening (1), two things of position (3) and quaternion (4)
THINGS_DIM = 14
OBSERVATION_DIM = 2 * FRAME_DIM + 3
HAND_QUAT = (1.0, 0.0, 1.0, 0.0)  # of the mocap body that carries the hand
WELD = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 5.0)

Point = tuple[float, float, float]

VIEWS = {
    "robot": View((0.0, 0.65, 0.12), 1.35, 135.0, -32.0),
    "front": View((0.0, 0.65, 0.12), 1.35, -45.0, -32.0),
}
POLICY_INDICES = "0:18,36:39"  # all but the previous frame
HAND_BOUNDS = np.array([[-0.525, 0.348, -0.0525], [0.525, 1.025, 0.7]])


@dataclass(frozen=True)
class Thing:
    """One object in the observation: position and quaternion.

    Attributes:
        position: ``"body:NAME"``, ``"site:NAME"`` or ``"geom:NAME"``, or (reading) -> (N, 3) [m].
        rotation: a body's quaternion (w, x, y, z) as ``"quat:NAME"``; the rotation matrix of a ``"geom:NAME"`` or
            ``"body:NAME"`` as quaternion (x, y, z, w), as SciPy orders it; or empty for four zeros.
        offset: added to the position [m].
    """

    position: str | Callable[[Reading], Array]
    rotation: str = ""
    offset: Point = (0.0, 0.0, 0.0)

    def at(self, reading: Reading) -> Array:
        """Position (N, 3) [m]."""
        place = reading.position(self.position) if isinstance(self.position, str) else self.position(reading)
        return place + constant(self.offset, place)


@dataclass(frozen=True)
class SawyerTask:
    """One row of the table: everything in which a Meta-World task differs from the others.

    Attributes:
        instruction: one sentence a person would say.
        scene: MJCF file of the scene.
        low, high: bounds (K,) of the random start vector [m].
        things: at most two observed objects.
        goal: (draws (N, K), reading of the start) -> goals (N, 3) [m].
        success: (reading, observation, goal) -> (N,) bool.
        moved: bodies that stand elsewhere in each episode: name -> (draws -> positions (N, 3)).
        place: (draws, reading after settling) -> writes into the joint state.
        apart: draws whose object and goal are closer than this in x and y [m] are drawn again; 0 = never.
        hand: where the hand starts [m].
        hand_low, hand_high: where the hand can go [m].
        goal_low, goal_high: bounds to which the observed goal is clipped [m]; None = where the hand can go.
        horizon: longest episode [control steps]; the papers' 200 unless the expert needs more.
        settling: control steps in which the hand moves to its start and the scene comes to rest.
        contacts: pairs of geoms whose contact ``success`` asks for.
    """

    instruction: str
    scene: str
    low: tuple[float, ...]
    high: tuple[float, ...]
    things: tuple[Thing, ...]
    goal: Callable[[Array, Reading], Array]
    success: Callable[[Reading, Array, Array], Array]
    moved: dict[str, Callable[[Array], Array]]
    place: Callable[[Array, Reading], Placement]
    apart: float = 0.0
    hand: Point = (0.0, 0.6, 0.2)
    hand_low: Point = (-0.5, 0.40, 0.05)
    hand_high: Point = (0.5, 1.0, 0.5)
    goal_low: Point | None = None
    goal_high: Point | None = None
    horizon: int = 200
    settling: int = SETTLING_STEPS
    contacts: tuple[tuple[str, str], ...] = ()


def task_info(name: str, task: SawyerTask) -> TaskInfo:
    """The facts of a task, without a simulator."""
    frequency = 1.0 / (TIMESTEP * FRAME_SKIP)
    return TaskInfo(name, task.instruction, OBSERVATION_DIM, 4, task.horizon, frequency, POLICY_INDICES)


def task_spec(name: str, task: SawyerTask) -> TaskSpec:
    """The task on arrays."""
    return TaskSpec(
        info=task_info(name, task),
        load_model=partial(load_scene, task.scene),
        substeps=FRAME_SKIP,
        sample=partial(sample_start, task),
        overrides=lambda draws: {f"body_pos:{body}": where(draws) for body, where in task.moved.items()},
        settling=Settling(np.array([-1.0, 1.0]), np.array(task.hand), task.settling * FRAME_SKIP),
        place=task.place,
        goal=task.goal,
        frame=partial(frame, task.things),
        observe=partial(observe, task),
        command=partial(command, task),
        success=task.success,
        reward=sparse_reward,
        contacts=task.contacts,
        views=VIEWS,
        bounds=observation_bounds(),
    )


def observation_bounds() -> tuple[FloatArray, FloatArray]:
    """Lowest and highest observation (39,): the hand and the gripper have bounds, things and goal have none."""
    free = np.full(THINGS_DIM, np.inf)
    low = np.concatenate([HAND_BOUNDS[0], [0.0], -free])
    high = np.concatenate([HAND_BOUNDS[1], [1.0], free])
    goal = np.full(3, np.inf)
    return np.concatenate([low, low, -goal]), np.concatenate([high, high, goal])


def scene_path(scene: str) -> Path:
    """Where the installed metaworld package keeps a scene; found without importing the package."""
    package = find_spec("metaworld")
    if package is None or not package.submodule_search_locations:
        raise SimulationError("Meta-World is not installed: run pip install 'trcl-policy[sim]'")
    return Path(package.submodule_search_locations[0]) / "assets" / "sawyer_xyz" / scene


def load_scene(scene: str) -> Any:
    """Compile a scene into a ``mujoco.MjModel`` with the weld that ties the hand to its mocap body."""
    path = scene_path(scene)
    mujoco = import_mujoco()
    model = mujoco.MjModel.from_xml_path(str(path))
    if model.opt.timestep != TIMESTEP:
        raise SimulationError(
            f"timestep of {scene} must be {TIMESTEP} s, got {model.opt.timestep} s: another metaworld?"
        )
    # Equality data grew by a twelfth number in later MuJoCo versions; the weld's first eleven kept their meaning.
    model.eq_data[model.eq_type == mujoco.mjtEq.mjEQ_WELD, : len(WELD)] = WELD
    model.body_quat[model.body_mocapid >= 0] = HAND_QUAT
    return model


def sample_start(task: SawyerTask, rng: np.random.Generator) -> FloatArray:
    """Draw one start vector (K,) uniformly, with object and goal far enough apart."""
    while True:
        draw = rng.uniform(task.low, task.high)
        if not task.apart or np.linalg.norm(draw[:2] - draw[3:5]) >= task.apart:
            return draw


def frame(things: tuple[Thing, ...], reading: Reading) -> Array:
    """One frame (N, 18): hand position, gripper opening in [0, 1], then each thing's position and quaternion."""
    apart = lengths(reading.position("body:rightclaw") - reading.position("body:leftclaw"))
    parts = [reading.position("body:hand"), (apart / 0.1).clip(0.0, 1.0)[:, None]]
    for thing in things:
        parts += [thing.at(reading), rotation(thing.rotation, reading)]
    parts.append(zeros((len(apart), THINGS_DIM - 7 * len(things)), apart))
    return namespace(apart).concat(parts, axis=1)


def rotation(source: str, reading: Reading) -> Array:
    """Quaternions (N, 4) as a ``Thing`` names them."""
    kind, _, name = source.partition(":")
    if not kind:
        return zeros((len(reading.qpos), 4), reading.qpos)
    if kind == "quat":
        return reading.xquat[:, reading.index[f"body:{name}"]]
    matrices = reading.geom_xmat if kind == "geom" else reading.xmat
    return quaternion_xyzw(matrices[:, reading.index[source]].reshape(-1, 3, 3))


def quaternion_xyzw(matrix: Array) -> Array:
    """Quaternions (N, 4) as (x, y, z, w) of rotation matrices (N, 3, 3), with the signs that SciPy gives them.

    Four formulas exist, one for each component to divide by; the largest component is the accurate choice.
    """
    xp = namespace(matrix)
    a, b, c = (matrix[:, 0, i] for i in range(3))
    d, e, f = (matrix[:, 1, i] for i in range(3))
    g, h, i = (matrix[:, 2, i] for i in range(3))
    trace = a + e + i
    choices = xp.stack(
        [
            xp.stack([1 - trace + 2 * a, d + b, g + c, h - f], axis=-1),
            xp.stack([d + b, 1 - trace + 2 * e, h + f, c - g], axis=-1),
            xp.stack([g + c, h + f, 1 - trace + 2 * i, d - b], axis=-1),
            xp.stack([h - f, c - g, d - b, 1 + trace], axis=-1),
        ],
        axis=1,
    )
    best = xp.argmax(xp.stack([a, e, i, trace], axis=-1), axis=-1)
    quaternion = choices[xp.arange(len(matrix), device=device(matrix)), best]
    return quaternion / lengths(quaternion)[:, None]


def observe(task: SawyerTask, now: Array, before: Array, goal: Array) -> Array:
    """Observation (N, 39): this frame, the previous one, and the goal, each clipped as Meta-World clips it."""
    low = task.hand_low if task.goal_low is None else task.goal_low
    high = task.hand_high if task.goal_high is None else task.goal_high
    seen = goal.clip(constant(low, goal), constant(high, goal))
    return namespace(now).concat([clip_frame(now), clip_frame(before), seen], axis=1)


def clip_frame(values: Array) -> Array:
    """Frame (N, 18) with the hand inside its bounds."""
    low, high = (constant(bound, values) for bound in HAND_BOUNDS)
    return namespace(values).concat([values[:, :3].clip(low, high), values[:, 3:]], axis=1)


def command(task: SawyerTask, actions: Array, mocap_pos: Array) -> tuple[Array, Array]:
    """Finger controls (N, 2) and the hand's next mocap position (N, 3) [m] for actions (N, 4)."""
    low, high = constant(task.hand_low, mocap_pos), constant(task.hand_high, mocap_pos)
    target = (mocap_pos + ACTION_SCALE * actions[:, :3]).clip(low, high)
    return namespace(actions).stack([actions[:, 3], -actions[:, 3]], axis=1), target


def sparse_reward(reading: Reading, observation: Array, goal: Array, success: Array, actions: Array) -> Array:
    """1.0 in every control step that counts as solved, else 0.0."""
    return namespace(observation).astype(success, observation.dtype)
