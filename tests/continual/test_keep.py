"""Ways to keep the terms of old tasks, noise ranges, and what the anchor tells of the past."""

import pytest
import torch
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes

from tests.continual.test_anchor import EXACT, learned, merged, normal, rng
from tests.continual.toy import Toy, make_task, vector
from tests.reference import slow
from trcl_policy.continual import sampling
from trcl_policy.continual.anchor import FisherAnchor, NoAnchor
from trcl_policy.continual.model import mean_loss
from trcl_policy.continual.sampling import fisher_samples
from trcl_policy.continual.streams import Streams

ALL = ["isotropic", "diagonal", "lowrank", "diagonal_lowrank"]


def terms_of(kind, count=3, size=6):
    """Metrics and centres of some tasks."""
    return [(slow.random_metric(kind, size, 2, rng(n)), normal(size, 100 + n)) for n in range(count)]


def kept(keep, kind, **options):
    anchor = FisherAnchor("rank1" if kind == "lowrank" else kind, keep=keep, **options)
    for metric, center in terms_of(kind):
        anchor = anchor.merged_with(metric, 1.7, center)
    return anchor


@pytest.mark.parametrize("kind", ALL)
def test_separate_terms_are_the_merged_sum_and_tell_each_tasks_square(kind):
    whole, apart, theta = kept("merged", kind, weight=2.0), kept("separate", kind, weight=2.0), normal(6, 5)
    assert len(whole.terms) == 1
    assert len(apart.terms) == 3
    assert torch.equal(whole.gradient(theta), apart.gradient(theta))
    assert torch.equal(whole.proximal(theta, 0.3), apart.proximal(theta, 0.3))
    assert torch.equal(whole.project(theta, 0.3), apart.project(theta, 0.3))
    wanted = [float(1.7 * (theta - c) @ slow.dense(m, 6) @ (theta - c)) for m, c in terms_of(kind)]
    assert apart.squares(theta) == pytest.approx(wanted, rel=1e-9)
    assert len(whole.squares(theta)) == 1


@pytest.mark.parametrize("kind", ["lowrank", "diagonal_lowrank"])
def test_compressed_terms_hold_no_more_than_rank_directions(kind):
    anchor = kept("compressed", kind, rank=2)
    assert len(anchor.quadratic.projected.at) == 2
    assert len(kept("merged", kind, rank=2).quadratic.projected.at) == 6
    wide = kept("compressed", kind, rank=6)
    torch.testing.assert_close(wide.gradient(normal(6, 5)), kept("merged", kind).gradient(normal(6, 5)), **EXACT)


def test_compression_never_raises_the_trace_and_a_diagonal_keeps_it():
    low, mixed = (kept("merged", kind).mean_curvature for kind in ("lowrank", "diagonal_lowrank"))
    assert kept("compressed", "lowrank", rank=2).mean_curvature < 0.95 * low
    assert kept("compressed", "diagonal_lowrank", rank=2).mean_curvature == pytest.approx(mixed, rel=1e-9)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("options", [{"weight": 3.0}, {"weight": 9.0, "raw_lambda": 3.0}])
def test_online_decays_the_sum_around_the_latest_weights(kind, options):
    """F <- gamma F + F_new, penalty w/2 (theta - theta_t)' F (theta - theta_t), not divided by the number of tasks."""
    anchor = kept("online", kind, decay=0.6, rank=6, **options)
    matrix = sum(1.7 * 0.6 ** (2 - n) * slow.dense(m, 6) for n, (m, _) in enumerate(terms_of(kind)))
    latest, theta = terms_of(kind)[-1][1], normal(6, 5)
    torch.testing.assert_close(anchor.gradient(theta), 3.0 * matrix @ (theta - latest), **EXACT)
    torch.testing.assert_close(anchor.value(theta), 1.5 * (theta - latest) @ matrix @ (theta - latest), **EXACT)
    assert anchor.mean_curvature == pytest.approx(float(matrix.trace()) / 6, rel=1e-9)
    assert anchor.num_tasks == 3


def test_online_low_rank_does_not_grow():
    assert len(kept("online", "lowrank", rank=2).quadratic.projected.at) == 2


@pytest.mark.parametrize("keep", ["merged", "separate", "compressed", "online"])
def test_state_round_trips_whatever_is_kept(keep):
    anchor, theta = kept(keep, "diagonal_lowrank", rank=3), normal(6, 5)
    back = FisherAnchor("diagonal_lowrank", keep=keep, rank=3).restore(from_bytes(to_bytes(anchor.state())))
    assert len(back.terms) == len(anchor.terms)
    assert back.squares(theta) == anchor.squares(theta)
    assert torch.equal(back.gradient(theta), anchor.gradient(theta))
    more = [a.merged_with(*terms_of("diagonal_lowrank")[0][:1], 1.0, theta) for a in (anchor, back)]
    assert torch.equal(more[0].gradient(2 * theta), more[1].gradient(2 * theta))


def test_twelve_separate_terms_come_back_in_order():
    anchor, theta = FisherAnchor(keep="separate"), normal(6, 5)
    for number in range(12):
        anchor = anchor.merged_with(slow.random_metric("diagonal", 6, 1, rng(number)), 1.0, normal(6, number))
    state = dict(sorted(anchor.state().items()))
    assert FisherAnchor(keep="separate").restore(state).squares(theta) == anchor.squares(theta)


@pytest.mark.parametrize("kind", ALL)
def test_mean_curvature_is_the_averaged_trace_whatever_the_weight(kind):
    anchor, wanted = merged(kind, weight=5.0)
    assert anchor.mean_curvature == pytest.approx(sum(float(f.trace()) for f, _ in wanted.terms) / 3 / 6, rel=1e-9)
    assert FisherAnchor().mean_curvature == 0


def test_mean_loss_is_that_of_the_fisher_samples_at_each_tasks_own_end():
    _, theta = vector()
    anchor, wanted = FisherAnchor(num_samples=30), []
    for index, place in enumerate((theta, 0.5 * theta)):
        told = learned(task_index=index, theta=place)
        anchor = anchor.after_task(told)
        corrupted = fisher_samples(Toy(), told.task.samples, 30, Streams(3), (0, 1))
        wanted.append(mean_loss(Toy(), told.layout.unflatten(place), corrupted))
    assert anchor.mean_loss == pytest.approx(sum(wanted) / 2, rel=1e-12)
    assert wanted[0] != pytest.approx(wanted[1], rel=0.1)
    assert FisherAnchor().restore(anchor.state()).mean_loss == anchor.mean_loss
    assert FisherAnchor().mean_loss == 0


class Graded(Toy):
    """The noise level of a sample is drawn with its noise."""

    def corrupt(self, batch, rng):
        level = torch.rand(len(batch["x"]), generator=rng, dtype=torch.float64)
        return {**super().corrupt(batch, rng), "level": level}

    def noise_level(self, corrupted):
        return corrupted["level"]


def test_a_noise_range_takes_only_its_samples_until_there_are_enough():
    samples = make_task("a", (0,), 40, 0, torch.float64).samples
    found = fisher_samples(Graded(), samples, 50, Streams(3), (0.2, 0.3))
    assert len(found["level"]) == len(found["x"]) == 50
    assert 0.2 < float(found["level"].min()) < 0.22 < 0.28 < float(found["level"].max()) <= 0.3
    again = fisher_samples(Graded(), samples, 50, Streams(3), (0.2, 0.3))
    assert torch.equal(found["x"], again["x"])
    half = fisher_samples(Graded(), samples, 50, Streams(3), (0.0, 0.5))
    assert 0 < float(half["level"].max()) <= 0.5


def test_an_anchor_of_a_noise_range_measures_the_fisher_there():
    told = learned(model=Graded())
    anchor = FisherAnchor(num_samples=30, raw_lambda=1.0, noise_range=(0.5, 1.0)).after_task(told)
    corrupted = fisher_samples(Graded(), told.task.samples, 30, Streams(3), (0.5, 1.0))
    rows = slow.per_sample_gradients(Toy(), told.layout, told.theta, corrupted)
    torch.testing.assert_close(anchor.quadratic.centered.metric.values, rows.square().mean(0), **EXACT)
    assert anchor.mean_loss == pytest.approx(mean_loss(Toy(), told.layout.unflatten(told.theta), corrupted))


def test_the_full_range_asks_for_no_noise_level(monkeypatch):
    monkeypatch.setattr(Graded, "noise_level", lambda self, corrupted: pytest.fail("asked for the noise level"))
    anchor = FisherAnchor(num_samples=8).after_task(learned(model=Graded()))
    assert anchor.num_tasks == 1


def test_unusable_ranges_are_refused(monkeypatch):
    for noise_range in ((0.5, 0.5), (-0.1, 1.0), (0.2, 1.1), (0.6, 0.4)):
        with pytest.raises(ValueError, match=r"noise_range must be \(low, high\) with 0 <= low < high <= 1, got"):
            FisherAnchor(noise_range=noise_range)
    with pytest.raises(
        ValueError, match=r"noise_range must be \(0, 1\) for a model without noise_level, got \(0.0, 0.5"
    ):
        FisherAnchor(noise_range=(0.0, 0.5)).after_task(learned())
    monkeypatch.setattr(sampling, "MOST_ROUNDS", 5)
    samples = make_task("a", (0,), 40, 0, torch.float64).samples
    with pytest.raises(ValueError, match=r"noise_range must hold 1 of 5 samples, got \(0.5, 0.500001\) with 0 of 50"):
        fisher_samples(Graded(), samples, 10, Streams(3), (0.5, 0.500001))


def test_unusable_options_are_refused():
    with pytest.raises(ValueError, match="keep must be one of merged, separate, compressed, online, got 'all'"):
        FisherAnchor(keep="all")
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\], got 1.5"):
        FisherAnchor(decay=1.5)


@pytest.mark.parametrize("keep", ["merged", "separate", "compressed", "online"])
def test_zero_weight_charges_nothing_whatever_is_kept(keep):
    anchor, theta = kept(keep, "diagonal", weight=0.0), normal(6, 5)
    assert anchor.gradient(theta) is None
    assert anchor.proximal(theta, 3.0) is theta
    assert anchor.project(theta, 1e-9) is theta
    assert float(anchor.value(theta)) == 0


@pytest.mark.parametrize("anchor", [NoAnchor(), FisherAnchor()])
def test_anchors_that_do_not_watch_ignore_steps(anchor):
    theta = normal(6, 5)
    assert not anchor.watches
    assert anchor.after_step(theta, theta, 2 * theta) is anchor


def test_mas_anchors_are_diagonals_in_units_of_the_loss():
    anchor = FisherAnchor("mas", num_samples=64).after_task(learned())
    reference = FisherAnchor("isotropic", num_samples=64).after_task(learned())
    assert anchor.mean_curvature == pytest.approx(reference.mean_curvature, rel=1e-9)
    assert float(anchor.quadratic.centered.metric.values.std()) > 0
