"""Distances against closed forms and slow float64 references."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from tests.images.small import generator
from trcl_policy.images.distances import bootstrap, frechet, kernel_distance, neighbours


def normal(count, dim=3, seed=0, shift=0.0, scale=1.0):
    rng = generator(seed)
    return shift + scale * torch.randn(count, dim, generator=rng, dtype=torch.float64)


def whitened(count, dim, seed):
    """Rows with mean 0 and unbiased covariance exactly 1."""
    rows = normal(count, dim, seed)
    rows = rows - rows.mean(0)
    root = torch.linalg.cholesky(rows.T @ rows / (count - 1))
    return torch.linalg.solve_triangular(root, rows.T, upper=False).T


def test_frechet_of_gaussians_has_its_closed_form():
    """Diagonal covariances a, b and means m, n: |m - n|^2 + sum (sqrt a - sqrt b)^2."""
    a, b = torch.tensor([1.0, 4.0, 0.25]).double(), torch.tensor([9.0, 1.0, 0.0]).double()
    m, n = torch.tensor([0.0, 1.0, 2.0]).double(), torch.tensor([1.0, -1.0, 2.0]).double()
    found = frechet(whitened(50, 3, 0) * a.sqrt() + m, whitened(80, 3, 1) * b.sqrt() + n)
    wanted = float((m - n).square().sum() + (a.sqrt() - b.sqrt()).square().sum())
    assert found == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(("counts", "dim"), [((40, 60), 5), ((6, 60), 10), ((4, 3), 10)])
def test_frechet_equals_a_matrix_square_root(counts, dim):
    """Also where a covariance is singular, fewer samples than features."""
    x, y = normal(counts[0], dim, 0), 0.5 * normal(counts[1], dim, 1) @ normal(dim, dim, 2) + 0.3
    s, t = (np.cov(rows.numpy(), rowvar=False) for rows in (x, y))
    values, vectors = np.linalg.eigh(s)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    middle = np.sqrt(np.linalg.eigvalsh(root @ t @ root).clip(0)).sum()
    wanted = float((x.mean(0) - y.mean(0)).square().sum()) + np.trace(s) + np.trace(t) - 2 * middle
    # where eigenvalues are 0 the reference takes roots of rounding errors
    precise = 1e-9 if min(counts) > dim else 1e-6
    assert frechet(x, y) == pytest.approx(wanted, rel=precise)
    assert frechet(y, x) == pytest.approx(wanted, rel=precise)
    if min(counts) > dim:
        published = np.trace(s + t - 2 * scipy.linalg.sqrtm(s @ t).real)
        assert frechet(x, y) == pytest.approx(float((x.mean(0) - y.mean(0)).square().sum()) + published, rel=1e-9)


def test_frechet_of_a_set_with_itself_is_zero():
    x = normal(30, 4)
    assert frechet(x, x) == pytest.approx(0, abs=1e-12)
    assert frechet(x, x[torch.randperm(30, generator=generator())]) == pytest.approx(0, abs=1e-12)


def test_float32_features_are_computed_in_float64():
    x, y = ((1e3 + normal(50, 3, seed)).float() for seed in (0, 1))
    assert frechet(x, y) == pytest.approx(frechet(x.double(), y.double()), rel=1e-12)


def test_kernel_distance_equals_a_double_loop():
    x, y = normal(7, 3, 0), normal(5, 3, 1, shift=0.5)

    def k(a, b):
        return (float(a @ b) / 3 + 1) ** 3

    within = [
        sum(k(r[i], r[j]) for i in range(len(r)) for j in range(len(r)) if i != j) / (len(r) * (len(r) - 1))
        for r in (x, y)
    ]
    between = sum(k(a, b) for a in x for b in y) / (7 * 5)
    assert kernel_distance(x, y) == pytest.approx(sum(within) - 2 * between, rel=1e-12)


def test_kernel_distance_is_unbiased_and_sees_a_shift():
    same = [kernel_distance(normal(20, 3, 2 * s), normal(30, 3, 2 * s + 1)) for s in range(300)]
    mean, error = np.mean(same), np.std(same) / math.sqrt(len(same))
    assert abs(mean) < 3 * error
    assert min(same) < 0
    assert kernel_distance(normal(20, 3, 0), normal(30, 3, 1, shift=2.0)) > 10 * np.std(same)


def test_neighbours_equal_a_slow_reference():
    x, y, k = normal(12, 2, 0), normal(9, 2, 1, 1.5), 2

    def radius(rows, i):
        return sorted(float((rows[i] - rows[j]).norm()) for j in range(len(rows)) if j != i)[k - 1]

    real, made = [radius(x, i) for i in range(12)], [radius(y, j) for j in range(9)]
    d = [[float((a - b).norm()) for b in y] for a in x]
    found = neighbours(x, y, k)
    precision = sum(any(d[i][j] <= real[i] for i in range(12)) for j in range(9)) / 9
    recall = sum(any(d[i][j] <= made[j] for j in range(9)) for i in range(12)) / 12
    density = sum(d[i][j] <= real[i] for i in range(12) for j in range(9)) / (k * 9)
    coverage = sum(any(d[i][j] <= real[i] for j in range(9)) for i in range(12)) / 12
    assert 0 < precision < 1
    assert 0 < recall < 1
    assert (found.precision, found.recall, found.density, found.coverage) == pytest.approx(
        (precision, recall, density, coverage)
    )


def test_neighbours_tell_one_mode_from_two():
    two = torch.cat([normal(40, 2, 0, -5), normal(40, 2, 1, 5)])
    one = normal(80, 2, 2, 5)
    dropped, added = neighbours(two, one), neighbours(one, two)
    assert dropped.precision > 0.9
    assert dropped.recall < 0.6
    assert dropped.coverage < 0.6
    assert added.precision < 0.6
    assert added.recall > 0.9
    assert neighbours(two, two).coverage == 1


def test_bootstrap_interval_holds_the_mean_shift_as_often_as_it_says():
    """For the difference of means the spread is known: 95 % of normal intervals hold the true value."""

    def difference(a, b):
        return float(a.mean() - b.mean())

    hits = 0
    for seed in range(100):
        x, y = normal(30, 1, 2 * seed), normal(40, 1, 2 * seed + 1)
        low, high = bootstrap(difference, x, y, 60, generator(seed))
        hits += low <= 0 <= high
    assert 0.88 <= hits / 100 <= 0.99


def test_bootstrap_is_seeded_and_laid_around_the_distance():
    x, y = normal(25, 6, 0), normal(30, 6, 1)
    one, again, other = (bootstrap(frechet, x, y, 100, generator(s)) for s in (0, 0, 1))
    assert one == again
    assert one != other
    assert one[0] < frechet(x, y) < one[1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: frechet(normal(5, 2), normal(5, 3)),
            r"features must be \(N, D\) and \(M, D\), got \(5, 2\) and \(5, 3",
        ),
        (lambda: frechet(normal(1), normal(5)), "features must be of at least 2 samples, got 1 and 5"),
        (lambda: neighbours(normal(5), normal(9), 5), "features must be of at least 6 samples, got 5 and 9"),
    ],
)
def test_sets_that_are_too_small_or_unlike_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
