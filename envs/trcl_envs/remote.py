"""Simulation in the Python of another virtual environment: the asking side of ``--env-python``.

Two simulators may need versions of MuJoCo or NumPy that can't stand beside each other, or beside what learns. One
process of the other Python simulates for each process here; ``trcl_envs.serve`` runs in it, from the files of THIS
package, so that nothing needs to be installed there but the simulator. What goes over the pipes: ``trcl_envs.wire``.
"""

from __future__ import annotations

import atexit
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trcl_envs.interface import BoolArray, FloatArray, Scene, SimulationError, Step, TaskInfo
from trcl_envs.wire import PROTOCOL, Channel, WireError

ANSWER_S = 600.0
"""Longest wait for an answer [s]; building many worlds takes longest."""
GOODBYE_S = 5.0
# Loads this package by its folder alone: what else lies beside it here must not be found by the other Python.
BOOT = """
import importlib.util, runpy, sys
sys.path[:] = [path for path in sys.path if path]
spec = importlib.util.spec_from_file_location("trcl_envs", sys.argv[1] + "/__init__.py")
sys.modules["trcl_envs"] = package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
runpy.run_module("trcl_envs.serve", run_name="__main__")
"""


class Simulator:
    """One process of another Python that simulates what it is asked to.

    Args:
        python: its program, such as ``/opt/robosuite/bin/python``, or the folder of its virtual environment.
        timeout_s: longest wait for an answer [s].

    Attributes:
        versions: of Python and the simulating packages there.

    Raises:
        ValueError: there is no such program.
        SimulationError: it doesn't answer, or speaks another version of the protocol.
    """

    def __init__(self, python: str, timeout_s: float = ANSWER_S) -> None:
        self.python, self._timeout_s, self._lock = python, timeout_s, Lock()
        command = [program(python), "-c", BOOT, str(Path(__file__).resolve().parent)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        assert self._process.stdin is not None, "asked for as a pipe"
        assert self._process.stdout is not None, "asked for as a pipe"
        inbox, outbox = self._process.stdout.fileno(), self._process.stdin.fileno()
        os.set_blocking(outbox, False)
        self._channel, self._ended = Channel(inbox, outbox), ""
        hello = self._exchange(None)
        if hello.get("protocol") != PROTOCOL:
            self.stop()
            raise SimulationError(f"{python} must speak protocol {PROTOCOL} of trcl_envs, got {hello.get('protocol')}")
        self.versions: dict[str, str] = hello["versions"]

    def ask(self, call: str, on: int | None = None, **arguments: Any) -> Any:
        """Have something made (``on`` is None; returns its number), or call a method of what was made.

        Raises:
            ValueError: the other side finds the arguments wrong.
            SimulationError: the simulator there failed, or its process died or hung; it is ended then.
        """
        answer = self._exchange({"call": call, "on": on, "with": arguments})
        if "error" in answer:
            error = ValueError if answer["error"] == "ValueError" else SimulationError
            raise error(" ".join(str(answer["message"]).split()) + ("" if error is ValueError else f" ({self.python})"))
        return answer["value"]

    @property
    def is_running(self) -> bool:
        """Whether it can be asked."""
        return not self._ended

    def stop(self) -> None:
        """End the process; safe to call twice."""
        self._ended = self._ended or "was stopped"
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(GOODBYE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _exchange(self, message: dict[str, Any] | None) -> dict[str, Any]:
        with self._lock:
            if self._ended:
                raise SimulationError(f"the simulator in {self.python} {self._ended}: nothing can be asked of it")
            try:
                if message is not None:
                    self._channel.send(message, self._timeout_s)
                answer = self._channel.receive(self._timeout_s)
                if not isinstance(answer, dict):
                    raise WireError(f"sent {type(answer).__name__} for an answer")
                return answer
            except WireError as error:
                raise SimulationError(self._buried(str(error), message)) from None

    def _buried(self, what: str, message: dict[str, Any] | None) -> str:
        """End the process and tell in one line what happened."""
        self._ended = what
        if what != "ended":
            self._process.kill()
        self.stop()
        during = "while it started" if message is None else f"when asked for {message['call']}"
        status = f" (exit status {self._process.returncode})" if what == "ended" else " and was killed"
        return f"the simulator in {self.python} {what} {during}{status}; what it wrote on stderr may say why"


def program(python: str) -> str:
    """The Python program of an ``env_python``, which may name the folder of its virtual environment."""
    path = Path(python).expanduser()
    path = path / "bin" / "python" if path.is_dir() else path
    if not (path.is_file() and os.access(path, os.X_OK)):
        raise ValueError(f"env_python must be the Python program of a virtual environment, got {python}")
    return str(path)


_running: dict[tuple[int, str], Simulator] = {}  # by process: one that was forked must not use its parent's pipes


def simulator(python: str) -> Simulator:
    """The simulator of a Python, started on first use and kept until this process ends; a dead one is started anew."""
    found = _running.get((os.getpid(), python))
    if found is None or not found.is_running:
        if not _running:
            atexit.register(stop_all)
        found = _running[os.getpid(), python] = Simulator(python)
    return found


def stop_all() -> None:
    """End this process's simulators."""
    for pid, python in list(_running):
        if pid == os.getpid():
            _running.pop((pid, python)).stop()


class _Remote:
    """Something made in a simulator.

    Args:
        python: the other Python.
        kind: ``"env"``, ``"expert"`` or ``"renderer"``.
        arguments: what it is made with.
    """

    def __init__(self, python: str, kind: str, **arguments: Any) -> None:
        self._simulator = simulator(python)
        self._number: int | None = self._simulator.ask(kind, **arguments)

    def _ask(self, call: str, **arguments: Any) -> Any:
        if self._number is None:
            raise SimulationError(f"{call} can't be asked for: what was made in {self._simulator.python} is closed")
        return self._simulator.ask(call, self._number, **arguments)

    def close(self) -> None:
        """Release what it holds; safe to call twice."""
        if self._number is not None and self._simulator.is_running:
            self._ask("close")
        self._number = None


class RemoteEnv(_Remote):
    """Worlds that another Python simulates; fulfils ``BatchedEnv``, bit for bit as they would be there.

    Args:
        python: the other Python.
        info: the task.
        num_worlds: N, at least 1.
        threads: CPU threads that advance them.
        backend: see ``make_env``.
        env_args: see ``make_env``.

    Raises:
        SimulationError: the other side can't simulate it, or knows another task by its name.
    """

    def __init__(
        self,
        python: str,
        info: TaskInfo,
        num_worlds: int,
        threads: int = 1,
        backend: str = "cpu",
        env_args: Mapping[str, Any] | None = None,
    ) -> None:
        settings = {"num_worlds": num_worlds, "threads": threads, "backend": backend, "env_args": env_args}
        super().__init__(python, "env", name=info.name, **settings)
        there = TaskInfo(**self._ask("info"))
        self.info, self.num_worlds = there, num_worlds
        if there != info and env_args is None:
            raise SimulationError(f"{info.name} must be the same task in {python}, got {there} there and {info} here")

    def reset(self, seeds: Sequence[int]) -> FloatArray:
        """Start ``len(seeds) <= num_worlds`` worlds anew; returns observations (len(seeds), Do)."""
        return self._ask("reset", seeds=[int(seed) for seed in seeds])

    def reset_rows(self, rows: NDArray[np.intp], seeds: Sequence[int]) -> FloatArray:
        """Start some worlds anew and leave the others as they are; returns observations (len(rows), Do)."""
        rows = np.asarray(rows, dtype=np.int64)
        return self._ask("reset_rows", rows=rows, seeds=[int(seed) for seed in seeds])

    def step(self, actions: NDArray[np.floating], active: BoolArray | None = None) -> Step:
        """Advance one control step with actions (N, Da), clipped to [-1, 1]."""
        wanted = None if active is None else np.asarray(active, dtype=bool)
        return Step(**self._ask("step", actions=np.asarray(actions, dtype=np.float64), active=wanted))

    def scene(self, row: int) -> Scene:
        """Return the drawable state of one world."""
        return Scene(**self._ask("scene", row=int(row)))


class RemoteExpert(_Remote):
    """A scripted controller of another Python; fulfils ``Expert``.

    Args:
        python: the other Python.
        task: full name of the task.
    """

    def __init__(self, python: str, task: str) -> None:
        super().__init__(python, "expert", name=task)

    def reset(self, num_worlds: int) -> None:
        """Forget the previous episodes."""
        self._ask("reset", num_worlds=num_worlds)

    def actions(self, observations: FloatArray) -> FloatArray:
        """Actions (N, Da) for observations (N, Do); NOT clipped."""
        return self._ask("actions", observations=np.asarray(observations, dtype=np.float64))


class RemoteRenderer(_Remote):
    """What draws scenes in another Python; fulfils ``Renderer``.

    Args:
        python: the other Python.
        task: full name of the task.
        width: [px].
        height: [px].
        camera: see ``make_renderer``.
        env_args: see ``make_env``.
    """

    def __init__(
        self,
        python: str,
        task: str,
        width: int,
        height: int,
        camera: str | None = None,
        env_args: Mapping[str, Any] | None = None,
    ) -> None:
        size = {"width": width, "height": height}
        super().__init__(python, "renderer", name=task, camera=camera, env_args=env_args, **size)

    def frame(self, scene: Scene) -> NDArray[np.uint8]:
        """An upright picture (H, W, 3)."""
        return self._ask("frame", scene=vars(scene))
