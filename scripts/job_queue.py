"""A queue of training runs over local cores or a Ray cluster, shared by the scripts beside this file.

What is finished is skipped, what was stopped goes on, and all of it is read off the run folders, so the queue itself
may be killed at any moment. A run is locked while a process works on it: a second queue, or one that is started again
while runs of a killed one still go on, waits for them instead of starting them twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs import Job
from launchers import Handle, Launcher, LocalLauncher

from trcl_policy.cli import hung_up
from trcl_policy.report.tables import duration

HEARTBEAT_S = 300.0
"""Seconds between lines that say how far the runs are."""
POLL_S = 0.2
LEAST_GAIN = 0.02
"""Share of a run after which its own pace is believed."""


class Forecast:
    """How long runs take, from those that are finished.

    Args:
        known: seconds of finished runs by kind.
        rough: seconds of a run of a kind before any is finished.
    """

    def __init__(self, known: Mapping[str, Sequence[float]], rough: Callable[[str], float]) -> None:
        self._known = {kind: list(seconds) for kind, seconds in known.items()}
        self._paces: dict[str, float] = {}
        self._rough = rough

    def add(self, kind: str, seconds: float) -> None:
        """A run of this kind took so long."""
        self._known.setdefault(kind, []).append(seconds)

    def expect(self, kind: str, seconds: float) -> None:
        """A run of this kind is on its way to take so long; counts until one is finished."""
        self._paces[kind] = seconds

    def seconds(self, kind: str) -> float:
        """Expected seconds of a run: the mean of its kind; else its rough time, scaled as other kinds turned out."""
        means = self._paces | {name: sum(found) / len(found) for name, found in self._known.items() if found}
        if kind in means:
            return means[kind]
        scale = sum(means.values()) / sum(map(self._rough, means)) if means else 1.0
        return self._rough(kind) * scale

    def left(self, jobs: Iterable[Job], slots: int) -> float:
        """Seconds until all of these are done, ``slots`` at a time, the longest first."""
        rest = sorted((self.seconds(job.kind) * (1 - job.share_done()) for job in jobs), reverse=True)
        ends = [0.0] * slots
        for seconds in rest:
            ends[ends.index(min(ends))] += seconds
        return max(ends)


@dataclass
class _Running:
    job: Job
    handle: Handle
    since: float
    share: float
    lock: int


class Stopped(Exception):
    """Raised in the queue by SIGINT or SIGTERM."""


def run_jobs(
    jobs: Sequence[Job],
    launcher: Launcher | None = None,
    forecast: Forecast | None = None,
    when_done: Callable[[Job], None] = lambda job: None,
    keep_going: bool = False,
    quiet: bool = False,
) -> int:
    """Bring all jobs to their end; returns the exit status.

    Args:
        jobs: in order; what is finished only gets its ``when_done``.
        launcher: where they run; None is this machine, one a core.
        forecast: for the time left; None says nothing about it.
        when_done: called in this process with each job that is finished.
        keep_going: a job that fails does not stop the others; the status is then 1.
        quiet: what jobs print goes to their logs instead of the terminal.
    """
    queue = _Queue(jobs, launcher or LocalLauncher(), forecast, when_done, keep_going, quiet)
    try:
        with _stopped_by_signals():
            return queue.run()
    except Stopped:
        tell("stopped; started runs are saved. The same command goes on.")
        return 130
    finally:
        queue.stop()


class _Queue:
    def __init__(
        self,
        jobs: Sequence[Job],
        launcher: Launcher,
        forecast: Forecast | None,
        when_done: Callable[[Job], None],
        keep_going: bool,
        quiet: bool,
    ) -> None:
        self.waiting, self.total = list(jobs), len(jobs)
        self.launcher, self.forecast, self.when_done = launcher, forecast, when_done
        self.keep_going, self.quiet = keep_going, quiet
        self.running: list[_Running] = []
        self.status, self.num_done = 0, 0
        self._elsewhere: set[Path] = set()

    def run(self) -> int:
        beat = time.monotonic()
        while self.waiting or self.running:
            self._fill()
            for entry in list(self.running):
                status = entry.handle.poll()
                if status is not None:
                    self._end(entry, status)
                    if status and not self.keep_going:
                        return status
            if time.monotonic() - beat > HEARTBEAT_S:
                beat = time.monotonic()
                self._say("; ".join(f"{e.job.name} {100 * e.job.share_done():.0f} %" for e in self.running))
            time.sleep(POLL_S)
        return self.status

    def _fill(self) -> None:
        """Start what fits beside what runs here and what other processes work on."""
        busy = 0
        for job in list(self.waiting):
            if len(self.running) + busy >= self.launcher.slots:
                return
            lock = locked(job.lock)
            if lock is None:
                busy += 1
                if job.folder not in self._elsewhere:
                    self._elsewhere.add(job.folder)
                    self._say(f"{job.name}: another process is at it, waiting")
                continue
            self.waiting.remove(job)
            self._start(job, lock)

    def _start(self, job: Job, lock: int) -> None:
        commands = job.commands()
        if not commands:
            os.close(lock)
            self._done(job)
            return
        share = job.share_done()
        log = job.log if self.quiet else None
        self.running.append(_Running(job, self.launcher.start(commands, log, lock), time.monotonic(), share, lock))
        self._say(f"{job.name}: {'goes on' if share else 'begins'}")

    def _end(self, entry: _Running, status: int) -> None:
        self.running.remove(entry)
        os.close(entry.lock)
        job, seconds = entry.job, time.monotonic() - entry.since
        if status:
            self.status = 1
            why = f"; see {job.log}: {last_line(job.log)}" if self.quiet else ""
            self._say(f"{job.name}: failed with status {status}{why}")
            return
        if self.forecast is not None and entry.share < 1:
            self.forecast.add(job.kind, seconds / (1 - entry.share))
        self._done(job)
        self._say(f"{job.name}: done in {duration(seconds)}")

    def _done(self, job: Job) -> None:
        self.num_done += 1
        self.when_done(job)

    def _say(self, what: str) -> None:
        rest, left = [*self.waiting, *(entry.job for entry in self.running)], ""
        if self.forecast is not None and rest:
            for entry in self.running:
                gained = entry.job.share_done() - entry.share
                if gained >= LEAST_GAIN:
                    self.forecast.expect(entry.job.kind, (time.monotonic() - entry.since) / gained)
            left = f", about {duration(self.forecast.left(rest, self.launcher.slots))} left"
        tell(f"[{self.num_done}/{self.total}{left}] {what}")

    def stop(self) -> None:
        for entry in self.running:
            entry.handle.stop()
            os.close(entry.lock)
        self.running.clear()


def tell(line: str) -> None:
    """One line of progress on stderr."""
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    def ask(number: int, frame: Any) -> None:
        raise Stopped

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def locked(path: Path) -> int | None:
    """An open file that holds the lock at ``path`` until it is closed everywhere; None where another process has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def last_line(path: Path) -> str:
    """The last line with something in it, empty where there is none."""
    lines = path.read_text(errors="replace").split("\n") if path.exists() else []
    return next((line.split("\r")[-1].strip() for line in reversed(lines) if line.strip()), "")


def show_plan(jobs: Sequence[Job], forecast: Forecast, slots: int) -> None:
    """Print every job, what would be done with it and about how long all of it takes; a reader may leave early."""
    rest = [job for job in jobs if job.commands()]
    lines = []
    for job in jobs:
        share = job.share_done()
        state = "finished" if job not in rest else f"goes on at {100 * share:.0f} %" if share else "new"
        seconds = forecast.seconds(job.kind) * (1 - share) if job in rest else 0.0
        lines.append(f"{job.name:<48} {state:<16} {duration(seconds) if job in rest else ''}".rstrip())
    left = f", about {duration(forecast.left(rest, slots))} with {slots} at a time" if rest else ""
    lines.append(f"{len(jobs) - len(rest)} of {len(jobs)} runs are finished{left}")
    try:
        print("\n".join(lines), flush=True)
    except BrokenPipeError:
        hung_up()
