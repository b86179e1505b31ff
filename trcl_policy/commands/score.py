"""``trcl evaluate`` for image generators."""

from __future__ import annotations

import dataclasses
from typing import Any

from trcl_policy.commands.measure import Evaluate
from trcl_policy.commands.parsing import say
from trcl_policy.folder import RunFolder
from trcl_policy.schema import ConfigError

ROLLOUTS = (
    "matrix",
    "episodes",
    "workers",
    "launcher",
    "ray_address",
    "timeout",
    "backend",
    "env_python",
    "acting_steps",
    "n_action_steps",
)
"""Options that mean something for policies only."""


def score(options: Evaluate) -> int:
    """Score a checkpoint's images task by task; the result also goes to ``RUN/evaluations/CHECKPOINT.json``."""
    import torch

    from trcl_policy.files import write_json
    from trcl_policy.folder import provenance
    from trcl_policy.image_domain import ImageDomain
    from trcl_policy.rollout.distances import interval_of_mean

    _check(options)
    folder = RunFolder(options.run)
    config = dataclasses.replace(folder.config(), device=options.device)
    torch.set_num_threads(config.threads)
    checkpoint = folder.checkpoint(options.checkpoint)
    domain = ImageDomain(config)
    generator = domain.load(checkpoint)
    tasks: dict[str, dict[str, Any]] = {}
    for name in _chosen(domain, options.tasks, generator.num_learned):
        place = domain.names.index(name)
        tasks[name] = domain.scorer.score(generator, place, options.seed, options.samples).to_json()
    average = sum(entry["distance"] for entry in tasks.values()) / len(tasks)
    bounds = [[entry["distance_low"], entry["distance_high"]] for entry in tasks.values()]
    result = {
        "run": str(options.run),
        "checkpoint": checkpoint.name,
        "score": domain.scorer.name,
        "tasks": tasks,
        "average": average,
        "average_interval": interval_of_mean([entry["distance"] for entry in tasks.values()], bounds),
    }
    target = folder.path / "evaluations" / f"{checkpoint.name}.json"
    write_json(target, {**result, "provenance": provenance()})
    lines = [f"{domain.scorer.name} of each task, lower is better, with 95 % interval"]
    lines += [_line(name, entry) for name, entry in tasks.items()]
    say(options.json, result, "\n".join([*lines, f"{'average':<28} {average:.2f}", f"written: {target}"]))
    return 0


def _check(options: Evaluate) -> None:
    plain = {field.name: field.default for field in dataclasses.fields(Evaluate)}
    for name in ROLLOUTS:
        if getattr(options, name) != plain[name]:
            raise ConfigError(f"{name} must be left out for images, got {getattr(options, name)}")
    if options.samples is not None and options.samples < 2:
        raise ConfigError(f"samples must be >= 2, got {options.samples}")


def _chosen(domain: Any, wanted: str | None, num_learned: int) -> list[str]:
    """Names of the tasks to score, which must have been learned."""
    learned = list(domain.names[:num_learned])
    names = learned if wanted is None else [domain.resolve(name.strip()) for name in wanted.split(",")]
    for name in names:
        if name not in learned:
            raise ConfigError(f"task must be a learned one ({', '.join(learned)}), got {name}")
    return list(dict.fromkeys(names))


def _line(name: str, entry: dict[str, Any]) -> str:
    return (
        f"{name:<28} {entry['distance']:.2f}  [{entry['distance_low']:.2f}, {entry['distance_high']:.2f}]  "
        f"named right {entry['accuracy']:.2f}, {entry['num_made']} images against {entry['num_real']}"
    )
