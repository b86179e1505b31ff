"""From episode lines alone to the score matrix."""

import json

import pytest

from tests.tiny import tiny
from trcl_policy.continual.statistics import wilson_interval
from trcl_policy.rollout.relearning import loss_retention, survival_of
from trcl_policy.rollout.retention import cells, learning_curves, retention, task_of

__all__ = ["tiny"]


def lines(checkpoint, task, wins, step=None, first=100, **more):
    return [
        {"checkpoint": checkpoint, "step": step, "task": task, "seed": first + place, "success": bool(won), **more}
        for place, won in enumerate(wins)
    ]


def share(checkpoint, task, wins, step=None, end=100):
    """Ten episodes with ``wins`` successes, as runs write them."""
    return lines(checkpoint, task, [1] * wins + [0] * (10 - wins), step, update=end if step is None else step)


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


# ---- curves within tasks ----

DENSE = [
    *share(0, "a", 0, step=0),
    *share(0, "a", 6, step=10),
    *share(0, "a", 10),
    *share(1, "b", 2, step=0),
    *[record for step, wins in [(10, 2), (20, 9), (30, 9), (40, 9)] for record in share(1, "a", wins, step)],
    *[record for step, wins in [(10, 4), (20, 8), (30, 8), (40, 8)] for record in share(1, "b", wins, step)],
    *share(1, "a", 5),
    *share(1, "b", 8),
]


def test_curves_join_the_end_before_the_steps_and_the_end_of_a_task():
    measured = retention(DENSE, ["a", "b"])
    assert measured["curves"]["a"]["a"] == {"updates": [0, 10, 100], "scores": [0.0, 0.6, 1.0]}
    assert measured["curves"]["a"]["b"] == {"updates": [0, 10, 20, 30, 40, 100], "scores": [1, 0.2, 0.9, 0.9, 0.9, 0.5]}
    assert measured["curves"]["b"] == {
        "b": {"updates": [0, 10, 20, 30, 40, 100], "scores": [0.2, 0.4, 0.8, 0.8, 0.8, 0.8]}
    }
    assert learning_curves(measured) == [
        {0: 0.0, 10: 0.6, 100: 1.0},
        {0: 0.2, 10: 0.4, 20: 0.8, 30: 0.8, 40: 0.8, 100: 0.8},
    ]


def test_dips_and_survival_of_a_small_run():
    recovery = retention(DENSE, ["a", "b"])["recovery"]
    found = recovery["pairs"]["a"]["b"]
    assert (found["dropped"], found["bottom"], found["recovered_after"], found["followed"]) == (True, 10, 10, 90)
    assert found["depth"] == pytest.approx(0.8)
    assert recovery["from_bottom"]["spells"] == [[10, True]]
    assert {level: table["spells"] for level, table in recovery["first_passage"].items()} == {
        "0.99": [[100, False]],
        "0.9": [[20, True]],
        "0.8": [[20, True]],
    }
    assert survival_of(recovery["first_passage"]["0.99"]).restricted_mean() == (100, 0)


def test_pairs_take_the_last_visit_and_never_the_task_itself():
    names = ["a", "b", "a#2", "c"]
    records = [line for k, task in enumerate("abac") for line in share(k, task, 10)]
    records += [line for k, task in [(1, "a"), (2, "b"), (3, "a"), (3, "b")] for line in share(k, task, 8, step=10)]
    records += [line for k, task in [(1, "a"), (2, "b"), (3, "a"), (3, "b")] for line in share(k, task, 8)]
    records += share(2, "a", 10, step=10)
    pairs = retention(records, names)["recovery"]["pairs"]
    assert {old: list(later) for old, later in pairs.items()} == {"a": ["b"], "b": ["a#2", "c"], "a#2": ["c"]}


def test_only_pairs_that_dropped_have_a_bottom_to_come_back_from():
    records = [*share(0, "a", 10), *share(1, "a", 10, step=10), *share(1, "a", 10), *share(1, "b", 9)]
    found = retention(records, ["a", "b"])["recovery"]
    assert found["first_passage"]["0.9"]["spells"] == [[10, True]]
    assert found["pairs"]["a"]["b"]["dropped"] is False
    assert found["from_bottom"] is None


def test_a_task_that_was_never_learned_has_nothing_to_come_back_to():
    records = [*share(0, "a", 0), *share(1, "a", 0, step=10), *share(1, "a", 0), *share(1, "b", 9)]
    found = retention(records, ["a", "b"])
    assert found["recovery"]["pairs"] == {}
    assert found["recovery"]["first_passage"]["0.9"] is None


def test_forward_transfer_comes_from_tasks_trained_alone():
    alone = [{0: 0.0, 10: 0.4, 100: 1.0}, {0: 0.0, 10: 0.0, 20: 0.0, 30: 0.0, 40: 0.0, 100: 0.0}]
    measured = retention(DENSE, ["a", "b"], alone)
    first = ((0.3 * 10 + 0.8 * 90) - (0.2 * 10 + 0.7 * 90)) / 100 / (1 - 0.65)
    second = (0.3 * 10 + 0.6 * 10 + 0.8 * 80) / 100
    assert measured["forward_transfers"] == pytest.approx([first, second])
    assert measured["forward_transfer"] == pytest.approx((first + second) / 2)
    assert retention(DENSE, ["a", "b"])["forward_transfer"] is None
    with pytest.raises(ValueError, match="alone must be evaluated at the run's updates"):
        retention(DENSE, ["a", "b"], alone[::-1])


def test_libero_reads_the_best_update_of_each_task():
    found = retention(DENSE, ["a", "b"])["libero"]  # b is best from update 20 on, where a stands at .9
    fwt = [(0.0 + 0.6 + 1.0) / 3, (0.2 + 0.4 + 0.8 * 4) / 6]
    assert found["nbt"] == pytest.approx(0.1)
    assert (found["fwt"], found["auc"]) == pytest.approx((sum(fwt) / 2, ((fwt[0] + 0.9) / 2 + fwt[1]) / 2))


def test_runs_without_the_end_written_down_keep_what_they_had():
    bare = [{key: value for key, value in line.items() if key != "update"} for line in DENSE]
    old, new = retention(bare, ["a", "b"]), retention(DENSE, ["a", "b"])
    same = ("scores", "intervals", "average_final", "forgetting", "reconvergence")
    assert [old[key] for key in same] == [new[key] for key in same]
    assert old["curves"]["a"]["b"]["updates"] == [0, 10, 20, 30, 40]


# ---- losses ----


def logged(index, task, step, learned=False, **losses):
    return {"task": task, "task_index": index, "step": step, "learned": learned, "held_out_loss": losses}


def test_losses_make_a_matrix_and_curves_from_the_log():
    log = [
        {"task": "a", "task_index": 0, "step": 5, "loss_new": 1.0},
        logged(0, "a", 10, a=0.5),
        logged(0, "a", 100, learned=True, a=0.1),
        *[logged(1, "b", step, a=a, b=0.2) for step, a in [(10, 0.4), (20, 0.11), (30, 0.11)]],
        logged(1, "b", 100, learned=True, a=0.1, b=0.1),
    ]
    found = loss_retention(log, ["a", "b"])
    assert found["losses"] == [[0.1, None], [0.1, 0.1]]
    assert found["loss_curves"]["a"]["b"] == {"updates": [0, 10, 20, 30, 100], "losses": [0.1, 0.4, 0.11, 0.11, 0.1]}
    assert found["loss_curves"]["b"]["b"] == {"updates": [10, 20, 30, 100], "losses": [0.2, 0.2, 0.2, 0.1]}
    dip = found["loss_recovery"]["pairs"]["a"]["b"]
    assert (dip["bottom"], dip["recovered_after"], dip["dropped"]) == (10, 10, True)
    assert dip["depth"] == pytest.approx(0.3)
    assert found["loss_recovery"]["first_passage"]["0.99"]["spells"] == [[100, True]]


def test_losses_inside_a_task_are_not_the_ones_after_it():
    found = loss_retention([logged(0, "a", 100, learned=True, a=0.1), logged(1, "b", 10, a=0.4, b=0.2)], ["a", "b"])
    assert found["losses"] == [[0.1, None], [None, None]]


def test_losses_of_a_joint_run_stand_in_its_last_row():
    found = loss_retention([logged(0, "joint", 200, learned=True, a=0.3, b=None)], ["a", "b"])
    assert found["losses"] == [[None, None], [0.3, None]]
    assert found["loss_recovery"]["from_bottom"] is None


def test_cells_tell_steps_apart():
    found = cells([*lines(1, "a", [1, 0]), *lines(1, "a", [0, 1], step=5)])
    assert found == {(1, None, "a"): {100: True, 101: False}, (1, 5, "a"): {100: False, 101: True}}


@pytest.mark.sim
def test_metrics_can_be_recomputed_from_episodes_and_log_alone(tiny):
    stored = json.loads((tiny.finished / "metrics.json").read_text())
    records = [json.loads(line) for line in (tiny.finished / "episodes.jsonl").read_text().splitlines()]
    names = list(dict.fromkeys(record["task"] for record in records))
    log = [json.loads(line) for line in (tiny.finished / "log.jsonl").read_text().splitlines()]
    again = json.loads(json.dumps({**retention(records, names), **loss_retention(log, names)}))
    assert set(stored) - set(again) == {"method", "cost"}
    assert again == {key: stored[key] for key in again}
    assert set(stored["reconvergence"]) == set(names[:2])
    assert stored["curves"][names[0]][names[1]]["updates"] == [0, 10, 30]
    assert [line["task"] for line in records if line["step"] == 0] == [name for name in names for _ in range(2)]
    assert stored["loss_curves"][names[0]][names[1]]["updates"] == [0, 10, 30]
    assert None not in [stored["libero"][key] for key in ("fwt", "nbt", "auc")]
    assert stored["losses"][2][2] > 0
