"""Alignment of TRCL's old-task gradient with MAML's while the quick sequence is learned: results/maml/quick-*.json.

.venv/bin/python scripts/measure_alignment.py            # train and measure what is not stored, print the tables
.venv/bin/python scripts/measure_alignment.py --table    # only the tables, from the stored results

Networks are trained as configs/quickstart.yaml says, but with fewer updates and without a moving average, so that the
weights measured are the weights that the optimiser moves. All measurements draw from streams of their own and leave
the training as it was.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import maml_tables
import torch
from maml_tables import KINDS, VIEWS
from quickstart import collect
from torch import Tensor

from trcl_policy.config import load_config
from trcl_policy.continual.alignment import (
    MetaGradient,
    compare,
    cosine,
    hessian_product,
    largest_curvature,
    loss_gradient,
    maml_gradient,
)
from trcl_policy.continual.fisher import estimate
from trcl_policy.continual.gradients import Sampled
from trcl_policy.continual.learner import Snapshot, learn
from trcl_policy.continual.methods import make_method
from trcl_policy.continual.metric import LowRank, Metric
from trcl_policy.continual.params import Batch, Layout
from trcl_policy.continual.streams import Streams, derive_seed
from trcl_policy.continual.tasks import Task, draw
from trcl_policy.domains import DOMAINS, PolicyDomain
from trcl_policy.files import write_text
from trcl_policy.folder import provenance

METHODS = ("replay", "trcl")
UPDATES = (1, 10, 100)
SHARES = (0.1, 1.0, 3.0)
WEIGHTS = (0.1, 1.0, 10.0)
RANK = 16


@dataclass(frozen=True)
class Ended:
    """A learned task: its weights then, samples of its own loss, its Fishers in curvature units, its curvature."""

    task: Task
    center: Tensor
    samples: Batch
    metrics: dict[str, Metric]
    largest: float
    facts: dict[str, Any]


@dataclass
class Bench:
    """What one training run is measured with."""

    domain: PolicyDomain
    layout: Layout
    streams: Streams
    count: int
    ended: list[Ended]
    replayed: list[dict[str, Batch]]

    def draw(self, task: Task, name: str, count: int, held_out: bool = False) -> Batch:
        """Corrupted real samples of a task."""
        source = task.held_out if held_out else task.samples
        picked = draw(source, count, self.streams[f"{name}/samples"])
        return self.domain.model.corrupt(picked, self.streams[f"{name}/noise"])

    def settle(self, task: Task, theta: Tensor) -> None:
        """Take in a task at its end, and let the network of that moment generate every task seen so far."""
        self.ended.append(self._end(task, theta))
        self.replayed = [self._replay(ended.task, theta) for ended in self.ended]

    def _end(self, task: Task, theta: Tensor) -> Ended:
        model, layout, rng = self.domain.model, self.layout, self.streams["directions"]
        sampled = Sampled(model, layout, theta, self.draw(task, "fisher", self.count))
        found = {kind: estimate(kind, sampled, rng, RANK) for kind in ("diagonal", "rank1", "lowrank")}
        found["kronecker"] = estimate("kronecker", sampled, self.streams["targets"])
        metrics = {kind: one.metric.scaled(one.curvature_ratio) for kind, one in found.items()}
        metrics["top"] = LowRank(metrics["lowrank"].basis[:1], metrics["lowrank"].values[:1])
        samples = self.draw(task, "curvature", self.count)
        largest, direction = largest_curvature(model, layout, theta, samples, rng, num_steps=15)
        trace = found["diagonal"].trace * found["diagonal"].curvature_ratio
        facts: dict[str, Any] = {"task": task.name, "hessian_trace": trace, "largest_curvature": largest}
        for kind in ("rank1", "top", "lowrank"):
            basis = metrics[kind].basis
            bends = [float(row @ hessian_product(model, layout, theta, samples, row)) for row in basis]
            facts[kind] = {
                "fisher_share": float(metrics[kind].values.sum()) / trace,
                "hessian_share": sum(bends) / trace,
                "steepest_share": float((basis @ direction).norm()) ** 2,
                "along_first": bends[0] / largest,
            }
        return Ended(task, theta, samples, metrics, largest, facts)

    def _replay(self, task: Task, teacher: Tensor) -> dict[str, Batch]:
        model, params = self.domain.model, self.layout.unflatten(teacher)
        with torch.no_grad():
            condition = task.conditions(self.count, self.streams["replay/conditions"])
            made = model.generate(params, condition, self.streams["replay/generate"])
            plain = model.corrupt(made, self.streams["replay/noise"])
            distilled = {**plain, "target": model.predict(params, plain)}
        real = {name: self.draw(task, f"real/{name}", self.count, True) for name in ("support", "query")}
        return {"plain": plain, "distilled": distilled, **real}

    def moment(self, snapshot: Snapshot) -> dict[str, Any]:
        """All cosines at the current weights."""
        theta = snapshot.theta.clone()
        pulls = {kind: [old.metrics[kind].multiply(theta - old.center) for old in self.ended] for kind in KINDS}
        record: dict[str, Any] = {"task_index": snapshot.position.task, "update": snapshot.position.step}
        record["curvature"] = self._curvature(theta, pulls)
        record["views"] = {name: {} for name in VIEWS}
        forces = {
            name: [loss_gradient(self.domain.model, self.layout, theta, old[name]) for old in self.replayed]
            for name in ("distilled", "plain")
        }
        for share in SHARES:
            rate = share / max(old.largest for old in self.ended)
            for name, meta in self._views(theta, rate):
                replayed = forces["plain" if name == "plain" else "distilled"]
                record["views"][name][str(share)] = _compared(meta, replayed, pulls, name == VIEWS[0])
        return record

    def _curvature(self, theta: Tensor, pulls: Mapping[str, Sequence[Tensor]]) -> dict[str, Any]:
        """How well F d stands for H d, with H at the end of each old task, and whether its size is right."""
        ds = [theta - old.center for old in self.ended]
        hds = [
            hessian_product(self.domain.model, self.layout, old.center, old.samples, d)
            for old, d in zip(self.ended, ds, strict=True)
        ]
        found = {"identity": {"cosine": [cosine(d, hd) for d, hd in zip(ds, hds, strict=True)]}}
        for kind, pulled in pulls.items():
            found[kind] = {
                "cosine": [cosine(fd, hd) for fd, hd in zip(pulled, hds, strict=True)],
                "ratio": [float(d @ fd) / float(d @ hd) for d, fd, hd in zip(ds, pulled, hds, strict=True)],
            }
        return found

    def _views(self, theta: Tensor, rate: float) -> Iterator[tuple[str, list[Tensor]]]:
        """Each view's name with MAML's gradients of all old tasks."""
        distilled, plain, real = (
            [self._maml(theta, old[support], old[query], rate) for old in self.replayed]
            for support, query in (("distilled", "distilled"), ("plain", "plain"), ("support", "query"))
        )
        yield "distilled", [one.exact for one in distilled]
        yield "first order", [one.first_order for one in distilled]
        yield "plain", [one.exact for one in plain]
        yield "demonstrations", [one.exact for one in real]

    def _maml(self, theta: Tensor, support: Batch, query: Batch, rate: float) -> MetaGradient:
        return maml_gradient(self.domain.model, self.layout, theta, support, query, rate)


def _compared(
    meta: Sequence[Tensor], replayed: Sequence[Tensor], pulls: Mapping[str, Sequence[Tensor]], by_task: bool
) -> dict[str, Any]:
    """Control, and per Fisher the differences from it: of the sums, at the best weight there is, and task by task.

    The weights are WEIGHTS and the one at which the pull is as long as the replay's gradient.
    """
    names, parts = ("meta", "replayed", *pulls), (meta, replayed, *pulls.values())
    small = dict(zip(names, shrunk(parts), strict=True))
    meta, replayed = small.pop("meta"), small.pop("replayed")
    control = compare(meta, replayed, replayed, 0.0)
    record: dict[str, Any] = {"control": {"summed": control.summed, "per_task": control.per_task}}
    for kind, pulled in small.items():
        equal = float(sum(replayed).norm() / sum(pulled).norm())
        found = [compare(meta, replayed, pulled, weight) for weight in (*WEIGHTS, equal)]
        record[kind] = {"summed": [one.summed_difference for one in found], "equal_weight": equal}
        record[kind]["best"] = best_gain(sum(replayed), sum(pulled), sum(meta))
        if by_task:
            record[kind]["per_task"] = [one.differences for one in found]
    return record


def shrunk(parts: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    """Short vectors with the same inner products, so that hundreds of cosines cost no more than one pass.

    The columns of R in X = QR have the inner products of the columns of X.
    """
    rows = torch.stack([vector.double() for part in parts for vector in part])
    columns = iter(torch.linalg.qr(rows.T, mode="r").R.T)
    return [[next(columns) for _ in part] for part in parts]


def best_gain(replayed: Tensor, pulled: Tensor, meta: Tensor) -> float:
    """Largest gain in cosine that any weight >= 0 brings, with hindsight.

    The derivative of cos(a + lambda e, m) has the sign of slope + lambda bend, so the maximum is at 0, at their ratio
    or at infinity.
    """
    a, e, m = (vector.double() for vector in (replayed, pulled, meta))
    slope, bend = (e @ m) * (a @ a) - (a @ m) * (a @ e), (e @ m) * (a @ e) - (a @ m) * (e @ e)
    candidates = [a, e] + ([a - slope / bend * e] if slope > 0 > bend else [])
    return max(cosine(one, m) for one in candidates) - cosine(a, m)


def measure(method: str, seed: int, data: Path, steps: int, count: int) -> dict[str, Any]:
    """Train one network and measure it on the way."""
    given = {"seed": seed, "data.store": str(data), "method.name": method, "training.steps": steps}
    config = load_config("quickstart", {**given, "training.ema_decay": 0.0, "device": "cpu"})
    domain = DOMAINS["policy"](config)
    layout = Layout.of(domain.params())
    probes = Streams(derive_seed(seed, "alignment"))
    bench = Bench(domain, layout, probes, count, [], [])
    streams = Streams(derive_seed(seed, "learning"))
    made, moments = make_method(method, config.method), []
    for snapshot in learn(domain.model, domain.params(), domain.tasks, made, config.training, streams, steps, UPDATES):
        if snapshot.kind != "settled" and bench.ended:
            moments.append(bench.moment(snapshot))
            print(f"{method} seed {seed}: {snapshot.task} update {snapshot.position.step}", file=sys.stderr, flush=True)
        if snapshot.kind == "learned" and snapshot.position.task < len(domain.tasks) - 1:
            bench.settle(domain.tasks[snapshot.position.task], snapshot.theta.clone())
    ends = [ended.facts for ended in bench.ended]
    return {"method": method, "seed": seed, "num_weights": layout.size, "ends": ends, "moments": moments}


def rounded(value: Any) -> Any:
    """Numbers to four digits: more than a cosine from some hundred samples can carry."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list | tuple) else value


def store(path: Path, document: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    """One line a moment, so that the file stays readable and small."""
    head = json.dumps({**document, **{key: value for key, value in run.items() if key != "moments"}}, indent=1)[:-2]
    write_text(path, head + ',\n "moments": [\n' + ",\n".join(map(json.dumps, run["moments"])) + "\n]\n}\n")


def main() -> int:
    """Measure and store, or only print; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds; what is stored stays")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS, help="how the network is trained")
    parser.add_argument("--samples", type=int, default=256, help="samples of each loss and Fisher")
    parser.add_argument("--steps", type=int, default=300, help="updates a task")
    parser.add_argument("--data", type=Path, default=Path("data/quick.zarr"), help="episode store")
    parser.add_argument("--table", action="store_true", help="only print the tables of the stored results")
    options = parser.parse_args()
    if not options.table:
        torch.set_num_threads(1)
        if not options.data.exists():
            collect(options.data)
        settings = {"steps": options.steps, "samples": options.samples, "rank": RANK}
        document = {"settings": {**settings, "shares": SHARES, "weights": WEIGHTS}, "provenance": provenance()}
        for method, seed in [(method, seed) for method in options.methods for seed in options.seeds]:
            path = maml_tables.RESULTS / f"quick-{method}-seed-{seed}.json"
            if not path.exists():
                store(path, document, rounded(measure(method, seed, options.data, options.steps, options.samples)))
    return maml_tables.main()


if __name__ == "__main__":
    sys.exit(main())
