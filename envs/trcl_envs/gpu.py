"""Physics on a GPU: mujoco-warp, all worlds side by side in arrays that Warp and torch share.

Everything here is float32, and rounding differs from the CPU's from the first step on; on a GPU also from run to run,
because contacts are found in no fixed order. Nothing waits for the device except ``state`` and ``fault``.

Traps of mujoco-warp 4.0 that are dealt with here (those of its contacts in warp_model.py): geoms of bodies that can't
move are placed once, when the data are made, and stay behind when a world moves such a body; constraints are made
from the velocities (``cvel``, ``cdof_dot``) of the step before, which are thus part of the state; a world that
overflows its buffers goes on with contacts dropped and only a bit says so; a diverged world leaves NaN in the rows of
its constraint matrix that are not in use, but are multiplied by zero, and so never gets well; every step advances all
worlds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trcl_envs.cpu import READ_FIELDS, name_index
from trcl_envs.gl import import_mujoco
from trcl_envs.interface import Array, FloatArray, Placement, Reading, SimulationError
from trcl_envs.warp_model import put_model, static_geoms

CONTACTS_PER_WORLD, SPARE_CONTACTS = 48, 512
"""Room for contacts, which all worlds share; experts and random actions had up to 50 in one world on the CPU."""
COLLISIONS_PER_WORLD, SPARE_COLLISIONS = 16, 256
"""Room for pairs of convex geoms that are tested closely, shared too; an estimate, see ``WarpPhysics.fault``."""
CONSTRAINTS_PER_WORLD = 384
"""Room for constraints, each world its own; up to 171 were needed."""
STEPS_IN_A_GRAPH = 5
STATE_FIELDS = ("qpos", "qvel", "qacc_warmstart", "ctrl", "cvel", "cdof_dot")
Rows = NDArray[np.intp] | Tensor


class WarpPhysics:
    """N worlds of one scene on a GPU; fulfils ``Physics`` with torch tensors on ``device``.

    A diverged world, or one that got a command that isn't finite, is marked in ``failed`` and rests in the scene's
    default state until its next ``restart``.

    Args:
        load_model: compiles the scene.
        num_worlds: N, at least 1.
        contacts: pairs of geom names between which the force is read.
        device: ``"cuda"``, ``"cuda:1"``, ..., or ``"cpu"`` (Warp's CPU device: slow, for tests).
        room: factor on the room for contacts and constraints.

    Raises:
        SimulationError: mujoco-warp or the device is missing.
    """

    def __init__(
        self,
        load_model: Callable[[], Any],
        num_worlds: int,
        contacts: Sequence[tuple[str, str]] = (),
        device: str = "cuda",
        room: float = 1.0,
    ) -> None:
        if num_worlds < 1:
            raise ValueError(f"num_worlds must be >= 1, got {num_worlds}")
        self._warp, self._mjw = import_warp(device)
        self.num_worlds, self._room = num_worlds, room
        self._place = self._warp.get_device(device)
        self.device = torch.device(self._warp.device_to_torch(self._place))
        model = load_model()
        self.dt, self.index = float(model.opt.timestep), name_index(model)
        with self._on_device():
            self._make(model)
        self.rows = torch.arange(num_worlds, device=self.device)
        self.failed = torch.zeros(num_worlds, dtype=torch.bool, device=self.device)
        pairs = [[self.index[f"geom:{geom}"] for geom in pair] for pair in contacts]
        self._pairs = [torch.tensor(sorted(pair), device=self.device) for pair in pairs]
        self._graphs: dict[tuple[int, bool], Any] = {}

    def _make(self, model: Any) -> None:
        """Put model and data on the device, and see them as torch tensors (N, ...)."""
        view, count = self._warp.to_torch, self.num_worlds
        self._model = put_model(self._warp, self._mjw, model, count)
        self._model.opt.warn_overflow = 0  # `fault` says it
        self._data = self._mjw.make_data(
            model,
            nworld=count,
            naconmax=int(self._room * (CONTACTS_PER_WORLD * count + SPARE_CONTACTS)),
            naccdmax=int(self._room * (COLLISIONS_PER_WORLD * count + SPARE_COLLISIONS)),
            njmax=int(self._room * CONSTRAINTS_PER_WORLD),
        )
        self._read = {name: view(getattr(self._data, name)) for name in READ_FIELDS}
        for name in ("xmat", "geom_xmat"):
            self._read[name] = self._read[name].view(count, -1, 9)
        self.qpos, self.qvel = self._read["qpos"], self._read["qvel"]
        self.mocap_pos = view(self._data.mocap_pos).flatten(1)
        self._overflow, self._jacobian = view(self._data.overflow), view(self._data.efc.J)
        self._moved = {name: view(getattr(self._model, name)) for name in ("body_pos", "site_pos")}
        self._state = {name: view(getattr(self._data, name)) for name in STATE_FIELDS}
        self._state["mocap_pos"] = self.mocap_pos
        self._default = {name: values[0].clone() for name, values in (self._state | self._moved).items()}
        quats = model.body_quat[model.body_mocapid >= 0]
        view(self._data.mocap_quat)[:] = torch.tensor(quats, dtype=torch.float32, device=self.device)
        self._static = torch.tensor(static_geoms(model), dtype=torch.long, device=self.device)
        self._static_body = torch.tensor(model.geom_bodyid, dtype=torch.long, device=self.device)[self._static]
        self._static_pos = torch.tensor(model.geom_pos, dtype=torch.float32, device=self.device)[self._static]

    def restart(self, rows: Rows, overrides: Mapping[str, Array]) -> None:
        """Put worlds at the scene's default state, with these changes of the model from now on."""
        rows = self._checked(rows)
        self.failed[rows], self._overflow[rows] = False, 0
        for name, values in (self._state | self._moved).items():
            values[rows] = self._default[name]
        for key, value in overrides.items():
            field, _, thing = key.partition(":")
            number = self.index[f"{field.partition('_')[0]}:{thing}"]
            self._moved[field][rows, number] = torch.as_tensor(value, dtype=torch.float32, device=self.device)
        with self._on_device():
            self._mjw.kinematics(self._model, self._data)
        turn = self._read["xmat"][:, self._static_body].view(self.num_worlds, -1, 3, 3)
        offset = (turn @ self._static_pos[None, :, :, None]).squeeze(-1)
        self._read["geom_xpos"][:, self._static] = self._read["xpos"][:, self._static_body] + offset

    def step(self, rows: Rows, ctrl: Array, mocap_pos: Array, substeps: int, forward: bool = False) -> None:
        """Advance by ``substeps * dt`` seconds under constant controls (n, nu) and mocap positions (n, 3 each) [m].

        With ``forward``, everything that follows from the new state is recomputed in the same sweep. For some of the
        worlds it costs as much as for all, and a ``forward`` more.
        """
        rows = self._checked(rows)
        some = len(rows) < self.num_worlds
        before = self.snapshot() if some else {}
        ctrl, mocap_pos = (torch.as_tensor(a, dtype=torch.float32, device=self.device) for a in (ctrl, mocap_pos))
        sane = ctrl.isfinite().all(1) & mocap_pos.isfinite().all(1)
        self.failed[rows] |= ~sane
        self._state["ctrl"][rows] = torch.where(sane[:, None], ctrl, 0.0)
        self.mocap_pos[rows] = torch.where(sane[:, None], mocap_pos, self.mocap_pos[rows])
        self._advance(substeps, forward and not some)
        if some:
            others = torch.ones_like(self.failed).index_fill_(0, rows, False).nonzero().squeeze(1)
            self.load(others, {name: values[others] for name, values in before.items()})
        self._mark_broken()
        if some:
            self.forward(rows)

    def write(self, rows: Rows, placement: Placement) -> None:
        """Write joint state; derived positions are stale until ``forward``."""
        rows = self._checked(rows)
        for first, values in placement.qpos.items():
            self.qpos[rows, first : first + values.shape[1]] = values
        for first, end in placement.still:
            self.qvel[rows, first:end] = 0.0

    def forward(self, rows: Rows) -> None:
        """Recompute everything that follows from the state; the solver's warm start is kept in the other worlds."""
        warm, rows = self._state["qacc_warmstart"], self._checked(rows)
        before = warm.clone()
        self._advance(0, True)
        before[rows] = warm[rows]
        warm.copy_(before)

    def read(self, rows: Rows) -> Reading:
        """Positions of these worlds, as of the latest ``forward`` (or the start of the latest physics step).

        For ``self.rows``, all worlds, these are the simulation's own arrays, which change with it.
        """
        rows = self._checked(rows)
        force = self._contact_force()
        if rows is self.rows:
            return Reading(index=self.index, contact_force=force, **self._read)
        return Reading(index=self.index, contact_force=force[rows], **{k: v[rows] for k, v in self._read.items()})

    def state(self, row: int) -> FloatArray:
        """Flat state of one world for drawing: joint positions, velocities, mocap positions (none or 3 each)."""
        return torch.cat([self.qpos[row], self.qvel[row], self.mocap_pos[row]]).double().cpu().numpy()

    def snapshot(self) -> dict[str, Tensor]:
        """All that makes the worlds what they are, copied: tensors (N, ...) by name, cut to some rows for ``load``."""
        kept = {**self._state, **self._moved, "failed": self.failed, "overflow": self._overflow}
        kept["static"] = self._read["geom_xpos"][:, self._static]
        return {name: values.clone() for name, values in kept.items()}

    def load(self, rows: Rows, snapshot: Mapping[str, Tensor]) -> None:
        """Make worlds what they were in a snapshot, cut to n rows; derived positions are stale until ``forward``."""
        rows = self._checked(rows)
        for name, values in (self._state | self._moved).items():
            values[rows] = snapshot[name]
        self._read["geom_xpos"][rows[:, None], self._static] = snapshot["static"]
        self.failed[rows], self._overflow[rows] = snapshot["failed"], snapshot["overflow"]

    def fault(self) -> str:
        """What has overflowed in any world since it was started, in one line that says what to do; empty if nothing.

        An overflow drops contacts, of other worlds too where the room is shared, so that no result can be trusted.
        """
        bits = int(np.bitwise_or.reduce(self._overflow.cpu().numpy()))
        kinds = self._mjw.OverflowType  # it also has bits for solvers that ran out of iterations, which is no fault
        found = [name for name in ("NEFC", "NJMAX_NNZ", "BROADPHASE", "NARROWPHASE", "CCD") if bits & kinds[name]]
        advice = f"set TRCL_GPU_ROOM to more than {self._room:g}"
        return f"no room left for contacts on the GPU ({', '.join(found)}): {advice}" if found else ""

    def close(self) -> None:
        """Release the device's memory; safe to call twice."""
        self.__dict__.clear()

    def _advance(self, substeps: int, forward: bool) -> None:
        """Physics steps of all worlds, then perhaps ``forward``; long runs are made of short graphs."""
        with self._on_device():
            while substeps > STEPS_IN_A_GRAPH:
                self._launch(STEPS_IN_A_GRAPH, False)
                substeps -= STEPS_IN_A_GRAPH
            self._launch(substeps, forward)

    def _launch(self, substeps: int, forward: bool) -> None:
        """The first time kernel by kernel, which compiles them; then captured as one graph, which is replayed.

        Launching its kernels one by one takes longer than a small batch of worlds does, on the CPU device too.
        """

        def work() -> None:
            for _ in range(substeps):
                self._mjw.step(self._model, self._data)
            if forward:
                self._mjw.forward(self._model, self._data)

        key = substeps, forward
        if key not in self._graphs:
            self._graphs[key] = None
            work()
            return
        if self._graphs[key] is None:
            # torch's default stream can't be captured, one of its own can.
            stream = self._warp.Stream(self._place) if self._place.is_cuda else None
            with self._warp.ScopedStream(stream), self._warp.ScopedCapture() as capture:
                work()
            self._graphs[key] = capture.graph
        self._warp.capture_launch(self._graphs[key])

    def _on_device(self) -> AbstractContextManager[Any]:
        """Warp works on this device, on a GPU in the same order as torch's own work."""
        if not self._place.is_cuda:
            return self._warp.ScopedDevice(self._place)
        return self._warp.ScopedStream(self._warp.stream_from_torch(torch.cuda.current_stream(self.device)))

    def _mark_broken(self) -> None:
        """Mark worlds that are not finite, and put them to rest in the default state."""
        self.failed |= ~(self.qpos.isfinite().all(1) & self.qvel.isfinite().all(1))
        for name, values in self._state.items():
            values.copy_(torch.where(self.failed.view(-1, *[1] * (values.ndim - 1)), self._default[name], values))
        self._jacobian.masked_fill_(self.failed[:, None, None], 0.0)

    def _contact_force(self) -> Tensor:
        """Force (N, P) [N] normal to the surface, summed over the contacts of each pair; cones are elliptic."""
        forces = torch.zeros(self.num_worlds, len(self._pairs), device=self.device)
        if self._pairs:
            view, contact = self._warp.to_torch, self._data.contact
            address = view(contact.efc_address)[:, 0].long()
            number = torch.arange(len(address), device=self.device)
            there = (number < view(self._data.nacon)) & (address >= 0)
            world = torch.where(there, view(contact.worldid).long(), 0)
            force = view(self._data.efc.force)[world, torch.where(there, address, 0)]
            geoms = view(contact.geom).sort(1).values
            for place, pair in enumerate(self._pairs):
                mine = there & (geoms == pair).all(1)
                forces[:, place].index_add_(0, world, torch.where(mine, force, 0.0))
        return forces

    def _checked(self, rows: Rows) -> Tensor:
        return rows if isinstance(rows, Tensor) else torch.as_tensor(rows, dtype=torch.long, device=self.device)


def has_cuda(warp: Any) -> bool:
    """Whether Warp and torch both see a CUDA device."""
    return bool(warp.is_cuda_available() and torch.cuda.is_available())


def import_warp(device: str) -> tuple[Any, Any]:
    """The packages ``warp`` and ``mujoco_warp``, if they and the device can be used."""
    try:
        import warp

        warp.config.log_level = max(warp.config.log_level, warp.LOG_WARNING)  # it greets on stdout
        import mujoco_warp
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise SimulationError(f"physics on the GPU needs mujoco-warp ({reason}): run ./scripts/setup --gpu") from error
    found = import_mujoco().__version__
    if int(found.split(".")[0]) < 4:
        raise SimulationError(f"mujoco-warp needs MuJoCo 4.0, got {found}: run ./scripts/setup --gpu")
    if device != "cpu" and not has_cuda(warp):
        advice = "use backend cpu, or warp-cpu, which runs the same code slowly on the CPU"
        raise SimulationError(f"backend gpu needs a CUDA device for Warp and torch (see trcl doctor): {advice}")
    return warp, mujoco_warp
