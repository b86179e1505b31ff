"""The benchmarks of the comparison: what each one learns, from which data, with which methods and seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from job_queue import Forecast
from jobs import Job, seconds_of
from stored import RESULTS, Results, load, place

from trcl_policy.continual.generated import DarkGeneratedReplay, GeneratedReplay
from trcl_policy.continual.methods import METHODS, make_method

CORE = ("finetune", "joint", "ewc", "ewc_rank1", "replay", "replay_plain", "er", "ftml", "vrmcl")
CORE += ("trcl", "trcl_rank1")
"""Methods that the paper compares, with the bounds, stored samples and our form of the trust region."""
FORMS = tuple(name for name in METHODS if name.startswith("trcl"))
CHOSEN = RESULTS / "tuning" / "chosen.json"
FIXED = {
    "trcl_kept": {"method.weight": 10.0},
    "replay_dark": {"method.replay_weight": 2.0},
    "trcl": {"method.replay_weight": 2.0},
    "trcl_fixed": {"method.weight": 1.0, "method.replay_weight": 2.0},
}
"""What was set before tuning and has the last word over it: the map's weight, ``replay_kept``'s replay weight for those
that keep predictions, the default weight, a tenth of the one at which ``trcl_kept`` learns too little.
docs/experiments.md tells what tuning would have chosen."""
PROBE = ("--steps", "100", "--every", "10", "--episodes", "15")
SLOW = ("ftml", "vrmcl", "mer", "lamaml", "trcl_lowrank", "trcl_mixed", "ewc_lowrank")
"""Beginnings of the names of methods that take about three times as long."""


@dataclass(frozen=True)
class Benchmark:
    """One row of the table.

    Attributes:
        config: the configuration, whose name is also that of the results.
        tasks: what ``trcl collect`` brings into the store; for random orders more than a single run needs, so that the
            store never changes under a run.
        noise: on the expert's actions.
        minutes: about what a run takes on one core; a guess that finished runs replace.
        methods: the ones that are run when none are named.
        seeds: of these methods.
        more_seeds: methods with more seeds, and how many.
        orders: seed N learns the tasks ``random20:N``.
        probe: options of ``trcl recover``.
    """

    config: str
    tasks: str
    minutes: float
    methods: tuple[str, ...] = CORE
    seeds: int = 3
    more_seeds: tuple[tuple[str, int], ...] = ()
    noise: float = 0.1
    orders: bool = False
    probe: tuple[str, ...] = PROBE


CONTROLS = ("trcl_kfac_plain", "trcl_diag_plain", "trcl_prox_plain")
"""Methods of the map alone."""
EVERY = (*CORE, *(name for name in METHODS if name not in (*CORE, *CONTROLS)))
LONG = (
    *CORE,
    "ewc_kfac",
    "replay_kept",
    "replay_dark",
    "trcl_fixed",
    "trcl_kept",
    "trcl_kfac",
    "trcl_diag",
    "trcl_prox",
    "trcl_kept_prox",
)
FIVE = tuple((name, 5) for name in LONG)
LOSS_PROBE = ("--steps", "100", "--every", "5", "--episodes", "0")
PRECISE = "hand-insert,box-close,assembly,door-lock,window-open"
FEW = (
    "finetune",
    "joint",
    "replay",
    "replay_kept",
    "replay_dark",
    "ewc_kfac",
    "trcl",
    "trcl_rank1",
    "trcl_kept",
    "trcl_kfac",
)
BENCHMARKS: dict[str, Benchmark] = {
    "quick": Benchmark("cw10-quick", "cw10", 4, CORE, 1, probe=LOSS_PROBE),
    "cw10-small": Benchmark("cw10-small", "cw10", 10, EVERY, 3, FIVE),
    "cw20": Benchmark("cw20", "cw10", 30, LONG),
    "random20": Benchmark("random20", "mt50", 30, LONG, 5, orders=True),
    "mt50": Benchmark("mt50-sequence", "mt50", 100, FEW, 3, probe=LOSS_PROBE),
    "precise5": Benchmark(
        "precise5", PRECISE, 3, ("joint", "er", "replay", "replay_dark", "trcl"), 3, probe=LOSS_PROBE
    ),
    "paper": Benchmark("paper/cw10", "cw10", 2000, CORE, 1, noise=0.0),
    "paper-30min": Benchmark("paper/cw10-30min", "cw10", 30, CORE, 1, noise=0.0),
}
ACTING = ("method.replay_recall=use", "method.replay_draws=4")
LONGER = ("training.steps=4000", "training.batch_size=256")
SHARP = ("diffusion.acting_steps=2",)
DRILL = ("policy.policy_fraction=0.75",)
SETTINGS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "dense": ("evaluation.at_steps=dense", "evaluation.episodes=10"),
    "starved": ("method.replay_samples=32", "method.replay_ratio=0.03125", "method.memory=32"),
    "many": ("method.replay_samples=32000",),
    "acting": ACTING,
    "double": ("method.replay_ratio=2",),
    "acting-double": (*ACTING, "method.replay_ratio=2"),
    "long": LONGER,
    "long-acting": (*LONGER, *ACTING),
    "sharp": SHARP,
    "sharp-acting": (*SHARP, *ACTING),
    "sharp-drill": (*SHARP, *DRILL),
    "sharp-drill-acting": (*SHARP, *DRILL, *ACTING),
    "long-sharp": (*LONGER, *SHARP),
    "long-sharp-acting": (*LONGER, *SHARP, *ACTING),
}
"""Variants of a benchmark, stored as results/BENCHMARK-SETTING: ``dense`` measures inside the tasks (re-convergence);
``starved`` has 32 old samples a task and one of them beside 32 new ones; ``many`` generates eight times as many samples
of each task; ``acting`` keeps four corruptions of each, all of which ask for actions; ``double``
has two old samples beside each new one, ``acting-double`` both; ``long`` learns longer, in larger batches, and
``long-acting`` does so with ``acting``. ``sharp`` learns the same and acts with two sampler steps instead of eight,
near the mean of what the demonstrations would do; ``sharp-drill`` trains acting with three of four samples instead of
two, and generating with the rest."""
UPON = {
    "long-acting": "long",
    "sharp-acting": "sharp",
    "sharp-drill": "sharp",
    "sharp-drill-acting": "sharp-drill",
    "long-sharp": "sharp",
    "long-sharp-acting": "long-sharp",
}
"""Settings that are held against another one than the plain one."""
SAME = {"many": GeneratedReplay, **{name: DarkGeneratedReplay for name in SETTINGS if name.endswith("acting")}}
"""Settings that change only methods with this kind of replay; all others have the results of what they are held
against."""


def results_name(benchmark: Benchmark, setting: str) -> str:
    """The folder of its results."""
    name = benchmark.config.replace("/", "-")
    return name if setting == "plain" else f"{name}-{setting}"


def is_changed(method: str, setting: str) -> bool:
    """Whether the setting changes what the method does."""
    return setting not in SAME or isinstance(make_method(method).replay, SAME[setting])


def setting_of(name: str) -> tuple[str, str] | None:
    """The setting of the results in the folder ``name``, and the folder they are held against; None for plain ones."""
    for benchmark in BENCHMARKS.values():
        for setting in SETTINGS:
            if setting != "plain" and name == results_name(benchmark, setting):
                return setting, results_name(benchmark, UPON.get(setting, "plain"))
    return None


def base_of(name: str) -> str | None:
    """The folder whose results unchanged methods have in ``name``; None where the setting changes every method."""
    setting, plain = setting_of(name) or ("", "")
    return plain if setting in SAME else None


def with_shared(found: Mapping[str, Mapping[str, Results]]) -> dict[str, dict[str, Results]]:
    """Results by benchmark and method, with those beside them that a setting (SAME) can't change."""
    whole = {}
    for name, methods in found.items():
        setting, plain = setting_of(name) or ("", "")
        unchanged = {key: seeds for key, seeds in found.get(plain, {}).items() if not is_changed(key, setting)}
        whole[name] = {**unchanged, **methods}
    return whole


def read_chosen(path: Path = CHOSEN) -> dict[str, dict[str, Any]]:
    """The tuned knobs of each method, ``{method: {setting: value}}``; none where nothing has been tuned."""
    return json.loads(path.read_text())["methods"] if path.exists() else {}


def settled(chosen: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The tuned knobs, and what was set beforehand in their place or beside them."""
    return {name: {**chosen.get(name, {}), **FIXED.get(name, {})} for name in {**chosen, **FIXED}}


def make_jobs(
    benchmark: Benchmark,
    setting: str,
    methods: Sequence[str] | None,
    seeds: int | None,
    runs: Path,
    chosen: Mapping[str, Mapping[str, Any]],
    more: Sequence[str] = (),
    probe: bool = True,
) -> list[Job]:
    """The runs of a benchmark, seed by seed, each with its method's tuned knobs.

    Args:
        benchmark: the row.
        setting: a key of SETTINGS; it has the last word over knobs.
        methods: None takes the benchmark's, of which the setting changes the result.
        seeds: how many; None takes the benchmark's, which may differ between methods.
        runs: folder for the runs.
        chosen: knobs by method.
        more: settings for all runs.
        probe: whether ``trcl recover`` follows.
    """
    changed = [name for name in benchmark.methods if is_changed(name, setting)]
    names = changed if methods is None else methods
    counts = {name: dict(benchmark.more_seeds).get(name, benchmark.seeds) if seeds is None else seeds for name in names}
    folder = results_name(benchmark, setting)
    return [
        Job(
            folder=runs / folder / name / f"seed-{seed}",
            config=benchmark.config,
            settings=(
                f"method.name={name}",
                f"seed={seed}",
                *([f"tasks=random20:{seed}"] if benchmark.orders else []),
                *(f"{key}={json.dumps(value)}" for key, value in chosen.get(name, {}).items()),
                *SETTINGS[setting],
                *more,
            ),
            method=name,
            seed=seed,
            kind=f"{folder}/{name}",
            probe=benchmark.probe if probe and name != "alone" else None,
        )
        for seed in range(max(counts.values()))
        for name in names
        if seed < counts[name]
    ]


def stored_forecast(benchmark: Benchmark, setting: str, results: Path) -> Forecast:
    """How long runs take, from the stored ones."""
    folder = results_name(benchmark, setting)
    found = load(results, folder)
    known = {
        f"{folder}/{method}": [seconds_of(document["metrics"]) for document in seeds.values()]
        for method, seeds in found.items()
    }
    return Forecast(known, lambda kind: 60 * benchmark.minutes * (3 if kind.split("/")[-1].startswith(SLOW) else 1))


def target(results: Path, benchmark: Benchmark, setting: str, job: Job) -> Path:
    """Where the result of a job is kept."""
    return place(results, results_name(benchmark, setting), job.method, job.seed)
