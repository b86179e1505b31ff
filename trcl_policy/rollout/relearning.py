"""How old tasks fare while later ones are learned, in success and held-out loss: dips, and the times to come back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from trcl_policy.continual.metrics import Curve
from trcl_policy.continual.recovery import LEVELS, Dip, Survival, dip, kaplan_meier, reconvergence

LEVEL = 0.9
HELD = 3
Matrix = Sequence[Sequence[float | None]]


def curves_document(curves: Sequence[Sequence[Curve]], names: Sequence[str], what: str = "scores") -> dict[str, Any]:
    """Curves [k][i] as {task i: {while learning k: {updates, ``what``}}}, empty ones left out."""
    found: dict[str, Any] = {}
    for row, learned in zip(curves, names, strict=True):
        for curve, name in zip(row, names, strict=False):
            if curve:
                found.setdefault(name, {})[learned] = {"updates": list(curve), what: list(curve.values())}
    return found


def relearning(
    curves: Sequence[Sequence[Curve]], scores: Matrix, names: Sequence[str], higher_is_better: bool = True
) -> dict[str, Any]:
    """Dips and times to come back, of every (old task, later task) with evaluations inside the later task.

    Args:
        curves: [k][i] of task i while task k is learned, {update: score}.
        scores: T x T; the diagonal is the reference.
        names: the T visits; while a task is learned again it is not an old one, and after that only its last visit is.
            A task that was at 0 when its learning ended has nothing to come back to and is left out.
        higher_is_better: False for losses.

    Returns:
        ``level`` and ``held``; ``pairs`` {old: {later: ``Dip``}}; two survival tables over all pairs, null without
        pairs: ``first_passage`` {level: from the switch to the first evaluation at the target, as published, but a pair
        that never gets there is censored at its last evaluation} for levels .99, .9 and .8, and ``from_bottom``, for
        the pairs that dropped below ``level``: from the worst evaluation to the first of ``held`` in a row at the
        target.
    """
    dips: dict[str, dict[str, Any]] = {}
    first: dict[str, list[tuple[int, bool]]] = {f"{level:g}": [] for level in LEVELS}
    bottoms: list[tuple[int, bool]] = []
    for old, new in _pairs(names):
        curve, reference = curves[new][old], scores[old][old]
        if not reference or sum(step >= 1 for step in curve) < 2:
            continue
        found = dip(curve, reference, LEVEL, HELD, higher_is_better)
        dips.setdefault(names[old], {})[names[new]] = asdict(found)
        for level, spell in first_passages(curve, reference, higher_is_better).items():
            first[level].append(spell)
        bottoms += [found.spell()] if found.dropped else []
    return {
        "level": LEVEL,
        "held": HELD,
        "pairs": dips,
        "first_passage": {level: survival_document(spells) for level, spells in first.items()},
        "from_bottom": survival_document(bottoms),
    }


def _pairs(names: Sequence[str]) -> Iterator[tuple[int, int]]:
    """(last visit of an old task, later visit of another task)."""
    tasks = [name.split("#")[0] for name in names]
    for new in range(len(names)):
        for old in range(new):
            if tasks[old] != tasks[new] and tasks[old] not in tasks[old + 1 : new]:
                yield old, new


def first_passages(curve: Curve, reference: float, higher_is_better: bool = True) -> dict[str, tuple[int, bool]]:
    """(updates, whether the target was reached) by level; never is censored at the last evaluation."""
    reached = reconvergence(curve, reference, LEVELS, higher_is_better)
    return {level: (max(curve), False) if step is None else (step, True) for level, step in reached.items()}


def survival_document(spells: Sequence[tuple[int, bool]]) -> dict[str, Any] | None:
    """A Kaplan-Meier table with median, restricted mean and its standard error; None without spells."""
    if not spells:
        return None
    table = kaplan_meier(spells)
    mean, error = table.restricted_mean()
    return {
        **asdict(table),
        "spells": [list(spell) for spell in spells],
        "median": table.median(),
        "restricted_mean": mean,
        "restricted_mean_se": error,
    }


def survival_of(document: Mapping[str, Any]) -> Survival:
    """The table behind a :func:`survival_document`."""
    return kaplan_meier([(time, happened) for time, happened in document["spells"]])


def dip_of(document: Mapping[str, Any]) -> Dip:
    """The dip behind an entry of ``pairs``."""
    return Dip(**document)


def loss_retention(log: Iterable[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Held-out losses of a run, from its ``log.jsonl``.

    Returns:
        ``losses`` T x T (row k: after task k; null where not measured); ``loss_curves`` {task: {while learning:
        {updates, losses}}}; ``loss_recovery`` as :func:`relearning` has it, with the target at loss R / .9.
    """
    size = len(names)
    curves: list[list[dict[int, float]]] = [[{} for _ in range(k + 1)] for k in range(size)]
    losses: list[list[float | None]] = [[None] * size for _ in names]
    for record in log:
        held_out = record.get("held_out_loss")
        if not held_out:
            continue
        row = names.index(record["task"]) if record["task"] in names else size - 1  # a joint run has one task: the last
        for column in range(row + 1):
            loss = held_out.get(names[column].split("#")[0])
            if loss is None:
                continue
            curves[row][column][record["step"]] = loss
            if record.get("learned"):
                losses[row][column] = loss
    for row in range(1, size):  # before update 1 old tasks stand as the last task left them
        for column in range(row):
            before = losses[row - 1][column]
            if curves[row][column] and before is not None:
                curves[row][column] = {0: before, **curves[row][column]}
    return {
        "losses": losses,
        "loss_curves": curves_document(curves, names, "losses"),
        "loss_recovery": relearning(curves, losses, names, higher_is_better=False),
    }
