"""Streams, layout, tasks and the optimiser, each on its own."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.continual.toy import Toy, make_batch, make_params, make_tasks, vector
from tests.continual.toy import generator as rng
from trcl_policy.continual.model import chunks, gradient, leaves, mean_loss
from trcl_policy.continual.optimizer import FlatAdam, Training
from trcl_policy.continual.params import Layout, concatenate
from trcl_policy.continual.streams import Streams, derive_seed
from trcl_policy.continual.tasks import JoinedSamples, Task, TaskSequence, TensorSamples, draw

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


def test_starts_tell_where_each_tensor_lies():
    layout, theta = vector()
    for name, leaf in layout.unflatten(theta).items():
        start = layout.starts[name]
        assert torch.equal(theta[start : start + leaf.numel()], leaf.flatten())


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


def test_clipping_shortens_to_the_largest_norm_and_leaves_short_ones_alone():
    optimizer = FlatAdam(torch.zeros(2), Training(gradient_clip=2.0))
    torch.testing.assert_close(optimizer.clipped(torch.tensor([3.0, 4.0])), torch.tensor([1.2, 1.6]))
    short = torch.tensor([0.3, 0.4])
    assert torch.equal(optimizer.clipped(short), short)
    assert torch.equal(FlatAdam(torch.zeros(2), Training(gradient_clip=0.0)).clipped(100 * short), 100 * short)


def test_a_finished_task_releases_the_average_and_keeps_the_raw_weights_until_the_next():
    optimizer = FlatAdam(torch.ones(3), Training(ema_decay=0.5))
    for step in range(3):
        optimizer.step(torch.ones(3), 0.1)
        optimizer.track(step)
    raw, average = optimizer.theta.clone(), optimizer.average.clone()
    assert optimizer.raw is None
    assert "raw" not in optimizer.state()
    optimizer.finish()
    assert torch.equal(optimizer.raw, raw)
    assert torch.equal(optimizer.theta, average)
    assert not torch.equal(raw, average)
    other = FlatAdam(torch.zeros(3), Training(ema_decay=0.5))
    other.restore(optimizer.state())
    assert torch.equal(other.raw, raw)
    optimizer.begin(torch.zeros(3))
    assert optimizer.raw is None


def test_placed_weights_move_their_average_and_leave_the_moments():
    optimizer = FlatAdam(torch.ones(3), Training(ema_decay=0.5))
    optimizer.step(torch.ones(3), 0.1)
    moment = optimizer.state()["exp_avg"].clone()
    optimizer.place(torch.full((3,), 7.0))
    assert optimizer.theta.tolist() == optimizer.released.tolist() == [7, 7, 7]
    assert torch.equal(optimizer.state()["exp_avg"], moment)
