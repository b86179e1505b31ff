"""Recovery of a small network against 1 / (rate (beta + lambda) rho): where F is the Hessian, and where it is not."""

import math
import sys
from pathlib import Path

import pytest
import torch

from tests.continual.toy import Toy, make_batch, vector
from tests.reference import slow
from trcl_policy.continual.metric import LowRank

NOISE = 0.2
COUNT = 100


@pytest.fixture
def script(monkeypatch):
    """scripts/measure_recovery.py, which makes the numbers of docs/maml.md."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    import measure_recovery

    yield measure_recovery
    for name in ("measure_recovery", "maml_tables", "quickstart"):
        sys.modules.pop(name, None)


def held(script, inputs_of_fisher=1.0):
    """A toy whose loss is known: its Fisher comes from targets with noise around its own predictions.

    Then H = 2/m E[J'J] and F = 4 s^2/m^2 E[J'J] for m outputs with noise s, so H = F m / (2 s^2), as long as both see
    the same inputs. The noise takes four values whose covariance is s^2 I without sampling error.
    """
    layout, theta = vector()
    data = make_batch((0, 1), COUNT, 5, torch.float64)
    clean = {"x": data["x"], "kind": data["kind"]}
    target = Toy().predict(layout.unflatten(theta), clean)
    seen = {"x": inputs_of_fisher * clean["x"], "kind": clean["kind"]}
    middle = Toy().predict(layout.unflatten(theta), seen)
    noises = NOISE * 2**0.5 * torch.tensor([[1, 0], [-1, 0], [0, 1], [0, -1]], dtype=torch.float64)
    rows = torch.cat([slow_rows(layout, theta, {**seen, "target": middle + noise}) for noise in noises])
    values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows) * 2 / (2 * NOISE**2))
    metric = LowRank(vectors[:, -1][None].contiguous(), values[-1:])
    return script.Held(Toy(), layout, theta, {**clean, "target": target}, metric)


def slow_rows(layout, theta, corrupted):
    """Per-sample gradients (n, P)."""

    def loss(t, row):
        return Toy().losses(layout.unflatten(t), {key: leaf[None] for key, leaf in row.items()}).squeeze(0)

    return torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(theta, corrupted)


def settings():
    return [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.5, 4.0)]


@pytest.mark.parametrize(("beta", "weight"), settings())
def test_recovery_takes_the_predicted_time_where_the_fisher_is_the_hessian(script, beta, weight):
    one = script.measure_one(held(script), beta, weight)
    assert one["predicted_with_h"] == pytest.approx(one["predicted"], rel=1e-9)
    # Explicit steps are faster than the flow: -1 / log(1 - x) updates instead of 1 / x. Of the bend beyond the
    # quadratic, a push of 0.05 leaves 1 %.
    assert one["measured"] == pytest.approx(-1 / math.log(1 - script.SPEED), rel=0.01)


def test_recovery_follows_the_losss_own_bend_where_the_fisher_is_not_the_hessian(script):
    network = held(script, inputs_of_fisher=3.0)
    one = script.measure_one(network, 1.0, 0.2)
    assert abs(math.log(network.bend() / network.rho)) > math.log(1.5)
    assert one["measured"] == pytest.approx(one["predicted_with_h"], rel=0.15)
    assert abs(math.log(one["measured"] / one["predicted"])) > math.log(1.3)


def test_bend_is_that_of_the_dense_hessian(script):
    network = held(script)
    dense = slow.hessian(Toy(), network.layout, network.center, network.samples)
    assert network.bend() == pytest.approx(float(network.direction @ dense @ network.direction), rel=1e-9)


def test_time_to_the_eth_part_is_read_between_updates(script):
    assert script.time_to_e([math.exp(-0.3 * step) for step in range(9)]) == pytest.approx(1 / 0.3)
    assert script.time_to_e([1.0, 0.9]) is None
