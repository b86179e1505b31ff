"""The spectrum from the Gram matrix against dense gradients, and against a Fisher that is known beforehand."""

import pytest
import torch

from tests.continual.test_lowrank import Known, rng, toy
from tests.reference import slow
from trcl_policy.continual import gradients
from trcl_policy.continual.gradients import Sampled
from trcl_policy.continual.params import Layout
from trcl_policy.continual.spectrum import _spectrum, gram, spectra


def whole(sampled):
    return spectra(sampled, {"all": torch.ones(sampled.num_samples, dtype=torch.bool)})["all"]


def linear(rows):
    layout = Layout.of({"w": rows[0]})
    return Sampled(Known(), layout, torch.zeros_like(rows[0]), {"x": rows})


def test_every_number_equals_its_dense_definition():
    sampled = toy()
    rows = slow.per_sample_gradients(sampled.model, sampled.layout, sampled.theta, sampled.corrupted)
    found, trace = whole(sampled), float(rows.square().sum(1).mean())
    values = torch.linalg.eigvalsh(rows.T @ rows / 40).flip(0)
    mean = rows.mean(0)
    assert found.num_samples == 40
    assert found.trace == pytest.approx(trace, rel=1e-10)
    for rank, share in found.top_shares.items():
        assert share == pytest.approx(float(values[:rank].sum()) / trace, rel=1e-10)
    assert found.effective_rank == pytest.approx(trace**2 / float(values.square().sum()), rel=1e-10)
    rank1 = float((rows @ mean / mean.norm()).square().mean())
    assert found.mean_rank1_share == pytest.approx(rank1 / trace, rel=1e-10)
    pairs = (rows @ rows.T).fill_diagonal_(0).sum() / (40 * 39)  # mean of g_i'g_j over i != j: no bias
    assert found.mean_share == pytest.approx(float(pairs) / trace, rel=1e-8)
    halves = [rows[start::2].square().mean(0) for start in (0, 1)]
    assert found.diagonal_cosine == pytest.approx(float(torch.cosine_similarity(*halves, dim=0)), rel=1e-10)


def test_convergence_compares_disjoint_sets_of_each_size():
    sampled = toy()
    rows = slow.per_sample_gradients(sampled.model, sampled.layout, sampled.theta, sampled.corrupted).square()

    def cosine(*places):
        one, other = (rows[start::step].mean(0) for start, step in places)
        return float(torch.cosine_similarity(one, other, dim=0))

    def average(step):
        pairs = [cosine((start, 2 * step), (start + step, 2 * step)) for start in range(step)]
        return sum(pairs) / step

    found = whole(sampled).convergence
    assert list(found) == [2, 5, 10, 20]
    assert list(found.values()) == pytest.approx([average(8), average(4), average(2), average(1)], rel=1e-10)
    assert found[2] < found[5] < found[20]
    assert list(whole(toy(num_rows=5)).convergence) == [1, 2]
    assert list(whole(toy(num_rows=2)).convergence) == [1]


def test_white_noise_has_full_rank_and_no_mean():
    draws = [torch.randn(64, 8, generator=rng(seed), dtype=torch.float64) for seed in range(50)]
    shares = [_spectrum(rows @ rows.T, {32: 1.0}).mean_share for rows in draws]
    assert abs(sum(shares) / 50) < 0.005
    found = whole(linear(torch.randn(4000, 8, generator=rng(), dtype=torch.float64)))
    assert found.effective_rank == pytest.approx(8, rel=0.02)
    assert found.top_shares[4] == pytest.approx(0.5, abs=0.05)
    assert found.top_shares[8] == pytest.approx(1)
    assert found.diagonal_cosine == pytest.approx(1, abs=0.01)


def test_gradients_of_one_direction_and_both_signs_have_rank_one_but_no_mean():
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(20)
    rows = signs[:, None] * torch.tensor([3.0, 4.0, 0.0], dtype=torch.float64)
    found = whole(linear(rows + 1e-6))
    assert found.top_shares[1] == pytest.approx(1)
    assert found.effective_rank == pytest.approx(1)
    assert found.mean_share == pytest.approx(-1 / 39, rel=1e-4)


def test_panels_change_rounding_only(monkeypatch):
    sampled = toy()
    exact = gram(sampled)
    rows = slow.per_sample_gradients(sampled.model, sampled.layout, sampled.theta, sampled.corrupted)
    torch.testing.assert_close(exact, rows @ rows.T, rtol=1e-10, atol=1e-14)
    for height in (1, 7, 39):
        monkeypatch.setattr(gradients, "MOST_NUMBERS", height * sampled.layout.size)
        torch.testing.assert_close(gram(sampled), exact, rtol=1e-10, atol=1e-14)


def test_selections_are_measured_on_their_own():
    sampled = toy()
    mask = torch.arange(40) % 3 == 0
    found = spectra(sampled, {"some": mask, "one": torch.arange(40) == 3, "none": torch.zeros(40, dtype=torch.bool)})
    alone = whole(sampled.part(mask.nonzero().squeeze(1)))
    assert found["one"] is None
    assert found["none"] is None
    assert found["some"].num_samples == alone.num_samples == 14
    for name in ("trace", "effective_rank", "mean_rank1_share", "mean_share", "diagonal_cosine"):
        assert getattr(found["some"], name) == pytest.approx(getattr(alone, name), rel=1e-9)


def test_a_loss_without_gradients_has_no_spectrum():
    assert whole(linear(torch.zeros(5, 3, dtype=torch.float64))) is None
