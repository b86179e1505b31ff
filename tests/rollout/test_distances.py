"""From lines of scores alone to the score matrix of distances."""

import math

import pytest

from trcl_policy.rollout.distances import OTHERS, distance_retention, interval_of_mean
from trcl_policy.rollout.retention import retention

NAMES = ["1:a", "2:b"]


def line(checkpoint, task, distance, step=None, low=1.0, high=2.0):
    """As runs write them; the interval reaches ``low`` below and ``high`` above."""
    bounds = {"distance_low": distance - low, "distance_high": distance + high}
    others = {name: checkpoint + place / 10 for place, name in enumerate(OTHERS)}
    place = {"checkpoint": checkpoint, "step": step, "update": 100 if step is None else step}
    return {**place, "task": task, "seed": 0, "distance": distance, **bounds, **others, "num_made": 50, "num_real": 40}


RUN = [
    line(0, "1:a", 10.0),
    line(1, "1:a", 25.0, step=5),
    line(1, "1:a", 12.5, step=20),
    line(1, "1:a", 11.5, step=40),
    line(1, "1:a", 10.9, step=60),
    line(1, "1:a", 16.0, low=3.0),
    line(1, "2:b", 8.0, low=4.0),
]


def test_forgetting_is_the_rise_of_the_distance():
    measured = distance_retention(RUN, NAMES, "feature distance")
    assert measured["score"] == "feature distance"
    assert measured["scores"] == [[10.0, None], [16.0, 8.0]]
    assert measured["intervals"] == [[[9.0, 12.0], None], [[13.0, 18.0], [4.0, 10.0]]]
    assert measured["average_final"] == 12.0
    assert measured["forgetting"] == 3.0
    assert measured["forgetting_old"] == 6.0
    assert measured["backward_transfer"] == -6.0
    assert measured["num_samples"] == [[50, None], [50, 50]]
    assert measured["others"]["accuracy"] == [[0.5, None], [1.5, 1.5]]


def test_a_task_is_back_at_ten_twenty_and_thirty_per_cent_more():
    measured = distance_retention(RUN, NAMES, "FID")
    assert measured["reconvergence"] == {"1:a": {"2:b": {"+10 %": 60, "+20 %": 40, "+30 %": 20}}}
    exact = [line(0, "1:a", 10.0), line(1, "1:a", 11.0, step=3), line(1, "1:a", 14.0), line(1, "2:b", 1.0)]
    back = distance_retention(exact, NAMES, "FID")["reconvergence"]["1:a"]["2:b"]
    assert back == {"+10 %": 3, "+20 %": 3, "+30 %": 3}
    never = [line(0, "1:a", 10.0), line(1, "1:a", 13.1, step=3), line(1, "1:a", 14.0), line(1, "2:b", 1.0)]
    assert set(distance_retention(never, NAMES, "FID")["reconvergence"]["1:a"]["2:b"].values()) == {None}


def test_dips_are_of_distances_too():
    (pair,) = distance_retention(RUN, NAMES, "FID")["recovery"]["pairs"].values()
    assert pair["2:b"]["dropped"]
    assert pair["2:b"]["depth"] == 15.0
    assert pair["2:b"]["bottom"] == 5
    assert distance_retention(RUN, NAMES, "FID")["curves"]["1:a"]["2:b"]["updates"] == [0, 5, 20, 40, 60, 100]


def test_the_interval_of_a_mean_adds_the_arms_in_squares():
    low, high = distance_retention(RUN, NAMES, "FID")["average_final_interval"]
    assert low == pytest.approx(12 - math.hypot(3, 4) / 2)
    assert high == pytest.approx(12 + math.hypot(2, 2) / 2)
    assert interval_of_mean([1.0, None], [[0.0, 2.0], None]) is None


def test_it_has_every_key_that_success_has():
    success = {"checkpoint": 0, "step": None, "update": 9, "task": "a", "seed": 0, "success": True}
    missing = set(retention([success], ["a"])) - set(distance_retention([line(0, "a", 1.0)], ["a"], "FID"))
    assert missing == {"num_episodes"}


def test_of_repeated_lines_the_first_counts_and_a_running_run_has_gaps():
    measured = distance_retention([RUN[0], line(0, "1:a", 99.0)], NAMES, "FID")
    assert measured["scores"] == [[10.0, None], [None, None]]
    assert measured["average_final"] is None
    assert measured["average_final_interval"] is None
