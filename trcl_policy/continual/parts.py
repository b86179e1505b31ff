"""The parts that methods are composed of, by name, and the knobs that set them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trcl_policy.continual.anchor import Anchor, FisherAnchor, NoAnchor
from trcl_policy.continual.constrained import Dual
from trcl_policy.continual.generated import DarkGeneratedReplay, GeneratedReplay
from trcl_policy.continual.lookahead import LearnedRates, MetaLeader, Reptile, VarianceReduced
from trcl_policy.continual.packing import Packed
from trcl_policy.continual.path import PathAnchor
from trcl_policy.continual.replay import DarkReplay, InputReplay, NoReplay, Replay, StoredReplay
from trcl_policy.continual.update import Ball, Penalty, Projected, Proximal, Update


@dataclass(frozen=True)
class Options:
    """The knobs of all methods; a method reads those it has.

    Attributes:
        weight: scale-free weight of the trust region: 1 charges the expected rise of the average old loss. trcl and
            trcl_dual begin every task with it and find their own from there; at 0 they stay without.
        raw_lambda: the published lambda, on plain summed Fishers, instead of ``weight``.
        fisher_samples: samples for the Fisher of each task.
        noise_range: noise levels (low, high] in [0, 1] whose samples make the Fisher.
        rank: largest eigenpairs of each task's Fisher that are kept (ewc_lowrank, trcl_lowrank, trcl_mixed).
        keep_anchors: ``merged`` exactly, ``separate`` for each task, or ``compressed`` to ``rank`` eigenpairs in all.
        online_decay: what remains of the older Fisher when a task is added (ewc_online).
        si_damping: added to the squared way of each weight (si).
        rise: share of the average old loss by which it may rise (trcl, trcl_ball, trcl_dual, replay_dual).
        dual_speed: speed of the multiplier (trcl, trcl_dual, replay_dual).
        replay_weight: beta, weight of the replayed loss.
        replay_ratio: replayed samples per new sample in a step.
        replay_samples: samples generated for each old task.
        replay_keep: share of the generated samples that is kept, the best by the teacher's own loss.
        replay_apart: share of the generated samples on which the old loss is watched and that are never learned from
            (trcl; none where weight is 0).
        replay_draws: corruptions kept of each generated sample, with predictions (replay_dark, trcl, trcl_fixed).
        replay_recall: what these remind of: ``all`` that was learned, or ``use``, acting alone (the same).
        replay_refresh: updates after which the samples are generated anew within a task; 0 for never.
            Methods that generate once have no such knob.
        teacher: weights that generate and teach, ``ema`` or ``raw``.
        memory: real samples stored of each old task.
        dark_draws: corruptions kept of each stored sample (er_distill).
        packnet_search: share of a task's steps before its weights are chosen (packnet).
        inner_rate: rate of the inner steps of meta-learning.
        inner_steps: inner steps (mer, lamaml).
        second_order: differentiate through the inner step (ftml, vrmcl).
        vr_momentum: momentum of the variance-reduced gradient (vrmcl).
        rate_speed: how far the rates of weights move in a step, as a share of the first (lamaml).
    """

    weight: float = 1.0
    raw_lambda: float | None = None
    fisher_samples: int = 1024
    noise_range: tuple[float, float] = (0.0, 1.0)
    rank: int = 16
    keep_anchors: str = "merged"
    online_decay: float = 0.9
    si_damping: float = 1e-3
    rise: float = 0.1
    dual_speed: float = 0.05
    replay_weight: float = 1.0
    replay_ratio: float = 1.0
    replay_samples: int = 2000
    replay_keep: float = 1.0
    replay_apart: float = 0.125
    replay_draws: int = 1
    replay_recall: str = "all"
    replay_refresh: int = 0
    teacher: str = "ema"
    memory: int = 256
    dark_draws: int = 8
    packnet_search: float = 0.6
    inner_rate: float = 0.01
    inner_steps: int = 4
    second_order: bool = True
    vr_momentum: float = 0.9
    rate_speed: float = 0.01


def _fisher(kind: str, keep: str | None = None) -> Callable[[Options], Anchor]:
    return lambda o: FisherAnchor(
        kind,
        weight=o.weight,
        raw_lambda=o.raw_lambda,
        num_samples=o.fisher_samples,
        rank=o.rank,
        keep=keep or o.keep_anchors,
        decay=o.online_decay,
        noise_range=o.noise_range,
    )


def _pulls(options: Options) -> bool:
    """Whether there is a trust region whose strength could be found."""
    return (options.weight if options.raw_lambda is None else options.raw_lambda) != 0


def _generated(distilled: bool, source: str = "generated", kept: bool = False) -> Callable[[Options], Replay]:
    return lambda o: GeneratedReplay(
        o.replay_samples,
        distilled=distilled,
        source=source,
        weights=o.teacher,
        keep=o.replay_keep,
        refresh=0 if kept else o.replay_refresh,
        kept=kept,
    )


def _dark(options: Options, apart: float = 0.0) -> Replay:
    return DarkGeneratedReplay(
        options.replay_samples,
        weights=options.teacher,
        keep=options.replay_keep,
        draws=options.replay_draws,
        recall=options.replay_recall,
        apart=apart,
    )


UPDATES: dict[str, Callable[[Options], Update]] = {
    "penalty": lambda o: Penalty(),
    "proximal": lambda o: Proximal(),
    "proximal_sparse": lambda o: Proximal(every=10),
    "ball": lambda o: Ball(o.rise),
    "dual": lambda o: Dual("replay", o.rise, o.dual_speed),
    "dual_anchor": lambda o: Dual("anchor", o.rise, o.dual_speed),
    "dual_penalty": lambda o: Dual("penalty", o.rise, o.dual_speed, held_out=True, recall=o.replay_recall),
    "projected": lambda o: Projected(),
    "packed": lambda o: Packed(o.packnet_search),
    "leader": lambda o: MetaLeader(o.inner_rate, o.second_order),
    "reduced": lambda o: VarianceReduced(o.inner_rate, o.second_order, o.vr_momentum),
    "reptile": lambda o: Reptile(o.inner_rate, inner_steps=o.inner_steps),
    "rates": lambda o: LearnedRates(o.inner_rate, inner_steps=o.inner_steps, rate_speed=o.rate_speed),
}
LOOKS_AHEAD = ("leader", "reduced")
"""Updates that differentiate through a step."""
ANCHORS: dict[str, Callable[[Options], Anchor]] = {
    "none": lambda o: NoAnchor(),
    "isotropic": _fisher("isotropic"),
    "diagonal": _fisher("diagonal"),
    "rank1": _fisher("rank1"),
    "lowrank": _fisher("lowrank"),
    "mixed": _fisher("diagonal_lowrank"),
    "kronecker": _fisher("kronecker"),
    "online": _fisher("diagonal", keep="online"),
    "sensitivity": _fisher("mas"),
    "path": lambda o: PathAnchor(o.weight, o.si_damping),
}
REPLAYS: dict[str, Callable[[Options], Replay]] = {
    "none": lambda o: NoReplay(),
    "stored": lambda o: StoredReplay(o.memory),
    "dark": lambda o: DarkReplay(o.memory, draws=o.dark_draws),
    "inputs": lambda o: InputReplay(),
    "generated": _generated(distilled=False),
    "distilled": _generated(distilled=True),
    "rehearsed": _generated(distilled=True, source="rehearsed"),
    "kept": _generated(distilled=True, kept=True),
    "kept_plain": _generated(distilled=False, kept=True),
    "kept_dark": _dark,
    "kept_watched": lambda o: _dark(o, o.replay_apart if _pulls(o) else 0.0),
}
