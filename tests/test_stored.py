"""What is stored of a run is small, comes back as it was, and is told apart by its settings."""

import json

import pytest

from tests.fake_results import document, plain, put, triangle
from tests.scripts import script
from trcl_policy.config import load_config
from trcl_policy.report.groups import group_runs

stored = script("stored")


def long_document(size=50):
    scores = triangle([0.8] * size, [0.75] * size)
    made = document(scores)
    names = [f"task-{place}" for place in range(size)]
    curve = {"updates": [0, 4000], "scores": [0.123456789, 0.987654321]}
    inner = {"updates": [0, 5, 4000], "scores": [0.5, 0.5, 0.5]}
    made["metrics"] |= {
        "tasks": names,
        "scores": scores,
        "intervals": [[None if s is None else [0.123456, 0.98765] for s in row] for row in scores],
        "num_episodes": [[None if s is None else 20 for s in row] for row in scores],
        "curves": {old: {new: curve for new in names[k:]} for k, old in enumerate(names)},
        "loss_curves": {names[0]: {names[0]: inner, names[1]: curve}},
    }
    return made


def test_long_results_stay_small_without_what_follows_from_the_rest():
    made = long_document()
    slim = stored.slimmed(made)
    assert len(stored.as_text(made)) > 100_000
    assert len(stored.as_text(slim)) < stored.LIMIT
    assert slim["metrics"]["curves"] == {}
    assert slim["metrics"]["loss_curves"] == {"task-0": {"task-0": made["metrics"]["loss_curves"]["task-0"]["task-0"]}}
    assert slim["metrics"]["scores"] == made["metrics"]["scores"]


def test_small_results_keep_everything_rounded():
    made = document(triangle([0.9, 0.8], [1 / 3, 0.85]))
    slim = stored.slimmed(made)
    assert slim["metrics"]["scores"][-1] == [0.3333, 0.85]
    assert slim["metrics"].keys() == made["metrics"].keys()
    assert json.loads(stored.as_text(slim)) == slim
    assert stored.rounded({"a": [1234.56789, 0.00012345678, 7, None]}) == {"a": [1234.5679, 0.0001235, 7, None]}


def test_left_out_intervals_come_back_as_wilsons(tmp_path):
    made = document(triangle([0.9, 0.8], [0.5, 0.85]))
    del made["metrics"]["intervals"]
    put(tmp_path, "b", {("trcl", 0): made, ("trcl", 10): made, ("trcl", 2): made})
    found = stored.load(tmp_path, "b")["trcl"]
    assert list(found) == [0, 2, 10]
    low, high = found[0]["metrics"]["intervals"][1][0]
    assert (round(low, 4), round(high, 4)) == (0.2993, 0.7007)  # Wilson's for 10 of 20
    assert found[0]["metrics"]["intervals"][0][1] is None
    assert stored.as_run("trcl", 0, found[0]).scores == found[0]["metrics"]["scores"]


def test_other_settings_are_named_and_harmless_ones_are_not():
    wanted = load_config("cw10-small", {"method.weight": 2.0})
    same = plain(load_config("cw10-small", {"method.weight": 2.0, "data.store": "elsewhere.zarr", "threads": 2}))
    assert stored.difference(same, wanted) == ""
    assert stored.difference(plain(load_config("cw10-small")), wanted) == "method.weight is 1.0 there and 2.0 here"
    other = plain(load_config("cw10-small", {"method.weight": 2.0, "seed": 1}))
    assert stored.difference(other, wanted) == "seed is 1 there and 0 here"
    for precision in ("fp32", "bf16"):
        learned = plain(load_config("cw10-small", {"method.weight": 2.0, "precision": precision}))
        assert stored.difference(learned, wanted) == ""  # the configuration says auto
    half, whole = (load_config("cw10-small", {"precision": precision}) for precision in ("bf16", "fp32"))
    assert stored.difference(plain(half), whole) == "precision is bf16 there and fp32 here"
    assert "can't be read any more" in stored.difference({"no_such": 1}, wanted)


@pytest.mark.parametrize("extra", [True, False])
def test_export_joins_what_a_run_left(tmp_path, extra):
    made = document(triangle([0.9, 0.8], [0.5, 0.85]))
    for name in ("metrics", "provenance"):
        (tmp_path / f"{name}.json").write_text(json.dumps(made[name]))
    (tmp_path / "config.yaml").write_text(json.dumps(made["config"]))
    if extra:
        (tmp_path / "recovery.json").write_text(json.dumps({"run": "/somewhere", "tasks": {}}))
        lines = [("push", 2, 0.7), ("push", 1, 0.9), ("reach", 1, 0.5)]
        made_by = [
            {"task": task, "generation": g, "share": s, "coverage": 2 * s, "energy": 0.1} for task, g, s in lines
        ]
        (tmp_path / "replay.jsonl").write_text("".join(json.dumps(line) + "\n" for line in made_by))
    stored.export(tmp_path, tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["metrics"]["scores"] == made["metrics"]["scores"]
    assert found["config"] == made["config"]
    assert found.get("probe") == ({"tasks": {}} if extra else None)
    quality = found.get("replay")
    if not extra:
        assert quality is None
        return
    assert quality["push"] == {"share": [0.9, 0.7], "coverage": [1.8, 1.4], "energy": [0.1, 0.1]}
    table = script("results_tables").quality_table({"replay": {0: found}, "er": {0: {}}})
    assert table.rows == (("replay", "1", "0.900 to 0.700", "1.800 to 1.400", "0.100 to 0.100"),)


def test_seeds_stored_before_a_setting_was_made_are_of_one_group_with_later_ones():
    runs = []
    for seed in range(2):
        found = document(triangle([0.9] * 3, [0.5] * 3), seed=seed)
        if not seed:
            del found["config"]["method"]["replay_draws"]
        runs.append(stored.as_run("trcl", seed, found))
    assert [group.label for group in group_runs(runs)] == ["trcl"]
    found["config"]["method"]["gone"] = 1
    assert stored.as_run("trcl", 1, found).settings["method"]["gone"] == 1
