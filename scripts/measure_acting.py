"""How a trained policy should act: success by sampler steps and by actions executed before it looks again.

.venv/bin/trcl train precise5 --method.name joint --out runs/precise5/joint/seed-0
.venv/bin/python scripts/measure_acting.py runs/precise5/joint/seed-0   # all pairs, about ten minutes of one core
.venv/bin/python scripts/measure_acting.py runs/cw10-small-sharp*/*/seed-? --pairs 2x4 8x4 --start 3000000
.venv/bin/python scripts/measure_acting.py --page                       # only docs/acting.md and its figure

Nothing is trained: the run's last checkpoint is rolled out under every pair, on the start states of the run's own
evaluation or on others. Beside it stands how far actions scatter: the standard deviation of the first action over draws
of the sampler's noise, for observations of the demonstrations. Kept as results/acting/grid/RUN.json, or
results/acting/seeds/RUN.json where pairs are chosen; RUN is the end of the run's path. Pairs that are there stay.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from acting_figure import acting_figure
from acting_tables import grids, in_order, label, seeds_tables
from pages import complaints, fingerprint, write_figure, write_page
from tqdm import tqdm

from trcl_policy.data.layout import STATE
from trcl_policy.demonstrations import open_demonstrations
from trcl_policy.files import FileError, read_json, write_json
from trcl_policy.folder import RunFolder, provenance
from trcl_policy.policy.acting import Acting
from trcl_policy.policy.controller import load_policy
from trcl_policy.rollout.matrix import fingerprint_policy
from trcl_policy.rollout.workers import as_done, cut, setup_for
from trcl_policy.schema import ConfigError
from trcl_policy.simulation import run_simulation

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = ROOT / "results" / "acting", ROOT / "docs" / "acting.md"
FIGURE = PAGE.parent / "images" / "acting.png"
COMMAND = ".venv/bin/python scripts/measure_acting.py --page"
STEPS, LOOKS = (1, 2, 4, 8, 16), (2, 4)
OBSERVATIONS, DRAWS = 50, 64
"""Of each task, and for each of them, to measure how far actions scatter."""


def main(words: Sequence[str] | None = None) -> int:
    """Measure, then write the page or hold it to what is stored; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*", help="finished runs of policies")
    parser.add_argument("--episodes", type=int, default=100, help="rollouts of every task under every pair")
    parser.add_argument(
        "--pairs", type=pair, nargs="+", help="such as 2x4: two sampler steps, a look after four actions"
    )
    parser.add_argument("--start", type=int, help="seed of the first start state; the run's own where not given")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder with the stored results")
    parser.add_argument("--page", action="store_true", help="write the tables of docs/acting.md")
    parser.add_argument("--check", action="store_true", help="only compare; status 1 where the page differs")
    options = parser.parse_args(words)
    try:
        for run in options.runs:
            name = f"{'-'.join(run.resolve().parts[-3:])}.json"
            path = options.results / ("seeds" if options.pairs else "grid") / name
            measure(RunFolder(run), path, options.episodes, options.pairs, options.start)
    except (ConfigError, FileError, ValueError) as error:
        print(f"measure_acting: {error}", file=sys.stderr)
        return 2
    blocks = {"grid": grids(options.results / "grid"), "seeds": seeds_tables(options.results / "seeds")}
    if options.runs:
        print(blocks["seeds" if options.pairs else "grid"])
    stored = sorted((options.results / "grid").glob("*.json"))
    found = {label(document["trained"]): document for document in map(read_json, stored)}
    documents = {name: found[name] for name in in_order(found)}
    mark = fingerprint(stored)
    if options.check:
        wrong = complaints(PAGE, blocks, {FIGURE: mark} if documents else {}, FIGURE.name, COMMAND)
        print("\n".join(wrong) or f"{PAGE.name} is that of the stored results")
        return 1 if wrong else 0
    if options.page:
        write_page(PAGE, blocks)
        figure = acting_figure(documents, LOOKS[-1])
        if figure is not None:
            write_figure(figure, FIGURE, mark)
    return 0


def pair(spelled: str) -> tuple[int, int]:
    """Sampler steps and executed actions of ``2x4``."""
    steps, _, looks = spelled.partition("x")
    return int(steps), int(looks)


def measure(
    folder: RunFolder, path: Path, episodes: int, pairs: Sequence[tuple[int, int]] | None, start: int | None
) -> None:
    """Roll the last checkpoint out under the pairs that ``path`` lacks; None are all.

    Raises:
        ConfigError, FileError: the run is not finished.
        ValueError: ``path`` holds pairs of other weights or of another number of episodes.
    """
    config, checkpoint = folder.config(), folder.checkpoint()
    policy = load_policy(checkpoint)
    start = config.evaluation.seed if start is None else start
    facts = {"weights": fingerprint_policy(checkpoint), "episodes": episodes, "start": start}
    document = read_json(path) if path.exists() else {**facts, "cells": [], "provenance": provenance()}
    if {name: document[name] for name in facts} != facts:
        raise ValueError(f"{path} must be of {facts}, got other weights, episodes or start states; delete it")
    document |= {"trained": trained_with(config), "tasks": policy.learned_tasks}
    scattered = document.setdefault("scatter", {})
    if pairs is None:
        pairs = [(steps, looks) for steps in STEPS for looks in LOOKS if looks <= policy.spec.shape.horizon]
    for steps, looks in pairs:
        policy.spec.acting(Acting(steps, looks))
    for steps in dict.fromkeys(str(steps) for steps, _ in pairs):
        scattered[steps] = scattered.get(steps) or scatter(folder, checkpoint, int(steps))
    done = {(cell["acting_steps"], cell["n_action_steps"]) for cell in document["cells"]}
    jobs = cut(str(checkpoint), policy.learned_tasks, range(start, start + episodes))
    make_env = run_simulation(folder).make_env
    for steps, looks in tqdm([pair for pair in pairs if pair not in done], desc=path.stem, disable=None):
        wins = dict.fromkeys(policy.learned_tasks, 0)
        for _, found in as_done(jobs, setup_for(make_env, "cpu", Acting(steps, looks)), 0):
            for episode in found:
                wins[episode.task] += episode.success
        document["cells"].append({"acting_steps": steps, "n_action_steps": looks, "wins": wins})
        write_json(path, document)


def scatter(folder: RunFolder, checkpoint: Path, steps: int) -> float:
    """Standard deviation of the first action over the sampler's noise [action units], a mean over all that is asked."""
    policy = load_policy(checkpoint, acting=Acting(steps))
    store = open_demonstrations(folder.config(), policy.learned_tasks)
    found = []
    for task in policy.learned_tasks:
        seen = store.arrays(task, (STATE,))[STATE]
        for row in np.linspace(0, len(seen) - 1, OBSERVATIONS).astype(int):
            policy.reset(task, range(DRAWS))
            found.append(policy.select_action(np.repeat(seen[row : row + 1], DRAWS, axis=0)).std(axis=0).mean())
    return float(np.mean(found))


def trained_with(config: Any) -> dict[str, Any]:
    """What the page says of a run."""
    training = config.training
    return {
        "method": config.method.name,
        "recall": config.method.replay_recall,
        "draws": config.method.replay_draws,
        "policy_fraction": config.policy.policy_fraction,
        "seed": config.seed,
        "steps": training.steps,
        "batch_size": training.batch_size,
        "acting_steps": config.diffusion.acting_steps,
        "n_action_steps": config.policy.n_action_steps,
    }


if __name__ == "__main__":
    sys.exit(main())
