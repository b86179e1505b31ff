"""``trcl fisher``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from trcl_policy.commands.parsing import say
from trcl_policy.schema import ConfigError


@dataclass(frozen=True)
class Fisher:
    """Measure the Fisher of learned tasks at the final weights, for ranges of noise levels.

    Attributes:
        run: run directory; its data set must still be there.
        task: one learned task; all where not given.
        samples: samples of each task, over all noise levels.
        seed: seed of samples and noise.
        json: print one JSON document.
    """

    run: tyro.conf.Positional[Path]
    task: str | None = None
    samples: int = 1024
    seed: int = 3_000_000
    json: bool = False


def fisher(options: Fisher) -> int:
    """Run ``trcl fisher``; the result also goes to ``fisher.json`` and two pictures in the run."""
    from trcl_policy.files import write_json
    from trcl_policy.folder import RunFolder, provenance
    from trcl_policy.report.fisher import convergence_figure, spectrum_figure
    from trcl_policy.report.plots import save_figure

    if options.samples < 8:
        raise ConfigError(f"samples must be >= 8, got {options.samples}")
    folder = RunFolder(options.run)
    result = _measure(folder, options)
    target = folder.path / "fisher.json"
    write_json(target, {**result, "provenance": provenance()})
    picture = save_figure(spectrum_figure(result["tasks"]), target.with_suffix(".png"))
    other = save_figure(convergence_figure(result["tasks"]), target.with_name("fisher-convergence.png"))
    lines = [*_table(result["tasks"]), "", *_convergence(result["tasks"]), f"written: {target}, {picture}, {other}"]
    say(options.json, result, "\n".join(lines))
    return 0


def _measure(folder: Any, options: Fisher) -> dict[str, Any]:
    import torch

    from trcl_policy.continual.gradients import Sampled
    from trcl_policy.continual.model import precise
    from trcl_policy.continual.params import Layout
    from trcl_policy.continual.spectrum import spectra
    from trcl_policy.continual.streams import Streams
    from trcl_policy.continual.tasks import draw
    from trcl_policy.domains import open_domain

    config = folder.config()
    torch.set_num_threads(config.threads)
    checkpoint = folder.checkpoint()
    domain = open_domain(config, folder.path)
    learned = domain.tasks.distinct(int(checkpoint.name) + 1)
    wanted = None if options.task is None else domain.resolve(options.task)
    chosen = [task for task in learned if wanted in (None, task.name)]
    if not chosen:
        names = ", ".join(task.name for task in learned)
        raise ConfigError(f"task must be one that {checkpoint} has learned ({names}), got {options.task}")
    params = domain.load(checkpoint).params
    layout = Layout.of(params)
    tasks = {}
    for task in chosen:
        streams = Streams(options.seed, domain.device)  # the same noise for every task
        corrupted = domain.model.corrupt(
            draw(task.samples, options.samples, streams["fisher/samples"]), streams["fisher/noise"]
        )
        sampled = Sampled(precise(domain.model), layout, layout.flatten(params), corrupted)
        found = spectra(sampled, noise_ranges(domain.model.noise_level(corrupted)))
        tasks[task.name] = {name: one and dataclasses.asdict(one) for name, one in found.items()}
    return {"run": str(options.run), "checkpoint": checkpoint.name, "samples": options.samples, "tasks": tasks}


def noise_ranges(level: Any, count: int = 4) -> dict[str, Any]:
    """Masks of samples by name: all, and those in equal ranges (low, high] of the noise level (B,) in [0, 1]."""
    edges = [(number / count, (number + 1) / count) for number in range(count)]
    ranges = {f"{low:.2f}-{high:.2f}": (level > low) & (level <= high) for low, high in edges}
    return {"all": level >= 0, **ranges}


def _table(tasks: dict[str, Any]) -> list[str]:
    ranks = next(entry["top_shares"] for ranges in tasks.values() for entry in ranges.values() if entry)
    head = "".join(f"{f'top {rank}':>8}" for rank in ranks)
    lines = [f"{'task':<26} {'noise':<10} {'n':>5}{head} {'eff rank':>9} {'along mean':>11} {'mean':>8} {'halves':>7}"]
    for name, ranges in tasks.items():
        for range_name, entry in ranges.items():
            lines.append(f"{name:<26} {range_name:<10} {_row(entry)}")
    return [*lines, "shares of the trace; mean: |mean gradient|^2 without bias; halves: cosine of two half diagonals"]


def _convergence(tasks: dict[str, Any]) -> list[str]:
    """How alike two diagonals are that come from disjoint sets of samples, each set a share of all."""
    shares = [f"1/{2**level}" for level in range(4, 0, -1)]
    head = "".join(f"{share:>8}" for share in shares)
    lines = [f"{'cosine of two diagonals from':<28} {'noise':<10} {'n':>5}{head}  of n samples each"]
    for name, ranges in tasks.items():
        for range_name, entry in ranges.items():
            if entry is not None:
                cosines = [f"{cosine:>8.3f}" for cosine in entry["convergence"].values()]
                row = "".join(cosines).rjust(8 * len(shares))
                lines.append(f"{name:<28} {range_name:<10} {entry['num_samples']:>5}{row}")
    return lines


def _row(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return "too few samples"
    shares = "".join(f"{share:>8.3f}" for share in entry["top_shares"].values())
    rest = f"{entry['effective_rank']:>9.1f} {entry['mean_rank1_share']:>11.4f} {entry['mean_share']:>8.4f}"
    return f"{entry['num_samples']:>5}{shares} {rest} {entry['diagonal_cosine']:>7.3f}"
