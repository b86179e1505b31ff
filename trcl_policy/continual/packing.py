"""PackNet: every task gets weights of its own, chosen by magnitude, and never touches those of older tasks.

Mallya and Lazebnik 2018. In the first part of a task all free weights learn; then the largest of them, an equal share
of what is free for every task still to come, stay with the task and the others become zero; in the rest of the task
only its own weights learn on. Tensors with one axis (biases, norms) belong to the first task, as in the paper.
A task uses its own and older weights only, so that what it does never changes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trcl_policy.continual.params import Layout
from trcl_policy.continual.turn import Turn
from trcl_policy.continual.update import Update

FREE = -1


@dataclass(frozen=True)
class Packed(Update):
    """Learns free weights, then keeps the largest.

    Attributes:
        search: share of a task's steps in which all free weights learn, in (0, 1).
        owners: the task that each weight belongs to (P,) int16, -1 for free ones; None before the first step.
        searching: the task that free weights learn for at the moment, -1 for none.
    """

    search: float = 0.6
    owners: Tensor | None = None
    searching: int = FREE

    memory = "half a vector in all (the owner of each weight)"

    def __post_init__(self) -> None:
        """Check the options once."""
        if not 0 < self.search < 1:
            raise ValueError(f"packnet_search must be in (0, 1), got {self.search}")

    @property
    def owner(self) -> Tensor | None:
        """The task that each weight belongs to; free weights to the one they learn for at the moment."""
        if self.owners is None or self.searching == FREE:
            return self.owners
        return torch.where(self.owners == FREE, self.searching, self.owners)

    def step(self, turn: Turn) -> Update:
        """Descend with the weights that may move; at the end of the search choose those that stay."""
        owners = torch.full_like(turn.theta, FREE, dtype=torch.int16) if self.owners is None else self.owners
        end = max(1, round(self.search * turn.total_steps))
        moving = owners == (FREE if turn.step < end else turn.task_index)
        before, direction = turn.theta.clone(), turn.joined()
        turn.descend(torch.where(moving, direction, 0.0))
        turn.move_to(torch.where(moving, turn.theta, before))
        if turn.step + 1 == end:
            owners = claimed(owners, turn.theta, turn.layout, turn.task_index, turn.num_tasks)
            turn.optimizer.place(torch.where(owners == FREE, 0.0, turn.theta))
        return replace(self, owners=owners, searching=turn.task_index if turn.step + 1 < end else FREE)

    def state(self) -> dict[str, Tensor]:
        """The owners."""
        return {} if self.owners is None else {"owners": self.owners, "searching": torch.tensor(self.searching)}

    def restore(self, state: dict[str, Tensor]) -> Update:
        """The update saved as ``state``."""
        return replace(self, owners=state.get("owners"), searching=int(state.get("searching", FREE)))


def claimed(owners: Tensor, theta: Tensor, layout: Layout, task: int, num_tasks: int) -> Tensor:
    """Owners (P,) once ``task`` has taken the largest 1 / (tasks to come, with it) of each tensor's free weights."""
    result = owners.clone()
    shapes = dict(zip(layout.names, layout.shapes, strict=True))
    values = layout.unflatten(theta)
    for name, owner in layout.unflatten(result).items():
        free = (owner == FREE).flatten().nonzero().squeeze(1)
        share = 1.0 if len(shapes[name]) < 2 else 1 / max(1, num_tasks - task)
        sizes = values[name].detach().flatten()[free].abs()
        owner.view(-1)[free[sizes.topk(round(share * len(free))).indices]] = task
    return result


def weights_of(theta: Tensor, owners: Tensor, task: int) -> Tensor:
    """The weights (P,) that ``task`` uses: its own and older ones, zero elsewhere."""
    return torch.where((owners != FREE) & (owners <= task), theta, 0.0)
