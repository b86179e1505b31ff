"""Corruption and sampling, both on diffusers' noise schedules.

Notation (DDIM, Song et al. 2020):
    alpha_bar_t   cumulated signal share at level t; level 0 is clean (alpha_bar = 1), level T almost pure noise
    x_t           sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps
    v_t           sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0            (Salimans and Ho 2022)
    SNR_t         alpha_bar_t / (1 - alpha_bar_t)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

PREDICTIONS = ("epsilon", "x0", "v")
SAMPLERS = ("ddim", "ddpm", "dpm++")
WEIGHTINGS = ("snr", "uniform")
SCHEDULES = ("squaredcos_cap_v2", "linear", "scaled_linear")
_DIFFUSERS_NAMES = {"epsilon": "epsilon", "x0": "sample", "v": "v_prediction"}


@dataclass(frozen=True)
class Diffusion:
    """The diffusion process and its samplers.

    Attributes:
        num_train_timesteps: number of noise levels T.
        beta_schedule: diffusers' name of the schedule.
        prediction: what the network predicts: ``epsilon``, ``x0`` or ``v``.
        weighting: ``uniform`` weighs the errors of all levels alike; ``snr`` by the signal-to-noise ratio, clipped
            (Hang et al. 2023). For ``x0`` the latter hardly trains the noisiest levels, where acting with few steps is
            decided.
        snr_clip: the clip gamma of ``snr``.
        clip_range: samples are clipped to [-clip_range, clip_range] at every step; 0 switches it off.
        sampler: ``ddim`` (eta 0), ``ddpm`` or ``dpm++``.
        acting_steps: sampler steps when a policy acts.
        replay_steps: sampler steps when old samples are generated.
    """

    num_train_timesteps: int = 100
    beta_schedule: str = "squaredcos_cap_v2"
    prediction: str = "x0"
    weighting: str = "uniform"
    snr_clip: float = 5.0
    clip_range: float = 1.5
    sampler: str = "ddim"
    acting_steps: int = 8
    replay_steps: int = 20

    def __post_init__(self) -> None:
        """Check every value once."""
        choices = {
            "prediction": PREDICTIONS,
            "sampler": SAMPLERS,
            "weighting": WEIGHTINGS,
            "beta_schedule": SCHEDULES,
        }
        for name, accepted in choices.items():
            if getattr(self, name) not in accepted:
                raise ValueError(f"{name} must be one of {', '.join(accepted)}, got {getattr(self, name)!r}")
        if self.num_train_timesteps < 2:
            raise ValueError(f"num_train_timesteps must be >= 2, got {self.num_train_timesteps}")
        for name in ("acting_steps", "replay_steps"):
            if not 1 <= getattr(self, name) <= self.num_train_timesteps:
                raise ValueError(
                    f"{name} must be in [1, num_train_timesteps = {self.num_train_timesteps}], "
                    f"got {getattr(self, name)}"
                )
        if not self.snr_clip > 0 or self.clip_range < 0:
            raise ValueError(f"snr_clip must be > 0 and clip_range >= 0, got {self.snr_clip} and {self.clip_range}")


class Process:
    """The schedule of a ``Diffusion`` as tables, and its samplers.

    Args:
        config: the process.
        device: where the tables live.
    """

    def __init__(self, config: Diffusion, device: torch.device | str = "cpu") -> None:
        from diffusers import DDPMScheduler

        self.config = config
        scheduler = DDPMScheduler(num_train_timesteps=config.num_train_timesteps, beta_schedule=config.beta_schedule)
        clean = torch.ones(1, dtype=scheduler.alphas_cumprod.dtype)
        self.alpha_bar = torch.cat([clean, scheduler.alphas_cumprod]).float().to(device)
        self.weights = self._weights().to(device)

    @property
    def num_levels(self) -> int:
        """Number of noisy levels T; levels run from 0 (clean) to T."""
        return self.config.num_train_timesteps

    def _weights(self) -> Tensor:
        """Loss weight of every level (T + 1,); the clean level weighs nothing."""
        alpha_bar = self.alpha_bar.double().cpu()
        snr = alpha_bar / (1 - alpha_bar).clamp_min(1e-12)
        if self.config.weighting == "uniform":
            weights = torch.ones_like(snr)
        else:
            clipped = snr.clamp_max(self.config.snr_clip)
            weights = {"x0": clipped, "epsilon": clipped / snr, "v": clipped / (snr + 1)}[self.config.prediction]
        weights[0] = 0
        return weights.float()

    def corrupt(self, clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """x_t at ``level``, which broadcasts against ``clean``."""
        alpha_bar = self.alpha_bar[level]
        return alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * noise

    def target(self, clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """What the network is to predict at ``level``."""
        if self.config.prediction == "x0":
            return clean
        if self.config.prediction == "epsilon":
            return noise
        alpha_bar = self.alpha_bar[level]
        return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * clean

    def clean(self, output: Tensor, noisy: Tensor, level: Tensor | int) -> Tensor:
        """x_0 according to what the network predicts, ``output``, at x_t = ``noisy``."""
        alpha_bar = self.alpha_bar[level]
        if self.config.prediction == "x0":
            return output
        if self.config.prediction == "epsilon":
            return (noisy - (1 - alpha_bar).sqrt() * output) / alpha_bar.sqrt()
        return alpha_bar.sqrt() * noisy - (1 - alpha_bar).sqrt() * output

    def clipped(self, clean: Tensor) -> Tensor:
        """``clean`` within the clip range."""
        reach = self.config.clip_range
        return clean.clamp(-reach, reach) if reach else clean

    def sample(
        self,
        predict: Callable[[Tensor, int], Tensor],
        noise: Tensor,
        num_steps: int,
        rng: torch.Generator | Sequence[torch.Generator],
    ) -> Tensor:
        """Denoise ``noise`` (B, F) in ``num_steps`` steps.

        Args:
            predict: network output for (x_t, level t in 1..T).
            noise: x_T, standard normal.
            num_steps: sampler steps.
            rng: one generator, or one per row (used by samplers that draw noise on the way).
        """
        scheduler = self._scheduler
        scheduler.set_timesteps(num_steps)  # also forgets the sample before
        generator = list(rng) if isinstance(rng, Sequence) else rng
        current = noise
        for timestep in scheduler.timesteps:
            output = predict(current, int(timestep) + 1)
            if self.config.sampler == "dpm++":  # diffusers' knows no clip: hand it the clipped x_0
                output = self.clipped(self.clean(output, current, int(timestep) + 1))
            current = scheduler.step(output, timestep, current, generator=generator, return_dict=False)[0]
        return current

    @cached_property
    def _scheduler(self) -> Any:
        """diffusers' sampler; building one takes as long as several steps."""
        from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

        config = self.config
        common = {
            "num_train_timesteps": config.num_train_timesteps,
            "beta_schedule": config.beta_schedule,
            "prediction_type": _DIFFUSERS_NAMES[config.prediction],
            "timestep_spacing": "trailing",
        }
        clip = {"clip_sample": config.clip_range > 0, "clip_sample_range": config.clip_range}
        if config.sampler == "dpm++":
            return DPMSolverMultistepScheduler(**{**common, "prediction_type": "sample"})
        if config.sampler == "ddim":
            return DDIMScheduler(**common, **clip, set_alpha_to_one=True)
        return DDPMScheduler(**common, **clip)
