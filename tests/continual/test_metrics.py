"""Numbers made of a score matrix and of learning curves, against formulas worked by hand."""

import pytest

from trcl_policy.continual.metrics import Libero, Summary, area_under_curve, forward_transfer, libero, summarize

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


# ---- learning curves ----


def test_area_is_by_trapezoids_over_the_evaluated_span():
    assert area_under_curve({0: 0.0, 10: 0.5, 40: 1.0}) == pytest.approx((2.5 + 22.5) / 40)
    assert area_under_curve({40: 1.0, 10: 0.5}) == pytest.approx(0.75)
    with pytest.raises(ValueError, match="curve must hold at least two evaluated updates, got 1"):
        area_under_curve({5: 1.0})


def test_forward_transfer_is_the_share_of_the_possible_gain():
    alone = [{0: 0.0, 10: 1.0}, {0: 0.0, 10: 0.8}, {0: 0.2, 10: 0.6}]
    learned = [{0: 0.0, 10: 1.0}, {0: 0.4, 10: 0.8}, {0: 0.0, 10: 0.2}]
    assert forward_transfer(learned, alone) == pytest.approx([0.0, (0.6 - 0.4) / 0.6, (0.1 - 0.4) / 0.6])


def test_a_task_that_is_perfect_alone_leaves_nothing_to_gain():
    assert forward_transfer([{0: 0.5, 9: 1.0}], [{0: 1.0, 9: 1.0}]) == [None]


def test_curves_on_different_updates_do_not_compare():
    with pytest.raises(ValueError, match=r"alone must be evaluated at the run's updates \[0, 10\], got updates \[0, 5"):
        forward_transfer([{0: 0.0, 10: 1.0}], [{0: 0.0, 5: 0.3, 10: 1.0}])


CURVES = [
    [{0: 0.0, 5: 0.8, 10: 0.6}],  # best at 5: counts as 0, .8, .8
    [{0: 0.8, 5: 0.5, 10: 0.4}, {0: 0.1, 5: 0.3, 10: 0.9}],  # best at 10
    [{0: 0.4, 5: 0.7, 10: 0.2}, {0: 0.9, 5: 0.6, 10: 0.1}, {0: 0.2, 5: 0.5, 10: 0.5}],  # best first reached at 5
]


def test_libero_of_hand_worked_curves():
    fwt = [(0.0 + 0.8 + 0.8) / 3, (0.1 + 0.3 + 0.9) / 3, (0.2 + 0.5 + 0.5) / 3]
    nbt = [((0.8 - 0.4) + (0.8 - 0.7)) / 2, 0.9 - 0.6]
    auc = [(fwt[0] + 0.4 + 0.7) / 3, (fwt[1] + 0.6) / 2, fwt[2]]
    found = libero(CURVES)
    assert (found.fwt, found.nbt, found.auc) == pytest.approx((sum(fwt) / 3, sum(nbt) / 2, sum(auc) / 3))


def test_libero_needs_the_evaluations_it_speaks_of():
    ends = [[{10: 0.8}], [{10: 0.5}, {10: 0.9}]]
    assert libero(ends) == Libero(None, pytest.approx(0.3), None)
    holes = [[{5: 0.8, 10: 0.8}], [{10: 0.5}, {5: 0.9, 10: 0.9}]]  # the old task was not measured at update 5
    assert libero(holes) == Libero(pytest.approx(0.85), None, None)
    assert libero([[{}], [{}, {10: 0.9}]]) == Libero(None, None, None)
    assert libero([[{0: 0.0, 10: 0.9}]]) == Libero(0.45, None, 0.45)
