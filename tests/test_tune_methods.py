"""Tuning gives every method the same chances, on tasks that the comparison never uses."""

import json

import pytest

from tests.scripts import script
from trcl_envs.catalog import resolve_sequence
from trcl_policy.config import load_config
from trcl_policy.continual.methods import METHODS

tune, benchmarks, knobs = script("tune_methods"), script("benchmarks"), script("knobs")


def test_every_method_with_a_knob_has_the_same_number_of_trials():
    assert {len(values) for _, values in knobs.KNOBS.values()} == {5}
    assert {*knobs.KNOBS, *knobs.UNTUNED} == set(METHODS)
    assert not set(knobs.KNOBS) & set(knobs.UNTUNED)


def test_the_tasks_are_none_of_the_compared_sequence():
    assert not set(tune.SEQUENCE) & set(resolve_sequence("cw10"))


def jobs(tmp_path, *words):
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tune, "trcl", lambda *words: None)
        patch.setattr(tune, "run_jobs", lambda made, *rest, **more: found.extend(made) or 0)
        tune.main(["--runs", str(tmp_path / "runs"), "--results", str(tmp_path), *words])
    return found


def test_each_trial_turns_its_methods_knob(tmp_path):
    made = jobs(tmp_path, "--methods", "all", "--seeds", "1")
    assert len({job.folder for job in made}) == len(made) == 5 * len(knobs.KNOBS)
    for job in made:
        pairs = [word.partition("=") for word in job.settings]
        config = load_config(job.config, {key: json.loads(v) if v[0] in '["0123456789' else v for key, _, v in pairs})
        knob, values = knobs.KNOBS[job.method]
        assert getattr(config.method, knob.removeprefix("method.")) in values
        assert config.tasks == tune.SEQUENCE
        assert config.training.steps == load_config(tune.CONFIG).training.steps
        held = {key: value for key, value in benchmarks.FIXED.get(job.method, {}).items() if key != knob}
        assert held == {key: getattr(config.method, key.removeprefix("method.")) for key in held}


def trial(*runs):
    return {str(seed): {"average_final": final, "loss": loss} for seed, (final, loss) in enumerate(runs)}


def test_the_best_trial_has_the_lowest_loss_of_those_near_the_highest_success():
    trials = {"1.0": trial((0.9, 0.3), (0.7, 0.3)), "10.0": trial((0.8, 0.2), (0.8, 0.2)), "100.0": trial((0.5, 0.1))}
    assert tune.best(trials, 100) == "10.0"  # equal success
    trials["1.0"] = trial((0.82, 0.3), (0.83, 0.3))
    assert tune.best(trials, 100) == "10.0"  # .8 against .825 +- .027
    assert tune.best(trials, 1000) == "1.0"  # +- .0085
    trials["100.0"] = trial((1.0, 0.1))  # a trial with fewer seeds has not run its course
    assert tune.best(trials, 1000) == "1.0"
    assert tune.best({"1": trial((0.0, 0.2)), "2": trial((0.0, 0.1))}, 10) == "2"


def test_chosen_knobs_reach_the_comparison_once_all_trials_are_there(tmp_path):
    whole = {str(value): trial((0.5 + value / 1e5, 0.1)) for value in knobs.KNOBS["ewc"][1]}
    for name, trials in (("ewc", whole), ("l2", {"1.0": trial((0.9, 0.1))})):
        content = {"method": name, "knob": "method.weight", "tasks": ["push-v3"], "episodes": 15, "trials": trials}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    assert tune.main(["--table", "--results", str(tmp_path)]) == 0
    assert benchmarks.read_chosen(tmp_path / "chosen.json") == {"ewc": {"method.weight": 10000.0}}
    rows = {row[0]: row[-1] for row in tune.table(tmp_path).rows}
    assert rows == {"ewc": "10000.0", "l2": "not yet"}


@pytest.mark.parametrize("folder", sorted(tune.RESULTS.glob("tuning*")), ids=lambda folder: folder.name)
def test_every_stored_tuning_can_be_shown(folder):
    shown = {row[0]: row[-1] for row in tune.table(folder).rows}
    assert shown
    if (folder / "chosen.json").exists():
        assert {name for name, value in shown.items() if value != "not yet"} == set(
            benchmarks.read_chosen(folder / "chosen.json")
        )


def test_stored_trials_are_not_run_again(tmp_path):
    content = {"method": "ewc", "knob": "method.weight", "trials": {"10": trial((0.5, 0.1))}}
    (tmp_path / "ewc.json").write_text(json.dumps(content))
    made = jobs(tmp_path, "--methods", "ewc", "--seeds", "2")
    assert sorted(str(job.folder.relative_to(tmp_path / "runs" / "ewc")) for job in made) == sorted(
        f"{value}/seed-{seed}" for value in (1, 10, 100, 1000, 10000) for seed in range(2) if (value, seed) != (10, 0)
    )


@pytest.mark.parametrize("words", [["--methods", "joint"], ["--seeds", "0"], ["--jobs", "0"]])
def test_mistakes_are_one_clear_line(words, capsys):
    assert tune.main([*words, "--dry-run"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
