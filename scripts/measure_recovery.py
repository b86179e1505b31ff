"""Time in which a pushed network comes back to an old task, against the formula: results/maml/recovery.json, a figure.

.venv/bin/python scripts/measure_recovery.py            # train, measure, store, draw, print the table of docs/maml.md
.venv/bin/python scripts/measure_recovery.py --table    # only the table, from the stored results
.venv/bin/python scripts/measure_recovery.py --figure   # only the figure, from the stored results

The network of configs/quickstart.yaml learns its first task and generates samples of it. Its weights are pushed along
the top direction u of their Fisher, and plain gradient descent goes down beta L_i + lambda/2 d'F d, with L_i the
distilled loss, which the unpushed weights minimise. With rho = u'Fu the coordinate u'd should shrink to its e-th part
in 1 / (rate (beta + lambda) rho) updates, if the loss bends along u as F says. It bends by h = u'Hu, whence the second
prediction, 1 / (rate (beta h + lambda rho)).
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import maml_tables
import torch
from quickstart import collect
from torch import Tensor

from trcl_policy.config import load_config
from trcl_policy.continual.alignment import hessian_product, loss_gradient
from trcl_policy.continual.fisher import estimate
from trcl_policy.continual.gradients import Sampled
from trcl_policy.continual.learner import Method, learn
from trcl_policy.continual.metric import LowRank
from trcl_policy.continual.model import Model
from trcl_policy.continual.params import Batch, Layout
from trcl_policy.continual.streams import Streams, derive_seed
from trcl_policy.continual.tasks import TaskSequence, draw
from trcl_policy.domains import DOMAINS
from trcl_policy.files import read_json, write_json
from trcl_policy.folder import provenance

ROOT = Path(__file__).resolve().parent.parent
FIGURE = ROOT / "docs" / "images" / "recovery_time.png"
SETTINGS = ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (1.0, 3.0), (0.3, 0.1), (0.1, 0.01))
SPEED = 0.03
"""rate * (beta + lambda) * rho: 33 updates to the e-th part, if the formula holds."""
PUSH = 0.05


@dataclass(frozen=True)
class Held:
    """A task at rest: model, weights (P,), samples whose loss they minimise, and a rank-1 Fisher there."""

    model: Model
    layout: Layout
    center: Tensor
    samples: Batch
    metric: LowRank

    @property
    def direction(self) -> Tensor:
        """u (P,)."""
        return self.metric.basis[0]

    @property
    def rho(self) -> float:
        """u'Fu."""
        return float(self.metric.values[0])

    def bend(self) -> float:
        """h = u'Hu at rest."""
        product = hessian_product(self.model, self.layout, self.center, self.samples, self.direction)
        return float(self.direction @ product)

    def descend(self, beta: float, weight: float, rate: float, push: float, most: int) -> list[float]:
        """u'd after each update of gradient descent from ``push`` along u, until a fifth is left; [0] is ``push``."""
        theta, found = self.center + push * self.direction, [push]
        while found[-1] > 0.2 * push and len(found) <= most:
            replayed = loss_gradient(self.model, self.layout, theta, self.samples)
            theta = theta - rate * (beta * replayed + weight * self.metric.multiply(theta - self.center))
            found.append(float(self.direction @ (theta - self.center)))
        return found


def time_to_e(coordinates: Sequence[float]) -> float | None:
    """Updates after which the e-th part is left, between two updates by a straight line in the logarithm.

    None where it never came so far.
    """
    target = math.log(coordinates[0]) - 1
    for step in range(1, len(coordinates)):
        if coordinates[step] <= 0 or math.log(coordinates[step]) <= target:
            before, after = (math.log(max(value, 1e-300)) for value in coordinates[step - 1 : step + 1])
            return step - 1 + (before - target) / (before - after)
    return None


def measure_one(held: Held, beta: float, weight: float, most: int = 2000) -> dict[str, Any]:
    """Predicted and measured time constant [updates] for one pair of weights."""
    rate, bend = SPEED / ((beta + weight) * held.rho), held.bend()
    path = held.descend(beta, weight, rate, PUSH, most)
    return {
        "beta": beta,
        "lambda": weight,
        "predicted": 1 / SPEED,
        "predicted_with_h": 1 / (rate * (beta * bend + weight * held.rho)),
        "measured": time_to_e(path),
        "path": [value / path[0] for value in path[:: max(1, len(path) // 40)]],
        "every": max(1, len(path) // 40),
    }


def learned(seed: int, data: Path, count: int) -> Held:
    """The first quick task's network at its end."""
    config = load_config("quickstart", {"seed": seed, "data.store": str(data), "device": "cpu"})
    domain = DOMAINS["policy"](config)
    model, task, streams = domain.model, domain.tasks[0], Streams(derive_seed(seed, "learning"))
    steps = config.training.steps
    *_, last = learn(model, domain.params(), TaskSequence((task,)), Method(), config.training, streams, steps)
    theta, params, probes = last.theta.clone(), last.params, Streams(derive_seed(seed, "recovery"))
    real = model.corrupt(draw(task.samples, config.method.fisher_samples, probes["samples"]), probes["noise"])
    found = estimate("lowrank", Sampled(model, last.layout, theta, real), probes["directions"], rank=1)
    made = model.generate(params, task.conditions(count, probes["conditions"]), probes["generate"])
    corrupted = model.corrupt(made, probes["replay"])
    with torch.no_grad():
        distilled = {**corrupted, "target": model.predict(params, corrupted)}
    return Held(model, last.layout, theta, distilled, found.metric.scaled(found.curvature_ratio))


def draw_figure(runs: Sequence[dict[str, Any]]) -> None:
    """Left: the way back of the first seed; right: measured against predicted times."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from trcl_policy.report.plots import PALETTE, STYLE, save_figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 3.1), layout="constrained")
        left, right = figure.subplots(1, 2)
        for place, one in enumerate(runs[0]["settings"]):
            label = f"beta {one['beta']:g}, lambda {one['lambda']:g}"
            times = [step * one["every"] for step in range(len(one["path"]))]
            left.plot(times, one["path"], color=PALETTE[place], label=label)
        longest = max(len(one["path"]) * one["every"] for one in runs[0]["settings"])
        times = list(range(0, longest, 2))
        left.plot(times, [math.exp(-SPEED * t) for t in times], "k--", label="formula")
        left.set(xlabel="updates", ylabel="share of the push left along u", yscale="log", ylim=(0.18, 1.05))
        left.legend(fontsize=7.5)
        points = [one for run in runs for one in run["settings"] if one["measured"] is not None]
        for key, marker, label in (
            ("predicted", "s", "1 / (rate (beta + lambda) rho)"),
            ("predicted_with_h", "o", "1 / (rate (beta h + lambda rho))"),
        ):
            right.loglog([p[key] for p in points], [p["measured"] for p in points], marker, label=label, alpha=0.7)
        ends = [0.8 * min(p["measured"] for p in points), 1.25 * max(p["measured"] for p in points)]
        right.plot(ends, ends, "k--", linewidth=1)
        ticks = [25, 50, 100, 200, 400]
        for axis in (right.xaxis, right.yaxis):
            axis.set_ticks(ticks, [str(tick) for tick in ticks])
            axis.set_ticks([], minor=True)
        left.set_yticks([0.2, 0.4, 0.6, 0.8, 1.0], ["0.2", "0.4", "0.6", "0.8", "1"])
        left.set_yticks([], minor=True)
        right.set(xlabel="predicted time constant, updates", ylabel="measured")
        right.legend(fontsize=7.5)
        save_figure(figure, FIGURE)


def main() -> int:
    """Measure, store and draw, or only print; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 .. N-1")
    parser.add_argument("--samples", type=int, default=256, help="generated samples of the loss")
    parser.add_argument("--data", type=Path, default=Path("data/quick.zarr"), help="episode store")
    parser.add_argument("--table", action="store_true", help="only print the table of the stored results")
    parser.add_argument("--figure", action="store_true", help="only draw the stored results")
    options = parser.parse_args()
    if options.figure:
        draw_figure(read_json(maml_tables.RECOVERY)["runs"])
        return 0
    if not options.table:
        torch.set_num_threads(1)
        if not options.data.exists():
            collect(options.data)
        runs = []
        for seed in range(options.seeds):
            held = learned(seed, options.data, options.samples)
            settings = [measure_one(held, beta, weight) for beta, weight in SETTINGS]
            runs.append({"seed": seed, "rho": held.rho, "h": held.bend(), "settings": settings})
        write_json(
            maml_tables.RECOVERY, {"provenance": provenance(), "samples": options.samples, "push": PUSH, "runs": runs}
        )
        draw_figure(runs)
    print(maml_tables.recovery())
    return 0


if __name__ == "__main__":
    sys.exit(main())
