"""Where workers come from; what hands out work sees ``Launcher`` and ``Hand`` and knows nothing of processes.

Worker processes are spawned, never forked, so that no thread pool, CUDA context or GL context is inherited. They draw
nothing, and MuJoCo's OpenGL is switched off in them: a policy on CUDA never shares a process with GL.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Protocol, TypeVar

from trcl_policy.rollout.jobs import Setup, Worker


class Died(Exception):
    """Raised when a worker is gone; the message says what is known of it."""


class Hand(Protocol):
    """One worker as seen by whoever hands out work. Its first message is its greeting, the others are answers.

    Attributes:
        name: what reports call it.
    """

    name: str

    def send(self, message: bytes) -> None:
        """Hand out a job; it must have answered the one before. Raises Died."""
        ...

    def receive(self) -> bytes:
        """Its next message, waiting for it. Raises Died."""
        ...

    def kill(self) -> None:
        """End it at once, whatever it does; safe to call twice."""
        ...


H = TypeVar("H", bound=Hand)


class Launcher(Protocol[H]):
    """Starts workers and listens to them."""

    def hire(self) -> H:
        """A new worker, which may take its time to greet."""
        ...

    def listen(self, hands: Sequence[H], seconds: float) -> list[H]:
        """Those that have a message or died, as soon as there is one; empty after ``seconds``."""
        ...

    def close(self) -> None:
        """Release what all workers share; safe to call twice."""
        ...


class HereHand:
    """A worker in this very process: what it computes is computed in ``receive``, and nothing can end it."""

    def __init__(self, setup: Setup, number: int) -> None:
        self.name = f"worker {number} in this process"
        self._worker = Worker(setup)
        self._message: bytes | None = None
        self._greeted = False

    def send(self, message: bytes) -> None:
        """Keep the job until ``receive``."""
        self._message = message

    def receive(self) -> bytes:
        """Compute the answer."""
        if not self._greeted:
            self._greeted = True
            return self._worker.hello()
        assert self._message is not None, "send comes before receive"
        message, self._message = self._message, None
        return self._worker.answer(message)

    def has_something(self) -> bool:
        """Whether ``receive`` has something to give."""
        return self._message is not None or not self._greeted

    def kill(self) -> None:
        """Release the simulation."""
        self._worker.close()


class Here:
    """No process at all: the caller's own."""

    def __init__(self, setup: Setup) -> None:
        self._setup, self._num_hired = setup, 0

    def hire(self) -> HereHand:
        """A fresh worker in this process."""
        self._num_hired += 1
        return HereHand(self._setup, self._num_hired)

    def listen(self, hands: Sequence[HereHand], seconds: float) -> list[HereHand]:
        """Those that have something to compute."""
        return [hand for hand in hands if hand.has_something()]

    def close(self) -> None:
        """Nothing is shared."""


class ProcessHand:
    """A worker in a spawned process at the other end of a pipe; the pipe breaks when the process ends."""

    def __init__(self, setup: Setup) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(setup, theirs), daemon=True)
        # Ctrl-C reaches the whole group. A process inherits what is blocked here, so only the parent hears it. The
        # tracker, which the first start would start, unblocks it.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()  # the process holds the only other end
        self.name = f"process {self._process.pid}"

    def send(self, message: bytes) -> None:
        """Write to the pipe."""
        try:
            self.pipe.send_bytes(message)
        except OSError:
            raise Died(self._epitaph()) from None

    def receive(self) -> bytes:
        """Read from the pipe."""
        try:
            return self.pipe.recv_bytes()
        except (EOFError, OSError):
            raise Died(self._epitaph()) from None

    def kill(self) -> None:
        """SIGKILL, which also ends a stopped process, and wait until it is gone."""
        self._process.kill()
        self._process.join()
        self.pipe.close()

    def _epitaph(self) -> str:
        self._process.join(5)
        code = self._process.exitcode
        if code is None:
            return "it closed its pipe"
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"killed by {signal.Signals(-code).name}"
        return f"exit status {code}"


class Processes:
    """Spawned processes of this machine."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup

    def hire(self) -> ProcessHand:
        """A new process."""
        return ProcessHand(self._setup)

    def listen(self, hands: Sequence[ProcessHand], seconds: float) -> list[ProcessHand]:
        """Those whose pipe can be read or is broken."""
        ready = wait([hand.pipe for hand in hands], seconds)
        return [hand for hand in hands if hand.pipe in ready]

    def close(self) -> None:
        """Nothing is shared."""


def _serve(setup: Setup, pipe: Connection) -> None:
    """The life of a worker process; it ends with the pipe, so also when whoever hands out work is killed."""
    os.environ["MUJOCO_GL"] = "disable"  # read when MuJoCo is imported, which the first job does
    worker = Worker(setup)
    with contextlib.suppress(EOFError, OSError):
        pipe.send_bytes(worker.hello())
        while True:
            pipe.send_bytes(worker.answer(pipe.recv_bytes()))
