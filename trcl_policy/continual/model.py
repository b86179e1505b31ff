"""What the core asks of a model, whatever its domain."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from trcl_policy.continual.params import Batch, Layout, Params


class Model(Protocol):
    """A model that draws its own randomness first, scores one sample at a time and generates samples.

    Because ``corrupt`` draws everything, ``losses`` and ``predict`` are pure functions of (params, corrupted): they can
    be vmapped, repeated and compared bit for bit.
    """

    def corrupt(self, batch: Batch, rng: torch.Generator) -> Batch:
        """Draw ALL randomness; the result, leaves (B, ...), holds what to match under ``target``."""
        ...

    def losses(self, params: Params, corrupted: Batch) -> Tensor:
        """One loss per sample (B,), deterministic."""
        ...

    def predict(self, params: Params, corrupted: Batch) -> Tensor:
        """The prediction that ``losses`` compares with ``target``, same shape as ``target``."""
        ...

    def generate(self, params: Params, condition: Batch, rng: torch.Generator) -> Batch:
        """New samples, one per row of ``condition``, with the keys of training samples."""
        ...


@runtime_checkable
class GradedModel(Model, Protocol):
    """A model whose corrupted samples have a noise level; only an anchor for a range of levels asks for it."""

    def noise_level(self, corrupted: Batch) -> Tensor:
        """Level of each sample (B,) in [0, 1]."""
        ...


@runtime_checkable
class MixedPrecisionModel(Model, Protocol):
    """A model that computes in less than its weights' precision when it learns."""

    def precise(self) -> Model:
        """The same model at its weights' precision."""
        ...


@runtime_checkable
class ActingModel(Model, Protocol):
    """A model that acts and generates: once samples of a task are made and kept, only acting need be remembered."""

    def corrupt_for_use(self, batch: Batch, rng: torch.Generator) -> Batch:
        """As ``corrupt``, but what a sample asks for is what the model does when it is used, never generation."""
        ...


RECALLS = ("all", "use")
"""What kept samples remind of: all that was learned, or only what the model does when it is used."""


def corrupted_for(recall: str, model: Model, batch: Batch, rng: torch.Generator) -> Batch:
    """``batch`` corrupted for ``recall``, one of RECALLS; a model that only generates has one way."""
    if recall == "use" and isinstance(model, ActingModel):
        return model.corrupt_for_use(batch, rng)
    return model.corrupt(batch, rng)


def precise(model: Model) -> Model:
    """The model to measure curvature with: single samples' gradients and their differences need every digit."""
    return model.precise() if isinstance(model, MixedPrecisionModel) else model


def gradient(loss: Tensor, params: Params, layout: Layout) -> Tensor:
    """Gradient of a scalar as a vector (P,); a parameter that the loss does not reach counts as zero."""
    found = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
    filled = [torch.zeros_like(p) if g is None else g for g, p in zip(found, params.values(), strict=True)]
    return layout.flatten(dict(zip(layout.names, filled, strict=True)))


def leaves(layout: Layout, theta: Tensor) -> dict[str, Tensor]:
    """Views of ``theta`` (P,) that autograd treats as independent leaves."""
    return {name: view.detach().requires_grad_() for name, view in layout.unflatten(theta.detach()).items()}


def mean_loss(model: Model, params: Params, corrupted: Batch, chunk_size: int = 4096) -> float:
    """Mean loss over a corrupted batch, without gradients, ``chunk_size`` samples at a time."""
    with torch.no_grad():
        pieces = chunks(corrupted, chunk_size)
        return float(torch.cat([model.losses(params, piece).double() for piece in pieces]).mean())


def chunks(batch: Batch, size: int) -> list[Batch]:
    """Consecutive pieces of at most ``size`` rows."""
    total = next(iter(batch.values())).shape[0]
    return [{key: leaf[start : start + size] for key, leaf in batch.items()} for start in range(0, total, size)]
