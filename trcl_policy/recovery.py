"""Probe recovery: how fast do old tasks come back from a run's last weights, under the same training for every method?

It starts from a checkpoint and never changes the run's own results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from tqdm import tqdm

from trcl_policy.continual.params import Params
from trcl_policy.continual.probes import held_out_loss, recover
from trcl_policy.continual.recovery import dip
from trcl_policy.continual.statistics import wilson_interval
from trcl_policy.continual.tasks import Task
from trcl_policy.domains import Agent, Domain, open_domain
from trcl_policy.folder import RunFolder
from trcl_policy.rollout.relearning import HELD, loss_retention, survival_document
from trcl_policy.schema import ConfigError

LOSS_SEED = 0
"""Seed of the held-out noise: the one that the run's own held-out losses were taken under."""


@dataclass(frozen=True)
class Probe:
    """How recovery is probed; the same for every method.

    Attributes:
        steps: updates.
        every: updates between measurements.
        episodes: rollouts at each measurement; 0 measures the held-out loss alone.
        learning_rate: constant Adam rate.
        target: share of the success right after learning that counts as recovered; a loss, at most its value right
            after learning divided by this.
        seed: seed of batches, noise and start states.
    """

    steps: int
    every: int
    episodes: int
    learning_rate: float
    target: float
    seed: int

    def __post_init__(self) -> None:
        """Check every value once."""
        for name, least in (("steps", 1), ("every", 1), ("episodes", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be >= {least}, got {getattr(self, name)}")
        if not self.learning_rate > 0 or not 0 < self.target <= 1:
            raise ConfigError(
                f"learning_rate must be > 0 and target in (0, 1], got {self.learning_rate} and {self.target}"
            )


def recovery_curves(folder: RunFolder, tasks: str | None, probe: Probe) -> dict[str, Any]:
    """Probe recovery of old tasks from the newest checkpoint: success and held-out loss every few updates.

    Where tasks have no success (images), held-out losses alone are probed.

    Returns:
        A document with ``tasks`` {name: {steps, success, intervals, reference, recovered_after, held_after, losses,
        loss_reference, loss_recovered_after, loss_held_after}}: references are from right after the task was learned,
        ``recovered_after`` is the first update at the target and ``held_after`` the first of three measurements in a
        row there (null: never, or nothing to compare with; updates of the probe, 0 is the untouched checkpoint); with
        the ``survival`` of ``held_after`` pooled over tasks, {success, loss}, never counted as censored; and the
        ``probe``.
    """
    kind = folder.config().domain
    if kind != "policy" and probe.episodes:
        raise ConfigError(
            f"episodes must be 0 for {kind}, where held-out losses alone are probed, got {probe.episodes}"
        )
    domain, agent = open_run(folder)
    names = list(dict.fromkeys(domain.sequence[:-1])) if tasks is None else _chosen(domain, tasks)
    references = _References.of(folder, domain)
    curves: dict[str, Any] = {}
    with tqdm(total=len(names) * probe.steps, unit="step", disable=None) as bar:
        for name in names:
            curves[name] = _curve(domain, agent, name, probe, references, bar)
    domain.close()
    pooled = {
        "success": survival_document(_spells(curves, "success", "reference", "held_after")),
        "loss": survival_document(_spells(curves, "losses", "loss_reference", "loss_held_after")),
    }
    checkpoint = folder.checkpoint().name
    return {
        "run": str(folder.path),
        "checkpoint": checkpoint,
        "tasks": curves,
        "survival": pooled,
        "probe": asdict(probe),
    }


@dataclass(frozen=True)
class _References:
    """Success and held-out loss of each task right after it was learned; None where the run did not measure it."""

    success: Mapping[str, float | None]
    loss: Mapping[str, float | None]

    @classmethod
    def of(cls, folder: RunFolder, domain: Domain[Any]) -> _References:
        scores = (folder.metrics() or {}).get("scores")
        losses = loss_retention(folder.log(), domain.names)["losses"]
        return cls(_diagonal(scores, domain.sequence), _diagonal(losses, domain.sequence))


def _diagonal(matrix: Sequence[Sequence[float | None]] | None, sequence: Sequence[str]) -> dict[str, float | None]:
    """The first entry on the diagonal for each task; of a joint run, which has but its last row, the one there."""
    if matrix is None:
        return dict.fromkeys(sequence)
    places = {name: sequence.index(name) for name in sequence}
    return {
        name: matrix[-1][place] if matrix[place][place] is None else matrix[place][place]
        for name, place in places.items()
    }


def _curve(
    domain: Domain[Any], agent: Agent, name: str, probe: Probe, references: _References, bar: tqdm[Any]
) -> dict[str, Any]:
    task = domain.tasks[domain.sequence.index(name)]
    wins: dict[int, int | None] = {}
    losses: dict[int, float | None] = {}
    start = agent.params_of(domain.distinct.index(name))
    wins[0], losses[0] = _measured(domain, start, task, name, probe)
    way = recover(domain.model, start, task, probe.steps, probe.every, probe.seed, probe.learning_rate)
    for snapshot in way:
        step = snapshot.position.step
        bar.update(step - max(wins))
        wins[step], losses[step] = _measured(domain, snapshot.params, task, name, probe)
    success = {step: None if count is None else count / probe.episodes for step, count in wins.items()}
    reference, loss_reference = references.success[name], references.loss[name]
    first, held = _back(success, reference, probe.target, True)
    loss_first, loss_held = _back(losses, loss_reference, probe.target, False)
    return {
        "steps": list(wins),
        "success": list(success.values()),
        "intervals": [
            None if count is None else list(wilson_interval(count, probe.episodes)) for count in wins.values()
        ],
        "reference": reference,
        "recovered_after": first,
        "held_after": held,
        "losses": list(losses.values()),
        "loss_reference": loss_reference,
        "loss_recovered_after": loss_first,
        "loss_held_after": loss_held,
    }


def _measured(
    domain: Domain[Any], params: Params, task: Task, name: str, probe: Probe
) -> tuple[int | None, float | None]:
    """Successes (None without rollouts) and held-out loss (None without held-out samples)."""
    loss = held_out_loss(domain.model, params, task, LOSS_SEED)
    if probe.episodes == 0:
        return None, loss
    seeds, agent = range(probe.seed, probe.seed + probe.episodes), domain.agent(params, len(domain.sequence))
    return sum(bool(one.record()["success"]) for one in domain.measure(agent, name, seeds)), loss


def _back(
    values: Mapping[int, float | None], reference: float | None, target: float, higher_is_better: bool
) -> tuple[int | None, int | None]:
    """First measurement at the target, and first of three in a row; None is never, or not known."""
    known = {step: value for step, value in values.items() if value is not None}
    if reference is None or not known:
        return None, None
    fine = [not dip({1: value}, reference, target, 1, higher_is_better).dropped for value in known.values()]
    steps = list(known)
    first = next((step for step, good in zip(steps, fine, strict=True) if good), None)
    held = next((steps[n] for n in range(len(steps) - HELD + 1) if all(fine[n : n + HELD])), None)
    return first, held


def _spells(curves: Mapping[str, Any], values: str, reference: str, held: str) -> list[tuple[int, bool]]:
    """One spell a task that has measurements and a reference."""
    known = [c for c in curves.values() if c[reference] is not None and None not in c[values]]
    return [(c["steps"][-1], False) if c[held] is None else (c[held], True) for c in known]


def open_run(folder: RunFolder) -> tuple[Domain[Any], Agent]:
    """The domain of a run and what its newest checkpoint holds."""
    config = folder.config()
    torch.set_num_threads(config.threads)
    domain = open_domain(config, folder.path)
    return domain, domain.load(folder.checkpoint())


def _chosen(domain: Domain[Any], tasks: str) -> list[str]:
    names = [domain.resolve(name.strip()) for name in tasks.split(",")]
    for name in names:
        if name not in domain.sequence:
            raise ConfigError(f"task must be one of the run's ({', '.join(domain.distinct)}), got {name}")
    return names
