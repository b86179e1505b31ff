"""What a policy is shown at a step: an array of numbers, or a dict with pictures, as users of lerobot are used to.

    {"observation.state": (Do,) or (B, Do), "observation.images.<camera>": (H, W, 3) or (B, H, W, 3) bytes}

Pictures may also come as lerobot has them: floats in [0, 1], channels first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trcl_policy.data.layout import IMAGES, STATE
from trcl_policy.policy.vision import Vision

Look = np.ndarray | Tensor | Mapping[str, Any]


@dataclass(frozen=True)
class Seen:
    """A look as tensors.

    Attributes:
        state: (..., Do) float32.
        pictures: (..., cameras, H, W, 3) uint8; None where there were none.
    """

    state: Tensor
    pictures: Tensor | None = None


def read_look(look: Look, vision: Vision | None, num_axes: int | None = None) -> Seen:
    """``look`` as tensors; pictures that the policy has no use for are left out.

    Args:
        look: see the module.
        vision: how the policy sees; None where it sees no pictures.
        num_axes: axes that the state must have; None for any.

    Raises:
        ValueError: a key is missing, or an array has another shape than it must; the message says which.
    """
    if not isinstance(look, Mapping):
        if vision is not None:
            keys = ", ".join([STATE, *(f"{IMAGES}.{camera}" for camera in vision.cameras)])
            raise ValueError(f"observation must be a dict with {keys}, got {type(look).__name__}")
        return Seen(torch.as_tensor(np.asarray(look), dtype=torch.float32))
    if STATE not in look:
        raise ValueError(f"observation must hold {STATE}, got {', '.join(map(str, look)) or 'nothing'}")
    state = torch.as_tensor(np.asarray(look[STATE]), dtype=torch.float32)
    if num_axes is not None and state.dim() != num_axes:
        raise ValueError(f"{STATE} must have {num_axes} axes, got shape {tuple(state.shape)}")
    shown = [f"{IMAGES}.{camera}" for camera in (vision.cameras if vision else ())]
    if vision is None or not any(key in look for key in shown):
        return Seen(state)
    missing = [key for key in shown if key not in look]
    if missing:
        raise ValueError(f"observation must hold the pictures of every camera, got none for {', '.join(missing)}")
    front = tuple(state.shape[:-1])
    pictures = [_bytes(look[key], (*front, vision.image_size, vision.image_size, 3), key) for key in shown]
    return Seen(state, torch.stack(pictures, dim=len(front)))


def _bytes(value: Any, shape: tuple[int, ...], key: str) -> Tensor:
    """Pictures of this shape, uint8."""
    picture = torch.as_tensor(np.asarray(value))
    came = tuple(picture.shape)
    if picture.is_floating_point() and picture.dim() == len(shape):
        picture = (picture.movedim(-3, -1) * 255).round().clamp(0, 255).to(torch.uint8)
    if tuple(picture.shape) != shape or picture.dtype != torch.uint8:
        lerobots = (*shape[:-3], 3, *shape[-3:-1])
        raise ValueError(f"{key} must be bytes {shape}, or floats in [0, 1] {lerobots}, got {picture.dtype} {came}")
    return picture


def spell_look(state: Tensor, pictures: Tensor | None, vision: Vision | None) -> Tensor | dict[str, Tensor]:
    """The inverse of ``read_look``: an array, or a dict where the policy sees."""
    if vision is None or pictures is None:
        return state if vision is None else {STATE: state}
    axis = state.dim() - 1
    return {STATE: state, **{f"{IMAGES}.{c}": pictures.select(axis, n) for n, c in enumerate(vision.cameras)}}
