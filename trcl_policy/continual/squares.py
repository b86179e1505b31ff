"""Sums of squared per-sample gradients from ONE backward pass, for layers whose gradients have a closed form.

A layer y = f(x, w) is called once on rows that belong to one sample each. With the samples' losses independent, the
gradient of their SUM by y holds the gradient delta_i of every sample's own loss in row i, so the squares of the
gradients by w follow from x and delta (layers.py) without forming a gradient for every sample.

Nothing about the network is assumed. A function mode watches every torch function that receives a parameter; a
parameter counts only if it goes into exactly one call of that table, with as many rows as there are samples for
two different numbers of samples (so an axis that happens to be as long is no trap), nothing is changed in place, and
autograd's graph knows no other use of it. For all other parameters the caller has to take another way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from trcl_policy.continual.layers import LAYERS, Call, Key
from trcl_policy.continual.params import Batch, Params, num_rows, rows

Losses = Callable[[Params, Batch], Tensor]


class _Watch(TorchFunctionMode):
    """Records the calls of known layers: ``only`` those, where given; if not, all, and every use of every parameter."""

    def __init__(self, params: Params, only: set[Key] | None = None) -> None:
        super().__init__()
        self.only = only
        self.names = {id(leaf): name for name, leaf in params.items()}
        self.uses: Counter[str] = Counter()
        self.calls: list[Call] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if self.only is not None and func not in LAYERS:
            return output
        if next(_tensors(output), None) is None:  # a look at a parameter's dtype or shape uses no number of it
            return output
        used = [self.names[id(leaf)] for leaf in _tensors((args, kwargs)) if id(leaf) in self.names]
        self.uses.update(used)
        if used and func in LAYERS:
            self._record(func, LAYERS[func].bind(args, kwargs), len(used), output)
        return output

    def _record(self, func: Callable[..., Any], inputs: dict[str, Any], uses: int, output: Tensor) -> None:
        names = {key: self.names[id(leaf)] for key, leaf in inputs.items() if id(leaf) in self.names}
        if not set(names) <= {"weight", "bias"} or len(names) != uses:
            return
        call = Call(func, inputs, names, output, (inputs["input"]._version, output._version))
        if self.only is not None and call.key not in self.only:
            return
        if not output.requires_grad:  # nothing before this layer is differentiated: its output is where that begins
            output.requires_grad_()
        self.calls.append(call)


def sums_of_squares(
    losses: Losses, params: Params, corrupted: Batch, usable: set[Key], most_numbers: int
) -> dict[str, Tensor]:
    """Sum over samples of the squared gradient of each sample's loss, for the parameters that allow it.

    Args:
        losses: (params, corrupted) -> (B,), one loss per sample.
        params: weights.
        corrupted: samples.
        usable: what ``usable_calls`` found.
        most_numbers: numbers that gradients held at a time may have, in layers that see several vectors a sample.
    """
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        for call, x, delta in watched(losses, params, corrupted, usable):
            squares = LAYERS[call.function].squares(call, x, delta, most_numbers)
            found.update({name: squares[key] for key, name in call.names.items()})
    return found


def watched(losses: Losses, params: Params, corrupted: Batch, usable: set[Key]) -> list[tuple[Call, Tensor, Tensor]]:
    """The calls in ``usable`` with their input x and the gradient delta of the summed loss by what comes out.

    Empty where the network goes other ways than ``usable_calls`` saw it go.
    """
    if not usable:
        return []
    params = {name: leaf.detach() for name, leaf in params.items()}
    with torch.enable_grad(), _Watch(params, usable) as watch:
        total = losses(params, corrupted).sum()
    calls = watch.calls
    if Counter(call.key for call in calls) != Counter(usable) or not all(map(_has_rows(corrupted), calls)):
        return []  # the network goes other ways than for few samples
    deltas = torch.autograd.grad(total, [call.output for call in calls], materialize_grads=True)
    found = []
    for call, delta in zip(calls, deltas, strict=True):
        dtype = params[next(iter(call.names.values()))].dtype  # under autocast input and delta are narrower
        x = call.inputs["input"].detach()
        found.append((call, x.to(dtype) if x.is_floating_point() else x, delta.to(dtype)))
    return found


def usable_calls(losses: Losses, params: Params, corrupted: Batch) -> set[Key]:
    """Calls that are the only use of their parameters, seen on two and on three samples."""
    index = torch.arange(3, device=next(iter(corrupted.values())).device) % num_rows(corrupted)
    passes = [_usable_on(losses, params, rows(corrupted, index[:count])) for count in (2, 3)]
    return passes[0] & passes[1]


def _usable_on(losses: Losses, params: Params, corrupted: Batch) -> set[Key]:
    params = {name: leaf.detach().requires_grad_() for name, leaf in params.items()}
    with torch.enable_grad(), _Watch(params) as watch:
        total = losses(params, corrupted).sum()
    edges = _edges(total)
    has_rows = _has_rows(corrupted)
    return {
        call.key
        for call in watch.calls
        if has_rows(call)
        and call.is_unchanged
        and all(watch.uses[name] == 1 and edges[id(params[name])] == 1 for name in call.names.values())
    }


def _has_rows(corrupted: Batch) -> Callable[[Call], bool]:
    """Whether a call's layer is supported and sees one row a sample."""
    count = num_rows(corrupted)

    def check(call: Call) -> bool:
        same = call.inputs["input"].shape[:1] == call.output.shape[:1] == (count,)
        return same and LAYERS[call.function].is_supported(call)

    return check


def _edges(root: Tensor) -> Counter[int]:
    """How many edges of autograd's graph below ``root`` end at each leaf, by the leaf's id."""
    found: Counter[int] = Counter()
    seen: set[Any] = set()
    waiting: list[Any] = [root.grad_fn]  # Any: only the nodes of leaves have ``variable``
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for target, _ in node.next_functions:
            if target is not None and target.name() == "torch::autograd::AccumulateGrad":
                found[id(target.variable)] += 1
            waiting.append(target)
    return found


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from _tensors(value)
    elif isinstance(tree, (tuple, list)):
        for value in tree:
            yield from _tensors(value)
