"""Runs of one method that differ in their seed alone: grouped, averaged, and compared seed by seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trcl_policy.continual.statistics import Mean, bootstrap_interval, compare, mean_interval
from trcl_policy.report.runs import Matrix, Run
from trcl_policy.report.tables import Table, interval, number
from trcl_policy.rollout.relearning import survival_document

SEEDLESS = ("seed", "device", "precision", "threads", "log_every", "save_every_s")
"""Settings that may differ between the seeds of one group; ``data.store`` and ``evaluation.alone`` may, too."""


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone.

    Attributes:
        label: the method, with the first folder's name where several groups share a method.
        runs: by seed.
    """

    label: str
    runs: tuple[Run, ...]

    def values(self, name: str) -> dict[Any, float]:
        """A number of metrics.json by seed, where it was measured."""
        found = {run.settings.get("seed"): run.metrics.get(name) for run in self.runs}
        return {seed: value for seed, value in found.items() if value is not None}


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Groups in the order in which their first run comes; the same seed twice makes two groups."""
    found: list[tuple[Any, list[Run]]] = []
    for run in runs:
        key = (run.method, run.tasks, run.score, _seedless(run.settings))
        seed = run.settings.get("seed")
        fits = (g for k, g in found if k == key and seed is not None and all(r.settings["seed"] != seed for r in g))
        group = next(fits, None)
        if group is None:
            found.append((key, [run]))
        else:
            group.append(run)
    methods = Counter(group[0].method for _, group in found)
    return [_group(group, methods[group[0].method] > 1) for _, group in found]


def _group(runs: Sequence[Run], several: bool) -> Group:
    first = runs[0]
    if len(runs) == 1:
        return Group(first.label, (first,))
    label = f"{first.method} ({first.path.resolve().name} ...)" if several else first.method
    return Group(label, tuple(sorted(runs, key=lambda run: run.settings["seed"])))


def _seedless(settings: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in settings.items() if name not in SEEDLESS}
    for part, name in (("data", "store"), ("evaluation", "alone")):
        if isinstance(rest.get(part), Mapping):
            rest[part] = {key: value for key, value in rest[part].items() if key != name}
    return repr(rest)


# ---- one run out of several seeds ----


def averaged(group: Group) -> Run:
    """The group as one run: means over seeds with t intervals; times to come back are pooled. A single run as it is."""
    first = group.runs[0]
    if len(group.runs) == 1:
        return first
    size = range(len(first.tasks))
    cells = [[_mean([run.scores[k][i] for run in group.runs]) for i in size] for k in size]
    final = _mean([run.metrics.get("average_final") for run in group.runs])
    means = {
        name: _value(_mean([run.metrics.get(name) for run in group.runs]))
        for name in ("average_final", "forgetting", "forgetting_old", "backward_transfer", "forward_transfer")
    }
    parts = [run.metrics for run in group.runs]
    metrics = {
        "tasks": first.metrics["tasks"],
        **means,
        "average_final_interval": final and _bounds(final, first.is_success),
        "libero": {n: _value(_mean([(p.get("libero") or {}).get(n) for p in parts])) for n in ("fwt", "nbt", "auc")},
        "losses": _mean_matrix([part.get("losses") for part in parts]),
        "curves": _mean_curves([part.get("curves") or {} for part in parts], "scores", first.is_success),
        "loss_curves": _mean_curves([part.get("loss_curves") or {} for part in parts], "losses", False),
        "recovery": pooled([part.get("recovery") for part in parts]),
        "loss_recovery": pooled([part.get("loss_recovery") for part in parts]),
        "cost": _mean_cost([part.get("cost") or {} for part in parts]),
    }
    return replace(
        first,
        label=f"{group.label}, {len(group.runs)} seeds",
        scores=[[_value(cell) for cell in row] for row in cells],
        intervals=[[cell and _bounds(cell, first.is_success) for cell in row] for row in cells],
        metrics=metrics,
        probe=_mean_probe([run.probe for run in group.runs], group.label),
        videos=(),
        samples={},
    )


def _mean(values: Sequence[float | None]) -> Mean | None:
    known = [value for value in values if value is not None]
    return mean_interval(known) if len(known) == len(values) else None


def _value(mean: Mean | None) -> float | None:
    return None if mean is None else mean.mean


def _bounds(mean: Mean, is_share: bool) -> list[float] | None:
    if mean.interval is None:
        return None
    low, high = mean.interval
    return [max(0.0, low), min(1.0, high)] if is_share else [low, high]


def _mean_matrix(matrices: Sequence[Matrix | None]) -> Matrix | None:
    known = [matrix for matrix in matrices if matrix is not None]
    if len(known) < len(matrices):
        return None
    size = range(len(known[0]))
    return [[_value(_mean([matrix[k][i] for matrix in known])) for i in size] for k in size]


def _mean_curves(curves: Sequence[Mapping[str, Any]], what: str, is_share: bool) -> dict[str, Any]:
    """Mean of {task: {while learning: {updates, what}}} over the seeds, at the updates that all have."""
    found: dict[str, Any] = {}
    for task, during in curves[0].items():
        for learned, curve in during.items():
            others = [(c.get(task) or {}).get(learned) or {"updates": [], what: []} for c in curves]
            tables = [dict(zip(other["updates"], other[what], strict=True)) for other in others]
            means = {u: mean_interval([t[u] for t in tables]) for u in curve["updates"] if all(u in t for t in tables)}
            found.setdefault(task, {})[learned] = {
                "updates": list(means),
                what: [mean.mean for mean in means.values()],
                "intervals": [_bounds(mean, is_share) for mean in means.values()],
            }
    return found


def pooled(documents: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """Dips and times to come back of several runs as if of one; None where a run has none."""
    known = [document for document in documents if document is not None]
    if not known or len(known) < len(documents):
        return None
    return {
        "level": known[0]["level"],
        "held": known[0]["held"],
        "pairs": {f"{place}/{old}": later for place, d in enumerate(known) for old, later in d["pairs"].items()},
        "first_passage": {
            level: pooled_survival([d["first_passage"][level] for d in known]) for level in known[0]["first_passage"]
        },
        "from_bottom": pooled_survival([d["from_bottom"] for d in known]),
    }


def pooled_survival(tables: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """One Kaplan-Meier table of the spells of several."""
    return survival_document([(time, done) for table in tables if table is not None for time, done in table["spells"]])


def _mean_cost(costs: Sequence[Any]) -> Any:
    """Means of numbers, found at the same places of nested mappings."""
    if all(isinstance(cost, Mapping) for cost in costs):
        return {name: _mean_cost([cost.get(name) for cost in costs]) for name in costs[0]}
    known = [cost for cost in costs if isinstance(cost, int | float)]
    return sum(known) / len(known) if len(known) == len(costs) else None


def _mean_probe(found: Sequence[Mapping[str, Any]], label: str) -> Mapping[str, Any]:
    """Mean of ``trcl recover``'s curves over the seeds that have them; none where seeds were probed differently.

    The updates until a task is back stay a list, one a seed. Where seeds lack a probe, ``label`` counts the others.
    """
    probes = [probe for probe in found if probe]
    if not probes or any(probe["probe"] != probes[0]["probe"] for probe in probes):
        return {}
    tasks = {}
    for name, curve in probes[0]["tasks"].items():
        same = [probe["tasks"][name] for probe in probes if name in probe["tasks"]]
        tasks[name] = {"steps": curve["steps"]} | {
            what: [_value(_mean(values)) for values in zip(*(c[what] for c in same), strict=True)]
            for what in ("success", "losses")
        }
        tasks[name] |= {what: _value(_mean([c[what] for c in same])) for what in ("reference", "loss_reference")}
        tasks[name] |= {what: [c[what] for c in same] for what in ("held_after", "loss_held_after")}
    kinds = ("success", "loss")
    survival = {kind: pooled_survival([probe["survival"][kind] for probe in probes]) for kind in kinds}
    named = {} if len(probes) == len(found) else {"label": f"{label}, {len(probes)} of {len(found)} seeds"}
    return {**probes[0], "tasks": tasks, "survival": survival, **named}


# ---- tables over seeds ----


def methods_table(groups: Sequence[Group]) -> Table:
    """One method a row: mean over seeds with its t interval, and the interval of resampled seeds and episodes."""
    rows = []
    for group in groups:
        final = list(group.values("average_final").values())
        lost = list(group.values("forgetting_old").values())
        gained = list(group.values("forward_transfer").values())
        rows.append(
            (
                group.label,
                str(len(group.runs)),
                *_mean_cells(final),
                interval(_resampled(group)),
                *_mean_cells(lost, signed=True),
                _mean_cells(gained, signed=True)[0],
            )
        )
    header = ("method", "seeds", "average final", "95 %, seeds", "95 %, seeds and episodes", "forgetting (old tasks)")
    return Table("Methods over their seeds", (*header, "95 %, seeds", "forward transfer"), tuple(rows))


def _mean_cells(values: Sequence[float], signed: bool = False) -> tuple[str, str]:
    if not values:
        return number(None), interval(None)
    mean = mean_interval(values)
    return number(mean.mean, signed=signed), interval(mean.interval)


def _resampled(group: Group) -> tuple[float, float] | None:
    """Bootstrap interval of the average final success; None for distances and where episodes were not counted."""
    outcomes = []
    for run in group.runs:
        counts = (run.metrics.get("num_episodes") or [[None]])[-1]
        if not run.is_success or None in counts or None in run.scores[-1]:
            return None
        wins = [(round(score * count), count) for score, count in zip(run.scores[-1], counts, strict=True)]
        outcomes.append([[1.0] * won + [0.0] * (count - won) for won, count in wins])
    return bootstrap_interval(outcomes) if len(outcomes) > 1 else None


def paired_table(groups: Sequence[Group]) -> Table:
    """Every method against the first, on the seeds that both have.

    Raises:
        ValueError: the runs' tasks or numbers of updates differ.
    """
    first = groups[0]
    rows = []
    for group in groups[1:]:
        _check_comparable(first, group)
        for name, title in (("average_final", "average final"), ("forgetting_old", "forgetting (old tasks)")):
            mine, theirs = group.values(name), first.values(name)
            seeds = [seed for seed in theirs if seed in mine]
            if len(seeds) > 1:
                found = compare([theirs[seed] for seed in seeds], [mine[seed] for seed in seeds])
                rows.append(
                    (
                        f"{group.label}: {title}",
                        str(found.num),
                        number(found.mean, signed=True),
                        interval(found.interval),
                        f"{found.p_value:.3f}",
                        f"{100 * found.agreement:.0f} %",
                    )
                )
    header = ("difference", "seeds", "mean", "95 %", "p (sign flips)", "seeds that agree")
    return Table(f"Against {first.label}, seed by seed", header, tuple(rows))


def _check_comparable(first: Group, second: Group) -> None:
    one, other = (
        (group.label, group.runs[0].tasks, (group.runs[0].settings.get("training") or {}).get("steps"))
        for group in (first, second)
    )
    if one[1:] != other[1:]:
        raise ValueError(
            "runs to pair must share tasks and training.steps, got "
            + " and ".join(
                f"{label} with {', '.join(tasks)} of {steps} updates" for label, tasks, steps in (one, other)
            )
        )
