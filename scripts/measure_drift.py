"""How far a run's last model has moved from what each task's own model says: where it rehearsed, and where it did not.

.venv/bin/python scripts/measure_drift.py runs/precise5/replay_dark/seed-0

For every old task of a run with kept predictions (replay_dark, trcl_fixed, trcl): the mean squared difference between
the actions that the last model predicts from an observation and noise, and those that the model predicted which had
just learned the task, on

    kept        the windows with predictions that the run rehearsed
    anew        windows that the task's own model generates now
    learned     windows of the task's demonstrations
    held out    windows of demonstrations that served measurement only

at noise levels above three quarters, where the policy decides what to do. Far less on kept windows than on others: they
are known by heart. The last column is what that costs on held-out demonstrations, as a rise of the loss of the actions.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from trcl_policy.continual.model import corrupted_for
from trcl_policy.continual.params import Batch, Params, rows
from trcl_policy.continual.replay import Pool
from trcl_policy.continual.tasks import Task, draw
from trcl_policy.diffusion.denoiser import Denoiser
from trcl_policy.files import FileError
from trcl_policy.folder import RunFolder
from trcl_policy.policy.controller import load_policy
from trcl_policy.policy_domain import PolicyDomain
from trcl_policy.report.tables import NONE, Table
from trcl_policy.schema import ConfigError

PLACES = ("kept", "anew", "learned", "held out")
COUNT = 8000
"""Windows of each kind, of which about a quarter is noisy enough."""
NOISY = 0.75


def main(words: Sequence[str] | None = None) -> int:
    """Print a table for every run; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="runs of policies, finished, with kept predictions")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    for run in options.runs:
        try:
            print(drift_table(RunFolder(run)).text(), end="\n\n")
        except (ConfigError, FileError, ValueError) as error:
            print(f"measure_drift: {error}", file=sys.stderr)
            return 2
    return 0


def drift_table(folder: RunFolder) -> Table:
    """One old task a row, and their mean.

    Raises:
        ConfigError, ValueError: the run is not finished or keeps no predictions.
    """
    state = folder.load_state() or {}
    pool = kept_pool(state)
    if pool.origin is None:
        raise ValueError(f"run must keep windows with predictions (replay_dark, trcl_fixed, trcl), got {folder.path}")
    domain = PolicyDomain(folder.config(), folder.path)
    model = domain.model.precise()
    names = list(domain.tasks)[: pool.num_tasks]
    last = load_policy(folder.checkpoint()).params
    found = []
    for number, task in enumerate(names):
        own = load_policy(folder.checkpoint(number)).params
        found.append(drift(model, own, last, task, rows(pool.samples, (pool.origin == number).nonzero().squeeze(1))))
    lines = [(task.name, *cells(values)) for task, values in zip(names, found, strict=True)]
    mean = {key: sum(values[key] for values in found) / len(found) for key in found[0]}
    header = ("task", *PLACES, "held-out loss of actions")
    title = f"{folder.path}: mean squared drift of predicted actions, in thousandths of squared normalised units"
    return Table(title, header, (*lines, ("mean", *cells(mean))))


def kept_pool(state: Mapping[str, Tensor]) -> Pool:
    """The windows with predictions that a saved run learned from."""
    inner = {
        key.partition("replay/")[2]: leaf
        for key, leaf in state.items()
        if "replay/" in key and "watched/" not in key and "fresh/" not in key
    }
    return Pool.restored(inner) if "teacher" not in inner else Pool()


def drift(model: Denoiser, own: Params, last: Params, task: Task, kept: Batch) -> dict[str, float]:
    """Drift on every kind of window, and the rise of the held-out loss as a share."""
    rng = torch.Generator().manual_seed(0)
    made = model.generate(own, task.conditions(COUNT, rng), rng)
    kinds = {
        "kept": kept,
        "anew": asked(model, made, rng),
        "learned": asked(model, draw(task.samples, COUNT, rng), rng),
    }
    if task.held_out is not None:
        kinds["held out"] = asked(model, draw(task.held_out, COUNT, rng), rng)
    noisy = {key: decided(batch, model) for key, batch in kinds.items()}
    found = {key: difference(model, last, batch, actions(model, own, batch)) for key, batch in noisy.items()}
    if "held out" in noisy:
        held = noisy["held out"]
        before, after = (difference(model, params, held, held["target"]) for params in (own, last))
        found["rise"] = after / before - 1
    return found


def asked(model: Denoiser, batch: Batch, rng: torch.Generator) -> Batch:
    """Windows that ask for actions."""
    return corrupted_for("use", model, batch, rng)


def decided(batch: Batch, model: Denoiser) -> Batch:
    """Those with a clean observation and much noise on the actions."""
    chosen = (batch["level"][:, 0] == 0) & (model.noise_level(batch) > NOISY)
    return rows(batch, chosen.nonzero().squeeze(1))


def actions(model: Denoiser, params: Params, batch: Batch) -> Tensor:
    """Predictions (B, F)."""
    with torch.no_grad():
        return model.predict(params, batch)


def difference(model: Denoiser, params: Params, batch: Batch, said: Tensor) -> float:
    """Mean squared difference of the predicted actions from ``said`` (B, F)."""
    start = model.parts["observation"]
    return float((actions(model, params, batch) - said)[:, start:].square().mean())


def cells(values: Mapping[str, float]) -> tuple[str, ...]:
    """Drifts in thousandths, then the rise in per cent."""
    told = [f"{1000 * values[place]:.2f}" if place in values else NONE for place in PLACES]
    return (*told, f"{100 * values['rise']:+.1f} %" if "rise" in values else NONE)


if __name__ == "__main__":
    sys.exit(main())
