"""Where the jobs of the queue run: processes on this machine; ``ray_jobs`` has those of a Ray cluster."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

LAUNCHERS = ("local", "ray")


class Handle(Protocol):
    """One job at work."""

    def poll(self) -> int | None:
        """Its status; None while it goes on."""
        ...

    def stop(self) -> None:
        """Ask it to save and end, and wait until it has."""
        ...


class Launcher(Protocol):
    """Where jobs run."""

    slots: int

    def start(self, commands: Sequence[Sequence[str]], log: Path | None, lock: int) -> Handle:
        """Run the commands one after another until one fails; ``lock`` is an open file that stands for the job."""
        ...


class LocalLauncher:
    """Processes on this machine.

    Args:
        slots: jobs at a time; None takes one a core.
    """

    def __init__(self, slots: int | None = None) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.slots = slots or cores

    def start(self, commands: Sequence[Sequence[str]], log: Path | None, lock: int) -> Handle:
        """See :class:`Launcher`."""
        return _Local([list(words) for words in commands], log, lock)


class _Local:
    def __init__(self, commands: list[list[str]], log: Path | None, lock: int) -> None:
        self._rest, self._log, self._lock = commands, log, lock
        self._process = self._next()

    def _next(self) -> subprocess.Popen[bytes]:
        """The next command in a session of its own, so that Ctrl-C reaches it through the queue alone.

        It inherits the lock, which therefore lasts as long as the process, even beyond a killed queue.
        """
        with open(self._log or os.devnull, "ab") as out:
            streams: dict[str, Any] = {} if self._log is None else {"stdout": out, "stderr": subprocess.STDOUT}
            return subprocess.Popen(self._rest.pop(0), pass_fds=(self._lock,), start_new_session=True, **streams)

    def poll(self) -> int | None:
        status = self._process.poll()
        if status == 0 and self._rest:
            self._process = self._next()
            return None
        return status

    def stop(self) -> None:
        self._rest.clear()
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait()


def make_launcher(name: str, slots: int | None, gpus: float = 0.0) -> Launcher:
    """The launcher called ``name``; see :class:`LocalLauncher` and ``ray_jobs.RayLauncher``.

    Raises:
        ValueError: an unknown name, an impossible number, or ray is not installed.
    """
    if slots is not None and slots < 1:
        raise ValueError(f"jobs must be >= 1, got {slots}")
    if name not in LAUNCHERS:
        raise ValueError(f"launcher must be one of {', '.join(LAUNCHERS)}, got {name!r}")
    if name == "local":
        return LocalLauncher(slots)
    from ray_jobs import RayLauncher

    return RayLauncher(slots, gpus)
