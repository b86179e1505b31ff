"""The stored trials of scripts/tune_methods.py: what they measured, and which value of a knob they decide for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs import Job, seconds_of
from knobs import KNOBS
from stored import rounded

from trcl_policy.continual.methods import METHODS
from trcl_policy.files import read_json, write_json
from trcl_policy.folder import RunFolder
from trcl_policy.report.tables import Table, number

ROUNDS = ("first", "second")
"""Of tuning; a method's file holds the first round at its top and the second under the key ``second``."""


def trial_of(job: Job) -> str:
    """The value of the knob, as files and tables call it."""
    return job.folder.parent.name


def stored_round(results: Path, method: str, name: str) -> dict[str, Any]:
    """One round of a method as its file holds it; no trials where there are none."""
    path = results / f"{method}.json"
    whole = read_json(path) if path.exists() else {}
    found = whole if name == "first" else whole.get(name, {})
    return {"trials": {}, **found}


def is_stored(results: Path, job: Job, name: str) -> bool:
    """Whether this trial and seed is in that round of the method's file."""
    return str(job.seed) in stored_round(results, job.method, name)["trials"].get(trial_of(job), {})


def keep(results: Path, job: Job, name: str) -> None:
    """Add a finished run to that round of the file of its method."""
    path, folder = results / f"{job.method}.json", RunFolder(job.folder)
    metrics, config = folder.metrics(), folder.config()
    assert metrics is not None, "a finished run has measured something"
    entry = {
        "average_final": metrics["average_final"],
        "learned": mean([row[place] for place, row in enumerate(metrics["scores"]) if row[place] is not None] or [0.0]),
        "forgetting_old": metrics["forgetting_old"],
        "loss": mean([loss for loss in metrics["losses"][-1] if loss is not None]),
        "seconds": seconds_of(metrics),
    }
    before = stored_round(results, job.method, name)
    trials = {**before["trials"]}
    trials[trial_of(job)] = {**trials.get(trial_of(job), {}), str(job.seed): rounded(entry)}
    facts = {"tasks": list(metrics["tasks"]), "steps": config.training.steps, "episodes": config.evaluation.episodes}
    ordered = dict(sorted(trials.items(), key=lambda pair: float(pair[0])))
    found = {**before, **facts, "provenance": folder.provenance(), "trials": ordered}
    head = {"method": job.method, "knob": KNOBS[job.method][0]}
    write_json(path, {**head, **found} if name == "first" else {**read_json(path), name: found})


def is_whole(found: Mapping[str, Any]) -> bool:
    """Whether a method's file has every trial of the first round."""
    return len(found["trials"]) == len(KNOBS[found["method"]][1])


def near_the_best(found: Mapping[str, Any]) -> list[str]:
    """The trials of a round whose average final success is within one standard error of the highest.

    Only trials with as many seeds as the most complete one take part. The standard error is that of a share p of all
    n rollouts at the end of the runs of a trial, sqrt(p (1 - p) / n), a little too large where tasks differ.
    """
    trials = found["trials"]
    most = max(map(len, trials.values()))
    finals = {name: average(seeds, "average_final") for name, seeds in trials.items() if len(seeds) == most}
    top, rollouts = max(finals.values()), most * len(found["tasks"]) * found["episodes"]
    least = top - math.sqrt(top * (1 - top) / rollouts) - 1e-9
    return [name for name, final in finals.items() if final >= least]


def best(found: Mapping[str, Any]) -> str:
    """The trial of a round with the lowest held-out loss of all tasks at the end, among those near the best success."""
    trials = found["trials"]
    return min(
        near_the_best(found), key=lambda name: (average(trials[name], "loss"), -average(trials[name], "average_final"))
    )


def chosen(found: Mapping[str, Any]) -> str | None:
    """The value that a method's file decides for; None while trials are missing.

    A method whose second round has not begun is decided by the first.
    """
    if not is_whole(found):
        return None
    finalists = near_the_best(found)
    second = {**found.get("second", {"trials": {}})}
    if len(finalists) == 1 or not second["trials"]:
        return best(found)
    if not set(finalists) <= set(second["trials"]):
        return None
    return best({**second, "trials": {name: second["trials"][name] for name in finalists}})


def write_chosen(results: Path) -> None:
    """Write chosen.json from the methods that are decided."""
    decided = {found["method"]: (found["knob"], chosen(found)) for found in stored(results).values()}
    methods = {name: {knob: float(value)} for name, (knob, value) in decided.items() if value is not None}
    if methods:
        write_json(results / "chosen.json", {"command": "scripts/tune_methods.py", "methods": methods})


def stored(results: Path) -> dict[str, dict[str, Any]]:
    """The files of all methods, in the order of the table of methods."""
    return {name: read_json(results / f"{name}.json") for name in METHODS if (results / f"{name}.json").exists()}


def table(results: Path) -> Table:
    """One method a row: average final success of every trial, on the sequences of both rounds, and what was chosen."""
    rows = []
    for name, found in stored(results).items():
        seeds = str(max(map(len, found["trials"].values())))
        rounds = [_finals(found), _finals(found.get("second", {"trials": {}})) or "-"]
        rows.append((name, found["knob"].removeprefix("method."), seeds, *rounds, chosen(found) or "not yet"))
    header = ("method", "knob", "seeds", "average final success by value", "second round", "chosen")
    return Table("Knobs", header, tuple(rows))


def _finals(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {number(average(of, 'average_final'))}" for name, of in found["trials"].items())


def average(seeds: Mapping[str, Mapping[str, float]], key: str) -> float:
    """Mean of one number over the seeds of a trial."""
    return mean([entry[key] for entry in seeds.values()])


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean."""
    return sum(values) / len(values)
