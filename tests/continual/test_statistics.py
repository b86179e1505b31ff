"""Intervals and comparisons, against formulas worked by hand, scipy and slow counting."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trcl_policy.continual.statistics import (
    bootstrap_interval,
    compare,
    mean_interval,
    mean_of_shares_interval,
    sign_flip_p_value,
    t_quantile,
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


# ---- over seeds ----


@pytest.mark.parametrize(
    ("freedom", "wanted"),
    [(1, 12.7062047), (2, 4.3026527), (3, 3.1824463), (4, 2.7764451), (9, 2.2621572), (30, 2.0422725)],
)
def test_t_quantile_equals_the_printed_table(freedom, wanted):
    assert t_quantile(0.95, freedom) == pytest.approx(wanted, abs=5e-8)


def test_t_quantile_equals_scipy():
    stats = pytest.importorskip("scipy.stats")
    for freedom, level in itertools.product((1, 2, 3, 4, 5, 6, 17, 100), (0.5, 0.9, 0.99)):
        assert t_quantile(level, freedom) == pytest.approx(stats.t.ppf((1 + level) / 2, freedom), rel=1e-11)


def test_mean_interval_of_a_hand_worked_example():
    found = mean_interval([0.7, 0.8, 0.9])
    assert found.mean == pytest.approx(0.8)
    half = 4.3026527297 * 0.1 / math.sqrt(3)  # standard deviation 0.1 with n - 1
    assert found.interval == pytest.approx((0.8 - half, 0.8 + half))
    assert mean_interval([0.5]).interval is None
    with pytest.raises(ValueError, match="values must hold at least one number, got none"):
        mean_interval([])


# ---- bootstrap ----


def test_bootstrap_repeats_itself_and_follows_its_seed():
    outcomes = [[[1, 0, 1, 1], [0, 0, 1]], [[1, 1], [0, 1]], [[0, 0], [1, 1]]]
    assert bootstrap_interval(outcomes, 500) == bootstrap_interval(outcomes, 500)
    assert bootstrap_interval(outcomes, 500, seed=1) != bootstrap_interval(outcomes, 500)


def test_bootstrap_spreads_over_seeds_and_over_episodes():
    """Its variance is the one of drawing seeds plus the one of drawing episodes, both worked by hand."""
    same_seeds = [[[0, 1] * 8]] * 4  # seeds agree: only episodes spread, variance p (1 - p) / 64
    low, high = bootstrap_interval(same_seeds, 4000)
    assert (high - low) / (2 * 1.96) == pytest.approx(math.sqrt(0.25 / 64), rel=0.06)
    sure_seeds = [[[0.0]], [[0.0]], [[1.0]], [[1.0]]] * 4  # episodes are sure: only seeds spread, variance .25 / 16
    low, high = bootstrap_interval(sure_seeds, 4000)
    assert (high - low) / (2 * 1.96) == pytest.approx(math.sqrt(0.25 / 16), rel=0.08)


def test_bootstrap_weighs_every_task_alike():
    outcomes = [[[1.0] * 90, [0.0] * 10]] * 2
    assert bootstrap_interval(outcomes, 50) == (0.5, 0.5)


def test_bootstrap_equals_a_slow_enumeration():
    """Two seeds of two episodes: all 4 x 16 resamples by hand give the distribution."""
    seeds = [[0.0, 1.0], [1.0, 2.0]]
    means = sorted(
        (seeds[a][i] + seeds[a][j] + seeds[b][k] + seeds[b][m]) / 4
        for a, b, i, j, k, m in itertools.product((0, 1), repeat=6)
    )
    low, high = bootstrap_interval([[seed] for seed in seeds], 20000, level=0.8)
    assert (low, high) == (means[round(0.1 * 63)], means[round(0.9 * 63)])


@pytest.mark.parametrize("outcomes", [[], [[]], [[[]]], [[[1.0]], [[]]]])
def test_bootstrap_refuses_empty_levels(outcomes):
    with pytest.raises(ValueError, match="outcomes must hold seeds, tasks and episodes, and draws be >= 2, got 10"):
        bootstrap_interval(outcomes, 10)


# ---- paired ----


def test_comparison_of_a_hand_worked_example():
    found = compare([0.5, 0.6, 0.7, 0.8], [0.6, 0.8, 0.7, 0.7])  # differences .1 .2 0 -.1
    assert (found.num, found.agreement) == (4, 0.5)
    assert found.mean == pytest.approx(0.05)
    half = 3.182446305 * math.sqrt((0.0025 + 0.0225 + 0.0025 + 0.0225) / 3) / 2
    assert found.interval == pytest.approx((0.05 - half, 0.05 + half))
    # |+-.1 +-.2 +-.1| >= .2 for the six of eight sign choices that are not .1 - .2 + .1 = 0 or its mirror image
    assert found.p_value == pytest.approx(12 / 16)


@pytest.mark.parametrize("num", [1, 3, 6])
def test_seeds_that_all_agree_have_the_least_p_value(num):
    found = compare([0.0] * num, [0.1 + 0.01 * seed for seed in range(num)])
    assert found.p_value == 2 / 2**num
    assert found.agreement == 1


def test_equal_methods_have_nothing_to_show():
    found = compare([0.3, 0.4], [0.3, 0.4])
    assert (found.mean, found.p_value, found.agreement) == (0, 1, 0)


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=7))
def test_p_value_is_the_share_of_sign_flips_at_least_as_far_out(differences):
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    wanted = sum(value >= abs(sum(differences)) for value in sums) / len(sums)
    assert sign_flip_p_value([d / 10 for d in differences]) == wanted


def test_p_value_equals_scipy():
    stats = pytest.importorskip("scipy.stats")
    differences = [0.12, -0.03, 0.2, 0.07, 0.01, -0.11, 0.3]
    wanted = stats.permutation_test((differences,), lambda x: sum(x), permutation_type="samples", n_resamples=1e4)
    assert sign_flip_p_value(differences) == pytest.approx(wanted.pvalue)


@pytest.mark.parametrize(("first", "second"), [([], []), ([1.0], [1.0, 2.0]), ([0.0] * 21, [0.0] * 21)])
def test_unpaired_seeds_are_refused(first, second):
    with pytest.raises(ValueError, match="seeds must be the same for both and 1 to 20, got"):
        compare(first, second)
