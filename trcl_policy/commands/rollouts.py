"""``trcl evaluate`` for policies: one checkpoint, or the whole retention matrix."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from trcl_envs.catalog import BACKENDS, DEVICE_BACKENDS, resolve_sequence, unknown
from trcl_policy.commands.measure import Evaluate
from trcl_policy.commands.parsing import Stopped, say
from trcl_policy.continual.statistics import wilson_interval
from trcl_policy.devices import resolve_device
from trcl_policy.files import write_json
from trcl_policy.folder import RunFolder, provenance
from trcl_policy.policy.acting import Acting
from trcl_policy.policy.controller import load_policy
from trcl_policy.rollout.device import roll_out_jobs
from trcl_policy.rollout.dumps import write_dumps
from trcl_policy.rollout.evaluate import Episode
from trcl_policy.rollout.jobs import Job, physics_of, versions_here
from trcl_policy.rollout.matrix import Cell, fingerprint_policy, held, lines, missing, table
from trcl_policy.rollout.retention import retention, visit_names
from trcl_policy.rollout.workers import Report, as_done, cut, setup_for
from trcl_policy.schema import ConfigError
from trcl_policy.simulation import run_simulation

JOURNAL = "evaluations/matrix.jsonl"


def roll_out(options: Evaluate) -> int:
    """Evaluate a policy's checkpoints; see ``Evaluate``."""
    if options.samples is not None:
        raise ConfigError(f"samples must be left out for policies, which have episodes, got {options.samples}")
    if options.backend not in BACKENDS:
        raise ConfigError(unknown("backend", options.backend, BACKENDS))
    if options.backend in DEVICE_BACKENDS:
        if options.device not in ("auto", DEVICE_BACKENDS[options.backend]):
            raise ConfigError(f"device must be auto for backend {options.backend}, got {options.device}")
        if options.workers:
            one = f"workers must be 0 for backend {options.backend}, which is one batch"
            raise ConfigError(f"{one}, got {options.workers}")
    device = DEVICE_BACKENDS.get(options.backend) or str(resolve_device(options.device))
    folder = RunFolder(options.run)
    return _matrix(options, folder, device) if options.matrix else _one(options, folder, device)


def _one(options: Evaluate, folder: RunFolder, device: str) -> int:
    checkpoint = folder.checkpoint(options.checkpoint)
    tasks = _learned_tasks(checkpoint, options.tasks, _acting(options))
    jobs = cut(str(checkpoint), tasks, _seeds(options))
    done: dict[int, list[Episode]] = {}
    report = Report()
    with tqdm(total=len(tasks) * options.episodes, unit="episode", disable=None) as bar:
        for place, episodes in _rolled(options, folder, device, jobs, report):
            done[place] = episodes
            bar.update(len(episodes))
    episodes = [episode for place in range(len(jobs)) for episode in done[place]]
    scores = {task: _summary([episode for episode in episodes if episode.task == task]) for task in tasks}
    result = {
        "run": str(options.run),
        "checkpoint": checkpoint.name,
        "weights": fingerprint_policy(checkpoint),
        **_facts(options, device, report),
        "tasks": scores,
        "average": sum(entry["success"] for entry in scores.values()) / len(tasks),
        "faults": [fault.record() for fault in report.faults],
    }
    target = folder.path / "evaluations" / f"{checkpoint.name}.json"
    records = [episode.record() for episode in episodes]
    write_json(target, {**result, "provenance": provenance(), "records": records})
    rows = [*(_row(task, entry) for task, entry in scores.items()), f"{'average':<28} {result['average']:.2f}"]
    say(options.json, result, "\n".join([*rows, f"written: {target}"]))
    return 0


def _matrix(options: Evaluate, folder: RunFolder, device: str) -> int:
    for name in ("checkpoint", "tasks"):
        if getattr(options, name) is not None:
            raise ConfigError(f"{name} must be left out with --matrix, got {getattr(options, name)}")
    cells, facts, seeds = _cells(folder, _acting(options)), _facts(options, device, Report()), _seeds(options)
    kept = held(folder.records(JOURNAL, repair=True), cells, seeds, facts)
    todo = missing(kept, cells, seeds)
    report = Report()
    with tqdm(total=len(cells) * len(seeds), initial=len(kept), unit="episode", disable=None) as bar:
        try:
            for place, episodes in _rolled(options, folder, device, [job for _, job in todo], report):
                fresh = lines(todo[place][0], episodes, facts)
                folder.append_records(JOURNAL, fresh)
                kept += fresh
                bar.update(len(fresh))
        except KeyboardInterrupt:
            again = shlex.join(["trcl", "evaluate", str(options.run), "--matrix", *_spelled(options)])
            raise Stopped(f"stopped; {len(kept)} of {bar.total} episodes are kept; go on with: {again}") from None
    names = visit_names(resolve_sequence(folder.config().tasks))
    result = {
        "run": str(options.run),
        **facts,
        "episodes": options.episodes,
        "seed": options.seed,
        "weights": {cell.checkpoint.name: cell.weights for cell in cells},
        **retention(kept, names),
        "failed": sum(line["failed"] for line in kept),
        "faults": [fault.record() for fault in report.faults],
    }
    target = folder.path / "evaluations" / "matrix.json"
    write_json(target, {**result, "provenance": provenance()})
    say(options.json, result, f"{table(result)}\nwritten: {target}")
    return 0


def _rolled(
    options: Evaluate, folder: RunFolder, device: str, jobs: Sequence[Job], report: Report
) -> Iterator[tuple[int, list[Episode]]]:
    """Jobs as they are done; what went wrong is said on stderr, and broken physics is saved, however this ends."""
    make: Any = run_simulation(folder, options.env_python, options.backend).make_env
    if options.backend in DEVICE_BACKENDS:
        yield from roll_out_jobs(jobs, make, acting=_acting(options))
        return
    how = {"launcher": options.launcher, "address": options.ray_address, "timeout": options.timeout}
    done = as_done(jobs, setup_for(make, device, _acting(options)), options.workers, **how, report=report)  # type: ignore[arg-type]
    with _without_gl(device), contextlib.closing(done):  # type: ignore[type-var]
        try:
            yield from done
        finally:
            paths = sorted(set(write_dumps(folder.path / "evaluations" / "dumps", report.dumps)))
            told = [report.told()] if report.faults else []
            if paths:
                told.append(f"physics became non-finite in {len(paths)} saved episodes: {paths[0].parent}")
            for line in told:
                tqdm.write(f"trcl: {line}", file=sys.stderr)


@contextlib.contextmanager
def _without_gl(device: str) -> Iterator[None]:
    """Keep MuJoCo, where it is imported from here on, from loading OpenGL beside a policy on CUDA."""
    before = os.environ.get("MUJOCO_GL")
    if device != "cpu":
        os.environ["MUJOCO_GL"] = "disable"
    yield
    if device != "cpu":
        os.environ.pop("MUJOCO_GL")
        if before is not None:
            os.environ["MUJOCO_GL"] = before


def _acting(options: Evaluate) -> Acting:
    return Acting(options.acting_steps, options.n_action_steps)


def _cells(folder: RunFolder, acting: Acting) -> list[Cell]:
    """Every checkpoint with every task it has learned.

    Raises:
        ConfigError: the run has no checkpoint yet.
        ValueError: its policies can't act so.
    """
    folder.checkpoint(None)
    return [
        Cell(checkpoint, weights, task)
        for checkpoint in folder.checkpoints()
        for weights in [fingerprint_policy(checkpoint)]
        for task in load_policy(checkpoint, acting=acting).learned_tasks
    ]


def _facts(options: Evaluate, device: str, report: Report) -> dict[str, Any]:
    """What a result depends on besides weights, task and seed."""
    simulated = {"backend": options.backend, "device": device}
    return simulated | {"physics": physics_of(report.versions or versions_here())} | asdict(_acting(options))


def _seeds(options: Evaluate) -> range:
    return range(options.seed, options.seed + options.episodes)


def _spelled(options: Evaluate) -> list[str]:
    """The options of a matrix as words, those with their default left out."""
    given = {name: value for name, value in vars(options).items() if name not in ("run", "matrix", "json")}
    plain = {name: getattr(Evaluate, name) for name in given}
    words = [(f"--{name.replace('_', '-')}", str(value)) for name, value in given.items() if value != plain[name]]
    return [word for pair in words for word in pair] + ["--json"] * options.json


def _summary(episodes: Sequence[Episode]) -> dict[str, Any]:
    wins = sum(episode.success for episode in episodes)
    return {
        "success": wins / len(episodes),
        "interval": list(wilson_interval(wins, len(episodes))),
        "episodes": len(episodes),
        "failed": sum(episode.failed for episode in episodes),
    }


def _row(task: str, entry: dict[str, Any]) -> str:
    low, high = entry["interval"]
    return f"{task:<28} {entry['success']:.2f}  [{low:.2f}, {high:.2f}]  {entry['episodes']} episodes"


def _learned_tasks(checkpoint: Path, wanted: str | None, acting: Acting) -> list[str]:
    policy = load_policy(checkpoint, acting=acting)
    if wanted is None:
        return policy.learned_tasks
    tasks = list(dict.fromkeys(resolve_sequence(wanted)))
    for task in tasks:
        policy.reset(task)
    return tasks
