"""The 2-D U-Net: rows stay apart, per-sample gradients, sizes."""

import warnings

import pytest
import torch
from torch.func import functional_call, grad, vmap

from tests.reference import slow
from trcl_policy.continual.gradients import Sampled
from trcl_policy.continual.params import Layout
from trcl_policy.diffusion.unet2d import Unet2d

SMALL = {"channels": (8, 16), "layers_per_block": 1, "attention_at": (1,), "norm_groups": 4}


def build(dtype=torch.float32, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Unet2d((1, 8, 8), 3, **{**SMALL, **options}).to(dtype)
        with torch.no_grad():
            for leaf in net.parameters():
                leaf += 0.1 * torch.randn_like(leaf)
    return net


def inputs(count=4, dtype=torch.float32):
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(count, 64, generator=rng, dtype=dtype)
    return x, torch.rand(count, 1, generator=rng, dtype=dtype), torch.arange(count) % 3


def test_every_input_and_every_weight_matters():
    net, (x, level, label) = build(), inputs()
    x.requires_grad_(True)
    level.requires_grad_(True)
    output = net(x, level, label)
    assert output.shape == x.shape
    output.square().sum().backward()
    assert (x.grad != 0).all()
    assert (level.grad != 0).all()
    assert all(p.grad is not None and (p.grad != 0).any() for p in net.parameters())
    assert not torch.allclose(net(x, level, (label + 1) % 3), output, atol=1e-3)


def test_rows_do_not_mix():
    net, (x, level, label) = build(), inputs()
    torch.testing.assert_close(net(x, level, label)[2:3], net(x[2:3], level[2:3], label[2:3]), rtol=1e-5, atol=1e-6)


def test_vmapped_gradients_equal_a_loop():
    """With attention at two levels; fused attention has no batching rule, so it would warn and run row by row."""
    net, rows = build(attention_at=(0, 1)), inputs()
    params = {key: p.detach() for key, p in net.named_parameters()}

    def loss(weights, x, level, label):
        return functional_call(net, weights, (x[None], level[None], label[None])).square().mean()

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*batching rule.*")
        together = vmap(grad(loss), in_dims=(None, 0, 0, 0))(params, *rows)
    layout = Layout.of(params)
    for row in range(len(rows[0])):
        alone = layout.flatten(grad(loss)(params, *(leaf[row] for leaf in rows)))
        mine = layout.flatten({key: leaf[row] for key, leaf in together.items()})
        assert float((mine - alone).norm() / alone.norm()) < 5e-6


def test_fast_squares_equal_single_backward_passes():
    net, (x, level, label) = build(torch.float64), inputs(dtype=torch.float64)

    class Model:
        def losses(self, params, corrupted):
            output = functional_call(net, dict(params), tuple(corrupted[key] for key in ("x", "level", "label")))
            return output.sin().sum(1) ** 2

    params = {key: p.detach() for key, p in net.named_parameters()}
    layout = Layout.of(params)
    corrupted = {"x": x, "level": level, "label": label}
    given = Sampled(Model(), layout, layout.flatten(params), corrupted)
    wanted = slow.per_sample_gradients(given.model, layout, given.theta, corrupted).square().mean(0)
    # diffusers computes the sinusoidal embedding in float32 whatever the network's precision
    torch.testing.assert_close(given.mean_squares(), wanted, rtol=1e-8, atol=1e-12 * float(wanted.max()))


def test_the_published_size_is_met():
    """32 x 32, 128/256/256/256, 500 classes: 37.45 M parameters."""
    with torch.device("meta"):
        net = Unet2d((3, 32, 32), 500, (128, 256, 256, 256), resampling="resnet")
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(37.45e6, abs=0.005e6)


@pytest.mark.parametrize(
    ("shape", "changes", "message"),
    [
        ((1, 9, 8), {}, r"size must be divisible by 2 for 2 levels, got \(9, 8\)"),
        ((1, 8, 8), {"channels": (8, 18)}, r"channels must be multiples of norm_groups = 4, got \[8, 18\]"),
        ((1, 8, 8), {"attention_at": (2,)}, r"attention_at must be levels in \[0, 2\), got \[2\]"),
        ((1, 8, 8), {"head_dim": 5}, r"head_dim must divide the channels \[16, 16\] of levels with attention, got 5"),
    ],
)
def test_sizes_that_do_not_fit_are_named(shape, changes, message):
    with pytest.raises(ValueError, match=message):
        Unet2d(shape, 3, **{**SMALL, **changes})
