"""How sharply a loss bends at given weights."""

from __future__ import annotations

import torch
from torch import Tensor

from trcl_policy.continual.model import Model, mean_loss
from trcl_policy.continual.params import Batch, Layout


def hessian_trace(
    model: Model,
    layout: Layout,
    theta: Tensor,
    corrupted: Batch,
    rng: torch.Generator,
    num_directions: int = 8,
    relative_change: float = 0.03,
) -> float:
    """Trace of the Hessian of the mean loss, from symmetric differences along random sign directions.

    For z with independent signs, E[z'Hz] = tr H, and z'Hz = (L(theta + e z) + L(theta - e z) - 2 L(theta)) / e^2 up to
    O(e^2). The same noise is used in all three losses, so only the displacement differs. The step e is found along the
    first z, where the loss changes by at least ``relative_change`` of itself: far above rounding, still near the
    weights. It then stays: a step that waited for a rise along every z would count too few falls.
    """

    def loss_at(weights: Tensor) -> float:
        return mean_loss(model, layout.unflatten(weights), corrupted, chunk_size=1024)

    def rise_along(direction: Tensor, step: float) -> float:
        return 0.5 * (loss_at(theta + step * direction) + loss_at(theta - step * direction)) - here

    def signs() -> Tensor:
        return torch.randint(2, theta.shape, generator=rng, device=rng.device).to(theta) * 2 - 1

    here, direction = loss_at(theta), signs()
    step = max(1e-4 * float(theta.norm()) / theta.numel() ** 0.5, 1e-8)
    rises = [rise_along(direction, step)]
    for _ in range(40):
        if abs(rises[0]) >= relative_change * here:
            break
        step *= 2
        rises[0] = rise_along(direction, step)
    rises += [rise_along(signs(), step) for _ in range(num_directions - 1)]
    return 2 * sum(rises) / len(rises) / step**2
