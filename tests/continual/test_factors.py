"""Kronecker factors against single samples' gradients, and what they hold that a diagonal does not."""

import copy
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from tests.continual.test_anchor import EXACT, rng
from tests.continual.toy import method
from tests.reference import slow
from trcl_policy.continual import factors
from trcl_policy.continual.factors import kronecker_fisher, with_drawn_targets
from trcl_policy.continual.fisher import estimate
from trcl_policy.continual.gradients import Sampled
from trcl_policy.continual.kronecker import Block
from trcl_policy.continual.learner import learn
from trcl_policy.continual.optimizer import Training
from trcl_policy.continual.params import Batch, Layout, Params
from trcl_policy.continual.squares import usable_calls, watched
from trcl_policy.continual.streams import Streams
from trcl_policy.continual.tasks import Task, TaskSequence, TensorSamples


@dataclass(frozen=True)
class Regression:
    """Mean squared error of a network; ``corrupt`` draws nothing."""

    net: nn.Module
    scale: float = 1.0

    def corrupt(self, batch: Batch, rng: torch.Generator) -> Batch:
        return {"x": batch["x"], "target": batch["y"]}

    def predict(self, params: Params, corrupted: Batch) -> Tensor:
        return functional_call(self.net, dict(params), (corrupted["x"],))

    def losses(self, params: Params, corrupted: Batch) -> Tensor:
        return self.scale * (self.predict(params, corrupted) - corrupted["target"]).square().flatten(1).mean(1)


class Flat(nn.Module):
    """Two linear layers with a norm between them, and one that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm, self.twice = nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 4)
        self.down = nn.Linear(4, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(torch.tanh(self.up(x)))
        return self.down(self.twice(torch.tanh(self.twice(h))))


class Sequences(nn.Module):
    """Convolutions along a sequence down and up again, and a linear layer at each of its places."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv1d(2, 3, 3, stride=2, padding=1)
        self.mix = nn.Linear(3, 3)
        self.up = nn.ConvTranspose1d(3, 2, 4, padding=2, dilation=2, output_padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(torch.tanh(self.mix(self.down(x).mT).mT))


class Pictures(nn.Module):
    """Two convolutions of pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(2, 3, (3, 2), padding=(1, 0)), nn.Conv2d(3, 1, 3, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(torch.tanh(self.enter(x)))


NETS = {"flat": (Flat, (3,)), "sequences": (Sequences, (2, 6)), "pictures": (Pictures, (2, 5, 6))}


def sampled_of(name, count=12, chunk_size=None, scale=1.0):
    torch.manual_seed(0)
    make, shape = NETS[name]
    net = make().double()
    params = {key: leaf.detach() for key, leaf in net.named_parameters()}
    x = torch.randn(count, *shape, generator=rng(1), dtype=torch.float64) + 0.5
    corrupted = {"x": x, "target": torch.randn(net(x).shape, generator=rng(2), dtype=torch.float64)}
    layout = Layout.of(params)
    return Sampled(Regression(net, scale), layout, layout.flatten(params), corrupted, chunk_size)


@pytest.mark.parametrize("name", NETS)
def test_rows_multiply_to_the_gradient_of_each_sample(name):
    """Over a sample's places, the sum of gradients by outputs times inputs is its gradient, bias and all."""
    sampled = sampled_of(name)
    losses, params = sampled.model.losses, sampled.layout.unflatten(sampled.theta)
    starts, seen = sampled.layout.starts, set()
    usable = usable_calls(losses, params, sampled.corrupted)
    for row in range(3):
        piece = {key: leaf[row : row + 1] for key, leaf in sampled.corrupted.items()}
        wanted = slow.per_sample_gradients(sampled.model, sampled.layout, sampled.theta, piece)[0]
        for call, x, delta in watched(losses, params, piece, usable):
            block = factors._block(call, starts)
            if block is None:
                continue
            product = sum(gradients.T @ inputs for gradients, inputs in factors._rows(call, x, delta))
            torch.testing.assert_close(product, block.take(wanted), **EXACT)
            seen.add(block.start)
    assert len(seen) == {"flat": 2, "sequences": 3, "pictures": 2}[name]


@pytest.mark.parametrize("name", NETS)
def test_the_diagonal_of_a_block_has_the_exact_trace_and_other_weights_the_exact_diagonal(name):
    sampled = sampled_of(name)
    metric = kronecker_fisher(sampled, rng(3))
    drawn = with_drawn_targets(sampled, rng(3))
    exact = slow.per_sample_gradients(drawn.model, drawn.layout, drawn.theta, drawn.corrupted).square().mean(0)
    left = torch.ones_like(exact, dtype=torch.bool)
    for block, inputs, outputs in zip(metric.blocks, metric.inputs, metric.outputs, strict=True):
        trace = sum(float(exact[part].sum()) for part in block.parts)
        assert float(inputs.trace() * outputs.trace()) == pytest.approx(trace)
        for part in block.parts:
            left[part] = False
    torch.testing.assert_close(metric.values[left], exact[left], **EXACT)
    assert not metric.values[~left].any()
    assert 0 < int(left.sum()) < len(left) or name == "pictures"


def test_factors_are_second_moments_of_inputs_and_gradients():
    """The last layer by hand: its input is the hidden state, its gradient -2/O times what was drawn."""
    sampled = sampled_of("flat")
    net, count = sampled.model.net, sampled.num_samples
    metric = kronecker_fisher(sampled, rng(3))
    place = [block.start for block in metric.blocks].index(sampled.layout.starts["down.weight"])
    assert metric.blocks[place] == Block(sampled.layout.starts["down.weight"], 2, 4)
    h = net.norm(torch.tanh(net.up(sampled.corrupted["x"])))
    h = net.twice(torch.tanh(net.twice(h))).detach()
    drawn = torch.randn(count, 2, generator=rng(3), dtype=torch.float64)
    inputs, outputs = h.T @ h / count, drawn.T @ drawn / count  # of -2/O (prediction - target) = drawn, with O = 2
    torch.testing.assert_close(metric.inputs[place], inputs, **EXACT)
    scale = metric.outputs[place].trace() / outputs.trace()
    torch.testing.assert_close(metric.outputs[place], scale * outputs, **EXACT)


def test_a_layer_used_twice_or_too_wide_keeps_its_diagonal(monkeypatch):
    sampled = sampled_of("flat")
    found = kronecker_fisher(sampled, rng(3))
    assert {block.start for block in found.blocks} == {
        sampled.layout.starts[key] for key in ("up.weight", "down.weight")
    }
    monkeypatch.setattr(factors, "WIDEST", 3)
    assert kronecker_fisher(sampled, rng(3)).blocks == ()
    monkeypatch.setattr(factors, "WIDEST", 4)
    assert len(kronecker_fisher(sampled, rng(3)).blocks) == 2


class Moody(Flat):
    """Takes another function for its last layer where more than three samples come."""

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.up(x))
        return self.down(h) if len(x) <= 3 else h @ self.down.weight.T


def test_a_network_that_goes_other_ways_with_many_samples_keeps_its_diagonal(monkeypatch):
    monkeypatch.setitem(NETS, "moody", (Moody, (3,)))
    sampled = sampled_of("moody")
    found, drawn = kronecker_fisher(sampled, rng(3)), with_drawn_targets(sampled, rng(3))
    assert found.blocks == ()
    torch.testing.assert_close(found.values, drawn.mean_squares(), **EXACT)


@pytest.mark.parametrize("name", NETS)
def test_chunks_change_rounding_only(name, monkeypatch):
    whole = sampled_of(name)
    one = kronecker_fisher(whole, rng(3))
    monkeypatch.setattr(factors, "LONG", 1)
    other = kronecker_fisher(sampled_of(name, chunk_size=5), rng(3))
    size = whole.layout.size
    torch.testing.assert_close(slow.dense(one, size), slow.dense(other, size), **EXACT)


def test_the_datas_own_targets_do_not_count():
    sampled = sampled_of("flat")
    moved = replace(sampled, corrupted={**sampled.corrupted, "target": sampled.corrupted["target"] + 5})
    one, other = (slow.dense(kronecker_fisher(each, rng(3)), sampled.layout.size) for each in (sampled, moved))
    assert torch.equal(one, other)


def test_drawn_targets_lie_around_the_predictions():
    sampled = sampled_of("flat", count=4000)
    drawn = with_drawn_targets(sampled, rng(3))
    params = sampled.layout.unflatten(sampled.theta)
    rest = drawn.corrupted["target"] - sampled.model.predict(params, sampled.corrupted)
    assert abs(float(rest.mean())) < 0.05
    assert float(rest.square().mean()) == pytest.approx(1, abs=0.05)
    assert set(drawn.corrupted) == set(sampled.corrupted)
    assert torch.equal(drawn.corrupted["x"], sampled.corrupted["x"])


def test_in_curvature_units_the_metric_of_a_linear_layer_is_its_hessian():
    """Of a mean squared error: 2/O I (x) E[x x'], which a diagonal can't be. c is a mean over random directions."""
    torch.manual_seed(0)
    net = nn.Linear(3, 2).double()
    params = {key: leaf.detach() for key, leaf in net.named_parameters()}
    mixing = torch.tensor([[1.0, 0.9, 0.0], [0.0, 0.4, 0.3], [0.0, 0.0, 1.0]]).double()
    x = torch.randn(4000, 3, generator=rng(1), dtype=torch.float64) @ mixing
    sampled = Sampled(
        Regression(net), Layout.of(params), Layout.of(params).flatten(params), {"x": x, "target": 0 * x[:, :2]}
    )
    exact = slow.hessian(sampled.model, sampled.layout, sampled.theta, sampled.corrupted)

    def likeness(kind):
        found = estimate(kind, sampled, rng(5))
        return float(
            torch.nn.functional.cosine_similarity(slow.dense(found.metric, 8).flatten(), exact.flatten(), dim=0)
        )

    assert likeness("kronecker") > 0.995
    assert likeness("diagonal") < 0.9
    found = estimate("kronecker", sampled, rng(5))
    assert found.curvature_ratio * found.metric.trace() == pytest.approx(float(exact.trace()), rel=0.5)


def task_of(number, seed):
    """Inputs along a plane of their own, so that one linear map can do both tasks."""
    mixing = torch.randn(2, 4, generator=rng(seed + 50), dtype=torch.float64)
    x = torch.randn(400, 2, generator=rng(seed), dtype=torch.float64) @ mixing
    y = x @ torch.randn(4, 2, generator=rng(seed + 90), dtype=torch.float64)
    return Task(f"task-{number}", TensorSamples({"x": x, "y": y}), {}, TensorSamples({"x": x, "y": y}))


def test_without_replay_a_linear_map_keeps_what_a_diagonal_forgets():
    """Every input is used by both tasks, in other combinations: only the products know which ones are free."""
    torch.manual_seed(0)
    net = nn.Linear(4, 2).double()
    params = {key: leaf.detach() for key, leaf in net.named_parameters()}
    tasks = TaskSequence((task_of(0, 1), task_of(1, 2)))
    training = Training(steps=400, batch_size=64, learning_rate=0.02, weight_decay=0.0)

    def losses(name):
        model = Regression(copy.deepcopy(net))
        snapshots = list(learn(model, params, tasks, method(name, weight=10.0), training, Streams(3), 10**6))
        told = snapshots[-1].theta
        layout = Layout.of(params)
        return [
            float(
                model.losses(
                    layout.unflatten(told), model.corrupt(task.samples.gather(torch.arange(400)), rng())
                ).mean()
            )
            for task in tasks
        ]

    kept, forgotten = losses("ewc_kfac"), losses("ewc")
    assert max(kept) < 0.05
    assert forgotten[0] > 5 * max(kept)
