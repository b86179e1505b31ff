"""A Fisher of Kronecker products, one a layer: what two weights of a layer share is held, not only each for itself.

A layer y = W x brings to the gradient of one sample's loss the outer product delta x', with delta the gradient by y. If
x and delta are taken as independent, the layer's Fisher is a Kronecker product (Martens, Grosse 2015)

    E[vec(delta x') vec(delta x')']  ~  G (x) A,   G = E[delta delta'],  A = E[x x'],   F vec(D) = vec(G D A)

so that a matrix of P x P numbers is multiplied, measured and solved by matrices of the layer's own size. A bias is the
last column of D, for an input that is always one. Weights of other layers keep a diagonal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

Product = tuple[Tensor, Tensor]
"""G and A of G (x) A."""
ROUNDS = 30
"""Of the power iteration for the nearest product: between two terms each round gains several digits."""


@dataclass(frozen=True)
class Block:
    """Where the weights of one layer lie in the vector (P,).

    Attributes:
        start: of the matrix of weights, row by row.
        rows: outputs O.
        columns: inputs I, without the bias.
        bias: start of the bias (O,); -1 for none.
    """

    start: int
    rows: int
    columns: int
    bias: int = -1

    @property
    def width(self) -> int:
        """Columns with that of the bias."""
        return self.columns + (self.bias >= 0)

    @property
    def parts(self) -> list[slice]:
        """The weights' places in the vector."""
        weights = slice(self.start, self.start + self.rows * self.columns)
        return [weights] if self.bias < 0 else [weights, slice(self.bias, self.bias + self.rows)]

    def take(self, vector: Tensor) -> Tensor:
        """The layer's weights out of ``vector`` (P,) as a matrix (O, width), the bias last."""
        weights, *bias = (vector[part] for part in self.parts)
        matrix = weights.view(self.rows, self.columns)
        return torch.cat([matrix, bias[0][:, None]], dim=1) if bias else matrix

    def add(self, vector: Tensor, matrix: Tensor) -> None:
        """Add a matrix (O, width) to the layer's weights in ``vector`` (P,), in place."""
        weights, *bias = (vector[part] for part in self.parts)
        weights.view(self.rows, self.columns).add_(matrix[:, : self.columns])
        if bias:
            bias[0].add_(matrix[:, self.columns])


@dataclass(frozen=True)
class Kronecker:
    """F = diag(values) + sum over layers of outputs (x) inputs.

    Attributes:
        values: (P,) >= 0, zero at the weights of all blocks.
        blocks: the layers, none of which share weights.
        inputs: A of every block, (width, width), symmetric and positive semi-definite.
        outputs: G of every block, (O, O), likewise.
    """

    values: Tensor
    blocks: tuple[Block, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def scaled(self, factor: float) -> Kronecker:
        """factor * F."""
        return Kronecker(self.values * factor, self.blocks, self.inputs, tuple(g * factor for g in self.outputs))

    def add_product(self, total: Tensor, vector: Tensor) -> Tensor:
        """``total`` (P,) with F v added in place."""
        total.addcmul_(self.values, vector)
        for block, inputs, outputs in zip(self.blocks, self.inputs, self.outputs, strict=True):
            block.add(total, outputs @ block.take(vector) @ inputs)
        return total

    def multiply(self, vector: Tensor) -> Tensor:
        """F v, (P,)."""
        return self.add_product(torch.zeros_like(vector), vector)

    def quadratic(self, vector: Tensor) -> Tensor:
        """v' F v, a float64 scalar."""
        total = (self.values.double() * vector.double().square()).sum()
        for block, inputs, outputs in zip(self.blocks, self.inputs, self.outputs, strict=True):
            matrix = block.take(vector.double())
            total = total + (matrix * (outputs.double() @ matrix @ inputs.double())).sum()
        return total

    def solve(self, vector: Tensor, scale: float) -> Tensor:
        """(I + scale F)^-1 v, (P,), in the eigenvectors of both factors of every block."""
        found = vector / (1.0 + scale * self.values)
        for block, (of_inputs, across), (of_outputs, along) in zip(
            self.blocks, self._inputs, self._outputs, strict=True
        ):
            matrix = block.take(vector)
            turned = along.T @ matrix @ across
            shares = 1.0 / (1.0 + scale * of_outputs[:, None] * of_inputs)
            block.add(found, along @ (turned * shares) @ across.T - matrix)
        return found

    @cached_property
    def _inputs(self) -> list[tuple[Tensor, Tensor]]:
        return [_eigen(each) for each in self.inputs]

    @cached_property
    def _outputs(self) -> list[tuple[Tensor, Tensor]]:
        return [_eigen(each) for each in self.outputs]

    def trace(self) -> float:
        """Sum of the diagonal of F."""
        return float(
            self.values.double().sum() + sum(g.double().trace() * a.double().trace() for g, a in self._products)
        )

    def joined(self, other: Kronecker) -> Kronecker:
        """The sum of both, each block replaced by the product nearest to the sum of products, with the sum's trace.

        Raises:
            ValueError: the blocks are not the same.
        """
        if self.blocks != other.blocks:
            raise ValueError(f"metrics must have the same blocks, got {self.blocks} and {other.blocks}")
        products = [nearest_product(*pair) for pair in zip(self._products, other._products, strict=True)]
        inputs, outputs = tuple(a for _, a in products), tuple(g for g, _ in products)
        return Kronecker(self.values + other.values, self.blocks, inputs, outputs)

    @property
    def _products(self) -> list[Product]:
        return list(zip(self.outputs, self.inputs, strict=True))

    def state(self) -> dict[str, Tensor]:
        """Everything that ``restore`` needs."""
        places = torch.tensor([[b.start, b.rows, b.columns, b.bias] for b in self.blocks], dtype=torch.int64)
        factors = {f"inputs-{n}": each for n, each in enumerate(self.inputs)}
        factors |= {f"outputs-{n}": each for n, each in enumerate(self.outputs)}
        return {"values": self.values, "blocks": places.view(-1, 4), **factors}

    @classmethod
    def restore(cls, state: Mapping[str, Tensor]) -> Kronecker:
        """The metric whose ``state`` was saved."""
        blocks = tuple(Block(*place) for place in state["blocks"].tolist())
        inputs, outputs = (tuple(state[f"{key}-{n}"] for n in range(len(blocks))) for key in ("inputs", "outputs"))
        return cls(state["values"], blocks, inputs, outputs)


def nearest_product(one: Product, other: Product) -> Product:
    """The Kronecker product nearest to G1 (x) A1 + G2 (x) A2 in the Frobenius norm, scaled to the sum's trace.

    That is a rank-1 approximation (Van Loan, Pitsianis 1993): G = v1 G1 + v2 G2 and A = u1 A1 + u2 A2 with the weights
    of the leading singular pair, which the inner products of the factors give. Those of semi-definite matrices are
    never negative, so neither are the weights, and the result is semi-definite, too.
    """
    outputs, inputs = (torch.stack(pair).double() for pair in zip(one, other, strict=True))
    wanted = float((outputs.diagonal(0, 1, 2).sum(1) * inputs.diagonal(0, 1, 2).sum(1)).sum())
    if wanted == 0:
        return one
    grams = [each.flatten(1) @ each.flatten(1).T for each in (inputs, outputs)]
    of_inputs = inputs.new_ones(2)
    for _ in range(ROUNDS):
        of_outputs = _unit(grams[0] @ of_inputs)
        of_inputs = _unit(grams[1] @ of_outputs)
    product = torch.einsum("k,kij->ij", of_outputs, outputs), torch.einsum("k,kij->ij", of_inputs, inputs)
    scale = wanted / float(product[0].trace() * product[1].trace())
    return (scale * product[0]).to(one[0].dtype), product[1].to(one[1].dtype)


def _unit(weights: Tensor) -> Tensor:
    return weights / weights.sum()


def _eigen(factor: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, none below zero, and eigenvectors as columns."""
    values, vectors = torch.linalg.eigh(factor.double())
    return values.clamp_min(0).to(factor.dtype), vectors.to(factor.dtype)
