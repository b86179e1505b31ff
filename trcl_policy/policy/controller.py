"""A trained policy as something that acts: receding horizon, ranges, files.

n_obs_steps observations -> horizon predicted actions -> the first n_action_steps are executed, then it looks again
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from trcl_policy.continual.params import Layout, Params
from trcl_policy.continual.streams import derive_seed
from trcl_policy.diffusion.process import Diffusion
from trcl_policy.files import read_json, read_safetensors, write_json, write_safetensors
from trcl_policy.policy.normalizer import Normalizer
from trcl_policy.policy.trajectory import Network, TrajectoryModel
from trcl_policy.policy.windows import Shape

FORMAT = 1
ROWS = 32
"""The network always sees this many rows, padded: matrix products round differently for different numbers of rows, and
so an episode would depend on how many others run beside it."""


@dataclasses.dataclass(frozen=True)
class PolicySpec:
    """All that is needed to build a policy besides its weights and ranges.

    Attributes:
        tasks: names of the distinct tasks, by task index.
        shape: sizes of a window.
        observation_indices: entries of the environment's observation that the policy sees.
        n_action_steps: actions executed before it looks again.
        network: the network.
        diffusion: the diffusion process.
        policy_fraction: share of training samples that train the policy rather than the generator.
    """

    tasks: tuple[str, ...]
    shape: Shape
    observation_indices: tuple[int, ...]
    n_action_steps: int
    network: Network
    diffusion: Diffusion
    policy_fraction: float = 0.5

    def __post_init__(self) -> None:
        """Check what only the whole can tell."""
        if not 1 <= self.n_action_steps <= self.shape.horizon:
            raise ValueError(
                f"n_action_steps must be in [1, horizon = {self.shape.horizon}], got {self.n_action_steps}"
            )
        if len(self.observation_indices) != self.shape.observation_dim:
            raise ValueError(
                f"observation_indices must number {self.shape.observation_dim}, got {len(self.observation_indices)}"
            )

    def model(
        self, seed: int = 0, device: torch.device | str = "cpu", precision: str = "fp32", compile: bool = False
    ) -> TrajectoryModel:
        """A model with fresh weights drawn from ``seed``."""
        net = self.network.build(self.shape, len(self.tasks), seed).to(device)
        return TrajectoryModel(net, self.diffusion, self.shape, self.policy_fraction, device, precision, compile)

    def to_json(self) -> dict[str, Any]:
        """A JSON document with the format's version."""
        return {"format": FORMAT, "type": "trcl_policy", **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> PolicySpec:
        """The spec saved as ``document``."""
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            came = document.get("format") if isinstance(document, dict) else type(document).__name__
            raise ValueError(f"format must be {FORMAT}, got {came!r}")
        missing = {field.name for field in dataclasses.fields(cls)} - set(document)
        if missing:
            raise ValueError(f"it must have {', '.join(sorted(missing))}, got none")
        network = {**document["network"], "channels": tuple(document["network"]["channels"])}
        return cls(
            tasks=tuple(document["tasks"]),
            shape=Shape(**document["shape"]),
            observation_indices=tuple(document["observation_indices"]),
            n_action_steps=document["n_action_steps"],
            network=Network(**network),
            diffusion=Diffusion(**document["diffusion"]),
            policy_fraction=document["policy_fraction"],
        )


@dataclasses.dataclass(frozen=True)
class Ownership:
    """Which task each weight belongs to, where tasks have weights of their own.

    Attributes:
        owner: place in the sequence of the visit that a weight belongs to, -1 for none; tensors named like the weights.
        visits: place of the last visit of every distinct task (num_tasks,); -1 where it was never learned.
    """

    owner: Params
    visits: Tensor

    def params_of(self, params: Params, task: int) -> dict[str, Tensor]:
        """The weights that a task uses, the others zero."""
        last = int(self.visits[task])
        return {
            name: torch.where((self.owner[name] >= 0) & (self.owner[name] <= last), value, 0.0)
            for name, value in params.items()
        }


class Policy:
    """A policy for all tasks of a sequence; ``reset`` chooses the task it acts on.

    Args:
        spec: how it is built.
        model: the joint model, on the device to run on.
        params: weights.
        normalizer: ranges.
        ownership: which weights belong to which task; None where all tasks share all.
    """

    def __init__(
        self,
        spec: PolicySpec,
        model: TrajectoryModel,
        params: Params,
        normalizer: Normalizer,
        ownership: Ownership | None = None,
    ) -> None:
        self.spec, self.model, self.params, self.normalizer = spec, model, params, normalizer
        self.ownership = ownership
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
        self._chunk: Tensor | None = None
        self._used = 0

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

    def select_action(self, observation: np.ndarray | Tensor) -> np.ndarray:
        """The next action (Da,) or (B, Da) in [-1, 1] for the current observation (Do,) or (B, Do)."""
        single = np.ndim(observation) == 1
        rows = torch.as_tensor(np.asarray(observation), dtype=torch.float32)
        rows = rows[None] if single else rows
        steps, needed = self.spec.shape.n_obs_steps, max(self.spec.observation_indices) + 1
        if rows.dim() != 2 or rows.shape[1] < needed:
            raise ValueError(
                f"observation must be (Do,) or (B, Do) with Do >= {needed}, got {tuple(np.shape(observation))}"
            )
        if self._history is not None and len(rows) != len(self._history):
            raise ValueError(f"B must stay {len(self._history)} until the next reset(), got {len(rows)} observations")
        if self._history is None:
            self._history = rows[:, None].repeat(1, steps, 1)
        else:
            self._history = torch.cat([self._history[:, 1:], rows[:, None]], dim=1)
        if self._chunk is None or self._used == self.spec.n_action_steps:
            self._chunk, self._used = self.predict_action_chunk(self._history), 0
        action = self._chunk[:, self._used].numpy()
        self._used += 1
        return action[0] if single else action

    def predict_action_chunk(self, history: np.ndarray | Tensor) -> Tensor:
        """The next actions (B, n_action_steps, Da), on the CPU, for histories (B, n_obs_steps, Do)."""
        raw = torch.as_tensor(np.asarray(history), dtype=torch.float32, device=self.device)
        for row in range(len(self._rngs), len(raw)):
            self._rngs.append(self.noise_stream(self._seeds[row] if row < len(self._seeds) else row))
        return self.plan(raw, self._rngs[: len(raw)], ROWS).cpu()

    def plan(self, history: Tensor, rngs: Sequence[torch.Generator], block: int) -> Tensor:
        """The next actions (B, n_action_steps, Da), on the policy's device, for histories (B, n_obs_steps, Do) there.

        Args:
            history: the latest observations.
            rngs: one a row (B,): the noise streams of the rows' episodes.
            block: rows that the network sees at once; the last bits of the actions depend on it.
        """
        seen = history[:, :, list(self.spec.observation_indices)]
        observation = self.normalizer.normalize("observation", seen, self._task).flatten(1)
        parts = [rngs[start : start + block] for start in range(0, len(rngs), block)]
        blocks = zip(observation.split(block), parts, strict=True)
        made = torch.cat([self._act(rows, part, block) for rows, part in blocks])
        actions = self.normalizer.unnormalize("action", made, self._task).clamp(-1, 1)
        return actions[:, : self.spec.n_action_steps]

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

        Where tasks have weights of their own, ``owner.safetensors`` says which.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_safetensors(folder / "model.safetensors", {k: v.detach().cpu() for k, v in self.params.items()})
        write_safetensors(folder / "normalizer.safetensors", self.normalizer.state())
        if self.ownership is not None:
            owner = {f"owner.{name}": leaf.cpu() for name, leaf in self.ownership.owner.items()}
            write_safetensors(folder / "owner.safetensors", {**owner, "visits": self.ownership.visits.cpu()})
        write_json(folder / "config.json", self.spec.to_json())


def load_policy(folder: Path | str, device: torch.device | str = "cpu") -> Policy:
    """The policy saved in ``folder``, such as ``runs/NAME/checkpoints/03``.

    Raises:
        FileError: a file is missing or can't be read.
        ValueError: a file is damaged or does not fit the others; the message names it.
    """
    folder = Path(folder)
    config = folder / "config.json"
    document = read_json(config)
    try:
        spec = PolicySpec.from_json(document)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{config} must be a policy's configuration, got one with a fault: {error}") from None
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
    ownership = _ownership(folder / "owner.safetensors", expected, len(spec.tasks), device)
    params = {name: params[name].to(device) for name in expected}
    return Policy(spec, model, params, Normalizer.from_state(ranges), ownership)


def _ownership(
    path: Path, shapes: Mapping[str, torch.Size], num_tasks: int, device: torch.device | str
) -> Ownership | None:
    if not path.exists():
        return None
    state, _ = read_safetensors(path)
    wanted = {"visits": torch.Size([num_tasks]), **{f"owner.{name}": shape for name, shape in shapes.items()}}
    if {name: tensor.shape for name, tensor in state.items()} != wanted:
        raise ValueError(f"{path} must fit the network beside it, got other names or shapes")
    owner = {name: state[f"owner.{name}"].to(device) for name in shapes}
    return Ownership(owner, state["visits"])
