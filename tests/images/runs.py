"""The smallest image runs: two tasks of two digits, a tiny network, and a process that forks them."""

import atexit
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.tiny import Zygote

CONFIG = """
domain: images
images:
  data: {{source: digits, form: {{size: 8, channels: 1}}, held_out: 0.5, per_class: 12}}
  split: {{num_tasks: 2, num_classes: 4}}
  network: {{channels: [8, 8]}}
  scores: {{samples: 8, features: 3, width: 4, epochs: 1, neighbours: 2, bootstrap: 4, cache: {folder}/classifiers}}
diffusion: {{num_train_timesteps: 20, prediction: x0, clip_range: 1.0, replay_steps: 2, acting_steps: 1}}
training: {{steps: 6, batch_size: 8}}
evaluation: {{at_steps: [0, 1, 2, 3]}}
method: {{name: trcl_kfac, fisher_samples: 16, replay_samples: 8}}
log_every: 2
save_every_s: 0
"""


def result(run):
    """All that must be the same however often a run was stopped."""
    run = Path(run)
    files = [*run.glob("checkpoints/[0-9]*/*"), *run.glob("samples/*"), run / "replay.jsonl", run / "scores.jsonl"]
    metrics = json.loads((run / "metrics.json").read_text())
    metrics.pop("cost")
    return {str(path.relative_to(run)): path.read_bytes() for path in files}, metrics


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """One folder a test session with the configuration ``images.yaml``, the finished run and what runs ``trcl``."""
    folder = tmp_path_factory.getbasetemp() / "images"
    if folder not in _zygotes:
        folder.mkdir()
        _zygotes[folder] = trcl = Zygote()
        (folder / "images.yaml").write_text(CONFIG.format(folder=folder))
        made = trcl("train", folder / "images.yaml", "--out", folder / "finished")
        assert made.status == 0, made.stderr
    return SimpleNamespace(
        config=folder / "images.yaml", finished=folder / "finished", trcl=_zygotes[folder], text=CONFIG
    )


_zygotes: dict[Path, Zygote] = {}
atexit.register(lambda: [zygote.close() for zygote in _zygotes.values()])
