"""A policy whose encoder learns with it, as a model of the continual core; and windows with pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from trcl_policy.continual.params import Batch, Params
from trcl_policy.diffusion.process import Diffusion
from trcl_policy.policy.trajectory import TrajectoryModel
from trcl_policy.policy.vision import Encoder, Vision, crop, draw_corners
from trcl_policy.policy.windows import Shape, Windows

ENCODER = "encoder."
Frames = Callable[[Tensor], Tensor]
"""Step numbers of any shape -> the pictures of these steps (..., cameras, H, W, 3) uint8, on the same device."""


class SeeingNet(nn.Module):
    """An encoder and the network that sees its features; called as the latter."""

    def __init__(self, encoder: Encoder, trunk: nn.Module) -> None:
        super().__init__()
        self.encoder, self.trunk = encoder, trunk

    def forward(self, x: Tensor, level: Tensor, task: Tensor) -> Tensor:
        """Rows (B, F), levels (B, K), tasks (B,) -> (B, F)."""
        return self.trunk(x, level, task)


def encoder_params(params: Params) -> dict[str, Tensor]:
    """The encoder's weights among those of a ``SeeingNet``, under the encoder's own names."""
    return {name.removeprefix(ENCODER): leaf for name, leaf in params.items() if name.startswith(ENCODER)}


def encode(encoder: Encoder, params: Params, pictures: Tensor) -> Tensor:
    """Features (..., num_features) of cropped pictures (..., cameras, h, w, 3) under the encoder's ``params``."""
    return functional_call(encoder, dict(params), (pictures,))


class SeeingModel(TrajectoryModel):
    """The policy p(a | o, task), o = (state, features of pictures), where the encoder's weights are the model's own.

    It generates no observations: what they are would change with every step of the encoder. So every training sample
    trains the policy, and the observation's part of targets and predictions is zero.

    Samples have ``observation`` (B, n_obs_steps * state entries), normalised, and ``pictures`` (B, n_obs_steps,
    cameras, H, W, 3) bytes; corrupted ones have random crops, so that ``losses`` draws nothing.

    Args:
        net: encoder and network.
        diffusion: the diffusion process.
        shape: sizes of a window; its observation is the state and the features.
        vision: how the policy sees.
        options: see ``Denoiser``.
    """

    def __init__(self, net: SeeingNet, diffusion: Diffusion, shape: Shape, vision: Vision, **options: Any) -> None:
        super().__init__(net, diffusion, shape, 1.0, **options)
        self.vision, self.encoder = vision, net.encoder
        self.size = shape.parts["observation"]

    def corrupt(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        """Draw levels, noise and crops; see ``Denoiser.corrupt``. ``noisy`` has zeros in the place of the features."""
        count, steps = len(batch["pictures"]), self.shape.n_obs_steps
        state = batch["observation"].view(count, steps, -1)
        blank = state.new_zeros(count, steps, self.vision.num_features)
        full = torch.cat([state, blank], dim=2).flatten(1)
        corrupted = super().corrupt({**batch, "observation": full}, rng)
        corrupted["target"][:, : self.size] = 0
        cut = crop(batch["pictures"], draw_corners(count, self.vision, rng), self.vision.crop_size)
        return {**corrupted, "pictures": cut}

    def predict(self, params: Params, corrupted: Batch) -> Tensor:
        """Network output (B, F) at the corrupted samples; zero for the observation, which is given."""
        features = encode(self.encoder, encoder_params(params), corrupted["pictures"])
        given, rest = corrupted["noisy"][:, : self.size], corrupted["noisy"][:, self.size :]
        state = given.reshape(*features.shape[:2], -1)[..., : -self.vision.num_features]
        seen = torch.cat([state, features], dim=2).flatten(1)
        output = self._network(params, torch.cat([seen, rest], dim=1), corrupted["level"], corrupted)
        return torch.cat([torch.zeros_like(seen), output[:, self.size :]], dim=1)

    def generate(self, params: Params, condition: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        """Never: see the class.

        Raises:
            ValueError: always.
        """
        raise ValueError("replay must be stored or rolled out where the encoder learns always, got generated")


class SeeingWindows(Windows):
    """Windows that also have the pictures of their observation history.

    Args:
        arrays: ``observation`` (N, state entries) and ``action`` (N, Da), normalised; episodes one after another.
        episode_ends: (E,) exclusive ends of the episodes.
        task: index of the task.
        shape: sizes of a window.
        frames: pictures by step number 0..N - 1.
    """

    def __init__(
        self, arrays: Mapping[str, Tensor], episode_ends: np.ndarray, task: int, shape: Shape, frames: Frames
    ) -> None:
        super().__init__(arrays, episode_ends, task, shape)
        self.frames = frames

    def gather(self, index: Tensor) -> Batch:
        """As ``Windows.gather``, with ``pictures`` (B, n_obs_steps, cameras, H, W, 3) uint8."""
        return {**super().gather(index), "pictures": self.frames(self.history(index))}
