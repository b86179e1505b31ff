"""What the past charges the weights: a quadratic around the weights at the end of every old task.

    Q(theta) = coefficient * sum_k (theta - theta_k*)' F_k (theta - theta_k*)         (paper, section 1)

quadratic.py merges terms without loss, so memory is two vectors for diagonals, however many tasks, and ``rank`` vectors
a task for low rank (one for rank-1); ``keep`` may bound the latter, or hold every task apart. Kronecker products merge
into the nearest one around the latest weights: two matrices a layer, however many tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, reduce

import torch
from torch import Tensor

from trcl_policy.continual.fisher import ESTIMATORS, estimate
from trcl_policy.continual.gradients import Sampled
from trcl_policy.continual.metric import Metric
from trcl_policy.continual.model import mean_loss, precise
from trcl_policy.continual.past import Anchor, Learned, NoAnchor
from trcl_policy.continual.quadratic import Quadratic
from trcl_policy.continual.sampling import fisher_samples

__all__ = ["Anchor", "FisherAnchor", "Learned", "NoAnchor"]

KEEPS = ("merged", "separate", "compressed", "online")
MARKS = {
    "kronecker": {"center", "blocks"},
    "rank1": {"basis"},
    "lowrank": {"basis"},
    "diagonal_lowrank": {"center", "basis"},
}
"""What a saved term of each kind holds of these entries; of other kinds ``center`` alone."""


@dataclass(frozen=True)
class FisherAnchor:
    """The sum of Fisher quadratics around the weights at the end of every old task.

    Attributes:
        kind: metric of each term, a name of ``fisher.ESTIMATORS``.
        weight: scale-free strength w. Each term is measured in units of its own task's loss (``c F``, see
            fisher.py) and terms are averaged over old tasks, so w = 1 charges the expected rise of the average old
            loss, whatever the network, the loss's scale or the number of tasks.
        raw_lambda: the published strength instead: terms are plain Fishers and are summed. None uses ``weight``.
        num_samples: samples the Fisher is averaged over.
        rank: eigenpairs that low-rank kinds keep of each task; memory is rank P numbers a task.
        keep: ``merged`` (one exact sum), ``separate`` (the same sum, with every task's quadratic kept as well),
            ``compressed`` (never more than ``rank`` eigenpairs in all) or ``online`` (F <- decay F + F_new around the
            latest weights, of at most ``rank`` eigenpairs, and not averaged over tasks: Schwarz et al. 2018).
        decay: what ``online`` leaves of the past at each task, in [0, 1].
        noise_range: only samples whose noise level is in (low, high] count. (0, 1) takes all and asks the model for
            no level; for others it has to be a ``GradedModel``.
        terms: the quadratics held; none before the first task is learned.
        num_tasks: number of old tasks held.
        total_loss: sum over old tasks of the mean loss of their Fisher samples at their theta_k*.
    """

    kind: str = "diagonal"
    weight: float = 1.0
    raw_lambda: float | None = None
    num_samples: int = 1024
    rank: int = 16
    keep: str = "merged"
    decay: float = 0.9
    noise_range: tuple[float, float] = (0.0, 1.0)
    terms: tuple[Quadratic, ...] = ()
    num_tasks: int = 0
    total_loss: float = 0.0

    def __post_init__(self) -> None:
        """Check the options once."""
        for name, accepted, got in (("metric", ESTIMATORS, self.kind), ("keep", KEEPS, self.keep)):
            if got not in accepted:
                raise ValueError(f"{name} must be one of {', '.join(accepted)}, got {got!r}")
        if self.weight < 0 or (self.raw_lambda is not None and self.raw_lambda < 0):
            raise ValueError(f"weight and lambda must be >= 0, got {self.weight} and {self.raw_lambda}")
        for name, count in (("fisher_samples", self.num_samples), ("rank", self.rank)):
            if count < 1:
                raise ValueError(f"{name} must be >= 1, got {count}")
        if not 0 <= self.decay <= 1:
            raise ValueError(f"decay must be in [0, 1], got {self.decay}")
        if not 0 <= self.noise_range[0] < self.noise_range[1] <= 1:
            raise ValueError(f"noise_range must be (low, high) with 0 <= low < high <= 1, got {self.noise_range}")

    @property
    def memory(self) -> str:
        """What is kept of old tasks, in words."""
        where = "a task" if self.keep in ("merged", "separate") else "in all"
        low = {"rank1": f"one vector {where}"}.get(self.kind, f"`rank` vectors {where}")
        held = "a task" if self.keep == "separate" else "in all"
        vectors = {"isotropic": "one vector", "kronecker": "two vectors and two square matrices a layer"}
        own = f"{vectors.get(self.kind, 'two vectors')} {held}"
        return {"rank1": low, "lowrank": low, "diagonal_lowrank": f"{own} and {low}"}.get(self.kind, own)

    @property
    def coefficient(self) -> float:
        """What multiplies the sum of terms."""
        return self.raw_lambda if self.raw_lambda is not None else self.weight / self._share

    @property
    def _share(self) -> int:
        """Number of tasks that the sum is averaged over."""
        return 1 if self.keep == "online" else max(self.num_tasks, 1)

    @cached_property
    def quadratic(self) -> Quadratic:
        """The sum of all terms, without coefficient."""
        return reduce(Quadratic.joined, self.terms, Quadratic())

    @cached_property
    def mean_curvature(self) -> float:
        """Trace of the metric over P, averaged over tasks, without ``weight``; 0 before the first task.

        In units of the loss's curvature; with ``raw_lambda`` of the plain Fisher.
        """
        return self.quadratic.trace() / self._share / self.quadratic.num_weights if self.terms else 0.0

    @property
    def mean_loss(self) -> float:
        """Average over old tasks of their mean loss at their own theta_k*; 0 before the first."""
        return self.total_loss / max(self.num_tasks, 1)

    def squares(self, theta: Tensor) -> list[float]:
        """(theta - theta_k*)' F_k (theta - theta_k*) of every term held, one a task where ``separate``.

        Without coefficient; unless ``raw_lambda`` is set, half of it is the expected rise of that task's own loss.
        """
        return [float(term.square(theta)) for term in self.terms]

    @cached_property
    def _held(self) -> Quadratic | None:
        """Q, with its coefficient; None where it is zero everywhere."""
        return self.quadratic.scaled(self.coefficient) if self.terms and self.coefficient > 0 else None

    def value(self, theta: Tensor) -> Tensor:
        """Q(theta) / 2, a float64 scalar, up to the constant that merging leaves."""
        return 0.5 * (theta.new_zeros((), dtype=torch.float64) if self._held is None else self._held.square(theta))

    def gradient(self, theta: Tensor) -> Tensor | None:
        """Gradient of Q / 2, (P,); None while it is zero everywhere."""
        return None if self._held is None else self._held.gradient(theta)

    def add_gradient(self, direction: Tensor, theta: Tensor) -> Tensor:
        """``direction`` (P,) with the gradient of Q / 2 added in place."""
        return direction if self._held is None else self._held.add_gradient(direction, theta)

    def proximal(self, theta: Tensor, step: float, out: Tensor | None = None) -> Tensor:
        """argmin_x |x - theta|^2 / (2 step) + Q(x) / 2 in closed form, (P,); stable for every weight."""
        return theta if self._held is None or step == 0 else self._held.proximal(theta, step, out)

    def project(self, theta: Tensor, radius: float) -> Tensor:
        """``theta`` if Q(theta) <= radius^2, else a point where Q = radius^2, (P,); see ``Quadratic.project``."""
        return theta if self._held is None else self._held.project(theta, radius**2)

    @property
    def watches(self) -> bool:
        """False."""
        return False

    def after_step(self, gradient: Tensor, before: Tensor, after: Tensor) -> FisherAnchor:
        """Itself."""
        return self

    def after_task(self, learned: Learned) -> FisherAnchor:
        """Estimate the Fisher of the task just learned at its final weights, and add its term."""
        model, layout, theta, streams = precise(learned.model), learned.layout, learned.theta, learned.streams
        corrupted = fisher_samples(model, learned.task.samples, self.num_samples, streams, self.noise_range)
        sampled = Sampled(model, layout, theta, corrupted)
        found = estimate(self.kind, sampled, streams["fisher/directions"], self.rank)
        unit = 1.0 if self.raw_lambda is not None else found.curvature_ratio
        return self.merged_with(found.metric, unit, theta, mean_loss(model, layout.unflatten(theta), corrupted))

    def merged_with(self, metric: Metric, unit: float, theta: Tensor, loss: float = 0.0) -> FisherAnchor:
        """The anchor with one more term ``unit * metric`` around ``theta``, of a task with that mean loss there."""
        if self.keep == "separate":
            terms: tuple[Quadratic, ...] = (*self.terms, Quadratic.around(metric.scaled(unit), theta))
        elif self.keep == "online":
            past = self.quadratic.recentered(theta, self.decay)
            terms = (past.plus(metric, unit, theta).compressed(self.rank),)
        else:
            merged = self.quadratic.plus(metric, unit, theta)
            terms = (merged.compressed(self.rank) if self.keep == "compressed" else merged,)
        return replace(self, terms=terms, num_tasks=self.num_tasks + 1, total_loss=self.total_loss + loss)

    def state(self) -> dict[str, Tensor]:
        """Tensors of all terms, those after the first under ``number/``; counts and losses."""
        if not self.terms:
            return {}
        first, *others = (term.state() for term in self.terms)
        rest = {f"{n}/{key}": leaf for n, term in enumerate(others, 1) for key, leaf in term.items()}
        counts, losses = torch.tensor(self.num_tasks), torch.tensor(self.total_loss, dtype=torch.float64)
        return {**first, **rest, "num_tasks": counts, "total_loss": losses}

    def restore(self, state: Mapping[str, Tensor]) -> FisherAnchor:
        """The anchor whose ``state`` was saved, with this one's options.

        Raises:
            ValueError: the state is that of another kind of metric.
        """
        if not state:
            return replace(self, terms=(), num_tasks=0, total_loss=0.0)
        found: dict[str, dict[str, Tensor]] = {}
        for key, leaf in state.items():
            number, _, name = key.rpartition("/")
            found.setdefault(number, {})[name] = leaf
        marks = {"center", "blocks", "basis"} & found[""].keys()
        if marks != MARKS.get(self.kind, {"center"}):
            fits = [kind for kind in ESTIMATORS if marks == MARKS.get(kind, {"center"})]
            raise ValueError(
                f"the saved state must hold a metric of kind {self.kind}, got one of {' or '.join(fits) or 'none'}; "
                "resume with the method that the run began with"
            )
        terms = tuple(Quadratic.restore(found[number]) for number in sorted(found, key=lambda n: int(n or 0)))
        return replace(self, terms=terms, num_tasks=int(state["num_tasks"]), total_loss=float(state["total_loss"]))
