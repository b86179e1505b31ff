"""How a trained policy should act: success by sampler steps and by actions executed before it looks again.

.venv/bin/trcl train precise5 --method.name joint --out runs/precise5/joint/seed-0
.venv/bin/python scripts/measure_acting.py runs/precise5/joint/seed-0   # about ten minutes of one core
.venv/bin/python scripts/measure_acting.py --page                       # only the tables of docs/acting.md

Nothing is trained: the run's last checkpoint is rolled out under every pair, on the start states of the run's own
evaluation. Beside it stands how far actions scatter: the standard deviation of the first action over draws of the
sampler's noise, for observations of the demonstrations. Kept as results/acting/RUN.json, where RUN is the end of the
run's path; pairs that are there stay.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pages import complaints, write_page
from tqdm import tqdm

from trcl_policy.continual.statistics import mean_of_shares_interval
from trcl_policy.data.layout import STATE
from trcl_policy.demonstrations import open_demonstrations
from trcl_policy.files import FileError, read_json, write_json
from trcl_policy.folder import RunFolder, provenance
from trcl_policy.policy.acting import Acting
from trcl_policy.policy.controller import load_policy
from trcl_policy.report.tables import NONE, Table
from trcl_policy.rollout.matrix import fingerprint_policy
from trcl_policy.rollout.workers import as_done, cut, setup_for
from trcl_policy.schema import ConfigError
from trcl_policy.simulation import run_simulation

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = ROOT / "results" / "acting", ROOT / "docs" / "acting.md"
COMMAND = ".venv/bin/python scripts/measure_acting.py --page"
STEPS, LOOKS = (1, 2, 4, 8, 16), (2, 4)
OBSERVATIONS, DRAWS = 50, 64
"""Of each task, and for each of them, to measure how far actions scatter."""


def main(words: Sequence[str] | None = None) -> int:
    """Measure, then write the page or hold it to what is stored; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*", help="finished runs of policies")
    parser.add_argument("--episodes", type=int, default=100, help="rollouts of every task under every pair")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder with the stored results")
    parser.add_argument("--page", action="store_true", help="write the tables of docs/acting.md")
    parser.add_argument("--check", action="store_true", help="only compare; status 1 where the page differs")
    options = parser.parse_args(words)
    try:
        for run in options.runs:
            measure(RunFolder(run), options.results / f"{'-'.join(run.resolve().parts[-3:])}.json", options.episodes)
    except (ConfigError, FileError, ValueError) as error:
        print(f"measure_acting: {error}", file=sys.stderr)
        return 2
    blocks = {"acting": tables(options.results)}
    if options.check:
        wrong = complaints(PAGE, blocks, {}, "-", COMMAND)
        print("\n".join(wrong) or f"{PAGE.name} is that of the stored results")
        return 1 if wrong else 0
    if options.page:
        write_page(PAGE, blocks)
    return 0


def measure(folder: RunFolder, path: Path, episodes: int) -> None:
    """Roll the last checkpoint out under all pairs that ``path`` lacks.

    Raises:
        ConfigError, FileError: the run is not finished.
        ValueError: ``path`` holds pairs of other weights or of another number of episodes.
    """
    config, checkpoint = folder.config(), folder.checkpoint()
    policy = load_policy(checkpoint)
    facts = {"weights": fingerprint_policy(checkpoint), "episodes": episodes, "seed": config.evaluation.seed}
    document = read_json(path) if path.exists() else {**facts, "cells": [], "provenance": provenance()}
    if {name: document[name] for name in facts} != facts:
        raise ValueError(f"{path} must be of {facts}, got other weights or episodes; delete it")
    document |= {"trained": trained_with(config), "tasks": policy.learned_tasks}
    scattered = document.setdefault("scatter", {})
    scattered |= {str(steps): scatter(folder, checkpoint, steps) for steps in STEPS if str(steps) not in scattered}
    done = {(cell["acting_steps"], cell["n_action_steps"]) for cell in document["cells"]}
    pairs = [(steps, looks) for steps in STEPS for looks in LOOKS if looks <= policy.spec.shape.horizon]
    jobs = cut(str(checkpoint), policy.learned_tasks, range(facts["seed"], facts["seed"] + episodes))
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
        "seed": config.seed,
        "steps": training.steps,
        "batch_size": training.batch_size,
        "acting_steps": config.diffusion.acting_steps,
        "n_action_steps": config.policy.n_action_steps,
    }


def tables(results: Path) -> str:
    """A table for every stored run."""
    found = [table(read_json(path)) for path in sorted(results.glob("*.json"))]
    return "\n\n".join(found) or "Nothing is stored yet."


def table(document: Mapping[str, Any]) -> str:
    """One number of sampler steps a row, one number of executed actions a column."""
    cells = {(cell["acting_steps"], cell["n_action_steps"]): cell["wins"] for cell in document["cells"]}
    rows = [
        (str(n), f"{document['scatter'][str(n)]:.3f}", *(share(cells.get((n, looks)), document) for looks in LOOKS))
        for n in STEPS
    ]
    header = ("sampler steps", "actions scatter by", *(f"success, looks after {looks} actions" for looks in LOOKS))
    trained = document["trained"]
    of = f"seed {trained['seed']}, {trained['steps']:,} updates of {trained['batch_size']} a task"
    tasks = ", ".join(name.removesuffix("-v3") for name in document["tasks"])
    title = f"{trained['method']}, {of}: {tasks}; {document['episodes']} rollouts of each"
    return Table(title, header, tuple(rows)).markdown()


def share(wins: Mapping[str, int] | None, document: Mapping[str, Any]) -> str:
    """Average success with its 95 % interval over episodes."""
    if wins is None:
        return NONE
    counts = [(count, document["episodes"]) for count in wins.values()]
    low, high = mean_of_shares_interval(counts)
    mean = sum(wins.values()) / sum(total for _, total in counts)
    return f"{mean:.3f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    sys.exit(main())
