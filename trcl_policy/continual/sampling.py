"""Samples for a Fisher: corrupted ones of a task, of all noise levels or of a range."""

from __future__ import annotations

from trcl_policy.continual.model import GradedModel, Model
from trcl_policy.continual.params import Batch, concatenate, num_rows, rows
from trcl_policy.continual.streams import Streams
from trcl_policy.continual.tasks import Samples, draw

MOST_ROUNDS = 200
"""Draws of as many samples as are wanted, after which a range of noise levels counts as empty."""


def fisher_samples(
    model: Model, samples: Samples, count: int, streams: Streams, noise_range: tuple[float, float]
) -> Batch:
    """``count`` corrupted samples with noise levels in (low, high], drawn until there are as many.

    (0, 1) takes all and asks the model for no level.

    Raises:
        ValueError: the range is practically empty, or the model is no ``GradedModel``.
    """
    (low, high), kept = noise_range, list[Batch]()
    for _ in range(MOST_ROUNDS):
        corrupted = model.corrupt(draw(samples, count, streams["fisher/samples"]), streams["fisher/noise"])
        if (low, high) == (0, 1):
            return corrupted
        if not isinstance(model, GradedModel):
            raise ValueError(f"noise_range must be (0, 1) for a model without noise_level, got {noise_range}")
        level = model.noise_level(corrupted)
        kept.append(rows(corrupted, ((level > low) & (level <= high)).nonzero().squeeze(1)))
        if sum(map(num_rows, kept)) >= count:
            return rows(concatenate(kept), slice(count))
    found, drawn = sum(map(num_rows, kept)), MOST_ROUNDS * count
    raise ValueError(f"noise_range must hold 1 of {MOST_ROUNDS} samples, got {noise_range} with {found} of {drawn}")
