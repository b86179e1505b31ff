"""Hands out jobs to workers that may die, hang, raise or compute nonsense; gives back what faultless ones would have.

An episode is defined by (checkpoint, task, seed) alone, so whatever a faulty worker owed is simply computed again by
another one. Physics that becomes non-finite may be a fault of the machine or the truth: such a job is run once more
elsewhere, and an episode counts as failed only if it failed both times.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Generic

from trcl_envs.interface import SimulationError
from trcl_policy.files import FileError
from trcl_policy.rollout.dumps import Dump
from trcl_policy.rollout.evaluate import Episode
from trcl_policy.rollout.jobs import Answer, Job, greeting, order
from trcl_policy.rollout.launchers import Died, H, Launcher

MOST_TRIES = 3
"""A job may cost this many workers, or raise this often, before the evaluation ends."""

LISTEN_SECONDS = 1.0


@dataclass(frozen=True)
class Patience:
    """How long a worker may stay silent.

    Attributes:
        job: seconds for one job; None measures: ten times the longest job so far, at least a minute, four times as long
            with every further try, and half an hour before any job is done.
        start: seconds until its greeting.
    """

    job: float | None = None
    start: float = 300.0

    def __post_init__(self) -> None:
        if self.job is not None and not 0 < self.job < float("inf"):
            raise ValueError(f"timeout must be > 0 [s], got {self.job}")

    def seconds(self, longest: float | None, tries: int) -> float:
        """Time limit of a job that was tried ``tries`` times before, where the longest job took ``longest`` [s]."""
        if self.job is not None:
            return self.job
        return 4.0**tries * (1800.0 if longest is None else max(60.0, 10.0 * longest))


@dataclass(frozen=True)
class Fault:
    """A worker that failed, and the episodes that were run again elsewhere because of it.

    Attributes:
        kind: ``died``, ``hung``, ``raised`` or ``nan`` (physics non-finite here, finite elsewhere).
        task: task of the job.
        seeds: episodes that were run again.
        worker: who it was.
        detail: what is known of it.
    """

    kind: str
    task: str
    seeds: tuple[int, ...]
    worker: str
    detail: str

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "seeds": list(self.seeds)}


@dataclass
class Report:
    """What went wrong on the way; filled while a crew works.

    Attributes:
        faults: every fault of a worker that had a job.
        dumps: how episodes broke.
        versions: packages of the workers with their versions, once one has greeted.
    """

    faults: list[Fault] = field(default_factory=list)
    dumps: list[Dump] = field(default_factory=list)
    versions: Mapping[str, str] | None = None

    def told(self) -> str:
        """All faults in one line; empty without any."""
        if not self.faults:
            return ""
        kinds = [fault.kind for fault in self.faults]
        counted = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
        num_again = sum(len(fault.seeds) for fault in self.faults)
        return f"{len(kinds)} faults of workers ({counted}); {num_again} episodes were run again elsewhere"


@dataclass
class _Item:
    """A job on its way: how often it failed and where, and its first answer where that had broken physics."""

    place: int
    job: Job
    errors: list[tuple[str, str]] = field(default_factory=list)  # kind and message of every failed try
    shunned: set[str] = field(default_factory=set)  # workers that shall not have it again
    first: Answer | None = None
    first_worker: str = ""


@dataclass
class _Seat(Generic[H]):
    """A worker and what it is doing since when [s]."""

    hand: H
    since: float
    item: _Item | None = None
    ready: bool = False

    @property
    def is_idle(self) -> bool:
        return self.ready and self.item is None


class Crew(Generic[H]):
    """Workers that do jobs together.

    Args:
        launcher: where they come from.
        num_workers: how many, at least 1.
        patience: time limits.
        report: filled with what goes wrong.
    """

    def __init__(self, launcher: Launcher[H], num_workers: int, patience: Patience, report: Report) -> None:
        self._launcher, self._wanted, self._patience, self.report = launcher, num_workers, patience, report
        self._seats: list[_Seat[H]] = []
        self._queue: deque[_Item] = deque()
        self._longest: float | None = None
        self._failed_starts = 0

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, list[Episode]]]:
        """Yield (place in ``jobs``, episodes) of every job as it is done.

        Raises:
            SimulationError: a job failed ``MOST_TRIES`` times, no worker starts, or workers don't fit each other.
            ValueError, FileError: a job raised that every time.
        """
        self._queue = deque(_Item(place, job) for place, job in enumerate(jobs))
        try:
            while self._queue or any(seat.item for seat in self._seats):
                self._hire()
                self._hand_out()
                for hand in self._launcher.listen([seat.hand for seat in self._seats], LISTEN_SECONDS):
                    done = self._hear(next(seat for seat in self._seats if seat.hand is hand))
                    if done is not None:
                        yield done
                self._end_overdue()
        finally:
            while self._seats:
                self._dismiss(self._seats[-1])

    def _hire(self) -> None:
        busy = sum(seat.item is not None for seat in self._seats)
        while len(self._seats) < min(self._wanted, len(self._queue) + busy):
            self._seats.append(_Seat(self._launcher.hire(), time.monotonic()))

    def _hand_out(self) -> None:
        for seat in [seat for seat in self._seats if seat.is_idle]:
            item = next((item for item in self._queue if seat.hand.name not in item.shunned), None)
            if item is None:
                continue
            self._queue.remove(item)
            seat.item, seat.since = item, time.monotonic()
            try:
                seat.hand.send(order(item.job))
            except Died as death:
                self._lose(seat, "died", str(death))
        if self._queue and all(seat.is_idle for seat in self._seats):  # nobody left may have what is left
            for seat in list(self._seats):
                self._dismiss(seat)

    def _hear(self, seat: _Seat[H]) -> tuple[int, list[Episode]] | None:
        try:
            message = seat.hand.receive()
        except Died as death:
            self._lose(seat, "died", str(death))
            return None
        if not seat.ready:
            self._greet(seat, greeting(message))
            return None
        item, seat.item = seat.item, None
        assert item is not None, "an idle worker says nothing"
        try:
            answer = Answer.unpack(message, item.job)
        except (ValueError, KeyError, TypeError) as error:
            answer = Answer(error=("damaged answer", str(error)))
        if answer.error is not None:
            self._again(item, seat.hand.name, "raised", *answer.error)
            return None
        taken = time.monotonic() - seat.since
        self._longest = max(taken, self._longest or 0.0)
        return self._judge(item, seat.hand.name, answer)

    def _greet(self, seat: _Seat[H], facts: Mapping[str, Any]) -> None:
        """Let a worker in, if it computes with the same packages as the others."""
        seat.ready, self._failed_starts = True, 0
        if self.report.versions is None:
            self.report.versions = facts["versions"]
        if facts["versions"] != self.report.versions:
            pairs = {*self.report.versions.items()} ^ {*facts["versions"].items()}
            names = sorted({name for name, _ in pairs})
            raise SimulationError(
                f"workers must have the same versions of {', '.join(names)}, got "
                f"{[self.report.versions.get(name) for name in names]} and, on {facts['host']}, "
                f"{[facts['versions'].get(name) for name in names]}"
            )

    def _judge(self, item: _Item, worker: str, answer: Answer) -> tuple[int, list[Episode]] | None:
        """The job's episodes, or None where broken physics must be seen a second time first."""
        self.report.dumps += answer.dumps
        if item.first is None:
            if not any(episode.failed for episode in answer.episodes):
                return item.place, list(answer.episodes)
            item.first, item.first_worker = answer, worker
            item.shunned.add(worker)
            self._queue.append(item)
            return None
        pairs = list(zip(item.first.episodes, answer.episodes, strict=True))
        for name, only in (
            (item.first_worker, tuple(one.seed for one, two in pairs if one.failed and not two.failed)),
            (worker, tuple(one.seed for one, two in pairs if two.failed and not one.failed)),
        ):
            if only:
                detail = "physics became non-finite here and stayed finite elsewhere"
                self.report.faults.append(Fault("nan", item.job.task, only, name, detail))
        return item.place, [one if two.failed else two for one, two in pairs]

    def _again(self, item: _Item, worker: str, kind: str, error: str, message: str) -> None:
        """Put a job back into the queue for somebody else; raises when that happened too often."""
        self.report.faults.append(Fault(kind, item.job.task, item.job.seeds, worker, message))
        item.errors.append((error if kind == "raised" else kind, message))
        item.shunned.add(worker)
        if len(item.errors) >= MOST_TRIES:
            raise _given_up(item)
        self._queue.appendleft(item)

    def _lose(self, seat: _Seat[H], kind: str, detail: str) -> None:
        """A worker is gone, or will be in a moment."""
        self._dismiss(seat)
        if seat.item is not None:
            self._again(seat.item, seat.hand.name, kind, kind, detail)
        elif not seat.ready:
            self._failed_starts += 1
            if self._failed_starts >= MOST_TRIES:
                self._wanted = sum(other.ready for other in self._seats)  # go on with those that are there
                if not self._wanted:
                    raise SimulationError(f"no worker starts; the last one: {detail}")

    def _end_overdue(self) -> None:
        now = time.monotonic()
        for seat in [seat for seat in self._seats if not seat.is_idle]:
            tries = len(seat.item.errors) if seat.item else 0
            limit = self._patience.seconds(self._longest, tries) if seat.item else self._patience.start
            if now - seat.since > limit and not self._launcher.listen([seat.hand], 0.0):
                self._lose(seat, "hung", f"nothing heard within {limit:.3g} s")

    def _dismiss(self, seat: _Seat[H]) -> None:
        self._seats.remove(seat)
        seat.hand.kill()


def _given_up(item: _Item) -> Exception:
    """The error that ends an evaluation: of the kind that the job raised, if it raised the same every time."""
    kinds = {kind for kind, _ in item.errors}
    last = item.errors[-1][1]
    if kinds <= {"ValueError"} or kinds <= {"OSError"}:
        kind = ValueError if kinds == {"ValueError"} else FileError
        return kind(f"{last} ({item.job}, tried {MOST_TRIES} times)")
    hint = "; perhaps it needs a longer --timeout" if "hung" in kinds else ""
    how = ", ".join(kind if kind in ("died", "hung") else f"raised {kind}" for kind, _ in item.errors)
    return SimulationError(f"{item.job}: {MOST_TRIES} workers in a row failed ({how}); the last one: {last}{hint}")
