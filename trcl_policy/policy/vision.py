"""From pictures to features, as in diffusion_policy and robomimic: a residual network and spatial softmax.

    picture (H, W, 3) bytes -> crop (crop_size, crop_size) -> ResNet -> maps -> spatial softmax -> keypoints in [-1, 1]

The networks are those of He et al. 2016 with GroupNorm for BatchNorm (one group for 16 channels, Chi et al. 2023), so
that a moving average of the weights is a network, too. They need torch alone: timm and torchvision both import
torchvision's compiled operators, which do not load beside every build of torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

BACKBONES = {"resnet10": 1, "resnet18": 2}
"""Residual blocks in each stage."""
LEARNS = ("always", "first_task", "never")


@dataclass(frozen=True)
class Vision:
    """How a policy sees.

    Attributes:
        cameras: names of the cameras, each with an encoder of its own.
        image_size: height and width of the pictures [pixels].
        crop_size: height and width of what the encoder sees of them [pixels].
        backbone: ``resnet10`` or ``resnet18``: one or two residual blocks in a stage.
        width: channels of the first stage; each further stage has twice as many. 64 is the published ResNet.
        stages: stages used, 1 to 4; the maps of stage s are 2^(s + 1) times smaller than the crop.
        keypoints: keypoints of each camera; a picture becomes 2 numbers for each.
        learns: ``always`` with the policy, ``first_task`` before everything else and then no more, or ``never``.
    """

    cameras: tuple[str, ...]
    image_size: int = 64
    crop_size: int = 56
    backbone: str = "resnet10"
    width: int = 16
    stages: int = 2
    keypoints: int = 32
    learns: str = "first_task"

    def __post_init__(self) -> None:
        """Check every value once."""
        if not self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise ValueError(f"cameras must be different names, got {list(self.cameras)}")
        for name, accepted in (("backbone", tuple(BACKBONES)), ("learns", LEARNS)):
            if getattr(self, name) not in accepted:
                raise ValueError(f"{name} must be one of {', '.join(accepted)}, got {getattr(self, name)!r}")
        if not 1 <= self.stages <= 4:
            raise ValueError(f"stages must be in [1, 4], got {self.stages}")
        if self.width < 16 or self.width % 16:
            raise ValueError(f"width must be a multiple of 16, got {self.width}")
        if self.keypoints < 1:
            raise ValueError(f"keypoints must be >= 1, got {self.keypoints}")
        least = 2 ** (self.stages + 1) + 1  # maps of 2 x 2 at least
        if not least <= self.crop_size <= self.image_size:
            raise ValueError(
                f"crop_size must be in [{least}, image_size = {self.image_size}] for {self.stages} stages, "
                f"got {self.crop_size}"
            )

    @property
    def num_features(self) -> int:
        """Numbers that one look with all cameras becomes."""
        return 2 * self.keypoints * len(self.cameras)

    def build(self, seed: int) -> Encoder:
        """An encoder with weights drawn from ``seed``, leaving torch's global stream as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Encoder(self).eval()

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Vision:
        """What ``dataclasses.asdict`` made a document of."""
        return cls(**{**document, "cameras": tuple(document["cameras"])})


class ResidualBlock2d(nn.Module):
    """relu(skip(h) + norm(conv(relu(norm(conv(h))))))."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(outputs // 16, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(outputs // 16, outputs)
        self.skip: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            shrink = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.skip = nn.Sequential(shrink, nn.GroupNorm(outputs // 16, outputs))

    def forward(self, h: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        middle = functional.relu(self.norm1(self.conv1(h)))
        return functional.relu(self.skip(h) + self.norm2(self.conv2(middle)))


class ResNet(nn.Module):
    """Stem and the first stages of a residual network.

    Args:
        width: channels of stem and first stage.
        blocks: residual blocks in each stage.
        stages: number of stages.
    """

    def __init__(self, width: int = 64, blocks: int = 2, stages: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.norm1 = nn.GroupNorm(width // 16, width)
        sizes = [width * 2**n for n in range(stages)]
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    ResidualBlock2d(before if n == 0 else size, size, 2 if n == 0 and size > width else 1)
                    for n in range(blocks)
                )
            )
            for before, size in zip([width, *sizes], sizes, strict=False)
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, picture: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) -> maps (B, width * 2^(stages - 1), H / 2^(stages + 1), W / 2^(stages + 1))."""
        h = functional.max_pool2d(functional.relu(self.norm1(self.conv1(picture))), 3, 2, 1)
        for stage in self.stages:
            h = stage(h)
        return h


class SpatialSoftmax(nn.Module):
    """Expected places of keypoints (Finn et al. 2016): softmax over every map, then the mean coordinates under it.

    Args:
        channels: maps that come in.
        keypoints: maps, after a 1 x 1 convolution, that become a place each.
    """

    def __init__(self, channels: int, keypoints: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, keypoints, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, 2 keypoints): x and y of each in [-1, 1], x to the right and y downwards."""
        scores = self.conv(maps)
        share = scores.flatten(2).softmax(-1).view(scores.shape)
        x, y = (torch.linspace(-1, 1, size, device=maps.device) for size in (maps.shape[3], maps.shape[2]))
        places = torch.stack([(share.sum(2) * x).sum(-1), (share.sum(3) * y).sum(-1)], dim=-1)
        return places.flatten(1)


class Encoder(nn.Module):
    """Features of one look with every camera.

    Args:
        vision: how a policy sees.
    """

    def __init__(self, vision: Vision) -> None:
        super().__init__()
        channels = vision.width * 2 ** (vision.stages - 1)
        self.cameras = nn.ModuleList(
            nn.Sequential(
                ResNet(vision.width, BACKBONES[vision.backbone], vision.stages),
                SpatialSoftmax(channels, vision.keypoints),
            )
            for _ in vision.cameras
        )

    def forward(self, pictures: Tensor) -> Tensor:
        """Cropped pictures (..., cameras, h, w, 3) in 0..255 -> features (..., num_features) in [-1, 1]."""
        front, size = pictures.shape[:-4], pictures.shape[-3:]
        looks = pictures.reshape(-1, len(self.cameras), *size).movedim(-1, 2).float() / 127.5 - 1
        found = [camera(looks[:, place]) for place, camera in enumerate(self.cameras)]
        return torch.cat(found, dim=1).view(*front, -1)


def crop(pictures: Tensor, corner: Tensor, size: int) -> Tensor:
    """A square of every sample's pictures, the same for all of a sample.

    Args:
        pictures: (B, ..., H, W, 3).
        corner: (B, 2), top and left [pixels].
        size: height and width of the square [pixels].

    Returns:
        (B, ..., size, size, 3).
    """
    reach = torch.arange(size, device=pictures.device)
    top, left = (corner[:, axis, None] + reach for axis in (0, 1))
    flat = pictures.reshape(len(pictures), -1, *pictures.shape[-3:]).transpose(0, 1)
    sample = torch.arange(len(pictures), device=pictures.device)[:, None, None]
    cut = flat[:, sample, top[:, :, None], left[:, None, :]].transpose(0, 1)
    return cut.reshape(*pictures.shape[:-3], size, size, 3)


def draw_corners(count: int, vision: Vision, rng: torch.Generator) -> Tensor:
    """Top and left of random crops, (count, 2) [pixels]."""
    room = vision.image_size - vision.crop_size + 1
    return torch.randint(room, (count, 2), generator=rng, device=rng.device)


def central(pictures: Tensor, vision: Vision) -> Tensor:
    """The middle of pictures (..., image_size, image_size, 3), (..., crop_size, crop_size, 3)."""
    first = (vision.image_size - vision.crop_size) // 2
    inside = slice(first, first + vision.crop_size)
    return pictures[..., inside, inside, :]
