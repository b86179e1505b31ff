"""Kronecker factors of a Fisher: second moments of what goes into each layer and of the gradients by what comes out.

Layers that see several vectors a sample (convolutions, sequences) are taken at every place as if places were
independent (Grosse, Martens 2016): A is the mean over samples and places, G the mean over samples of the sum over
places. Each block is scaled to the exact trace of the Fisher on its weights, so that the independence that is assumed
shapes it but does not size it. Weights of norms, of embeddings, of layers used twice and of very wide ones keep the
exact diagonal.

Targets are drawn around the model's own predictions. That makes the factors those of the Fisher proper, which is the
curvature of a squared error up to its scale; gradients by the data's own targets make the empirical one, which also
counts how far each sample happens to be from its target (Kunstner, Balles, Hennig 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from trcl_policy.continual.gradients import Sampled
from trcl_policy.continual.kronecker import Block, Kronecker
from trcl_policy.continual.layers import LONG, Call, windows, windows2d
from trcl_policy.continual.model import chunks
from trcl_policy.continual.params import Batch, num_rows
from trcl_policy.continual.squares import usable_calls, watched

WIDEST = 8192
"""Rows of a factor at most, 0.25 GiB in float32; a wider layer keeps its diagonal."""

Rows = tuple[Tensor, Tensor]
"""Gradients by the outputs (N, O) and inputs (N, I) of a layer, a row for every sample and place."""


def kronecker_fisher(sampled: Sampled, rng: torch.Generator) -> Kronecker:
    """The Fisher of the mean loss over ``sampled``, with targets drawn from ``rng``, as Kronecker products a layer."""
    drawn = with_drawn_targets(sampled, rng)
    values, moments = drawn.mean_squares(), dict[Block, _Moments]()
    params, starts = drawn.layout.unflatten(drawn.theta.detach()), drawn.layout.starts
    with torch.compiler.set_stance("force_eager"):  # compiled functions can't be watched
        usable = usable_calls(drawn.model.losses, params, drawn.corrupted)
        for piece in drawn.pieces():
            for call, x, delta in watched(drawn.model.losses, params, piece, usable):
                block = _block(call, starts)
                if block is not None:
                    found = moments.setdefault(block, _Moments.empty(block, drawn.theta))
                    moments[block] = found.plus(_rows(call, x, delta), num_rows(piece))
    return _assembled(values, moments)


def with_drawn_targets(sampled: Sampled, rng: torch.Generator) -> Sampled:
    """The same samples with targets drawn around the model's predictions at these weights, of variance 1."""
    params = sampled.layout.unflatten(sampled.theta.detach())
    with torch.no_grad():
        predictions = torch.cat([sampled.model.predict(params, piece) for piece in sampled.pieces()])
    noise = torch.randn(predictions.shape, generator=rng, device=rng.device, dtype=predictions.dtype)
    corrupted: Batch = {**sampled.corrupted, "target": predictions + noise.to(predictions.device)}
    return replace(sampled, corrupted=corrupted)


@dataclass(frozen=True)
class _Moments:
    """Sums of outer products of a layer's rows, added up in place, and the number of rows and samples."""

    inputs: Tensor
    outputs: Tensor
    num_rows: int = 0
    num_samples: int = 0

    @classmethod
    def empty(cls, block: Block, like: Tensor) -> _Moments:
        """Nothing yet, for a layer of this shape."""
        return cls(like.new_zeros(block.width, block.width), like.new_zeros(block.rows, block.rows))

    def plus(self, found: Iterator[Rows], num_samples: int) -> _Moments:
        """With the rows of ``num_samples`` more samples."""
        count = self.num_rows
        for gradients, inputs in found:
            self.outputs.addmm_(gradients.T, gradients)
            self.inputs.addmm_(inputs.T, inputs)
            count += len(inputs)
        return replace(self, num_rows=count, num_samples=self.num_samples + num_samples)


def _assembled(values: Tensor, moments: dict[Block, _Moments]) -> Kronecker:
    """The metric: each block scaled to the trace that the exact diagonal ``values`` has there, which it replaces."""
    values, inputs, outputs = values.clone(), list[Tensor](), list[Tensor]()
    for block, found in moments.items():
        trace = sum(float(values[part].double().sum()) for part in block.parts)
        a, g = found.inputs / found.num_rows, found.outputs / found.num_samples
        product = float(a.double().trace() * g.double().trace())
        inputs.append(a)
        outputs.append(g * (trace / product if product > 0 else 0.0))
        for part in block.parts:
            values[part] = 0
    return Kronecker(values, tuple(moments), tuple(inputs), tuple(outputs))


def _block(call: Call, starts: dict[str, int]) -> Block | None:
    """The layer's place in the vector; None where it keeps its diagonal."""
    if call.function not in ROWS or "weight" not in call.names:
        return None
    weight = call.inputs["weight"]
    bias = starts[call.names["bias"]] if _has_column(call) else -1
    block = Block(starts[call.names["weight"]], len(weight), weight[0].numel(), bias)
    return block if max(block.rows, block.width) <= WIDEST else None


def _has_column(call: Call) -> bool:
    """Whether the bias is a column of the block: it has to belong to the block's rows."""
    return "bias" in call.names and call.function is not torch.conv_transpose1d


def _rows(call: Call, x: Tensor, delta: Tensor) -> Iterator[Rows]:
    """The layer's rows, some samples at a time, with a one at the end of each input where there is a bias."""
    for gradients, inputs in ROWS[call.function](call, x, delta):
        yield gradients, functional.pad(inputs, (0, 1), value=1.0) if _has_column(call) else inputs


def _linear(call: Call, x: Tensor, delta: Tensor) -> Iterator[Rows]:
    yield delta.flatten(0, -2), x.flatten(0, -2)


def _conv1d(call: Call, x: Tensor, delta: Tensor) -> Iterator[Rows]:
    yield delta.mT.flatten(0, 1), windows(x, call).flatten(0, 1)


def _conv_transpose1d(call: Call, x: Tensor, delta: Tensor) -> Iterator[Rows]:
    """Rows of its weight belong to inputs: what comes out takes the other factor."""
    yield x.mT.flatten(0, 1), windows(delta, call)[:, : x.shape[2]].flatten(0, 1)


def _conv2d(call: Call, x: Tensor, delta: Tensor) -> Iterator[Rows]:
    places = tuple(delta.shape[2:])
    size = max(1, LONG // (call.inputs["weight"][0].numel() * places[0] * places[1]))
    for piece in chunks({"x": x, "delta": delta}, size):
        seen = windows2d(piece["x"], call, places)  # (B, *kernel, C, *places), the weight's order is C, *kernel
        yield piece["delta"].flatten(2).mT.flatten(0, 1), seen.permute(0, 4, 5, 3, 1, 2).flatten(0, 2).flatten(1)


ROWS: dict[Callable[..., object], Callable[[Call, Tensor, Tensor], Iterator[Rows]]] = {
    functional.linear: _linear,
    torch.conv1d: _conv1d,
    torch.conv2d: _conv2d,
    torch.conv_transpose1d: _conv_transpose1d,
}
