"""What a batched simulated task looks like from outside: array types in, array types out, no simulator named.

Everything that consumes simulation (rollouts, collection, videos) is written against this file alone. One world is
one row; a batch of worlds holds N copies of ONE task, each at its own state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from trcl_envs.views import View

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Array = Any
"""A NumPy array or a torch tensor; what goes with it has the same kind, dtype and device."""


class SimulationError(RuntimeError):
    """Raised when a simulator can't be built or can't go on; the message is one line that names the next step."""


@dataclass(frozen=True)
class TaskInfo:
    """The facts of a task that a learner or a report needs.

    Attributes:
        name: registered name, such as ``"hammer-v3"``.
        instruction: one sentence a person would say, such as ``"Hammer the nail into the board."``.
        observation_dim: size Do of an observation.
        action_dim: size Da of an action; actions lie in [-1, 1].
        horizon: longest episode [control steps].
        control_frequency: control steps per second of simulated time [Hz].
        policy_indices: entries of the observation that a policy needs, such as ``"0:18,36:39"``; empty = all.
    """

    name: str
    instruction: str
    observation_dim: int
    action_dim: int
    horizon: int
    control_frequency: float
    policy_indices: str = ""


@dataclass(frozen=True)
class Step:
    """What one control step of N worlds returned.

    Attributes:
        observation: (N, Do) float64.
        reward: (N,) float64, the task's own reward; Meta-World's tasks: 1.0 in every solved step, else 0.0.
        success: (N,) bool, whether the task counts as solved in THIS step.
        failed: (N,) bool, the physics of that world became non-finite; its observation is all zeros from then on.
    """

    observation: FloatArray
    reward: FloatArray
    success: BoolArray
    failed: BoolArray


@dataclass(frozen=True)
class Scene:
    """Everything needed to draw one world later, in another process, without simulating it again.

    Attributes:
        task: name of the task.
        state: flat simulator state (the backend defines the layout).
        overrides: per-world changes of the model, such as moved bodies, by field name.
        layout: sizes of the named parts of ``state`` in order, such as ``{"qpos": 16, "qvel": 15}``; may be empty.
    """

    task: str
    state: FloatArray
    overrides: dict[str, FloatArray] = field(default_factory=dict)
    layout: dict[str, int] = field(default_factory=dict)


@runtime_checkable
class BatchedEnv(Protocol):
    """N worlds of one task in lockstep.

    A world is defined by its reset seed alone: the same seed gives the same start state whatever N, the row it sits in,
    the number of threads, or what ran before.
    """

    info: TaskInfo
    num_worlds: int

    def reset(self, seeds: Sequence[int]) -> FloatArray:
        """Start ``len(seeds) <= num_worlds`` worlds anew; returns observations (len(seeds), Do).

        Later calls use that many rows.
        """
        ...

    def reset_rows(self, rows: NDArray[np.intp], seeds: Sequence[int]) -> FloatArray:
        """Start some worlds anew and leave the others as they are; returns observations (len(rows), Do)."""
        ...

    def step(self, actions: NDArray[np.floating], active: BoolArray | None = None) -> Step:
        """Advance one control step with actions (N, Da), clipped to [-1, 1].

        Rows where ``active`` is false stay as they are.
        """
        ...

    def scene(self, row: int) -> Scene:
        """Return the drawable state of one world."""
        ...

    def close(self) -> None:
        """Release threads and memory; safe to call twice."""
        ...


class Expert(Protocol):
    """A scripted controller for one task."""

    def reset(self, num_worlds: int) -> None:
        """Forget the previous episodes."""
        ...

    def actions(self, observations: FloatArray) -> FloatArray:
        """Actions (N, Da) for observations (N, Do); NOT clipped: whoever stores or executes them clips to [-1, 1]."""
        ...


class Renderer(Protocol):
    """Draws scenes of one task off screen."""

    def frame(self, scene: Scene) -> NDArray[np.uint8]:
        """An upright picture (H, W, 3)."""
        ...

    def close(self) -> None:
        """Release the GL context; safe to call twice."""
        ...


@dataclass(frozen=True)
class Reading:
    """Where everything is in N worlds at one moment; names as in MuJoCo, quaternions (w, x, y, z), lengths in metres.

    Attributes:
        qpos: (N, nq) joint positions.
        qvel: (N, nv) joint velocities.
        xpos: (N, nbody, 3) body origins.
        xquat: (N, nbody, 4) body orientations.
        xmat: (N, nbody, 9) body rotation matrices, row by row.
        site_xpos: (N, nsite, 3) sites.
        geom_xpos: (N, ngeom, 3) geom centres.
        geom_xmat: (N, ngeom, 9) geom rotation matrices, row by row.
        contact_force: (N, P) force [N] normal to the surface between the two geoms of each of the task's ``contacts``.
        index: row of a named thing in its array, by ``"body:hand"``, ``"site:goal"``, ``"geom:objGeom"``, or the
            address in qpos, by ``"joint:doorjoint"``.
    """

    qpos: Array
    qvel: Array
    xpos: Array
    xquat: Array
    xmat: Array
    site_xpos: Array
    geom_xpos: Array
    geom_xmat: Array
    contact_force: Array
    index: Mapping[str, int]

    def position(self, thing: str) -> Array:
        """(N, 3) position [m] of ``"body:NAME"``, ``"site:NAME"`` or ``"geom:NAME"``."""
        arrays = {"body": self.xpos, "site": self.site_xpos, "geom": self.geom_xpos}
        return arrays[thing.partition(":")[0]][:, self.index[thing]]

    def joint(self, name: str) -> Array:
        """(N,) position of a hinge [rad] or slide [m] joint."""
        return self.qpos[:, self.index[f"joint:{name}"]]


@dataclass(frozen=True)
class Placement:
    """Writes into the joint state that finish a reset.

    Attributes:
        qpos: first address -> values (N, k), written into joint positions.
        still: (first, last + 1) ranges of joint velocities that are set to zero.
    """

    qpos: Mapping[int, Array]
    still: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Settling:
    """How a world comes to rest before things are placed: constant command for ``substeps`` physics steps."""

    ctrl: FloatArray
    mocap_pos: FloatArray
    substeps: int


@dataclass(frozen=True)
class TaskSpec:
    """A task written once on arrays, for every physics backend. All functions are pure; N worlds are N rows.

    ``sample`` and ``settling`` are NumPy's; all other functions answer in the kind of array that they are given.

    Attributes:
        info: facts for learners.
        load_model: compiles the scene into a ``mujoco.MjModel``.
        substeps: physics steps per control step.
        frame: (reading) -> one frame of observation (N, F), unclipped.
        success: (reading, observation, goal) -> (N,) bool.
        sample: draws one world's random vector (K,) from that world's own generator.
        overrides: draws (N, K) -> what changes in the model, ``"body_pos:NAME"`` or ``"site_pos:NAME"`` -> (N, 3) [m].
        settling: the motion before placing; None = the scene's default state.
        place: (draws (N, K), reading after settling) -> writes into the joint state.
        goal: (draws (N, K), reading of the finished start) -> goal positions (N, 3) [m], or (N, 0) without a goal.
        observe: (frame, previous frame, goal) -> observation (N, Do).
        command: (actions (N, Da) in [-1, 1], mocap positions (N, 3)) -> controls (N, nu), next mocap positions (N, 3);
            where the scene has no mocap body these are (N, 0), and the default takes actions for controls.
        reward: (reading, observation, goal, success, actions) -> (N,).
        contacts: pairs of geoms between which the force is read; most tasks need none, and reading costs time.
        views: cameras besides those of the scene, by name; without a wish pictures are drawn from the first of all.
        bounds: lowest and highest observation (Do,), None = unbounded.
        expert: observations (N, Do) -> actions (N, Da) of a scripted controller without memory, None = there is none.
    """

    info: TaskInfo
    load_model: Callable[[], Any]
    substeps: int
    frame: Callable[[Reading], Array]
    success: Callable[[Reading, Array, Array], Array]
    sample: Callable[[np.random.Generator], FloatArray] = lambda rng: np.zeros(0)
    overrides: Callable[[Array], Mapping[str, Array]] = lambda draws: {}
    settling: Settling | None = None
    place: Callable[[Array, Reading], Placement] = lambda draws, reading: Placement({})
    goal: Callable[[Array, Reading], Array] = lambda draws, reading: draws[:, :0]
    observe: Callable[[Array, Array, Array], Array] = lambda frame, before, goal: frame
    command: Callable[[Array, Array], tuple[Array, Array]] = lambda actions, mocap_pos: (actions, mocap_pos)
    reward: Callable[[Reading, Array, Array, Array, Array], Array] = lambda *told: told[3] * 1.0
    contacts: tuple[tuple[str, str], ...] = ()
    views: Mapping[str, View] = field(default_factory=dict)
    bounds: tuple[FloatArray, FloatArray] | None = None
    expert: Callable[[FloatArray], FloatArray] | None = None


class Physics(Protocol):
    """N independent copies of one scene.

    ``rows`` are world numbers (n,); arrays passed along have n rows in that order.

    A world that became non-finite is marked in ``failed`` and stays as it is until its next ``restart``.
    """

    dt: float
    num_worlds: int
    qpos: Array
    qvel: Array
    mocap_pos: Array
    failed: Array

    def restart(self, rows: Array, overrides: Mapping[str, Array]) -> None:
        """Put worlds at the scene's default state, with these changes of the model from now on."""
        ...

    def step(
        self, rows: Array, ctrl: Array, mocap_pos: Array, substeps: int, forward: bool = False
    ) -> None:
        """Advance by ``substeps * dt`` seconds under constant controls (n, nu) and mocap positions (n, 3 each) [m].

        With ``forward``, everything that follows from the new state is recomputed in the same sweep.
        """
        ...

    def write(self, rows: Array, placement: Placement) -> None:
        """Write joint state; derived positions are stale until ``forward``."""
        ...

    def forward(self, rows: Array) -> None:
        """Recompute everything that follows from the state."""
        ...

    def read(self, rows: Array) -> Reading:
        """Positions of these worlds, as of the latest ``forward`` (or the start of the latest physics step)."""
        ...

    def state(self, row: int) -> Array:
        """Flat state of one world for drawing: joint positions, velocities, mocap positions (none or 3 each)."""
        ...

    def close(self) -> None:
        """Release threads and memory; safe to call twice."""
        ...
