"""What a policy with cameras needs besides numbers: pictures out of the store, an encoder, and features of pictures.

An encoder that learns ``always`` is part of the policy. Any other stands outside it: it is drawn at random (``never``),
or learned by imitation from the first task's demonstrations before anything else (``first_task``), and is fixed from
then on. Features are then numbers like all others: they are computed once, can be generated, and never go stale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from trcl_policy.config import RunConfig
from trcl_policy.continual.learner import Method, learn
from trcl_policy.continual.streams import Streams, derive_seed
from trcl_policy.continual.tasks import Task, TaskSequence
from trcl_policy.data.layout import IMAGES
from trcl_policy.data.store import EpisodeStore
from trcl_policy.policy.controller import load_encoder
from trcl_policy.policy.normalizer import Normalizer
from trcl_policy.policy.seeing import Frames, SeeingWindows, encode, encoder_params
from trcl_policy.policy.spec import PolicySpec
from trcl_policy.policy.vision import Vision, crop, draw_corners
from trcl_policy.schema import ConfigError

BLOCK = 128
"""Steps whose pictures are encoded at a time."""


@dataclass(frozen=True)
class Steps:
    """Steps of some episodes of one task, one after another.

    Attributes:
        parts: ``observation`` (N, D) and ``action`` (N, Da), raw.
        ends: (E,) exclusive ends of the episodes.
        frames: pictures by step number; None where the policy sees none.
    """

    parts: Mapping[str, Tensor]
    ends: NDArray[np.int64]
    frames: Frames | None = None

    def between(self, first: int, last: int) -> Steps:
        """The episodes with these numbers, the last one exclusive."""
        start = int(self.ends[first - 1]) if first else 0
        stop = int(self.ends[last - 1]) if last else 0
        frames = self.frames
        later = None if frames is None else (lambda index: frames(index + start))
        return Steps({k: v[start:stop] for k, v in self.parts.items()}, self.ends[first:last] - start, later)


def make_vision(config: RunConfig, store: EpisodeStore) -> Vision | None:
    """How the run's policy sees, checked against the store; None where it has no cameras.

    Raises:
        ConfigError: the store has other cameras or sizes.
    """
    policy = config.policy
    if not policy.camera_names:
        return None
    missing = [camera for camera in policy.camera_names if camera not in store.cameras]
    if missing:
        held = ", ".join(store.cameras) or "none; collect with --cameras"
        raise ConfigError(f"policy.cameras must be among those of {store.path} ({held}), got {', '.join(missing)}")
    sizes = [store.take(f"{IMAGES}.{camera}", np.array([0])).shape[1:3] for camera in policy.camera_names]
    if len({*sizes, sizes[0][::-1]}) > 1:
        raise ConfigError(f"policy.cameras must have square pictures of one size, got {sizes} in {store.path}")
    size = int(sizes[0][0])
    if policy.image_size not in (None, size):
        raise ConfigError(f"policy.image_size must be that of {store.path}, {size} [px], got {policy.image_size}")
    wish = policy.encoder
    shape = {name: getattr(wish, name) for name in ("backbone", "width", "stages", "keypoints")}
    crop_size = policy.crop_size or round(size * 7 / 8)
    try:
        return Vision(policy.camera_names, size, crop_size, learns=config.encoder_learns, **shape)
    except ValueError as error:
        raise ConfigError(f"policy: {error}") from None


def stored_frames(store: EpisodeStore, task: str, config: RunConfig, device: torch.device) -> Frames:
    """Pictures of a task's demonstrations by step number, read when they are asked for."""
    rows = np.concatenate([np.arange(start, stop) for start, stop in store.episodes_of(task)])
    keys = [f"{IMAGES}.{camera}" for camera in config.policy.camera_names]
    cache_bytes = config.data.image_cache_mb * 2**20 // len(keys)

    def read(index: Tensor) -> Tensor:
        wanted = rows[index.cpu().numpy()]
        looks = [torch.from_numpy(store.take(key, wanted, cache_bytes)) for key in keys]
        return torch.stack(looks, dim=index.dim()).to(device)

    return read


def held_frames(images: Mapping[str, NDArray[np.uint8]], cameras: Sequence[str], device: torch.device) -> Frames:
    """Pictures (N, H, W, 3) by camera that are in memory, by step number."""
    whole = torch.from_numpy(np.stack([images[camera] for camera in cameras], axis=1)).to(device)
    return lambda index: whole[index]


def with_ranges(steps: Steps, num_features: int) -> Steps:
    """Steps whose observation has columns that span [-1, 1] in the place of features, which lie there by nature."""
    state = steps.parts["observation"]
    blank = state.new_ones(len(state), num_features)
    blank[0] = -1
    return replace(steps, parts={**steps.parts, "observation": torch.cat([state, blank], dim=1)})


def with_features(steps: Steps, spec: PolicySpec, encoder: Mapping[str, Tensor], crops: int, seed: int) -> Steps:
    """Steps whose observation also has the features of its pictures.

    The episodes come ``crops`` times: first as the policy will see them, in the middle of every picture, then with a
    random crop for each episode.
    """
    vision, frames = _sighted(spec, steps)
    eye, count = vision.build(0), len(steps.parts["action"])
    episode = np.repeat(np.arange(len(steps.ends)), np.diff(steps.ends, prepend=0))
    rng = torch.Generator().manual_seed(seed)
    middle = torch.full((len(steps.ends), 2), (vision.image_size - vision.crop_size) // 2)
    corners = [middle, *(draw_corners(len(steps.ends), vision, rng) for _ in range(crops - 1))]
    found: list[list[Tensor]] = [[] for _ in corners]
    with torch.no_grad(), tqdm(total=count, desc="features", unit="step", disable=None, leave=False) as bar:
        for start in range(0, count, BLOCK):
            index = torch.arange(start, min(start + BLOCK, count))
            pictures = frames(index.to(next(iter(encoder.values())).device))
            for place, corner in zip(found, corners, strict=True):
                cut = crop(pictures, corner[episode[index]].to(pictures.device), vision.crop_size)
                place.append(encode(eye, encoder, cut))
            bar.update(len(index))
    features = torch.cat([torch.cat(pieces) for pieces in found])
    state, action = (steps.parts[part].repeat(crops, 1) for part in ("observation", "action"))
    ends = np.concatenate([steps.ends + number * count for number in range(crops)])
    return Steps({"observation": torch.cat([state, features], dim=1), "action": action}, ends)


def _sighted(spec: PolicySpec, steps: Steps) -> tuple[Vision, Frames]:
    """How the policy sees and what; there must be both."""
    assert spec.vision is not None, "only a policy with cameras has features"
    assert steps.frames is not None, "only steps with pictures have features"
    return spec.vision, steps.frames


def make_encoder(
    config: RunConfig, spec: PolicySpec, first: Steps, device: torch.device, home: Path | None
) -> dict[str, Tensor]:
    """The weights of an encoder that does not learn with the policy.

    Args:
        config: the run's configuration.
        spec: the policy.
        first: the first task's training demonstrations.
        device: where to learn.
        home: run directory; what its checkpoints hold need not be learned again.
    """
    vision, _ = _sighted(spec, first)
    for path in sorted((home or Path()).glob("checkpoints/[0-9]*/encoder.safetensors")) if home else ():
        return load_encoder(path, vision, device)
    if vision.learns == "never":
        drawn = vision.build(derive_seed(config.seed, "encoder"))
        return {name: leaf.detach().to(device) for name, leaf in drawn.named_parameters()}
    return _learned(config, replace(spec, vision=replace(vision, learns="always")), first, device)


def _learned(config: RunConfig, spec: PolicySpec, first: Steps, device: torch.device) -> dict[str, Tensor]:
    """The encoder of a policy that learned the first task alone, by imitation."""
    vision, frames = _sighted(spec, first)
    wide = with_ranges(first, vision.num_features)
    sizes = {"observation": spec.shape.observation_dim, "action": spec.shape.action_dim}
    normalizer = Normalizer.empty(sizes, len(spec.tasks)).fitted(
        0, {part: value.cpu() for part, value in wide.parts.items()}, config.policy.min_range
    )
    scaled = {part: normalizer.normalize(part, value, 0) for part, value in wide.parts.items()}
    scaled["observation"] = scaled["observation"][:, : len(spec.observation_indices)]
    shape = replace(spec.shape, guided=False)
    windows = SeeingWindows(scaled, first.ends, 0, shape, frames)
    task = Task("encoder", windows, {"task": torch.tensor([0], device=device)})
    model = replace(spec, shape=shape).model(derive_seed(config.seed, "encoder network"), device, config.precision)
    params = {name: leaf.detach() for name, leaf in model.net.named_parameters()}
    wish = config.policy.encoder
    steps = wish.steps or config.training.steps
    training = replace(config.training, steps=steps, batch_size=wish.batch_size)
    streams = Streams(derive_seed(config.seed, "encoder"), device)
    with tqdm(total=steps, desc="encoder", unit="step", disable=None) as bar:
        for snapshot in learn(model, params, TaskSequence((task,)), Method(), training, streams, 10):
            bar.update(snapshot.position.step - bar.n)
    return encoder_params(snapshot.params)
