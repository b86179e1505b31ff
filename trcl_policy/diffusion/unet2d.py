"""diffusers' 2-D U-Net as a network over flat rows, with attention that torch.func can vmap."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor, nn

TIMESTEPS = 1000
"""Levels in [0, 1] are spread over this range, for which the sinusoidal embedding was made."""
RESAMPLINGS = ("conv", "resnet")


class Unet2d(nn.Module):
    """diffusers' ``UNet2DModel``, conditioned on one noise level and one label a sample.

    Args:
        shape: channels C, height H and width W of a sample.
        num_labels: labels that the embedding has room for.
        channels: channels of the levels; each level but the last halves the height and the width.
        layers_per_block: residual layers of a level.
        attention_at: levels with self-attention, 0 being the finest; the middle always has it.
        head_dim: size of an attention head.
        norm_groups: groups of the group norms.
        resampling: ``conv`` or ``resnet`` between levels.

    Raises:
        ValueError: the sizes do not fit each other.
    """

    def __init__(
        self,
        shape: Sequence[int],
        num_labels: int,
        channels: Sequence[int],
        layers_per_block: int = 2,
        attention_at: Collection[int] = (1,),
        head_dim: int = 8,
        norm_groups: int = 32,
        resampling: str = "conv",
    ) -> None:
        super().__init__()
        check_sizes(shape, channels, attention_at, head_dim, norm_groups)
        self.shape = tuple(shape)
        attended = [level in attention_at for level in range(len(channels))]
        self.unet = _unet(
            in_channels=shape[0],
            out_channels=shape[0],
            sample_size=shape[1],
            num_class_embeds=num_labels,
            block_out_channels=tuple(channels),
            layers_per_block=layers_per_block,
            down_block_types=tuple("AttnDownBlock2D" if here else "DownBlock2D" for here in attended),
            up_block_types=tuple("AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attended)),
            attention_head_dim=head_dim,
            norm_num_groups=norm_groups,
            downsample_type=resampling,
            upsample_type=resampling,
        )

    def forward(self, x: Tensor, level: Tensor, label: Tensor) -> Tensor:
        """Rows (B, C*H*W), levels (B, 1) in [0, 1], labels (B,) -> (B, C*H*W)."""
        planes = x.unflatten(1, self.shape)
        made = self.unet(planes, level[:, 0] * TIMESTEPS, class_labels=label, return_dict=False)[0]
        return made.flatten(1)


def check_sizes(
    shape: Sequence[int], channels: Sequence[int], attention_at: Collection[int], head_dim: int, norm_groups: int
) -> None:
    """Refuse sizes that do not fit each other; raises ValueError."""
    step = 2 ** (len(channels) - 1)
    if shape[1] % step or shape[2] % step:
        raise ValueError(f"size must be divisible by {step} for {len(channels)} levels, got {tuple(shape[1:])}")
    if any(width % norm_groups for width in channels):
        raise ValueError(f"channels must be multiples of norm_groups = {norm_groups}, got {list(channels)}")
    if any(not 0 <= level < len(channels) for level in attention_at):
        raise ValueError(f"attention_at must be levels in [0, {len(channels)}), got {sorted(attention_at)}")
    attended = [channels[-1], *(channels[level] for level in attention_at)]
    if any(width % head_dim for width in attended):
        raise ValueError(f"head_dim must divide the channels {attended} of levels with attention, got {head_dim}")


def _unet(**options: Any) -> nn.Module:
    """The U-Net with the written-out attention: fused attention has no batching rule and would run sample by sample."""
    from diffusers import UNet2DModel
    from diffusers.models.attention_processor import Attention, AttnProcessor

    unet: nn.Module = UNet2DModel(**options)
    for module in unet.modules():
        if isinstance(module, Attention):
            module.set_processor(AttnProcessor())
    return unet
