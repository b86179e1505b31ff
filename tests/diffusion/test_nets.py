"""Networks: shapes, per-sample gradients, size, and that they learn."""

import pytest
import torch
from torch.func import functional_call, grad, vmap

from trcl_policy.diffusion.denoiser import Denoiser
from trcl_policy.diffusion.nets import ConditionalUnet1d, FourierFeatures, ResidualMLP
from trcl_policy.diffusion.process import Diffusion, Process

SIZES = (3, 8)  # observation, 4 actions of 2 numbers


def mlp():
    return ResidualMLP(SIZES, 2, width=32, depth=2, condition_dim=16)


def unet():
    return ConditionalUnet1d(SIZES, 2, 4, channels=(16, 32), kernel=3, attention_levels=1, condition_dim=16)


NETS = {"mlp": mlp, "unet": unet}


def build(name):
    torch.manual_seed(0)
    return NETS[name]()


def inputs(count=5):
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(count, sum(SIZES), generator=rng)
    return x, torch.rand(count, 2, generator=rng), torch.arange(count) % 2


@pytest.mark.parametrize("name", NETS)
def test_every_input_and_every_weight_matters(name):
    net, (x, level, task) = build(name), inputs()
    x.requires_grad_(True)
    level.requires_grad_(True)
    output = net(x, level, task)
    assert output.shape == x.shape
    output.square().sum().backward()
    assert (x.grad != 0).all()
    assert (level.grad != 0).all()
    assert all(p.grad is not None and (p.grad != 0).any() for p in net.parameters())
    assert not torch.allclose(net(x, level, 1 - task), output)


@pytest.mark.parametrize("name", NETS)
def test_vmapped_gradients_equal_a_loop(name):
    net, (x, level, task) = build(name), inputs()
    params = {key: p.detach() for key, p in net.named_parameters()}

    def loss(weights, row, noise, index):
        return functional_call(net, weights, (row[None], noise[None], index[None])).square().sum()

    together = vmap(grad(loss), in_dims=(None, 0, 0, 0))(params, x, level, task)
    for row in range(len(x)):
        alone = grad(loss)(params, x[row], level[row], task[row])
        for key in params:
            torch.testing.assert_close(together[key][row], alone[key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETS)
def test_rows_do_not_mix(name):
    net, (x, level, task) = build(name), inputs()
    whole, alone = net(x, level, task), net(x[2:3], level[2:3], task[2:3])
    torch.testing.assert_close(whole[2:3], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["mlp", pytest.param("unet", marks=pytest.mark.slow)])
def test_a_distribution_with_two_modes_is_learned(name):
    net = build(name)
    model = Denoiser(net, Process(Diffusion(num_train_timesteps=20, replay_steps=10)), {"o": 3, "a": 8}, ("task",))
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    rng = torch.Generator().manual_seed(2)

    def draw(count):
        sign = torch.randint(2, (count, 1), generator=rng) * 2.0 - 1
        o, a = 0.7 * sign + 0.05 * torch.randn(count, 3, generator=rng), -0.7 * sign.expand(count, 8)
        return {"o": o, "a": a, "task": torch.zeros(count, dtype=torch.long)}

    params = dict(net.named_parameters())
    for _ in range(400):
        loss = model.losses(params, model.corrupt(draw(128), rng)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    made = model.generate(params, {"task": torch.zeros(400, dtype=torch.long)}, rng)
    sign = made["o"].mean(1).sign()
    assert 0.3 < (sign > 0).float().mean() < 0.7
    near = (made["a"] + 0.7 * sign[:, None]).abs().amax(1) < 0.25
    assert near.float().mean() > 0.9
    assert ((made["o"] - 0.7 * sign[:, None]).abs().amax(1) < 0.35).float().mean() > 0.9


def test_paper_network_has_the_published_size():
    with torch.device("meta"):
        net = ConditionalUnet1d((6 * 39, 8 * 4), 10, 8, condition_dim=640)
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(83.27e6, rel=0.01)


def test_horizon_must_divide():
    with pytest.raises(ValueError, match="horizon must be divisible by 4 for 3 levels, got 6"):
        ConditionalUnet1d((3, 12), 2, 6, channels=(8, 16, 32))


def test_features_are_bounded_and_distinct():
    features = FourierFeatures(32)(torch.tensor([[0.0, 0.5], [0.01, 0.5]]))
    assert features.shape == (2, 64)
    assert features.abs().max() <= 1
    assert not torch.allclose(features[0, :32], features[1, :32], atol=1e-2)
    assert torch.equal(features[0, 32:], features[1, 32:])
