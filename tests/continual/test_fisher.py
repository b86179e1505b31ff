"""Fisher estimates and metrics against slow versions, and what makes them free of the loss's scale."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.continual.toy import Quadratic, Toy, corrupted_batch, vector
from tests.reference import slow
from trcl_policy.continual import gradients as gradients_module
from trcl_policy.continual.curvature import hessian_trace
from trcl_policy.continual.fisher import (
    ESTIMATORS,
    Diagonal,
    DiagonalLowRank,
    Isotropic,
    LowRank,
    estimate,
    per_sample_gradients,
)
from trcl_policy.continual.gradients import Sampled
from trcl_policy.continual.params import Layout

EXACT = {"rtol": 1e-10, "atol": 1e-12}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def measured(kind, model=None, chunk_size=None, num_rows=40):
    layout, theta = vector()
    sampled = Sampled(model or Toy(), layout, theta, corrupted_batch(num_rows), chunk_size)
    return estimate(kind, sampled, rng())


def gradients(model=None, num_rows=40):
    layout, theta = vector()
    return slow.per_sample_gradients(model or Toy(), layout, theta, corrupted_batch(num_rows))


def test_per_sample_gradients_equal_a_loop_of_backward_passes():
    layout, theta = vector()
    found = torch.cat(list(per_sample_gradients(Toy(), layout, theta, corrupted_batch(), chunk_size=7)))
    torch.testing.assert_close(found, gradients(), **EXACT)


def test_chunks_hold_at_most_the_rows_asked_for():
    layout, theta = vector()
    sizes = [len(rows) for rows in per_sample_gradients(Toy(), layout, theta, corrupted_batch(40), chunk_size=16)]
    assert sizes == [16, 16, 8]


def test_large_networks_go_a_few_samples_at_a_time(monkeypatch):
    layout, theta = vector()
    monkeypatch.setattr(gradients_module, "MOST_NUMBERS", 3 * layout.size + 1)
    sizes = [len(rows) for rows in per_sample_gradients(Toy(), layout, theta, corrupted_batch(8))]
    assert sizes == [3, 3, 2]
    monkeypatch.setattr(gradients_module, "MOST_NUMBERS", 1)
    assert {len(rows) for rows in per_sample_gradients(Toy(), layout, theta, corrupted_batch(3))} == {1}


def test_diagonal_is_the_mean_of_squares_not_the_square_of_the_mean():
    rows, found = gradients(), measured("diagonal")
    torch.testing.assert_close(found.metric.values, rows.square().mean(0), **EXACT)
    assert found.trace == pytest.approx(float(rows.square().sum(1).mean()), rel=1e-12)
    assert found.num_samples == 40
    wrong = rows.mean(0).square()
    assert float(wrong.sum()) < 0.5 * found.trace


def test_rank_one_has_the_mean_direction_and_its_mean_square():
    rows, found = gradients(), measured("rank1")
    mean = rows.mean(0)
    direction = mean / mean.norm()
    torch.testing.assert_close(found.metric.basis[0], direction, **EXACT)
    torch.testing.assert_close(found.metric.values[0], (rows @ direction).square().mean(), **EXACT)
    assert found.trace == pytest.approx(float(rows.square().sum(1).mean()), rel=1e-12)
    scaled = torch.einsum("i,j->ij", mean, mean) * (rows @ mean).square().mean() / mean.norm() ** 4
    torch.testing.assert_close(slow.dense(found.metric, len(mean)), scaled, **EXACT)


def test_isotropic_has_the_fishers_trace():
    found, rows = measured("isotropic"), gradients()
    assert found.metric.value * rows.shape[1] == pytest.approx(float(rows.square().sum(1).mean()), rel=1e-12)
    assert found.trace == pytest.approx(found.metric.value * rows.shape[1])


@pytest.mark.parametrize("rank", [1, 3])
def test_diagonal_with_low_rank_has_the_fishers_diagonal_and_its_largest_eigenpairs(rank):
    layout, theta = vector()
    found, rows = (
        estimate("diagonal_lowrank", Sampled(Toy(), layout, theta, corrupted_batch()), rng(), rank),
        gradients(),
    )
    fisher = rows.T @ rows / len(rows)
    matrix, low = slow.dense(found.metric, layout.size), slow.dense(found.metric.low, layout.size)
    torch.testing.assert_close(matrix.diagonal(), fisher.diagonal(), **EXACT)
    values, vectors = torch.linalg.eigh(fisher)
    top = (vectors[:, -rank:] * values[-rank:]) @ vectors[:, -rank:].T
    torch.testing.assert_close(low, top, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(matrix - low, torch.diag(torch.diag(fisher - top)), rtol=1e-8, atol=1e-12)
    assert found.trace == pytest.approx(float(fisher.trace()), rel=1e-12)


def test_what_low_rank_leaves_of_a_diagonal_is_never_negative():
    layout, theta = vector(torch.float32)
    corrupted = {k: v.float() if v.is_floating_point() else v for k, v in corrupted_batch(3).items()}
    found = estimate("diagonal_lowrank", Sampled(Toy(), layout, theta, corrupted), rng(), 3).metric
    assert float(found.values.min()) == 0
    assert float(found.values.sum()) < 1e-5 * found.trace()


@pytest.mark.parametrize("chunk_size", [None, 7])
def test_mas_is_the_mean_absolute_gradient_of_the_predictions_square(chunk_size):
    """From a loop of backward passes; the sign of a single sample's gradient must not cancel another's."""
    layout, theta = vector()
    corrupted, rows = corrupted_batch(), []
    for row in range(40):
        params = {name: leaf.clone().requires_grad_() for name, leaf in layout.unflatten(theta).items()}
        length = Toy().predict(params, {key: leaf[row : row + 1] for key, leaf in corrupted.items()}).square().sum()
        rows.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(length, list(params.values()))]))
    wanted = torch.stack(rows).abs().mean(0)
    found = measured("mas", chunk_size=chunk_size)
    torch.testing.assert_close(found.metric.values, wanted, **EXACT)
    assert found.trace == pytest.approx(float(wanted.sum()), rel=1e-12)
    assert float(torch.stack(rows).mean(0).abs().sum()) < 0.9 * found.trace
    trace = hessian_trace(Toy(), layout, theta, corrupted, rng())
    assert found.curvature_ratio * found.trace == pytest.approx(trace, rel=1e-12)


def test_mas_knows_no_targets():
    layout, theta = vector()
    corrupted = corrupted_batch()
    other = {**corrupted, "target": corrupted["target"] + 5}
    one, moved = (estimate("mas", Sampled(Toy(), layout, theta, each), rng()) for each in (corrupted, other))
    assert torch.equal(one.metric.values, moved.metric.values)
    assert one.curvature_ratio != moved.curvature_ratio


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_chunk_size_changes_rounding_only(kind):
    one, other = measured(kind, chunk_size=1), measured(kind, chunk_size=64)
    size = gradients().shape[1]
    torch.testing.assert_close(slow.dense(one.metric, size), slow.dense(other.metric, size), **EXACT)
    assert one.trace == pytest.approx(other.trace, rel=1e-12)
    assert one.curvature_ratio == pytest.approx(other.curvature_ratio, rel=1e-12)


@pytest.mark.parametrize("kind", [kind for kind in ESTIMATORS if kind != "mas"])
def test_curvature_units_grow_with_the_loss_while_fishers_grow_with_its_square(kind):
    one, other = measured(kind), measured(kind, Toy(scale=100.0))
    size = gradients().shape[1]
    raw, raw_other = slow.dense(one.metric, size), slow.dense(other.metric, size)
    torch.testing.assert_close(raw_other, 1e4 * raw, **EXACT)
    in_units = other.curvature_ratio * raw_other
    torch.testing.assert_close(in_units, 100 * one.curvature_ratio * raw, rtol=1e-8, atol=1e-12)


def test_curvature_ratio_is_the_hessians_trace_over_the_fishers():
    layout, theta = vector()
    found = measured("diagonal")
    exact = float(slow.hessian(Toy(), layout, theta, corrupted_batch()).trace())
    assert found.curvature_ratio * found.trace == pytest.approx(
        hessian_trace(Toy(), layout, theta, corrupted_batch(), rng()), rel=1e-12
    )
    assert found.curvature_ratio * found.trace == pytest.approx(exact, rel=0.5)


def test_hessian_trace_is_exact_where_the_hessian_is_diagonal():
    """z'Hz = tr H for every sign vector, so that one direction is enough."""
    scale = torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64)
    layout = Layout.of({"w": scale})
    corrupted = {"target": torch.randn(20, 3, generator=rng(), dtype=torch.float64)}
    theta = torch.tensor([0.2, -1.0, 0.7], dtype=torch.float64)
    found = hessian_trace(Quadratic(scale), layout, theta, corrupted, rng(), num_directions=1)
    assert found == pytest.approx(float(scale.square().sum()), rel=1e-8)


def test_hessian_trace_of_the_toy_is_within_four_deviations_of_the_exact_one():
    """Hutchinson's variance with signs is 2 (|H|_F^2 - sum H_ii^2) / n; the finite step adds a small bias."""
    layout, theta = vector()
    corrupted, count = corrupted_batch(), 400
    exact = slow.hessian(Toy(), layout, theta, corrupted)
    deviation = math.sqrt(2 * float(exact.square().sum() - exact.diagonal().square().sum()) / count)
    found = hessian_trace(Toy(), layout, theta, corrupted, rng(), num_directions=count, relative_change=1e-3)
    assert abs(found - float(exact.trace())) < 4 * deviation + 0.01 * float(exact.trace())
    assert 4 * deviation < 0.25 * float(exact.trace())


def test_hessian_trace_is_negative_where_the_loss_falls_to_all_sides():
    class Crest(Quadratic):
        def losses(self, params, corrupted):
            return 10 + torch.cos(params["w"]).sum() + 0 * corrupted["target"].sum(1)

    top = torch.zeros(3, dtype=torch.float64)
    found = hessian_trace(Crest(top), Layout.of({"w": top}), top, {"target": torch.zeros(4, 3).double()}, rng())
    assert found == pytest.approx(-3, rel=0.1)


def test_hessian_trace_in_float32_agrees_with_float64():
    wide_layout, wide = vector()
    layout, theta = vector(torch.float32)
    corrupted = {k: v.float() if v.is_floating_point() else v for k, v in corrupted_batch().items()}
    one = hessian_trace(Toy(), wide_layout, wide, corrupted_batch(), rng())
    assert hessian_trace(Toy(), layout, theta, corrupted, rng()) == pytest.approx(one, rel=1e-2)


def test_a_loss_that_gradients_do_not_reach_has_an_empty_fisher():
    layout = Layout.of({"w": torch.zeros(2)})
    model, corrupted = Quadratic(torch.zeros(2)), {"target": torch.ones(3, 2)}
    for kind in ESTIMATORS:
        found = estimate(kind, Sampled(model, layout, torch.ones(2), corrupted), rng())
        assert found.curvature_ratio == 0
        if kind != "mas":  # which asks the predictions, not the losses
            assert found.trace == 0
            assert not slow.dense(found.metric, 2).any()


def test_unusable_estimates_are_refused():
    layout, theta = vector()
    with pytest.raises(
        ValueError,
        match="metric must be one of diagonal, rank1, lowrank, diagonal_lowrank, kronecker, isotropic, mas, got 'full'",
    ):
        estimate("full", Sampled(Toy(), layout, theta, corrupted_batch()), rng())
    with pytest.raises(ValueError, match="losses must be finite near the weights"):
        estimate("diagonal", Sampled(Toy(scale=math.nan), layout, theta, corrupted_batch()), rng())


sizes = st.tuples(st.integers(1, 9), st.integers(1, 5), st.integers(0, 10**6), st.floats(0, 50))


@pytest.mark.parametrize("kind", ["isotropic", "diagonal", "lowrank", "diagonal_lowrank"])
@given(drawn=sizes)
def test_metrics_equal_their_dense_matrices(kind, drawn):
    size, rank, seed, scale = drawn
    metric = slow.random_metric(kind, size, rank, rng(seed))
    matrix, v = slow.dense(metric, size), torch.randn(size, generator=rng(seed + 1), dtype=torch.float64)
    torch.testing.assert_close(metric.multiply(v), matrix @ v, **EXACT)
    torch.testing.assert_close(metric.quadratic(v), v @ matrix @ v, **EXACT)
    solved = torch.linalg.solve(torch.eye(size, dtype=torch.float64) + scale * matrix, v)
    torch.testing.assert_close(metric.solve(v, scale), solved, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(slow.dense(metric.scaled(2.5), size), 2.5 * matrix, **EXACT)
    assert metric.trace() == pytest.approx(float(matrix.trace()), rel=1e-12)


def test_low_rank_keeps_small_moves_of_large_weights():
    """A float32 dot errs by about 1e-3 here, as much as the move itself."""
    basis = torch.nn.functional.normalize(torch.randn(1, 4096, generator=rng(1)))
    metric = LowRank(basis, torch.ones(1))
    at = 1e3 * torch.randn(4096, generator=rng(2))
    moved = at + 1e-2 * basis[0]
    exact = (moved.double() - at.double()) @ basis[0].double()
    found = metric.coordinates(moved) - metric.coordinates(at)
    assert float(found[0]) == pytest.approx(float(exact), rel=1e-6)


def test_metrics_answer_in_the_weights_own_precision():
    v = torch.randn(4)
    low = LowRank(torch.eye(4)[:2], torch.ones(2))
    for metric in (Isotropic(2.0, 4), Diagonal(torch.ones(4)), low, DiagonalLowRank(torch.ones(4), low)):
        assert metric.multiply(v).dtype == torch.float32
        assert metric.solve(v, 0.5).dtype == torch.float32
        assert metric.quadratic(v).dtype == torch.float64
