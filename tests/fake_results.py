"""Stored results with known numbers."""

import json

from trcl_policy.config import load_config

TASKS = ("hammer-v3", "push-wall-v3", "faucet-close-v3")


def document(scores, losses=None, probe=None, method="trcl", seed=0, **fields):
    """A result of a square score matrix (None above its diagonal) from 20 episodes a cell."""
    size = len(scores)
    last = scores[-1]
    drops = [None if scores[i][i] is None else scores[i][i] - last[i] for i in range(size)]
    known = None not in drops
    metrics = {
        "method": method,
        "tasks": list(TASKS[:size]),
        "score": "success",
        "scores": scores,
        "intervals": [[None if s is None else [max(0.0, s - 0.1), min(1.0, s + 0.1)] for s in row] for row in scores],
        "num_episodes": [[None if s is None else 20 for s in row] for row in scores],
        "average_final": sum(last) / size,
        "forgetting": sum(drops) / size if known else None,
        "forgetting_old": sum(drops[:-1]) / (size - 1) if known else None,
        "losses": losses or [[None] * size] * size,
        "reconvergence": {},
        "curves": {},
        "cost": {
            "seconds": {"training": 100.0, "fisher": 5.0, "replay": 10.0, "evaluation": 20.0},
            "bytes": {"anchor": 1000, "update": 0, "replay": 2000, "weights": 9000},
        },
        **fields,
    }
    config = load_config("cw10-small", {"method.name": method, "seed": seed})
    facts = {"git_commit": "0123456789", "num_parameters": 1000, "packages": {"torch": "2.13.0"}, "device": "cpu"}
    made = {"metrics": metrics, "provenance": facts, "config": json.loads(json.dumps(plain(config)))}
    return made if probe is None else {**made, "probe": probe}


def probe(*held, steps=100, reference=0.9):
    """What ``trcl recover`` finds of tasks that are back after ``held`` updates, None: never."""
    curve = {"steps": [0, steps], "success": [0.1, 0.9], "losses": [0.2, 0.1], "reference": reference}
    curve |= {"loss_reference": 0.1, "loss_held_after": 10}
    return {"tasks": {f"t{place}": {**curve, "held_after": time} for place, time in enumerate(held)}}


def plain(config):
    """The configuration as plain values."""
    import yaml

    from trcl_policy.config import dump_config

    return yaml.safe_load(dump_config(config))


def triangle(learned, final):
    """Scores of tasks that fall from ``learned`` to ``final`` at the end; the last has its final score at once."""
    size = len(final)
    rows = [[None if i > k else learned[i] for i in range(size)] for k in range(size)]
    rows[-1] = list(final)
    return rows


def put(results, benchmark, made):
    """Write {(method, seed): document} where the scripts look for them."""
    for (method, seed), content in made.items():
        path = results / benchmark / method / f"seed-{seed}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        content["metrics"]["method"] = method
        content["config"]["method"]["name"] = method
        content["config"]["seed"] = seed
        path.write_text(json.dumps(content))
