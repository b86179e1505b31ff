"""What holds exactly where old losses are quadratic bowls 1/2 d'Hd, and where the analogy with MAML ends. float64."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from trcl_policy.continual.alignment import compare, cosine, hessian_product, loss_gradient, maml_gradient
from trcl_policy.continual.metric import LowRank
from trcl_policy.continual.params import Layout

SIZE = 12
LAYOUT = Layout(("w",), (torch.Size([SIZE]),))
CLOSE = {"rtol": 1e-9, "atol": 1e-12}


@dataclass(frozen=True)
class Bowl:
    """Loss |root (w - x)|^2 / 2 of a sample x: its Hessian is root'root everywhere."""

    root: Tensor

    def losses(self, params, corrupted):
        return 0.5 * ((params["w"] - corrupted["target"]) @ self.root.T).square().sum(1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def around(center):
    """Samples whose mean is ``center`` (P,)."""
    spread = normal(6, SIZE, seed=99)
    return {"target": center + spread - spread.mean(0)}


def maml(root, d, rate):
    """Exact and first-order MAML at the weights ``d``, where the task's best weights are zero."""
    samples = around(torch.zeros(SIZE, dtype=torch.float64))
    return maml_gradient(Bowl(root), LAYOUT, d, samples, samples, rate)


def one_direction(rho, seed=0):
    """rho u u' as a bowl's root, (1, P), and as a metric."""
    u = normal(SIZE, seed=seed)
    u = u / u.norm()
    return rho**0.5 * u[None], LowRank(u[None], torch.tensor([rho], dtype=torch.float64))


def random_hessian(seed, largest):
    """Full rank, with largest eigenvalue ``largest``; its eigenvalues and eigenvectors, smallest first."""
    a = normal(SIZE, SIZE, seed=seed)
    values, vectors = torch.linalg.eigh(a @ a.T)
    values = values / values[-1] * largest
    return values, vectors


def root_of(values, vectors):
    return values.sqrt()[:, None] * vectors.T


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.9, 2.5])
def test_maml_gradient_of_a_bowl_is_the_closed_form(rate):
    values, vectors = random_hessian(0, 1.3)
    hessian, d = vectors @ torch.diag(values) @ vectors.T, normal(SIZE, seed=1)
    factor = torch.eye(SIZE, dtype=torch.float64) - rate * hessian
    found = maml(root_of(values, vectors), d, rate)
    torch.testing.assert_close(found.exact, hessian @ factor @ factor @ d, **CLOSE)
    torch.testing.assert_close(found.first_order, hessian @ factor @ d, **CLOSE)


@pytest.mark.parametrize("product", [0.1, 0.5, 0.99, 1.01, 2.0, 5.0])
def test_one_shared_direction_makes_them_collinear_with_the_same_sign(product):
    rho, rate = 2.5, product / 2.5
    root, metric = one_direction(rho)
    d = normal(SIZE, seed=1)
    found = maml(root, d, rate)
    replayed = loss_gradient(Bowl(root), LAYOUT, d, around(torch.zeros(SIZE, dtype=torch.float64)))
    (one,) = compare([found.exact], [replayed], [metric.multiply(d)], weight=0.7).per_task
    assert one == pytest.approx(1, abs=1e-9)
    # The sign is the square's doing: the first-order gradient turns round where alpha rho passes 1.
    assert cosine(found.first_order, metric.multiply(d)) == pytest.approx(1 if product < 1 else -1, abs=1e-9)


def test_one_shared_direction_leaves_maml_nothing_where_alpha_rho_is_one():
    root, _ = one_direction(2.5)
    assert maml(root, normal(SIZE, seed=1), 1 / 2.5).exact.norm() < 1e-12


def test_sums_over_tasks_agree_only_up_to_positive_weights():
    rhos, rate, weight = (1.0, 4.0), 0.2, 0.7
    roots, metrics = zip(*(one_direction(rho, seed) for seed, rho in enumerate(rhos)), strict=True)
    ds = [normal(SIZE, seed=10 + task) for task in (0, 1)]
    meta = [maml(root, d, rate).exact for root, d in zip(roots, ds, strict=True)]
    pulled = [metric.multiply(d) for metric, d in zip(metrics, ds, strict=True)]
    found = compare(meta, pulled, pulled, weight)
    assert found.per_task == pytest.approx((1, 1), abs=1e-9)
    assert found.summed < 0.9
    assert found.summed == pytest.approx(found.summed_control, abs=1e-12)  # the trust region neither mends nor harms
    scaled = [gradient / (1 - rate * rho) ** 2 for gradient, rho in zip(meta, rhos, strict=True)]
    assert cosine(sum(scaled), sum(pulled)) == pytest.approx(1, abs=1e-9)


def cosines(seed, largest, rate, place, weights):
    """Cosine with MAML per weight, with the trust region along eigenvector number ``place`` of a random Hessian."""
    values, vectors = random_hessian(seed, largest)
    d, root = normal(SIZE, seed=seed + 1000), root_of(values, vectors)
    metric = LowRank(vectors[:, place][None], values[place][None])
    meta = maml(root, d, rate).exact
    replayed = loss_gradient(Bowl(root), LAYOUT, d, around(torch.zeros(SIZE, dtype=torch.float64)))
    return [compare([meta], [replayed], [metric.multiply(d)], weight).per_task[0] for weight in weights]


@pytest.mark.parametrize("seed", range(8))
def test_steepest_direction_only_takes_away_while_the_inner_step_is_stable(seed):
    for product in (0.1, 0.5, 1.0):
        found = cosines(seed, largest=2.0, rate=product / 2.0, place=-1, weights=(0, 0.1, 1, 10, 100))
        assert found == sorted(found, reverse=True)
        assert found[0] > found[-1] + 1e-3


@pytest.mark.parametrize("seed", range(8))
def test_steepest_direction_helps_where_the_inner_step_overshoots_along_it_alone(seed):
    values, _ = random_hessian(seed, largest=1.0)
    rate = 2.5
    shares = (1 - rate * values) ** 2
    assert shares[-1] > shares[:-1].max()  # MAML weighs this direction most
    control, held = cosines(seed, 1.0, rate, place=-1, weights=(0, 0.05))
    assert held > control


@pytest.mark.parametrize("seed", range(8))
def test_flattest_direction_helps_while_the_inner_step_is_stable(seed):
    # Little of the gradient lies there, so the gain is small.
    control, held = cosines(seed, largest=1.0, rate=0.5, place=0, weights=(0, 0.01))
    assert held > control


@pytest.mark.parametrize("place", range(SIZE))
def test_trust_region_helps_where_maml_weighs_its_direction_above_average(place):
    # For F = rho u u' with u an eigenvector the cosine rises at lambda = 0 exactly where (1 - alpha h_u)^2 is above
    # the mean of (1 - alpha h)^2 under the shares of |H d|^2.
    for seed in range(5):
        values, vectors = random_hessian(seed, largest=2.0)
        rate, d = 0.6, normal(SIZE, seed=seed + 1000)
        shares = (values * (vectors.T @ d)).square()
        factors = (1 - rate * values) ** 2
        rises = bool(factors[place] > (shares * factors).sum() / shares.sum())
        control, held = cosines(seed, 2.0, rate, place, weights=(0, 1e-4))
        assert (held > control) == rises


def descend(rate, steps, beta, weight, rho, push):
    """Coordinate along u after every explicit step on L_t + beta L_i + lambda/2 d'Fd, from 1; L_t is a slope."""
    root, metric = one_direction(rho)
    (u,) = metric.basis
    samples = around(torch.zeros(SIZE, dtype=torch.float64))
    theta, found = u.clone(), []
    for _ in range(steps):
        old = beta * loss_gradient(Bowl(root), LAYOUT, theta, samples) + weight * metric.multiply(theta)
        theta = theta - rate * (push * u + old)
        found.append(float(u @ theta))
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize(("beta", "weight", "rho"), [(1.0, 0.0, 2.0), (0.0, 3.0, 0.5), (0.5, 2.0, 1.5)])
def test_recovery_follows_the_time_constant_to_its_resting_offset(beta, weight, rho):
    rate, push, steps = 5e-3, 0.4, 600
    tau, rest = 1 / (rate * (beta + weight) * rho), -push / ((beta + weight) * rho)
    times = torch.arange(1, steps + 1, dtype=torch.float64)
    wanted = rest + (1 - rest) * torch.exp(-times / tau)
    found = descend(rate, steps, beta, weight, rho, push)
    # Euler's error over one time constant is at most rate (beta + lambda) rho / 2 of the way.
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.5 * (1 - rest) / tau)


def test_euler_error_of_the_time_constant_is_of_first_order():
    beta, weight, rho = 0.5, 2.0, 1.5
    errors = []
    for rate in (2e-2, 2e-3):
        steps = round(1 / (rate * (beta + weight) * rho))
        flow = torch.exp(torch.tensor(-steps * rate * (beta + weight) * rho))
        errors.append(abs(float(descend(rate, steps, beta, weight, rho, 0.0)[-1] - flow)))
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize(("product", "stable"), [(1.9, True), (1.99, True), (2.01, False), (2.1, False)])
def test_explicit_steps_are_stable_below_two(product, stable):
    beta, weight, rho = 0.5, 2.0, 1.5
    found = descend(product / ((beta + weight) * rho), 400, beta, weight, rho, 0.0)
    assert (abs(found[-1]) < 0.1) == stable
    assert (abs(found[-1]) > 10) != stable


def test_proximal_step_is_mamls_factor_up_to_second_order():
    """(I + alpha F)^-1 d against d after MAML's inner step, alpha = eta lambda, with F = H."""
    values, vectors = random_hessian(3, largest=1.0)
    metric, d, bowl = LowRank(vectors.T.contiguous(), values), normal(SIZE, seed=4), Bowl(root_of(values, vectors))
    samples = around(torch.zeros(SIZE, dtype=torch.float64))
    alphas = torch.logspace(-4, -1, 7, dtype=torch.float64)
    errors, exact = [], []
    for alpha in alphas.tolist():
        inner = d - alpha * loss_gradient(bowl, LAYOUT, d, samples)
        errors.append(float((metric.solve(d, alpha) - inner).norm()))
        exact.append(
            alpha**2 * float(hessian_product(bowl, LAYOUT, d, samples, loss_gradient(bowl, LAYOUT, d, samples)).norm())
        )
    slope = torch.tensor(errors).log().diff() / alphas.log().diff()
    torch.testing.assert_close(slope, torch.full_like(slope, 2.0), rtol=0.05, atol=0)
    assert errors[0] == pytest.approx(exact[0], rel=1e-3)  # the error's leading term is alpha^2 |H^2 d|


def test_proximal_step_stays_stable_where_the_explicit_factor_does_not():
    values, vectors = random_hessian(3, largest=1.0)
    metric, d = LowRank(vectors.T.contiguous(), values), normal(SIZE, seed=4)
    explicit = implicit = d
    for _ in range(50):
        explicit = explicit - 5.0 * metric.multiply(explicit)
        implicit = metric.solve(implicit, 5.0)
    assert explicit.norm() > 1e6 * d.norm()
    assert implicit.norm() < d.norm()
