"""The Fisher against an outside implementation: curvlinops' empirical Fisher, a matrix-free operator."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from trcl_policy.continual.fisher import estimate, top_of_gram
from trcl_policy.continual.gradients import Sampled
from trcl_policy.continual.metric import DiagonalLowRank
from trcl_policy.continual.params import Layout

curvlinops = pytest.importorskip("curvlinops")

EXACT = {"rtol": 1e-10, "atol": 1e-13}
ROWS, OUT = 24, 3


class Regression:
    """Squared error of a network, summed over outputs: what MSELoss(reduction="sum") charges a row."""

    def __init__(self, net):
        self.net = net

    def losses(self, params, corrupted):
        output = functional_call(self.net, dict(params), (corrupted["x"],))
        return (output - corrupted["target"]).square().sum(1)


def network(kind):
    torch.manual_seed(0)
    if kind == "mlp":
        net = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.SiLU(), nn.Linear(5, OUT))
    else:
        convolutions = (nn.Conv1d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.Mish(), nn.Conv1d(4, 2, 3, stride=2))
        net = nn.Sequential(nn.Unflatten(1, (2, 6)), *convolutions, nn.Flatten(), nn.Linear(4, OUT))
    return net.double(), 4 if kind == "mlp" else 12


def both(kind):
    """Our samples, and the operator on the same ones: a sum over rows, so ROWS times the mean."""
    net, size = network(kind)
    x, y = torch.randn(ROWS, size, dtype=torch.float64), torch.randn(ROWS, OUT, dtype=torch.float64)
    named = dict(net.named_parameters())
    params = {name: leaf.detach() for name, leaf in named.items()}
    layout = Layout.of(params)
    halves = [(x[:10], y[:10]), (x[10:], y[10:])]
    operator = curvlinops.EFLinearOperator(net, nn.MSELoss(reduction="sum"), list(named.values()), halves)
    return Sampled(Regression(net), layout, layout.flatten(params), {"x": x, "target": y}), operator


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", ["mlp", "convolutions"])
def test_the_whole_low_rank_fisher_multiplies_as_the_oracle_does(kind):
    sampled, operator = both(kind)
    metric, trace = top_of_gram(sampled, rank=ROWS)
    for seed in range(3):
        vector = torch.randn(sampled.layout.size, generator=rng(seed), dtype=torch.float64)
        torch.testing.assert_close(metric.multiply(vector), operator @ vector / ROWS, **EXACT)
    assert trace == pytest.approx(metric.trace(), rel=1e-10)


@pytest.mark.parametrize("kind", ["mlp", "convolutions"])
def test_the_diagonal_is_that_of_the_oracles_matrix(kind):
    sampled, operator = both(kind)
    matrix = operator @ torch.eye(sampled.layout.size, dtype=torch.float64) / ROWS
    torch.testing.assert_close(sampled.mean_squares(), matrix.diagonal(), **EXACT)
    found = estimate("diagonal_lowrank", sampled, rng(), rank=2).metric
    assert isinstance(found, DiagonalLowRank)
    values, vectors = torch.linalg.eigh(matrix)
    for place in (-1, -2):
        along = found.low.multiply(vectors[:, place])
        torch.testing.assert_close(along, values[place] * vectors[:, place], rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(found.values + found.low.diagonal(), matrix.diagonal(), **EXACT)


def test_the_mean_direction_is_weighed_as_the_oracle_weighs_it():
    sampled, operator = both("mlp")
    found = estimate("rank1", sampled, rng()).metric
    direction = found.basis[0]
    assert float(found.values[0]) == pytest.approx(float(direction @ (operator @ direction)) / ROWS, rel=1e-10)


def test_the_isotropic_value_is_the_oracles_mean_diagonal():
    sampled, operator = both("mlp")
    matrix = operator @ torch.eye(sampled.layout.size, dtype=torch.float64) / ROWS
    found = estimate("isotropic", sampled, rng()).metric
    assert found.value == pytest.approx(float(matrix.diagonal().mean()), rel=1e-10)
