"""Slow, obvious versions of what trcl_policy/continual computes cleverly. Dense matrices, Python loops, float64."""

from __future__ import annotations

import torch
from torch import Tensor

from trcl_policy.continual.fisher import Diagonal, DiagonalLowRank, Isotropic, LowRank, Metric
from trcl_policy.continual.kronecker import Kronecker
from trcl_policy.continual.model import Model
from trcl_policy.continual.params import Batch, Layout


def per_sample_gradients(model: Model, layout: Layout, theta: Tensor, corrupted: Batch) -> Tensor:
    """Rows (B, P), one backward pass each."""
    found = []
    for row in range(len(next(iter(corrupted.values())))):
        params = {name: leaf.clone().requires_grad_() for name, leaf in layout.unflatten(theta).items()}
        loss = model.losses(params, {key: leaf[row : row + 1] for key, leaf in corrupted.items()}).sum()
        found.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(params.values()))]))
    return torch.stack(found)


def hessian(model: Model, layout: Layout, theta: Tensor, corrupted: Batch) -> Tensor:
    """Hessian (P, P) of the mean loss."""
    return torch.func.hessian(lambda t: model.losses(layout.unflatten(t), corrupted).mean())(theta)


def dense(metric: Metric, size: int) -> Tensor:
    """The matrix (P, P)."""
    if isinstance(metric, Isotropic):
        return metric.value * torch.eye(size, dtype=torch.float64)
    if isinstance(metric, Diagonal):
        return torch.diag(metric.values.double())
    if isinstance(metric, DiagonalLowRank):
        return torch.diag(metric.values.double()) + dense(metric.low, size)
    if isinstance(metric, Kronecker):
        return _dense_products(metric)
    total = torch.zeros(size, size, dtype=torch.float64)
    for vector, value in zip(metric.basis.double(), metric.values.double(), strict=True):
        total += value * torch.outer(vector, vector)
    return total


def _dense_products(metric: Kronecker) -> Tensor:
    total = torch.diag(metric.values.double())
    for block, inputs, outputs in zip(metric.blocks, metric.inputs, metric.outputs, strict=True):
        places = [  # of the matrix with the bias as its last column, row by row
            block.bias + row if column == block.columns else block.start + row * block.columns + column
            for row in range(block.rows)
            for column in range(len(inputs))
        ]
        at = torch.tensor(places)
        total[at[:, None], at] += torch.kron(outputs.double(), inputs.double())
    return total


def random_metric(kind: str, size: int, rank: int, rng: torch.Generator) -> Metric:
    """A metric with every term at work; low rank has bases that are not orthogonal."""
    if kind == "isotropic":
        return Isotropic(float(torch.rand(1, generator=rng)) + 0.1, size)
    if kind == "diagonal":
        return Diagonal(torch.rand(size, generator=rng, dtype=torch.float64) + 0.1)
    basis = torch.randn(rank, size, generator=rng, dtype=torch.float64) + 0.5
    values = torch.rand(rank, generator=rng, dtype=torch.float64) + 0.1
    low = LowRank(basis / basis.norm(dim=1, keepdim=True), values)
    if kind == "lowrank":
        return low
    return DiagonalLowRank(torch.rand(size, generator=rng, dtype=torch.float64) + 0.1, low)


class Quadratics:
    """Q(theta) = coefficient * sum_k (theta - center_k)' F_k (theta - center_k), every term kept apart."""

    def __init__(self, coefficient: float, terms: list[tuple[Tensor, Tensor]]) -> None:
        self.coefficient, self.terms = coefficient, terms

    def value(self, theta: Tensor) -> Tensor:
        """Q / 2, with its constant."""
        return 0.5 * self.coefficient * sum((theta - center) @ f @ (theta - center) for f, center in self.terms)

    def gradient(self, theta: Tensor) -> Tensor:
        """Gradient of Q / 2."""
        return self.coefficient * sum(f @ (theta - center) for f, center in self.terms)

    def proximal(self, theta: Tensor, step: float) -> Tensor:
        """Solution of x - theta + step * gradient(x) = 0 by a dense solve."""
        scale = step * self.coefficient
        matrix = torch.eye(len(theta), dtype=torch.float64) + scale * sum(f for f, _ in self.terms)
        return torch.linalg.solve(matrix, theta + scale * sum(f @ center for f, center in self.terms))
