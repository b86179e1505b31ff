"""Which episodes of a retention matrix are still to do, and what makes a kept one count."""

from pathlib import Path

import pytest

from trcl_policy.rollout.evaluate import Episode
from trcl_policy.rollout.matrix import Cell, fingerprint_policy, held, lines, missing, table
from trcl_policy.rollout.retention import retention, visit_names

FACTS = {"backend": "cpu", "device": "cpu", "physics": "mujoco 3.3.0"}
CELLS = [
    Cell(Path("r/checkpoints") / f"{number:02d}", f"w{number}", task)
    for number, tasks in enumerate(["a", "ab"])
    for task in tasks
]


def episode(task, seed):
    return Episode(task, seed, seed % 2 == 0, 1.0, 9, False, "f")


def whole(seeds):
    return [line for cell in CELLS for line in lines(cell, [episode(cell.task, seed) for seed in seeds], FACTS)]


def test_everything_is_missing_at_first_and_nothing_at_the_end():
    seeds = range(30)
    jobs = missing([], CELLS, seeds)
    assert [(cell.number, cell.task, len(job.seeds)) for cell, job in jobs] == [
        (number, task, size) for number, task in ((0, "a"), (1, "a"), (1, "b")) for size in (25, 5)
    ]
    assert {job.checkpoint for _, job in jobs} == {"r/checkpoints/00", "r/checkpoints/01"}
    kept = held(whole(seeds), CELLS, seeds, FACTS)
    assert len(kept) == 90
    assert missing(kept, CELLS, seeds) == []


def test_more_episodes_later_are_the_rest_only():
    kept = held(whole(range(10)), CELLS, range(12), FACTS)
    assert [job.seeds for _, job in missing(kept, CELLS, range(12))] == [(10, 11)] * 3
    assert len(held(whole(range(10)), CELLS, range(4), FACTS)) == 12
    assert held(whole(range(10)) * 2, CELLS, range(10), FACTS) == whole(range(10))


@pytest.mark.parametrize("change", [{"weights": "other"}, {"physics": "mujoco 4"}, {"backend": "gpu"}, {"seed": 99}])
def test_episodes_of_other_weights_or_simulators_do_not_count(change):
    journal = whole(range(3))
    journal[4] = {**journal[4], **change}
    kept = held(journal, CELLS, range(3), FACTS)
    assert len(kept) == 8
    assert [(cell.number, cell.task, job.seeds) for cell, job in missing(kept, CELLS, range(3))] == [(1, "a", (1,))]


def test_kept_lines_are_the_retention_matrix():
    document = retention(whole(range(5)), ["a", "b"])
    assert document["scores"] == [[0.6, None], [0.6, 0.6]]
    assert document["num_episodes"] == [[5, None], [5, 5]]
    shown = table(document).splitlines()
    assert shown[1].split() == ["0", "a", "0.60", "-"]
    assert shown[2].split() == ["1", "b", "0.60", "0.60"]
    assert shown[3].startswith("average final")
    assert "0.60  [0." in shown[3]
    assert shown[4].split() == ["forgetting", "0.00"]


def test_unfinished_runs_have_a_table_too():
    shown = table(retention(whole(range(5))[:5], ["a", "b"])).splitlines()
    assert shown[2].split() == ["1", "b", "-", "-"]
    assert shown[3].split() == ["average", "final", "-"]


def test_fingerprint_is_of_all_that_a_policy_is(tmp_path):
    found = set()
    for config, weights in (("{}", b"1"), ("{} ", b"1"), ("{}", b"2")):
        (tmp_path / "config.json").write_text(config)
        (tmp_path / "model.safetensors").write_bytes(weights)
        found.add(fingerprint_policy(tmp_path))
    (tmp_path / "owner.safetensors").write_bytes(b"")
    found.add(fingerprint_policy(tmp_path))
    assert len(found) == 4
    (tmp_path / "owner.safetensors").unlink()
    assert fingerprint_policy(tmp_path) in found
    (tmp_path / "config.json").unlink()
    with pytest.raises(OSError, match="can't read"):
        fingerprint_policy(tmp_path)


def test_second_visits_are_numbered():
    assert visit_names(["a", "b", "a", "a"]) == ("a", "b", "a#2", "a#3")
