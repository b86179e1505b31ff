"""A denoising network as a model of the continual core, for samples of any shape made of named parts."""

from __future__ import annotations

import copy
import types
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from trcl_policy.continual.params import Batch, Params, num_rows
from trcl_policy.diffusion.guidance import UNGUIDED, Guidance
from trcl_policy.diffusion.process import Process

PRECISIONS = ("fp32", "bf16")


class Denoiser:
    """Implements ``continual.model.Model`` for a network that denoises rows.

    A sample is a row x (F,) that joins the flattened parts in order. Every part has its OWN noise level, so one network
    serves every conditional of the joint distribution: a part at level 0 is given, the others are predicted.

    Args:
        net: ``net(x (B, F), level (B, K) in [0, 1], **conditions) -> (B, F)``.
        process: schedule and samplers.
        parts: size of each of the K parts by the name of its batch key.
        conditions: batch keys passed to the network as they are.
        precision: ``fp32``, or ``bf16`` for autocast in the network (weights and losses stay fp32).
        compile: compile the network with torch.compile.
        guidance: classifier-free guidance of what is generated.
        hidden: the value of each condition that guidance can hide that means "not told".
    """

    def __init__(
        self,
        net: nn.Module,
        process: Process,
        parts: Mapping[str, int],
        conditions: Sequence[str],
        precision: str = "fp32",
        compile: bool = False,
        guidance: Guidance = UNGUIDED,
        hidden: Mapping[str, int] = types.MappingProxyType({}),
    ) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
        self.net, self.process = net, process
        self.parts, self.conditions = dict(parts), tuple(conditions)
        self.precision, self.guidance, self.hidden = precision, guidance, hidden
        self._apply = torch.compile(self._call) if compile else self._call

    def _call(self, params: dict[str, Tensor], x: Tensor, level: Tensor, condition: dict[str, Tensor]) -> Tensor:
        return functional_call(self.net, params, (x, level), condition)

    def precise(self) -> Denoiser:
        """This model in fp32: autocast breaks under torch.func, and differences of its gradients are all rounding."""
        if self.precision == "fp32":
            return self
        other = copy.copy(self)
        other.precision = "fp32"
        return other

    def _network(self, params: Params, x: Tensor, level: Tensor, batch: Batch) -> Tensor:
        """Network output (B, F) in fp32 for integer levels (B, K)."""
        autocast: Any = torch.autocast(x.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()
        condition = {key: batch[key] for key in self.conditions}
        with autocast:
            output = self._apply(dict(params), x, level / self.process.num_levels, condition)
        return output.float() if self.precision == "bf16" else output

    def pack(self, batch: Batch) -> Tensor:
        """Parts of ``batch`` side by side, (B, F)."""
        return torch.cat([batch[name].flatten(1) for name in self.parts], dim=1)

    def unpack(self, x: Tensor) -> dict[str, Tensor]:
        """Parts of rows ``x`` (B, F) by name, each (B, size)."""
        return dict(zip(self.parts, x.split(list(self.parts.values()), dim=1), strict=True))

    def draw_levels(self, count: int, rng: torch.Generator) -> Tensor:
        """Noise levels (B, K): uniform in 1..T, the same for all parts."""
        level = torch.randint(1, self.process.num_levels + 1, (count, 1), generator=rng, device=rng.device)
        return level.expand(count, len(self.parts))

    def spread(self, per_part: Tensor) -> Tensor:
        """Repeat one value a part (B, K) over the part's elements, (B, F)."""
        sizes = torch.tensor(list(self.parts.values()), device=per_part.device)
        return per_part.repeat_interleave(sizes, dim=1, output_size=sum(self.parts.values()))

    def corrupt(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        """Draw levels, noise and, with guidance, which samples' conditions are hidden.

        Returns ``noisy`` and ``target`` (B, F), ``level`` (B, K), ``weight`` (B, K) and the condition keys. A part at
        level 0 weighs nothing; the weights of a sample are divided by its number of noisy parts.
        """
        clean = self.pack(batch)
        level = self.draw_levels(len(clean), rng)
        noise = torch.randn(clean.shape, generator=rng, device=rng.device)
        wide = self.spread(level)
        weight = self.process.weights[level] / (level > 0).sum(1, keepdim=True).clamp_min(1)
        corrupted = {
            "noisy": self.process.corrupt(clean, noise, wide),
            "target": self.process.target(clean, noise, wide),
            "level": level,
            "weight": weight,
            **{key: batch[key] for key in self.conditions},
        }
        if self.guidance.label_dropout:
            chosen = torch.rand(len(clean), generator=rng, device=rng.device) < self.guidance.label_dropout
            chosen &= self.may_be_hidden(level)
            corrupted |= {key: batch[key].masked_fill(chosen, value) for key, value in self.hidden.items()}
        return corrupted

    def may_be_hidden(self, level: Tensor) -> Tensor:
        """Samples (B,) whose conditions guidance may hide, by their levels (B, K)."""
        return torch.ones_like(level[:, 0], dtype=torch.bool)

    def noise_level(self, corrupted: Batch) -> Tensor:
        """Level of each sample's noisiest part, (B,) in [0, 1]."""
        return corrupted["level"].amax(1) / self.process.num_levels

    def predict(self, params: Params, corrupted: Batch) -> Tensor:
        """Network output (B, F) at the corrupted samples."""
        return self._network(params, corrupted["noisy"], corrupted["level"], corrupted)

    def losses(self, params: Params, corrupted: Batch) -> Tensor:
        """Weighted mean squared error of each sample (B,): mean within a part, weighted sum over parts."""
        squares = (self.predict(params, corrupted) - corrupted["target"]).square()
        means = [piece.mean(1) for piece in squares.split(list(self.parts.values()), dim=1)]
        return (torch.stack(means, dim=1) * corrupted["weight"]).sum(1)

    def generate(self, params: Params, condition: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        """One sample per row of ``condition``: all parts by name, and the condition keys.

        A part that is among the leaves of ``condition`` is given, not generated.
        """
        given = {name: condition[name] for name in self.parts if name in condition}
        free = sum(size for name, size in self.parts.items() if name not in given)
        noise = torch.randn(num_rows(condition), free, generator=rng, device=rng.device)
        made = self.sample(params, condition, given, noise, self.process.config.replay_steps, rng)
        return {**made, **{key: condition[key] for key in self.conditions}}

    def denoise(self, params: Params, x: Tensor, level: Tensor, condition: Batch) -> Tensor:
        """Guided network output (B, F) for integer levels (B, K)."""
        scale = self.guidance.scale
        if scale == 1:
            return self._network(params, x, level, condition)
        none = {key: torch.full_like(condition[key], value) for key, value in self.hidden.items()}
        both = {key: torch.cat([none.get(key, condition[key]), condition[key]]) for key in self.conditions}
        without, given = self._network(params, x.repeat(2, 1), level.repeat(2, 1), both).chunk(2)
        return without + scale * (given - without)

    def sample(
        self,
        params: Params,
        condition: Batch,
        given: Batch,
        noise: Tensor,
        num_steps: int,
        rng: torch.Generator | Sequence[torch.Generator],
        guided: bool = True,
    ) -> dict[str, Tensor]:
        """Sample the parts that are not ``given``.

        Args:
            params: weights.
            condition: leaves (B, ...) for the network.
            given: clean parts (B, size) by name, held fixed at level 0.
            noise: (B, sum of the sizes of the other parts), standard normal.
            num_steps: sampler steps.
            rng: for samplers that draw noise on the way; one generator, or one per row.
            guided: use the guidance, if there is one.
        """
        network = self.denoise if guided else self._network
        free = [name for name in self.parts if name not in given]
        sizes = [self.parts[name] for name in free]
        is_free = torch.tensor([[name not in given for name in self.parts]], device=noise.device)

        def predict(current: Tensor, level: int) -> Tensor:
            pieces = dict(zip(free, current.split(sizes, dim=1), strict=True))
            x = self.pack({**given, **pieces})
            levels = (is_free * level).expand(len(x), -1)
            output = self.unpack(network(params, x, levels, condition))
            return torch.cat([output[name] for name in free], dim=1)

        with torch.no_grad():
            made = self.process.sample(predict, noise, num_steps, rng)
        return {**given, **dict(zip(free, made.split(sizes, dim=1), strict=True))}
