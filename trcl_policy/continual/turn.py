"""One step of learning, as an update sees it: its samples, its gradients, and the ways to move the weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trcl_policy.continual.model import Model, gradient, leaves
from trcl_policy.continual.optimizer import FlatAdam
from trcl_policy.continual.params import Batch, Layout
from trcl_policy.continual.past import Anchor
from trcl_policy.continual.streams import Streams


@dataclass
class Turn:
    """One step.

    Attributes:
        model: the model.
        layout: layout of the parameters.
        optimizer: holds the weights and moves them.
        params: leaves that share memory with the optimiser's weights.
        anchor: what the past charges the weights.
        new: corrupted samples of the new task.
        recall: draws corrupted old samples with their targets, of all old tasks or of one by its number (in order of
            first meeting); None while there are none.
        num_recalled: old tasks that can be asked for by number.
        held_out: draws corrupted old samples with their targets that are never learned from; None while there are none.
        distilled: replayed targets are a teacher's predictions, so that their loss starts at zero.
        streams: the run's random streams.
        beta: weight of the mean replayed loss against the mean new loss.
        rate: learning rate of this step.
        step: index of this update within the task, from 0.
        total_steps: updates of this task.
        task_index: place of the task in the sequence, from 0.
        num_tasks: length of the sequence.
        losses: mean losses met on the way, for the log.
        notes: other numbers for the log.
        norm: norm of the direction taken.
        new_gradient: last gradient of the new task's own loss, where it was taken alone and the anchor watches.
    """

    model: Model
    layout: Layout
    optimizer: FlatAdam
    params: dict[str, Tensor]
    anchor: Anchor
    new: Batch
    recall: Callable[[int | None], Batch | None]
    num_recalled: int
    held_out: Callable[[], Batch | None]
    distilled: bool
    streams: Streams
    beta: float
    rate: float
    step: int
    total_steps: int
    task_index: int
    num_tasks: int
    losses: dict[str, Tensor] = field(default_factory=dict)
    notes: dict[str, Tensor] = field(default_factory=dict)
    norm: Tensor | None = None
    new_gradient: Tensor | None = None

    @property
    def theta(self) -> Tensor:
        """Current weights (P,): the optimiser's own vector."""
        return self.optimizer.theta

    def recall_one(self) -> Batch | None:
        """Corrupted old samples of one task, drawn uniformly; None while there are none."""
        if not self.num_recalled:
            return None
        rng = self.streams["update/task"]
        return self.recall(int(torch.randint(self.num_recalled, (), generator=rng, device=rng.device)))

    def loss(self, name: str | None, params: dict[str, Tensor], batch: Batch) -> Tensor:
        """Mean loss of a corrupted batch, noted for the log under ``name`` (``new``, ``old`` or None for no note)."""
        found = self.model.losses(params, batch).mean()
        if name is not None:
            self.losses[name] = found
        return found

    def joined(self, beta: float | Tensor | None = None) -> Tensor:
        """Gradient of new loss + beta * old loss at the current weights (P,).

        In one backward pass, or in two where the anchor watches the new task's own gradient.
        """
        old, new = self.recall(None), self.loss("new", self.params, self.new)
        beta = self.beta if beta is None else beta
        if old is not None and not self.anchor.watches:
            return gradient(new + beta * self.loss("old", self.params, old), self.params, self.layout)
        found = self._told(gradient(new, self.params, self.layout))
        if old is None:
            return found
        return found + beta * gradient(self.loss("old", self.params, old), self.params, self.layout)

    def apart(self) -> tuple[Tensor, Tensor | None]:
        """Gradients of the new loss and of beta * old loss at the current weights, each (P,)."""
        old = self.recall(None)
        new = self._told(gradient(self.loss("new", self.params, self.new), self.params, self.layout))
        if old is None:
            return new, None
        return new, self.beta * gradient(self.loss("old", self.params, old), self.params, self.layout)

    def _told(self, found: Tensor) -> Tensor:
        """``found``, with a copy kept for an anchor that watches; updates may change the vector itself."""
        if self.anchor.watches:
            self.new_gradient = found.clone()
        return found

    def gradient_at(self, theta: Tensor, batch: Batch, name: str = "new") -> Tensor:
        """Gradient of the mean loss of ``batch`` at any weights (P,)."""
        params = leaves(self.layout, theta)
        return gradient(self.loss(name, params, batch), params, self.layout)

    def meta_gradient(
        self, theta: Tensor, support: Batch, query: Batch, rate: float, second_order: bool, name: str | None = "new"
    ) -> Tensor:
        """Gradient (P,) of L(theta - rate * grad L(theta; support); query) by theta (Finn et al. 2017, eq. 1).

        Exact, through the second backward pass; with ``second_order`` off the inner gradient counts as a constant.
        """
        params = leaves(self.layout, theta)
        inner = self.model.losses(params, support).mean()
        slopes = torch.autograd.grad(inner, list(params.values()), create_graph=second_order, allow_unused=True)
        moved = {
            key: leaf if slope is None else leaf - rate * slope
            for (key, leaf), slope in zip(params.items(), slopes, strict=True)
        }
        return gradient(self.loss(name, moved, query), params, self.layout)

    def descend(self, direction: Tensor) -> None:
        """Clip ``direction`` (P,) and take one step of the optimiser."""
        self.norm = self.optimizer.step(direction, self.rate)

    def move_to(self, theta: Tensor) -> None:
        """Put the weights at ``theta`` (P,)."""
        if theta is not self.theta:
            self.theta.copy_(theta)
