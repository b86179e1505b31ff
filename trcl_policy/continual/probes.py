"""Questions put to frozen weights: how well are tasks kept, and how fast do they come back?"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from trcl_policy.continual.learner import Method, Snapshot, learn
from trcl_policy.continual.model import Model, mean_loss
from trcl_policy.continual.optimizer import Training
from trcl_policy.continual.params import Params
from trcl_policy.continual.streams import Streams
from trcl_policy.continual.tasks import Task, TaskSequence, draw


def held_out_loss(model: Model, params: Params, task: Task, seed: int, count: int = 1024) -> float | None:
    """Mean loss on held-out samples of ``task`` under noise that depends on ``seed`` and the task's name alone.

    The same draws serve every method and every moment, so differences are the weights' alone. None without held-out
    samples.
    """
    if task.held_out is None:
        return None
    rng = Streams(seed, next(iter(params.values())).device)[f"held_out/{task.name}"]
    corrupted = model.corrupt(draw(task.held_out, count, rng), rng)
    return mean_loss(model, params, corrupted)


def recover(
    model: Model,
    params: Params,
    task: Task,
    steps: int,
    every: int,
    seed: int,
    learning_rate: float,
    batch_size: int = 256,
) -> Iterator[Snapshot]:
    """Probe recovery: plain optimiser steps on an old task's samples, from frozen weights (paper.md, section 6).

    The optimiser, its rate and the order of the data are the same for every method, so that what differs is how near to
    the old task the weights were left.

    Args:
        model: the model.
        params: weights to start from; they are not changed.
        task: the old task.
        steps: updates.
        every: updates between snapshots; a last one always comes.
        seed: seed of batches and noise.
        learning_rate: constant rate.
        batch_size: samples a step.
    """
    device: torch.device = next(iter(params.values())).device
    training = Training(
        steps=steps, batch_size=batch_size, learning_rate=learning_rate, schedule="constant", warmup=0, ema_decay=0.0
    )
    streams = Streams(seed, device)
    yield from learn(model, params, TaskSequence((task,)), Method(), training, streams, snapshot_every=every)
