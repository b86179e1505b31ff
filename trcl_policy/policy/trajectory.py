"""The joint diffusion model of a window: policy p(a | o, task) and generator p(o, a | task) in one network."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trcl_policy.continual.params import Batch, Params
from trcl_policy.diffusion.denoiser import Denoiser
from trcl_policy.diffusion.guidance import UNGUIDED, Guidance
from trcl_policy.diffusion.nets import ConditionalUnet1d, ResidualMLP
from trcl_policy.diffusion.process import Diffusion, Process
from trcl_policy.policy.windows import Shape

NETWORKS = ("mlp", "unet")


@dataclass(frozen=True)
class Network:
    """Which network, and its size.

    Attributes:
        kind: ``mlp`` (small, for CPUs) or ``unet`` (the paper's).
        width: width of the MLP.
        depth: residual blocks of the MLP.
        channels: channels of the U-Net's levels.
        kernel: kernel size of the U-Net.
        attention_levels: deepest U-Net levels with self-attention.
        condition_dim: size of the noise-level and task embedding.
    """

    kind: str = "mlp"
    width: int = 256
    depth: int = 2
    channels: tuple[int, ...] = (256, 512, 1024)
    kernel: int = 5
    attention_levels: int = 2
    condition_dim: int = 64

    def __post_init__(self) -> None:
        """Check every value once."""
        if self.kind not in NETWORKS:
            raise ValueError(f"kind must be one of {', '.join(NETWORKS)}, got {self.kind!r}")
        for name in ("width", "depth", "condition_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd and >= 1, got {self.kernel}")
        if not self.channels or any(size < 8 or size % 8 for size in self.channels):
            raise ValueError(f"channels must be multiples of 8, got {list(self.channels)}")
        if self.attention_levels < 0:
            raise ValueError(f"attention_levels must be >= 0, got {self.attention_levels}")

    def build(self, shape: Shape, num_tasks: int, seed: int) -> nn.Module:
        """The network with weights drawn from ``seed``, leaving torch's global stream as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._module(shape, num_tasks).eval()

    def _module(self, shape: Shape, num_tasks: int) -> nn.Module:
        sizes = tuple(shape.parts.values())
        if self.kind == "mlp":
            return ResidualMLP(sizes, num_tasks, self.width, self.depth, self.condition_dim)
        options: dict[str, Any] = {
            "channels": self.channels,
            "kernel": self.kernel,
            "attention_levels": self.attention_levels,
            "condition_dim": self.condition_dim,
        }
        return ConditionalUnet1d(sizes, num_tasks, shape.horizon, **options)


class TrajectoryModel(Denoiser):
    """A denoiser of windows with separate noise levels for observations and actions.

    A share ``policy_fraction`` of the corrupted samples has a clean observation (the policy's task), the rest has both
    parts at one level (the generator's). In guided windows, how far along the episode they are is a third part: noisy
    for the policy, clean for the generator, which is thus told the time it is to generate (Yue et al. 2024).

    Args:
        net: network over windows.
        diffusion: the diffusion process.
        shape: sizes of a window.
        policy_fraction: share of samples that train the policy.
        device: where the schedule's tables live.
        precision: see ``Denoiser``.
        compile: see ``Denoiser``.
        guidance: classifier-free guidance by the task; it hides tasks from the generator alone and guides it alone.
        num_tasks: number of tasks; this index hides the task, and the network has room for it where guidance needs it.
    """

    def __init__(
        self,
        net: nn.Module,
        diffusion: Diffusion,
        shape: Shape,
        policy_fraction: float = 0.5,
        device: torch.device | str = "cpu",
        precision: str = "fp32",
        compile: bool = False,
        guidance: Guidance = UNGUIDED,
        num_tasks: int = 0,
    ) -> None:
        if not 0 <= policy_fraction <= 1:
            raise ValueError(f"policy_fraction must be in [0, 1], got {policy_fraction}")
        process, hidden = Process(diffusion, device), {"task": num_tasks}
        super().__init__(net, process, shape.parts, ("task",), precision, compile, guidance, hidden)
        self.shape, self.policy_fraction = shape, policy_fraction

    def draw_levels(self, count: int, rng: torch.Generator) -> Tensor:
        """Levels (B, K): 0 for what is given (the policy's observation, the generator's progress), else t in 1..T."""
        level = super().draw_levels(count, rng).clone()
        acting = torch.rand(count, generator=rng, device=rng.device) < self.policy_fraction
        level[:, 0] = torch.where(acting, 0, level[:, 0])
        if self.shape.guided:
            level[:, 1] = torch.where(acting, level[:, 1], 0)
        return level

    def corrupt_for_use(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        """As ``corrupt``, but every sample asks for the actions that follow its observation."""
        acting = copy.copy(self)
        acting.policy_fraction = 1.0
        return acting.corrupt(batch, rng)

    def may_be_hidden(self, level: Tensor) -> Tensor:
        """The generator's samples; the policy is always told its task."""
        return level[:, 0] > 0

    def act(self, params: Params, observation: Tensor, task: Tensor, rngs: Sequence[torch.Generator]) -> Tensor:
        """Sample chunks of actions for observation histories.

        Args:
            params: weights.
            observation: (B, n_obs_steps * Do), normalised.
            task: (B,) task indices.
            rngs: one CPU generator per row, so that a row's noise does not depend on its neighbours.

        Returns:
            (B, horizon, Da), normalised.
        """
        size = sum(self.parts.values()) - self.parts["observation"]
        noise = torch.stack([torch.randn(size, generator=rng) for rng in rngs]).to(observation.device)
        steps = self.process.config.acting_steps
        made = self.sample(params, {"task": task}, {"observation": observation}, noise, steps, rngs, guided=False)
        return made["action"].view(len(observation), self.shape.horizon, self.shape.action_dim)
