"""The one table from published names to compositions of update, anchor and replay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trcl_policy.continual.anchor import Anchor, FisherAnchor, NoAnchor
from trcl_policy.continual.learner import Method
from trcl_policy.continual.replay import GeneratedReplay, NoReplay, Replay, StoredReplay
from trcl_policy.continual.update import Ball, Penalty, Projected, Proximal, Update


@dataclass(frozen=True)
class Options:
    """The knobs of all methods; a method reads those it has.

    Attributes:
        weight: scale-free weight of the trust region: 1 charges the expected rise of the average old loss.
        raw_lambda: the published lambda, on plain summed Fishers, instead of ``weight``.
        fisher_samples: samples for the Fisher of each task.
        rank: largest eigenpairs of each task's Fisher that are kept (ewc_lowrank, trcl_lowrank).
        replay_weight: beta, weight of the replayed loss.
        replay_ratio: replayed samples per new sample in a step.
        replay_samples: samples generated for each old task.
        memory: real samples stored of each old task (er, agem).
        radius: radius of the hard trust region [Fisher length].
        proximal_speed: proximal step per learning rate.
    """

    weight: float = 1.0
    raw_lambda: float | None = None
    fisher_samples: int = 1024
    rank: int = 16
    replay_weight: float = 1.0
    replay_ratio: float = 1.0
    replay_samples: int = 2000
    memory: int = 256
    radius: float = 0.1
    proximal_speed: float = 100.0


@dataclass(frozen=True)
class Recipe:
    """One row of the table.

    Attributes:
        summary: one line for people.
        source: where it was published.
        update, anchor, replay: names of the parts, keys of the tables below.
        joint: learns all tasks at once.
    """

    summary: str
    source: str
    update: str = "penalty"
    anchor: str = "none"
    replay: str = "none"
    joint: bool = False

    def build(self, options: Options) -> Method:
        """The method with its knobs set."""
        return Method(
            update=UPDATES[self.update](options),
            anchor=ANCHORS[self.anchor](options),
            replay=REPLAYS[self.replay](options),
            replay_weight=options.replay_weight,
            replay_ratio=options.replay_ratio,
            joint=self.joint,
        )


def _anchor(kind: str) -> Callable[[Options], Anchor]:
    return lambda o: FisherAnchor(
        kind, weight=o.weight, raw_lambda=o.raw_lambda, num_samples=o.fisher_samples, rank=o.rank
    )


UPDATES: dict[str, Callable[[Options], Update]] = {
    "penalty": lambda o: Penalty(),
    "proximal": lambda o: Proximal(o.proximal_speed),
    "ball": lambda o: Ball(o.radius),
    "projected": lambda o: Projected(),
}
ANCHORS: dict[str, Callable[[Options], Anchor]] = {
    "none": lambda o: NoAnchor(),
    "isotropic": _anchor("isotropic"),
    "diagonal": _anchor("diagonal"),
    "rank1": _anchor("rank1"),
    "lowrank": _anchor("lowrank"),
}
REPLAYS: dict[str, Callable[[Options], Replay]] = {
    "none": lambda o: NoReplay(),
    "stored": lambda o: StoredReplay(o.memory),
    "generated": lambda o: GeneratedReplay(o.replay_samples, distill=False),
    "distilled": lambda o: GeneratedReplay(o.replay_samples, distill=True),
}

TRCL = "Wang, Gupta, MacLellan 2026, arXiv 2602.02417"
METHODS: dict[str, Recipe] = {
    "finetune": Recipe("Each task in turn, nothing held (lower bound)", "baseline"),
    "joint": Recipe("All tasks at once, same number of steps in total (upper bound)", "baseline", joint=True),
    "l2": Recipe("Isotropic penalty around old weights", "control for ewc", anchor="isotropic"),
    "ewc": Recipe("Diagonal Fisher penalty", "Kirkpatrick et al. 2017", anchor="diagonal"),
    "ewc_rank1": Recipe("Fisher penalty along the mean gradient", "arXiv 2509.23593", anchor="rank1"),
    "ewc_lowrank": Recipe("Fisher penalty along its largest eigenvectors", "ours", anchor="lowrank"),
    "er": Recipe("Experience replay from stored samples", "Chaudhry et al. 2019", replay="stored"),
    "agem": Recipe("Gradient projected against stored samples", "Chaudhry et al. 2019", "projected", replay="stored"),
    "replay": Recipe("Generated replay, teacher's predictions distilled", TRCL, replay="distilled"),
    "replay_plain": Recipe("Generated replay, ordinary loss", "Shin et al. 2017", replay="generated"),
    "trcl": Recipe(
        "Distilled generated replay with a diagonal Fisher trust region", TRCL, "penalty", "diagonal", "distilled"
    ),
    "trcl_rank1": Recipe("TRCL as published: rank-1 Fisher penalty", TRCL, "penalty", "rank1", "distilled"),
    "trcl_lowrank": Recipe(
        "TRCL along the largest eigenvectors of the Fisher", "ours", "penalty", "lowrank", "distilled"
    ),
    "trcl_prox": Recipe("TRCL with a proximal step after the optimiser's", "ours", "proximal", "diagonal", "distilled"),
    "trcl_ball": Recipe("TRCL with a hard ball", TRCL + ", constrained form", "ball", "diagonal", "distilled"),
}


def make_method(name: str, options: Options | None = None) -> Method:
    """The method called ``name`` with the given knobs.

    Raises:
        ValueError: the name is not in the table.
    """
    if name not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {name!r}")
    return METHODS[name].build(options or Options())
