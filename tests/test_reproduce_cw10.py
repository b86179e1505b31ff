"""What the runner would run, with which settings, and what it refuses."""

import json

import pytest

from tests.fake_results import document, plain, put, triangle
from tests.scripts import script
from trcl_envs.catalog import resolve_sequence

reproduce, benchmarks = script("reproduce_cw10"), script("benchmarks")
CASES = [(name, setting) for name in benchmarks.BENCHMARKS for setting in benchmarks.SETTINGS]


@pytest.fixture(autouse=True)
def nothing_tuned(monkeypatch, tmp_path):
    monkeypatch.setattr(reproduce, "read_chosen", lambda: benchmarks.read_chosen(tmp_path / "chosen.json"))


@pytest.mark.parametrize(("name", "setting"), CASES)
def test_every_run_of_every_benchmark_has_a_valid_configuration(name, setting, tmp_path):
    benchmark = benchmarks.BENCHMARKS[name]
    jobs = benchmarks.make_jobs(benchmark, setting, None, None, tmp_path, {})
    assert len({job.folder for job in jobs}) == len(jobs)
    for job in [job for job in jobs if job.seed == 0]:
        config = reproduce.configuration(job)
        assert config.method.name == job.method
        assert config.data.episodes - config.data.held_out <= 100 or name.startswith("paper")
        assert set(resolve_sequence(config.tasks)) <= set(resolve_sequence(benchmark.tasks))


def test_the_comparison_has_five_seeds_where_it_counts_and_three_elsewhere():
    jobs = benchmarks.make_jobs(benchmarks.BENCHMARKS["cw10-small"], "plain", None, None, benchmarks.RESULTS, {})
    counts = {job.method: sum(other.method == job.method for other in jobs) for job in jobs}
    five = ("finetune", "ewc", "ewc_rank1", "replay", "er", "ftml", "vrmcl", "trcl", "joint")
    assert {counts[name] for name in five} == {5}
    assert set(counts.values()) == {3, 5}


def test_random_orders_and_tuned_knobs_reach_the_runs(tmp_path):
    tuned = {"ewc": {"method.weight": 100.0}}
    jobs = benchmarks.make_jobs(benchmarks.BENCHMARKS["random20"], "starved", ["ewc", "er"], 2, tmp_path, tuned)
    ewc, er = (reproduce.configuration(job) for job in jobs if job.seed == 1)
    assert ewc.tasks == "random20:1"
    assert (ewc.method.weight, er.method.weight) == (100.0, 1.0)
    assert (er.method.memory, er.method.replay_ratio * er.training.batch_size) == (32, 4)
    assert jobs[0].folder == tmp_path / "random20-starved" / "ewc" / "seed-0"


def test_what_was_set_beforehand_stands_beside_a_tuned_knob_and_in_place_of_it():
    tuned = {
        "ewc": {"method.weight": 100.0},
        "trcl": {"method.rise": 0.2},
        "replay_dark": {"method.replay_weight": 0.5},
    }
    found = benchmarks.settled(tuned)
    assert found["ewc"] == tuned["ewc"]
    assert found["trcl"] == {"method.rise": 0.2, "method.replay_weight": 2.0}
    assert found["replay_dark"] == {"method.replay_weight": 2.0}
    assert found["trcl_fixed"] == {"method.weight": 1.0, "method.replay_weight": 2.0}


def plan(capsys, tmp_path, *words):
    options = ["--benchmark", "quick", "--methods", "ewc,trcl", "--seeds", "2", "--jobs", "2", "--dry-run"]
    options += ["--results", str(tmp_path / "results"), "--runs", str(tmp_path / "runs"), *words]
    return reproduce.main(options), capsys.readouterr()


def quick_result(method, seed, folder):
    made = document(triangle([0.9] * 3, [0.5] * 3), method=method, seed=seed)
    job = benchmarks.make_jobs(benchmarks.BENCHMARKS["quick"], "plain", [method], seed + 1, folder, {})[-1]
    made["config"] = plain(reproduce.configuration(job))
    return made


def test_dry_run_leaves_out_what_is_stored_and_tells_the_time_from_it(capsys, tmp_path):
    put(tmp_path / "results", "cw10-quick", {("ewc", 0): quick_result("ewc", 0, tmp_path)})
    status, said = plan(capsys, tmp_path)
    assert status == 0
    lines = said.out.splitlines()
    assert lines[0] == "quick, plain: 4 runs, 1 of them stored"
    names = [line.split()[0].split("cw10-quick/")[1] for line in lines[1:4]]
    assert names == ["trcl/seed-0", "ewc/seed-1", "trcl/seed-1"]
    assert lines[2].endswith("2 min 15 s")  # what the stored run took
    assert lines[4] == "0 of 3 runs are finished, about 4 min 30 s with 2 at a time"
    assert not (tmp_path / "runs").exists()


def test_results_of_other_settings_are_not_taken_for_the_wanted_ones(capsys, tmp_path):
    put(tmp_path / "results", "cw10-quick", {("ewc", 0): quick_result("ewc", 0, tmp_path)})
    (tmp_path / "chosen.json").write_text(json.dumps({"methods": {"ewc": {"method.weight": 100.0}}}))
    status, said = plan(capsys, tmp_path)
    assert status == 2
    assert said.err.count("\n") == 1
    assert "method.weight is 1.0 there and 100.0 here" in said.err
    assert plan(capsys, tmp_path, "--untuned")[0] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--methods", "ewcc"], "methods must be among"),
        (["training.stepss=3"], "did you mean training.steps?"),
        (["training.steps=many"], "training.steps must be a whole number"),
    ],
)
def test_mistakes_are_one_clear_line(words, said, capsys, tmp_path):
    status, told = plan(capsys, tmp_path, *words)
    assert status == 2
    assert said in told.err
    assert told.err.count("\n") == 1


def test_methods_that_generate_nothing_are_shared_where_the_setting_would_not_change_them(tmp_path):
    benchmark = benchmarks.BENCHMARKS["cw10-small"]
    run = {job.method for job in benchmarks.make_jobs(benchmark, "many", None, None, tmp_path, {})}
    assert {"replay", "replay_dark", "trcl", "tdgr"} <= run
    assert not run & {"finetune", "joint", "er", "ewc", "ftml", "vrmcl"}
    assert [job.method for job in benchmarks.make_jobs(benchmark, "many", ["er"], 1, tmp_path, {})] == ["er"]
    plain = {"er": {0: {"a": 1}}, "replay": {0: {"a": 4}}, "trcl": {0: {"a": 2}}}
    found = {"cw10-small": plain, "cw10-small-many": {"trcl": {1: {"a": 3}}}}
    assert benchmarks.with_shared(found) == {
        "cw10-small": found["cw10-small"],
        "cw10-small-many": {"er": {0: {"a": 1}}, "trcl": {1: {"a": 3}}},
    }
    found = {"cw10-small": plain, "cw10-small-acting": {"trcl": {1: {"a": 3}}}}
    assert benchmarks.with_shared(found)["cw10-small-acting"] == {
        "er": {0: {"a": 1}},
        "replay": {0: {"a": 4}},
        "trcl": {1: {"a": 3}},
    }
    acting = {job.method for job in benchmarks.make_jobs(benchmark, "acting", None, None, tmp_path, {})}
    assert acting == {"replay_dark", "trcl", "trcl_fixed"}
    assert benchmarks.base_of("cw10-small-many") == "cw10-small"
    assert benchmarks.base_of("cw10-small-long") is None
    assert benchmarks.setting_of("cw10-small-long") == ("long", "cw10-small")
    assert benchmarks.setting_of("cw10-small") is None


def test_longer_training_that_reminds_of_acting_is_held_against_longer_training(tmp_path):
    benchmark = benchmarks.BENCHMARKS["cw10-small"]
    assert benchmarks.setting_of("cw10-small-long-acting") == ("long-acting", "cw10-small-long")
    assert benchmarks.base_of("cw10-small-long-acting") == "cw10-small-long"
    jobs = benchmarks.make_jobs(benchmark, "long-acting", None, 1, tmp_path, {})
    assert {job.method for job in jobs} == {"replay_dark", "trcl", "trcl_fixed"}
    settings = set(jobs[0].settings)
    assert {"training.steps=4000", "training.batch_size=256", "method.replay_recall=use"} <= settings
    long = {"er": {0: {"a": 1}}, "trcl": {0: {"a": 2}}}
    found = {"cw10-small": {"ewc": {0: {"a": 9}}}, "cw10-small-long": long, "cw10-small-long-acting": {"trcl": {0: {}}}}
    assert benchmarks.with_shared(found)["cw10-small-long-acting"] == {"er": {0: {"a": 1}}, "trcl": {0: {}}}


def test_sharper_acting_is_held_against_the_same_training(tmp_path):
    benchmark = benchmarks.BENCHMARKS["cw10-small"]
    assert benchmarks.setting_of("cw10-small-sharp") == ("sharp", "cw10-small")
    assert benchmarks.base_of("cw10-small-sharp") is None
    for long in ("", "long-"):
        name = f"cw10-small-{long}sharp"
        assert benchmarks.setting_of(f"{name}-acting") == (f"{long}sharp-acting", name)
        assert benchmarks.base_of(f"{name}-acting") == name
    (job,) = benchmarks.make_jobs(benchmark, "long-sharp-acting", ["replay_dark"], 1, tmp_path, {})
    wanted = {"training.steps=4000", "diffusion.acting_steps=2", "method.replay_recall=use", "method.replay_draws=4"}
    assert wanted <= set(job.settings)
    (job,) = benchmarks.make_jobs(benchmark, "sharp", ["joint"], 1, tmp_path, {})
    assert not any(setting.startswith(("training.", "method.replay")) for setting in job.settings)
