"""Does one weight mean the same for other networks and losses? results/knob/NAME.json and the table of docs/knob.md.

.venv/bin/python scripts/measure_knob.py            # measure what is missing (minutes), print the table
.venv/bin/python scripts/measure_knob.py --table    # only the table, from the stored results

Two tasks of the quick sequence are learned one after the other without replay, so that the trust region alone holds the
first. From the same weights after the first task, the second is learned with every weight. Two shares of held-out loss
tell how it went:

    kept     1 - (rise of the first task's loss) / (its rise under fine-tuning)
    learned  (fall of the second task's loss) / (its fall under fine-tuning)

Networks differ in size, losses in what is predicted and in scale; ``lambda`` is the published strength, on the
plain Fisher.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trcl_policy.config import RunConfig, load_config
from trcl_policy.continual.learner import Method, Snapshot, learn
from trcl_policy.continual.model import Model
from trcl_policy.continual.params import Batch, Params
from trcl_policy.continual.parts import ANCHORS, UPDATES, Options
from trcl_policy.continual.probes import held_out_loss
from trcl_policy.continual.streams import Streams, derive_seed
from trcl_policy.domains import PolicyDomain
from trcl_policy.files import write_json

RESULTS = Path(__file__).resolve().parent.parent / "results" / "knob"
TASKS = ["faucet-close-v3", "drawer-open-v3"]
SETTINGS: dict[str, dict[str, Any]] = {
    "mlp 64, x0": {"network.width": 64},
    "mlp 192 x 3, epsilon": {"network.width": 192, "network.depth": 3, "diffusion.prediction": "epsilon"},
    "mlp 64, x0, loss x 100": {"network.width": 64, "scale": 100.0},
}
FORMS = {"penalty": ("penalty", "weight"), "proximal": ("proximal", "weight"), "lambda": ("penalty", "raw_lambda")}
WEIGHTS = [10.0**power for power in range(-3, 6)]
LEVEL = 0.5
"""A weight is useful where both shares are at least this."""


class Scaled:
    """A model whose losses, and the gradients of its predictions, are ``scale`` times as large."""

    def __init__(self, model: Any, scale: float) -> None:
        self.model, self.scale = model, scale

    def corrupt(self, batch: Batch, rng: torch.Generator) -> Batch:
        """The model's own."""
        return self.model.corrupt(batch, rng)

    def losses(self, params: Params, corrupted: Batch) -> Tensor:
        """The model's losses times the scale."""
        return self.scale * self.model.losses(params, corrupted)

    def predict(self, params: Params, corrupted: Batch) -> Tensor:
        """The model's own."""
        return self.model.predict(params, corrupted)

    def generate(self, params: Params, condition: Batch, rng: torch.Generator) -> Batch:
        """The model's own."""
        return self.model.generate(params, condition, rng)


def main() -> None:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="data/quick.zarr", help="episode store of the quick sequence")
    parser.add_argument("--seeds", type=int, default=2, help="seeds 0 .. N-1")
    parser.add_argument("--steps", type=int, default=300, help="updates a task")
    parser.add_argument("--table", action="store_true", help="only print the table of the stored results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in [] if options.table else SETTINGS:
        for seed in range(options.seeds):
            target = RESULTS / f"{slug(name)}-seed-{seed}.json"
            if not target.exists():
                print(f"{name}, seed {seed} ...", flush=True)
                write_json(target, {"setting": name, "seed": seed, **measure(name, seed, options)})
    print(table())


def measure(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Losses before the second task and after it, for every form and weight and under fine-tuning."""
    chosen = {key: value for key, value in SETTINGS[name].items() if key != "scale"}
    common = {"tasks": TASKS, "seed": seed, "data.store": options.data, "training.steps": options.steps}
    config = load_config("quickstart", {**common, **chosen})
    domain = PolicyDomain(config)
    learner = Learner(config, domain, Scaled(domain.model, SETTINGS[name].get("scale", 1.0)))
    after: dict[str, dict[str, list[float]]] = {}
    for form, (update, knob) in FORMS.items():
        before, state = learner.first_task(method(update, knob, 1.0))
        after[form] = {f"{weight:g}": learner.second_task(method(update, knob, weight), state) for weight in WEIGHTS}
        free = learner.second_task(method(update, knob, 0.0), state)
    return {"before": before, "finetune": free, "after": after, "steps": options.steps}


def method(update: str, knob: str, weight: float) -> Method:
    """A diagonal trust region without replay."""
    options = Options(**{knob: weight})
    return Method(update=UPDATES[update](options), anchor=ANCHORS["diagonal"](options))


@dataclass(frozen=True)
class Learner:
    """Learns the two tasks, the second as often as wanted from one end of the first."""

    config: RunConfig
    domain: PolicyDomain
    model: Model

    def first_task(self, how: Method) -> tuple[list[float], dict[str, Tensor]]:
        """Losses of both tasks after the first, and the state to go on from."""
        settled = next(snapshot for snapshot in self._learn(how, None) if snapshot.kind == "settled")
        return self._losses(settled), settled.state()

    def second_task(self, how: Method, state: dict[str, Tensor]) -> list[float]:
        """Losses of both tasks after the second."""
        return [self._losses(snapshot) for snapshot in self._learn(how, state)][-1]

    def _learn(self, how: Method, state: dict[str, Tensor] | None) -> Iterator[Snapshot]:
        streams = Streams(derive_seed(self.config.seed, "learning"))
        params, tasks = self.domain.params(), self.domain.tasks
        return learn(self.model, params, tasks, how, self.config.training, streams, 10**9, resume=state)

    def _losses(self, snapshot: Snapshot) -> list[float]:
        found = [held_out_loss(self.domain.model, snapshot.params, task, seed=0) for task in self.domain.tasks]
        return [loss for loss in found if loss is not None]


def shares(found: dict[str, Any], form: str, weight: float) -> tuple[float, float]:
    """What is kept of the first task and learned of the second, each 1 at best."""
    (old, new), (lost, gained) = found["before"], found["finetune"]
    held, learned = found["after"][form][f"{weight:g}"]
    return 1 - (held - old) / (lost - old), (new - learned) / (new - gained)


def table() -> str:
    """Markdown: for every setting and form the weights that keep and learn enough, and the best compromise."""
    columns = ("network and loss", "seeds", "form", "useful weights", "best weight", "kept, learned there")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name in SETTINGS:
        runs = [json.loads(path.read_text()) for path in sorted(RESULTS.glob(f"{slug(name)}-seed-*.json"))]
        for form in FORMS if runs else ():
            mean = {weight: averages([shares(run, form, weight) for run in runs]) for weight in WEIGHTS}
            useful = [weight for weight, both in mean.items() if min(both) >= LEVEL]
            best = max(mean, key=lambda weight: min(mean[weight]))
            spread = f"{useful[0]:g} to {useful[-1]:g}" if useful else "none"
            lines.append(
                f"| {name} | {len(runs)} | {form} | {spread} | {best:g} | {mean[best][0]:.2f}, {mean[best][1]:.2f} |"
            )
    return "\n".join(lines)


def averages(pairs: list[tuple[float, float]]) -> list[float]:
    """The mean of each of the two."""
    return [sum(values) / len(pairs) for values in zip(*pairs, strict=True)]


def slug(name: str) -> str:
    """A file name for a setting."""
    return "-".join("".join(c if c.isalnum() else " " for c in name).split())


if __name__ == "__main__":
    main()
