"""Squares layer by layer against one backward pass a sample; what has no closed form must be noticed, not assumed."""

from collections import defaultdict
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from tests.reference import slow
from trcl_policy.continual import layers, squares
from trcl_policy.continual.gradients import Sampled
from trcl_policy.continual.params import Layout
from trcl_policy.continual.squares import sums_of_squares, usable_calls
from trcl_policy.diffusion.denoiser import Denoiser
from trcl_policy.diffusion.nets import ConditionalUnet1d, ResidualMLP
from trcl_policy.diffusion.process import Diffusion, Process
from trcl_policy.images.model import ImageModel, ImageNetwork

EXACT = {"rtol": 1e-10, "atol": 1e-18}


@dataclass
class Model:
    """Loss of a network on x (B, ...)."""

    net: nn.Module

    def losses(self, params, corrupted):
        output = functional_call(self.net, dict(params), (corrupted["x"],))
        return output.flatten(1).sin().sum(1) ** 2


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def sampled(net, x, chunk_size=None):
    net = net.double()
    with torch.no_grad():  # norms begin with ones and zeros, which would hide errors
        for place, leaf in enumerate(net.parameters()):
            leaf += 0.2 * torch.randn(leaf.shape, generator=generator(place), dtype=leaf.dtype)
    params = {name: p.detach() for name, p in net.named_parameters()}
    layout = Layout.of(params)
    return Sampled(Model(net), layout, layout.flatten(params), {"x": x}, chunk_size)


def by_layers(given, most_numbers=2**20):
    params = given.layout.unflatten(given.theta)
    usable = usable_calls(given.model.losses, params, given.corrupted)
    return sums_of_squares(given.model.losses, params, given.corrupted, usable, most_numbers)


def closed(given):
    """Names of the parameters that were squared layer by layer."""
    return set(by_layers(given))


def wanted(given):
    return slow.per_sample_gradients(given.model, given.layout, given.theta, given.corrupted).square().mean(0)


def normal(*shape):
    return torch.randn(shape, generator=generator(9), dtype=torch.float64)


def denoiser(kind):
    torch.manual_seed(0)
    if kind == "planes":
        return planes()
    if kind == "mlp":
        parts, net = {"observation": 3, "action": 4}, ResidualMLP((3, 4), 2, width=12, depth=2, condition_dim=6)
    else:
        parts = {"observation": 3, "action": 8}
        options = {"channels": (8, 16), "groups": 4, "attention_levels": 1, "heads": 2, "condition_dim": 6}
        net = ConditionalUnet1d((3, 8), 2, 4, **options)
    model = Denoiser(net.double(), Process(Diffusion()), parts, ("task",))
    batch = {name: torch.randn(9, size, generator=generator(3)) for name, size in parts.items()}
    corrupted = model.corrupt({**batch, "task": torch.arange(9) % 2}, generator(4))
    corrupted = {key: leaf.double() if leaf.is_floating_point() else leaf for key, leaf in corrupted.items()}
    params = {name: p.detach() for name, p in net.named_parameters()}
    layout = Layout.of(params)
    return Sampled(model, layout, layout.flatten(params), corrupted, chunk_size=5)


def planes():
    """diffusers' 2-D U-Net with attention and resampling."""
    network = ImageNetwork((8, 16), attention_at=(1,), norm_groups=4)
    net = network.build((1, 8, 8), 4, seed=0).double()
    model = ImageModel(net, Diffusion(), (1, 8, 8), 3)
    x, label = torch.randn(9, 64, generator=generator(3), dtype=torch.float64), torch.arange(9) % 3
    corrupted = model.corrupt({"x": x, "label": label}, generator(4))
    corrupted = {key: leaf.double() if leaf.is_floating_point() else leaf for key, leaf in corrupted.items()}
    params = {name: p.detach() for name, p in net.named_parameters()}
    layout = Layout.of(params)
    return Sampled(model, layout, layout.flatten(params), corrupted, chunk_size=5)


@pytest.mark.parametrize("kind", ["mlp", "unet", "planes"])
def test_networks_are_squared_layer_by_layer_and_exactly(kind):
    given = denoiser(kind)
    assert closed(given) == set(given.layout.names)
    torch.testing.assert_close(given.mean_squares(), wanted(given), rtol=1e-9, atol=1e-20)
    rows = given.all_gradients().square().mean(0)
    torch.testing.assert_close(given.mean_squares(), rows, rtol=1e-9, atol=1e-20)


@pytest.mark.parametrize("kind", ["mlp", "unet", "planes"])
def test_means_and_projections_are_those_of_single_samples_gradients(kind, monkeypatch):
    given = denoiser(kind)
    rows = slow.per_sample_gradients(given.model, given.layout, given.theta, given.corrupted)
    monkeypatch.setattr(Sampled, "gradients", None)
    torch.testing.assert_close(given.mean_gradient(), rows.mean(0), rtol=1e-9, atol=1e-15)
    direction = torch.randn(len(given.theta), generator=generator(2), dtype=torch.float64)
    rtol = 1e-6 if kind == "planes" else 1e-9  # diffusers' network has single precision within
    torch.testing.assert_close(given.projections(direction), rows @ direction, rtol=rtol, atol=1e-12)


class Fused(nn.Module):
    """Attention by torch's fused kernel, whose backward pass can't be differentiated."""

    def forward(self, x):
        return functional.scaled_dot_product_attention(x, x, x)


def test_projections_of_operations_without_second_derivatives_take_the_other_way(monkeypatch):
    given = sampled(flat(nn.Linear(4, 8), Fused()), normal(7, 2, 3, 4).float().double())
    rows = slow.per_sample_gradients(given.model, given.layout, given.theta, given.corrupted)
    direction = torch.randn(len(given.theta), generator=generator(2), dtype=torch.float64)
    torch.testing.assert_close(given.projections(direction), rows @ direction, rtol=1e-9, atol=1e-12)
    monkeypatch.setattr(Sampled, "gradients", lambda self: iter([torch.zeros(7, len(self.theta), dtype=torch.float64)]))
    assert not given.projections(direction).any()  # it was that way


def flat(*layers):
    return nn.Sequential(*layers, nn.Flatten())


LAYERS = {
    "linear": (flat(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2, bias=False)), normal(7, 4)),
    "linear on several vectors": (flat(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)), normal(7, 5, 4)),
    "linear on a grid of vectors": (flat(nn.Linear(4, 3)), normal(7, 2, 3, 4)),
    "convolution": (flat(nn.Conv1d(2, 3, 3, stride=2, padding=2, dilation=2), nn.Tanh()), normal(7, 2, 9)),
    "convolution of planes": (
        flat(nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(2, 1)), nn.Tanh(), nn.Conv2d(3, 2, 1)),
        normal(7, 2, 9, 5),
    ),
    "circular convolution": (flat(nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular")), normal(7, 2, 5)),
    "transposed": (
        flat(nn.ConvTranspose1d(2, 3, 4, stride=2, padding=1, output_padding=3, dilation=4)),
        normal(7, 2, 5),
    ),
    "layer norm": (flat(nn.LayerNorm(4, eps=0.1), nn.Tanh()), normal(7, 3, 4)),
    "layer norm of two axes": (flat(nn.LayerNorm((3, 4))), normal(7, 3, 4)),
    "group norm": (flat(nn.GroupNorm(2, 4, eps=0.1), nn.Tanh()), normal(7, 4, 5)),
    "group norm of vectors": (flat(nn.GroupNorm(2, 4)), normal(7, 4)),
    "embedding": (flat(nn.Embedding(3, 4), nn.Tanh()), torch.tensor([0, 2, 2, 0, 0, 2, 2])),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("chunk_size", [None, 1, 3])
def test_layers_have_closed_forms(name, chunk_size):
    given = sampled(*LAYERS[name], chunk_size)
    assert closed(given) == set(given.layout.names)
    torch.testing.assert_close(given.mean_squares(), wanted(given), **EXACT)
    assert given.mean_squares().any()


@pytest.mark.parametrize("length", [3, 9])
@pytest.mark.parametrize("most_numbers", [1, 20, 100])
def test_layers_with_large_gradients_go_a_few_samples_and_rows_at_a_time(length, most_numbers):
    given = sampled(flat(nn.Conv1d(2, 5, 3, padding=1), nn.Tanh()), normal(7, 2, length))
    torch.testing.assert_close(by_layers(given, most_numbers), by_layers(given), **EXACT)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 8])
def test_few_and_many_positions_are_squared_alike(length):
    """Up to four positions go by pairs; sums that cancel (here exactly) are never negative."""
    given = sampled(flat(nn.Conv1d(3, 4, 3, padding=1), nn.Tanh()), normal(7, 3, length))
    torch.testing.assert_close(given.mean_squares(), wanted(given), **EXACT)
    left, right = normal(6, 3, length), normal(6, length, 5)
    left[:, :, -1] = left[:, :, 0] if length > 1 else 0
    right[:, 1:] = 0
    right[:, -1] = -right[:, 0] if length > 1 else 0
    found = layers._products(left.float(), right.float(), 2**20)
    assert float(found.min()) >= 0
    assert float(found.max()) < 1e-5


class Double(torch.autograd.Function):
    """A use of a tensor that no function mode sees."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return 2 * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, slope):
        return 2 * slope


class Trap(nn.Module):
    """A linear layer, 'layer', that ``go`` uses in a way without a closed form, and an ordinary one before it."""

    def __init__(self, go):
        super().__init__()
        self.first, self.layer, self.go = nn.Linear(3, 3), nn.Linear(3, 3), go

    def forward(self, x):
        return self.go(self.layer, self.first(x))


def through_time(layer, h):
    return layer(h.reshape(-1, 3)).reshape(h.shape)


TRAPS = {
    "twice": lambda layer, h: layer(layer(h).tanh()),
    "shared with another function": lambda layer, h: layer(h) @ layer.weight,
    "bias read elsewhere": lambda layer, h: layer(h) * layer.bias,
    "frozen beside": lambda layer, h: layer(h) * layer.weight.detach().sum(),
    "its own penalty": lambda layer, h: layer(h) + layer.weight.square().sum(),
    "samples and time in one axis": through_time,
    "time first": lambda layer, h: layer(h.transpose(0, 1)).transpose(0, 1),
    "the same for all samples": lambda layer, h: h + layer(torch.ones(1, 3, dtype=h.dtype)),
    "changed in place": lambda layer, h: layer(h).mul_(3),
    "a hidden use": lambda layer, h: layer(h) + Double.apply(layer.bias),
    "not a layer at all": lambda layer, h: torch.einsum("...i,oi->...o", h, layer.weight) + layer.bias,
}


@pytest.mark.parametrize("name", TRAPS)
@pytest.mark.parametrize("length", [2, 3, 7])
def test_what_has_no_closed_form_is_noticed(name, length):
    given = sampled(Trap(TRAPS[name]), normal(7, length, 3))
    assert {"first.weight", "first.bias"} <= closed(given)
    assert "layer.bias" not in closed(given) or name == "frozen beside"
    if name != "bias read elsewhere" and name != "a hidden use":
        assert "layer.weight" not in closed(given)
    torch.testing.assert_close(given.mean_squares(), wanted(given), **EXACT)


def through(use):
    """A loss whose one linear layer's output also meets ``use(x, weight)``."""

    class Two:
        def losses(self, params, corrupted):
            x = corrupted["x"]
            return (functional.linear(x, params["w"]).sin() + use(x, params["w"])).sum(1)

    layout = Layout.of({"w": torch.zeros(3, 3)})
    return Sampled(Two(), layout, normal(9), {"x": normal(7, 3)})


def unseen(x, weight):
    """A use that no function mode sees, as in a compiled extension: only the graph tells."""
    with torch._C.DisableTorchFunction():
        return weight.sin().sum() * x


def test_uses_that_only_the_graph_knows_are_counted_by_its_edges(monkeypatch):
    plain, hidden = through(lambda x, weight: 0 * x), through(unseen)
    assert closed(plain) == {"w"}
    assert closed(hidden) == set()
    torch.testing.assert_close(hidden.mean_squares(), wanted(hidden), **EXACT)
    params = {"w": hidden.theta.view(3, 3).clone().requires_grad_()}
    edges = squares._edges(hidden.model.losses(params, hidden.corrupted).sum())
    assert edges == {id(params["w"]): 2}
    monkeypatch.setattr(squares, "_edges", lambda root: defaultdict(lambda: 1))
    assert closed(hidden) == {"w"}  # the function mode alone would be fooled
    assert float((hidden.mean_squares() / wanted(hidden) - 1).abs().max()) > 0.1


def test_edges_count_every_way_to_a_leaf_once():
    one, other, unused = (torch.ones(2, requires_grad=True) for _ in range(3))
    middle = one * other
    root = (middle + middle * one).sum() + (other.detach() * one).sum()
    assert squares._edges(root) == {id(one): 3, id(other): 1}
    assert id(unused) not in squares._edges(root)


@pytest.mark.parametrize(
    ("net", "x"),
    [
        (flat(nn.Conv1d(2, 4, 3, groups=2)), normal(7, 2, 5)),
        (flat(nn.Conv1d(2, 4, 3, padding="same")), normal(7, 2, 5)),
        (flat(nn.ConvTranspose1d(2, 4, 3, groups=2)), normal(7, 2, 5)),
        (flat(nn.Embedding(4, 3)), torch.arange(14).reshape(7, 2) // 3 % 4),
        (flat(nn.Embedding(4, 3, padding_idx=0)), torch.arange(7) % 4),
    ],
)
def test_forms_of_known_layers_that_are_not_supported_take_the_other_way(net, x):
    given = sampled(net, x)
    assert not closed(given)
    torch.testing.assert_close(given.mean_squares(), wanted(given), **EXACT)


def test_half_precision_networks_are_squared_in_the_weights_own():
    torch.manual_seed(0)
    net = ResidualMLP((3, 4), 2, width=32, depth=1, condition_dim=8)
    found = {}
    for precision in ("fp32", "bf16"):
        model = Denoiser(net, Process(Diffusion()), {"observation": 3, "action": 4}, ("task",), precision)
        batch = {"observation": torch.randn(64, 3, generator=generator()), "action": torch.ones(64, 4)}
        corrupted = model.corrupt({**batch, "task": torch.arange(64) % 2}, generator(4))
        params = {name: p.detach() for name, p in net.named_parameters()}
        layout = Layout.of(params)
        found[precision] = Sampled(model, layout, layout.flatten(params), corrupted).mean_squares()
        assert found[precision].dtype == torch.float32
    assert float(functional.cosine_similarity(found["fp32"], found["bf16"], dim=0)) > 0.999
