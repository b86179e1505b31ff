"""A small model of every kind of thing the core asks for: drawn noise, conditions, losses, predictions, samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trcl_policy.continual.anchor import Learned, NoAnchor
from trcl_policy.continual.methods import Options, make_method
from trcl_policy.continual.model import leaves
from trcl_policy.continual.optimizer import FlatAdam, Training
from trcl_policy.continual.params import Batch, Layout, Params
from trcl_policy.continual.replay import Request
from trcl_policy.continual.streams import Streams
from trcl_policy.continual.tasks import Task, TaskSequence, TensorSamples
from trcl_policy.continual.turn import Turn

torch.set_num_threads(1)

OPTIONS = Options(weight=3.0, fisher_samples=48, rank=3, replay_samples=20, memory=10, replay_ratio=0.5, dark_draws=2)
TRAINING = Training(steps=6, batch_size=12, learning_rate=0.02, warmup=2, ema_decay=0.9, weight_decay=0.01)


@dataclass(frozen=True)
class Toy:
    """y = out tanh(x in + where[condition]) + bias, learned from noisy inputs and noisy targets."""

    scale: float = 1.0

    def corrupt(self, batch: Batch, rng: torch.Generator) -> Batch:
        x, y = batch["x"], batch["y"]
        noisy = x + 0.3 * torch.randn(x.shape, generator=rng, dtype=x.dtype)
        target = y + 0.2 * torch.randn(y.shape, generator=rng, dtype=y.dtype)
        return {"x": noisy, "kind": batch["kind"], "target": target}

    def predict(self, params: Params, corrupted: Batch) -> Tensor:
        hidden = torch.tanh(corrupted["x"] @ params["in"] + params["where"][corrupted["kind"]])
        return hidden @ params["out"] + params["bias"]

    def losses(self, params: Params, corrupted: Batch) -> Tensor:
        return self.scale * (self.predict(params, corrupted) - corrupted["target"]).square().mean(1)

    def generate(self, params: Params, condition: Batch, rng: torch.Generator) -> Batch:
        kind = condition["kind"]
        x = torch.randn(len(kind), 2, generator=rng, dtype=params["in"].dtype)
        return {"x": x, "y": self.predict(params, {"x": x, "kind": kind}), "kind": kind}


@dataclass(frozen=True)
class Quadratic:
    """Loss |scale * (w - x)|^2 / 2 of one sample x: gradients and best weights are known in closed form."""

    scale: Tensor

    def corrupt(self, batch: Batch, rng: torch.Generator) -> Batch:
        return {"target": batch["x"]}

    def predict(self, params: Params, corrupted: Batch) -> Tensor:
        return params["w"].expand_as(corrupted["target"])

    def losses(self, params: Params, corrupted: Batch) -> Tensor:
        return 0.5 * (self.scale * (params["w"] - corrupted["target"])).square().sum(1)

    def generate(self, params: Params, condition: Batch, rng: torch.Generator) -> Batch:
        return {"x": params["w"].expand(len(condition["kind"]), -1)}


def make_params(dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    shapes = {"in": (2, 5), "where": (2, 5), "out": (5, 2), "bias": (2,)}
    return {
        name: 0.5 * torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype) for name, shape in shapes.items()
    }


def make_batch(kinds: tuple[int, ...], count: int, seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 2, generator=rng, dtype=dtype)
    kind = torch.tensor(kinds)[torch.randint(len(kinds), (count,), generator=rng)]
    turn = torch.tensor([[1.0, -0.5], [0.3, 2.0]], dtype=dtype) * (seed + 1) ** 0.5
    # The conditions pull the shared bias apart, so that tasks conflict.
    return {"x": x, "y": (1 - 2 * kind[:, None]) * (torch.sin(x @ turn) + 1), "kind": kind}


def make_task(name: str, kinds: tuple[int, ...], count: int, seed: int, dtype: torch.dtype = torch.float32) -> Task:
    held_out = TensorSamples(make_batch(kinds, 16, seed + 100, dtype))
    return Task(name, TensorSamples(make_batch(kinds, count, seed, dtype)), {"kind": torch.tensor(kinds)}, held_out)


def make_tasks(dtype: torch.dtype = torch.float32) -> TaskSequence:
    """Three tasks of unequal size; the last one has both conditions."""
    return TaskSequence(
        (
            make_task("first", (0,), 40, 0, dtype),
            make_task("second", (1,), 30, 1, dtype),
            make_task("third", (0, 1), 50, 2, dtype),
        )
    )


def corrupted_batch(count: int = 40, dtype: torch.dtype = torch.float64) -> Batch:
    return Toy().corrupt(make_batch((0, 1), count, 5, dtype), torch.Generator().manual_seed(9))


def vector(dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Layout, Tensor]:
    params = make_params(dtype, seed)
    layout = Layout.of(params)
    return layout, layout.flatten(params)


def method(name: str, **changes: object):
    return make_method(name, Options(**{**vars(OPTIONS), **changes}))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def learned(tasks: TaskSequence, index: int, theta=None, streams=None, model=None, raw=None) -> Learned:
    """What the parts of a method are told at the end of task ``index``."""
    layout, start = vector(torch.float32)
    old = tasks.distinct(index + 1)
    return Learned(
        task=tasks[index],
        task_index=index,
        old_tasks=old,
        revisited=len(old) == len(tasks.distinct(index)),
        model=model or Toy(),
        layout=layout,
        theta=start if theta is None else theta,
        streams=streams or Streams(5),
        raw=raw,
    )


def request(count: int, streams=None, old_tasks=(), task=None, step=0, model=None, seed=3) -> Request:
    """A wish for ``count`` old samples while twelve samples of the second condition are learned."""
    layout, _ = vector(torch.float32)
    new = make_batch((1,), 12, seed)
    return Request(model or Toy(), layout, count, streams or Streams(1), new, tuple(old_tasks), step, task)


class Descent(FlatAdam):
    """Plain gradient descent that remembers the directions it was given."""

    def __init__(self, theta: Tensor, training: Training) -> None:
        super().__init__(theta, training)
        self.directions: list[Tensor] = []

    def step(self, gradient: Tensor, learning_rate: float) -> Tensor:
        self.directions.append(gradient.clone())
        self.theta.sub_(learning_rate * gradient)
        return gradient.norm()


def make_turn(model, layout, optimizer, new, old=None, **changes) -> Turn:
    """One step on the corrupted batch ``new``; ``old`` is one corrupted batch, or one for every old task."""
    batches = [] if old is None else old if isinstance(old, list) else [old]
    told = {
        "model": model,
        "layout": layout,
        "optimizer": optimizer,
        "params": leaves(layout, optimizer.theta),
        "anchor": NoAnchor(),
        "new": new,
        "recall": lambda task: batches[task or 0] if batches else None,
        "num_recalled": len(batches),
        "held_out": lambda: None,
        "distilled": False,
        "streams": Streams(2),
        "beta": 1.0,
        "rate": 0.1,
        "step": 0,
        "total_steps": 10,
        "task_index": 1,
        "num_tasks": 2,
    }
    return Turn(**{**told, **changes})
