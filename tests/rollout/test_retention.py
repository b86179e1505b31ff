"""From episode lines alone to the score matrix."""

import json

import pytest

from tests.tiny import tiny
from trcl_policy.continual.metrics import wilson_interval
from trcl_policy.rollout.retention import cells, retention, task_of

__all__ = ["tiny"]


def lines(checkpoint, task, wins, step=None, first=100):
    return [
        {"checkpoint": checkpoint, "step": step, "task": task, "seed": first + place, "success": bool(won)}
        for place, won in enumerate(wins)
    ]


def test_scores_and_summaries_of_a_small_run():
    records = [
        *lines(0, "a", [1, 1, 1, 1]),
        *lines(1, "a", [1, 0, 0, 0]),
        *lines(1, "b", [1, 1, 1, 0]),
    ]
    measured = retention(records, ["a", "b"])
    assert measured["scores"] == [[1.0, None], [0.25, 0.75]]
    assert measured["intervals"][1][0] == list(wilson_interval(1, 4))
    assert measured["intervals"][0][1] is None
    assert measured["num_episodes"] == [[4, None], [4, 4]]
    assert measured["average_final"] == 0.5
    assert measured["forgetting"] == 0.375
    assert measured["forgetting_old"] == 0.75
    assert measured["backward_transfer"] == -0.75
    low, high = measured["average_final_interval"]
    assert low < 0.5 < high


def test_order_of_lines_and_repeated_lines_change_nothing():
    records = [*lines(0, "a", [1, 0]), *lines(1, "a", [0, 0]), *lines(1, "b", [1, 1])]
    repeated = [{**record, "success": not record["success"]} for record in records]
    assert retention([*records, *repeated], ["a", "b"]) == retention(records, ["a", "b"])
    assert retention(records[::-1], ["a", "b"]) == retention(records, ["a", "b"])


def test_a_task_met_twice_is_one_task_with_two_columns():
    names = ["a", "b", "a#2"]
    assert [task_of(name) for name in names] == ["a", "b", "a"]
    records = [
        *lines(0, "a", [1, 1]),
        *lines(1, "a", [0, 0]),
        *lines(1, "b", [1, 0]),
        *lines(2, "a", [1, 0]),
        *lines(2, "b", [0, 0]),
    ]
    measured = retention(records, names)
    assert measured["scores"] == [[1.0, None, None], [0.0, 0.5, None], [0.5, 0.0, 0.5]]
    assert measured["average_final"] == pytest.approx(1 / 3)
    assert measured["forgetting_old"] == 0.5


def test_a_joint_run_has_only_its_last_row():
    measured = retention([*lines(1, "a", [1, 1]), *lines(1, "b", [1, 0])], ["a", "b"])
    assert measured["scores"] == [[None, None], [1.0, 0.5]]
    assert measured["average_final"] == 0.75
    assert measured["average_final_interval"][0] < 0.75
    assert [measured[name] for name in ("forgetting", "forgetting_old", "backward_transfer")] == [None] * 3
    assert measured["reconvergence"] == {}


def test_an_unfinished_run_has_no_final_numbers():
    measured = retention(lines(0, "a", [1, 1]), ["a", "b"])
    assert measured["scores"] == [[1.0, None], [None, None]]
    assert measured["average_final"] is None
    assert measured["average_final_interval"] is None
    assert retention([], ["a"])["scores"] == [[None]]


def test_reconvergence_is_the_first_update_that_is_back():
    records = [
        *lines(0, "a", [1] * 10),
        *lines(1, "a", [0] * 10, step=5),
        *lines(1, "a", [1] * 8 + [0] * 2, step=10),
        *lines(1, "a", [1] * 9 + [0], step=20),
        *lines(1, "a", [0] * 10),  # the end of the task is no point of the curve
        *lines(1, "b", [1] * 10),
    ]
    measured = retention(records, ["a", "b"])
    assert measured["reconvergence"] == {"a": {"b": {"0.99": None, "0.9": 20, "0.8": 10}}}
    assert measured["scores"][1] == [0.0, 1.0]


def test_cells_tell_steps_apart():
    found = cells([*lines(1, "a", [1, 0]), *lines(1, "a", [0, 1], step=5)])
    assert found == {(1, None, "a"): {100: True, 101: False}, (1, 5, "a"): {100: False, 101: True}}


@pytest.mark.sim
def test_metrics_can_be_recomputed_from_episodes_alone(tiny):
    stored = json.loads((tiny.finished / "metrics.json").read_text())
    records = [json.loads(line) for line in (tiny.finished / "episodes.jsonl").read_text().splitlines()]
    names = list(dict.fromkeys(record["task"] for record in records))
    again = json.loads(json.dumps(retention(records, names)))
    assert set(stored) - set(again) == {"method", "cost"}
    assert again == {key: stored[key] for key in again}
    assert set(stored["reconvergence"]) == set(names[:2])
