"""Run directories as the contract describes them, with made-up numbers."""

import json
from pathlib import Path

import numpy as np

TASKS = ["button-press-topdown-v3", "drawer-open-v3", "window-close-v3", "faucet-close-v3", "door-open-v3"]


def interval(p, n=20):
    scale = 1 + 3.8416 / n
    middle, half = (p + 1.9208 / n) / scale, 1.96 / scale * np.sqrt(p * (1 - p) / n + 0.9604 / n**2)
    return [float(max(0, middle - half)), float(min(1, middle + half))]


def make_run(path: Path, method: str, decay: float, tasks=TASKS, joint=False, videos=0, seed=0, **fields) -> Path:
    """Write a run in which every task keeps ``decay`` of its success with each later task."""
    rng, size = np.random.default_rng(seed), len(tasks)
    learned = np.round(rng.uniform(0.85, 1.0, size), 2)
    scores = [
        [
            None if i > k or (joint and k < size - 1) else float(round(learned[i] * decay ** (k - i), 2))
            for i in range(size)
        ]
        for k in range(size)
    ]
    final = scores[-1]
    drops = [0.0 if joint else scores[i][i] - final[i] for i in range(size)]
    metrics = {
        "tasks": list(tasks),
        "method": method,
        "score": "success",
        "scores": scores,
        "intervals": [[None if s is None else interval(s) for s in row] for row in scores],
        "num_episodes": [[None if s is None else 20 for s in row] for row in scores],
        "average_final": float(np.mean(final)),
        "average_final_interval": [max(0.0, float(np.mean(final)) - 0.05), min(1.0, float(np.mean(final)) + 0.04)],
        "forgetting": None if joint else float(np.mean(drops)),
        "forgetting_old": None if joint else float(np.mean(drops[:-1])),
        "backward_transfer": None if joint else -float(np.mean(drops[:-1])),
        "forward_transfer": None,
        "reconvergence": {} if joint else {tasks[0]: {tasks[-1]: {"0.9": 25, "0.99": None}}},
        "cost": {"training": {"seconds": 400.5 + seed, "bytes": 8e6}, "evaluation": {"seconds": 31.0, "bytes": 0}},
        **fields,
    }
    path.mkdir(parents=True)
    (path / "metrics.json").write_text(json.dumps(metrics))
    (path / "config.yaml").write_text(f"method:\n  name: {method}\nseed: {seed}\n")
    (path / "provenance.json").write_text(
        json.dumps({"packages": {"torch": "2.13.0", "mujoco": "3.3.0"}, "seeds": [seed], "device": "cpu <&>"})
    )
    with (path / "log.jsonl").open("w") as log:
        for task in range(size):
            for step in range(0, 800, 10):
                loss = 0.02 + 0.5 * np.exp(-step / 150) + 0.01 * rng.random()
                log.write(
                    json.dumps({"step": 800 * task + step, "task": tasks[task], "loss_new": loss, "lr": 1e-3}) + "\n"
                )
    (path / "videos").mkdir()
    for number in range(videos):
        (path / "videos" / f"clip-{number}.mp4").write_bytes(b"\0" * 1000)
    return path
