"""The smallest real thing: three quick tasks, a tiny network and a few demonstrations collected on the spot."""

import atexit
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

TASKS = ("faucet-close-v3", "window-close-v3", "drawer-open-v3")
CONFIG = """
tasks: [faucet-close-v3, window-close-v3, drawer-open-v3]
data: {{store: {store}, episodes: 4, held_out: 1}}
policy: {{horizon: 16, n_action_steps: 16}}
network: {{kind: mlp, width: 16, depth: 1, condition_dim: 8}}
training: {{steps: 30, batch_size: 32}}
diffusion: {{acting_steps: 2, replay_steps: 2}}
method: {{name: trcl_kfac, fisher_samples: 64, replay_samples: 64}}
evaluation: {{episodes: 2, at_steps: [0, 10]}}
log_every: 5
save_every_s: 0
"""
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
TRCL = [sys.executable, "-m", "trcl_policy"]


def trcl(*words, **options):
    """Run the console program in a process of its own."""
    options = {"capture_output": True, "text": True, "timeout": 300, "env": ENVIRONMENT, **options}
    return subprocess.run([*TRCL, *map(str, words)], **options)


def result(run):
    """All that must be the same however often a run was stopped."""
    run = Path(run)
    weights = {path.parent.name: path.read_bytes() for path in run.glob("checkpoints/[0-9]*/model.safetensors")}
    episodes = sorted((run / "episodes.jsonl").read_text().splitlines())
    metrics = json.loads((run / "metrics.json").read_text())
    metrics.pop("cost")
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    for line in log:
        line.pop("seconds"), line.pop("steps_per_second")
    replay = (run / "replay.jsonl").read_text() if (run / "replay.jsonl").exists() else None
    return {"weights": weights, "episodes": episodes, "metrics": metrics, "log": log, "replay": replay}


class Zygote:
    """The process of zygote.py; jobs run one after another, each in a process forked from it."""

    def __init__(self):
        path = Path(__file__).with_name("zygote.py")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([sys.executable, str(path)], env=ENVIRONMENT, **pipes)

    def __call__(self, *words, **stop):
        """Run ``trcl WORDS``; see zygote.py for ``stop``."""
        print(json.dumps({"words": [str(word) for word in words], **stop}), file=self.process.stdin, flush=True)
        return SimpleNamespace(**json.loads(self.process.stdout.readline()))

    def close(self):
        self.process.stdin.close()
        self.process.wait(30)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """One folder a test session with ``tiny.zarr``, ``tiny.yaml``, the finished run ``finished`` and a zygote.

    Imported by several test modules, so what is costly is made once by looking whether it is there.
    """
    folder = tmp_path_factory.getbasetemp() / "tiny"
    if folder not in _zygotes:
        folder.mkdir()
        _zygotes[folder] = zygote = Zygote()
        store = folder / "tiny.zarr"
        made = zygote("collect", "--tasks", ",".join(TASKS), "--episodes", 4, "--worlds", 6, "--out", store)
        assert made.status == 0, made.stderr
        (folder / "tiny.yaml").write_text(CONFIG.format(store=store))
        made = zygote("train", folder / "tiny.yaml", "--out", folder / "finished")
        assert made.status == 0, made.stderr
    return SimpleNamespace(
        folder=folder,
        store=folder / "tiny.zarr",
        config=folder / "tiny.yaml",
        finished=folder / "finished",
        trcl=_zygotes[folder],
    )


_zygotes: dict[Path, Zygote] = {}
atexit.register(lambda: [zygote.close() for zygote in _zygotes.values()])
