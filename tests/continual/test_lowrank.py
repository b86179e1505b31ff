"""Top eigenpairs of the Fisher against its dense eigendecomposition; the sketch against the exact ones."""

from dataclasses import dataclass, replace

import pytest
import torch

from tests.continual.toy import TRAINING, Toy, corrupted_batch, make_params, make_tasks, method, vector
from tests.reference import slow
from trcl_policy.continual import fisher, gradients
from trcl_policy.continual.anchor import FisherAnchor
from trcl_policy.continual.fisher import estimate, top_of_gram, top_of_sketch
from trcl_policy.continual.gradients import Sampled
from trcl_policy.continual.learner import learn
from trcl_policy.continual.params import Layout
from trcl_policy.continual.replay import NoReplay
from trcl_policy.continual.streams import Streams

EXACT = {"rtol": 1e-9, "atol": 1e-12}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def toy(num_rows=40):
    layout, theta = vector()
    return Sampled(Toy(), layout, theta, corrupted_batch(num_rows))


def dense(sampled):
    """E[g g'] from one backward pass a sample."""
    rows = slow.per_sample_gradients(sampled.model, sampled.layout, sampled.theta, sampled.corrupted)
    return rows.T @ rows / len(rows)


def best(matrix, rank):
    """The nearest matrix of that rank, its values and what it leaves out."""
    values, vectors = torch.linalg.eigh(matrix)
    values, vectors = values.flip(0), vectors.flip(1)
    return (vectors[:, :rank] * values[:rank]) @ vectors[:, :rank].T, values


@dataclass
class Known:
    """Loss w'x of sample x, so that x is its gradient."""

    def losses(self, params, corrupted):
        return corrupted["x"] @ params["w"]


def known(decay, num_rows=300, size=120, dtype=torch.float64):
    """Gradients with principal values that fall like decay^j."""
    basis = torch.linalg.qr(torch.randn(size, size, generator=rng(1), dtype=torch.float64)).Q
    scale = decay ** torch.arange(size, dtype=torch.float64)
    rows = (torch.randn(num_rows, size, generator=rng(2), dtype=torch.float64) * scale) @ basis.T
    layout = Layout.of({"w": torch.zeros(size)})
    return Sampled(Known(), layout, torch.zeros(size, dtype=dtype), {"x": rows.to(dtype)})


@pytest.mark.parametrize("rank", [1, 3, 16])
def test_gram_gives_the_top_of_the_dense_eigendecomposition(rank):
    sampled = toy()
    matrix = dense(sampled)
    metric, trace = top_of_gram(sampled, rank)
    wanted, values = best(matrix, rank)
    torch.testing.assert_close(metric.values, values[:rank], **EXACT)
    torch.testing.assert_close(slow.dense(metric, len(matrix)), wanted, **EXACT)
    torch.testing.assert_close(metric.basis @ metric.basis.T, torch.eye(rank, dtype=torch.float64), **EXACT)
    assert trace == pytest.approx(float(matrix.trace()), rel=1e-12)


def test_all_eigenpairs_are_the_fisher_itself():
    sampled = toy(num_rows=6)
    metric, _ = top_of_gram(sampled, rank=16)
    assert len(metric.values) == 6
    torch.testing.assert_close(slow.dense(metric, sampled.layout.size), dense(sampled), **EXACT)


def test_directions_that_are_only_rounding_are_dropped():
    sampled = toy(num_rows=3)
    doubled = replace(sampled, corrupted={key: torch.cat([leaf, leaf]) for key, leaf in sampled.corrupted.items()})
    for found in (top_of_gram(doubled, 16)[0], top_of_sketch(doubled, 16, rng())[0]):
        assert len(found.values) == 3
        torch.testing.assert_close(slow.dense(found, sampled.layout.size), dense(sampled), **EXACT)


def test_a_sketch_as_wide_as_the_fisher_is_exact():
    sampled = toy()
    exact, trace = top_of_gram(sampled, 4)
    found, found_trace = top_of_sketch(sampled, 4, rng(), oversampling=100, passes=1)
    torch.testing.assert_close(found.values, exact.values, **EXACT)
    torch.testing.assert_close(slow.dense(found, 32), slow.dense(exact, 32), **EXACT)
    assert found_trace == pytest.approx(trace, rel=1e-12)


@pytest.mark.parametrize(("decay", "tolerance"), [(0.9, 1e-8), (0.97, 2e-2)])
def test_the_sketch_is_within_its_stated_share_of_the_exact_values(decay, tolerance):
    """Eigenvalues fall like decay^(2 j): the share left out is of the order decay^(2 * 16 * 7) at the last one."""
    sampled = known(decay)
    exact, trace = top_of_gram(sampled, 16)
    found, found_trace = top_of_sketch(sampled, 16, rng())
    short = 1 - found.values / exact.values
    assert float(short.min()) > -1e-10  # Rayleigh-Ritz values never pass the true ones
    assert float(short.max()) < tolerance
    assert float(short[0]) < tolerance / 50 + 1e-10
    assert found_trace == pytest.approx(trace, rel=1e-12)
    torch.testing.assert_close(found.basis @ found.basis.T, torch.eye(16, dtype=torch.float64), **EXACT)


def test_more_passes_come_nearer():
    sampled = known(0.97)
    exact = top_of_gram(sampled, 16)[0].values
    short = [float((1 - top_of_sketch(sampled, 16, rng(), passes=n)[0].values / exact).max()) for n in (1, 2, 4)]
    assert short[0] > 3 * short[1] > 9 * short[2]


def test_single_precision_agrees_with_double():
    wide, narrow = known(0.9), known(0.9, dtype=torch.float32)
    for found in (top_of_gram(narrow, 16)[0], top_of_sketch(narrow, 16, rng())[0]):
        assert found.basis.dtype == found.values.dtype == torch.float32
        torch.testing.assert_close(found.values.double(), top_of_gram(wide, 16)[0].values, rtol=1e-4, atol=0)


def test_gradients_that_do_not_fit_are_sketched(monkeypatch):
    sampled = known(0.9)
    exact = estimate("lowrank", sampled, rng(), rank=5)
    monkeypatch.setattr(gradients, "MOST_NUMBERS", 300 * 120 - 1)
    monkeypatch.setattr(Sampled, "all_gradients", lambda self: pytest.fail("all gradients were held"))
    monkeypatch.setattr(fisher, "OVERSAMPLING", 16)
    found = estimate("lowrank", sampled, rng(), rank=5)
    assert len(exact.metric.values) == len(found.metric.values) == 5
    torch.testing.assert_close(found.metric.values, exact.metric.values, rtol=1e-6, atol=0)
    assert found.trace == pytest.approx(exact.trace, rel=1e-12)


def test_rank_reaches_from_the_options_to_the_anchor():
    for name in ("ewc_lowrank", "trcl_lowrank"):
        anchor = method(name, rank=3).anchor
        assert (anchor.kind, anchor.rank) == ("lowrank", 3)
    with pytest.raises(ValueError, match="rank must be >= 1, got 0"):
        FisherAnchor("lowrank", rank=0)


def final(chosen):
    params, tasks = make_params(), make_tasks()
    *_, last = learn(Toy(), params, tasks, chosen, TRAINING, Streams(5), 3)
    return last


def test_the_methods_hold_rank_directions_a_task_and_differ_from_their_neighbours():
    last = final(method("ewc_lowrank", rank=3))
    assert last.state()["anchor/basis"].shape[0] == 6  # the last task is held by no one
    others = [method("ewc_lowrank", rank=1), method("ewc"), method("ewc_rank1"), method("finetune")]
    assert all(not torch.equal(last.theta, final(other).theta) for other in others)
    assert torch.equal(last.theta, final(replace(method("trcl_lowrank", rank=3), replay=NoReplay())).theta)
    without = final(method("trcl_lowrank", weight=0.0, rank=3)).theta
    assert torch.equal(without, final(method("replay")).theta)
