"""One optimiser over the flat weights, with its learning-rate schedule and moving average."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SCHEDULES = ("cosine", "constant")


@dataclass(frozen=True)
class Training:
    """How long and how fast one task is learned; the same for every method.

    Attributes:
        steps: optimiser steps a task. Joint training gets the steps of all its tasks.
        batch_size: new samples a step.
        learning_rate: Adam's peak rate.
        schedule: ``cosine`` (to zero at the end of each task) or ``constant``.
        warmup: steps of linear warm-up at the start of each task.
        weight_decay: decoupled weight decay.
        gradient_clip: largest gradient norm; 0 switches clipping off.
        ema_decay: decay of the moving average of the weights; 0 switches it off.
        keep_optimizer: carry Adam's moments over to the next task.
    """

    steps: int = 1500
    batch_size: int = 256
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    warmup: int = 20
    weight_decay: float = 0.0
    gradient_clip: float = 1.0
    ema_decay: float = 0.99
    keep_optimizer: bool = False

    def __post_init__(self) -> None:
        """Check every value once."""
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {self.schedule!r}")
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be > 0, got {self.learning_rate}")
        for name in ("warmup", "weight_decay", "gradient_clip"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), got {self.ema_decay}")

    def rate_at(self, step: int, total: int) -> float:
        """Learning rate of the update with index ``step`` (from 0) out of ``total``."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        fall = 0.5 * (1 + math.cos(math.pi * step / total)) if self.schedule == "cosine" else 1.0
        return self.learning_rate * warm * fall


class FlatAdam:
    """AdamW over one vector (P,), with an exponential moving average of the weights.

    Args:
        theta: first weights (P,).
        training: rates and decays.
    """

    def __init__(self, theta: Tensor, training: Training) -> None:
        self.training = training
        self.theta = theta.clone()
        self.average = theta.clone()
        self.raw: Tensor | None = None  # as they were at the end of a task, before averaging
        self._start()

    def _start(self) -> None:
        decay = self.training.weight_decay
        self._optimizer = torch.optim.AdamW(
            [self.theta], lr=self.training.learning_rate, weight_decay=decay, fused=True
        )

    def begin(self, theta: Tensor) -> None:
        """Start a task from ``theta``; the moments start anew unless ``keep_optimizer``."""
        self.raw = None
        self.place(theta)
        if not self.training.keep_optimizer:
            self._start()

    def place(self, theta: Tensor) -> None:
        """Put the weights and their average at ``theta``."""
        self.theta.copy_(theta)
        self.average.copy_(theta)

    def finish(self) -> None:
        """End a task: the released weights are the weights from now on; the raw ones stay to be looked at."""
        self.raw = self.theta.clone()
        self.place(self.released.clone())

    def clipped(self, gradient: Tensor, norm: Tensor | None = None) -> Tensor:
        """``gradient`` (P,), shortened to the largest norm allowed."""
        most = self.training.gradient_clip
        if not most:
            return gradient
        return gradient * (most / (gradient.norm() if norm is None else norm).clamp_min(most))

    def step(self, gradient: Tensor, learning_rate: float) -> Tensor:
        """Clip ``gradient`` (P,) and take one step; returns the norm before clipping, a scalar still on the device."""
        norm = gradient.norm()
        self.theta.grad = self.clipped(gradient, norm)
        self._optimizer.param_groups[0]["lr"] = learning_rate
        self._optimizer.step()
        self.theta.grad = None
        return norm

    def track(self, step: int) -> None:
        """Move the average towards the weights; early steps weigh more, so that it never lags behind the start."""
        decay = min(self.training.ema_decay, (1 + step) / (10 + step))
        self.average.lerp_(self.theta, 1 - decay)

    @property
    def released(self) -> Tensor:
        """The weights to be used: the average, or the raw weights where averaging is off."""
        return self.average if self.training.ema_decay else self.theta

    def state(self) -> dict[str, Tensor]:
        """Weights, average and moments: the tensors themselves, which later steps change in place."""
        raw = {} if self.raw is None else {"raw": self.raw}
        return {"theta": self.theta, "average": self.average, **raw, **self._optimizer.state.get(self.theta, {})}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from ``state``."""
        self.theta.copy_(state["theta"])
        self.average.copy_(state["average"])
        self._start()
        self.raw = state["raw"].clone() if "raw" in state else None
        moments = {key: value.clone() for key, value in state.items() if key not in ("theta", "average", "raw")}
        if moments:
            self._optimizer.state[self.theta] = moments
