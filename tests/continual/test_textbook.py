"""Two or three tasks with quadratic losses, for which the end of every method of the table is known in closed form.

Task i has the loss 1/2 mean_x (w - x)' K_i (w - x) with a diagonal K_i and samples x around c_i, so that learning it
alone ends at c_i. With the anchor's matrix A around theta* (the weights at the end of the first task, which the test
reads off the run) and replay of weight beta, a run ends where

    K_1 (w - c_1) + beta K_0 (w - theta*) + A (w - theta*) = 0

Samples come in an order in which every half and every fourth of a batch has the mean c_i, and every batch is the whole
set: the ends hold to the optimiser's precision, except where old samples are drawn at random.
"""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from tests.continual.toy import OPTIONS, method
from tests.reference import slow
from trcl_policy.continual.learner import learn
from trcl_policy.continual.methods import METHODS
from trcl_policy.continual.optimizer import Training
from trcl_policy.continual.params import Layout
from trcl_policy.continual.streams import Streams
from trcl_policy.continual.tasks import Task, TaskSequence

F64 = torch.float64
CENTERS = torch.tensor([[1.0, -1.2, 0.4, 0.2], [-0.8, 0.5, -0.6, 1.0], [0.3, 1.0, 1.0, -1.0]], dtype=F64)
CURVATURES = torch.tensor([[1.0, 2.0, 0.5, 1.5], [1.5, 0.6, 1.0, 1.2], [0.8, 1.0, 0.7, 0.5]], dtype=F64)
SPREADS = torch.tensor([[0.5, 0.3, -0.2, 0.4], [0.1, 0.3, 0.6, -0.3]], dtype=F64)
TRAINING = Training(
    steps=200, batch_size=32, learning_rate=0.06, schedule="cosine", warmup=0, gradient_clip=0.0, ema_decay=0.0
)
SURE, DRAWN = 3e-3, 2e-2
"""Tolerances: where nothing is random, and where old samples are drawn (the mean of some 1,300 draws a step)."""


@dataclass(frozen=True)
class Parabola:
    """Loss 1/2 (w - x)' K_kind (w - x); what it generates is w itself."""

    def corrupt(self, batch, rng):
        return {"target": batch["x"], "kind": batch["kind"]}

    def predict(self, params, corrupted):
        return params["w"].flatten().expand(len(corrupted["kind"]), -1)

    def losses(self, params, corrupted):
        offset = self.predict(params, corrupted) - corrupted["target"]
        return 0.5 * (CURVATURES[corrupted["kind"]] * offset.square()).sum(1)

    def generate(self, params, condition, rng):
        return {"x": params["w"].flatten().expand(len(condition["kind"]), -1).clone(), "kind": condition["kind"]}


class Whole:
    """Eight samples around a centre; whatever is asked for, they come in order, over and over."""

    def __init__(self, kind: int) -> None:
        a, b = SPREADS
        self.x = CENTERS[kind] + torch.stack([a, a, b, b, -a, -a, -b, -b])
        self.kind = kind

    def __len__(self):
        return 8

    def gather(self, index):
        return {"x": self.x[torch.arange(len(index)) % 8], "kind": torch.full_like(index, self.kind)}


def make_tasks(count=2):
    """Tasks that can be done at will: the weights are what is met."""

    def rehearse(kind):
        return lambda params, count, rng: Parabola().generate(params, {"kind": torch.full((count,), kind)}, rng)

    tasks = [Task(str(k), Whole(k), {"kind": torch.tensor([k])}, None, rehearse(k)) for k in range(count)]
    return TaskSequence(tuple(tasks))


def ends(name, count=2, training=TRAINING, **options):
    """Weights (P,) at the end of each task, and the last snapshot."""
    told = {"weight": 2.0, "fisher_samples": 64, "replay_samples": 16, "memory": 8, "replay_ratio": 1.0, **options}
    params, found = {"w": torch.full((2, 2), -0.6, dtype=F64)}, []
    for snapshot in learn(Parabola(), params, make_tasks(count), method(name, **told), training, Streams(3), 10**6):
        if snapshot.kind == "learned":
            found.append(snapshot.theta.clone())
            last = snapshot
    return found, last


def fishers(theta, kind):
    """Dense Fisher (P, P), mean gradient (P,) and mean loss of a task at ``theta``, and the Fisher's curvature unit."""
    layout, batch = Layout.of({"w": torch.zeros(2, 2)}), {"target": Whole(kind).x, "kind": torch.full((8,), kind)}
    gradients = slow.per_sample_gradients(Parabola(), layout, theta, batch)
    full = gradients.T @ gradients / 8
    loss = Parabola().losses(layout.unflatten(theta), batch).mean()
    return full, gradients.mean(0), float(loss), float(CURVATURES[kind].sum() / full.trace())


def top(matrix, rank):
    """The part of a symmetric matrix in its ``rank`` largest eigenvalues."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors[:, -rank:] * values[-rank:]) @ vectors[:, -rank:].T


def along_mean(full, mean):
    """The rank-1 Fisher along the mean gradient."""
    unit = mean / mean.norm()
    return (unit @ full @ unit) * torch.outer(unit, unit)


def mixed(full):
    """The largest eigenpair and the diagonal of what it leaves."""
    low = top(full, 1)
    return low + torch.diag((full - low).diagonal().clamp_min(0))


METRICS = {
    "isotropic": lambda full, mean: full.trace() / 4 * torch.eye(4, dtype=F64),
    "diagonal": lambda full, mean: torch.diag(full.diagonal()),
    "rank1": along_mean,
    "lowrank": lambda full, mean: top(full, 1),
    "mixed": lambda full, mean: mixed(full),
}


def optimum(*terms: tuple[Tensor, Tensor]) -> Tensor:
    """argmin of sum (w - center)' A (w - center) over pairs (A, center); a vector A counts as a diagonal."""
    matrices = [(torch.diag(a) if a.dim() == 1 else a, center) for a, center in terms]
    return torch.linalg.solve(sum(a for a, _ in matrices), sum(a @ center for a, center in matrices))


def close(found, wanted, tolerance=SURE):
    torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance)


def test_every_method_has_its_page():
    told = {*HELD, *REPLAYED, *META, *(name for names in OTHERS.values() for name in names)}
    assert told == set(METHODS)


OTHERS = {
    "bounds": ("finetune", "joint", "alone"),
    "running": ("ewc_online", "si", "mas"),
    "constrained": ("trcl_prox", "trcl_prox_plain", "trcl_ball", "trcl_dual", "trcl", "replay_dual"),
    "projected": ("agem", "packnet"),
    # test_kronecker.py, test_factors.py
    "kronecker": ("ewc_kfac", "trcl_fixed", "trcl_kept", "trcl_kept_prox", "trcl_kfac", "trcl_kfac_plain"),
}


# Bounds


def test_finetuning_ends_at_the_last_tasks_mean():
    for theta, center in zip(ends("finetune")[0], CENTERS, strict=False):
        close(theta, center)


def test_joint_ends_at_the_weighted_mean_of_all():
    (theta,), _ = ends("joint", training=replace(TRAINING, batch_size=512))
    close(theta, optimum((CURVATURES[0], CENTERS[0]), (CURVATURES[1], CENTERS[1])), DRAWN)


def test_alone_takes_the_path_from_the_first_weights():
    """Too few steps to arrive, so that the start shows: the second task ends where it would as the only one."""
    short = replace(TRAINING, steps=12)
    (_, second), _ = ends("alone", training=short)
    told, params = method("finetune"), {"w": torch.full((2, 2), -0.6, dtype=F64)}
    only = TaskSequence(make_tasks().tasks[1:])
    wanted = [s.theta.clone() for s in learn(Parabola(), params, only, told, short, Streams(3), 10**6)][-1]
    assert torch.equal(second, wanted)
    assert float((second - ends("finetune", training=short)[0][1]).norm()) > 0.1


# Weights held, with and without distilled replay

HELD = {
    "l2": ("isotropic", 0.0),
    "ewc": ("diagonal", 0.0),
    "ewc_rank1": ("rank1", 0.0),
    "ewc_lowrank": ("lowrank", 0.0),
    "trcl_rank1": ("rank1", 1.0),
    "trcl_diag": ("diagonal", 1.0),
    "trcl_diag_plain": ("diagonal", 1.0),
    "trcl_lowrank": ("lowrank", 1.0),
    "trcl_mixed": ("mixed", 1.0),
}


@pytest.mark.parametrize("name", HELD)
def test_a_held_task_ends_at_the_penalised_optimum(name):
    kind, beta = HELD[name]
    (first, second), _ = ends(name, rank=1, weight=0.8)
    full, mean, _, unit = fishers(first, 0)
    pull = 0.8 * unit * METRICS[kind](full, mean)
    close(second, optimum((CURVATURES[1], CENTERS[1]), (pull, first), (beta * CURVATURES[0], first)))
    free = optimum((CURVATURES[1], CENTERS[1]), (beta * CURVATURES[0], first))
    assert float((second - free).norm()) > 0.02


@pytest.mark.parametrize(("name", "raw"), [("ewc", None), ("ewc", 0.7), ("ewc_rank1", 0.7), ("ewc_lowrank", None)])
def test_three_tasks_average_the_scale_free_anchors_and_sum_the_published_ones(name, raw):
    (first, second, third), _ = ends(name, 3, rank=1, weight=2.0, raw_lambda=raw)
    terms = []
    for kind, theta in enumerate((first, second)):
        full, mean, _, unit = fishers(theta, kind)
        terms.append(((2.0 / 2 * unit if raw is None else raw) * METRICS[HELD[name][0]](full, mean), theta))
    close(third, optimum((CURVATURES[2], CENTERS[2]), *terms))


# Running anchors


def test_online_ewc_holds_one_decayed_fisher_around_the_latest_weights():
    (first, second, third), _ = ends("ewc_online", 3, weight=2.0, online_decay=0.4)
    (old, *_, unit), (new, *_, later) = fishers(first, 0), fishers(second, 1)
    pull = 2.0 * (0.4 * unit * old.diagonal() + later * new.diagonal())
    close(third, optimum((CURVATURES[2], CENTERS[2]), (pull, second)))


def test_the_path_integral_recovers_the_hessian():
    """On the way down, -g dw adds up to K/2 (way)^2, so the importance is K/2 and the penalty's gradient weight K."""
    slow_rate = replace(TRAINING, steps=500, learning_rate=0.015)
    (first, second), _ = ends("si", training=slow_rate, weight=0.7, si_damping=1e-4)
    close(second, optimum((CURVATURES[1], CENTERS[1]), (0.7 * CURVATURES[0], first)), DRAWN)


def test_sensitivity_is_twice_the_size_of_the_prediction():
    """The prediction is w itself: d|w|^2 / dw = 2 w, brought into units of curvature."""
    (first, second), _ = ends("mas", weight=0.8)
    importance = 2 * first.abs()
    pull = 0.8 * importance * CURVATURES[0].sum() / importance.sum()
    close(second, optimum((CURVATURES[1], CENTERS[1]), (pull, first)))


# Data kept or made. Where the prediction does not depend on the input, old conditions on new samples hold as much as
# generated samples do.

REPLAYED = (
    *("er", "er_distill", "lwf", "tdgr"),
    *("replay", "replay_plain", "replay_rollout", "replay_kept", "replay_kept_plain", "replay_dark"),
)


@pytest.mark.parametrize(("name", "beta"), [*((name, 0.4) for name in REPLAYED), ("er", 1.0), ("replay", 1.0)])
def test_replayed_tasks_end_at_the_weighted_mean(name, beta):
    more = {"replay_ratio": 40.0} if name == "er" else {}
    (first, second), _ = ends(name, replay_weight=beta, **more)
    close(second, optimum((CURVATURES[1], CENTERS[1]), (beta * CURVATURES[0], first)), DRAWN if more else SURE)


@pytest.mark.parametrize("name", ["replay_plain", "replay_kept_plain", "replay_dark"])
def test_samples_made_once_pull_to_where_their_task_ended(name):
    """What is made anew after every task pulls both old tasks to the latest weights: a copy of a copy."""
    first, second, third = ends(name, 3, replay_weight=2.0)[0]
    made_by = second if name == "replay_plain" else first
    close(third, optimum((CURVATURES[2], CENTERS[2]), (CURVATURES[0], made_by), (CURVATURES[1], second)), DRAWN)
    assert float((first - second).norm()) > 0.5


# Meta-learning

META = ("ftml", "vrmcl", "mer", "lamaml", "ftml_distill", "vrmcl_distill", "mer_distill", "lamaml_distill")
RATE = 0.3


def meta_ends(name, rate=RATE, **options):
    """Ends with old samples as many as new ones, or forty times as many where they are drawn, and their share."""
    ratio = 1.0 if name.endswith("distill") else 40.0
    found, _ = ends(name, inner_rate=rate, rate_speed=0.0, replay_ratio=ratio, **options)
    return (*found, ratio, SURE if ratio == 1.0 else DRAWN)


@pytest.mark.parametrize(("name", "second_order"), [("ftml", True), ("ftml_distill", True), ("ftml_distill", False)])
def test_the_meta_leader_weighs_a_task_by_what_an_inner_step_leaves(name, second_order):
    """d/dw of the loss after a step is K (1 - a K)^2 (w - c); of first order K (1 - a K) (w - c)."""
    first, second, _, tolerance = meta_ends(name, second_order=second_order)
    new, old = (k * (1 - RATE * k) ** (2 if second_order else 1) for k in (CURVATURES[1], CURVATURES[0]))
    close(second, optimum((new, CENTERS[1]), (old, first)), tolerance)


@pytest.mark.parametrize(("name", "second_order"), [("vrmcl", True), ("vrmcl_distill", True), ("vrmcl_distill", False)])
def test_variance_reduced_ends_where_the_next_step_would_reach_the_joint_optimum(name, second_order):
    """The query is half of the new samples and all old ones; the inner step contracts towards the new task."""
    first, second, ratio, tolerance = meta_ends(name, second_order=second_order)
    reached = optimum((0.5 * CURVATURES[1], CENTERS[1]), (ratio * CURVATURES[0], first))
    wanted = (reached - RATE * CURVATURES[1] * CENTERS[1]) / (1 - RATE * CURVATURES[1])
    close(second, wanted, 2 * tolerance)


@pytest.mark.parametrize("name", ["mer", "mer_distill"])
def test_reptile_ends_at_the_optimum_of_its_pieces(name):
    ratio = 3.0 if name == "mer_distill" else 40.0
    (first, second), _ = ends(name, inner_rate=RATE, replay_ratio=ratio)
    wanted = optimum((CURVATURES[1], CENTERS[1]), (ratio * CURVATURES[0], first))
    close(second, wanted, SURE if ratio == 3.0 else DRAWN)


@pytest.mark.parametrize("name", ["lamaml", "lamaml_distill"])
def test_fixed_rates_end_where_the_gradients_along_the_inner_path_cancel(name):
    """theta_k - c_1 = (1 - a K_1)^k (w - c_1), and the gradients of piece and old samples at theta_1..theta_4 sum to 0.

    Learned rates change the path; their recursion is held in test_update.py.
    """
    rate = 0.1  # at greater ones the end lies far away
    first, second, ratio, tolerance = meta_ends(name, rate)
    share = 0.25 / (0.25 + ratio)
    new, old = share * CURVATURES[1], (1 - share) * CURVATURES[0]
    left = sum((1 - rate * CURVATURES[1]) ** k for k in range(1, 5)) / 4
    wanted = CENTERS[1] + old * (first - CENTERS[1]) / ((new + old) * left)
    close(second, wanted, tolerance)


# Constraints


@pytest.mark.parametrize("weight", [0.0, 1e9])
def test_a_proximal_step_ends_at_replay_or_at_the_old_weights(weight):
    """Adam's step and the proximal one balance outside both optima in between; only the limits are closed."""
    (first, second), _ = ends("trcl_prox", weight=weight)
    free = optimum((CURVATURES[1], CENTERS[1]), (CURVATURES[0], first))
    close(second, first if weight else free)
    assert float((first - free).norm()) > 0.5


@pytest.mark.parametrize("rise", [0.05, 0.5])
def test_a_ball_ends_on_its_surface(rise):
    (first, second), _ = ends("trcl_ball", weight=1.0, rise=rise)
    full, _, loss, unit = fishers(first, 0)
    estimated = 0.5 * float((unit * full.diagonal() * (second - first).square()).sum())
    assert estimated == pytest.approx(rise * loss, rel=1e-6)


@pytest.mark.parametrize("name", ["replay_dual", "trcl_dual", "trcl"])
def test_a_dual_method_meets_its_target_for_the_old_loss(name):
    """The distilled old loss may reach ``rise`` times the loss at the end of the first task."""
    longer = replace(TRAINING, steps=500, schedule="constant", learning_rate=0.02)
    (first, second), last = ends(name, rise=0.3, dual_speed=0.05, training=longer)
    *_, loss, _ = fishers(first, 0)
    met = 0.5 * float((CURVATURES[0] * (second - first).square()).sum())
    assert met == pytest.approx(0.3 * loss, rel=0.1)
    if name == "replay_dual":
        mu = last.scalars["multiplier"]
        close(second, optimum((CURVATURES[1], CENTERS[1]), (mu * CURVATURES[0], first)), DRAWN)


def test_a_projected_gradient_leaves_the_old_loss_about_where_it_was():
    """No closed form: Adam's step is not along the direction. Finetuning raises the old loss fully, A-GEM hardly."""

    def old_loss(theta):
        return 0.5 * float((CURVATURES[0] * (theta - CENTERS[0]).square()).sum())

    raised = old_loss(ends("finetune")[0][1])
    (_, second), _ = ends("agem", replay_ratio=40.0, training=replace(TRAINING, steps=300, learning_rate=0.04))
    assert old_loss(second) < 0.1 * raised
    assert raised > 1


def test_every_packed_task_ends_exactly_at_its_mean_in_its_own_weights():
    (_, _), last = ends("packnet", training=replace(TRAINING, steps=300))
    first, second = (last.layout.flatten(last.params_of(task)) for task in (0, 1))
    largest = CENTERS[0].abs().topk(2).indices
    own = torch.zeros(4, dtype=torch.bool).index_fill(0, largest, True)
    close(first, torch.where(own, CENTERS[0], 0.0))
    close(second, torch.where(own, CENTERS[0], CENTERS[1]))
    assert last.owner.tolist() == torch.where(own, 0, 1).tolist()
    assert OPTIONS.packnet_search == 0.6
