"""The knob that each method is tuned by, and the values that are tried: five for every method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WEIGHT = ("method.weight", (1.0, 10.0, 100.0, 1000.0, 10000.0))
GENTLE = ("method.weight", (0.01, 0.1, 1.0, 10.0, 100.0))
REHEARSAL = ("method.replay_weight", (0.25, 0.5, 1.0, 2.0, 4.0))
INNER = ("method.inner_rate", (0.001, 0.003, 0.01, 0.03, 0.1))
RISE = ("method.rise", (0.02, 0.05, 0.1, 0.2, 0.5))
KNOBS: dict[str, tuple[str, tuple[float, ...]]] = {
    **dict.fromkeys(("l2", "ewc", "ewc_online", "ewc_rank1", "ewc_lowrank", "ewc_kfac", "si", "mas"), WEIGHT),
    **dict.fromkeys(("er", "er_distill", "lwf", "replay", "replay_plain", "replay_rollout", "tdgr"), REHEARSAL),
    **dict.fromkeys(("replay_kept", "replay_kept_plain", "replay_dark"), REHEARSAL),
    **dict.fromkeys(("ftml", "vrmcl", "mer", "lamaml"), INNER),
    **dict.fromkeys(("ftml_distill", "vrmcl_distill", "mer_distill", "lamaml_distill"), INNER),
    **dict.fromkeys(
        ("trcl_kfac", "trcl_rank1", "trcl_diag", "trcl_lowrank", "trcl_mixed", "trcl_prox"),
        GENTLE,
    ),
    **dict.fromkeys(("trcl_fixed", "trcl_kept", "trcl_kept_prox"), GENTLE),
    **dict.fromkeys(("trcl_kfac_plain", "trcl_diag_plain", "trcl_prox_plain"), GENTLE),
    **dict.fromkeys(("trcl", "replay_dual", "trcl_ball", "trcl_dual"), RISE),
    "agem": ("method.replay_ratio", (0.25, 0.5, 1.0, 2.0, 4.0)),
    "packnet": ("method.packnet_search", (0.3, 0.45, 0.6, 0.75, 0.9)),
}
"""The knob of each method and its five trials. Beside replay the trust region is tried from weak on, alone from 1 on
(docs/knob.md); with all else equal, a replayed sample costs every method the same."""
UNTUNED = ("finetune", "joint", "alone")
COMPARED = ("ewc", "ewc_rank1", "ewc_kfac", "replay", "replay_plain", "replay_kept", "er", "ftml", "vrmcl")
COMPARED += ("trcl", "trcl_fixed", "trcl_kfac", "trcl_rank1", "trcl_diag", "trcl_prox", "trcl_kept_prox")


def knob_of(method: str, config: Mapping[str, Any]) -> str | None:
    """The value that a run's configuration gives the method's knob, such as ``weight 10``; None for one without."""
    if method not in KNOBS:
        return None
    name = KNOBS[method][0].removeprefix("method.")
    return f"{name.replace('_', ' ')} {config['method'][name]:g}"
