"""The exact MAML gradient against autograd through the whole inner step, and cosines against dense matrices."""

import math

import pytest
import torch
from torch.nn.functional import cosine_similarity

from tests.continual.toy import Toy, corrupted_batch, vector
from tests.reference import slow
from trcl_policy.continual.alignment import (
    OldTask,
    alignment,
    compare,
    cosine,
    hessian_product,
    largest_curvature,
    loss_gradient,
    maml_gradient,
)
from trcl_policy.continual.metric import Diagonal
from trcl_policy.continual.params import Layout, rows
from trcl_policy.diffusion.denoiser import Denoiser
from trcl_policy.diffusion.nets import ConditionalUnet1d, ResidualMLP
from trcl_policy.diffusion.process import Diffusion, Process

EXACT = {"rtol": 1e-9, "atol": 1e-12}
RATES = (0.0, 0.1, 1.5)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def halves():
    """Support and query samples, of unequal number so that exchanging them shows."""
    whole = corrupted_batch(40)
    return rows(whole, slice(0, 16)), rows(whole, slice(16, None))


def through_the_inner_step(model, layout, theta, support, query, rate):
    """The same gradient with the inner step inside the graph."""

    def loss(t, corrupted):
        return model.losses(layout.unflatten(t), corrupted).mean()

    inner = torch.func.grad(loss)
    return torch.func.grad(lambda t: loss(t - rate * inner(t, support), query))(theta)


@pytest.mark.parametrize("rate", RATES)
def test_maml_gradient_equals_autograd_through_the_inner_step(rate):
    layout, theta = vector()
    support, query = halves()
    wanted = through_the_inner_step(Toy(), layout, theta, support, query, rate)
    torch.testing.assert_close(maml_gradient(Toy(), layout, theta, support, query, rate).exact, wanted, **EXACT)


@pytest.mark.parametrize("rate", RATES)
def test_first_order_maml_is_the_query_gradient_at_the_moved_weights(rate):
    layout, theta = vector()
    support, query = halves()
    moved = theta - rate * slow.per_sample_gradients(Toy(), layout, theta, support).mean(0)
    wanted = slow.per_sample_gradients(Toy(), layout, moved, query).mean(0)
    torch.testing.assert_close(maml_gradient(Toy(), layout, theta, support, query, rate).first_order, wanted, **EXACT)


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def denoiser(kind):
    """A denoiser in float64 with every parameter at work, and corrupted samples of it."""
    parts, (count, horizon) = {"observation": 6, "action": 8}, (5, 4)
    torch.manual_seed(0)
    if kind == "mlp":
        net = ResidualMLP(tuple(parts.values()), 2, width=12, depth=1, condition_dim=8)
    else:
        parts = {"observation": 8, "action": 8}
        sizes = tuple(parts.values())
        net = ConditionalUnet1d(sizes, 2, horizon, channels=(8, 16), kernel=3, attention_levels=1, condition_dim=8)
    with torch.no_grad():
        for leaf in net.parameters():
            leaf += 0.1 * torch.randn(leaf.shape)
    model = Denoiser(net, Process(Diffusion()), parts, ("task",))
    batch = {name: torch.randn(count, size) for name, size in parts.items()}
    corrupted = model.corrupt({**batch, "task": torch.arange(count) % 2}, generator(3))
    wide = {key: leaf.double() if leaf.is_floating_point() else leaf for key, leaf in corrupted.items()}
    params = {name: leaf.detach() for name, leaf in net.named_parameters()}
    return model, params, wide


@pytest.mark.parametrize("kind", ["mlp", "unet"])
def test_maml_gradient_of_real_networks_equals_autograd_through_the_inner_step(kind, float64):
    model, params, corrupted = denoiser(kind)
    layout = Layout.of(params)
    theta = layout.flatten(params)
    found = maml_gradient(model, layout, theta, corrupted, corrupted, 0.1)
    wanted = through_the_inner_step(model, layout, theta, corrupted, corrupted, 0.1)
    assert found.exact.dtype == torch.float64
    torch.testing.assert_close(found.exact, wanted, rtol=1e-7, atol=1e-10)
    assert cosine(found.first_order, wanted) < 0.9999  # or the second order would not be tested


class WithIdleWeights(Toy):
    """Toy beside a weight that it does not use and one that enters its loss linearly."""

    def losses(self, params, corrupted):
        return super().losses(params, corrupted) + params["linear"].sum()


@pytest.mark.parametrize("chunk_size", [7, 1024])
def test_hessian_product_equals_the_dense_hessian(chunk_size):
    layout, theta = vector()
    params = {**layout.unflatten(theta), "idle": torch.ones(3).double(), "linear": torch.ones(2).double()}
    layout = Layout.of(params)
    theta, model, corrupted = layout.flatten(params), WithIdleWeights(), corrupted_batch(20)
    along = torch.randn(layout.size, generator=generator(), dtype=torch.float64)
    wanted = slow.hessian(model, layout, theta, corrupted) @ along
    found = hessian_product(model, layout, theta, corrupted, along, chunk_size)
    torch.testing.assert_close(found, wanted, **EXACT)
    wanted = slow.per_sample_gradients(Toy(), *vector(), corrupted).mean(0)
    found = loss_gradient(model, layout, theta, corrupted, chunk_size)
    torch.testing.assert_close(found, torch.cat([wanted, torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0])]), **EXACT)


def test_largest_curvature_is_the_hessians_outermost_eigenpair():
    layout, theta = vector()
    corrupted = corrupted_batch(20)
    values, vectors = torch.linalg.eigh(slow.hessian(Toy(), layout, theta, corrupted))
    place = values.abs().argmax()
    value, direction = largest_curvature(Toy(), layout, theta, corrupted, generator(), num_steps=300)
    assert value == pytest.approx(float(values[place]), rel=1e-6)
    assert abs(cosine(direction, vectors[:, place])) == pytest.approx(1, abs=1e-6)


def old_tasks(layout, theta):
    """Two old tasks with everything different, and dense matrices for the slow way."""
    found = []
    for seed in (0, 1):
        rng = generator(seed)
        metric = Diagonal(torch.rand(layout.size, generator=rng, dtype=torch.float64))
        center = theta + 0.3 * torch.randn(layout.size, generator=rng, dtype=torch.float64)
        samples = [rows(corrupted_batch(60), slice(20 * k, 20 * k + 10 + seed)) for k in range(3)]
        found.append(OldTask(samples[0], metric, center, samples[1], samples[2]))
    return found


@pytest.mark.parametrize("first_order", [False, True])
def test_alignment_equals_the_formula_on_dense_matrices(first_order):
    layout, theta = vector()
    tasks, rate, weight, beta = old_tasks(layout, theta), 0.2, 0.7, 1.3
    found = alignment(Toy(), layout, theta, tasks, rate, weight, beta, first_order)
    held, control, meta = [], [], []
    for task in tasks:
        moved = theta - rate * slow.per_sample_gradients(Toy(), layout, theta, task.support).mean(0)
        jacobian = torch.eye(layout.size).double() - rate * slow.hessian(Toy(), layout, theta, task.support)
        outer = slow.per_sample_gradients(Toy(), layout, moved, task.query).mean(0)
        meta.append(outer if first_order else jacobian @ outer)
        control.append(beta * slow.per_sample_gradients(Toy(), layout, theta, task.replay).mean(0))
        held.append(control[-1] + weight * slow.dense(task.metric, layout.size) @ (theta - task.center))
    pairs = [(held, meta, found.per_task), (control, meta, found.control)]
    for ours, theirs, cosines in pairs:
        wanted = [float(cosine_similarity(a, b, dim=0)) for a, b in zip(ours, theirs, strict=True)]
        assert cosines == pytest.approx(wanted, abs=1e-9)
    assert found.summed == pytest.approx(float(cosine_similarity(sum(held), sum(meta), dim=0)), abs=1e-9)
    assert found.summed_control == pytest.approx(float(cosine_similarity(sum(control), sum(meta), dim=0)), abs=1e-9)
    assert found.differences == tuple(a - b for a, b in zip(found.per_task, found.control, strict=True))
    assert found.summed_difference == found.summed - found.summed_control
    assert all(abs(difference) > 1e-3 for difference in found.differences)


def test_without_samples_of_their_own_support_and_query_are_the_replay():
    layout, theta = vector()
    bare = [OldTask(task.replay, task.metric, task.center) for task in old_tasks(layout, theta)]
    spelled = [OldTask(task.replay, task.metric, task.center, task.replay, task.replay) for task in bare]
    assert alignment(Toy(), layout, theta, bare, 0.2, 0.7) == alignment(Toy(), layout, theta, spelled, 0.2, 0.7)


def test_weight_zero_is_its_own_control_bit_for_bit():
    layout, theta = vector()
    found = alignment(Toy(), layout, theta, old_tasks(layout, theta), 0.2, 0.0)
    assert found.per_task == found.control
    assert found.summed_difference == 0


def test_single_precision_gives_the_same_cosines():
    layout, theta = vector()
    tasks = old_tasks(layout, theta)

    def narrow(batch):
        return {key: leaf.float() if leaf.is_floating_point() else leaf for key, leaf in batch.items()}

    short = [
        OldTask(
            narrow(t.replay), Diagonal(t.metric.values.float()), t.center.float(), *map(narrow, (t.support, t.query))
        )
        for t in tasks
    ]
    wide = alignment(Toy(), layout, theta, tasks, 0.2, 0.7)
    found = alignment(Toy(), layout, theta.float(), short, 0.2, 0.7)
    assert found.per_task == pytest.approx(wide.per_task, abs=1e-5)
    assert found.summed == pytest.approx(wide.summed, abs=1e-5)


def test_vector_of_zeros_has_no_direction():
    one = torch.ones(3)
    assert math.isnan(cosine(one, 0 * one))
    assert math.isnan(compare([one], [0 * one], [one], weight=1.0).control[0])


def test_impossible_comparisons_are_refused():
    one = [torch.ones(2)]
    with pytest.raises(ValueError, match="tasks must hold at least one old task, got none"):
        compare([], [], [], 1.0)
    with pytest.raises(ValueError, match=r"replay_weight must be > 0, .*, got 0"):
        compare(one, one, one, 1.0, replay_weight=0)
    with pytest.raises(ValueError, match="weight must be >= 0, got -1"):
        compare(one, one, one, -1)
