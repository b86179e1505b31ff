"""Tables about forgetting and coming back: transfer, held-out losses, dips, and the probe of ``trcl recover``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trcl_policy.report.runs import Run, all_tasks, short_name
from trcl_policy.report.tables import NONE, Table, number
from trcl_policy.rollout.relearning import dip_of, survival_of

TARGET = "90 % of the first score, for losses and distances 1 / 0.9 of it"


def relearning_tables(runs: Sequence[Run]) -> list[Table]:
    """The tables that the runs have data for."""
    tables = [transfer_table(runs), losses_table(runs), dips_table(runs), times_table(runs), probe_table(runs)]
    return [table for table in tables if table.rows]


def transfer_table(runs: Sequence[Run]) -> Table:
    """LIBERO's three numbers and Continual World's forward transfer, one run a row, where there is one."""
    rows = []
    for run in runs:
        three = run.metrics.get("libero") or {}
        values = [three.get("fwt"), three.get("nbt"), three.get("auc"), run.metrics.get("forward_transfer")]
        if any(value is not None for value in values):
            rows.append((run.label, *map(number, values)))
    header = ("method", "FWT (LIBERO)", "NBT (LIBERO)", "AUC (LIBERO)", "forward transfer (Continual World)")
    return Table("Transfer", header, tuple(rows))


def losses_table(runs: Sequence[Run]) -> Table:
    """Held-out loss of each task after the last one, and how many times its loss right after learning that is."""
    rows = []
    for task in all_tasks(runs):
        cells = [_loss_cell(run, task) for run in runs]
        if any(cell != NONE for cell in cells):
            rows.append((task, *cells))
    title = "Held-out loss after the last task (in brackets: times the loss right after learning)"
    return Table(title, ("task", *(run.label for run in runs)), tuple(rows))


def _loss_cell(run: Run, task: str) -> str:
    losses = run.metrics.get("losses")
    if losses is None or task not in run.tasks:
        return NONE
    place = run.tasks.index(task)
    final, learned = losses[-1][place], losses[place][place]
    if final is None:
        return NONE
    return f"{final:.3g} (x {final / learned:.2f})" if learned else f"{final:.3g}"


def _measures(runs: Sequence[Run]) -> Iterator[tuple[Run, str, Mapping[str, Any]]]:
    """(run, what was watched, its relearning document) of all that were watched inside later tasks."""
    for what, key in (("success", "recovery"), ("loss", "loss_recovery")):
        for run in runs:
            document = run.metrics.get(key)
            if document and document["pairs"]:
                yield run, what if run.is_success or what == "loss" else run.score, document


def dips_table(runs: Sequence[Run]) -> Table:
    """One run a row: over its (old task, later task) pairs, how many dropped below the target and how deep."""
    rows = []
    for run, what, document in _measures(runs):
        dips = [dip_of(entry) for later in document["pairs"].values() for entry in later.values()]
        depths = [dip.depth / dip.reference for dip in dips if dip.dropped and dip.reference]
        back = sum(dip.dropped and dip.recovered_after is not None for dip in dips)
        dropped = sum(dip.dropped for dip in dips)
        rows.append(
            (
                f"{run.label}: {what}",
                str(len(dips)),
                f"{dropped}",
                f"{100 * sum(depths) / len(depths):.0f} %" if depths else NONE,
                f"{back}",
            )
        )
    header = ("method", "pairs", "dropped below", "mean depth of these", "back and held for three")
    return Table(f"Dips of old tasks while later ones are learned (target: {TARGET})", header, tuple(rows))


def times_table(runs: Sequence[Run]) -> Table:
    """Times to come back, with "never" as censored: median, and mean within the updates that all runs were watched."""
    found = list(_measures(runs))
    rows: list[tuple[str, ...]] = []
    for start, key in (("switch", "first_passage"), ("bottom", "from_bottom")):
        tables = [(run, what, d[key]["0.9"] if key == "first_passage" else d[key]) for run, what, d in found]
        rows += [
            row
            for kind in dict.fromkeys(what for _, what, _ in tables)
            for row in _times_rows(start, kind, [(run, table) for run, what, table in tables if what == kind])
        ]
    header = ("method", "times", "back", "median", "mean within", "mean +- s.e.")
    return Table(f"Updates until back at {TARGET} (never is censored)", header, tuple(rows))


def _times_rows(start: str, kind: str, tables: Sequence[tuple[Run, Any]]) -> Iterator[tuple[str, ...]]:
    """Rows of one measure, with one horizon for all: up to where every run that has some left was watched."""
    known = [(run, survival_of(table)) for run, table in tables if table is not None]
    watched = [table.longest for _, table in known if table.at(table.longest) > 0]
    horizon = min(watched) if watched else max((table.longest for _, table in known), default=0.0)
    for run, table in known:
        mean, error = table.restricted_mean(horizon)
        median = table.median()
        yield (
            f"{run.label}: {kind}, from the {start}",
            str(table.num),
            str(table.num_events),
            NONE if median is None else f"{median:g}",
            f"{horizon:g}",
            f"{mean:.4g} +- {error:.3g}",
        )


def probe_table(runs: Sequence[Run]) -> Table:
    """One task a row: updates of ``trcl recover`` until success and loss are back and stay so."""
    probed = [run for run in runs if run.probe]
    names = dict.fromkeys(name for run in probed for name in run.probe["tasks"])
    rows = []
    for name in names:
        cells = [_probe_cell(run.probe["tasks"].get(name, {}), kind) for run in probed for kind in PROBE_KINDS]
        rows.append((short_name(name), *cells))
    header = tuple(f"{run.probe_label}: {kind[0]}" for run in probed for kind in PROBE_KINDS)
    title = "Probe recovery from the last weights [updates until back and held for three measurements]"
    return Table(title, ("task", *header), tuple(rows))


PROBE_KINDS = (
    ("success", "success", "reference", "held_after"),
    ("loss", "losses", "loss_reference", "loss_held_after"),
)


def _probe_cell(curve: Mapping[str, Any], kind: tuple[str, str, str, str]) -> str:
    _, values, reference, held = kind
    if held not in curve or curve[reference] is None or None in curve[values]:
        return NONE
    found = curve[held] if isinstance(curve[held], list) else [curve[held]]  # one a seed
    return ", ".join(f"> {curve['steps'][-1]}" if step is None else str(step) for step in found)
