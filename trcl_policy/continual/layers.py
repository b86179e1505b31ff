"""Layers whose sum of squared per-sample gradients has a closed form.

With x_it the vectors that sample i brings to a layer and delta_it the gradient of its loss by what comes out:

    linear, one vector a sample    sum_i (delta_i x_i')^2 = (delta^2)' (x^2)
    linear, several vectors        sum_i (sum_t delta_it x_it')^2 = sum_st sum_i (delta_is delta_it) (x_is x_it)'
    convolution                    the same on the unfolded input (transposed: on the unfolded delta)
    norms                          sum_i (sum_t delta_it * normalised x_it)^2
    embedding, one row a sample    delta_i^2, added to the row that sample i looked up
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Key = tuple[str, tuple[str, ...]]

FEW = 4
"""Vectors a sample up to which pairs of them are cheaper than products that have to be written and read."""
CACHED = 2**17
"""Numbers that a processor's second cache holds beside others (0.5 MiB in float32): larger blocks wait for memory."""
LONG = 2**19
"""The same for factors of one matrix product, which does better with a long inner axis."""


@dataclass
class Call:
    """One call of a layer's function.

    Attributes:
        function: the torch function.
        inputs: its arguments by name; parameters as ``weight`` and ``bias``.
        names: names of the parameters by argument.
        output: what it returned.
        versions: how often input and output had been written to at that moment.
    """

    function: Callable[..., Any]
    inputs: dict[str, Any]
    names: dict[str, str]
    output: Tensor
    versions: tuple[int, int]

    @property
    def is_unchanged(self) -> bool:
        """Input and output have not been written to since."""
        return (self.inputs["input"]._version, self.output._version) == self.versions

    @property
    def key(self) -> Key:
        """Function and parameters, to recognise the call in another pass."""
        return self.function.__name__, tuple(self.names.values())


def _one(value: int | tuple[int, ...] | list[int]) -> int:
    return value if isinstance(value, int) else value[0]


def _two(value: int | tuple[int, ...] | list[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _linear(call: Call, x: Tensor, delta: Tensor, most_numbers: int) -> dict[str, Tensor]:
    if x.ndim == 2:
        return {"weight": delta.square().T @ x.square(), "bias": delta.square().sum(0)}
    delta, x = delta.flatten(1, -2), x.flatten(1, -2)
    return {"weight": _products(delta.mT, x, most_numbers), "bias": delta.sum(1).square().sum(0)}


def _conv1d(call: Call, x: Tensor, delta: Tensor, most_numbers: int) -> dict[str, Tensor]:
    total = _products(delta, windows(x, call), most_numbers)
    return {"weight": total.view_as(call.inputs["weight"]), "bias": delta.sum(2).square().sum(0)}


def _conv_transpose1d(call: Call, x: Tensor, delta: Tensor, most_numbers: int) -> dict[str, Tensor]:
    seen = windows(delta, call)[:, : x.shape[2]]  # output padding may add a window that no input reaches
    total = _products(x, seen, most_numbers)
    return {"weight": total.view_as(call.inputs["weight"]), "bias": delta.sum(2).square().sum(0)}


def _conv2d(call: Call, x: Tensor, delta: Tensor, most_numbers: int) -> dict[str, Tensor]:
    weight = call.inputs["weight"]
    channels, kernel = weight.shape[1], tuple(weight.shape[2:])
    total = weight.new_zeros(len(weight), kernel[0] * kernel[1] * channels)
    most = min(most_numbers, LONG) if x.device.type == "cpu" else most_numbers
    size = max(1, most // (total.shape[1] * delta[0, 0].numel()))  # windows are a kernel times larger than x
    for some, slopes in zip(x.split(size), delta.split(size), strict=True):
        seen = windows2d(some, call, tuple(delta.shape[2:]))
        total += _products(slopes.flatten(2), seen.flatten(1, 3).flatten(2).mT, most_numbers)
    squares = total.view(len(weight), *kernel, channels).permute(0, 3, 1, 2)
    return {"weight": squares, "bias": delta.sum((2, 3)).square().sum(0)}


def windows2d(x: Tensor, call: Call, places: tuple[int, ...]) -> Tensor:
    """What each output of a convolution of x (B, C, H, W) sees, (B, *kernel, C, *places).

    Copied one place of the kernel at a time, in long runs: ``functional.unfold`` is slower than the products.
    """
    kernel = call.inputs["weight"].shape[2:]
    stride, padding, dilation = (_two(call.inputs[key]) for key in ("stride", "padding", "dilation"))
    wide = functional.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    reach = [stride[axis] * (places[axis] - 1) + 1 for axis in (0, 1)]
    seen = x.new_empty(len(x), *kernel, x.shape[1], *places)
    for row in range(kernel[0]):
        for column in range(kernel[1]):
            top, left = dilation[0] * row, dilation[1] * column
            seen[:, row, column] = wide[:, :, top : top + reach[0] : stride[0], left : left + reach[1] : stride[1]]
    return seen


def _products(left: Tensor, right: Tensor, most_numbers: int) -> Tensor:
    """sum_i (left_i right_i)^2 for left (B, O, T), right (B, T, I); (O, I)."""
    way, block = (_by_pairs, LONG) if left.shape[2] <= FEW else (_by_samples, CACHED)
    return way(left, right, min(most_numbers, block) if right.device.type == "cpu" else most_numbers)


def _by_samples(left: Tensor, right: Tensor, most_numbers: int) -> Tensor:
    """The products of some samples and rows at a time, squared while they are in the cache."""
    outputs, inputs = left.shape[1], right.shape[2]
    height = max(1, min(outputs, most_numbers // inputs))
    size = max(1, most_numbers // (height * inputs))
    total = right.new_zeros(outputs, inputs)
    for some, sums in zip(left.split(height, dim=1), total.split(height), strict=True):
        for one, other in zip(some.split(size), right.split(size), strict=True):
            product = torch.bmm(one, other)
            if len(product) == 1:
                sums.addcmul_(product[0], product[0])
            else:
                sums += product.square_().sum(0)
    return total


def _by_pairs(left: Tensor, right: Tensor, most_numbers: int) -> Tensor:
    """sum_st sum_i (left_is left_it) (right_is right_it), as one matrix product over samples and pairs s <= t.

    That takes T (T + 1) / 2 products of numbers where the squares of formed products take T and a trip to memory. What
    cancels may leave rounding of either sign, hence the bound.
    """
    length, total = left.shape[2], right.new_zeros(left.shape[1], right.shape[2])
    size = max(1, most_numbers // (length * (length + 1) // 2 * right.shape[2]))
    for one, other in zip(left.mT.split(size), right.split(size), strict=True):
        twice = _pairs(one)
        twice[:, length:] *= 2  # s < t also stands for t < s
        total.addmm_(twice.flatten(0, 1).T, _pairs(other).flatten(0, 1))
    return total.clamp_min_(0)


def _pairs(x: Tensor) -> Tensor:
    """Products of the rows s <= t of x (B, T, N), those with s = t first; (B, T (T + 1) / 2, N)."""
    length, place = x.shape[1], 0
    found = x.new_empty(len(x), length * (length + 1) // 2, x.shape[2])
    for shift in range(length):
        torch.mul(x[:, : length - shift], x[:, shift:], out=found[:, place : place + length - shift])
        place += length - shift
    return found


def windows(x: Tensor, call: Call) -> Tensor:
    """What each output of a convolution of x (B, C, T) sees, (B, L, C * kernel)."""
    stride, padding, dilation = (_one(call.inputs[key]) for key in ("stride", "padding", "dilation"))
    wide, kernel = functional.pad(x, (padding, padding)), call.inputs["weight"].shape[2]
    seen = wide.unfold(2, dilation * (kernel - 1) + 1, stride)[..., ::dilation]  # (B, C, L, kernel), a view
    return seen.transpose(1, 2).flatten(2)


def _layer_norm(call: Call, x: Tensor, delta: Tensor, most_numbers: int) -> dict[str, Tensor]:
    shape = tuple(call.inputs["normalized_shape"])
    normal = functional.layer_norm(x, shape, eps=call.inputs["eps"])
    return {
        key: each.reshape(len(each), -1, *shape).sum(1).square().sum(0)
        for key, each in (("weight", delta * normal), ("bias", delta))
    }


def _group_norm(call: Call, x: Tensor, delta: Tensor, most_numbers: int) -> dict[str, Tensor]:
    normal = functional.group_norm(x, call.inputs["num_groups"], eps=call.inputs["eps"])
    return {
        key: each.reshape(*each.shape[:2], -1).sum(2).square().sum(0)
        for key, each in (("weight", delta * normal), ("bias", delta))
    }


def _embedding(call: Call, x: Tensor, delta: Tensor, most_numbers: int) -> dict[str, Tensor]:
    return {"weight": torch.zeros_like(call.inputs["weight"]).index_add_(0, x, delta.square())}


@dataclass(frozen=True)
class Layer:
    """A function whose squares have a closed form.

    Attributes:
        signature: names and defaults of its arguments.
        is_supported: whether a call has the form that ``squares`` is made for.
        squares: (call, input, delta, most_numbers) -> sum of squares by argument.
    """

    signature: str
    is_supported: Callable[[Call], bool]
    squares: Callable[[Call, Tensor, Tensor, int], dict[str, Tensor]]

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments by name, with defaults."""
        parts = [part.partition("=") for part in self.signature.split()]
        given = dict(zip([name for name, _, _ in parts], args, strict=False))
        return {**{name: ast.literal_eval(value or "None") for name, _, value in parts}, **given, **kwargs}


def _is_plain_convolution(call: Call) -> bool:
    plain = call.inputs["groups"] == 1 and not isinstance(call.inputs["padding"], str)
    return plain and call.inputs["input"].ndim == call.inputs["weight"].ndim


def _is_plain_lookup(call: Call) -> bool:
    special = call.inputs["scale_grad_by_freq"] or call.inputs["sparse"]
    plain = call.inputs["padding_idx"] is None and call.inputs["max_norm"] is None and not special
    return plain and call.inputs["input"].ndim == 1


CONVOLUTION = "input weight bias stride=1 padding=0"
LAYERS: dict[Callable[..., Any], Layer] = {
    functional.linear: Layer("input weight bias", lambda c: c.inputs["input"].ndim >= 2, _linear),
    torch.conv1d: Layer(f"{CONVOLUTION} dilation=1 groups=1", _is_plain_convolution, _conv1d),
    torch.conv2d: Layer(f"{CONVOLUTION} dilation=1 groups=1", _is_plain_convolution, _conv2d),
    torch.conv_transpose1d: Layer(
        f"{CONVOLUTION} output_padding=0 groups=1 dilation=1", _is_plain_convolution, _conv_transpose1d
    ),
    functional.layer_norm: Layer(
        "input normalized_shape weight bias eps=1e-5",
        lambda c: c.inputs["input"].ndim > len(c.inputs["normalized_shape"]),
        _layer_norm,
    ),
    functional.group_norm: Layer("input num_groups weight bias eps=1e-5", lambda c: True, _group_norm),
    functional.embedding: Layer(
        "input weight padding_idx max_norm norm_type=2.0 scale_grad_by_freq=False sparse=False",
        _is_plain_lookup,
        _embedding,
    ),
}
