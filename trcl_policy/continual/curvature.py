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
    relative_rise: float = 0.03,
) -> float:
    """Trace of the Hessian of the mean loss, from symmetric differences along random sign directions.

    For z with independent signs, E[z'Hz] = tr H, and z'Hz = (L(theta + e z) + L(theta - e z) - 2 L(theta)) / e^2 up to
    O(e^2). The same noise is used in all three losses, so only the displacement differs. The step e is the one at which
    the loss rises by at least ``relative_rise`` of itself: far above rounding, still near the weights.
    """

    def loss_at(weights: Tensor) -> float:
        return mean_loss(model, layout.unflatten(weights), corrupted, chunk_size=1024)

    def rise_along(signs: Tensor, step: float) -> float:
        return 0.5 * (loss_at(theta + step * signs) + loss_at(theta - step * signs)) - here

    here, estimates = loss_at(theta), []
    step = max(1e-4 * float(theta.norm()) / theta.numel() ** 0.5, 1e-8)
    for _ in range(num_directions):
        signs = torch.randint(2, theta.shape, generator=rng, device=rng.device).to(theta) * 2 - 1
        rise = rise_along(signs, step)
        for _ in range(40):
            if rise >= relative_rise * here:
                break
            step *= 2
            rise = rise_along(signs, step)
        estimates.append(2 * rise / step**2)
    return sum(estimates) / len(estimates)
