"""What each option of generated replay is worth, and what generated samples teach: results/replay/*.json.

.venv/bin/python scripts/measure_replay.py              # every option, one by one, on the quick sequence
.venv/bin/python scripts/measure_replay.py --students   # policies trained on generated windows alone, in the simulator
.venv/bin/python scripts/measure_replay.py --table      # only the tables of docs/replay.md, from the stored results

What is stored already is not measured again. One core; about 20 s for an option and seed, 4 minutes for students.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from quickstart import collect

from trcl_policy.config import RunConfig, load_config
from trcl_policy.continual.learner import Method, Snapshot, learn
from trcl_policy.continual.methods import METHODS
from trcl_policy.continual.params import Batch, concatenate
from trcl_policy.continual.probes import held_out_loss
from trcl_policy.continual.statistics import mean_of_shares_interval, t_quantile
from trcl_policy.continual.streams import Streams, derive_seed
from trcl_policy.continual.tasks import Task, TaskSequence, TensorSamples
from trcl_policy.domains import PolicyDomain
from trcl_policy.files import write_json
from trcl_policy.folder import provenance
from trcl_policy.replay_log import POOL, log_replay, read_replay

RESULTS = Path(__file__).resolve().parent.parent / "results" / "replay"
COMMON = {"training.steps": 150, "training.batch_size": 128, "network.width": 64, "method.name": "replay"}
OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "sampler-10": {"diffusion.replay_steps": 10},
    "sampler-50": {"diffusion.replay_steps": 50},
    "sampler-ddpm": {"diffusion.sampler": "ddpm"},
    "teacher-raw": {"method.teacher": "raw"},
    "keep-0.8": {"method.replay_keep": 0.8},
    "keep-0.5": {"method.replay_keep": 0.5},
    "guidance-1.5": {"policy.guidance.label_dropout": 0.1, "policy.guidance.scale": 1.5},
    "guidance-3": {"policy.guidance.label_dropout": 0.1, "policy.guidance.scale": 3.0},
    "refresh-50": {"method.replay_refresh": 50},
    "samples-500": {"method.replay_samples": 500},
    "not-distilled": {"method.name": "replay_plain"},
    "stored-2000": {"method.name": "er", "method.memory": 2000},
}
KEPT = ("share", "coverage", "harmonic", "energy", "p_value", "distance_mean")
OPTION_COLUMNS = ("seeds", "coverage of the first task, generation 1 to 4", "last pool: share", "coverage", "harmonic")
OPTION_COLUMNS += ("against default", "held-out loss of old tasks", "loss against default, %", "making samples, s")
NOT_MEASURED = "Not measured yet."
STUDENT_TASKS = 4
STUDENT_SAMPLES = 2000


def main() -> int:
    """Measure what is missing, print the tables; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=4, help="seeds 0 .. N-1")
    parser.add_argument("--data", type=Path, default=Path("data/quick.zarr"), help="episode store")
    parser.add_argument("--only", nargs="+", choices=tuple(OPTIONS), default=tuple(OPTIONS), help="options to measure")
    parser.add_argument("--students", action="store_true", help="train policies on generated windows alone")
    parser.add_argument("--episodes", type=int, default=25, help="rollouts of each task for students")
    parser.add_argument("--table", action="store_true", help="only print the tables of the stored results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.table and not options.data.exists():
        collect(options.data)
    if options.students and not options.table:
        for seed in range(options.seeds):
            measured("students", seed, {"evaluation.episodes": options.episodes}, options.data, students)
    elif not options.table:
        for seed in range(options.seeds):
            for name in options.only:
                measured(name, seed, {**COMMON, **OPTIONS[name]}, options.data, drift)
    print(f"{options_table()}\n\n{students_table()}")
    return 0


def measured(name: str, seed: int, changes: Mapping[str, Any], data: Path, work: Any) -> None:
    """Add the result of one seed to results/replay/NAME.json unless it is there."""
    path = RESULTS / f"{name}.json"
    before = json.loads(path.read_text()) if path.exists() else {"seeds": {}}
    if str(seed) in before["seeds"]:
        return
    config = load_config("quickstart", {"data.store": str(data), "method.name": "replay", "seed": seed, **changes})
    started = time.process_time()
    result = work(config)
    result["cpu_seconds"] = time.process_time() - started
    facts = {**provenance(), "command": "scripts/measure_replay.py" + " --students" * (work is students)}
    write_json(path, {"changes": dict(changes), **facts, "seeds": {**before["seeds"], str(seed): result}})
    print(f"{name}, seed {seed}: {result['cpu_seconds']:.0f} s of one core", file=sys.stderr, flush=True)


def drift(config: RunConfig) -> dict[str, Any]:
    """Quality of every pool drawn, and held-out loss of every task after the last one."""
    domain = PolicyDomain(config)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "replay.jsonl"
        for snapshot in snapshots(config, domain):
            if snapshot.kind == "settled":
                log_replay(path, snapshot.state(), domain.tasks, snapshot.position.task)
        lines = read_replay(path)
    losses = {task.name: held_out_loss(domain.model, snapshot.params, task, seed=0) for task in domain.tasks}
    return {"lines": [short(line) for line in lines], "held_out_loss": losses, "seconds": dict(snapshot.seconds)}


def snapshots(config: RunConfig, domain: PolicyDomain) -> Any:
    """The snapshots of a run, as ``trcl train`` makes them."""
    method, streams = METHODS[config.method.name].build(config.method), Streams(derive_seed(config.seed, "learning"))
    return learn(domain.model, domain.params(), domain.tasks, method, config.training, streams)


def short(line: Mapping[str, Any]) -> dict[str, Any]:
    """The measures that the tables need."""
    sides = {side: line[side] and {name: line[side][name] for name in KEPT} for side in ("real", "other")}
    return {name: line[name] for name in ("after", "task", "generation", *KEPT)} | sides


def students(config: RunConfig) -> dict[str, Any]:
    """Success of fresh policies trained on generated and on real windows of the first tasks, beside their teacher."""
    domain = PolicyDomain(config)
    teacher = next(s for s in snapshots(config, domain) if (s.kind, s.position.task) == ("settled", STUDENT_TASKS - 1))
    state = teacher.state()
    pool = {key.removeprefix(POOL): leaf for key, leaf in state.items() if key.startswith(POOL)}
    tasks = TaskSequence(domain.tasks.tasks[:STUDENT_TASKS])
    policies = {
        "teacher": teacher.params,
        "generated": student(config, domain, tasks, pool).params,
        "real": student(config, domain, tasks, real_windows(tasks, config.seed)).params,
    }
    with contextlib.closing(domain):
        return {"successes": {name: rolled_out(config, domain, params) for name, params in policies.items()}}


def real_windows(tasks: TaskSequence, seed: int) -> Batch:
    """As many training windows of each task as are generated, drawn without replacement."""
    rng = Streams(seed)["real windows"]
    parts = [task.samples for task in tasks]
    return concatenate([p.gather(torch.randperm(len(p), generator=rng)[:STUDENT_SAMPLES]) for p in parts])


def student(config: RunConfig, domain: PolicyDomain, tasks: TaskSequence, windows: Batch) -> Snapshot:
    """A policy from the first weights, trained on ``windows`` of all tasks at once by the ordinary loss."""
    whole = Task("windows", TensorSamples(windows), tasks.merged()[0].condition)
    training = type(config.training)(**{**vars(config.training), "steps": config.training.steps * len(tasks)})
    streams = Streams(derive_seed(config.seed, "student"))
    *_, last = learn(domain.model, domain.params(), TaskSequence((whole,)), Method(), training, streams, training.steps)
    return last


def rolled_out(config: RunConfig, domain: PolicyDomain, params: Any) -> dict[str, list[int]]:
    """Successes and episodes of each of the first tasks."""
    seeds = range(config.evaluation.seed, config.evaluation.seed + config.evaluation.episodes)
    agent = domain.agent(params, STUDENT_TASKS)
    found = {name: domain.measure(agent, name, seeds) for name in domain.names[:STUDENT_TASKS]}
    return {name: [sum(episode.success for episode in episodes), len(episodes)] for name, episodes in found.items()}


def options_table() -> str:
    """Markdown: one option a row, differences from the default paired by seed, with 95 % t-intervals over seeds."""
    lines = [f"| option | {' | '.join(OPTION_COLUMNS)} |", "|---" * (1 + len(OPTION_COLUMNS)) + "|"]
    found = {name: stored(name) for name in OPTIONS}
    if not found["default"]:
        return NOT_MEASURED
    for name, seeds in found.items():
        common = sorted(seeds.keys() & found["default"].keys())
        if common:
            cells = option_cells([seeds[s] for s in common], [found["default"][s] for s in common])
            lines.append(f"| {name} | {' | '.join(cells)} |")
    for side, label in (("real", "real samples"), ("other", "other tasks")):
        lines.append(f"| {label} | {' | '.join(control_cells(list(found['default'].values()), side))} |")
    return "\n".join(lines)


def stored(name: str) -> dict[str, Any]:
    """Results by seed, none where nothing is stored."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text())["seeds"] if path.exists() else {}


def option_cells(results: Sequence[Any], defaults: Sequence[Any]) -> list[str]:
    """The cells of one option, from results and defaults of the same seeds."""
    pools, before = ([last_pool(r, "harmonic") for r in each] for each in (results, defaults))
    losses, former = ([old_loss(r) for r in each] for each in (results, defaults))
    change = [a - b for a, b in zip(pools, before, strict=True)]
    ratio = [100 * math.log(a / b) for a, b in zip(losses, former, strict=True)]
    return [
        str(len(results)),
        first_task(results, "coverage"),
        f"{mean([last_pool(r, 'share') for r in results]):.2f}",
        f"{mean([last_pool(r, 'coverage') for r in results]):.2f}",
        f"{mean(pools):.3f}",
        "" if results == defaults else interval(change, 3),
        f"{mean(losses):.4f}",
        "" if results == defaults else interval(ratio, 1),
        f"{mean([r['seconds']['replay'] for r in results]):.1f}",
    ]


def last_pool(result: Any, measure: str) -> float:
    """Mean of a measure over the old tasks in the last pool."""
    after = result["lines"][-1]["after"]
    return mean([line[measure] for line in result["lines"] if line["after"] == after])


def old_loss(result: Any) -> float:
    """Mean held-out loss of all tasks but the last."""
    return mean(list(result["held_out_loss"].values())[:-1])


def first_task(results: Sequence[Any], measure: str) -> str:
    """A measure of the first task by generation, mean over seeds."""
    rows = [[line[measure] for line in r["lines"] if line["task"] == r["lines"][0]["task"]] for r in results]
    return " ".join(f"{mean(column):.2f}" for column in zip(*rows, strict=True))


def control_cells(results: Sequence[Any], side: str) -> list[str]:
    """The same columns for a control, as far as it has them."""
    lines = [line[side] for r in results for line in r["lines"] if line["after"] == r["lines"][-1]["after"]]
    share, coverage, harmonic = (mean([line[name] for line in lines]) for name in ("share", "coverage", "harmonic"))
    blank = [""] * (len(OPTION_COLUMNS) - 5)
    return [str(len(results)), "", f"{share:.2f}", f"{coverage:.2f}", f"{harmonic:.3f}", *blank]


def students_table() -> str:
    """Markdown: success on the first tasks by what the policy was trained on, with 95 % intervals over episodes."""
    seeds = stored("students")
    if not seeds:
        return NOT_MEASURED
    names = list(next(iter(seeds.values()))["successes"]["teacher"])
    columns = ("trained on", *(f"{n.removesuffix('-v3')}, generation {STUDENT_TASKS - i}" for i, n in enumerate(names)))
    lines = [f"| {' | '.join((*columns, 'mean'))} |", "|---" * (len(columns) + 1) + "|"]
    labels = {
        "teacher": "the tasks, one after another (the teacher)",
        "generated": "its generated windows",
        "real": "real windows",
    }
    for kind, label in labels.items():
        counts = {n: [tuple(r["successes"][kind][n]) for r in seeds.values()] for n in names}
        cells = [share([counts[n]]) for n in names]
        lines.append(f"| {label} | {' | '.join(cells)} | {share(list(counts.values()))} |")
    return "\n".join(lines)


def share(counts: Sequence[Sequence[tuple[int, int]]]) -> str:
    """Mean success and its interval over episodes."""
    flat = [count for group in counts for count in group]
    low, high = mean_of_shares_interval(flat)
    return f"{mean([hits / total for hits, total in flat]):.2f} ({low:.2f} to {high:.2f})"


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean."""
    return sum(values) / len(values)


def interval(values: Sequence[float], digits: int) -> str:
    """Mean with its 95 % t-interval."""
    middle, count = mean(values), len(values)
    if count < 2:
        return f"{middle:+.{digits}f}"
    spread = math.sqrt(sum((v - middle) ** 2 for v in values) / (count - 1) / count) * t_quantile(0.95, count - 1)
    return f"{middle:+.{digits}f} ({middle - spread:+.{digits}f} to {middle + spread:+.{digits}f})"


if __name__ == "__main__":
    sys.exit(main())
