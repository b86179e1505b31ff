"""The one table from published names to compositions of update, anchor and replay."""

from __future__ import annotations

from dataclasses import dataclass

from trcl_policy.continual.anchor import Anchor
from trcl_policy.continual.generated import GeneratedReplay
from trcl_policy.continual.learner import Method
from trcl_policy.continual.parts import ANCHORS, REPLAYS, UPDATES, Options
from trcl_policy.continual.replay import Replay
from trcl_policy.continual.update import Update

__all__ = ["ANCHORS", "METHODS", "REPLAYS", "UPDATES", "Options", "Recipe", "make_method"]


@dataclass(frozen=True)
class Recipe:
    """One row of the table.

    Attributes:
        summary: one line for people.
        source: where it was published.
        update, anchor, replay: names of the parts, keys of the tables in parts.py.
        joint: learns all tasks at once.
        alone: begins every task with the first weights.
        guided: needs samples that tell how far along their sequence they are, and a model that generates by that.
    """

    summary: str
    source: str
    update: str = "penalty"
    anchor: str = "none"
    replay: str = "none"
    joint: bool = False
    alone: bool = False
    guided: bool = False

    def build(self, options: Options) -> Method:
        """The method with its knobs set."""
        return Method(
            update=UPDATES[self.update](options),
            anchor=ANCHORS[self.anchor](options),
            replay=REPLAYS[self.replay](options),
            replay_weight=options.replay_weight,
            replay_ratio=options.replay_ratio,
            joint=self.joint,
            alone=self.alone,
        )

    @property
    def makes_up(self) -> bool:
        """Whether the model makes up all of an old sample, what it sees included."""
        replay = REPLAYS[self.replay](Options())
        return isinstance(replay, GeneratedReplay) and replay.source == "generated"

    def memory(self, options: Options) -> str:
        """What the method keeps of old tasks, in words; a vector has as many numbers as there are weights."""
        method = self.build(options)
        parts: tuple[Anchor | Update | Replay, ...] = (method.anchor, method.update, method.replay)
        return "; ".join(part.memory for part in parts if part.memory != "nothing") or "nothing"


KIRKPATRICK, R1F = "Kirkpatrick et al. 2017", "arXiv 2509.23593"
RITTER = "Ritter, Botev, Barber 2018"
CHAUDHRY, SHIN, TRCL = "Chaudhry et al. 2019", "Shin et al. 2017", "arXiv 2602.02417"
FINN, WU, RIEMER, GUPTA = "Finn et al. 2019", "Wu et al. 2024", "Riemer et al. 2019", "Gupta et al. 2020"
OURS = "ours"

METHODS: dict[str, Recipe] = {
    # bounds and controls
    "finetune": Recipe("Each task in turn, nothing held (lower bound)", "baseline"),
    "joint": Recipe("All tasks at once, same number of steps in total (upper bound)", "baseline", joint=True),
    "alone": Recipe("Each task from the first weights (reference for forward transfer)", "baseline", alone=True),
    "l2": Recipe("Isotropic penalty around old weights", "control for ewc", anchor="isotropic"),
    # weights held
    "ewc": Recipe("Diagonal Fisher penalty", KIRKPATRICK, anchor="diagonal"),
    "ewc_online": Recipe("One running Fisher around the latest weights", "Schwarz et al. 2018", anchor="online"),
    "ewc_rank1": Recipe("Fisher penalty along the mean gradient", R1F, anchor="rank1"),
    "ewc_lowrank": Recipe("Fisher penalty along its largest eigenvectors", OURS, anchor="lowrank"),
    "ewc_kfac": Recipe("Fisher penalty of Kronecker products a layer", RITTER, anchor="kronecker"),
    "si": Recipe("Penalty by each weight's share in the falling loss", "Zenke et al. 2017", anchor="path"),
    "mas": Recipe("Penalty by the sensitivity of the predictions", "Aljundi et al. 2018", anchor="sensitivity"),
    "packnet": Recipe("Every task gets weights of its own", "Mallya, Lazebnik 2018", update="packed"),
    # data kept or made
    "er": Recipe("Experience replay from stored samples", CHAUDHRY, replay="stored"),
    "er_distill": Recipe("Stored samples with the predictions of their time", "Buzzega et al. 2020", replay="dark"),
    "agem": Recipe("Gradient projected against stored samples", CHAUDHRY, "projected", replay="stored"),
    "lwf": Recipe("Previous model's predictions on new samples", "Li, Hoiem 2016", replay="inputs"),
    "replay": Recipe("Generated replay, teacher's predictions distilled", TRCL, replay="distilled"),
    "replay_plain": Recipe("Generated replay, ordinary loss", SHIN, replay="generated"),
    "replay_rollout": Recipe("The previous model does the old tasks; distilled", TRCL, replay="rehearsed"),
    "replay_kept": Recipe("Generated once, by the model that just learned the task; distilled", OURS, replay="kept"),
    "replay_kept_plain": Recipe("The same, ordinary loss", OURS, replay="kept_plain"),
    "replay_dark": Recipe("Generated once, with the predictions of that time", OURS, replay="kept_dark"),
    "replay_dual": Recipe("Distilled replay weighed to meet a target for its loss", OURS, "dual", replay="distilled"),
    "tdgr": Recipe("Generated replay, evenly over time", "Yue et al. 2024", replay="generated", guided=True),
    # meta-learning: as published with stored samples, then with the distilled replay that the others have
    "ftml": Recipe("Follow the meta leader: every task judged after an inner step", FINN, "leader", replay="stored"),
    "ftml_distill": Recipe("The same on distilled generated replay", FINN, "leader", replay="distilled"),
    "vrmcl": Recipe("Memory judged after an inner step, variance reduced", WU, "reduced", replay="stored"),
    "vrmcl_distill": Recipe("The same on distilled generated replay", WU, "reduced", replay="distilled"),
    "mer": Recipe("Reptile through new and stored samples", RIEMER, "reptile", replay="stored"),
    "mer_distill": Recipe("The same on distilled generated replay", RIEMER, "reptile", replay="distilled"),
    "lamaml": Recipe("A learned rate for every weight", GUPTA, "rates", replay="stored"),
    "lamaml_distill": Recipe("The same on distilled generated replay", GUPTA, "rates", replay="distilled"),
    # trust region and distilled replay
    "trcl": Recipe(
        "Kronecker-factored Fisher penalty on replay_dark, as strong as samples held out ask for",
        OURS,
        "dual_penalty",
        "kronecker",
        "kept_watched",
    ),
    "trcl_fixed": Recipe("The same, as strong as its weight says", OURS, "penalty", "kronecker", "kept_dark"),
    "trcl_kept": Recipe("Kronecker-factored Fisher penalty on replay_kept", OURS, "penalty", "kronecker", "kept"),
    "trcl_kept_prox": Recipe(
        "The same, a proximal step after every ten of the optimiser's", OURS, "proximal_sparse", "kronecker", "kept"
    ),
    "trcl_rank1": Recipe("As published: Fisher penalty along the mean gradient", TRCL, "penalty", "rank1", "distilled"),
    "trcl_kfac": Recipe("Kronecker-factored Fisher penalty on replay", OURS, "penalty", "kronecker", "distilled"),
    "trcl_diag": Recipe("Diagonal Fisher penalty", OURS, "penalty", "diagonal", "distilled"),
    "trcl_lowrank": Recipe("Penalty along the largest eigenvectors", OURS, "penalty", "lowrank", "distilled"),
    "trcl_mixed": Recipe("Diagonal and low-rank Fisher penalty", OURS, "penalty", "mixed", "distilled"),
    "trcl_prox": Recipe("Diagonal, a proximal step after the optimiser's", OURS, "proximal", "diagonal", "distilled"),
    "trcl_kfac_plain": Recipe("trcl_kfac on ordinary replay", "control", "penalty", "kronecker", "generated"),
    "trcl_diag_plain": Recipe("trcl_diag on ordinary replay", "control", "penalty", "diagonal", "generated"),
    "trcl_prox_plain": Recipe("trcl_prox on ordinary replay", "control", "proximal", "diagonal", "generated"),
    "trcl_ball": Recipe("Diagonal, a hard ball", TRCL + ", constrained form", "ball", "diagonal", "distilled"),
    "trcl_dual": Recipe("Proximal, to meet a target for the old loss", OURS, "dual_anchor", "diagonal", "distilled"),
}


def make_method(name: str, options: Options | None = None) -> Method:
    """The method called ``name`` with the given knobs.

    Raises:
        ValueError: the name is not in the table.
    """
    if name not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {name!r}")
    return METHODS[name].build(options or Options())
