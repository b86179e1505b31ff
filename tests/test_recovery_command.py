"""``trcl recover``: old tasks come back from a run's last weights, measured by success and by held-out loss."""

import json
import shutil

import pytest

from tests.tiny import TASKS, tiny
from trcl_policy.recovery import Probe, _back
from trcl_policy.schema import ConfigError

__all__ = ["tiny"]


def test_back_is_the_first_measurement_at_the_target_and_the_first_of_three():
    wins = {0: 0.5, 10: 0.9, 20: 0.6, 30: 0.9, 40: 0.9, 50: 1.0}
    assert _back(wins, 1.0, 0.9, True) == (10, 30)
    assert _back(wins, 1.0, 1.0, True) == (50, None)
    assert _back({0: 0.3, 5: 0.11, 10: 0.11, 15: 0.1}, 0.1, 0.9, False) == (5, 5)
    assert _back({0: 0.3, 5: 0.12, 10: 0.112, 15: 0.1}, 0.1, 0.9, False) == (15, None)
    assert _back(wins, None, 0.9, True) == _back({0: None}, 1.0, 0.9, True) == (None, None)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"steps": 0}, "steps must be >= 1, got 0"),
        ({"episodes": -1}, "episodes must be >= 0, got -1"),
        ({"target": 0.0}, r"target in \(0, 1\], got 0.0002 and 0.0"),
    ],
)
def test_impossible_probes_are_one_line(change, line):
    fields = {"steps": 1, "every": 1, "episodes": 0, "learning_rate": 2e-4, "target": 0.9, "seed": 0, **change}
    with pytest.raises(ConfigError, match=line):
        Probe(**fields)


@pytest.mark.sim
def test_recover_measures_success_and_losses_and_leaves_the_run_alone(tiny, tmp_path):
    run = shutil.copytree(tiny.finished, tmp_path / "run", symlinks=True)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    options = ("recover", run, "--tasks", TASKS[0], "--steps", 4, "--every", 2, "--learning-rate", 0.01)
    measured = tiny.trcl(*options, "--episodes", 3, "--json")  # more than the run's own measurements have
    assert measured.status == 0, measured.stderr
    document = json.loads(measured.stdout)
    assert document == json.loads((run / "recovery.json").read_text())
    curve = document["tasks"][TASKS[0]]
    assert curve["steps"] == [0, 2, 4]
    assert all(0 <= value <= 1 for value in curve["success"])
    assert curve["losses"][2] < curve["losses"][0]
    metrics = json.loads((run / "metrics.json").read_text())
    assert curve["loss_reference"] == metrics["losses"][0][0]
    assert curve["reference"] == metrics["scores"][0][0]
    # The checkpoint untouched, under the noise of the run's own measurements.
    assert curve["losses"][0] == pytest.approx(metrics["losses"][-1][0], rel=1e-6)
    assert document["survival"]["loss"]["num"] == 1
    assert {path: path.read_bytes() for path in before} == before

    cheap = tiny.trcl(*options, "--episodes", 0)
    assert cheap.status == 0, cheap.stderr
    again = json.loads((run / "recovery.json").read_text())
    assert again["tasks"][TASKS[0]]["losses"] == curve["losses"]
    assert again["tasks"][TASKS[0]]["success"] == [None] * 3
    assert again["survival"]["success"] is None
    assert f"{TASKS[0]} loss" in cheap.stdout
    assert f"{TASKS[0]} success" not in cheap.stdout
