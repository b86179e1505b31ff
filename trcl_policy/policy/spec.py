"""What a policy is made of, as a file keeps it."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

import torch

from trcl_policy.continual.streams import derive_seed
from trcl_policy.diffusion.guidance import UNGUIDED, Guidance
from trcl_policy.diffusion.process import Diffusion
from trcl_policy.policy.acting import Acting
from trcl_policy.policy.seeing import SeeingModel, SeeingNet
from trcl_policy.policy.trajectory import Network, TrajectoryModel
from trcl_policy.policy.vision import Vision
from trcl_policy.policy.windows import Shape

FORMAT = 1


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
        vision: how the policy sees; None where it sees no pictures.
        guidance: classifier-free guidance of the generator by the task.
    """

    tasks: tuple[str, ...]
    shape: Shape
    observation_indices: tuple[int, ...]
    n_action_steps: int
    network: Network
    diffusion: Diffusion
    policy_fraction: float = 0.5
    vision: Vision | None = None
    guidance: Guidance = UNGUIDED

    def __post_init__(self) -> None:
        """Check what only the whole can tell."""
        if not 1 <= self.n_action_steps <= self.shape.horizon:
            raise ValueError(
                f"n_action_steps must be in [1, horizon = {self.shape.horizon}], got {self.n_action_steps}"
            )
        state_dim = self.shape.observation_dim - (self.vision.num_features if self.vision else 0)
        if len(self.observation_indices) != state_dim:
            raise ValueError(f"observation_indices must number {state_dim}, got {len(self.observation_indices)}")
        if self.learns_to_see and self.guidance != UNGUIDED:
            raise ValueError(f"guidance must be left out where the encoder learns always, got {self.guidance}")

    @property
    def learns_to_see(self) -> bool:
        """Whether the encoder's weights are among the policy's own."""
        return self.vision is not None and self.vision.learns == "always"

    def model(
        self, seed: int = 0, device: torch.device | str = "cpu", precision: str = "fp32", compile: bool = False
    ) -> TrajectoryModel:
        """A model with fresh weights drawn from ``seed``."""
        guided = self.guidance.label_dropout > 0
        net = self.network.build(self.shape, len(self.tasks) + guided, seed)
        options: dict[str, Any] = {"device": device, "precision": precision, "compile": compile}
        if self.vision is not None and self.learns_to_see:
            seeing = SeeingNet(self.vision.build(derive_seed(seed, "encoder")), net).to(device)
            return SeeingModel(seeing, self.diffusion, self.shape, self.vision, **options)
        options |= {"guidance": self.guidance, "num_tasks": len(self.tasks)}
        return TrajectoryModel(net.to(device), self.diffusion, self.shape, self.policy_fraction, **options)

    def acting(self, how: Acting) -> PolicySpec:
        """The same policy, acting otherwise.

        Raises:
            ValueError: more sampler steps than noise levels, more actions than are predicted, or fewer than one.
        """
        changed = self
        if how.acting_steps is not None:
            changed = replace(changed, diffusion=replace(self.diffusion, acting_steps=how.acting_steps))
        if how.n_action_steps is not None:
            changed = replace(changed, n_action_steps=how.n_action_steps)
        return changed

    def to_json(self) -> dict[str, Any]:
        """A JSON document with the format's version."""
        return {"format": FORMAT, "type": "trcl_policy", **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> PolicySpec:
        """The spec saved as ``document``."""
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            came = document.get("format") if isinstance(document, dict) else type(document).__name__
            raise ValueError(f"format must be {FORMAT}, got {came!r}")
        missing = {field.name for field in dataclasses.fields(cls)} - set(document) - {"vision", "guidance"}
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
            vision=Vision.from_json(document["vision"]) if document.get("vision") else None,
            guidance=Guidance(**document.get("guidance", {})),
        )
