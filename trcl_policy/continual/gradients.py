"""Gradients of single samples' losses: as rows, and as their sum of squares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad, vmap

from trcl_policy.continual.model import Model, chunks, gradient, leaves
from trcl_policy.continual.params import Batch, Layout, num_rows, rows
from trcl_policy.continual.squares import Losses, sums_of_squares, usable_calls

MOST_NUMBERS = 2**28
"""Numbers that a block of per-sample gradients may hold (1 GiB in float32)."""
MOST_ROWS = 64
"""Samples in such a chunk at most: more gain no speed."""
ROWS_WITHOUT_GRADIENTS = 256
"""Samples in a chunk whose gradients are never formed: as many as a training step has."""


@dataclass(frozen=True)
class Sampled:
    """The losses of corrupted samples around given weights.

    Attributes:
        model: the model whose losses are differentiated.
        layout: layout of the parameters.
        theta: weights (P,).
        corrupted: samples with their noise already drawn.
        chunk_size: samples per call; where None, what the constants above allow.
    """

    model: Model
    layout: Layout
    theta: Tensor
    corrupted: Batch
    chunk_size: int | None = None

    @property
    def num_samples(self) -> int:
        """Number of samples n."""
        return num_rows(self.corrupted)

    def part(self, index: Tensor | slice) -> Sampled:
        """The same for the selected samples."""
        return Sampled(self.model, self.layout, self.theta, rows(self.corrupted, index), self.chunk_size)

    def gradients(self) -> Iterator[Tensor]:
        """Per-sample gradients; see ``per_sample_gradients``."""
        return per_sample_gradients(self.model, self.layout, self.theta, self.corrupted, self.chunk_size)

    def gradients_of(self, losses: Losses) -> Iterator[Tensor]:
        """Gradients of any other number per sample, ``losses(params, corrupted)`` (B,), as rows (b, P)."""
        return _rows_of(
            losses, self.layout.unflatten(self.theta.detach()), self.layout, self.corrupted, self.chunk_size
        )

    def all_gradients(self) -> Tensor:
        """Per-sample gradients in one matrix (n, P)."""
        found, start = self.theta.new_empty(self.num_samples, self.layout.size), 0
        for block in self.gradients():
            found[start : start + len(block)] = block
            start += len(block)
        return found

    def mean_gradient(self) -> Tensor:
        """E[g], (P,) in float64: a backward pass of the summed losses, no single sample's gradient is formed."""
        params, total = leaves(self.layout, self.theta), torch.zeros_like(self.theta, dtype=torch.float64)
        for piece in self.pieces():
            total += gradient(self.model.losses(params, piece).sum(), params, self.layout)
        return total / self.num_samples

    def projections(self, direction: Tensor) -> Tensor:
        """g'u of every sample along ``direction`` u (P,), shape (n,), without forming any sample's gradient.

        The gradient of sum_i v_i loss_i is sum_i v_i g_i, so that its product with u has the derivatives g_i'u in v.
        Where an operation of the model can't be differentiated twice, the samples' gradients are formed.
        """
        params, along = leaves(self.layout, self.theta), self.layout.unflatten(direction)

        def of_piece(piece: Batch) -> Tensor:
            with torch.compiler.set_stance("force_eager"):  # compiled functions can't be differentiated twice
                losses = self.model.losses(params, piece)
            ones = torch.ones_like(losses, requires_grad=True)
            found = torch.autograd.grad(losses, list(params.values()), ones, create_graph=True, allow_unused=True)
            pairs = zip(found, along.values(), strict=True)
            product = sum(((g * u).sum() for g, u in pairs if g is not None), start=0.0 * ones.sum())
            return torch.autograd.grad(product, ones)[0]

        try:
            return torch.cat([of_piece(piece) for piece in self.pieces()])
        except RuntimeError:
            return torch.cat([rows @ direction for rows in self.gradients()])

    def pieces(self) -> list[Batch]:
        """The samples in chunks for what forms no single sample's gradient."""
        return chunks(self.corrupted, self.chunk_size or ROWS_WITHOUT_GRADIENTS)

    def mean_squares(self) -> Tensor:
        """E[g * g], (P,), exact to rounding: layer by layer where that is possible, by torch.func where not."""
        total = torch.zeros_like(self.theta)
        sums, params = self.layout.unflatten(total), self.layout.unflatten(self.theta.detach())
        with torch.compiler.set_stance("force_eager"):  # compiled functions can't be watched
            usable = usable_calls(self.model.losses, params, self.corrupted)
        for piece in self.pieces():
            with torch.compiler.set_stance("force_eager"):
                found = sums_of_squares(self.model.losses, params, piece, usable, MOST_NUMBERS)
            missing = [name for name in self.layout.names if name not in found]
            if missing:
                found.update(self._squares_by_rows(missing, params, piece))
            for name, squares in found.items():
                sums[name] += squares
        return total / self.num_samples

    def _squares_by_rows(self, names: list[str], params: dict[str, Tensor], corrupted: Batch) -> dict[str, Tensor]:
        """Sums of squares for the parameters ``names``, for which every sample's gradient is formed."""
        wanted = Layout.of({name: params[name] for name in names})
        total = self.theta.new_zeros(wanted.size)
        for block in _rows_of(self.model.losses, params, wanted, corrupted, self.chunk_size):
            total += block.square().sum(0)
        return wanted.unflatten(total)


def per_sample_gradients(
    model: Model, layout: Layout, theta: Tensor, corrupted: Batch, chunk_size: int | None = None
) -> Iterator[Tensor]:
    """Yield per-sample gradients, rows (b, P) with b <= chunk_size; memory is a few times chunk_size * P numbers.

    Without ``chunk_size`` it is what MOST_NUMBERS and MOST_ROWS allow, so a large network goes a few samples at a time.
    """
    return _rows_of(model.losses, layout.unflatten(theta.detach()), layout, corrupted, chunk_size)


def _rows_of(
    losses: Losses, params: dict[str, Tensor], wanted: Layout, corrupted: Batch, chunk_size: int | None
) -> Iterator[Tensor]:
    """Gradients with respect to the parameters that ``wanted`` names, rows (b, size of wanted)."""
    chunk_size = chunk_size or max(1, min(MOST_ROWS, MOST_NUMBERS // wanted.size))

    def loss_of_one(moved: dict[str, Tensor], row: dict[str, Tensor]) -> Tensor:
        return losses({**params, **moved}, {key: leaf[None] for key, leaf in row.items()}).squeeze(0)

    each = vmap(grad(loss_of_one), in_dims=(None, 0))
    for piece in chunks(corrupted, chunk_size):
        with torch.compiler.set_stance("force_eager"):  # compiled functions can't be vmapped
            gradients = each({name: params[name] for name in wanted.names}, dict(piece))
        yield wanted.flatten_rows(gradients)
