"""Merged quadratics of mixed metrics against dense terms kept apart."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes

from tests.continual.test_anchor import EXACT, normal, rng
from tests.reference import slow
from trcl_policy.continual.metric import Diagonal, DiagonalLowRank, LowRank
from trcl_policy.continual.quadratic import Quadratic

MIXTURES = {
    "diagonals": ["diagonal", "diagonal"],
    "isotropic and diagonal": ["isotropic", "diagonal", "isotropic"],
    "low rank and diagonal": ["lowrank", "diagonal", "lowrank"],
    "low rank and isotropic": ["isotropic", "lowrank"],
    "all": ["isotropic", "lowrank", "diagonal_lowrank", "diagonal"],
}


def mixture(kinds, size=7, rank=2, seed=0):
    """A merged quadratic, and its terms as dense matrices with centres."""
    merged, terms = Quadratic(), []
    for number, kind in enumerate(kinds):
        metric, unit = slow.random_metric(kind, size, rank, rng(seed + number)), 0.5 + number
        center = normal(size, seed + 50 + number)
        merged = merged.plus(metric, unit, center)
        terms.append((unit * slow.dense(metric, size), center))
    return merged, slow.Quadratics(1.0, terms)


@pytest.mark.parametrize("name", MIXTURES)
@given(drawn=st.tuples(st.integers(1, 8), st.integers(1, 3), st.integers(0, 10**6)))
def test_any_mixture_merges_exactly(name, drawn):
    size, rank, seed = drawn
    found, wanted = mixture(MIXTURES[name], size, rank, seed)
    one, other = normal(size, seed + 7), normal(size, seed + 8)
    torch.testing.assert_close(found.scaled(1.7).gradient(one), 1.7 * wanted.gradient(one), **EXACT)
    difference = 0.5 * (found.square(one) - found.square(other))
    torch.testing.assert_close(difference, wanted.value(one) - wanted.value(other), **EXACT)
    for scale in (0.03, 40.0):
        torch.testing.assert_close(found.proximal(one, scale), wanted.proximal(one, scale), **EXACT)
    assert found.trace() == pytest.approx(sum(float(f.trace()) for f, _ in wanted.terms), rel=1e-10)
    assert found.num_weights == size


@pytest.mark.parametrize("name", ["low rank and diagonal", "low rank and isotropic", "all"])
def test_a_mixture_counts_from_its_lowest_point_and_projects_straight_towards_it(name):
    found, wanted = mixture(MIXTURES[name])
    matrix = sum(f for f, _ in wanted.terms)
    lowest = torch.linalg.solve(matrix, sum(f @ center for f, center in wanted.terms))
    assert float(found.square(lowest)) == pytest.approx(0, abs=1e-8)
    theta = normal(7, 3) * 4
    assert float(found.square(theta)) == pytest.approx(float((theta - lowest) @ matrix @ (theta - lowest)), rel=1e-6)
    for share in (0.9, 0.01):
        square = share * float(found.square(theta))
        moved = found.project(theta, square)
        assert float(found.square(moved)) == pytest.approx(square, rel=1e-6)
        torch.testing.assert_close(moved, lowest + share**0.5 * (theta - lowest), rtol=0, atol=1e-4)
        assert found.project(moved, square * (1 + 1e-6)) is moved


def quadratic_of(vectors, values, centers):
    """One low-rank term a vector, and the dense sum."""
    found, terms = Quadratic(), []
    for vector, value, center in zip(vectors, values, centers, strict=True):
        metric = LowRank(vector[None] / vector.norm(), torch.tensor([value], dtype=torch.float64))
        found = found.plus(metric, 1.0, center)
        terms.append((slow.dense(metric, len(vector)), center))
    return found, slow.Quadratics(1.0, terms)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_compression_is_exact_on_the_eigenvectors_it_keeps(rank):
    """Moves along a kept eigenvector cost what the full sum charges, from any point; the others cost nothing."""
    found, wanted = quadratic_of(
        [normal(6, n) for n in range(4)], [3.0, 1.0, 0.5, 2.0], [normal(6, 9 + n) for n in range(4)]
    )
    small = found.compressed(rank)
    assert len(small.projected.at) == rank
    values, vectors = torch.linalg.eigh(sum(f for f, _ in wanted.terms))
    theta = normal(6, 30)
    for place in range(1, 7):
        direction, kept = vectors[:, -place], place <= rank
        slope = float(small.gradient(theta) @ direction)
        assert slope == pytest.approx(float(wanted.gradient(theta) @ direction) if kept else 0.0, abs=1e-9)
        bend = float(small.square(theta + direction) + small.square(theta - direction) - 2 * small.square(theta)) / 2
        assert bend == pytest.approx(float(values[-place]) if kept else 0.0, abs=1e-9)


def test_compression_to_the_full_rank_changes_nothing():
    """Five dependent rows span three directions, so three eigenpairs are the whole sum."""
    span = [normal(6, n) for n in range(3)]
    rows = [*span, span[0] + span[1], span[1] - 2 * span[2]]
    found, wanted = quadratic_of(rows, [3.0, 1.0, 0.5, 2.0, 0.7], [normal(6, 9 + n) for n in range(5)])
    for rank in (3, 4):
        small, theta = found.compressed(rank), normal(6, 30)
        assert len(small.projected.at) == 3
        torch.testing.assert_close(small.gradient(theta), wanted.gradient(theta), **EXACT)
        torch.testing.assert_close(small.proximal(theta, 0.7), wanted.proximal(theta, 0.7), **EXACT)
    assert found.compressed(5) is found


def test_what_compression_cuts_off_joins_the_diagonal_at_its_centre():
    center, values = normal(6, 1), torch.rand(6, generator=rng(2), dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(6, 3, generator=rng(3), dtype=torch.float64)).Q.T
    low = LowRank(basis, torch.tensor([5.0, 2.0, 1.0], dtype=torch.float64))
    small = Quadratic().plus(DiagonalLowRank(values, low), 1.0, center).compressed(1)
    assert torch.equal(small.centered.center, center)
    cut = 2 * basis[1].square() + basis[2].square()
    torch.testing.assert_close(small.centered.metric.values, values + cut, **EXACT)
    torch.testing.assert_close(small.projected.metric.values, torch.tensor([5.0]).double(), **EXACT)
    assert small.trace() == pytest.approx(float(values.sum()) + 8, rel=1e-12)


def test_recentred_keeps_the_metric_and_moves_every_centre():
    found, wanted = mixture(MIXTURES["all"])
    there, theta = normal(7, 4), normal(7, 5)
    moved = found.recentered(there, 0.3)
    matrix = 0.3 * sum(f for f, _ in wanted.terms)
    torch.testing.assert_close(moved.gradient(theta), matrix @ (theta - there), **EXACT)
    assert float(moved.square(there)) == 0


def test_small_moves_of_large_weights_keep_their_gradient_in_single_precision():
    center = 1e3 * torch.randn(100, generator=rng(1))
    step = 1e-2 * torch.randn(100, generator=rng(2))
    theta = center + step
    found = Quadratic().plus(Diagonal(torch.ones(100)), 1.0, center)
    assert torch.equal(found.gradient(theta), theta - center)
    assert torch.equal(found.gradient(center), torch.zeros(100))
    assert torch.equal(found.proximal(center, 3.0), center)


@pytest.mark.parametrize("name", MIXTURES)
def test_state_round_trips_bit_for_bit(name):
    found, _ = mixture(MIXTURES[name])
    back, theta = Quadratic.restore(from_bytes(to_bytes(found.state()))), normal(7, 5)
    assert torch.equal(back.gradient(theta), found.gradient(theta))
    assert torch.equal(back.square(theta), found.square(theta))
    assert torch.equal(back.project(theta, 0.1), found.project(theta, 0.1))
    assert Quadratic.restore({}) == Quadratic()
    assert Quadratic().state() == {}
