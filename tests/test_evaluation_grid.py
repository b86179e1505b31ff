"""The updates at which a run is measured, spelled by a person, and the run of tasks alone that it is held against."""

import dataclasses
import json

import pytest

from trcl_policy.config import EvaluationConfig, make_config
from trcl_policy.folder import alone_curves
from trcl_policy.schema import ConfigError


@pytest.mark.parametrize(
    ("spelled", "updates"),
    [
        ("dense", (0, 2, 5, 10, 20, 50, 100, 200, 500)),
        ("every 300", (0, 300, 600, 900)),
        ("dense, every 500, 7", (0, 2, 5, 7, 10, 20, 50, 100, 200, 500)),
        ((20, 10, 20), (10, 20)),
        ((), ()),
    ],
)
def test_updates_are_the_ones_a_person_means(spelled, updates):
    assert EvaluationConfig(at_steps=spelled).updates(1000) == updates


@pytest.mark.parametrize("spelled", ["", "sparse", "every", "every 0", "every ten", "-3", "dense 5", "10:20:5"])
def test_other_spellings_are_one_line_that_says_what_is_accepted(spelled):
    with pytest.raises(ValueError, match=r"at_steps must be a list or made of 'dense', 'every 100' and numbers, got"):
        EvaluationConfig(at_steps=spelled)


def test_a_spelled_update_that_is_never_reached_is_refused():
    settings = {"training": {"steps": 50}, "evaluation": {"at_steps": "dense, 50"}}
    with pytest.raises(ConfigError, match=r"evaluation.at_steps must be < training.steps = 50, got \[0, 2, 5"):
        make_config(settings)
    assert make_config({**settings, "evaluation": {"at_steps": "dense"}}).evaluation.at_steps == "dense"


# ---- tasks alone ----

UPDATES = [0, 10, 50]


def config(alone):
    return make_config({"training": {"steps": 50}, "evaluation": {"at_steps": [0, 10], "alone": alone}})


def write(folder, **changes):
    curves = {name: {name: {"updates": UPDATES, "scores": [0.0, 0.5, 1.0]}} for name in "ab"}
    metrics = {"method": "alone", "tasks": ["a", "b"], "curves": curves, **changes}
    folder.mkdir(exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return str(folder)


def test_curves_of_tasks_alone_are_read_from_their_run(tmp_path):
    found = alone_curves(config(write(tmp_path / "alone")), ["a", "b"])
    assert found == [{0: 0.0, 10: 0.5, 50: 1.0}] * 2
    assert alone_curves(config(None), ["a", "b"]) is None


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"method": "ewc"}, "must be a run with method alone, got .* with ewc"),
        ({"tasks": ["b", "a"]}, "must be a run with tasks a, b, got .* with b, a"),
        ({"curves": {}}, r"must be a run with evaluated updates \[0, 10, 50\], got .* with \[\]"),
    ],
)
def test_a_run_that_can_not_be_the_reference_is_refused(tmp_path, changes, line):
    with pytest.raises(ConfigError, match=line):
        alone_curves(config(write(tmp_path / "alone", **changes)), ["a", "b"])


def test_a_reference_that_measured_nothing_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"must be a run with method alone, got .* with nothing measured"):
        alone_curves(config(str(tmp_path / "nowhere")), ["a", "b"])


def test_every_field_of_the_evaluation_is_explained():
    for field in dataclasses.fields(EvaluationConfig):
        assert f"{field.name}:" in EvaluationConfig.__doc__
