"""Streams, layout, tasks, replay, updates and the optimiser, each on its own."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.continual.toy import Toy, make_batch, make_params, make_task, make_tasks, vector
from trcl_policy.continual.anchor import Learned, NoAnchor
from trcl_policy.continual.model import chunks, gradient, leaves, mean_loss
from trcl_policy.continual.optimizer import FlatAdam, Training
from trcl_policy.continual.params import Layout, concatenate
from trcl_policy.continual.replay import GeneratedReplay, StoredReplay
from trcl_policy.continual.streams import Streams, derive_seed
from trcl_policy.continual.tasks import JoinedSamples, Task, TaskSequence, TensorSamples, draw
from trcl_policy.continual.update import Gradients, Projected


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def learned(tasks, index, theta=None, streams=None, model=None):
    layout, start = vector(torch.float32)
    old = tasks.distinct(index + 1)
    return Learned(
        task=tasks[index],
        task_index=index,
        old_tasks=old,
        revisited=len(old) == len(tasks.distinct(index)),
        model=model or Toy(),
        layout=layout,
        theta=start if theta is None else theta,
        streams=streams or Streams(5),
    )


# Streams


def test_seeds_are_the_same_on_every_machine():
    assert derive_seed(0, "a") == 4174393671465045295
    assert derive_seed("a", 0) == 254793846489052248
    assert derive_seed() == 724655455495936113


def test_seeds_fit_63_bits_and_depend_on_every_part():
    found = {derive_seed(*parts) for parts in [(0,), (1,), (0, 1), (1, 0), ("01",), (0, "1", ""), ("", 0, 1)]}
    assert len(found) == 7
    assert all(0 <= seed < 2**63 for seed in found)


def test_a_draw_from_one_stream_changes_no_other():
    alone = torch.rand(4, generator=Streams(1)["b"])
    streams = Streams(1)
    first = torch.rand(4, generator=streams["a"])
    assert torch.equal(torch.rand(4, generator=streams["b"]), alone)
    assert not torch.equal(first, alone)
    assert not torch.equal(torch.rand(4, generator=streams["b"]), alone)
    assert not torch.equal(torch.rand(4, generator=Streams(2)["b"]), alone)


def test_restored_streams_go_on_and_others_start_anew():
    streams = Streams(1)
    torch.rand(3, generator=streams["a"])
    state = streams.state()
    wanted = torch.rand(3, generator=streams["a"])
    other = Streams(1)
    torch.rand(5, generator=other["b"])
    other.restore(state)
    assert torch.equal(torch.rand(3, generator=other["a"]), wanted)
    assert torch.equal(torch.rand(3, generator=other["b"]), torch.rand(3, generator=Streams(1)["b"]))
    other.restore(state)
    assert torch.equal(torch.rand(3, generator=other["a"]), wanted)


# Layout, gradients


@given(shapes=st.lists(st.lists(st.integers(1, 3), max_size=3), min_size=1, max_size=4))
def test_flatten_and_unflatten_undo_each_other(shapes):
    params = {f"p{n}": torch.randn(shape, generator=rng(n)) for n, shape in enumerate(shapes)}
    layout = Layout.of(params)
    flat = layout.flatten(params)
    assert flat.shape == (layout.size,)
    back = layout.unflatten(flat)
    assert tuple(back) == layout.names
    assert all(torch.equal(back[name], params[name]) for name in params)
    rows = {name: torch.stack([leaf, 2 * leaf]) for name, leaf in params.items()}
    assert torch.equal(layout.flatten_rows(rows), torch.stack([flat, 2 * flat]))


def test_unflattened_tensors_are_views_and_flattened_ones_a_copy():
    layout, theta = vector()
    views = layout.unflatten(theta)
    views["out"].zero_()
    assert (theta == 0).sum() == 10
    copied = layout.flatten(views)
    copied.zero_()
    assert theta.any()


def test_a_layout_refuses_other_names_and_sizes():
    layout, theta = vector()
    with pytest.raises(ValueError, match=r"params must have the names \('in', 'where', 'out', 'bias'\), got"):
        layout.flatten(dict(reversed(layout.unflatten(theta).items())))
    with pytest.raises(ValueError, match=r"vector must have shape \(32,\), got \(31,\)"):
        layout.unflatten(theta[1:])


def test_gradient_fills_zeros_where_the_loss_does_not_reach():
    layout = Layout.of({"a": torch.zeros(2), "unused": torch.zeros(3), "b": torch.zeros(1)})
    theta = torch.arange(6.0)
    params = leaves(layout, theta)
    loss = (params["a"].square().sum() + 3 * params["b"]).sum()
    assert gradient(loss, params, layout).tolist() == [0, 2, 0, 0, 0, 3]


def test_leaves_follow_the_vector():
    layout, theta = vector()
    params = leaves(layout, theta)
    theta.mul_(2)
    assert torch.equal(params["bias"].detach(), theta[-2:])
    assert all(leaf.requires_grad and leaf.is_leaf for leaf in params.values())


def test_mean_loss_does_not_depend_on_its_chunks():
    batch = Toy().corrupt(make_batch((0, 1), 10, 1, torch.float64), rng())
    params = make_params(torch.float64)
    exact = float(Toy().losses(params, batch).mean())
    assert mean_loss(Toy(), params, batch, chunk_size=3) == pytest.approx(exact, rel=1e-14)
    assert [len(piece["x"]) for piece in chunks(batch, 4)] == [4, 4, 2]


# Tasks


def numbers(*values):
    return TensorSamples({"x": torch.tensor(values), "y": 10 * torch.tensor(values)})


def test_joined_samples_come_in_the_order_asked_for():
    joined = JoinedSamples([numbers(0, 1, 2), numbers(3), numbers(4, 5)])
    assert len(joined) == 6
    index = torch.tensor([5, 0, 3, 3, 4, 2, 1, 5])
    found = joined.gather(index)
    assert torch.equal(found["x"], index)
    assert torch.equal(found["y"], 10 * index)
    assert joined.gather(torch.tensor([4]))["x"].tolist() == [4]


def test_draws_are_uniform_and_with_replacement():
    found = draw(numbers(0, 1, 2, 3), 4000, rng())["x"].bincount()
    assert found.min() > 880
    assert found.max() < 1120


def test_samples_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match=r"samples must have one length, got \{'x': 2, 'y': 3\}"):
        TensorSamples({"x": torch.zeros(2), "y": torch.zeros(3)})


def test_a_task_met_twice_counts_once_in_order_of_first_meeting():
    a, b, c = make_tasks()
    again = Task("a#2", a.samples, a.condition, a.held_out)
    tasks = TaskSequence((b, a, b, again, c))
    assert [task.name for task in tasks.distinct(5)] == [b.name, a.name, c.name]
    assert [task.name for task in tasks.distinct(4)] == [b.name, a.name]
    assert tasks.distinct(0) == ()
    assert len(tasks.merged()[0].samples) == 120


def test_merged_holds_all_samples_conditions_and_held_out_samples():
    tasks = make_tasks()
    (joint,) = tasks.merged()
    assert joint.name == "joint"
    assert len(joint.samples) == 40 + 30 + 50
    every = joint.samples.gather(torch.arange(120))
    wanted = concatenate([task.samples.batch for task in tasks])
    assert all(torch.equal(every[key], wanted[key]) for key in wanted)
    assert joint.condition["kind"].tolist() == [0, 1, 0, 1]
    assert len(joint.held_out) == 48
    bare = TaskSequence(tuple(Task(t.name, t.samples, t.condition) for t in tasks))
    assert bare.merged()[0].held_out is None


def test_an_empty_sequence_is_refused():
    with pytest.raises(ValueError, match="at least one task"):
        TaskSequence(())


def test_conditions_are_drawn_uniformly():
    found = make_tasks()[2].conditions(2000, rng())["kind"].bincount()
    assert abs(int(found[0]) - 1000) < 120


# Replay


def test_stored_replay_keeps_exactly_n_real_samples_of_every_task():
    tasks, replay, streams = make_tasks(), StoredReplay(10), Streams(5)
    for index in range(3):
        replay = replay.after_task(learned(tasks, index, streams=streams))
        assert len(replay.pool["x"]) == 10 * (index + 1)
        kept, whole = replay.pool["x"][-10:], tasks[index].samples.batch["x"]
        matches = (kept[:, None] == whole[None]).all(2)
        assert matches.sum(1).tolist() == [1] * 10
        assert len({int(row.nonzero()) for row in matches}) == 10


def test_stored_replay_keeps_a_task_met_twice_once():
    a, b, _ = make_tasks()
    tasks, replay = TaskSequence((a, b, Task("first#2", a.samples, a.condition), a)), StoredReplay(10)
    for index in range(4):
        replay = replay.after_task(learned(tasks, index))
    assert len(replay.pool["x"]) == 20


def test_stored_replay_keeps_all_of_a_small_task():
    tasks = TaskSequence((make_task("small", (0,), 4, 0),))
    assert len(StoredReplay(10).after_task(learned(tasks, 0)).pool["x"]) == 4


def test_stored_replay_draws_all_kept_samples_with_new_noise():
    tasks, streams = make_tasks(), Streams(5)
    replay = StoredReplay(10).after_task(learned(tasks, 0)).after_task(learned(tasks, 1))
    layout, _ = vector(torch.float32)
    found = replay.draw(Toy(), layout, 4000, streams)
    assert abs(int((found["kind"] == 0).sum()) - 2000) < 150
    again = replay.draw(Toy(), layout, 4000, streams)
    assert not torch.equal(found["x"], again["x"])
    assert StoredReplay(10).draw(Toy(), layout, 5, streams) is None


def test_generated_replay_holds_equally_many_samples_of_every_task_seen():
    tasks, replay = make_tasks(), GeneratedReplay(20, chunk_size=7)
    for index, counts in enumerate([[20], [20, 20]]):
        replay = replay.after_task(learned(tasks, index))
        assert replay.pool["kind"].bincount().tolist() == counts
    replay = replay.after_task(learned(tasks, 2))
    assert len(replay.pool["x"]) == 60
    assert len(replay.pool["x"].unique(dim=0)) == 60


def test_generated_replay_makes_its_pool_anew_with_the_latest_model():
    tasks, streams = make_tasks(), Streams(5)
    layout, theta = vector(torch.float32)
    one = GeneratedReplay(20).after_task(learned(tasks, 0, theta, streams))
    later = 2 * theta
    two = one.after_task(learned(tasks, 1, later, streams))
    assert torch.equal(two.teacher, later)
    assert two.teacher.data_ptr() != later.data_ptr()
    assert not torch.equal(one.pool["x"][:20], two.pool["x"][:20])
    made = Toy().predict(layout.unflatten(later), two.pool)
    torch.testing.assert_close(made, two.pool["y"])


def test_generating_in_chunks_makes_every_sample_once_in_order():
    class Counter(Toy):
        def generate(self, params, condition, rng):
            return {"x": condition["kind"].float()[:, None].expand(-1, 2), "kind": condition["kind"]}

    tasks = make_tasks()
    pools = [GeneratedReplay(9, chunk_size=c).after_task(learned(tasks, 2, model=Counter())).pool for c in (2, 100)]
    assert torch.equal(pools[0]["kind"], pools[1]["kind"])
    assert torch.equal(pools[0]["x"], pools[1]["x"])


def test_distilled_targets_are_the_teachers_and_plain_ones_are_drawn():
    told = learned(make_tasks(), 0)
    distilled, plain = (GeneratedReplay(20, distill=d).after_task(told) for d in (True, False))
    plain = plain.restore(distilled.state())
    layout, theta = vector(torch.float32)
    one, other = distilled.draw(Toy(), layout, 15, Streams(1)), plain.draw(Toy(), layout, 15, Streams(1))
    assert torch.equal(one["x"], other["x"])
    assert torch.equal(one["target"], Toy().predict(layout.unflatten(theta), one))
    assert not torch.allclose(one["target"], other["target"])
    assert float(Toy().losses(layout.unflatten(theta), one).sum()) == 0
    assert not one["target"].requires_grad


def test_replay_has_nothing_before_the_first_task():
    layout, _ = vector(torch.float32)
    assert GeneratedReplay().draw(Toy(), layout, 5, Streams(1)) is None
    assert GeneratedReplay().state() == {}
    assert GeneratedReplay().restore({}).teacher is None
    with pytest.raises(ValueError, match="chunk_size must be >= 1"):
        GeneratedReplay(chunk_size=0)


# Updates


@given(seed=st.integers(0, 10**6), size=st.integers(1, 12))
def test_projected_direction_never_raises_the_old_loss(seed, size):
    new, old = (torch.randn(size, generator=rng(seed + k), dtype=torch.float64) for k in (0, 10**7))
    found = Projected().direction(Gradients(new, old), new, NoAnchor())
    assert float(found @ old) >= -1e-12
    if float(new @ old) >= 0:
        assert found is new
    else:
        assert float(found @ old) == pytest.approx(0, abs=1e-12)
        nearest = new - (new @ old) / (old @ old) * old
        torch.testing.assert_close(found, nearest)
        assert float((new - found).norm()) <= float((new - 0 * new).norm()) + 1e-12


# Optimiser


def test_steps_equal_torchs_adamw_and_a_hand_written_average():
    training = Training(weight_decay=0.1, gradient_clip=0.8, ema_decay=0.6)
    start, slow = torch.randn(5, generator=rng()), torch.randn(5, generator=rng()).requires_grad_()
    ours, theirs = FlatAdam(start, training), torch.optim.AdamW([slow], weight_decay=0.1)
    average, clipped = start.clone(), 0
    for step in range(12):
        grad = torch.randn(5, generator=rng(step)) * 0.3 * (step % 4)
        norm = ours.step(grad, 0.01 * (step + 1))
        slow.grad = grad.clone()
        total = torch.nn.utils.clip_grad_norm_([slow], 0.8)
        theirs.param_groups[0]["lr"] = 0.01 * (step + 1)
        theirs.step()
        ours.track(step)
        decay = min(0.6, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * slow.detach()
        torch.testing.assert_close(norm, total)
        torch.testing.assert_close(ours.theta, slow.detach(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(ours.released, average, rtol=1e-5, atol=1e-6)
        clipped += float(total) > 0.8
    assert 0 < clipped < 12


def test_the_optimiser_copies_the_first_weights_and_leaves_gradients_alone():
    start, grad = torch.ones(3), torch.full((3,), 9.0)
    optimizer = FlatAdam(start, Training(gradient_clip=1.0))
    optimizer.step(grad, 0.1)
    assert start.tolist() == [1, 1, 1]
    assert grad.tolist() == [9, 9, 9]


@pytest.mark.parametrize("keep", [True, False])
def test_moments_are_kept_over_tasks_only_if_asked(keep):
    optimizer = FlatAdam(torch.ones(3), Training(keep_optimizer=keep))
    optimizer.step(torch.ones(3), 0.1)
    optimizer.begin(torch.zeros(3))
    assert optimizer.theta.tolist() == [0, 0, 0]
    assert optimizer.average.tolist() == [0, 0, 0]
    assert ("exp_avg" in optimizer.state()) is keep


def test_rates_warm_up_and_fall_as_a_cosine():
    training = Training(learning_rate=0.2, warmup=4, schedule="cosine")
    for step in range(20):
        wanted = 0.2 * min(1, (step + 1) / 4) * (1 + math.cos(math.pi * step / 20)) / 2
        assert training.rate_at(step, 20) == pytest.approx(wanted)
    assert training.rate_at(19, 20) < 0.01 * 0.2
    constant = Training(learning_rate=0.2, warmup=0, schedule="constant")
    assert {constant.rate_at(step, 20) for step in range(20)} == {0.2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": "linear"}, "schedule must be one of cosine, constant, got 'linear'"),
        ({"steps": 0}, "steps must be >= 1, got 0"),
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be > 0, got 0"),
        ({"warmup": -1}, "warmup must be >= 0, got -1"),
        ({"gradient_clip": -1.0}, "gradient_clip must be >= 0, got -1"),
        ({"weight_decay": -1.0}, "weight_decay must be >= 0, got -1"),
        ({"ema_decay": 1.0}, r"ema_decay must be in \[0, 1\), got 1"),
    ],
)
def test_unusable_training_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Training(**changes)
