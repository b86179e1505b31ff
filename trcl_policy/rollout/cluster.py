"""Workers as actors of a Ray cluster; the one file that imports Ray."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trcl_envs.interface import SimulationError
from trcl_policy.rollout.jobs import Setup, Worker
from trcl_policy.rollout.launchers import Died

KNOCK_SECONDS = 10.0
INSTALL = 'pip install "ray>=2.40"'


class ClusterHand:
    """A worker somewhere on the cluster; ``pending`` is the message it owes, if any."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray, self._actor = ray, actor
        self.name = f"actor {actor._actor_id.hex()[:12]}"
        self.pending: Any = actor.hello.remote()

    def send(self, message: bytes) -> None:
        """Call the actor."""
        self.pending = self._actor.answer.remote(message)

    def receive(self) -> bytes:
        """What the call returned."""
        pending, self.pending = self.pending, None
        try:
            return self._ray.get(pending)
        except self._ray.exceptions.RayError as error:  # actor, process or node is gone
            lines = str(error).strip().splitlines() or ["no word of it"]
            told = lines[-1 if isinstance(error, self._ray.exceptions.RayTaskError) else 0]  # a traceback's last line
            raise Died(f"{type(error).__name__}: {told.strip()}") from None

    def kill(self) -> None:
        """End its process, wherever it runs."""
        self._ray.kill(self._actor, no_restart=True)


class Cluster:
    """A Ray cluster that is there, or one of this machine alone.

    Args:
        setup: what workers need.
        num_workers: how many there will be; a cluster of this machine alone gets as many slots.
        address: of the cluster, such as ``auto`` or ``HOST:PORT``; None takes RAY_ADDRESS, or starts one here.

    Raises:
        SimulationError: Ray is not installed, or the cluster does not answer.
    """

    def __init__(self, setup: Setup, num_workers: int, address: str | None) -> None:
        self._ray = ray = _import_ray()
        self._owned = not ray.is_initialized()
        address = address or os.environ.get("RAY_ADDRESS")
        slots = {} if address else {"num_cpus": num_workers, "include_dashboard": False}
        if self._owned:
            where = f"at {address}" if address else "on this machine"
            try:
                _knock(address or "")
                ray.init(address=address or "local", log_to_driver=False, logging_level="error", **slots)
            except (OSError, RuntimeError, ValueError) as error:
                raise SimulationError(f"no Ray cluster answers {where}: {' '.join(str(error).split())}") from None
        self._setup = ray.put(setup)
        options = {"num_cpus": 1, "num_gpus": setup.gpus, "max_restarts": 0, "runtime_env": _environment()}
        self._kind = ray.remote(Worker).options(**options)

    def hire(self) -> ClusterHand:
        """A new actor, which waits where no node has room for it."""
        return ClusterHand(self._ray, self._kind.remote(self._setup))

    def listen(self, hands: Sequence[ClusterHand], seconds: float) -> list[ClusterHand]:
        """Those whose call has returned or failed."""
        pending = [hand.pending for hand in hands if hand.pending is not None]
        ready = set(self._ray.wait(pending, num_returns=1, timeout=seconds)[0]) if pending else set()
        return [hand for hand in hands if hand.pending in ready]

    def close(self) -> None:
        """Leave the cluster, which ends it if it was started here."""
        if self._owned and self._ray.is_initialized():
            self._ray.shutdown()


def _environment() -> Mapping[str, Any]:
    """Surroundings of an actor: one thread, no OpenGL, and our packages from where this process has them."""
    roots = [str(Path(sys.modules[name].__path__[0]).parent) for name in ("trcl_policy", "trcl_envs")]
    path = os.pathsep.join(dict.fromkeys([*roots, *filter(None, [os.environ.get("PYTHONPATH")])]))
    return {"env_vars": {"MUJOCO_GL": "disable", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}}


def _knock(address: str) -> None:
    """Raise OSError where nobody listens at ``HOST:PORT``; Ray itself would wait for many minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "//" not in address:
        socket.create_connection((host, int(port)), KNOCK_SECONDS).close()


def _import_ray() -> Any:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # its future default; unset, it warns
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody unless asked for
    try:
        import ray
    except ModuleNotFoundError as error:
        raise SimulationError(f"Ray is not installed: run {INSTALL}") from error
    import ray.exceptions

    return ray
