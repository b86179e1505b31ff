"""Time of the continual core's parts as ratios on this machine.

.venv/bin/python scripts/benchmark_core.py             # the default MLP, 512 samples, one thread

Prints, for the diagonal Fisher: one backward pass a sample, vmap(grad) and layer by layer, each against training passes
(forward, backward) over the same samples. Ratios from one run on a busy machine are good to some 20 %.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from trcl_policy.continual.gradients import Sampled
from trcl_policy.continual.model import chunks, gradient, leaves
from trcl_policy.continual.params import Layout
from trcl_policy.diffusion.denoiser import Denoiser
from trcl_policy.diffusion.process import Diffusion
from trcl_policy.policy.trajectory import Network, TrajectoryModel
from trcl_policy.policy.windows import Shape


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=("mlp", "unet"), default="mlp", help="network with its default sizes")
    parser.add_argument("--samples", type=int, default=512, help="samples of the Fisher")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each, of which the fastest counts")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sampled = problem(options.network, options.samples)
    loop = problem(options.network, 8)
    fisher = sampled.mean_squares()
    by_rows = squares_by_rows(sampled)
    seconds = {
        "training pass": fastest(lambda: training_pass(sampled), options.repeats),
        "layer by layer": fastest(sampled.mean_squares, options.repeats),
        "vmap(grad)": fastest(lambda: squares_by_rows(sampled), max(1, options.repeats // 2)),
        "loop": fastest(lambda: [training_pass(loop.part(slice(i, i + 1))) for i in range(8)], 2)
        * (options.samples / 8),
    }
    print(f"{options.network}, {sampled.layout.size} weights, {options.samples} samples, one thread")
    for name, value in seconds.items():
        passes = value / seconds["training pass"]
        print(f"{name:<15} {1e3 * value / options.samples:8.4f} ms a sample  {passes:6.2f} passes")
    print(
        f"layer by layer is {seconds['vmap(grad)'] / seconds['layer by layer']:.1f} x as fast as vmap(grad)", end=", "
    )
    print(f"{seconds['loop'] / seconds['layer by layer']:.1f} x as fast as a loop")
    print(f"largest difference over largest value: {float((fisher - by_rows).abs().max() / by_rows.max()):.1e}")


def problem(network: str, samples: int) -> Sampled:
    """Random windows of the size of Meta-World's (observation 39, action 4, horizon 16) under random noise."""
    shape = Shape(39, 4, 1, 16)
    net = Network(kind=network).build(shape, num_tasks=10, seed=0)
    model: Denoiser = TrajectoryModel(net, Diffusion(), shape)
    rng = torch.Generator().manual_seed(0)
    batch = {name: torch.randn(samples, size, generator=rng) for name, size in shape.parts.items()}
    corrupted = model.corrupt({**batch, "task": torch.arange(samples) % 10}, rng)
    params = {name: leaf.detach() for name, leaf in net.named_parameters()}
    layout = Layout.of(params)
    return Sampled(model, layout, layout.flatten(params), corrupted)


def training_pass(sampled: Sampled) -> None:
    """Forward and backward over all samples, 256 at a time."""
    params = leaves(sampled.layout, sampled.theta)
    for piece in chunks(sampled.corrupted, 256):
        gradient(sampled.model.losses(params, piece).mean(), params, sampled.layout)


def squares_by_rows(sampled: Sampled) -> torch.Tensor:
    """The diagonal from per-sample gradients."""
    return sum(rows.square().sum(0) for rows in sampled.gradients()) / sampled.num_samples


def fastest(work: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of some runs."""
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return min(found)


if __name__ == "__main__":
    main()
