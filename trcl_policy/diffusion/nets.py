"""Denoising networks: a small residual MLP for CPUs and the paper's 1-D conditional U-Net.

Both map rows x (B, F) made of an observation history and a chunk of actions, one noise level for each of the two and a
task index to a prediction for the whole row. They use no operation that torch.func can't vmap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class FourierFeatures(nn.Module):
    """Sine and cosine of a number in [0, 1] at ``dim / 2`` frequencies from 1 to ``max_frequency`` cycles."""

    frequencies: Tensor

    def __init__(self, dim: int, max_frequency: float = 50.0) -> None:
        super().__init__()
        powers = torch.linspace(0, math.log(max_frequency), dim // 2).exp()
        self.register_buffer("frequencies", math.pi * powers, persistent=False)

    def forward(self, value: Tensor) -> Tensor:
        """(B, K) -> (B, K * dim)."""
        angles = value[..., None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)


class Conditioning(nn.Module):
    """Noise levels and task as one vector (B, dim)."""

    def __init__(self, num_levels: int, num_tasks: int, dim: int) -> None:
        super().__init__()
        self.features = FourierFeatures(32)
        self.task = nn.Embedding(num_tasks, dim)
        self.mix = nn.Sequential(nn.Linear(32 * num_levels + dim, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, level: Tensor, task: Tensor) -> Tensor:
        """Levels (B, K) in [0, 1] and task indices (B,) -> (B, dim)."""
        return self.mix(torch.cat([self.features(level), self.task(task)], dim=1))


class ResidualBlock(nn.Module):
    """h + W2 silu(W1 norm(h) + Wc c)."""

    def __init__(self, width: int, condition_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.rise = nn.Linear(width, 2 * width)
        self.condition = nn.Linear(condition_dim, 2 * width)
        self.fall = nn.Linear(2 * width, width)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        """(B, width) -> (B, width)."""
        return h + self.fall(functional.silu(self.rise(self.norm(h)) + self.condition(condition)))


class ResidualMLP(nn.Module):
    """A residual MLP over the whole row.

    Args:
        sizes: sizes of the parts of a row.
        num_tasks: tasks the embedding has room for.
        width: size of the residual stream.
        depth: number of residual blocks.
        condition_dim: size of the conditioning vector.
    """

    def __init__(
        self, sizes: Sequence[int], num_tasks: int, width: int = 256, depth: int = 2, condition_dim: int = 64
    ) -> None:
        super().__init__()
        self.condition = Conditioning(len(sizes), num_tasks, condition_dim)
        self.enter = nn.Linear(sum(sizes), width)
        self.blocks = nn.ModuleList(ResidualBlock(width, condition_dim) for _ in range(depth))
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, sum(sizes)))

    def forward(self, x: Tensor, level: Tensor, task: Tensor) -> Tensor:
        """Rows (B, F), levels (B, K), tasks (B,) -> (B, F)."""
        condition = self.condition(level, task)
        h = self.enter(x)
        for block in self.blocks:
            h = block(h, condition)
        return self.leave(h)


class FilmBlock1d(nn.Module):
    """Two convolutions with GroupNorm; scale and shift of the first come from the condition (FiLM)."""

    def __init__(self, inputs: int, outputs: int, condition_dim: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv1d(inputs, outputs, kernel, padding=kernel // 2), nn.GroupNorm(groups, outputs)
        )
        self.second = nn.Sequential(
            nn.Conv1d(outputs, outputs, kernel, padding=kernel // 2), nn.GroupNorm(groups, outputs)
        )
        self.film = nn.Sequential(nn.Mish(), nn.Linear(condition_dim, 2 * outputs))
        self.skip = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        """(B, inputs, L) -> (B, outputs, L)."""
        scale, shift = self.film(condition)[:, :, None].chunk(2, dim=1)
        middle = functional.mish(self.first(h)) * (1 + scale) + shift
        return functional.mish(self.second(middle)) + self.skip(h)


class Attention1d(nn.Module):
    """Residual multi-head self-attention along the sequence, written out so that torch.func can vmap it."""

    def __init__(self, channels: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.out = nn.Conv1d(channels, channels, 1)

    def forward(self, h: Tensor) -> Tensor:
        """(B, channels, L) -> (B, channels, L)."""
        batch, channels, length = h.shape
        shape = (batch, self.heads, channels // self.heads, length)
        query, key, value = (piece.reshape(shape) for piece in self.qkv(self.norm(h)).chunk(3, dim=1))
        scores = torch.einsum("bhcq,bhck->bhqk", query, key) / math.sqrt(shape[2])
        mixed = torch.einsum("bhqk,bhck->bhcq", scores.softmax(-1), value)
        return h + self.out(mixed.reshape(batch, channels, length))


class Level1d(nn.Module):
    """Two FiLM blocks and, at the deeper levels, attention."""

    def __init__(self, inputs: int, outputs: int, condition_dim: int, kernel: int, groups: int, heads: int) -> None:
        super().__init__()
        self.first = FilmBlock1d(inputs, outputs, condition_dim, kernel, groups)
        self.second = FilmBlock1d(outputs, outputs, condition_dim, kernel, groups)
        self.attention = Attention1d(outputs, heads, groups) if heads else nn.Identity()

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        """(B, inputs, L) -> (B, outputs, L)."""
        return self.attention(self.second(self.first(h, condition), condition))


class ConditionalUnet1d(nn.Module):
    """The 1-D conditional U-Net of diffusion policies over the chunk of actions (Chi et al. 2023; paper, section 5).

    The flattened observation history joins noise levels and task in the FiLM condition. A small head on the condition
    and the pooled bottleneck predicts the observation part, which makes the same network the generator of both.

    Args:
        sizes: sizes of the parts of a row: the observation history, whatever else there is, and last the actions.
        num_tasks: tasks the embedding has room for.
        horizon: number of actions in a chunk, divisible by 2^(levels - 1).
        channels: channels of the levels.
        kernel: kernel size.
        groups: groups of GroupNorm.
        attention_levels: how many of the deepest levels have self-attention.
        heads: attention heads.
        condition_dim: size of the noise-level and task embedding.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        num_tasks: int,
        horizon: int,
        channels: Sequence[int] = (256, 512, 1024),
        kernel: int = 5,
        groups: int = 8,
        attention_levels: int = 2,
        heads: int = 8,
        condition_dim: int = 256,
    ) -> None:
        super().__init__()
        action = sizes[-1]
        observation = sum(sizes) - action
        if horizon % 2 ** (len(channels) - 1):
            raise ValueError(
                f"horizon must be divisible by {2 ** (len(channels) - 1)} for {len(channels)} levels, got {horizon}"
            )
        self.sizes, self.horizon = (observation, action), horizon
        action_dim, depth = action // horizon, len(channels)
        self.condition = Conditioning(len(sizes), num_tasks, condition_dim)
        film_dim = condition_dim + observation

        def level(inputs: int, outputs: int, place: int) -> Level1d:
            return Level1d(inputs, outputs, film_dim, kernel, groups, heads if place >= depth - attention_levels else 0)

        entries = [action_dim, *channels[:-1]]
        self.down = nn.ModuleList(level(i, o, n) for n, (i, o) in enumerate(zip(entries, channels, strict=True)))
        self.shrink = nn.ModuleList(nn.Conv1d(c, c, 3, stride=2, padding=1) for c in channels[:-1])
        self.middle = level(channels[-1], channels[-1], depth)
        self.grow = nn.ModuleList(
            nn.ConvTranspose1d(channels[n], channels[n - 1], 4, stride=2, padding=1) for n in reversed(range(1, depth))
        )
        self.up = nn.ModuleList(level(2 * channels[n], channels[n], n) for n in reversed(range(depth - 1)))
        self.leave = nn.Conv1d(channels[0], action_dim, 1)
        self.observe = nn.Sequential(
            nn.Linear(film_dim + channels[-1], condition_dim), nn.SiLU(), nn.Linear(condition_dim, observation)
        )

    def forward(self, x: Tensor, level: Tensor, task: Tensor) -> Tensor:
        """Rows (B, F), levels (B, K), tasks (B,) -> (B, F)."""
        observation, action = x.split(self.sizes, dim=1)
        condition = torch.cat([self.condition(level, task), observation], dim=1)
        h = action.reshape(len(x), self.horizon, -1).transpose(1, 2)
        kept = []
        for place, block in enumerate(self.down):
            h = block(h, condition)
            if place < len(self.shrink):
                kept.append(h)
                h = self.shrink[place](h)
        h = self.middle(h, condition)
        observed = self.observe(torch.cat([condition, h.mean(-1)], dim=1))
        for block, grow in zip(self.up, self.grow, strict=True):
            h = block(torch.cat([grow(h), kept.pop()], dim=1), condition)
        acted = self.leave(h).transpose(1, 2).flatten(1)
        return torch.cat([observed, acted], dim=1)
