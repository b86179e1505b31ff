"""Quality of replayed samples against loops over all pairs, and in cases whose answer is known beforehand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.continual.toy import make_batch, make_tasks
from trcl_policy.continual import quality
from trcl_policy.continual.params import concatenate, rows
from trcl_policy.continual.quality import compare, judge, nearest, of_task
from trcl_policy.continual.tasks import Task, TensorSamples


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(count, size=4, seed=0):
    return torch.randn(count, size, generator=rng(seed), dtype=torch.float64)


def sides():
    """Made rows off the real ones by a shift and a scale; the last dimension is constant in the real ones."""
    made, real = 1.3 * normal(23, seed=1) + 0.4, normal(17, seed=2)
    real[:, 3] = 0.7
    made[:, 3] = 0.7 + 0.05 * made[:, 3]
    return made, real


def slow(made, real, q, floor):
    """Every measure but the p-value, from Python loops over lists."""
    size, made, real = made.shape[1], made.tolist(), real.tolist()

    def spread(d):
        values = [y[d] for y in real]
        mean = sum(values) / len(values)
        return max(math.sqrt(sum((v - mean) ** 2 for v in values) / len(values)), floor)

    scale = [spread(d) for d in range(size)]

    def far(x, y):
        return math.sqrt(sum(((x[d] - y[d]) / scale[d]) ** 2 for d in range(size)) / size)

    def mean_within(xs):
        return sum(far(x, y) for i, x in enumerate(xs) for j, y in enumerate(xs) if i != j) / len(xs) / (len(xs) - 1)

    alone = [min(far(y, z) for j, z in enumerate(real) if j != i) for i, y in enumerate(real)]
    radius = linear_quantile(alone, q)
    to_real = [min(far(x, y) for y in real) for x in made]
    to_made = [min(far(x, y) for x in made) for y in real]
    across = sum(far(x, y) for x in made for y in real) / len(made) / len(real)
    return {
        "radius": radius,
        "share": sum(d <= radius for d in to_real) / len(made),
        "coverage": sum(d <= radius for d in to_made) / len(real),
        "distance_mean": sum(to_real) / len(made),
        "distance_quantiles": tuple(linear_quantile(to_real, level) for level in (0.05, 0.5, 0.95)),
        "energy": 2 * across - mean_within(made) - mean_within(real),
    }


def linear_quantile(values, q):
    values, place = sorted(values), q * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (place - low) * (values[high] - values[low])


@pytest.mark.parametrize(("q", "floor"), [(0.95, 0.1), (0.5, 0.1), (0.8, 2.0), (1.0, 1e-3)])
def test_every_measure_equals_loops_over_all_pairs(q, floor):
    made, real = sides()
    found, wanted = compare(made, real, rng(), quantile=q, floor=floor), slow(made, real, q, floor)
    assert (found.num_made, found.num_real) == (23, 17)
    assert wanted["coverage"] > 0
    for name, value in wanted.items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-9), name


def test_parts_of_the_distances_give_the_same_as_all_at_once(monkeypatch):
    made, real = sides()
    whole = nearest(made, real), nearest(real, real, itself=True)
    monkeypatch.setattr(quality, "MOST_NUMBERS", 40)  # two rows at a time
    parts = nearest(made, real), nearest(real, real, itself=True)
    assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(whole, parts, strict=True))


def test_memory_stays_within_its_bound(monkeypatch):
    sizes = []
    pairwise = quality._pairwise

    def spy(a, b):
        sizes.append(len(a) * len(b))
        return pairwise(a, b)

    monkeypatch.setattr(quality, "_pairwise", spy)
    monkeypatch.setattr(quality, "MOST_NUMBERS", 1000)
    nearest(normal(300), normal(90, seed=1))
    assert max(sizes) <= 1000
    assert sum(sizes) == 300 * 90


def test_energy_of_many_rows_is_that_of_some(monkeypatch):
    monkeypatch.setattr(quality, "ENERGY_ROWS", 25)
    monkeypatch.setattr(quality, "energy_test", lambda made, real, *_: (len(made), len(real)))
    found = compare(normal(60), normal(20, seed=1), rng())
    assert (found.energy, found.p_value, found.num_made) == (25, 20, 60)


def test_identical_distributions_give_about_the_quantile_and_no_energy():
    found = [compare(normal(300, seed=2 * n), normal(300, seed=2 * n + 1), rng(n), permutations=99) for n in range(40)]
    share, coverage, energy = (
        torch.tensor([getattr(f, name) for f in found]) for name in ("share", "coverage", "energy")
    )
    assert share.mean() == pytest.approx(0.95, abs=0.015)
    assert coverage.mean() == pytest.approx(0.95, abs=0.015)
    assert abs(energy.mean()) < 4 * energy.std() / 40**0.5
    assert (energy < 0).any()  # without bias


def test_p_values_of_identical_distributions_are_uniform():
    values = torch.tensor(
        [
            compare(normal(20, seed=2 * n), normal(15, seed=2 * n + 1), rng(n), permutations=19).p_value
            for n in range(400)
        ]
    )
    for level in (0.1, 0.25, 0.5, 0.75):
        share = float((values <= level + 1e-9).double().mean())
        assert share == pytest.approx(level, abs=4 * math.sqrt(level * (1 - level) / 400))


def test_far_away_gives_nothing():
    found = compare(normal(50) + 100, normal(60, seed=1), rng(), permutations=99)
    assert (found.share, found.coverage, found.harmonic) == (0, 0, 0)
    assert found.p_value == 0.01
    assert min(found.distance_quantiles) > 50


def test_energy_of_two_points_is_twice_their_distance():
    made, real = torch.zeros(3, 4), torch.full((5, 4), 0.7)
    found = compare(made, real, rng(), floor=0.1)
    assert found.energy == pytest.approx(2 * 7, rel=1e-5)
    assert found.distance_mean == pytest.approx(7, rel=1e-5)


def test_copies_of_one_good_sample_have_a_high_share_and_a_low_coverage():
    real = normal(400)
    found = compare(real[real.norm(dim=1).argmin()].expand(400, -1), real, rng())
    assert found.share == 1
    assert found.coverage < 0.4
    assert found.p_value == 1 / 100
    half = compare(torch.cat([normal(200, seed=5), normal(200, seed=6) + 50]), real, rng())
    assert half.share == pytest.approx(0.475, abs=0.05)  # half of it is good
    assert half.coverage > 0.85  # and nothing is missing
    assert half.harmonic == pytest.approx(2 / (1 / half.share + 1 / half.coverage))


def test_equal_rows_are_near_even_where_all_real_rows_are_equal():
    row = torch.full((1, 4), 0.3) + 1e3
    found = compare(row.repeat(30, 1), row.repeat(40, 1), rng())
    assert found.radius == 0
    assert (found.share, found.coverage, found.p_value) == (1, 1, 1)


def test_floor_keeps_a_small_error_in_a_constant_dimension_small():
    real, made = normal(200), normal(200, seed=1)
    real[:, 3], made[:, 3] = 0.0, 1e-3
    with_floor, without = compare(made, real, rng(), floor=0.1), compare(made, real, rng(), floor=1e-6)
    assert with_floor.share > 0.85
    assert without.share == 0


@given(scale=st.sampled_from([1e-3, 1.0, 1e3]), shift=st.floats(-10, 10), seed=st.integers(0, 10))
def test_unit_and_origin_of_the_samples_do_not_matter(scale, shift, seed):
    made, real = sides()
    before = compare(made, real, rng(seed), permutations=9)
    order = torch.randperm(17, generator=rng(seed))
    after = compare(scale * (made + shift), scale * (real + shift)[order], rng(seed), floor=0.1 * scale, permutations=9)
    for name in ("radius", "share", "coverage", "distance_mean", "energy"):
        assert getattr(after, name) == pytest.approx(getattr(before, name), rel=1e-9), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"made": normal(1)}, r"made must be at least two rows \(N, D\), got shape \(1, 4\)"),
        ({"real": normal(8)[0]}, r"real must be at least two rows \(N, D\), got shape \(4,\)"),
        ({"made": normal(8, 3)}, "made must have rows of size 4, got 3"),
        ({"made": normal(8) / 0}, "made must be finite, got 8 rows that are not"),
        ({"quantile": 0.0}, r"quantile must be in \(0, 1\], got 0.0"),
        ({"floor": 0.0}, "floor must be > 0"),
        ({"permutations": 0}, "permutations must be >= 1, got 0"),
    ],
)
def test_unusable_input_is_one_clear_line(changes, message):
    with pytest.raises(ValueError, match=message):
        compare(**{"made": normal(8), "real": normal(8), "rng": rng(), **changes})


def task(kind, count=60, held_out=50):
    made = {part: make_batch((kind,), n, 10 * kind + s) for part, n, s in (("train", count, 0), ("rest", held_out, 0))}
    return Task(str(kind), TensorSamples(made["train"]), {"kind": torch.tensor([kind])}, TensorSamples(made["rest"]))


def test_rows_of_a_task_are_found_by_all_of_its_conditions():
    pool = {"a": torch.tensor([0, 0, 1, 1]), "b": torch.tensor([0.5, 2.0, 0.5, 2.0]), "x": torch.arange(4)}
    pair = Task(
        "pair", TensorSamples({"x": torch.zeros(1)}), {"a": torch.tensor([0, 1]), "b": torch.tensor([2.0, 0.5])}
    )
    assert of_task(pool, pair)["x"].tolist() == [1, 2]


def test_a_task_is_judged_by_its_own_rows_beside_its_controls():
    first, second = task(0), task(1)
    pool = concatenate([first.samples.batch, {**second.samples.batch, "x": second.samples.batch["x"] + 1e3}])
    mixed = rows(pool, torch.randperm(120, generator=rng()))
    verdict = judge(mixed, first, [second], rng())
    assert (verdict.made.num_made, verdict.made.num_real, verdict.other.num_made) == (60, 50, 60)
    assert verdict.made.share == verdict.real.share  # the pool holds the training samples themselves
    assert verdict.made.coverage == verdict.real.coverage
    assert verdict.made.energy == pytest.approx(verdict.real.energy)
    assert verdict.other.harmonic < 0.5 * verdict.real.harmonic
    assert judge(mixed, second, [first], rng()).made.share == 0
    assert judge(mixed, first, [], rng()).other is None


def test_as_many_training_samples_as_replayed_ones_are_compared():
    first, second, third = task(0), task(1), task(2)
    few = judge(rows(first.samples.batch, slice(0, 20)), first, [second, third], rng())
    assert (few.made.num_made, few.real.num_made, few.other.num_made) == (20, 20, 20)
    pool = concatenate([first.samples.batch] * 3)
    many = judge(pool, first, [second, third], rng(), most=40)
    assert (many.made.num_made, many.real.num_made, many.made.num_real) == (40, 40, 40)
    all_there_are = judge(pool, first, [second, third], rng())
    assert (all_there_are.made.num_made, all_there_are.real.num_made, all_there_are.made.num_real) == (60, 60, 50)


def test_conditions_are_no_part_of_the_rows():
    known = task(0)
    side = {"train": known.samples.batch, "rest": known.held_out.batch}
    x, y = (torch.cat([side[part]["x"], side[part]["y"]], 1) for part in ("train", "rest"))
    wanted, found = compare(x, y, rng()), judge(known.samples.batch, known, [], rng()).made
    for name in ("radius", "share", "coverage", "distance_mean", "energy"):
        assert getattr(found, name) == pytest.approx(getattr(wanted, name)), name


def test_judging_draws_from_nothing_but_its_own_stream_and_changes_no_sample():
    first, second = task(0), task(1)
    pool = dict(first.samples.batch)
    before = torch.get_rng_state(), [leaf.clone() for leaf in (*pool.values(), *first.held_out.batch.values())]
    verdicts = [judge(pool, first, [second], rng(3)) for _ in range(2)]
    assert verdicts[0] == verdicts[1]
    assert judge(pool, first, [second], rng(4)) != verdicts[0]
    assert torch.equal(torch.get_rng_state(), before[0])
    after = (*pool.values(), *first.held_out.batch.values())
    assert all(torch.equal(a, b) for a, b in zip(after, before[1], strict=True))


def test_a_task_without_held_out_samples_can_not_be_judged():
    known = make_tasks()[0]
    with pytest.raises(ValueError, match="task must have held-out samples, got first without"):
        judge(known.samples.batch, Task("first", known.samples, known.condition), [], rng())
