"""Weights that belong to tasks: which ones a task may use."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from trcl_policy.continual.params import Params
from trcl_policy.files import read_safetensors


@dataclasses.dataclass(frozen=True)
class Ownership:
    """Which task each weight belongs to, where tasks have weights of their own.

    Attributes:
        owner: place in the sequence of the visit that a weight belongs to, -1 for none; tensors named like the weights.
        visits: place of the last visit of every distinct task (num_tasks,); -1 where it was never learned.
    """

    owner: Params
    visits: Tensor

    def params_of(self, params: Params, task: int) -> dict[str, Tensor]:
        """The weights that a task uses, the others zero."""
        last = int(self.visits[task])
        return {
            name: torch.where((self.owner[name] >= 0) & (self.owner[name] <= last), value, 0.0)
            for name, value in params.items()
        }


def load_ownership(
    path: Path, shapes: Mapping[str, torch.Size], num_tasks: int, device: torch.device | str
) -> Ownership | None:
    """What is saved in ``path``, None where there is no such file.

    Args:
        path: the file.
        shapes: of the network's weights by name.
        num_tasks: number of distinct tasks.
        device: where to put it.

    Raises:
        ValueError: the file does not fit the network.
    """
    if not path.exists():
        return None
    state, _ = read_safetensors(path)
    wanted = {"visits": torch.Size([num_tasks]), **{f"owner.{name}": shape for name, shape in shapes.items()}}
    if {name: tensor.shape for name, tensor in state.items()} != wanted:
        raise ValueError(f"{path} must fit the network beside it, got other names or shapes")
    owner = {name: state[f"owner.{name}"].to(device) for name in shapes}
    return Ownership(owner, state["visits"])
