"""Physics on the CPU: official MuJoCo, one model per thread, one state per world.

Threads share nothing but Python's lock, which ``mj_step`` releases for all its substeps. A compiled model weighs about
20 MB, so worlds don't own one: what differs between worlds (where a box stands, say) is written into the thread's model
just before a world moves. Which thread moves a world therefore changes no bit of the result, and each thread takes the
next world that waits. The caller's thread works along. What is done for every world under the lock is kept to views
made once; whatever can wait is done for all worlds together.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trcl_envs.gl import import_mujoco
from trcl_envs.interface import BoolArray, FloatArray, Placement, Reading
from trcl_envs.starts import StartMemory

READ_FIELDS = ("qpos", "qvel", "xpos", "xquat", "xmat", "site_xpos", "geom_xpos", "geom_xmat")


class CpuPhysics:
    """N worlds of one scene, advanced by a pool of threads.

    Args:
        load_model: compiles the scene; every thread gets a copy of it.
        num_worlds: N, at least 1.
        threads: number of threads, at least 1; with 1 everything runs in the caller's thread.
        contacts: pairs of geom names between which the force is read.
        settles_alike: fresh worlds come to rest alike wherever their moved bodies stand.

    Attributes:
        data: MuJoCo's own state of each world, for tools that need more than ``read`` shows.
    """

    def __init__(
        self,
        load_model: Callable[[], Any],
        num_worlds: int,
        threads: int = 1,
        contacts: Sequence[tuple[str, str]] = (),
        settles_alike: bool = False,
    ) -> None:
        for name, value in (("num_worlds", num_worlds), ("threads", threads)):
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        self._mujoco = mujoco = import_mujoco()
        self.num_worlds = num_worlds
        threads = min(threads, num_worlds)
        model = load_model()
        # A diverging world must stay visibly broken instead of being silently put back to its default state.
        model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_AUTORESET)
        self._models = [model, *(copy.copy(model) for _ in range(threads - 1))]
        self.dt = float(model.opt.timestep)
        self.index = name_index(model)
        self.data = [mujoco.MjData(model) for _ in range(num_worlds)]
        self._overrides: list[list[tuple[str, int, FloatArray]]] = [[] for _ in range(num_worlds)]
        self._fields = [np.zeros((num_worlds, *getattr(self.data[0], name).shape)) for name in READ_FIELDS]
        self._pairs = [
            [(field[row], getattr(data, name)) for name, field in zip(READ_FIELDS, self._fields, strict=True)]
            for row, data in enumerate(self.data)
        ]
        self._commands = [(data.ctrl, data.mocap_pos.reshape(-1)) for data in self.data]
        self.qpos, self.qvel = self._fields[:2]
        self._contacts = [sorted(self.index[f"geom:{geom}"] for geom in pair) for pair in contacts]
        self._contact_force = np.zeros((num_worlds, len(self._contacts)))
        self.mocap_pos = np.zeros((num_worlds, 3 * model.nmocap))
        self._starts, self._settles_alike = StartMemory(), settles_alike
        self._fresh: list[bytes | None] = [None] * num_worlds
        self.failed: BoolArray = np.zeros(num_worlds, dtype=bool)
        self._pool = ThreadPoolExecutor(threads - 1) if threads > 1 else None

    def restart(self, rows: NDArray[np.intp], overrides: Mapping[str, FloatArray]) -> None:
        """Put worlds at the scene's default state, with these changes of the model from now on."""
        self.failed[rows] = False
        for place, row in enumerate(rows):
            self._overrides[row] = [(*self._target(key), value[place].copy()) for key, value in overrides.items()]
            moved = [] if self._settles_alike else self._overrides[row]
            self._fresh[row] = b"".join(f"{array}{thing}".encode() + value.tobytes() for array, thing, value in moved)
        self._each(rows, lambda model, row: self._mujoco.mj_resetData(model, self.data[row]))
        self.mocap_pos[rows] = [self._commands[row][1] for row in rows]

    def step(
        self, rows: NDArray[np.intp], ctrl: FloatArray, mocap_pos: FloatArray, substeps: int, forward: bool = False
    ) -> None:
        """Advance by ``substeps * dt`` seconds under constant controls (n, nu) and mocap positions (n, 3 each) [m].

        With ``forward``, everything that follows from the new state is recomputed in the same sweep. Without it, the
        first step after ``restart`` takes a remembered result where there is one: the same bits, in less time.
        """
        if ctrl.shape != (len(rows), self._models[0].nu):
            raise ValueError(f"command must give controls {(len(rows), self._models[0].nu)}, got {ctrl.shape}")
        # A world with a broken command isn't stepped at all, or MuJoCo would write its log into the current folder.
        finite = np.isfinite(ctrl).all(axis=1) & np.isfinite(mocap_pos).all(axis=1)
        self.failed[rows[~finite]] = True
        going = ~self.failed[rows]
        rows, ctrl, mocap_pos = rows[going], ctrl[going], mocap_pos[going]
        self.mocap_pos[rows] = mocap_pos
        command = dict(zip(rows.tolist(), zip(ctrl, mocap_pos, strict=True), strict=True))
        mj_step, mj_forward = self._mujoco.mj_step, self._mujoco.mj_forward

        def advance(model: Any, row: int) -> None:
            data = self.data[row]
            into_ctrl, into_mocap_pos = self._commands[row]
            into_ctrl[:], into_mocap_pos[:] = command[row]
            fresh, self._fresh[row] = self._fresh[row], None
            if fresh is not None and not forward:
                made = b"".join((fresh, into_ctrl.tobytes(), into_mocap_pos.tobytes(), substeps.to_bytes(4, "big")))
                self._starts.settle(model, data, substeps, made)
                return
            mj_step(model, data, substeps)
            if forward:
                mj_forward(model, data)

        self._each(rows, advance)

    def write(self, rows: NDArray[np.intp], placement: Placement) -> None:
        """Write joint state; derived positions are stale until ``forward``."""
        for place, row in enumerate(rows):
            data, self._fresh[row] = self.data[row], None
            for first, values in placement.qpos.items():
                data.qpos[first : first + values.shape[1]] = values[place]
            for first, end in placement.still:
                data.qvel[first:end] = 0.0

    def forward(self, rows: NDArray[np.intp]) -> None:
        """Recompute everything that follows from the state.

        A full ``mj_forward`` rather than kinematics alone: it also refreshes the solver's warm start, which the next
        step begins from, and Meta-World's own environments do the same.
        """
        for row in rows:
            self._fresh[row] = None
        self._each(rows[~self.failed[rows]], lambda model, row: self._mujoco.mj_forward(model, self.data[row]))

    def read(self, rows: NDArray[np.intp]) -> Reading:
        """Positions of these worlds, as of the latest ``forward`` (or the start of the latest physics step)."""
        fields = zip(READ_FIELDS, self._fields, strict=True)
        arrays = {name: field[rows] for name, field in fields}
        return Reading(index=self.index, contact_force=self._contact_force[rows], **arrays)

    def state(self, row: int) -> FloatArray:
        """Flat state of one world for drawing: joint positions, velocities, mocap positions (none or 3 each)."""
        return np.concatenate([self.qpos[row], self.qvel[row], self.mocap_pos[row]])

    def close(self) -> None:
        """Release threads and memory; safe to call twice."""
        if self._pool is not None:
            self._pool.shutdown()
        self._pool, self.data, self._pairs, self._commands, self._models = None, [], [], [], []

    def _target(self, key: str) -> tuple[str, int]:
        """Split ``"body_pos:box"`` into the model's field and the row in it."""
        array, _, name = key.partition(":")
        return array, self.index[f"{array.partition('_')[0]}:{name}"]

    def _each(self, rows: NDArray[np.intp], act: Callable[[Any, int], None]) -> None:
        """Do ``act(model, row)`` for every row, spread over the threads, and copy what came out."""
        waiting = iter(rows.tolist())
        helpers = self._models[1 : len(rows)]
        jobs = [self._pool.submit(self._work, model, waiting, act) for model in helpers] if self._pool else []
        try:
            self._work(self._models[0], waiting, act)
        finally:
            for job in jobs:
                job.result()
        sound = np.isfinite(self.qpos[rows]).all(axis=1) & np.isfinite(self.qvel[rows]).all(axis=1)
        self.failed[rows[~sound]] = True

    def _work(self, model: Any, waiting: Iterator[int], act: Callable[[Any, int], None]) -> None:
        """Take one waiting row after another; taking one is a single step under Python's lock."""
        for row in waiting:
            for array, thing, value in self._overrides[row]:
                getattr(model, array)[thing] = value
            act(model, row)
            for field, view in self._pairs[row]:
                field[...] = view
            for place, pair in enumerate(self._contacts):
                self._contact_force[row, place] = normal_force(self.data[row], pair)


def normal_force(data: Any, pair: list[int]) -> float:
    """Force [N] normal to the surface between two geoms (smaller id first), summed over their contacts.

    The scenes have elliptic friction cones, so that the first constraint of a contact is the one along its normal.
    """
    mine = (np.sort(data.contact.geom, axis=1) == pair).all(axis=1)
    return float(data.efc_force[data.contact.efc_address[mine]].sum())


def name_index(model: Any) -> dict[str, int]:
    """Row of each named body, site and geom, and the qpos address of each joint, by ``"kind:name"``."""
    index = {
        f"{kind}:{getattr(model, kind)(i).name}": i
        for kind in ("body", "site", "geom")
        for i in range(getattr(model, f"n{kind}"))
    }
    return index | {f"joint:{model.joint(i).name}": int(model.jnt_qposadr[i]) for i in range(model.njnt)}
