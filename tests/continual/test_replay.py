"""What comes back from old tasks: kept samples, kept predictions, generated and rehearsed samples."""

from dataclasses import replace

import pytest
import torch

from tests.continual.toy import Toy, learned, make_task, make_tasks, request, vector
from trcl_policy.continual.generated import DarkGeneratedReplay, GeneratedReplay
from trcl_policy.continual.replay import DarkReplay, InputReplay, NoReplay, Pool, StoredReplay
from trcl_policy.continual.streams import Streams
from trcl_policy.continual.tasks import Task, TaskSequence


def samples_of(replay):
    return replay.pool.samples


# Pool


def pool_of_three():
    pool = Pool()
    for count, start in ((4, 0), (2, 10), (3, 20)):
        pool = pool.joined({"x": torch.arange(start, start + count)})
    return pool


def test_a_pool_counts_its_tasks_and_remembers_whose_a_sample_is():
    pool = pool_of_three()
    assert Pool().num_tasks == 0
    assert pool.num_tasks == 3
    assert pool.origin.tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 2]
    again = Pool.restored(pool.state())
    assert torch.equal(again.origin, pool.origin)
    assert torch.equal(again.samples["x"], pool.samples["x"])
    assert Pool().state() == {}
    assert Pool.restored({}).num_tasks == 0


@pytest.mark.parametrize(("task", "wanted"), [(0, [0, 1, 2, 3]), (1, [10, 11]), (2, [20, 21, 22])])
def test_a_pick_of_one_task_is_uniform_over_that_tasks_samples(task, wanted):
    values, counts = pool_of_three().pick(request(3000, task=task))["x"].unique(return_counts=True)
    assert values.tolist() == wanted
    assert (counts - 3000 / len(wanted)).abs().max() < 120


def test_a_pick_of_all_tasks_is_uniform_over_samples():
    values, counts = pool_of_three().pick(request(9000))["x"].unique(return_counts=True)
    assert len(values) == 9
    assert (counts - 1000).abs().max() < 120


# Stored samples


def test_stored_replay_keeps_exactly_n_real_samples_of_every_task():
    tasks, replay, streams = make_tasks(), StoredReplay(10), Streams(5)
    for index in range(3):
        replay = replay.after_task(learned(tasks, index, streams=streams))
        assert len(samples_of(replay)["x"]) == 10 * (index + 1)
        assert replay.num_tasks == index + 1
        kept, whole = samples_of(replay)["x"][-10:], tasks[index].samples.batch["x"]
        matches = (kept[:, None] == whole[None]).all(2)
        assert matches.sum(1).tolist() == [1] * 10
        assert len({int(row.nonzero()) for row in matches}) == 10


def test_stored_replay_keeps_a_task_met_twice_once():
    a, b, _ = make_tasks()
    for kind in (StoredReplay(10), DarkReplay(5, draws=2)):
        tasks, replay = TaskSequence((a, b, Task("first#2", a.samples, a.condition), a)), kind
        for index in range(4):
            replay = replay.after_task(learned(tasks, index))
        assert len(samples_of(replay)["x"]) == 20
        assert replay.num_tasks == 2


def test_stored_replay_keeps_all_of_a_small_task():
    tasks = TaskSequence((make_task("small", (0,), 4, 0),))
    assert len(samples_of(StoredReplay(10).after_task(learned(tasks, 0)))["x"]) == 4


def test_stored_replay_draws_all_kept_samples_with_new_noise():
    tasks, streams = make_tasks(), Streams(5)
    replay = StoredReplay(10).after_task(learned(tasks, 0)).after_task(learned(tasks, 1))
    found = replay.draw(request(4000, streams))
    assert abs(int((found["kind"] == 0).sum()) - 2000) < 150
    again = replay.draw(request(4000, streams))
    assert not torch.equal(found["x"], again["x"])
    for task in (0, 1):
        assert set(replay.draw(request(50, streams, task=task))["kind"].tolist()) == {task}
    assert StoredReplay(10).draw(request(5, streams)) is None
    assert not replay.distilled


# Stored predictions


def test_dark_targets_stay_those_of_their_time():
    tasks, streams = make_tasks(), Streams(5)
    layout, theta = vector(torch.float32)
    replay = DarkReplay(6, draws=3).after_task(learned(tasks, 0, theta, streams))
    replay = replay.after_task(learned(tasks, 1, 2 * theta, streams))
    assert len(samples_of(replay)["x"]) == 2 * 6 * 3
    found = replay.draw(request(200, streams))
    for kind, then in ((0, theta), (1, 2 * theta)):
        of_then = {key: leaf[found["kind"] == kind] for key, leaf in found.items()}
        torch.testing.assert_close(of_then["target"], Toy().predict(layout.unflatten(then), of_then))
        other = Toy().predict(layout.unflatten(3 * theta - then), of_then)
        assert not torch.allclose(of_then["target"], other)
    assert replay.distilled
    assert not found["target"].requires_grad


def test_dark_samples_are_drawn_with_the_noise_they_were_kept_with():
    tasks = make_tasks()
    replay = DarkReplay(6, draws=3).after_task(learned(tasks, 0))
    kept, found = samples_of(replay)["x"], replay.draw(request(400))["x"]
    assert len(kept.unique(dim=0)) == 18
    assert (found[:, None] == kept[None]).all(2).any(1).all()
    assert len(found.unique(dim=0)) == 18
    plain = StoredReplay(6).after_task(learned(tasks, 0))
    assert torch.equal(
        samples_of(plain)["kind"].repeat(3),
        samples_of(replay)["kind"],
    )


# New samples under old conditions


def test_input_replay_asks_the_previous_model_about_new_samples_under_old_conditions():
    tasks, streams = make_tasks(), Streams(5)
    layout, theta = vector(torch.float32)
    replay = InputReplay().after_task(learned(tasks, 0, theta))
    assert replay.teacher.data_ptr() != theta.data_ptr()

    class Clean(Toy):
        def corrupt(self, batch, rng):
            return {"x": batch["x"], "kind": batch["kind"], "target": batch["y"]}

    asked = request(500, streams, tasks.distinct(1), model=Clean())
    found = replay.draw(asked)
    assert set(found["kind"].tolist()) == {0}
    assert set(asked.new["kind"].tolist()) == {1}
    assert (found["x"][:, None] == asked.new["x"][None]).all(2).any(1).all()
    assert len(found["x"].unique(dim=0)) == 12
    assert torch.equal(found["target"], Toy().predict(layout.unflatten(theta), found))


def test_input_replay_draws_old_tasks_uniformly_and_noise_anew():
    tasks, streams = make_tasks(), Streams(5)
    replay = InputReplay().after_task(learned(tasks, 1))
    asked = request(4000, streams, tasks.distinct(2))
    found, again = replay.draw(asked), replay.draw(asked)
    assert abs(int((found["kind"] == 0).sum()) - 2000) < 150
    assert not torch.equal(found["x"], again["x"])
    assert InputReplay().draw(asked) is None
    assert replay.num_tasks == 0
    latest = replay.after_task(learned(tasks, 1, torch.zeros(32)))
    assert latest.draw(asked)["target"].abs().max() == 0


# Generated samples


def test_generated_replay_holds_equally_many_samples_of_every_task_seen():
    tasks, replay = make_tasks(), GeneratedReplay(20, chunk_size=7)
    for index, counts in enumerate([[20], [20, 20]]):
        replay = replay.after_task(learned(tasks, index))
        assert samples_of(replay)["kind"].bincount().tolist() == counts
        assert replay.num_tasks == index + 1
    replay = replay.after_task(learned(tasks, 2))
    assert len(samples_of(replay)["x"]) == 60
    assert len(samples_of(replay)["x"].unique(dim=0)) == 60
    assert replay.pool.origin.bincount().tolist() == [20, 20, 20]
    assert set(samples_of(replay)["kind"][replay.pool.origin == 1].tolist()) == {1}


def test_generated_replay_makes_its_pool_anew_with_the_latest_model():
    tasks, streams = make_tasks(), Streams(5)
    layout, theta = vector(torch.float32)
    one = GeneratedReplay(20).after_task(learned(tasks, 0, theta, streams))
    later = 2 * theta
    two = one.after_task(learned(tasks, 1, later, streams))
    assert torch.equal(two.teacher, later)
    assert two.teacher.data_ptr() != later.data_ptr()
    assert not torch.equal(samples_of(one)["x"][:20], samples_of(two)["x"][:20])
    made = Toy().predict(layout.unflatten(later), samples_of(two))
    torch.testing.assert_close(made, samples_of(two)["y"])


def test_kept_samples_are_made_once_by_the_model_that_has_just_learned_the_task():
    a, b, c = make_tasks()
    tasks, streams = TaskSequence((a, b, Task("first#2", a.samples, a.condition, a), c)), Streams(5)
    layout, theta = vector(torch.float32)
    makers, replay = (theta, 2 * theta, 3 * theta, 4 * theta), GeneratedReplay(20, kept=True)
    for index, maker in enumerate(makers):
        before, replay = replay, replay.after_task(learned(tasks, index, maker, streams))
        assert torch.equal(replay.teacher, maker)
        for key, leaf in samples_of(before).items():
            assert torch.equal(samples_of(replay)[key][: len(leaf)], leaf)
    assert replay.pool.origin.bincount().tolist() == [20, 20, 20]  # the task met twice keeps those of its first time
    for number, maker in enumerate((theta, 2 * theta, 4 * theta)):
        made = {key: leaf[replay.pool.origin == number] for key, leaf in samples_of(replay).items()}
        torch.testing.assert_close(made["y"], Toy().predict(layout.unflatten(maker), made))
    found = replay.draw(request(50, streams))
    torch.testing.assert_close(found["target"], Toy().predict(layout.unflatten(4 * theta), found))


def test_kept_predictions_are_those_of_the_model_that_made_the_samples():
    tasks, streams = make_tasks(), Streams(5)
    layout, theta = vector(torch.float32)
    replay = DarkGeneratedReplay(20)
    for index in range(3):
        before, replay = replay, replay.after_task(learned(tasks, index, (index + 1) * theta, streams))
        for key, leaf in samples_of(before).items():
            assert torch.equal(samples_of(replay)[key][: len(leaf)], leaf)
    assert replay.pool.origin.bincount().tolist() == [20, 20, 20]
    for number in range(3):
        held = {key: leaf[replay.pool.origin == number] for key, leaf in samples_of(replay).items()}
        assert len(held["x"].unique(dim=0)) == 20
        said = Toy().predict(layout.unflatten((number + 1) * theta), held)
        torch.testing.assert_close(held["target"], said)
    asked = request(300, streams)
    found = replay.draw(asked)
    there = (found["x"][:, None] == samples_of(replay)["x"][None]).all(2)
    assert there.any(1).all()
    assert torch.equal(samples_of(replay)["target"][there.float().argmax(1)], found["target"])
    again = Task("first#2", tasks[0].samples, tasks[0].condition, tasks[0])
    assert replay.after_task(learned(TaskSequence((*tasks, again)), 3)) is replay  # a task counts once


def test_kept_samples_may_be_corrupted_several_times_each():
    layout, theta = vector(torch.float32)
    one = DarkGeneratedReplay(20).after_task(learned(make_tasks(), 0, theta))
    several = DarkGeneratedReplay(20, draws=3).after_task(learned(make_tasks(), 0, theta))
    assert torch.equal(several.fresh["x"], one.fresh["x"])
    held = samples_of(several)
    assert len(held["x"].unique(dim=0)) == 60
    shift = held["x"].view(3, 20, -1) - several.fresh["x"]
    assert shift.std() < 0.4  # the noise's .3
    torch.testing.assert_close(held["target"], Toy().predict(layout.unflatten(theta), held))


def test_kept_samples_ask_for_what_a_model_is_used_for_where_it_knows():
    class Acting(Toy):
        def corrupt_for_use(self, batch, rng):
            return {**self.corrupt(batch, rng), "x": batch["x"]}

    usual, used = (
        DarkGeneratedReplay(20, apart=0.2, recall=recall).after_task(replace(learned(make_tasks(), 0), model=Acting()))
        for recall in ("all", "use")
    )
    assert not torch.equal(samples_of(usual)["x"], usual.fresh["x"][4:])
    assert torch.equal(samples_of(used)["x"], used.fresh["x"][4:])
    assert torch.equal(used.watched.samples["x"][:4], used.fresh["x"][:4])
    other = DarkGeneratedReplay(20, apart=0.2, recall="use").after_task(learned(make_tasks(), 0))
    plain = DarkGeneratedReplay(20, apart=0.2).after_task(learned(make_tasks(), 0))
    assert torch.equal(samples_of(other)["x"], samples_of(plain)["x"])  # this one only generates


@pytest.mark.parametrize(("count", "held"), [(20, 16), (80, 64), (600, 360), (2000, 400)])
def test_samples_held_out_are_corrupted_more_than_once_where_they_are_few(count, held):
    made = DarkGeneratedReplay(count, apart=0.2).after_task(learned(make_tasks(), 0))
    assert len(made.watched.samples["x"]) == held
    assert len(made.pool.samples["x"]) == 0.8 * count


def test_samples_held_out_are_never_learned_from():
    tasks, streams = make_tasks(), Streams(5)
    layout, theta = vector(torch.float32)
    replay = DarkGeneratedReplay(20, apart=0.2)
    assert replay.held_out(request(5, streams)) is None
    for index in range(2):
        replay = replay.after_task(learned(tasks, index, (index + 1) * theta, streams))
    again = DarkGeneratedReplay(20, apart=0.2).restore(replay.state())
    assert replay.pool.origin.bincount().tolist() == again.watched.origin.bincount().tolist() == [16, 16]
    for number in range(2):
        held, learnt = (
            {key: leaf[pool.origin == number] for key, leaf in pool.samples.items()}
            for pool in (again.watched, replay.pool)
        )
        told = Toy().predict(layout.unflatten((number + 1) * theta), held)
        torch.testing.assert_close(held["target"], told)
        assert len(held["x"].unique(dim=0)) == 16  # four samples under four corruptions
        assert not (held["x"][:, None] == learnt["x"][None]).all(2).any()
    asked = request(200, streams)
    found = again.held_out(asked)
    assert (found["x"][:, None] == again.watched.samples["x"][None]).all(2).any(1).all()
    plain = DarkGeneratedReplay(20, apart=0.2).restore(replay.state())
    assert torch.equal(plain.draw(request(9))["x"], replay.draw(request(9))["x"])


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"draws": 0}, "replay_draws must be >= 1, got 0"),
        ({"recall": "some"}, "replay_recall must be one of all, use, got 'some'"),
        ({"apart": 1.0}, r"replay_apart must be in \[0, 1\), got 1.0"),
        ({"apart": -0.1}, r"replay_apart must be in \[0, 1\), got -0.1"),
        ({"apart": 0.5, "samples_per_task": 1}, "replay_samples must be >= 2 where some are held out, got 1"),
    ],
)
def test_a_share_that_leaves_nothing_is_refused(options, line):
    with pytest.raises(ValueError, match=line):
        DarkGeneratedReplay(**options)


def test_samples_whose_corruptions_are_kept_can_be_judged_until_the_next_task_begins():
    tasks, streams = make_tasks(), Streams(5)
    made = DarkGeneratedReplay(20).after_task(learned(tasks, 0, streams=streams))
    assert made.fresh.keys() == tasks[0].samples.batch.keys()
    again = DarkGeneratedReplay(20).restore(made.state())
    assert made.fresh.keys() == again.fresh.keys()
    for replay in (made, again):
        begun = replay.before_step(request(5))
        assert begun.before_step(request(5)) is begun
        assert begun.state().keys() == begun.pool.state().keys()
        assert torch.equal(begun.state()["pool/x"], made.state()["pool/x"])
    later = made.before_step(request(5)).after_task(learned(tasks, 1, streams=streams))
    assert (later.fresh["kind"] == 1).all()
    assert len(later.fresh["x"]) == 20


def test_generating_in_chunks_makes_every_sample_once_in_order():
    class Counter(Toy):
        def generate(self, params, condition, rng):
            return {"x": condition["kind"].float()[:, None].expand(-1, 2), "kind": condition["kind"]}

    tasks = make_tasks()
    pools = [GeneratedReplay(9, chunk_size=c).after_task(learned(tasks, 2, model=Counter())) for c in (2, 100)]
    one, other = (samples_of(pool) for pool in pools)
    assert torch.equal(one["kind"], other["kind"])
    assert torch.equal(one["x"], other["x"])


def test_distilled_targets_are_the_teachers_and_plain_ones_are_drawn():
    told = learned(make_tasks(), 0)
    distilled, plain = (GeneratedReplay(20, distilled=d).after_task(told) for d in (True, False))
    plain = plain.restore(distilled.state())
    layout, theta = vector(torch.float32)
    one, other = distilled.draw(request(15)), plain.draw(request(15))
    assert torch.equal(one["x"], other["x"])
    assert torch.equal(one["target"], Toy().predict(layout.unflatten(theta), one))
    assert not torch.allclose(one["target"], other["target"])
    assert float(Toy().losses(layout.unflatten(theta), one).sum()) == 0
    assert not one["target"].requires_grad


def test_the_teacher_is_the_average_or_the_raw_weights():
    layout, theta = vector(torch.float32)
    told = learned(make_tasks(), 0, theta, raw=2 * theta)
    for weights, wanted in (("ema", theta), ("raw", 2 * theta)):
        replay = GeneratedReplay(20, weights=weights).after_task(told)
        assert torch.equal(replay.teacher, wanted)
        made = samples_of(replay)
        torch.testing.assert_close(made["y"], Toy().predict(layout.unflatten(wanted), made))
    assert torch.equal(GeneratedReplay(20, weights="raw").after_task(learned(make_tasks(), 0, theta)).teacher, theta)


class Ranked(Toy):
    """Every generated sample has a loss of its own, its number, whatever the noise."""

    def generate(self, params, condition, rng):
        kind = condition["kind"]
        place = torch.randperm(len(kind), generator=rng)
        return {"x": place[:, None].float().expand(-1, 2).clone(), "kind": kind}

    def corrupt(self, batch, rng):
        return {**batch, "target": torch.zeros(len(batch["x"]), 2)}

    def losses(self, params, corrupted):
        return corrupted["x"][:, 0]


def test_only_the_share_with_the_least_loss_is_kept_of_each_task():
    tasks = make_tasks()
    replay = GeneratedReplay(6, keep=0.25).after_task(learned(tasks, 1, model=Ranked()))
    made = samples_of(replay)
    everything = Ranked().generate({}, {"kind": torch.zeros(48)}, Streams(5)["replay/generate"])["x"][:, 0]
    for task in (0, 1):
        ranks = everything[24 * task : 24 * (task + 1)]
        mine = made["x"][replay.pool.origin == task, 0]
        assert sorted(mine.tolist()) == ranks.sort().values[:6].tolist()
        assert mine.tolist() == [rank for rank in ranks.tolist() if rank in mine.tolist()]
    assert replay.pool.origin.bincount().tolist() == [6, 6]


def test_the_filter_averages_losses_over_several_corruptions():
    """A sample's loss under one noise is a poor judge: the spread of the average is that of one over root of four."""

    seen = []

    class Noisy(Ranked):
        def corrupt(self, batch, rng):
            drawn = {**batch, "target": torch.randn(len(batch["x"]), 2, generator=rng)}
            seen.append(drawn["target"])
            return drawn

        def losses(self, params, corrupted):
            return corrupted["target"][:, 0]

    replay = GeneratedReplay(5, keep=0.5).after_task(learned(make_tasks(), 0, model=Noisy()))
    assert len(seen) == 4
    best = sum(each[:, 0] for each in seen).topk(5, largest=False).indices
    made = Ranked().generate({}, {"kind": torch.zeros(10)}, Streams(5)["replay/generate"])["x"]
    assert torch.equal(samples_of(replay)["x"], made[best.sort().values])


def test_the_pool_is_made_anew_within_a_task_when_its_time_has_come():
    tasks, streams = make_tasks(), Streams(5)
    told = learned(tasks, 1, streams=streams)
    replay = GeneratedReplay(20, refresh=3).after_task(told)
    changed, now = [], replay
    for step in range(8):
        later = now.before_step(request(4, streams, tasks.distinct(2), step=step))
        if later is not now:
            changed.append(step)
            assert torch.equal(later.teacher, now.teacher)
            assert not torch.equal(samples_of(later)["x"], samples_of(now)["x"])
            assert samples_of(later)["kind"].bincount().tolist() == [20, 20]
        now = later
    assert changed == [3, 6]
    still = GeneratedReplay(20, refresh=0).after_task(told)
    assert still.before_step(request(4, streams, tasks.distinct(2), step=3)) is still
    empty = GeneratedReplay(20, refresh=1)
    assert empty.before_step(request(4, streams, (), step=1)) is empty


def test_rehearsed_samples_are_what_the_teacher_meets_when_it_does_the_task():
    asked = []

    def rehearse(name):
        def done(params, count, rng):
            asked.append((name, params["bias"].tolist(), count))
            x = torch.randn(count, 2, generator=rng)
            return {"x": x, "y": x, "kind": torch.full((count,), name)}

        return done

    first, second, _ = make_tasks()
    tasks = TaskSequence((replace(first, rehearse=rehearse(0)), replace(second, rehearse=rehearse(1))))
    layout, theta = vector(torch.float32)
    replay = GeneratedReplay(20, source="rehearsed", keep=0.8).after_task(learned(tasks, 1, theta))
    bias = layout.unflatten(theta)["bias"].tolist()
    assert asked == [(0, bias, 25), (1, bias, 25)]
    assert samples_of(replay)["kind"].bincount().tolist() == [20, 20]
    assert torch.equal(samples_of(replay)["x"], samples_of(replay)["y"])
    drawn = replay.draw(request(9))
    assert torch.equal(drawn["target"], Toy().predict(layout.unflatten(theta), drawn))


def test_rehearsal_needs_tasks_that_can_be_done():
    with pytest.raises(ValueError, match="replay by rehearsal needs tasks that can be done at will, got first, which"):
        GeneratedReplay(5, source="rehearsed").after_task(learned(make_tasks(), 0))


# All of them


@pytest.mark.parametrize(
    "replay",
    [NoReplay(), StoredReplay(), DarkReplay(), InputReplay(), GeneratedReplay(), DarkGeneratedReplay()],
    ids=lambda r: type(r).__name__,
)
def test_replay_has_nothing_before_the_first_task(replay):
    assert replay.draw(request(5, old_tasks=make_tasks().distinct(1))) is None
    assert replay.state() == {}
    assert replay.num_tasks == 0
    assert replay.restore({}).draw(request(5)) is None
    assert replay.before_step(request(5)) is replay


@pytest.mark.parametrize(
    "replay",
    [
        *(StoredReplay(4), DarkReplay(4, draws=2), InputReplay()),
        *(GeneratedReplay(4), GeneratedReplay(4, distilled=False), GeneratedReplay(4, kept=True)),
        *(DarkGeneratedReplay(4), DarkGeneratedReplay(4, keep=0.5)),
    ],
    ids=lambda r: type(r).__name__,
)
def test_a_restored_replay_draws_the_same(replay):
    tasks = make_tasks()
    full = replay.after_task(learned(tasks, 0)).after_task(learned(tasks, 1))
    again = replay.restore({key: leaf.clone() for key, leaf in full.state().items()})
    one, other = (r.draw(request(9, old_tasks=tasks.distinct(2))) for r in (full, again))
    assert again.num_tasks == full.num_tasks
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    ("one", "other", "wanted", "got"),
    [
        (GeneratedReplay(4), DarkGeneratedReplay(4), "predictions", "a teacher"),
        (GeneratedReplay(4, kept=True), DarkGeneratedReplay(4), "predictions", "a teacher"),
        (DarkGeneratedReplay(4), GeneratedReplay(4), "a teacher", "predictions"),
    ],
)
def test_a_state_of_another_replay_is_refused(one, other, wanted, got):
    state = one.after_task(learned(make_tasks(), 0)).state()
    with pytest.raises(ValueError, match=f"samples and {wanted}, got samples and {got}; resume with the method"):
        other.restore(state)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StoredReplay(0), r"memory must be >= 1 \[samples a task\], got 0"),
        (lambda: DarkReplay(0), r"memory must be >= 1"),
        (lambda: DarkReplay(draws=0), "dark_draws must be >= 1, got 0"),
        (lambda: GeneratedReplay(0), "replay_samples must be >= 1"),
        (lambda: GeneratedReplay(source="found"), "source must be one of generated, rehearsed, got 'found'"),
        (lambda: GeneratedReplay(weights="best"), "teacher must be one of ema, raw, got 'best'"),
        (lambda: GeneratedReplay(keep=0.0), r"replay_keep must be in \(0, 1\], got 0"),
        (lambda: GeneratedReplay(keep=1.1), r"replay_keep must be in \(0, 1\], got 1.1"),
        (lambda: GeneratedReplay(refresh=-1), r"replay_refresh must be >= 0 \[updates\], got -1"),
        (lambda: GeneratedReplay(refresh=5, kept=True), "replay_refresh must be 0 where .* are kept, got 5"),
        (lambda: GeneratedReplay(chunk_size=0), r"chunk_size must be >= 1 \[samples a call\], got 0"),
    ],
)
def test_unusable_replay_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
