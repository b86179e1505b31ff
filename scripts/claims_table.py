"""The paper's claims, one a row, with what our paired differences say of each: holds, refuted, undecided or open."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from results_tables import (
    Measure,
    average_final,
    best_form,
    by_seed,
    forgetting,
    higher_is_better,
    learned,
    paired,
    probe_time,
)
from stored import Results

from trcl_policy.report.tables import NONE, Table, interval, number

PUBLISHED_FORM = "trcl_rank1"
COPIES = "copies"
"""Fine-tuning that keeps a copy of its policy for every task; see with_copies."""
UNSAID = {"scores": [[None]], "losses": None, "forgetting": None, "forgetting_old": None}
RIVALS = ("finetune", "ewc_rank1", "replay", "ftml", "vrmcl")
"""Whom the paper compares its method with."""
MORE_RIVALS = ("trcl", "trcl_fixed", "ewc", "ewc_online", "ewc_kfac", "l2", "si", "mas", "packnet", "lwf", "agem")
MORE_RIVALS += ("replay_plain", "replay_kept", "replay_dark", "er", "er_distill", "ftml_distill", "vrmcl_distill")
MORE_RIVALS += ("mer", "lamaml", "tdgr", COPIES, "joint")
"""Whom it should have been compared with as well; where they have results."""
OURS = ("trcl_fixed", "trcl_kept", "replay_kept", "replay_dark")
"""What else of ours is put to the same questions: a weight that is given, a teacher, no trust region."""
CLAIMS: tuple[tuple[str, Measure, int | None, bool], ...] = (
    ("ends better than", average_final, 0, False),
    ("forgets less than", forgetting, 1, True),
    ("brings old tasks back in fewer updates than", probe_time, None, True),
    ("right after learning is better than", learned, None, False),
)
"""Words, measure, place of the published pair (None: not comparable), and whether smaller is always better. The last is
no claim of the paper but the price."""
PUBLISHED_CLAIMS = CLAIMS[:3]
BRIEF = (PUBLISHED_FORM, "trcl", "trcl_fixed", "replay_dark")
"""Forms of the short table: as published, our default, the same with a weight that it is given, and without any."""
SIDES = {"**holds**": "**yes**:", "**refuted**": "**no**:", "undecided": "undecided:", "open": "too few seeds:"}
"""What a verdict says where rivals are listed."""
LEAST_SEEDS = 3
"""With fewer pairs nothing is decided."""


def claims_table(
    bench: str, published: Mapping[str, Any], domain: str, found: Mapping[str, Results], brief: bool = False
) -> Table:
    """The claims on one benchmark: of the form as published, our default, the best of ours and OURS, if stored.

    Args:
        bench: name of the benchmark.
        published: ``final`` of published.json.
        domain: column of the published figures, ``cw10`` or ``imagenet500``.
        found: stored results by method.
        brief: only what the paper claims, against whom it claims it, of the forms in BRIEF.
    """
    found = with_copies(found)
    names = BRIEF if brief else (PUBLISHED_FORM, "trcl", best_form(found), *OURS)
    forms = dict.fromkeys(form for form in names if form in found)
    more_rivals = () if brief else tuple(name for name in MORE_RIVALS if name in found)
    rows = []
    for words, measure, place, smaller in PUBLISHED_CLAIMS if brief else CLAIMS:
        lower = smaller or not higher_is_better(found)
        is_share = measure is not probe_time and higher_is_better(found)
        tenths = measure is probe_time or is_share
        for rival in (*RIVALS, *more_rivals):
            cells = [
                NONE
                if form == rival
                else judged(found, form, rival, measure, -1 if lower else 1, 100.0 if is_share else 1.0, tenths)
                for form in forms
            ]
            pair = published_difference(published, rival, domain, place)
            told = NONE if pair is None else f"{pair[0]:+.1f} ± {pair[1]:.1f}"
            if {told, *cells} != {NONE}:
                rows.append((f"{words} {rival}", told, *cells))
    unit = "points" if higher_is_better(found) else "distance"
    header = ("the form", f"published, {unit}", *(f"ours: {form}" for form in forms))
    return Table(f"Claims on {bench}", header, tuple(rows))


def with_copies(found: Mapping[str, Results]) -> dict[str, Results]:
    """The results with a bound on what memory can do: a copy of fine-tuning's policy for every task forgets nothing.

    Its tasks end where fine-tuning has them right after learning. Nothing is said of it but how it ends.
    """
    ends = by_seed(found.get("finetune", {}), learned)
    made = {
        seed: {"metrics": {**found["finetune"][seed]["metrics"], **UNSAID, "average_final": end}}
        for seed, end in ends.items()
    }
    return {**found, COPIES: made} if made else dict(found)


def verdicts_table(bench: str, found: Mapping[str, Results]) -> Table:
    """The paper's claims in a word each: whom every form in BRIEF beats, whom it loses to, and what is not settled."""
    better = 1 if higher_is_better(found) else -1
    rows = []
    for form in (name for name in BRIEF if name in found):
        cells = []
        for _, measure, _, smaller in PUBLISHED_CLAIMS:
            sides: dict[str, list[str]] = {word: [] for word in SIDES}
            for rival in RIVALS:
                pair = paired(found, form, rival, measure)
                if pair is not None:
                    sides[verdict(pair.interval, pair.num, -1 if smaller else better)].append(rival)
            cells.append(
                "; ".join(f"{SIDES[word]} {', '.join(names)}" for word, names in sides.items() if names) or NONE
            )
        rows.append((form, *cells))
    return Table(f"Claims on {bench}", ("the form", *(words for words, *_ in PUBLISHED_CLAIMS)), tuple(rows))


def judged(
    found: Mapping[str, Results],
    form: str,
    rival: str,
    measure: Measure,
    better: int,
    scale: float = 1.0,
    tenths: bool = False,
) -> str:
    """Verdict and paired difference ``form`` minus ``rival``; ``better`` is the sign that speaks for the form.

    Args:
        found: stored results by method.
        form: the method in question.
        rival: whom it is compared with.
        measure: what is compared.
        better: 1 or -1.
        scale: what a difference is multiplied by.
        tenths: whether differences are told to one decimal; to three digits otherwise.
    """
    pair = paired(found, form, rival, measure, scale)
    if pair is None:
        return NONE
    told = f"{pair.mean:+.1f}" if tenths else number(pair.mean, signed=True)
    if pair.interval is not None:
        bounds = "{:+.1f} to {:+.1f}".format(*pair.interval) if tenths else interval(pair.interval)
        told += f" ({bounds})"
    return f"{verdict(pair.interval, pair.num, better)}: {told}, {pair.num} seed{'s' * (pair.num > 1)}"


def verdict(bounds: tuple[float, float] | None, seeds: int, better: int) -> str:
    """One word on a claim, from the interval of the difference."""
    if bounds is None or seeds < LEAST_SEEDS:
        return "open"
    if bounds[0] <= 0 <= bounds[1]:
        return "undecided"
    return "**holds**" if better * bounds[0] > 0 else "**refuted**"


def published_difference(
    published: Mapping[str, Any], rival: str, domain: str, place: int | None
) -> tuple[float, float] | None:
    """Difference of the published means and the standard error of independent ones; None where nothing is published."""
    if place is None or rival not in published:
        return None
    pairs: list[Sequence[float]] = [published[name][domain][place] for name in (PUBLISHED_FORM, rival)]
    return pairs[0][0] - pairs[1][0], math.hypot(pairs[0][1], pairs[1][1])
