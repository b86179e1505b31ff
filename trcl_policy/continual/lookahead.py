"""Meta-learning updates: a step is judged by the loss after one or more inner steps.

Notation:
    U(theta) = theta - a * grad L(theta; support)     one inner step at rate a
    a         inner rate
All of them see the replayed samples of the method's replay, stored or generated, and hand their direction to the same
optimiser as every other method.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trcl_policy.continual.params import Batch, concatenate, num_rows, rows
from trcl_policy.continual.turn import Turn
from trcl_policy.continual.update import Update


@dataclass(frozen=True)
class LookAhead(Update):
    """Options that the meta-learning updates share.

    Attributes:
        inner_rate: rate a of the inner steps, > 0.
        second_order: differentiate through the inner step.
    """

    inner_rate: float = 0.01
    second_order: bool = True

    def __post_init__(self) -> None:
        """Check the options once."""
        if not self.inner_rate > 0:
            raise ValueError(f"inner_rate must be > 0, got {self.inner_rate}")


@dataclass(frozen=True)
class MetaLeader(LookAhead):
    """Follow the meta leader: every task, the new one too, is judged after an inner step on itself (FTML).

    Finn, Rajeswaran, Kakade, Levine 2019, algorithm 1: L_k(U_k(w); D_val_k) with D_tr_k and D_val_k drawn from task k.
    A step takes the new task and one old task, drawn uniformly.
    """

    def step(self, turn: Turn) -> Update:
        """Descend along the meta-gradients of the new task and of one old task."""
        direction = turn.meta_gradient(turn.theta, *halves(turn.new), self.inner_rate, self.second_order)
        old = turn.recall_one()
        if old is not None:
            support, query = halves(old)
            pull = turn.meta_gradient(turn.theta, support, query, self.inner_rate, self.second_order, "old")
            direction = direction + turn.beta * pull
        turn.descend(direction)
        return self


@dataclass(frozen=True)
class VarianceReduced(LookAhead):
    """VR-MCL: the loss on memory after an inner step on the new task, with a variance-reduced gradient.

    Wu et al. 2024, algorithm 1, with g_b(theta; xi) the meta-gradient of step b on samples xi:

        m_b = g_b(theta_b; xi_b) + r (m_{b-1} - g_b(theta_{b-1}; xi_b))

    Both gradients use the same samples, so the correction cancels their noise as far as theta moved little. A task
    begins with r = 0.

    Attributes:
        momentum: r, in [0, 1).
        last: theta_{b-1} (P,).
        direction: m_{b-1} (P,).
    """

    momentum: float = 0.9
    last: Tensor | None = None
    direction: Tensor | None = None

    memory = "two vectors"

    def __post_init__(self) -> None:
        """Check the options once."""
        super().__post_init__()
        if not 0 <= self.momentum < 1:
            raise ValueError(f"vr_momentum must be in [0, 1), got {self.momentum}")

    def step(self, turn: Turn) -> Update:
        """Descend along m_b."""
        here = turn.theta.clone()
        support, query = halves(turn.new)
        old = turn.recall(None)
        query = query if old is None else concatenate([query, old])
        options = (self.inner_rate, self.second_order)
        direction = turn.meta_gradient(here, support, query, *options)
        if turn.step > 0 and self.last is not None and self.direction is not None and self.momentum:
            before = turn.meta_gradient(self.last, support, query, *options, name=None)
            direction = direction + self.momentum * (self.direction - before)
        turn.descend(direction)
        return replace(self, last=here, direction=direction)

    def state(self) -> dict[str, Tensor]:
        """The last weights and direction."""
        if self.last is None or self.direction is None:
            return {}
        return {"last": self.last, "direction": self.direction}

    def restore(self, state: dict[str, Tensor]) -> Update:
        """The update saved as ``state``."""
        return replace(self, last=state.get("last"), direction=state.get("direction"))


@dataclass(frozen=True)
class Reptile(LookAhead):
    """Meta-experience replay: plain inner steps through pieces of new and old samples, then a step towards their end.

    Riemer et al. 2019: to first order the direction also rewards gradients of different pieces that agree. The
    direction is (theta_0 - theta_K) / (K a), the mean of the K gradients met on the way.

    Attributes:
        inner_steps: K, >= 2.
    """

    inner_steps: int = 4

    def __post_init__(self) -> None:
        """Check the options once."""
        super().__post_init__()
        if self.inner_steps < 2:
            raise ValueError(f"inner_steps must be >= 2, got {self.inner_steps}")

    def step(self, turn: Turn) -> Update:
        """Descend along the mean gradient of the inner steps."""
        old = turn.recall(None)
        samples = turn.new if old is None else concatenate([turn.new, old])
        theta = turn.theta.clone()
        for piece in pieces(samples, self.inner_steps):
            theta = theta - self.inner_rate * turn.gradient_at(theta, piece)
        turn.descend((turn.theta - theta) / (self.inner_steps * self.inner_rate))
        return self


@dataclass(frozen=True)
class LearnedRates(LookAhead):
    """La-MAML: an inner rate for every weight, learned by the same meta-loss and also used for the outer step.

    Gupta, Yadav, Paull 2020, algorithm 2 (first-order, as in their experiments): K inner steps with rates alpha on
    pieces of the new task; after each one the gradient G_k of the loss on that piece and the old samples is taken. With
    S_k the sum of the inner gradients up to step k, h = sum_k G_k * S_k and a the first rate:

        alpha <- alpha + rate_speed * a * h / rms(h)
        theta <- theta + max(alpha, 0) / a * (the optimiser's step along mean_k G_k)

    Published are alpha <- alpha + rate_speed * h and a plain gradient step. Dividing by the root mean square gives
    ``rate_speed`` no unit; and with the optimiser of the other methods the network learns within their updates, which
    it does not by plain gradient steps.

    Attributes:
        inner_steps: K, >= 1.
        rate_speed: how far the rates move in a step, as a share of the first rate.
        rates: alpha (P,).
    """

    inner_steps: int = 4
    rate_speed: float = 0.01
    rates: Tensor | None = None

    memory = "one vector (its rates)"

    def __post_init__(self) -> None:
        """Check the options once."""
        super().__post_init__()
        if self.inner_steps < 1 or self.rate_speed < 0:
            raise ValueError(
                f"inner_steps must be >= 1 and rate_speed >= 0, got {self.inner_steps} and {self.rate_speed}"
            )

    def step(self, turn: Turn) -> Update:
        """Learn the rates, then move the weights with them."""
        rates = torch.full_like(turn.theta, self.inner_rate) if self.rates is None else self.rates
        theta, met = turn.theta.clone(), torch.zeros_like(turn.theta)
        total, slope = torch.zeros_like(met), torch.zeros_like(met)
        old = turn.recall(None)
        for piece in pieces(turn.new, self.inner_steps):
            inner = turn.gradient_at(theta, piece)
            theta, met = theta - rates.clamp_min(0) * inner, met + inner
            outer = turn.gradient_at(theta, piece if old is None else concatenate([piece, old]))
            total, slope = total + outer, slope + outer * met
        size = slope.square().mean().sqrt().clamp_min(torch.finfo(slope.dtype).tiny)
        rates = rates + self.rate_speed * self.inner_rate / size * slope
        before = turn.theta.clone()
        turn.descend(total / self.inner_steps)
        turn.move_to(before + rates.clamp_min(0) / self.inner_rate * (turn.theta - before))
        return replace(self, rates=rates)

    def state(self) -> dict[str, Tensor]:
        """The rates."""
        return {} if self.rates is None else {"rates": self.rates}

    def restore(self, state: dict[str, Tensor]) -> Update:
        """The update saved as ``state``."""
        return replace(self, rates=state.get("rates"))


def halves(batch: Batch) -> tuple[Batch, Batch]:
    """Support and query: every other row each; a single row serves as both."""
    if num_rows(batch) == 1:
        return batch, batch
    return rows(batch, slice(0, None, 2)), rows(batch, slice(1, None, 2))


def pieces(batch: Batch, count: int) -> list[Batch]:
    """``count`` interleaved parts of a batch (fewer where it has fewer rows): every part has rows from all of it."""
    return [rows(batch, slice(start, None, count)) for start in range(min(count, num_rows(batch)))]
