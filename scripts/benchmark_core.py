"""Time of the continual core's parts as ratios on this machine, with their peers.

.venv/bin/python scripts/benchmark_core.py                                            # all, one thread, minutes
.venv/bin/python scripts/benchmark_core.py --json results/benchmarks/core.json

Fisher: the diagonal, the rank-1 form along the mean gradient and Kronecker products, from 1,024 samples, against
training passes (forward, backward) over the same samples, 256 at a time; their peers are a loop of one backward pass a
sample, vmap(grad), and one product of curvlinops' empirical Fisher with a vector. Trust region: the gradient of the
diagonal penalty, its proximal map (a method takes one of them), or the gradient of the penalty of Kronecker products,
against one replay step (256 new and 256 replayed samples with distilled targets); the peer is the usual penalty, a sum
over parameters that autograd differentiates.

Seconds are the process's own (user and system) on one thread, so that other work on the machine counts little. Parts
take turns, and the fastest of their runs counts.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from trcl_policy.continual.anchor import FisherAnchor
from trcl_policy.continual.factors import kronecker_fisher
from trcl_policy.continual.fisher import ESTIMATORS
from trcl_policy.continual.gradients import Sampled
from trcl_policy.continual.metric import Diagonal
from trcl_policy.continual.model import chunks, gradient, leaves
from trcl_policy.continual.optimizer import FlatAdam, Training
from trcl_policy.continual.params import Layout
from trcl_policy.diffusion.denoiser import Denoiser
from trcl_policy.diffusion.process import Diffusion
from trcl_policy.images.model import ImageModel, ImageNetwork
from trcl_policy.policy.trajectory import Network, TrajectoryModel
from trcl_policy.policy.windows import Shape

NETWORKS = {
    "mlp": Network("mlp"),
    "mlp-128": Network("mlp", width=128),
    "unet-small": Network("unet", channels=(64, 128, 256)),
    "unet": Network("unet"),
    "unet-2d": ImageNetwork((32, 64)),
}
FISHER = {"mlp": 1024, "mlp-128": 1024, "unet-small": 1024, "unet": 256, "unet-2d": 256}
"""Networks whose Fisher is timed, and samples: the ratio to a pass does not depend on their number."""
TRUST_REGION = ("mlp-128", "mlp")
PEER_SAMPLES = {"mlp": 256, "mlp-128": 256, "unet-small": 16, "unet": 2, "unet-2d": 16}
"""Samples that the slow peers get; their seconds are scaled up."""
BATCH = 256


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="networks to time")
    parser.add_argument("--repeats", type=int, default=7, help="turns, of which the fastest counts")
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {"fisher": {}, "trust_region": {}}
    for name in options.networks:
        found["fisher"][name] = fisher(name, options.repeats)
        tell(name, found["fisher"][name], "pass_s")
        if name in TRUST_REGION:
            found["trust_region"][name] = trust_region(name, 20 * options.repeats)
            tell(name, found["trust_region"][name], "replay_step_s")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({**found, "machine": machine(options.repeats)}, indent=2) + "\n")


def fisher(name: str, repeats: int) -> dict[str, Any]:
    """Seconds and ratios of the diagonal, rank-1 and Kronecker-factored Fisher and their peers."""
    few, count = PEER_SAMPLES[name], FISHER[name]
    sampled = problem(NETWORKS[name], count)
    part = sampled.part(slice(few))
    difference = (part.mean_squares() - squares_by_rows(part)).abs().max() / part.mean_squares().max()
    repeats = repeats if count * sampled.layout.size < 2**33 else 2
    others = {
        kind: functools.partial(ESTIMATORS[kind], sampled, 1, torch.Generator()) for kind in ("rank1", "kronecker")
    }
    works = {"pass": lambda: training_pass(sampled), "diagonal": sampled.mean_squares, **others}
    seconds = fastest(works, repeats)
    peers = {"loop": lambda: [training_pass(part.part(slice(i, i + 1))) for i in range(min(few, 16))]}
    peers |= {"vmap": lambda: squares_by_rows(part)}
    scale = {"loop": count / min(few, 16), "vmap": count / few}
    slow = {key: value * scale[key] for key, value in fastest(peers, 2).items()}
    if name.startswith("mlp"):
        slow |= fastest({"curvlinops_product": oracle_product(sampled)}, repeats)
    return ratios({**seconds, **slow}, "pass", samples=count, weights=sampled.layout.size, difference=float(difference))


def trust_region(name: str, repeats: int) -> dict[str, Any]:
    """Seconds and ratios of the penalties' gradients, of the proximal map, and of the penalty through autograd."""
    sampled = problem(NETWORKS[name], 2 * BATCH)
    generator, theta = torch.Generator().manual_seed(1), sampled.theta
    center = theta + 0.01 * torch.randn(theta.shape, generator=generator)
    metric = Diagonal(torch.rand(theta.shape, generator=generator))
    anchor = FisherAnchor().merged_with(metric, 1.0, center)
    products = FisherAnchor("kronecker").merged_with(kronecker_fisher(sampled, generator), 1.0, center)
    penalty = penalty_by_parameter(sampled.layout, metric.values, center, theta)
    direction, moved = torch.zeros_like(theta), theta.clone()
    works = {
        "replay_step": replay_step(sampled, center),
        "gradient": lambda: anchor.add_gradient(direction, theta),
        "kronecker_gradient": lambda: products.add_gradient(direction, theta),
        "proximal": lambda: anchor.proximal(theta, 0.1, moved),
        "autograd_penalty": penalty,
    }
    torch.testing.assert_close(penalty(), anchor.gradient(theta), rtol=1e-4, atol=1e-7)
    seconds = fastest(works, repeats)
    return ratios(seconds, "replay_step", weights=len(theta))


def ratios(seconds: Mapping[str, float], unit: str, **more: float) -> dict[str, Any]:
    """Seconds by name, and each as a multiple of ``unit``."""
    times = {f"{name}_s": value for name, value in seconds.items()}
    shares = {name: value / seconds[unit] for name, value in seconds.items() if name != unit}
    return {**more, **times, "ratio": shares}


def tell(name: str, found: Mapping[str, Any], unit: str) -> None:
    """Print one network's ratios."""
    print(f"{name}, {found['weights']} weights; {unit.removesuffix('_s')} {1e3 * found[unit]:.1f} ms")
    for part, ratio in found["ratio"].items():
        print(f"  {part:<20} {ratio:10.4f} x {unit.removesuffix('_s')}")
    if "difference" in found:
        print(f"  diagonal against vmap: largest difference over largest value {found['difference']:.1e}", flush=True)


def problem(network: Network | ImageNetwork, samples: int) -> Sampled:
    """Random samples of ten tasks under random noise.

    Windows of the size of Meta-World's (observation 39, action 4, horizon 16), or grey images of 16 x 16.
    """
    model = image_model(network) if isinstance(network, ImageNetwork) else window_model(network)
    rng = torch.Generator().manual_seed(0)
    batch = {name: torch.randn(samples, size, generator=rng) for name, size in model.parts.items()}
    (condition,) = model.conditions
    corrupted = model.corrupt({**batch, condition: torch.arange(samples) % 10}, rng)
    params = {name: leaf.detach() for name, leaf in model.net.named_parameters()}
    layout = Layout.of(params)
    return Sampled(model, layout, layout.flatten(params), corrupted)


def window_model(network: Network) -> Denoiser:
    """The joint model of a policy and its generator."""
    shape = Shape(39, 4, 1, 16)
    return TrajectoryModel(network.build(shape, num_tasks=10, seed=0), Diffusion(), shape)


def image_model(network: ImageNetwork) -> Denoiser:
    """The model of an image generator."""
    shape = (1, 16, 16)
    return ImageModel(network.build(shape, 11, seed=0), Diffusion(), shape, 10)


def training_pass(sampled: Sampled) -> None:
    """Forward and backward over all samples, 256 at a time."""
    params = leaves(sampled.layout, sampled.theta)
    for piece in chunks(sampled.corrupted, BATCH):
        gradient(sampled.model.losses(params, piece).mean(), params, sampled.layout)


def replay_step(sampled: Sampled, teacher: Tensor) -> Callable[[], object]:
    """One step on 256 new and 256 replayed samples that match the teacher's prediction, with Adam and averaging."""
    optimizer, layout, model = FlatAdam(sampled.theta, Training()), sampled.layout, sampled.model
    params, old = leaves(layout, optimizer.theta), layout.unflatten(teacher)
    new, replayed = chunks(sampled.corrupted, BATCH)

    def step() -> None:
        with torch.no_grad():
            distilled = {**replayed, "target": model.predict(old, replayed)}
        loss = model.losses(params, new).mean() + model.losses(params, distilled).mean()
        optimizer.step(gradient(loss, params, layout), 1e-4)
        optimizer.track(100)

    return step


def penalty_by_parameter(layout: Layout, values: Tensor, center: Tensor, theta: Tensor) -> Callable[[], Tensor]:
    """The penalty as it is mostly written: a sum over parameters, differentiated by autograd."""
    params, fisher, old = leaves(layout, theta), layout.unflatten(values), layout.unflatten(center)

    def pull() -> Tensor:
        terms = [0.5 * (fisher[name] * (leaf - old[name]) ** 2).sum() for name, leaf in params.items()]
        return gradient(torch.stack(terms).sum(), params, layout)

    return pull


def squares_by_rows(sampled: Sampled) -> Tensor:
    """The diagonal from per-sample gradients."""
    return sum(rows.square().sum(0) for rows in sampled.gradients()) / sampled.num_samples


class Rows(nn.Module):
    """A network of one tensor, as curvlinops wants it; noise levels and tasks travel as further columns."""

    def __init__(self, model: Denoiser) -> None:
        super().__init__()
        self.net, self.num_levels = model.net, model.process.num_levels

    def forward(self, x: Tensor) -> Tensor:
        """Columns (B, F + 3) -> (B, F)."""
        level, task = x[:, -3:-1] / self.num_levels, x[:, -1].long()
        return functional_call(self.net, {}, (x[:, :-3], level), {"task": task})


def oracle_product(sampled: Sampled) -> Callable[[], Tensor]:
    """One product of the empirical Fisher of the squared error with a vector, over the same samples."""
    from curvlinops import EFLinearOperator

    net, drawn = Rows(sampled.model), sampled.corrupted
    x = torch.cat([drawn["noisy"], drawn["level"].float(), drawn["task"][:, None].float()], dim=1)
    data = list(zip(x.split(BATCH), drawn["target"].split(BATCH), strict=True))
    operator = EFLinearOperator(
        net, nn.MSELoss(reduction="sum"), list(net.parameters()), data, check_deterministic=False
    )
    vector = torch.randn(sampled.layout.size, generator=torch.Generator().manual_seed(2))
    return lambda: operator @ vector


def fastest(works: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Seconds of the fastest of some runs of each, which take turns; the first turn warms up."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats + 1):
        for name, work in works.items():
            started = time.process_time()
            work()
            found[name].append(time.process_time() - started)
    return {name: min(times[1:]) for name, times in found.items()}


def machine(repeats: int) -> dict[str, Any]:
    """What ran this, and how often."""
    return {"processor": platform.machine(), "torch": torch.__version__, "threads": 1, "repeats": repeats}


if __name__ == "__main__":
    main()
