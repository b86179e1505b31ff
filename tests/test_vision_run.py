"""From nothing to a policy that learned two tasks from pictures, through the console program alone (minutes)."""

import json

import numpy as np
import pytest

from tests.tiny import trcl
from trcl_policy import load_policy

pytestmark = [pytest.mark.sim, pytest.mark.slow]
LONG = {"timeout": 3600}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of configs/vision-quick.yaml in a folder that also has its data."""
    folder = tmp_path_factory.mktemp("vision")
    words = ["--tasks", "button-press-topdown,window-close", "--episodes", "45", "--cameras", "robot", "--out"]
    made = trcl("collect", *words, folder / "vision.zarr", **LONG)
    assert made.returncode == 0, made.stderr
    made = trcl("train", "vision-quick", "--data.store", folder / "vision.zarr", "--out", folder / "run", **LONG)
    assert made.returncode == 0, made.stderr
    return folder / "run"


def test_two_tasks_are_learned_from_pictures_and_kept(run):
    metrics = json.loads((run / "metrics.json").read_text())
    (first, _), (kept, second) = metrics["scores"]
    print(f"button-press-topdown {first:.2f}, then {kept:.2f}; window-close {second:.2f}")
    assert min(first, kept, second) >= 0.6
    quality = [json.loads(line) for line in (run / "replay.jsonl").read_text().splitlines()]
    assert quality[0]["share"] > 0.5  # generated features are like those of held-out pictures


def test_evaluating_gives_the_same_episodes_for_any_number_of_workers(run):
    found = []
    for workers in (0, 2):
        made = trcl("evaluate", run, "--episodes", 30, "--workers", workers, "--seed", 5_000, "--json", **LONG)
        assert made.returncode == 0, made.stderr
        records = json.loads((run / "evaluations" / "01.json").read_text())["records"]
        found.append(sorted(records, key=lambda record: (record["task"], record["seed"])))
        print({task: entry["success"] for task, entry in json.loads(made.stdout)["tasks"].items()})
    assert found[0] == found[1]
    assert np.mean([record["success"] for record in found[0]]) >= 0.6


def test_a_checkpoint_acts_and_is_filmed_on_its_own(run, tmp_path):
    policy = load_policy(run / "checkpoints" / "01")
    policy.reset("window-close-v3", [1])
    look = {"observation.state": np.zeros(39), "observation.images.robot": np.zeros((64, 64, 3), np.uint8)}
    assert policy.select_action(look).shape == (4,)
    made = trcl("record", run, "--task", "window-close-v3", "--moments", "learned", "--out", tmp_path / "a.mp4", **LONG)
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "a.mp4").stat().st_size > 1000


def test_what_images_cannot_be_learned_with_is_one_line_and_writes_nothing(run, tmp_path):
    words = ("--data.store", run.parent / "vision.zarr", "--policy.encoder.learns", "always", "--out", tmp_path / "no")
    made = trcl("train", "vision-quick", *words)
    assert made.returncode == 2
    (line,) = made.stderr.splitlines()
    assert "policy.encoder.learns must be first_task or never for replay, got always" in line
    assert not (tmp_path / "no").exists()
