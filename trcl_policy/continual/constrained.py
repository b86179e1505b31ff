"""Dual ascent: the strength of what holds the past follows from a target for the old loss instead of being chosen.

    minimise L_new(theta)  subject to  L_old(theta) <= target

with L_old the loss on replayed samples. After every step the multiplier follows the constraint in logarithms,

    log mu <- log mu + speed * clamp(L_old / target - 1, -1, 1)

with L_old averaged over some ten steps (as in GECO, Rezende and Viola 2018, but for the clamp). What mu
multiplies is the choice: the replayed loss itself (function space, the Lagrangian), or the anchor's proximal step or
penalty (weight space).

Samples that are learned from tell little of the old loss once they are known by heart, and that is where a trust region
is needed most. So L_old may be that of samples which the replay holds out, every few steps. While the multiplier of a
penalty is at its least, the anchor is left out altogether: where it is not needed it takes no time either.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trcl_policy.continual.model import corrupted_for, mean_loss
from trcl_policy.continual.past import Learned
from trcl_policy.continual.tasks import draw
from trcl_policy.continual.turn import Turn
from trcl_policy.continual.update import Update

MEMORY = 0.9
"""Share of the average of L_old that stays in a step."""
BOUNDS = (1e-3, 1e3)
"""Least and greatest multiplier."""
EVERY = 5
"""Steps to one look at the samples held out; the multiplier then moves as far as in so many steps."""
SAMPLES = 1024
"""Samples on which the loss of a task just learned is measured."""


@dataclass(frozen=True)
class Dual(Update):
    """Meets a target for the old loss.

    Attributes:
        through: what the multiplier scales: ``replay``, ``anchor`` (its proximal step) or ``penalty`` (its gradient).
        rise: share of its value at the end of learning by which the average old loss may rise; > 0. A distilled loss is
            zero there, so the target is that share itself; else it is one plus the share.
        speed: speed of the multiplier; > 0.
        held_out: L_old is that of samples never learned from, instead of those just replayed.
        recall: what the old loss is about, ``all`` or ``use``; see ``DarkGeneratedReplay``.
        reference: losses at the end of learning, one for every task, averaged; 0 before the first.
        num_tasks: tasks in that average.
        multiplier: mu, float64.
        met: average of L_old over the last steps, float64; not finite before the first.
    """

    through: str = "replay"
    rise: float = 0.1
    speed: float = 0.05
    held_out: bool = False
    recall: str = "all"
    reference: float = 0.0
    num_tasks: int = 0
    multiplier: Tensor | None = None
    met: Tensor | None = None

    def __post_init__(self) -> None:
        """Check the options once."""
        if self.through not in ("replay", "anchor", "penalty"):
            raise ValueError(f"through must be one of replay, anchor, penalty, got {self.through!r}")
        if not self.rise > 0 or not self.speed > 0:
            raise ValueError(f"rise and dual_speed must be > 0, got {self.rise} and {self.speed}")

    def step(self, turn: Turn) -> Update:
        """Take the step with the present multiplier, then move the multiplier."""
        at_start = turn.step == 0 or self.multiplier is None
        mu = turn.theta.new_ones((), dtype=torch.float64) if at_start else self.multiplier
        assert mu is not None
        if self.through == "replay":
            turn.descend(turn.joined(turn.beta * mu.to(turn.theta.dtype)))
        elif self.through == "penalty":
            direction = turn.joined()
            pull = turn.anchor.gradient(turn.theta) if float(mu) > BOUNDS[0] else None
            turn.descend(direction if pull is None else direction + mu.to(pull.dtype) * pull)
        else:
            turn.descend(turn.joined())
            if turn.anchor.mean_curvature > 0:
                step = turn.rate * float(mu) / turn.anchor.mean_curvature
                turn.move_to(turn.anchor.proximal(turn.theta, step, turn.theta))
        turn.notes["multiplier"] = mu
        steps, met = (EVERY, self._seen_apart(turn)) if self.held_out else (1, turn.losses.get("old"))
        before = None if at_start else self.met
        if met is None:
            return replace(self, multiplier=mu, met=before)
        stays, met = MEMORY**steps, met.detach().double()
        met = met if before is None else stays * before + (1 - stays) * met
        turn.notes["share_of_target"] = met / max(self.target(turn.distilled), 1e-30)
        return replace(self, multiplier=self.followed(mu, met, turn.distilled, steps), met=met)

    def _seen_apart(self, turn: Turn) -> Tensor | None:
        """Mean loss of samples held out, at the weights after the step; None where it is not their turn."""
        held = turn.held_out() if (turn.step + 1) % EVERY == 0 else None
        if held is None:
            return None
        with torch.no_grad():
            return turn.loss("old_held_out", turn.params, held)

    def target(self, distilled: bool) -> float:
        """The greatest old loss wanted."""
        return self.reference * (self.rise if distilled else 1 + self.rise)

    def followed(self, mu: Tensor, met: Tensor, distilled: bool, steps: int = 1) -> Tensor:
        """The multiplier after so many steps at which the average old loss was ``met``."""
        excess = (met / max(self.target(distilled), 1e-30) - 1).clamp(-1, 1)
        return (mu * (steps * self.speed * excess).exp()).clamp(*BOUNDS)

    def after_task(self, learned: Learned) -> Update:
        """Take the loss of the task just learned into the reference."""
        if learned.revisited:
            return self
        rng = learned.streams["dual/samples"]
        samples = draw(learned.task.samples, SAMPLES, rng)
        corrupted = corrupted_for(self.recall, learned.model, samples, rng)
        found = mean_loss(learned.model, learned.layout.unflatten(learned.theta), corrupted)
        count = self.num_tasks + 1
        return replace(self, reference=self.reference + (found - self.reference) / count, num_tasks=count)

    def state(self) -> dict[str, Tensor]:
        """Reference, multiplier and average."""
        told = torch.tensor([self.reference, float(self.num_tasks)], dtype=torch.float64)
        moving = {"multiplier": self.multiplier, "met": self.met}
        return {"reference": told, **{key: value for key, value in moving.items() if value is not None}}

    def restore(self, state: dict[str, Tensor]) -> Update:
        """The update saved as ``state``.

        Raises:
            ValueError: the state is that of a method without a multiplier.
        """
        if "reference" not in state:
            raise ValueError(
                "the saved state must hold a reference for the old loss, got none; "
                "resume with the method that the run began with"
            )
        reference, count = state["reference"].tolist()
        return replace(
            self,
            reference=reference,
            num_tasks=int(count),
            multiplier=state.get("multiplier"),
            met=state.get("met"),
        )
