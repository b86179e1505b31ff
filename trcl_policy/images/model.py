"""The diffusion model of labelled images, with optional classifier-free guidance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from trcl_policy.diffusion.denoiser import Denoiser
from trcl_policy.diffusion.guidance import UNGUIDED, Guidance
from trcl_policy.diffusion.process import Diffusion, Process
from trcl_policy.diffusion.unet2d import RESAMPLINGS, Unet2d, check_sizes


@dataclass(frozen=True)
class ImageNetwork:
    """Size of diffusers' 2-D U-Net.

    Attributes:
        channels: channels of the levels, finest first; each level but the last halves height and width.
        layers_per_block: residual layers of a level.
        attention_at: levels with self-attention, 0 being the finest; the middle always has it.
        head_dim: size of an attention head.
        norm_groups: groups of the group norms; divides all channels.
        resampling: ``conv`` or ``resnet`` between levels.
    """

    channels: tuple[int, ...] = (32, 64)
    layers_per_block: int = 1
    attention_at: tuple[int, ...] = ()
    head_dim: int = 8
    norm_groups: int = 8
    resampling: str = "conv"

    def __post_init__(self) -> None:
        """Check every value once."""
        for name in ("layers_per_block", "head_dim", "norm_groups"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if not self.channels or min(self.channels) < 1:
            raise ValueError(f"channels must be at least one number >= 1, got {list(self.channels)}")
        if self.resampling not in RESAMPLINGS:
            raise ValueError(f"resampling must be one of {', '.join(RESAMPLINGS)}, got {self.resampling!r}")
        any_size = 2 ** len(self.channels)
        check_sizes((1, any_size, any_size), self.channels, self.attention_at, self.head_dim, self.norm_groups)

    def build(self, shape: Sequence[int], num_labels: int, seed: int) -> nn.Module:
        """The network for images of ``shape`` (C, H, W), its weights from ``seed``; torch's global stream is left."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Unet2d(
                shape,
                num_labels,
                self.channels,
                self.layers_per_block,
                self.attention_at,
                self.head_dim,
                self.norm_groups,
                self.resampling,
            ).eval()


class ImageModel(Denoiser):
    """A denoiser of images given their label.

    Batches hold ``x`` (B, C*H*W) in [-1, 1] and ``label`` (B,). The label after the last one, ``num_labels``, means
    that the label is hidden.

    Args:
        net: network over flat images with room for ``num_labels + 1`` labels.
        diffusion: the diffusion process.
        shape: channels, height and width.
        num_labels: number of labels.
        guidance: classifier-free guidance.
        device: where the schedule's tables live.
        precision: see ``Denoiser``.
        compile: see ``Denoiser``.
    """

    def __init__(
        self,
        net: nn.Module,
        diffusion: Diffusion,
        shape: Sequence[int],
        num_labels: int,
        guidance: Guidance = UNGUIDED,
        device: torch.device | str = "cpu",
        precision: str = "fp32",
        compile: bool = False,
    ) -> None:
        hidden = {"label": num_labels}
        super().__init__(
            net, Process(diffusion, device), {"x": prod(shape)}, ("label",), precision, compile, guidance, hidden
        )
        self.shape, self.num_labels = tuple(shape), num_labels

    def planes(self, x: Tensor) -> Tensor:
        """Flat rows (B, C*H*W) as images (B, C, H, W)."""
        return x.unflatten(1, self.shape)
