"""The tables of docs/acting.md, from what scripts/measure_acting.py keeps of every run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from acting_figure import share_of

from trcl_policy.continual.statistics import mean_interval
from trcl_policy.files import read_json
from trcl_policy.report.runs import short_name
from trcl_policy.report.tables import NONE, Table

REMINDED = ", acting"
"""Behind the names of methods whose kept predictions remind of acting alone."""
DRILLED = ", drilled"
"""Behind the names of those that train acting with more than half of their samples."""
Found = dict[str, dict[tuple[int, int], dict[int, float]]]
"""Average success by method, pair and seed."""


def grids(results: Path) -> str:
    """A table of all pairs for every stored run."""
    found = [grid(read_json(path)) for path in sorted(results.glob("*.json"))]
    return "\n\n".join(found) or "Nothing is stored yet."


def grid(document: Mapping[str, Any]) -> str:
    """One number of sampler steps a row, one number of executed actions a column."""
    cells = {(cell["acting_steps"], cell["n_action_steps"]): cell["wins"] for cell in document["cells"]}
    steps, looks = (sorted(set(found)) for found in zip(*cells, strict=True))
    rows = [
        (str(n), f"{document['scatter'][str(n)]:.3f}", *(share(cells.get((n, look)), document) for look in looks))
        for n in steps
    ]
    header = ("sampler steps", "actions scatter by", *(f"success, looks after {look} actions" for look in looks))
    trained = document["trained"]
    of = f"seed {trained['seed']}, {trained['steps']:,} updates of {trained['batch_size']} a task"
    tasks = ", ".join(short_name(name) for name in document["tasks"])
    title = f"{label(trained)}, {of}: {tasks}; {document['episodes']} rollouts of each"
    return Table(title, header, tuple(rows)).markdown()


def share(wins: Mapping[str, int] | None, document: Mapping[str, Any]) -> str:
    """Average success with its 95 % interval over episodes."""
    if wins is None:
        return NONE
    mean, below, above = share_of(list(wins.values()), document["episodes"])
    return f"{mean:.3f} [{mean - below:.2f}, {mean + above:.2f}]"


def seeds_tables(results: Path) -> str:
    """Over seeds: every method and pair, the forms that remind of acting against the others, and every task."""
    documents = [read_json(path) for path in sorted(results.glob("*.json"))]
    if not documents:
        return "Nothing is stored yet."
    found: Found = {}
    for document in documents:
        pairs = found.setdefault(label(document["trained"]), {})
        for cell in document["cells"]:
            seeds = pairs.setdefault((cell["acting_steps"], cell["n_action_steps"]), {})
            seeds[document["trained"]["seed"]] = sum(cell["wins"].values()) / len(cell["wins"]) / document["episodes"]
    first = documents[0]
    tasks = ", ".join(short_name(name) for name in first["tasks"])
    title = f"{tasks}; {first['episodes']} rollouts of each"
    tables = by_pair(found, title), by_drill(found), against(found), by_task(documents)
    return "\n\n".join(table.markdown() for table in tables if table.rows)


def by_pair(found: Found, title: str) -> Table:
    """One method and pair a row: success, and its difference from joint training and from other steps."""
    rows = []
    for method in in_order(found):
        for (steps, looks), seeds in sorted(found[method].items()):
            more = max(other for other in found[method] if other[1] == looks)
            joint = "joint" + DRILLED * method.endswith(DRILLED)
            rows.append(
                (
                    method,
                    str(steps),
                    str(len(seeds)),
                    told(list(seeds.values()), 1, "{:.3f}", 1.0),
                    NONE if method == joint else apart(seeds, found.get(joint, {}).get((steps, looks), {})),
                    NONE if more == (steps, looks) else apart(seeds, found[method][more]),
                )
            )
    header = ("method", "sampler steps", "seeds", "success (95 %)", "minus joint training, points (95 %)")
    return Table(title, (*header, "minus itself with more steps, points (95 %)"), tuple(rows))


def by_drill(found: Found) -> Table:
    """What it changes to train acting with more of the samples, with the fewest steps of each method."""
    rows = []
    for name in (name for name in in_order(found) if name.endswith(DRILLED)):
        pair, plain = min(found[name]), name.removesuffix(DRILLED)
        rows.append((plain, apart(found[name][pair], found.get(plain, {}).get(pair, {}))))
    header = ("method", "drilled minus itself, points (95 %)")
    return Table("Three of four samples train acting instead of two, paired by seed", header, tuple(rows))


def against(found: Found) -> Table:
    """One rival a row, one form that reminds of acting a column: their difference with the fewest steps of the form.

    None of them drilled, for that would do as much for rivals.
    """
    forms = [name for name in in_order(found) if name.endswith(REMINDED)]
    rivals = [name for name in in_order(found) if name not in (*forms, "joint") and not name.endswith(DRILLED)]
    pairs = {form: min(found[form]) for form in forms}
    rows = [
        (rival, *(apart(found[form][pairs[form]], found[rival].get(pairs[form], {})) for form in forms))
        for rival in rivals
    ]
    title = "The forms minus their rivals, with the fewest steps, paired by seed, points (95 %)"
    return Table(title, ("rival", *forms), tuple(rows))


def by_task(documents: Sequence[Mapping[str, Any]]) -> Table:
    """Success on each task, of each method with the fewest sampler steps, averaged over seeds."""
    found: dict[str, list[dict[str, float]]] = {}
    for document in documents:
        cell = min(document["cells"], key=lambda cell: (cell["acting_steps"], cell["n_action_steps"]))
        shares = {task: wins / document["episodes"] for task, wins in cell["wins"].items()}
        found.setdefault(label(document["trained"]), []).append(shares)
    tasks = documents[0]["tasks"]
    rows = [
        (name, *(f"{sum(shares[task] for shares in found[name]) / len(found[name]):.2f}" for task in tasks))
        for name in in_order(found)
    ]
    header = ("method", *(short_name(task) for task in tasks))
    return Table("Task by task, with the fewest steps, averaged over seeds", header, tuple(rows))


def in_order(methods: Iterable[str]) -> list[str]:
    """Joint training first."""
    return sorted(methods, key=lambda name: (not name.startswith("joint"), name))


def label(trained: Mapping[str, Any]) -> str:
    """The method, whether it reminds of acting alone, and whether more than half of its samples train acting."""
    reminded = trained["recall"] == "use" and trained["method"] != "joint"
    return trained["method"] + REMINDED * reminded + DRILLED * (trained.get("policy_fraction", 0.5) > 0.5)


def apart(seeds: Mapping[int, float], others: Mapping[int, float]) -> str:
    """Mean difference over the seeds that both have, in points, with its t interval."""
    return told([seeds[seed] - others[seed] for seed in sorted(seeds.keys() & others.keys())], 100, "{:+.1f}")


def told(values: Sequence[float], scale: float, form: str, most: float = math.inf) -> str:
    """Mean and t interval over seeds, cut off at ``most``."""
    if not values:
        return NONE
    mean = mean_interval([scale * value for value in values])
    if mean.interval is None:
        return form.format(mean.mean)
    low, high = (form.format(min(end, most)) for end in mean.interval)
    return f"{form.format(mean.mean)} ({low} to {high})"
