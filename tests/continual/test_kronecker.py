"""Kronecker products: their algebra against dense matrices, and their merging against Van Loan's rearrangement."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes

from tests.continual.test_anchor import EXACT, normal, rng
from tests.reference import slow
from trcl_policy.continual.anchor import FisherAnchor
from trcl_policy.continual.kronecker import Block, Kronecker, nearest_product
from trcl_policy.continual.metric import Diagonal
from trcl_policy.continual.quadratic import Quadratic

SIZE = 19
BLOCKS = (Block(start=2, rows=2, columns=3, bias=9), Block(start=12, rows=2, columns=2))
"""Six weights and a bias that lies apart from them; four weights without one; the other seven are a diagonal's."""


def positive(size, seed):
    root = torch.randn(size, size + 1, generator=rng(seed), dtype=torch.float64)
    return root @ root.T / size


def products(seed=0):
    values = torch.rand(SIZE, generator=rng(seed), dtype=torch.float64) + 0.1
    for block in BLOCKS:
        for part in block.parts:
            values[part] = 0
    inputs = tuple(positive(block.width, 10 * seed + 1 + n) for n, block in enumerate(BLOCKS))
    outputs = tuple(positive(block.rows, 10 * seed + 5 + n) for n, block in enumerate(BLOCKS))
    return Kronecker(values, BLOCKS, inputs, outputs)


seeds = st.integers(0, 10**6)


@given(seed=seeds, scale=st.floats(0, 50))
def test_products_act_as_the_matrix_that_they_stand_for(seed, scale):
    metric, vector = products(seed), normal(SIZE, seed + 3)
    dense = slow.dense(metric, SIZE)
    torch.testing.assert_close(dense, dense.T, **EXACT)
    assert float(torch.linalg.eigvalsh(dense)[0]) > -1e-12
    torch.testing.assert_close(metric.multiply(vector), dense @ vector, **EXACT)
    torch.testing.assert_close(metric.quadratic(vector), vector @ dense @ vector, **EXACT)
    solved = torch.linalg.solve(torch.eye(SIZE).double() + scale * dense, vector)
    torch.testing.assert_close(metric.solve(vector, scale), solved, rtol=1e-7, atol=1e-9)
    assert metric.trace() == pytest.approx(float(dense.trace()))
    torch.testing.assert_close(slow.dense(metric.scaled(3.0), SIZE), 3 * dense, **EXACT)


def test_the_matrix_is_that_of_the_definition():
    """vec(G D A) for the layer's weights with its bias as the last column, a diagonal for the others."""
    metric, vector = products(), normal(SIZE, 3)
    found = metric.multiply(vector)
    weights = torch.cat([vector[2:8].view(2, 3), vector[9:11, None]], dim=1)
    product = metric.outputs[0] @ weights @ metric.inputs[0]
    torch.testing.assert_close(found[2:8].view(2, 3), product[:, :3], **EXACT)
    torch.testing.assert_close(found[9:11], product[:, 3], **EXACT)
    for place in (0, 1, 8, 11, 16, 17, 18):
        assert float(found[place]) == pytest.approx(float(metric.values[place] * vector[place]))


def test_adding_a_product_changes_its_target_in_place():
    metric, vector, total = products(), normal(SIZE, 3), normal(SIZE, 4)
    wanted = total + metric.multiply(vector)
    assert metric.add_product(total, vector) is total
    torch.testing.assert_close(total, wanted, **EXACT)


@given(seed=seeds, rows=st.integers(1, 4), columns=st.integers(1, 4), factor=st.floats(1e-3, 1e3))
def test_the_nearest_product_is_the_leading_singular_pair_of_the_rearranged_sum(seed, rows, columns, factor):
    """Van Loan, Pitsianis: in the order vec(G) vec(A)' a Kronecker product has rank 1."""
    pairs = [(positive(rows, seed), positive(columns, seed + 1))]
    pairs.append((factor * positive(rows, seed + 2), positive(columns, seed + 3)))
    outputs, inputs = nearest_product(*pairs)
    rearranged = sum(torch.outer(g.flatten(), a.flatten()) for g, a in pairs)
    left, values, right = torch.linalg.svd(rearranged)
    wanted = values[0] * torch.outer(left[:, 0], right[0])
    found = torch.outer(outputs.flatten(), inputs.flatten())
    trace = sum(float(g.trace() * a.trace()) for g, a in pairs)
    assert float(outputs.trace() * inputs.trace()) == pytest.approx(trace)
    cosine = torch.cosine_similarity(found.flatten(), wanted.flatten(), dim=0)
    assert float(cosine) == pytest.approx(1, abs=1e-6)
    for factor_ in (outputs, inputs):
        torch.testing.assert_close(factor_, factor_.T, **EXACT)
        assert float(torch.linalg.eigvalsh(factor_)[0]) > -1e-9 * float(factor_.trace())


def test_a_sum_that_is_a_product_is_found_exactly():
    """The same inputs for both tasks: (G1 + G2) (x) A."""
    shared, one, other = positive(3, 1), positive(2, 2), positive(2, 3)
    outputs, inputs = nearest_product((one, shared), (other, 2 * shared))
    torch.testing.assert_close(torch.kron(outputs, inputs), torch.kron(one + 2 * other, shared), **EXACT)


def test_a_product_of_nothing_adds_nothing():
    one, nothing = (positive(2, 1), positive(3, 2)), (torch.zeros(2, 2).double(), positive(3, 4))
    for pair in ((one, nothing), (nothing, one)):
        torch.testing.assert_close(torch.kron(*nearest_product(*pair)), torch.kron(*one), **EXACT)
    assert not torch.kron(*nearest_product(nothing, nothing)).any()


def test_metrics_of_different_layers_do_not_add_up():
    metric = products()
    other = replace(metric, blocks=(BLOCKS[0], Block(12, 2, 1, 14)))
    with pytest.raises(ValueError, match="metrics must have the same blocks"):
        metric.joined(other)


def anchored(tasks=2, keep="merged", **options):
    anchor, metrics, centers = FisherAnchor("kronecker", keep=keep, **options), [], []
    for number in range(tasks):
        metrics.append(products(number))
        centers.append(normal(SIZE, 20 + number))
        anchor = anchor.merged_with(metrics[-1], 1.7, centers[-1], loss=0.5)
    return anchor, metrics, centers


def test_one_task_is_held_around_its_weights():
    anchor, (metric,), (center,) = anchored(1, weight=3.0)
    theta = normal(SIZE, 5)
    wanted = slow.Quadratics(3.0, [(1.7 * slow.dense(metric, SIZE), center)])
    torch.testing.assert_close(anchor.gradient(theta), wanted.gradient(theta), **EXACT)
    torch.testing.assert_close(anchor.value(theta), wanted.value(theta), **EXACT)
    for step in (0.0, 0.03, 40.0):
        torch.testing.assert_close(anchor.proximal(theta, step), wanted.proximal(theta, step), rtol=1e-7, atol=1e-9)
        again = theta.clone()
        assert torch.equal(anchor.proximal(again, step, again), anchor.proximal(theta, step))


def test_more_tasks_are_held_around_the_latest_weights_by_their_average():
    anchor, metrics, centers = anchored(3, weight=3.0)
    theta = normal(SIZE, 5)
    merged = metrics[0].joined(metrics[1]).joined(metrics[2]).scaled(1.7)
    torch.testing.assert_close(anchor.gradient(theta), merged.multiply(theta - centers[-1]), **EXACT)
    assert not anchor.gradient(centers[-1]).any()
    average = sum(metric.trace() for metric in metrics) / 3
    assert anchor.mean_curvature == pytest.approx(1.7 * average / SIZE)


def test_projection_goes_straight_to_the_centre_and_ends_on_the_ball():
    anchor, _, centers = anchored()
    theta = centers[-1] + 4 * normal(SIZE, 5)
    length = float(2 * anchor.value(theta)) ** 0.5
    assert anchor.project(theta, 1.01 * length) is theta
    found = anchor.project(theta, 0.3 * length)
    assert float(2 * anchor.value(found)) ** 0.5 == pytest.approx(0.3 * length)
    torch.testing.assert_close(found - centers[-1], 0.3 * (theta - centers[-1]), **EXACT)


@pytest.mark.parametrize("keep", ["merged", "separate", "online"])
def test_saved_anchors_come_back_bit_for_bit(keep):
    anchor, _, _ = anchored(2, keep)
    found = FisherAnchor("kronecker", keep=keep).restore(from_bytes(to_bytes(anchor.state())))
    theta = normal(SIZE, 5)
    assert torch.equal(found.gradient(theta), anchor.gradient(theta))
    assert (found.num_tasks, found.total_loss) == (2, 1.0)
    assert found.squares(theta) == anchor.squares(theta)


def test_separate_tasks_charge_each_for_itself():
    anchor, metrics, centers = anchored(2, "separate")
    theta = normal(SIZE, 5)
    wanted = [float(1.7 * metric.quadratic(theta - center)) for metric, center in zip(metrics, centers, strict=True)]
    assert anchor.squares(theta) == pytest.approx(wanted)


def test_a_running_sum_forgets_by_its_decay():
    anchor, metrics, centers = anchored(2, "online", decay=0.25)
    theta = normal(SIZE, 5)
    wanted = metrics[0].scaled(0.25).joined(metrics[1]).scaled(1.7).multiply(theta - centers[-1])
    torch.testing.assert_close(anchor.gradient(theta), wanted, **EXACT)


def test_products_and_diagonals_do_not_mix():
    center = normal(SIZE, 1)
    held, other = Quadratic.around(products(), center), Quadratic.around(Diagonal(center.abs()), center)
    for pair in ((held, other), (other, held)):
        with pytest.raises(ValueError, match="adds up with its like only"):
            pair[0].joined(pair[1])


def test_memory_is_told():
    assert FisherAnchor("kronecker").memory == "two vectors and two square matrices a layer in all"
    assert FisherAnchor("kronecker", keep="separate").memory == "two vectors and two square matrices a layer a task"
