"""Numbers made of a score matrix, against formulas worked by hand and scipy."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trcl_policy.continual.metrics import (
    Summary,
    mean_of_shares_interval,
    reconvergence,
    summarize,
    wilson_interval,
)


@given(total=st.integers(1, 500), part=st.floats(0, 1))
def test_wilson_ends_solve_the_score_equation(total, part):
    """The ends are the shares p at which |share - p| = z sqrt(p (1 - p) / total)."""
    successes, z = round(part * total), 1.959963984540054
    share = successes / total
    for end in wilson_interval(successes, total):
        assert 0 <= end <= 1
        assert abs(share - end) == pytest.approx(z * math.sqrt(end * (1 - end) / total), abs=1e-7)


def test_wilson_equals_scipy():
    stats = pytest.importorskip("scipy.stats")
    for successes, total in [(0, 20), (3, 20), (20, 20), (57, 100)]:
        wanted = stats.binomtest(successes, total).proportion_ci(method="wilson")
        assert wilson_interval(successes, total) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


def test_wilson_known_values():
    assert wilson_interval(8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert wilson_interval(0, 10)[0] == 0
    assert wilson_interval(10, 10)[1] == 1


@pytest.mark.parametrize(("successes", "total"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(successes, total):
    with pytest.raises(ValueError, match=r"successes must be in \[0, total\] and total >= 1, got"):
        wilson_interval(successes, total)


def test_interval_of_one_share_is_wilsons_and_more_shares_narrow_it():
    assert mean_of_shares_interval([(3, 20)]) == pytest.approx(wilson_interval(3, 20))
    low, high = wilson_interval(3, 20)
    many = mean_of_shares_interval([(3, 20)] * 4)
    assert many == pytest.approx((0.15 - (0.15 - low) / 2, 0.15 + (high - 0.15) / 2))
    mixed = mean_of_shares_interval([(0, 20), (20, 20)])
    doubt = wilson_interval(0, 20)[1] / 2
    assert mixed == pytest.approx((0.5 - doubt, 0.5 + doubt))


SCORES = [[0.9, None, None], [0.5, 0.8, None], [0.3, 0.9, 0.7]]


def test_summary_of_a_hand_worked_matrix():
    found = summarize(SCORES)
    assert found.average_final == pytest.approx((0.3 + 0.9 + 0.7) / 3)
    assert found.forgetting == pytest.approx((0.6 - 0.1 + 0.0) / 3)
    assert found.forgetting_old == pytest.approx((0.6 - 0.1) / 2)
    assert found.backward_transfer == pytest.approx(-(0.6 - 0.1) / 2)


def test_distances_turn_the_sign_so_that_forgetting_is_positive_when_it_hurts():
    found = summarize([[10.0, None], [25.0, 12.0]], higher_is_better=False)
    assert found == Summary(18.5, 7.5, 15.0, -15.0)


def test_what_was_not_measured_stays_unknown():
    assert summarize([[0.9, None], [None, 0.8]]) == Summary(None, None, None, None)
    assert summarize([[None, None], [0.5, 0.8]]) == Summary(0.65, None, None, None)
    found = summarize([[0.9, None], [0.5, None]])
    assert (found.average_final, found.forgetting) == (None, None)
    assert found.forgetting_old == pytest.approx(0.4)


def test_a_single_task_has_no_old_ones():
    assert summarize([[0.75]]) == Summary(0.75, 0.0, None, None)


def test_reconvergence_is_the_first_evaluated_update_at_the_level():
    curve = {0: 1.0, 2: 0.3, 10: 0.72, 50: 0.81, 200: 0.6, 400: 0.9}
    assert reconvergence(curve, reference=0.9) == {"0.99": 400, "0.9": 50, "0.8": 10}
    shuffled = dict(reversed(curve.items()))
    assert reconvergence(shuffled, reference=0.9) == reconvergence(curve, reference=0.9)


def test_reconvergence_may_be_never():
    assert reconvergence({1: 0.1, 100: 0.5}, reference=1.0) == {"0.99": None, "0.9": None, "0.8": None}
    assert reconvergence({0: 1.0}, reference=1.0, levels=(0.5,)) == {"0.5": None}
    assert reconvergence({}, reference=1.0, levels=(0.5,)) == {"0.5": None}
