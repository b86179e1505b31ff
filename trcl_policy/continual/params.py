"""Mappings of named tensors and the one flat vector that all of the core's algebra runs on."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Params = Mapping[str, Tensor]
Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """Where each named tensor lies inside a flat vector of P numbers.

    Anchors, metrics and optimisers see only the vector, so a trust region costs a few fused operations whatever the
    number of layers; models see only the mapping.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]

    @classmethod
    def of(cls, params: Params) -> Layout:
        """The layout of ``params``, in their own order."""
        return cls(tuple(params), tuple(tensor.shape for tensor in params.values()))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of scalars of each tensor."""
        return tuple(shape.numel() for shape in self.shapes)

    @property
    def starts(self) -> dict[str, int]:
        """Where each tensor begins in the vector."""
        places = itertools.accumulate(self.sizes, initial=0)
        return dict(zip(self.names, places, strict=False))

    @property
    def size(self) -> int:
        """Total number of scalars P."""
        return sum(self.sizes)

    def flatten(self, params: Params) -> Tensor:
        """Copy ``params`` into a new vector (P,)."""
        if tuple(params) != self.names:
            raise ValueError(f"params must have the names {self.names}, got {tuple(params)}")
        return torch.cat([tensor.reshape(-1) for tensor in params.values()])

    def flatten_rows(self, params: Params) -> Tensor:
        """Copy tensors with a leading batch axis, leaves (B, *shape), into rows (B, P)."""
        return torch.cat([tensor.reshape(len(tensor), -1) for tensor in params.values()], dim=1)

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """Views of ``vector`` (P,) under their names; writing to one writes to the other."""
        if vector.shape != (self.size,):
            raise ValueError(f"vector must have shape ({self.size},), got {tuple(vector.shape)}")
        pieces = vector.split(self.sizes)
        return {n: p.view(s) for n, p, s in zip(self.names, pieces, self.shapes, strict=True)}


def concatenate(batches: list[Batch]) -> dict[str, Tensor]:
    """Join batches with the same keys along their first axis."""
    return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}


def num_rows(batch: Batch) -> int:
    """Length B of the first axis shared by all leaves."""
    return next(iter(batch.values())).shape[0]


def rows(batch: Batch, index: Tensor | slice) -> dict[str, Tensor]:
    """The selected rows of every leaf."""
    return {key: leaf[index] for key, leaf in batch.items()}
