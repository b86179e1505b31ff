"""A trained policy as something that acts: receding horizon, ranges, files.

n_obs_steps observations -> horizon predicted actions -> the first n_action_steps are executed, then it looks again
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from trcl_policy.continual.params import Layout, Params
from trcl_policy.continual.streams import derive_seed
from trcl_policy.files import read_json, read_safetensors, write_json, write_safetensors
from trcl_policy.policy.acting import AS_SAVED, Acting
from trcl_policy.policy.looks import Look, Seen, read_look, spell_look
from trcl_policy.policy.normalizer import Normalizer
from trcl_policy.policy.ownership import Ownership, load_ownership
from trcl_policy.policy.seeing import encode, encoder_params
from trcl_policy.policy.spec import PolicySpec
from trcl_policy.policy.trajectory import TrajectoryModel
from trcl_policy.policy.vision import Encoder, Vision, central

__all__ = ["ROWS", "Acting", "Ownership", "Policy", "PolicySpec", "load_encoder", "load_policy"]

ROWS = 32
"""The network always sees this many rows, padded: matrix products round differently for different numbers of rows, and
so an episode would depend on how many others run beside it."""


class Policy:
    """A policy for all tasks of a sequence; ``reset`` chooses the task it acts on.

    Args:
        spec: how it is built.
        model: the joint model, on the device to run on.
        params: weights.
        normalizer: ranges.
        ownership: which weights belong to which task; None where all tasks share all.
        encoder: the encoder's weights, where the policy sees and they are not among its own.
    """

    def __init__(
        self,
        spec: PolicySpec,
        model: TrajectoryModel,
        params: Params,
        normalizer: Normalizer,
        ownership: Ownership | None = None,
        encoder: Params | None = None,
    ) -> None:
        self.spec, self.model, self.params, self.normalizer = spec, model, params, normalizer
        self.ownership, self.encoder = ownership, encoder
        self._eye: Encoder | None = None
        self.device = next(iter(params.values())).device
        learned = self.learned_tasks
        self._task = spec.tasks.index(learned[-1]) if learned else 0
        self.reset()

    def reset(self, task: str | None = None, seeds: Sequence[int] = ()) -> None:
        """Forget the episode.

        Args:
            task: task to act on; None stays with the last one chosen, at first the last one learned.
            seeds: one per row of the coming observations: noise stream of that row's episode. Rows without one use
                their own number as seed.

        Raises:
            ValueError: the task is not one of the sequence, or was never learned.
        """
        index = self._task if task is None else self._index(task)
        if not self.normalizer.knows(index):
            raise ValueError(
                f"task must be a learned one ({', '.join(self.learned_tasks)}), got {self.spec.tasks[index]!r}"
            )
        self._task, self._weights = index, self.params_of(index)
        self._seeds = tuple(seeds)
        self._rngs: list[torch.Generator] = []
        self._history: Tensor | None = None
        self._pictures: list[Tensor | None] = []
        self._chunk: Tensor | None = None
        self._used = 0

    @property
    def needs_pictures(self) -> bool:
        """Whether the next ``select_action`` has a use for pictures: they are part of the history it next looks at."""
        left = 0 if self._chunk is None else self.spec.n_action_steps - self._used
        return self.spec.vision is not None and left < self.spec.shape.n_obs_steps

    @property
    def owner(self) -> Tensor | None:
        """The visit that each weight belongs to, flat (P,); None where all tasks share all."""
        return None if self.ownership is None else Layout.of(self.params).flatten(self.ownership.owner)

    def params_of(self, task: int) -> Params:
        """The weights that the task with this index uses."""
        return self.params if self.ownership is None else self.ownership.params_of(self.params, task)

    @property
    def learned_tasks(self) -> list[str]:
        """Names of the tasks that have been learned."""
        return [name for index, name in enumerate(self.spec.tasks) if self.normalizer.knows(index)]

    def _index(self, task: str) -> int:
        if task not in self.spec.tasks:
            raise ValueError(f"task must be one of {', '.join(self.spec.tasks)}, got {task!r}")
        return self.spec.tasks.index(task)

    def select_action(self, observation: Look) -> np.ndarray:
        """The next action (Da,) or (B, Da) in [-1, 1] for the current observation (Do,) or (B, Do).

        A policy with cameras takes a dict, see looks.py; between two looks, where ``needs_pictures`` is false, the
        pictures may be left out.
        """
        seen = read_look(observation, self.spec.vision)
        single = seen.state.dim() == 1
        if single:
            seen = Seen(seen.state[None], None if seen.pictures is None else seen.pictures[None])
        rows, needed = seen.state, max(self.spec.observation_indices) + 1
        if rows.dim() != 2 or rows.shape[1] < needed:
            came = tuple(rows.shape[1:] if single else rows.shape)
            raise ValueError(f"observation must be (Do,) or (B, Do) with Do >= {needed}, got {came}")
        if self._history is not None and len(rows) != len(self._history):
            raise ValueError(f"B must stay {len(self._history)} until the next reset(), got {len(rows)} observations")
        self._remember(seen)
        if self._chunk is None or self._used == self.spec.n_action_steps:
            self._chunk, self._used = self.predict_action_chunk(self._recent()), 0
        action = self._chunk[:, self._used].numpy()
        self._used += 1
        return action[0] if single else action

    def _remember(self, seen: Seen) -> None:
        """Put a look at the end of the history; the first one fills all of it."""
        steps, rows = self.spec.shape.n_obs_steps, seen.state[:, None]
        if self._history is None:
            self._history, self._pictures = rows.repeat(1, steps, 1), [seen.pictures] * steps
        else:
            self._history = torch.cat([self._history[:, 1:], rows], dim=1)
            self._pictures = [*self._pictures[1:], seen.pictures]

    def _recent(self) -> Tensor | dict[str, Tensor]:
        """The history, as ``predict_action_chunk`` takes it."""
        assert self._history is not None, "select_action has put a look there"
        there = [pictures for pictures in self._pictures if pictures is not None]
        whole = torch.stack(there, dim=1) if len(there) == len(self._pictures) else None
        return spell_look(self._history, whole, self.spec.vision)

    def predict_action_chunk(self, history: Look) -> Tensor:
        """The next actions (B, n_action_steps, Da), on the CPU, for histories (B, n_obs_steps, Do).

        A policy with cameras takes a dict of histories, its pictures (B, n_obs_steps, H, W, 3).
        """
        seen = read_look(history, self.spec.vision, 3)
        raw = seen.state.to(self.device)[:, :, list(self.spec.observation_indices)]
        if self.spec.vision is not None:
            raw = torch.cat([raw, self._features(self.spec.vision, seen.pictures)], dim=2)
        self._ensure_rngs(len(raw))
        return self._planned(raw, self._rngs[: len(raw)], ROWS).cpu()

    def plan(self, history: Tensor, rngs: Sequence[torch.Generator], block: int) -> Tensor:
        """The next actions (B, n_action_steps, Da), on the policy's device, for histories (B, n_obs_steps, Do) there.

        Args:
            history: the latest observations.
            rngs: one a row (B,): the noise streams of the rows' episodes.
            block: rows that the network sees at once; the last bits of the actions depend on it.

        Raises:
            ValueError: the policy has cameras, whose pictures no device draws.
        """
        if self.spec.vision is not None:
            raise ValueError("backend must be cpu for a policy with cameras, got one that draws no pictures")
        return self._planned(history[:, :, list(self.spec.observation_indices)], rngs, block)

    def _planned(self, seen: Tensor, rngs: Sequence[torch.Generator], block: int) -> Tensor:
        """Actions (B, n_action_steps, Da) for histories (B, n_obs_steps, size) of what the network sees."""
        observation = self.normalizer.normalize("observation", seen, self._task).flatten(1)
        parts = [rngs[start : start + block] for start in range(0, len(rngs), block)]
        blocks = zip(observation.split(block), parts, strict=True)
        made = torch.cat([self._act(rows, part, block) for rows, part in blocks])
        actions = self.normalizer.unnormalize("action", made, self._task).clamp(-1, 1)
        return actions[:, : self.spec.n_action_steps]

    def _features(self, vision: Vision, pictures: Tensor | None) -> Tensor:
        """Features (B, n_obs_steps, num_features) of the middle of pictures (B, n_obs_steps, cameras, H, W, 3)."""
        if pictures is None:
            raise ValueError(f"observation must hold pictures of {', '.join(vision.cameras)} at this step, got none")
        if self._eye is None:
            self._eye = vision.build(0)  # its own weights are never used
        weights = encoder_params(self._weights) if self.encoder is None else self.encoder
        found = []
        with torch.no_grad():
            for block in central(pictures, vision).split(ROWS):
                padded = block.new_zeros(ROWS, *block.shape[1:])
                padded[: len(block)] = block
                found.append(encode(self._eye, weights, padded.to(self.device))[: len(block)])
        return torch.cat(found)

    def _ensure_rngs(self, count: int) -> None:
        for row in range(len(self._rngs), count):
            self._rngs.append(self.noise_stream(self._seeds[row] if row < len(self._seeds) else row))

    def noise_stream(self, seed: int) -> torch.Generator:
        """The noise of the episode of the chosen task that ``seed`` defines, from its beginning."""
        return torch.Generator().manual_seed(derive_seed("acting", self.spec.tasks[self._task], seed))

    def _act(self, observation: Tensor, rngs: Sequence[torch.Generator], block: int) -> Tensor:
        """Normalised actions (B, horizon, Da) for B <= ``block`` normalised observations."""
        count = len(observation)
        padded = functional.pad(observation, (0, 0, 0, block - count))
        task = torch.full((block,), self._task, device=self.device)
        spare = [torch.Generator()] * (block - count)
        return self.model.act(self._weights, padded, task, [*rngs, *spare])[:count]

    def save(self, folder: Path | str) -> None:
        """Write ``model.safetensors``, ``normalizer.safetensors`` and, last, ``config.json`` into ``folder``.

        Where tasks have weights of their own, ``owner.safetensors`` says which. An encoder that does not learn with the
        policy is in ``encoder.safetensors``.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_safetensors(folder / "model.safetensors", {k: v.detach().cpu() for k, v in self.params.items()})
        write_safetensors(folder / "normalizer.safetensors", self.normalizer.state())
        if self.ownership is not None:
            owner = {f"owner.{name}": leaf.cpu() for name, leaf in self.ownership.owner.items()}
            write_safetensors(folder / "owner.safetensors", {**owner, "visits": self.ownership.visits.cpu()})
        if self.encoder is not None:
            write_safetensors(folder / "encoder.safetensors", {k: v.detach().cpu() for k, v in self.encoder.items()})
        write_json(folder / "config.json", self.spec.to_json())


def load_policy(folder: Path | str, device: torch.device | str = "cpu", acting: Acting = AS_SAVED) -> Policy:
    """The policy saved in ``folder``, such as ``runs/NAME/checkpoints/03``.

    Args:
        folder: of the checkpoint.
        device: to act on.
        acting: how it acts where that is to differ from what it was saved with.

    Raises:
        FileError: a file is missing or can't be read.
        ValueError: a file is damaged or does not fit the others, the message names it; or ``acting`` is out of range.
    """
    folder = Path(folder)
    config = folder / "config.json"
    document = read_json(config)
    try:
        spec = PolicySpec.from_json(document)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{config} must be a policy's configuration, got one with a fault: {error}") from None
    spec = spec.acting(acting)
    params, _ = read_safetensors(folder / "model.safetensors")
    ranges, _ = read_safetensors(folder / "normalizer.safetensors")
    model = spec.model(device=device)
    sizes = {"observation": spec.shape.observation_dim, "action": spec.shape.action_dim}
    wanted = {f"{part}.{end}": (len(spec.tasks), size) for part, size in sizes.items() for end in ("low", "high")}
    if {name: tuple(leaf.shape) for name, leaf in ranges.items()} != wanted:
        raise ValueError(f"{folder / 'normalizer.safetensors'} must fit {config}, got other names or shapes")
    expected = {name: tensor.shape for name, tensor in model.net.named_parameters()}
    if {name: tensor.shape for name, tensor in params.items()} != expected:
        raise ValueError(f"{folder / 'model.safetensors'} must fit the network of {config}, got other names or shapes")
    ownership = load_ownership(folder / "owner.safetensors", expected, len(spec.tasks), device)
    params = {name: params[name].to(device) for name in expected}
    encoder = None
    if spec.vision is not None and not spec.learns_to_see:
        encoder = load_encoder(folder / "encoder.safetensors", spec.vision, device)
    return Policy(spec, model, params, Normalizer.from_state(ranges), ownership, encoder)


def load_encoder(path: Path, vision: Vision, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """The encoder's weights in ``path``.

    Raises:
        FileError: the file is missing or can't be read.
        ValueError: it does not fit ``vision``.
    """
    state, _ = read_safetensors(path)
    wanted = {name: leaf.shape for name, leaf in vision.build(0).named_parameters()}
    if {name: leaf.shape for name, leaf in state.items()} != wanted:
        raise ValueError(f"{path} must fit the policy's vision, got other names or shapes")
    return {name: state[name].to(device) for name in wanted}
