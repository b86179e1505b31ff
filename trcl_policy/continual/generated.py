"""Generative replay: the previous model makes the old data itself."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from trcl_policy.continual.model import RECALLS, Model, chunks
from trcl_policy.continual.params import Batch, Layout, concatenate, num_rows, rows
from trcl_policy.continual.past import Learned
from trcl_policy.continual.replay import Pool, Replay, Request, remembered, taught
from trcl_policy.continual.streams import Streams
from trcl_policy.continual.tasks import Task

SOURCES = ("generated", "rehearsed")
TEACHERS = ("ema", "raw")
WATCHED = 256
"""Rows held out of a task below which samples are corrupted more than once."""
JUDGED = 4
"""Corruptions on which a generated sample is judged by the filter."""


@dataclass(frozen=True)
class GeneratedReplay(Replay):
    """No sample is stored from the past (paper, section 3).

    After every task the model of that moment, the teacher, makes a fresh pool for ALL tasks learned so far, equally
    many for each, each sample from its own noise; or, where pools are ``kept``, one for the task just learned, which
    joins those made before it: as much memory, and no sample is a copy of a copy. While the next task is learned, pool
    samples are noised again and the student matches the teacher's prediction (``distilled``) or the drawn target
    (plain).

    Attributes:
        samples_per_task: samples made for each old task.
        distilled: match the teacher's prediction instead of the drawn target.
        source: ``generated`` by the model, or ``rehearsed``: what the model meets when it does the old task itself.
        weights: weights of the teacher, ``ema`` (those that are released) or ``raw`` (before averaging).
        keep: share of the made samples that is kept of each task, those with the least loss under the teacher; (0, 1].
        refresh: updates after which the pool is made anew within a task; 0 for never.
        kept: samples of a task are made once, by the model that has just learned it, instead of after every task.
        chunk_size: samples per call of ``generate``.
        pool: samples made.
        teacher: weights (P,) of the previous model.
    """

    samples_per_task: int = 2000
    distilled: bool = True
    source: str = "generated"
    weights: str = "ema"
    keep: float = 1.0
    refresh: int = 0
    kept: bool = False
    chunk_size: int = 2048
    pool: Pool = field(default_factory=Pool)
    teacher: Tensor | None = None

    has_teacher = True
    memory = "one vector in all (the previous model) and what it makes, `replay_samples` a task"

    def __post_init__(self) -> None:
        """Check the options once."""
        if self.samples_per_task < 1:
            raise ValueError(f"replay_samples must be >= 1 [samples a task], got {self.samples_per_task}")
        if self.source not in SOURCES:
            raise ValueError(f"source must be one of {', '.join(SOURCES)}, got {self.source!r}")
        if self.weights not in TEACHERS:
            raise ValueError(f"teacher must be one of {', '.join(TEACHERS)}, got {self.weights!r}")
        if not 0 < self.keep <= 1:
            raise ValueError(f"replay_keep must be in (0, 1], got {self.keep}")
        if self.refresh < 0:
            raise ValueError(f"replay_refresh must be >= 0 [updates], got {self.refresh}")
        if self.refresh and self.kept:
            raise ValueError(f"replay_refresh must be 0 where generated samples are kept, got {self.refresh}")
        if self.chunk_size < 1:
            raise ValueError(f"chunk_size must be >= 1 [samples a call], got {self.chunk_size}")

    @property
    def num_tasks(self) -> int:
        """Old tasks held."""
        return self.pool.num_tasks

    def before_step(self, request: Request) -> Replay:
        """Make the pool anew where its time has come."""
        if self.teacher is None or not self.refresh or not request.step or request.step % self.refresh:
            return self
        made = self._made(self.teacher, request.model, request.layout, request.streams, request.old_tasks)
        return replace(self, pool=Pool().extended(made))

    def draw(self, request: Request) -> Batch | None:
        """Made samples under new noise; where ``distilled``, their target is the teacher's prediction."""
        if self.teacher is None:
            return None
        corrupted = request.model.corrupt(self.pool.pick(request), request.streams["replay/noise"])
        return taught(request, self.teacher, corrupted) if self.distilled else corrupted

    def after_task(self, learned: Learned) -> Replay:
        """Make the model of this moment the teacher and let it make samples of the tasks whose turn it is."""
        teacher = self._maker(learned).clone()
        if self.kept and learned.revisited:
            return replace(self, teacher=teacher)
        tasks, before = ((learned.task,), self.pool) if self.kept else (learned.old_tasks, Pool())
        made = self._made(teacher, learned.model, learned.layout, learned.streams, tasks)
        return replace(self, pool=before.extended(made), teacher=teacher)

    def _maker(self, learned: Learned) -> Tensor:
        return learned.theta if self.weights == "ema" or learned.raw is None else learned.raw

    def _made(
        self, teacher: Tensor, model: Model, layout: Layout, streams: Streams, tasks: tuple[Task, ...]
    ) -> list[Batch]:
        params, wanted = layout.unflatten(teacher), -(-self.samples_per_task // self.keep)
        with torch.no_grad():
            if self.source == "rehearsed":
                parts = [_rehearsed(task, params, int(wanted), streams["replay/rehearse"]) for task in tasks]
            else:
                parts = self._generated(model, params, int(wanted), streams, tasks)
            if self.keep < 1:
                parts = [self._best(model, params, part, streams["replay/filter"]) for part in parts]
        return parts

    def _generated(
        self, model: Model, params: dict[str, Tensor], count: int, streams: Streams, tasks: tuple[Task, ...]
    ) -> list[Batch]:
        conditions = concatenate([dict(task.conditions(count, streams["replay/conditions"])) for task in tasks])
        rng = streams["replay/generate"]
        made = concatenate([dict(model.generate(params, c, rng)) for c in chunks(conditions, self.chunk_size)])
        return [rows(made, slice(number * count, (number + 1) * count)) for number in range(len(tasks))]

    def _best(self, model: Model, params: dict[str, Tensor], made: Batch, rng: torch.Generator) -> Batch:
        """The samples with the least loss, averaged over some corruptions."""
        total = sum(model.losses(params, model.corrupt(made, rng)) for _ in range(JUDGED))
        assert isinstance(total, Tensor)
        best = total.topk(min(self.samples_per_task, num_rows(made)), largest=False).indices
        return rows(made, best.sort().values)

    def state(self) -> dict[str, Tensor]:
        """The pool and the teacher."""
        return {} if self.teacher is None else {"teacher": self.teacher, **self.pool.state()}

    def restore(self, state: dict[str, Tensor]) -> GeneratedReplay:
        """The replay saved as ``state``.

        Raises:
            ValueError: the state has a teacher and this replay needs none, or the other way round.
        """
        if state and ("teacher" in state) != self.has_teacher:
            wanted, got = ("a teacher", "predictions") if self.has_teacher else ("predictions", "a teacher")
            raise ValueError(
                f"the saved state must hold generated samples and {wanted}, got samples and {got}; "
                "resume with the method that the run began with"
            )
        return replace(self, pool=Pool.restored(state), teacher=state.get("teacher"))


@dataclass(frozen=True)
class DarkGeneratedReplay(GeneratedReplay):
    """Samples that are generated once, each with corruptions of it and what the model of that time said of those.

    Kept samples are no copies of copies, but where the previous model is the teacher, their targets still are: it has
    learned what it says of the first task from models that had learned it from others. Here nothing handed down stands
    between a task's own model and the student, and a step needs no teacher's prediction. As much memory as two pools.

    Attributes:
        draws: corruptions kept of each sample.
        recall: what they ask for: ``all`` that was learned, or ``use``: what the model does when it is used, for it is
            never to generate these samples again.
        fresh: the newest task's samples as they were made, for whoever judges them before the next task's first step.
        apart: share of a task's samples that is held out and never learned from; [0, 1). Where they are few, each is
            kept under several corruptions, up to as many rows as are learned from.
        watched: the samples held out.
    """

    kept: bool = True
    draws: int = 1
    recall: str = "all"
    fresh: Batch = field(default_factory=dict)
    apart: float = 0.0
    watched: Pool = field(default_factory=Pool)

    has_teacher = False
    memory = "`replay_samples` x `replay_draws` corrupted samples a task that it makes, with predictions"

    def __post_init__(self) -> None:
        """Check the options once."""
        super().__post_init__()
        if self.draws < 1:
            raise ValueError(f"replay_draws must be >= 1, got {self.draws}")
        if self.recall not in RECALLS:
            raise ValueError(f"replay_recall must be one of {', '.join(RECALLS)}, got {self.recall!r}")
        if not 0 <= self.apart < 1:
            raise ValueError(f"replay_apart must be in [0, 1), got {self.apart}")
        if self.apart and self.samples_per_task < 2:
            raise ValueError(f"replay_samples must be >= 2 where some are held out, got {self.samples_per_task}")

    def before_step(self, request: Request) -> Replay:
        """Without the samples that are not corrupted: learning has no use for them."""
        return replace(self, fresh={}) if self.fresh else self

    def draw(self, request: Request) -> Batch | None:
        """Corruptions of made samples with the predictions of their time."""
        return self.pool.pick(request) if self.num_tasks else None

    def after_task(self, learned: Learned) -> Replay:
        """Let the model of this moment make samples of the task just learned, and say what it predicts on them."""
        if learned.revisited:
            return self
        maker = self._maker(learned)
        (made,) = self._made(maker, learned.model, learned.layout, learned.streams, (learned.task,))
        watched, share = self.watched, max(1, round(self.apart * num_rows(made))) if self.apart else 0
        learnt = remembered(learned, maker, [rows(made, slice(share, None))] * self.draws, self.recall)
        if share:
            draws = max(1, min(round(num_rows(learnt) / share), -(-WATCHED // share)))
            held = [rows(made, slice(share))] * draws
            watched = watched.joined(remembered(learned, maker, held, self.recall))
        return replace(self, pool=self.pool.joined(learnt), fresh=made, watched=watched)

    def held_out(self, request: Request) -> Batch | None:
        """Corruptions of the samples held out with the predictions of their time."""
        return self.watched.pick(request, "replay/held_out") if self.watched.num_tasks else None

    def state(self) -> dict[str, Tensor]:
        """The pools and what has just been made."""
        watched = {f"watched/{key}": leaf for key, leaf in self.watched.state().items()}
        return {**self.pool.state(), **watched, **{f"fresh/{key}": leaf for key, leaf in self.fresh.items()}}

    def restore(self, state: dict[str, Tensor]) -> GeneratedReplay:
        """The replay saved as ``state``.

        Raises:
            ValueError: the state has a teacher.
        """
        fresh, watched = (
            {key.removeprefix(part): leaf for key, leaf in state.items() if key.startswith(part)}
            for part in ("fresh/", "watched/")
        )
        return replace(self, pool=super().restore(state).pool, fresh=fresh, watched=Pool.restored(watched))


def _rehearsed(task: Task, params: dict[str, Tensor], count: int, rng: torch.Generator) -> Batch:
    if task.rehearse is None:
        raise ValueError(f"replay by rehearsal needs tasks that can be done at will, got {task.name}, which can't")
    return task.rehearse(params, count, rng)
