"""Does the force that holds an old task point along the gradient of one-step MAML? Cosines, beside their control.

Notation (paper, section 4):
    theta_i*, d       weights at the end of old task i; d = theta - theta_i*
    L_s, L_q          mean loss of old task i over the support and the query samples
    H_s               Hessian of L_s at theta
    theta'            theta - alpha grad L_s(theta), the inner step; alpha is its rate
    MAML              grad_theta L_q(theta') = (I - alpha H_s) grad L_q(theta')
    first-order MAML  grad L_q(theta')
    TRCL              beta grad L_i(theta) + lambda F_i d, the replay's gradient and the trust region's pull

The control is TRCL at lambda = 0, replay alone. Without it a cosine says nothing about the trust region, because the
replay's gradient has a high one by itself. A prediction distilled from the teacher or the drawn target: the loss is
whatever the samples' ``target`` makes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trcl_policy.continual.metric import FisherMetric
from trcl_policy.continual.model import Model, chunks, gradient, leaves
from trcl_policy.continual.params import Batch, Layout, num_rows


@dataclass(frozen=True)
class OldTask:
    """An old task as the trust region and MAML see it.

    Attributes:
        replay: corrupted samples (B, ...) of the replay loss L_i.
        metric: F_i, in the unit in which lambda is given.
        center: theta_i* (P,).
        support: corrupted samples of MAML's inner loss; None takes ``replay``, the paper's view.
        query: corrupted samples of MAML's outer loss; None takes the support samples.
    """

    replay: Batch
    metric: FisherMetric
    center: Tensor
    support: Batch | None = None
    query: Batch | None = None


@dataclass(frozen=True)
class MetaGradient:
    """Gradients of the loss after one inner step, each (P,): of MAML, and with the inner step's Jacobian left out."""

    exact: Tensor
    first_order: Tensor


@dataclass(frozen=True)
class Alignment:
    """Cosines with MAML; nan where one of the two vectors is zero and has no direction.

    Attributes:
        per_task: TRCL against MAML, task by task.
        control: the same for lambda = 0.
        summed: sum of TRCL's gradients over the tasks against the sum of MAML's.
        summed_control: the same for lambda = 0.
    """

    per_task: tuple[float, ...]
    control: tuple[float, ...]
    summed: float
    summed_control: float

    @property
    def differences(self) -> tuple[float, ...]:
        """What the trust region adds to each task's cosine; negative where it turns the gradient away from MAML's."""
        return tuple(one - other for one, other in zip(self.per_task, self.control, strict=True))

    @property
    def summed_difference(self) -> float:
        """What the trust region adds to the cosine of the sums."""
        return self.summed - self.summed_control


def alignment(
    model: Model,
    layout: Layout,
    theta: Tensor,
    tasks: Sequence[OldTask],
    rate: float,
    weight: float,
    replay_weight: float = 1.0,
    first_order: bool = False,
) -> Alignment:
    """Cosines between TRCL's and MAML's gradients for the old ``tasks`` at the weights ``theta`` (P,).

    Args:
        model: the model; its losses must be twice differentiable.
        layout: layout of ``theta``.
        theta: current weights, in the precision in which all is computed.
        tasks: old tasks, at least one.
        rate: alpha, rate of MAML's inner step.
        weight: lambda.
        replay_weight: beta, > 0.
        first_order: compare with first-order MAML.

    Raises:
        ValueError: see ``compare``.
    """
    meta, replayed, pulled = [], [], []
    for task in tasks:
        support = task.replay if task.support is None else task.support
        query = support if task.query is None else task.query
        found = maml_gradient(model, layout, theta, support, query, rate)
        meta.append(found.first_order if first_order else found.exact)
        replayed.append(loss_gradient(model, layout, theta, task.replay))
        pulled.append(task.metric.multiply(theta - task.center))
    return compare(meta, replayed, pulled, weight, replay_weight)


def compare(
    meta: Sequence[Tensor],
    replayed: Sequence[Tensor],
    pulled: Sequence[Tensor],
    weight: float,
    replay_weight: float = 1.0,
) -> Alignment:
    """Cosines of beta * replayed + lambda * pulled with MAML's gradients, task by task and summed.

    Args:
        meta: MAML's gradient for each task, (P,) each.
        replayed: gradient of each replay loss.
        pulled: F_i d for each task.
        weight: lambda.
        replay_weight: beta, > 0.

    Raises:
        ValueError: no task, or a weight out of range.
    """
    if not meta:
        raise ValueError("tasks must hold at least one old task, got none")
    if not replay_weight > 0:
        raise ValueError(f"replay_weight must be > 0, or the control has no direction, got {replay_weight}")
    if weight < 0:
        raise ValueError(f"weight must be >= 0, got {weight}")
    control = [replay_weight * gradient for gradient in replayed]
    held = [gradient + weight * pull for gradient, pull in zip(control, pulled, strict=True)]
    return Alignment(
        per_task=tuple(cosine(*pair) for pair in zip(held, meta, strict=True)),
        control=tuple(cosine(*pair) for pair in zip(control, meta, strict=True)),
        summed=cosine(_sum(held), _sum(meta)),
        summed_control=cosine(_sum(control), _sum(meta)),
    )


def maml_gradient(
    model: Model, layout: Layout, theta: Tensor, support: Batch, query: Batch, rate: float
) -> MetaGradient:
    """Exact gradient of L_q(theta - rate * grad L_s(theta)), by one Hessian-vector product, never by differences.

    1. theta' = theta - alpha grad L_s(theta)
    2. g = grad L_q(theta'), first-order MAML
    3. g - alpha H_s(theta) g, MAML
    """
    moved = theta - rate * loss_gradient(model, layout, theta, support)
    found = loss_gradient(model, layout, moved, query)
    return MetaGradient(found - rate * hessian_product(model, layout, theta, support, found), found)


def loss_gradient(model: Model, layout: Layout, theta: Tensor, corrupted: Batch, chunk_size: int = 1024) -> Tensor:
    """Gradient (P,) of the mean loss over ``corrupted`` at ``theta``."""
    params, total = leaves(layout, theta), torch.zeros_like(theta)
    for piece in chunks(corrupted, chunk_size):
        total += gradient(model.losses(params, piece).sum(), params, layout)
    return total / num_rows(corrupted)


def hessian_product(
    model: Model, layout: Layout, theta: Tensor, corrupted: Batch, vector: Tensor, chunk_size: int = 1024
) -> Tensor:
    """H v, (P,), with H the Hessian of the mean loss over ``corrupted`` at ``theta``, by double backward."""
    along = layout.unflatten(vector.detach())
    total = torch.zeros_like(theta)
    with torch.compiler.set_stance("force_eager"):  # compiled functions can't be differentiated twice
        for piece in chunks(corrupted, chunk_size):
            params = leaves(layout, theta)
            loss = model.losses(params, piece).sum()
            found = torch.autograd.grad(loss, list(params.values()), create_graph=True, allow_unused=True)
            # A parameter that enters linearly, or not at all, has a gradient that depends on none.
            curved = [(g, along[name]) for name, g in zip(params, found, strict=True) if g is not None and g.grad_fn]
            if curved:
                total += gradient(_sum([(g * v).sum() for g, v in curved]), params, layout)
    return total / num_rows(corrupted)


def largest_curvature(
    model: Model, layout: Layout, theta: Tensor, corrupted: Batch, rng: torch.Generator, num_steps: int = 30
) -> tuple[float, Tensor]:
    """The Hessian's eigenvalue of largest magnitude and its unit vector (P,), by the power method.

    The eigenvalue is a Rayleigh quotient, so its magnitude is a lower bound and its error is the square of the
    vector's.
    """
    vector = torch.randn(theta.shape, generator=rng, device=rng.device).to(theta)
    value = 0.0
    for _ in range(num_steps):
        vector = vector / vector.norm()
        product = hessian_product(model, layout, theta, corrupted, vector)
        value, vector = float(vector.double() @ product.double()), product
    return value, vector / vector.norm()


def cosine(one: Tensor, other: Tensor) -> float:
    """Cosine between two vectors (P,), summed in float64; nan where one of them is zero."""
    one, other = one.double(), other.double()
    return float((one @ other) / (one.norm() * other.norm()))


def _sum(vectors: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(vectors)).sum(0)
