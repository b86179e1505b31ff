"""Losses against a slow float64 reference; parts that are given stay as they are."""

import pytest
import torch
from torch import nn

from trcl_policy.continual.anchor import FisherAnchor
from trcl_policy.continual.fisher import ESTIMATORS
from trcl_policy.continual.params import Layout
from trcl_policy.continual.past import Learned
from trcl_policy.continual.streams import Streams
from trcl_policy.continual.tasks import Task, TensorSamples
from trcl_policy.diffusion.denoiser import Denoiser
from trcl_policy.diffusion.nets import ResidualMLP
from trcl_policy.diffusion.process import Diffusion, Process

PARTS = {"observation": 3, "action": 4}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make(**diffusion):
    torch.manual_seed(0)
    net = ResidualMLP(tuple(PARTS.values()), 2, width=16, depth=1, condition_dim=8)
    model = Denoiser(net, Process(Diffusion(**diffusion)), PARTS, ("task",))
    return model, {name: p.detach() for name, p in net.named_parameters()}


def batch(count=6):
    rng = generator(3)
    leaves = {name: torch.randn(count, size, generator=rng) for name, size in PARTS.items()}
    return {**leaves, "task": torch.arange(count) % 2}


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
@pytest.mark.parametrize("weighting", ["snr", "uniform"])
def test_losses_equal_a_slow_reference(prediction, weighting):
    model, params = make(prediction=prediction, weighting=weighting)
    level = torch.tensor([[5, 60], [0, 30], [99, 0], [1, 100], [0, 0], [40, 40]])
    model.draw_levels = lambda count, rng: level
    data = batch()
    corrupted = model.corrupt(data, generator(7))
    losses = model.losses(params, corrupted)
    noise = torch.randn(6, 7, generator=generator(7)).double()
    output = model.predict(params, corrupted).double()
    table, weights = model.process.alpha_bar.double(), model.process.weights.double()
    for row in range(6):
        total, noisy_parts, place = 0.0, int((level[row] > 0).sum()), 0
        for part, (name, size) in enumerate(PARTS.items()):
            share, errors = table[level[row, part]], 0.0
            for column in range(size):
                clean, eps = data[name][row, column].double(), noise[row, place]
                velocity = share.sqrt() * eps - (1 - share).sqrt() * clean
                target = {"epsilon": eps, "x0": clean, "v": velocity}[prediction]
                noisy = share.sqrt() * clean + (1 - share).sqrt() * eps
                torch.testing.assert_close(corrupted["noisy"][row, place].double(), noisy, rtol=1e-5, atol=1e-6)
                errors += (output[row, place] - target) ** 2 / size
                place += 1
            total += errors * weights[level[row, part]] / max(noisy_parts, 1)
        torch.testing.assert_close(losses[row].double(), torch.as_tensor(total).double(), rtol=1e-5, atol=1e-6)
    assert losses[4] == 0


def test_losses_are_pure():
    model, params = make()
    corrupted = model.corrupt(batch(), generator())
    before = {key: leaf.clone() for key, leaf in corrupted.items()}
    torch.manual_seed(5)
    first = model.losses(params, corrupted)
    torch.manual_seed(6)
    assert torch.equal(model.losses(params, corrupted), first)
    assert all(torch.equal(before[key], corrupted[key]) for key in before)


def test_a_given_part_stays_and_weighs_nothing():
    model, params = make()
    model.draw_levels = lambda count, rng: torch.tensor([[0, 50]]).expand(count, 2)
    data = batch()
    corrupted = model.corrupt(data, generator())
    assert torch.equal(corrupted["noisy"][:, :3], data["observation"])
    assert torch.equal(corrupted["weight"], torch.tensor([[0.0, 1.0]]).expand(6, 2))
    given = {"observation": data["observation"]}
    made = model.sample(params, {"task": data["task"]}, given, torch.randn(6, 4, generator=generator()), 3, generator())
    assert torch.equal(made["observation"], data["observation"])
    assert made["action"].shape == (6, 4)
    other = {"observation": data["observation"] + 1}
    again = model.sample(
        params, {"task": data["task"]}, other, torch.randn(6, 4, generator=generator()), 3, generator()
    )
    assert not torch.allclose(again["action"], made["action"])


class Levels(nn.Module):
    """Answers with its noise levels, to see which ones a sampler asks for."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.seen = []

    def forward(self, x, level, task):
        self.seen.append(level.clone())
        return x * self.scale


@pytest.mark.parametrize("given", [{}, {"observation": torch.zeros(2, 3)}, {"action": torch.zeros(2, 4)}])
def test_samplers_hold_given_parts_at_level_zero(given):
    net = Levels()
    model = Denoiser(net, Process(Diffusion()), PARTS, ("task",))
    free = sum(size for name, size in PARTS.items() if name not in given)
    model.sample({"scale": net.scale}, {"task": torch.zeros(2)}, given, torch.randn(2, free), 4, generator())
    seen = torch.stack(net.seen)
    for column, name in enumerate(PARTS):
        wanted = torch.zeros(4) if name in given else torch.tensor([1.0, 0.75, 0.5, 0.25])
        torch.testing.assert_close(seen[:, 0, column], wanted)


def test_generate_makes_all_parts_and_follows_its_stream():
    model, params = make()
    condition = {"task": torch.tensor([0, 1, 1])}
    made = model.generate(params, condition, generator(1))
    assert {key: tuple(leaf.shape) for key, leaf in made.items()} == {
        "observation": (3, 3),
        "action": (3, 4),
        "task": (3,),
    }
    again = model.generate(params, condition, generator(1))
    other = model.generate(params, condition, generator(2))
    assert all(torch.equal(made[key], again[key]) for key in made)
    assert not torch.allclose(made["action"], other["action"])


def test_levels_are_uniform_and_shared():
    model, _ = make()
    level = model.draw_levels(20000, generator())
    assert torch.equal(level[:, 0], level[:, 1])
    counts = torch.bincount(level[:, 0], minlength=101)
    assert counts[0] == 0
    assert counts[1:].min() > 120
    assert len(counts) == 101


def test_bf16_keeps_weights_and_losses_in_fp32():
    model, params = make()
    half = Denoiser(model.net, model.process, PARTS, ("task",), precision="bf16")
    corrupted = model.corrupt(batch(), generator())
    losses = half.losses(params, corrupted)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, model.losses(params, corrupted), rtol=0.05, atol=0.02)
    assert not torch.equal(losses, model.losses(params, corrupted))
    with pytest.raises(ValueError, match="precision must be one of fp32, bf16, got 'fp16'"):
        Denoiser(model.net, model.process, PARTS, ("task",), precision="fp16")


@pytest.mark.slow
def test_compiled_network_gives_the_same_losses_and_fisher_gradients():
    from trcl_policy.continual.fisher import per_sample_gradients
    from trcl_policy.continual.params import Layout

    model, params = make()
    compiled = Denoiser(model.net, model.process, PARTS, ("task",), compile=True)
    corrupted = model.corrupt(batch(), generator())
    torch.testing.assert_close(compiled.losses(params, corrupted), model.losses(params, corrupted))
    layout = Layout.of(params)
    theta = layout.flatten(params)
    rows = [torch.cat(list(per_sample_gradients(m, layout, theta, corrupted))) for m in (model, compiled)]
    torch.testing.assert_close(rows[0], rows[1])


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_anchors_of_a_half_precision_model_are_measured_in_full_precision(kind):
    model, params = make()
    half = Denoiser(model.net, model.process, PARTS, ("task",), precision="bf16")
    task = Task("first", TensorSamples(batch(40)), {"task": torch.tensor([0])})
    layout, found = Layout.of(params), []
    theta = layout.flatten(params)
    for one in (model, half):
        learned = Learned(task, 0, (task,), False, one, layout, theta, Streams(3))
        found.append(FisherAnchor(kind, num_samples=24, rank=3).after_task(learned))
    moved = theta + 0.1 * torch.randn(len(theta), generator=generator(5))
    assert torch.equal(found[0].value(moved), found[1].value(moved))
    assert half.precision == "bf16"
