"""First passages, dips and Kaplan-Meier tables: by hand, against slow counting, and against published figures."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trcl_policy.continual.recovery import dip, kaplan_meier, reconvergence

# Weeks in remission of 21 + 21 children with leukaemia, + where censored (Freireich et al. 1963).
MERCAPTOPURINE = "6 6 6 6+ 7 9+ 10 10+ 11+ 13 16 17+ 19+ 20+ 22 23 25+ 32+ 32+ 34+ 35+"
PLACEBO = "1 1 2 2 3 4 4 5 5 8 8 8 8 11 11 12 12 15 17 22 23"


def spells(text):
    return [(float(word.rstrip("+")), not word.endswith("+")) for word in text.split()]


# ---- first passage ----


def test_reconvergence_is_the_first_evaluated_update_at_the_level():
    curve = {0: 1.0, 2: 0.3, 10: 0.72, 50: 0.81, 200: 0.6, 400: 0.9}
    assert reconvergence(curve, reference=0.9) == {"0.99": 400, "0.9": 50, "0.8": 10}
    shuffled = dict(reversed(curve.items()))
    assert reconvergence(shuffled, reference=0.9) == reconvergence(curve, reference=0.9)


def test_reconvergence_may_be_never():
    assert reconvergence({1: 0.1, 100: 0.5}, reference=1.0) == {"0.99": None, "0.9": None, "0.8": None}
    assert reconvergence({0: 1.0}, reference=1.0, levels=(0.5,)) == {"0.5": None}
    assert reconvergence({}, reference=1.0, levels=(0.5,)) == {"0.5": None}


def test_a_loss_is_back_when_it_is_at_its_reference_over_the_level():
    curve = {2: 0.30, 5: 0.125, 10: 0.111}
    assert reconvergence(curve, 0.1, (0.9, 0.8, 0.99), higher_is_better=False) == {"0.9": 10, "0.8": 5, "0.99": None}


# ---- dips ----


def test_dip_of_a_hand_worked_curve():
    found = dip({0: 0.0, 2: 0.9, 5: 0.3, 10: 0.2, 20: 0.9, 50: 0.8, 100: 0.9, 200: 1.0, 500: 0.95}, reference=0.9)
    assert (found.dropped, found.bottom, found.followed) == (True, 10, 490)
    assert (found.depth, found.target) == pytest.approx((0.7, 0.81))
    assert found.recovered_after == 90  # 20 is at the target, but not held: 50 is below
    assert found.spell() == (90, True)


def test_target_must_be_held_for_three_evaluations_that_were_made():
    curve = {2: 0.1, 5: 0.9, 10: 0.9}
    assert dip(curve, 0.9).spell() == (8, False)
    assert dip(curve, 0.9, held=2).spell() == (3, True)
    assert dip({**curve, 20: 0.9}, 0.9).spell() == (3, True)


def test_reaching_the_target_before_the_bottom_is_no_recovery():
    found = dip({2: 0.5, 5: 1.0, 10: 1.0, 20: 1.0, 50: 0.1, 100: 0.5}, 1.0)
    assert (found.bottom, found.recovered_after, found.followed) == (50, None, 50)


def test_a_task_that_never_dropped_has_nothing_to_recover_from():
    found = dip({2: 0.9, 5: 0.95}, 1.0)
    assert (found.dropped, found.recovered_after, found.bottom) == (False, 0, 2)
    assert found.depth == pytest.approx(0.1)
    assert dip({2: 0.9, 5: 0.95}, 0.8).depth == pytest.approx(-0.1)  # better than when it was learned


def test_the_first_of_equal_bottoms_counts():
    assert dip({2: 0.0, 5: 0.0, 10: 0.0}, 1.0).bottom == 2


def test_dips_of_losses_point_upwards():
    found = dip({2: 0.10, 5: 0.30, 10: 0.11, 20: 0.11, 50: 0.10}, 0.1, higher_is_better=False)
    assert (found.dropped, found.bottom, found.recovered_after) == (True, 5, 5)
    assert (found.depth, found.target) == pytest.approx((0.2, 0.1 / 0.9))


def test_a_dip_needs_an_evaluation_after_the_switch():
    with pytest.raises(ValueError, match=r"curve must hold an evaluated update >= 1, got \[0\]"):
        dip({0: 1.0}, 1.0)


# ---- Kaplan-Meier ----


def test_mercaptopurine_as_printed_in_textbooks():
    table = kaplan_meier(spells(MERCAPTOPURINE))
    assert (table.num, table.num_events) == (21, 9)
    assert table.times == (6, 7, 10, 13, 16, 22, 23)
    assert table.at_risk == (21, 17, 15, 12, 11, 7, 6)
    assert [round(share, 4) for share in table.shares] == [0.8571, 0.8067, 0.7529, 0.6902, 0.6275, 0.5378, 0.4482]
    intervals = [tuple(round(end, 4) for end in interval) for interval in table.intervals]
    assert intervals[:3] == [(0.6197, 0.9516), (0.5631, 0.9228), (0.5032, 0.8894)]
    assert intervals[-1] == (0.1881, 0.6801)
    assert table.median() == 23
    mean, error = table.restricted_mean(35)
    assert (round(mean, 2), round(error, 2)) == (23.29, 2.83)


def test_placebo_without_censoring_is_the_plain_mean():
    values = spells(PLACEBO)
    table = kaplan_meier(values)
    times = [time for time, _ in values]
    mean = sum(times) / 21
    assert table.median() == 8
    assert table.restricted_mean() == pytest.approx(
        (mean, math.sqrt(sum((time - mean) ** 2 for time in times)) / 21)  # the textbook error with 1 / n
    )
    assert table.intervals[-1] is None
    assert table.restricted_mean(1000)[0] == pytest.approx(mean)


def test_curve_equals_scipy():
    stats = pytest.importorskip("scipy.stats")
    values = spells(MERCAPTOPURINE)
    data = stats.CensoredData(
        uncensored=[time for time, happened in values if happened], right=[time for time, h in values if not h]
    )
    wanted = stats.ecdf(data).sf
    table = kaplan_meier(values)
    assert table.shares == pytest.approx([float(wanted.evaluate(time)) for time in table.times], abs=1e-12)
    bounds = wanted.confidence_interval(method="log-log")
    for time, (low, high) in zip(table.times, table.intervals, strict=True):
        assert (low, high) == pytest.approx((float(bounds.low.evaluate(time)), float(bounds.high.evaluate(time))))


def redistributed(values, time):
    """Share beyond ``time`` by Efron's redistribution to the right: another way to the same estimate."""
    ordered = sorted(values, key=lambda spell: (spell[0], not spell[1]))
    mass = [1 / len(ordered)] * len(ordered)
    for place, (_, happened) in enumerate(ordered[:-1]):
        if not happened:
            rest = len(ordered) - place - 1
            mass[place + 1 :] = [m + mass[place] / rest for m in mass[place + 1 :]]
            mass[place] = 0.0
    return sum(m for m, (t, happened) in zip(mass, ordered, strict=True) if t > time or not happened)


@given(st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=1, max_size=15))
def test_curve_equals_redistribution_to_the_right(values):
    table = kaplan_meier(values)
    for time in range(int(table.longest)):
        assert table.at(time) == pytest.approx(redistributed(values, time), abs=1e-12)
    fine = [table.longest * place / 5000 for place in range(5001)]
    area = sum((late - early) * table.at((early + late) / 2) for early, late in pairwise(fine))
    assert table.restricted_mean()[0] == pytest.approx(area, abs=0.04)


def test_restricted_mean_error_of_a_hand_worked_table():
    # S is 1 up to 1, .75 up to 3, .375 after; areas to the horizon 5 from 1 and 3: 2.25 and .75
    table = kaplan_meier([(1, True), (2, False), (3, True), (5, False)])
    variance = 2.25**2 * 1 / (4 * 3) + 0.75**2 * 1 / (2 * 1)
    assert table.restricted_mean() == pytest.approx((1 + 1.5 + 0.75, math.sqrt(variance)))
    assert table.restricted_mean(2) == pytest.approx((1.75, 0.75 / math.sqrt(12)))


def test_never_is_censored_and_not_left_out():
    table = kaplan_meier([(2, True), (100, False), (100, False)])
    assert table.median() is None
    assert table.restricted_mean()[0] == pytest.approx(2 + 98 * 2 / 3)
    assert kaplan_meier([(7, False)]).restricted_mean() == (7, 0)


def test_a_horizon_beyond_what_was_watched_is_refused():
    table = kaplan_meier([(2, True), (10, False)])
    with pytest.raises(ValueError, match=r"horizon must be in \[0, 10\], the longest spell watched, got 11"):
        table.restricted_mean(11)
    with pytest.raises(ValueError, match="spells must be at least one and of time >= 0, got"):
        kaplan_meier([])
