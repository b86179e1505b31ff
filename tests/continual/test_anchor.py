"""The merged anchor against the explicit sum of one dense quadratic a task."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes

from tests.continual.toy import Toy, make_tasks, vector
from tests.reference import slow
from trcl_policy.continual.anchor import FisherAnchor, Learned, NoAnchor
from trcl_policy.continual.fisher import Diagonal, Isotropic, LowRank
from trcl_policy.continual.streams import Streams

KINDS = {
    "isotropic": "isotropic",
    "diagonal": "diagonal",
    "lowrank": "rank1",
    "diagonal_lowrank": "diagonal_lowrank",
}
EXACT = {"rtol": 1e-8, "atol": 1e-10}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(size, seed):
    return torch.randn(size, generator=rng(seed), dtype=torch.float64)


def merged(kind, size=6, tasks=3, rank=2, seed=0, unit=1.7, **options):
    """An anchor of several tasks, and the same as dense terms kept apart."""
    anchor, terms = FisherAnchor(KINDS[kind], **options), []
    for number in range(tasks):
        metric = slow.random_metric(kind, size, rank, rng(seed + number))
        center = normal(size, seed + 100 + number)
        anchor = anchor.merged_with(metric, unit, center)
        terms.append((unit * slow.dense(metric, size), center))
    return anchor, slow.Quadratics(anchor.coefficient, terms)


def learned(kind="diagonal", task_index=0, model=None, theta=None, streams=None):
    layout, start = vector()
    tasks = make_tasks(torch.float64)
    return Learned(
        task=tasks[task_index],
        task_index=task_index,
        old_tasks=tasks.distinct(task_index + 1),
        revisited=False,
        model=model or Toy(),
        layout=layout,
        theta=start if theta is None else theta,
        streams=streams or Streams(3),
    )


drawn_sizes = st.tuples(st.integers(1, 8), st.integers(1, 4), st.integers(1, 3), st.integers(0, 10**6))


@pytest.mark.parametrize("kind", KINDS)
@given(drawn=drawn_sizes)
def test_merging_equals_the_sum_of_all_quadratics(kind, drawn):
    size, tasks, rank, seed = drawn
    anchor, wanted = merged(kind, size, tasks, rank, seed, weight=2.0)
    one, other = normal(size, seed + 7), normal(size, seed + 8)
    torch.testing.assert_close(anchor.gradient(one), wanted.gradient(one), **EXACT)
    difference = anchor.value(one) - anchor.value(other)
    torch.testing.assert_close(difference, wanted.value(one) - wanted.value(other), **EXACT)
    for step in (0.0, 0.03, 40.0):
        torch.testing.assert_close(anchor.proximal(one, step), wanted.proximal(one, step), **EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_task_has_no_constant(kind):
    anchor, wanted = merged(kind, tasks=1)
    theta = normal(6, 5)
    torch.testing.assert_close(anchor.value(theta), wanted.value(theta), **EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_is_that_of_the_value(kind):
    anchor, _ = merged(kind)
    theta = normal(6, 5).requires_grad_()
    (found,) = torch.autograd.grad(anchor.value(theta), theta)
    torch.testing.assert_close(anchor.gradient(theta.detach()), found, **EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_the_proximal_point_minimises_its_objective(kind):
    anchor, _ = merged(kind, weight=3.0)
    theta, step = normal(6, 5), 0.4
    best = anchor.proximal(theta, step)

    def objective(x):
        return float((x - theta).square().sum() / (2 * step) + anchor.value(x))

    for seed in range(20):
        assert objective(best + 1e-3 * normal(6, seed)) > objective(best)
    torch.testing.assert_close((best - theta) / step + anchor.gradient(best), torch.zeros(6).double(), **EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_projection_leaves_inner_points_and_puts_outer_ones_on_the_ball(kind):
    anchor, _ = merged(kind, size=9, tasks=2)
    theta = normal(9, 5) * 4
    length = float(2 * anchor.value(theta)) ** 0.5
    assert anchor.project(theta, 1.01 * length) is theta
    for radius in (0.9 * length, 0.05 * length):
        found = anchor.project(theta, radius)
        assert float(2 * anchor.value(found)) == pytest.approx(radius**2, rel=1e-6)
        again = anchor.project(found, radius * (1 + 1e-6))
        assert again is found


def test_diagonal_projection_goes_straight_to_the_merged_centre():
    anchor, _ = merged("diagonal")
    theta = normal(6, 5) * 4
    found = anchor.project(theta, 0.3)
    cosine = torch.cosine_similarity(found - theta, anchor.quadratic.centered.center - theta, dim=0)
    assert float(cosine) == pytest.approx(1, abs=1e-12)


def test_low_rank_projection_is_the_nearest_point_of_the_ball():
    anchor, _ = merged("lowrank", size=9, tasks=2)
    theta, radius = normal(9, 5) * 4, 0.3
    found = anchor.project(theta, radius)
    way, slope = theta - found, anchor.gradient(found)
    assert float(torch.cosine_similarity(way, slope, dim=0)) == pytest.approx(1, abs=1e-9)


def test_low_rank_projection_stays_near_where_two_tasks_share_a_direction():
    """Dependent rows with different centres put a small ball out of reach; the weights must not fly away."""
    direction = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    metric = LowRank(direction[None], torch.ones(1, dtype=torch.float64))
    anchor = FisherAnchor("rank1").merged_with(metric, 1.0, 0 * direction).merged_with(metric, 1.0, 2 * direction)
    found = anchor.project(torch.tensor([5.0, 3.0, -1.0], dtype=torch.float64), 0.01)
    torch.testing.assert_close(found, torch.tensor([1.0, 3.0, -1.0]).double(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_weight_averages_over_tasks_and_lambda_sums(kind):
    theta = normal(6, 5)
    for tasks in (1, 2, 4):
        averaged, _ = merged(kind, tasks=tasks, weight=3.0)
        summed, _ = merged(kind, tasks=tasks, weight=99.0, raw_lambda=3.0)
        torch.testing.assert_close(averaged.gradient(theta) * tasks, summed.gradient(theta), **EXACT)
        torch.testing.assert_close(averaged.value(theta) * tasks, summed.value(theta), **EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_state_round_trips_bit_for_bit(kind):
    anchor, _ = merged(kind, weight=2.0)
    back = FisherAnchor(KINDS[kind], weight=2.0).restore(from_bytes(to_bytes(anchor.state())))
    theta = normal(6, 5)
    assert back.num_tasks == 3
    assert back.mean_curvature == anchor.mean_curvature > 0
    assert torch.equal(back.gradient(theta), anchor.gradient(theta))
    assert torch.equal(back.value(theta), anchor.value(theta))
    assert torch.equal(back.proximal(theta, 0.3), anchor.proximal(theta, 0.3))
    empty = anchor.restore({})
    assert empty.terms == ()
    assert empty.num_tasks == 0
    assert empty.state() == {}


@pytest.mark.parametrize(
    ("saved", "wanted"), [("lowrank", "kronecker"), ("diagonal", "rank1"), ("diagonal_lowrank", "diagonal")]
)
def test_the_state_of_another_metric_is_refused(saved, wanted):
    state = merged(saved, weight=2.0)[0].state()
    with pytest.raises(ValueError, match=f"metric of kind {wanted}, got one of .*resume with the method that the run"):
        FisherAnchor(wanted).restore(state)


@pytest.mark.parametrize("anchor", [NoAnchor(), FisherAnchor(), FisherAnchor("rank1")])
def test_without_a_past_nothing_is_charged(anchor):
    theta = normal(6, 5)
    assert anchor.gradient(theta) is None
    assert float(anchor.value(theta)) == 0
    assert anchor.proximal(theta, 10.0) is theta
    assert anchor.project(theta, 1e-9) is theta


def test_directions_without_fisher_stay_free_and_keep_their_first_centre():
    values = torch.tensor([2.0, 0.0, 0.0], dtype=torch.float64)
    other = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    ones = torch.ones(3, dtype=torch.float64)
    anchor = FisherAnchor().merged_with(Diagonal(values), 1.0, ones).merged_with(Diagonal(other), 1.0, 5 * ones)
    assert anchor.quadratic.centered.center.tolist() == [1.0, 5.0, 1.0]
    assert anchor.gradient(0 * ones).tolist() == [-1.0, -2.5, 0.0]
    empty = (
        FisherAnchor("isotropic")
        .merged_with(Isotropic(0.0, 3), 1.0, ones)
        .merged_with(Isotropic(0.0, 3), 1.0, 2 * ones)
    )
    assert empty.gradient(0 * ones).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("kind", ["isotropic", "diagonal", "rank1"])
def test_weight_charges_a_share_of_the_loss_whatever_its_scale_and_lambda_does_not(kind):
    _, theta = vector()
    moved = theta + 0.1 * normal(len(theta), 4)

    def charge(scale, **options):
        anchor = FisherAnchor(kind, num_samples=64, **options).after_task(learned(kind, model=Toy(scale)))
        return float(anchor.value(moved))

    assert charge(100.0, weight=2.0) == pytest.approx(100 * charge(1.0, weight=2.0), rel=1e-8)
    assert charge(100.0, raw_lambda=2.0) == pytest.approx(1e4 * charge(1.0, raw_lambda=2.0), rel=1e-8)


def test_weight_one_charges_the_expected_rise_of_the_old_loss():
    """Along random signs of size e the loss rises by e^2 tr H / 2 on average; the trace is a mean over 8 directions."""
    layout, theta = vector()
    told = learned()
    corrupted = Toy().corrupt(told.task.samples.gather(torch.arange(4000) % 40), rng(1))
    exact = float(slow.hessian(Toy(), layout, theta, corrupted).trace())
    moved = theta + 1e-2 * torch.where(normal(len(theta), 4) > 0, 1.0, -1.0)
    charged = [
        float(FisherAnchor(num_samples=256).after_task(learned(streams=Streams(seed))).value(moved))
        for seed in range(40)
    ]
    assert sum(charged) / 40 == pytest.approx(0.5 * 1e-4 * exact, rel=0.15)


def test_after_task_measures_at_the_learned_weights_from_its_own_streams():
    told = learned()
    anchor = FisherAnchor(num_samples=30, raw_lambda=1.0).after_task(told)
    streams = Streams(3)
    index = torch.randint(40, (30,), generator=streams["fisher/samples"])
    corrupted = Toy().corrupt(told.task.samples.gather(index), streams["fisher/noise"])
    rows = slow.per_sample_gradients(Toy(), told.layout, told.theta, corrupted)
    torch.testing.assert_close(anchor.quadratic.centered.metric.values, rows.square().mean(0), **EXACT)
    assert torch.equal(anchor.quadratic.centered.center, told.theta)
    assert anchor.quadratic.centered.center.data_ptr() != told.theta.data_ptr()
    assert set(told.streams.state()) == {"fisher/samples", "fisher/noise", "fisher/directions"}


def test_two_quadratic_tasks_rest_at_the_textbook_optimum():
    """Task 2 has loss (x - b)' H (x - b) / 2, task 1 is held by F around a: x* = (H + w F)^-1 (H b + w F a)."""
    a, b, weight = normal(5, 1), normal(5, 2), 3.0
    root = torch.randn(5, 5, generator=rng(3), dtype=torch.float64)
    hessian = root @ root.T / 5 + 0.5 * torch.eye(5, dtype=torch.float64)
    for kind in KINDS:
        metric = slow.random_metric(kind, 5, 2, rng(4))
        dense = slow.dense(metric, 5)
        best = torch.linalg.solve(hessian + weight * dense, hessian @ b + weight * dense @ a)
        anchor = FisherAnchor(KINDS[kind], weight=weight).merged_with(metric, 1.0, a)
        stepped, pulled, rate = b.clone(), b.clone(), 0.05
        for _ in range(2000):
            stepped = anchor.proximal(stepped - rate * hessian @ (stepped - b), rate)
            pulled = pulled - rate * (hessian @ (pulled - b) + anchor.gradient(pulled))
        torch.testing.assert_close(stepped, best, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(pulled, best, rtol=1e-8, atol=1e-10)
        assert float((best - b).norm()) > 0.1


def test_proximal_steps_are_stable_where_the_penalty_explodes():
    anchor = FisherAnchor("diagonal", weight=1e6).merged_with(
        Diagonal(torch.ones(3).double()), 1.0, torch.zeros(3).double()
    )
    theta = torch.ones(3).double()
    assert float((theta - 0.1 * anchor.gradient(theta)).norm()) > 1e4
    assert float(anchor.proximal(theta, 0.1).norm()) < 1e-4


def test_zero_weight_has_no_gradient():
    anchor, _ = merged("diagonal", weight=0.0)
    assert anchor.gradient(normal(6, 5)) is None
    assert replace(anchor, weight=1.0).gradient(normal(6, 5)) is not None


def test_an_unknown_metric_is_refused():
    with pytest.raises(
        ValueError,
        match="metric must be one of diagonal, rank1, lowrank, diagonal_lowrank, kronecker, isotropic, mas, got 'kfac'",
    ):
        FisherAnchor("kfac")
