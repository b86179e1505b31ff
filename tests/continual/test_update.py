"""One step of every update against its formula, written out in float64 with explicit Hessians."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.continual.toy import Descent, Quadratic, Toy, learned, make_batch, make_tasks, make_turn, vector
from tests.continual.toy import generator as rng
from tests.reference.slow import hessian
from trcl_policy.continual.anchor import FisherAnchor
from trcl_policy.continual.constrained import BOUNDS, EVERY, MEMORY, SAMPLES, Dual
from trcl_policy.continual.lookahead import LearnedRates, MetaLeader, Reptile, VarianceReduced, halves, pieces
from trcl_policy.continual.metric import Diagonal
from trcl_policy.continual.model import gradient, leaves, mean_loss
from trcl_policy.continual.optimizer import FlatAdam, Training
from trcl_policy.continual.packing import FREE, Packed, claimed, weights_of
from trcl_policy.continual.params import Layout, concatenate, rows
from trcl_policy.continual.path import PathAnchor
from trcl_policy.continual.streams import Streams
from trcl_policy.continual.tasks import draw
from trcl_policy.continual.update import Ball, Penalty, Projected, Proximal, projected

LAYOUT, THETA = vector()
UNCLIPPED = Training(gradient_clip=0.0, ema_decay=0.0)


def drawn(kinds, count, seed):
    """A corrupted batch in float64."""
    return Toy().corrupt(make_batch(kinds, count, seed, torch.float64), rng(seed))


NEW, OLD, OTHER = drawn((1,), 12, 3), drawn((0,), 8, 4), drawn((0, 1), 6, 5)


def descent(theta=THETA):
    return Descent(theta, UNCLIPPED)


def slope(theta, batch):
    """Gradient of the mean loss (P,)."""
    params = leaves(LAYOUT, theta)
    return gradient(Toy().losses(params, batch).mean(), params, LAYOUT)


def meta(theta, support, query, rate, second_order=True):
    """(I - a H) grad L(theta - a g; query), with the Hessian H and gradient g of the support loss at theta."""
    outer = slope(theta - rate * slope(theta, support), query)
    return outer - rate * hessian(Toy(), LAYOUT, theta, support) @ outer if second_order else outer


def even(batch):
    return {key: leaf[0::2] for key, leaf in batch.items()}


def odd(batch):
    return {key: leaf[1::2] for key, leaf in batch.items()}


def taken(update, optimizer=None, **told):
    """The direction that ``update`` hands to the optimiser in one step on NEW, and its successor."""
    optimizer = optimizer or descent()
    after = update.step(make_turn(Toy(), LAYOUT, optimizer, told.pop("new", NEW), told.pop("old", None), **told))
    return optimizer.directions[-1], after


def same(found, wanted, rtol=1e-11):
    torch.testing.assert_close(found, wanted, rtol=rtol, atol=1e-13)


# Turn


@pytest.mark.parametrize("second_order", [True, False])
def test_the_meta_gradient_is_that_of_an_explicit_hessian(second_order):
    turn = make_turn(Toy(), LAYOUT, descent(), NEW)
    found = turn.meta_gradient(THETA, NEW, OLD, 0.3, second_order)
    same(found, meta(THETA, NEW, OLD, 0.3, second_order))
    assert not torch.allclose(found, meta(THETA, NEW, OLD, 0.3, not second_order), rtol=1e-2)
    assert not torch.allclose(found, meta(THETA, OLD, NEW, 0.3, second_order), rtol=1e-2)


def test_the_meta_gradient_is_that_of_torch_func():
    def judged(theta):
        def inner(t):
            return Toy().losses(LAYOUT.unflatten(t), NEW).mean()

        moved = theta - 0.3 * torch.func.grad(inner)(theta)
        return Toy().losses(LAYOUT.unflatten(moved), OLD).mean()

    turn = make_turn(Toy(), LAYOUT, descent(), NEW)
    same(turn.meta_gradient(THETA, NEW, OLD, 0.3, True), torch.func.grad(judged)(THETA))


def test_a_step_adds_beta_times_the_old_gradient():
    turn = make_turn(Toy(), LAYOUT, descent(), NEW, OLD, beta=0.7)
    new, old = slope(THETA, NEW), slope(THETA, OLD)
    same(turn.joined(), new + 0.7 * old)
    same(turn.joined(0.2), new + 0.2 * old)
    for found, wanted in zip(turn.apart(), (new, 0.7 * old), strict=True):
        same(found, wanted)
    assert turn.losses["new"].item() == pytest.approx(float(Toy().losses(LAYOUT.unflatten(THETA), NEW).mean()))
    assert turn.losses["old"].item() == pytest.approx(float(Toy().losses(LAYOUT.unflatten(THETA), OLD).mean()))


def test_an_anchor_that_watches_gets_a_copy_of_the_new_gradient():
    turn = make_turn(Toy(), LAYOUT, descent(), NEW, anchor=PathAnchor())
    turn.joined().zero_()
    same(turn.new_gradient, slope(THETA, NEW))


def test_a_watching_anchor_gets_the_new_gradient_and_the_same_direction():
    turn = make_turn(Toy(), LAYOUT, descent(), NEW, OLD, beta=0.7, anchor=PathAnchor())
    same(turn.joined(), slope(THETA, NEW) + 0.7 * slope(THETA, OLD))
    same(turn.new_gradient, slope(THETA, NEW))
    same(turn.joined(0.2), slope(THETA, NEW) + 0.2 * slope(THETA, OLD))
    plain = make_turn(Toy(), LAYOUT, descent(), NEW, OLD)
    plain.joined()
    assert plain.new_gradient is None


def test_without_old_samples_there_is_only_the_new_gradient():
    turn = make_turn(Toy(), LAYOUT, descent(), NEW)
    same(turn.joined(), slope(THETA, NEW))
    assert turn.new_gradient is None
    assert turn.apart()[1] is None
    assert turn.recall_one() is None
    assert set(turn.losses) == {"new"}


def test_one_old_task_is_drawn_uniformly():
    turn = make_turn(Toy(), LAYOUT, descent(), NEW, [OLD, OTHER, NEW])
    counts = torch.tensor([len(turn.recall_one()["x"]) for _ in range(600)]).unique(return_counts=True)
    assert counts[0].tolist() == [6, 8, 12]
    assert counts[1].min() > 150


def test_a_gradient_elsewhere_leaves_the_weights():
    optimizer = descent()
    turn = make_turn(Toy(), LAYOUT, optimizer, NEW)
    same(turn.gradient_at(2 * THETA, OLD), slope(2 * THETA, OLD))
    assert torch.equal(optimizer.theta, THETA)


# Penalty, proximal step, ball


def anchored(weight=2.0, values=None):
    values = torch.linspace(0.1, 2, LAYOUT.size, dtype=torch.float64) if values is None else values
    return FisherAnchor(weight=weight).merged_with(Diagonal(values), 1.0, THETA + 0.1, 0.4), values


def test_a_penalty_adds_the_anchors_gradient():
    anchor, values = anchored()
    direction, _ = taken(Penalty(), old=OLD, beta=0.7, anchor=anchor)
    same(direction, slope(THETA, NEW) + 0.7 * slope(THETA, OLD) + 2.0 * values * -0.1)


def test_a_proximal_step_has_rate_over_mean_curvature():
    anchor, values = anchored()
    optimizer = descent()
    direction, _ = taken(Proximal(), optimizer, old=OLD, beta=0.7, anchor=anchor, rate=0.05)
    same(direction, slope(THETA, NEW) + 0.7 * slope(THETA, OLD))
    stepped, pull = THETA - 0.05 * direction, 0.05 * 2.0 * values / values.mean()
    same(optimizer.theta, THETA + 0.1 + (stepped - THETA - 0.1) / (1 + pull))


@pytest.mark.parametrize(("step", "passed"), [(0, 0), (1, 0), (2, 3), (3, 0), (5, 3), (8, 3), (9, 1)])
def test_a_rare_proximal_step_is_as_long_as_those_it_stands_for(step, passed):
    anchor, values = anchored()
    optimizer = descent()
    direction, _ = taken(Proximal(every=3), optimizer, anchor=anchor, rate=0.05, step=step, total_steps=10)
    pull = passed * 0.05 * 2.0 * values / values.mean()
    same(optimizer.theta, THETA + 0.1 + (THETA - 0.05 * direction - THETA - 0.1) / (1 + pull))


def test_a_proximal_step_does_not_depend_on_the_losss_scale():
    ends = []
    for scale in (1.0, 100.0):
        optimizer, values = descent(), scale * torch.linspace(0.1, 2, LAYOUT.size, dtype=torch.float64)
        taken(Proximal(), optimizer, anchor=anchored(values=values)[0])
        ends.append(optimizer.theta)
    same(*ends)


@pytest.mark.parametrize("rise", [0.001, 0.05])
def test_a_ball_ends_where_the_estimated_rise_is_the_allowed_one(rise):
    anchor, _ = anchored(weight=1.0)
    optimizer = descent()
    taken(Ball(rise), optimizer, anchor=anchor)
    assert float(anchor.value(optimizer.theta)) == pytest.approx(rise * 0.4, rel=1e-9)


def test_a_ball_leaves_weights_inside_alone():
    anchor, _ = anchored(weight=1.0)
    optimizer = descent()
    direction, _ = taken(Ball(1e6), optimizer, anchor=anchor)
    assert torch.equal(optimizer.theta, THETA - 0.1 * direction)
    optimizer = descent()
    taken(Ball(0.1), optimizer)
    assert torch.equal(optimizer.theta, THETA - 0.1 * direction)


# A-GEM


@given(seed=st.integers(0, 10**6), size=st.integers(1, 12))
def test_projected_direction_never_raises_the_old_loss(seed, size):
    new, old = (torch.randn(size, generator=rng(seed + k), dtype=torch.float64) for k in (0, 10**7))
    found = projected(new, old)
    assert float(found @ old) >= -1e-12
    if float(new @ old) >= 0:
        assert found is new
    else:
        assert float(found @ old) == pytest.approx(0, abs=1e-12)
        nearest = new - (new @ old) / (old @ old) * old
        torch.testing.assert_close(found, nearest)
        assert float((new - found).norm()) <= float(new.norm()) + 1e-12


def test_projected_steps_take_the_new_gradient_without_memory_and_the_projected_one_with():
    same(taken(Projected())[0], slope(THETA, NEW))
    old = replace_target(NEW, 20.0)  # pulls the other way
    new_slope, old_slope = slope(THETA, NEW), slope(THETA, old)
    assert float(new_slope @ old_slope) < 0
    wanted = new_slope - (new_slope @ old_slope) / (old_slope @ old_slope) * old_slope
    same(taken(Projected(), old=old)[0], wanted)


def replace_target(batch, factor):
    predicted = Toy().predict(LAYOUT.unflatten(THETA), batch)
    return {**batch, "target": predicted - factor * (batch["target"] - predicted)}


# Meta-learning


@pytest.mark.parametrize("second_order", [True, False])
def test_the_meta_leader_judges_every_task_after_an_inner_step_on_itself(second_order):
    update = MetaLeader(0.3, second_order)
    same(taken(update)[0], meta(THETA, even(NEW), odd(NEW), 0.3, second_order))
    wanted = meta(THETA, even(NEW), odd(NEW), 0.3, second_order)
    wanted = wanted + 0.7 * meta(THETA, even(OLD), odd(OLD), 0.3, second_order)
    found, after = taken(update, old=OLD, beta=0.7)
    same(found, wanted)
    assert after is update


def test_the_meta_leader_takes_one_old_task_in_a_step():
    update, seen = MetaLeader(0.3), []
    turn = make_turn(Toy(), LAYOUT, descent(), NEW, [OLD, OTHER])
    turn.recall = lambda task: seen.append(task) or [OLD, OTHER][task]
    for _ in range(40):
        update.step(turn)
    assert set(seen) == {0, 1}


def joint_query(new, old):
    return concatenate([odd(new), old])


def test_variance_reduction_follows_its_recursion():
    """Two steps with different samples, then a new task: r begins anew there, but not at a resumed step."""
    optimizer, update = descent(), VarianceReduced(0.3, True, 0.6)
    first, update = taken(update, optimizer, old=OLD)
    same(first, meta(THETA, even(NEW), joint_query(NEW, OLD), 0.3))
    here = optimizer.theta.clone()
    same(here, THETA - 0.1 * first)

    second, update = taken(update, optimizer, new=OTHER, old=OLD, step=1)
    now = meta(here, even(OTHER), joint_query(OTHER, OLD), 0.3)
    before = meta(THETA, even(OTHER), joint_query(OTHER, OLD), 0.3)
    same(second, now + 0.6 * (first - before))

    there = optimizer.theta.clone()
    restored = VarianceReduced(0.3, True, 0.6).restore(update.state())
    third, _ = taken(restored, descent(there), old=OLD, step=2)
    now, before = (meta(t, even(NEW), joint_query(NEW, OLD), 0.3) for t in (there, here))
    same(third, now + 0.6 * (second - before))

    fresh, _ = taken(update, descent(there), old=OLD, step=0)
    same(fresh, now)


def test_variance_reduction_of_first_order_and_without_memory():
    found, _ = taken(VarianceReduced(0.3, False, 0.6), old=OLD)
    same(found, meta(THETA, even(NEW), joint_query(NEW, OLD), 0.3, False))
    same(taken(VarianceReduced(0.3, True, 0.6))[0], meta(THETA, even(NEW), odd(NEW), 0.3))


def test_variance_reduction_notes_the_loss_at_the_weights_only():
    _, update = taken(VarianceReduced(0.3, True, 0.6), old=OLD)
    turn = make_turn(Toy(), LAYOUT, descent(THETA + 0.5), NEW, OLD, step=1)
    update.step(turn)
    moved = THETA + 0.5 - 0.3 * slope(THETA + 0.5, even(NEW))
    wanted = Toy().losses(LAYOUT.unflatten(moved), joint_query(NEW, OLD)).mean()
    assert turn.losses["new"].item() == pytest.approx(float(wanted))


@pytest.mark.parametrize("steps", [2, 3, 5])
def test_reptile_on_a_quadratic_is_its_closed_form(steps):
    """Every inner step shrinks the distance by 1 - a h, so the direction is (theta - best)(1 - (1 - a h)^K)/(K a)."""
    h, best = torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64), torch.tensor([1.0, -1.0, 0.3], dtype=torch.float64)
    model, theta = Quadratic(h.sqrt()), torch.tensor([0.2, 0.5, -0.4], dtype=torch.float64)
    layout = Layout.of({"w": theta})
    optimizer = descent(theta)
    batch = {"target": best.expand(10, 3)}
    Reptile(0.2, inner_steps=steps).step(make_turn(model, layout, optimizer, batch))
    same(optimizer.directions[0], (theta - best) * (1 - (1 - 0.2 * h) ** steps) / (steps * 0.2))


def test_reptile_walks_through_pieces_of_new_and_old_samples():
    theta = THETA
    both = concatenate([NEW, OLD])
    for start in range(3):
        theta = theta - 0.2 * slope(theta, {key: leaf[start::3] for key, leaf in both.items()})
    optimizer = descent()
    found, _ = taken(Reptile(0.2, inner_steps=3), optimizer, old=OLD)
    same(found, (THETA - theta) / 0.6)
    same(optimizer.theta, THETA - 0.1 * found)


def test_learned_rates_follow_their_recursion():
    """Two steps of La-MAML, weight by weight; the second begins with the rates that the first has learned."""
    optimizer, update, theta = descent(), LearnedRates(0.2, inner_steps=3, rate_speed=0.5), THETA
    rates = torch.full_like(THETA, 0.2)
    for number, new in enumerate((NEW, OTHER)):
        fast, inner_sum = theta, torch.zeros_like(theta)
        outer_sum, hyper = torch.zeros_like(theta), torch.zeros_like(theta)
        for start in range(3):
            piece = {key: leaf[start::3] for key, leaf in new.items()}
            inner = slope(fast, piece)
            inner_sum = inner_sum + inner
            fast = fast - rates.clamp(min=0) * inner
            outer = slope(fast, concatenate([piece, OLD]))
            outer_sum, hyper = outer_sum + outer, hyper + outer * inner_sum
        rates = rates + 0.5 * 0.2 * hyper / hyper.square().mean().sqrt()  # against the slope of the meta-loss by them
        theta = theta - 0.1 * rates.clamp(min=0) / 0.2 * outer_sum / 3
        turn = make_turn(Toy(), LAYOUT, optimizer, new, OLD, step=number)
        update = update.step(turn)
        same(update.rates, rates)
        same(optimizer.theta, theta)
        same(turn.norm, (outer_sum / 3).norm())
        same(optimizer.directions[-1], outer_sum / 3)
    assert not torch.allclose(rates, torch.full_like(rates, 0.2))


def test_negative_learned_rates_do_not_move_their_weights():
    rates = torch.full_like(THETA, 0.2)
    rates[::2] = -50.0
    optimizer = descent()
    LearnedRates(0.2, rates=rates).step(make_turn(Toy(), LAYOUT, optimizer, NEW, OLD))
    assert torch.equal(optimizer.theta[::2], THETA[::2])
    assert not torch.equal(optimizer.theta[1::2], THETA[1::2])


def test_halves_and_pieces_are_interleaved():
    batch = {"x": torch.arange(7)}
    assert [half["x"].tolist() for half in halves(batch)] == [[0, 2, 4, 6], [1, 3, 5]]
    single = rows(batch, slice(0, 1))
    assert halves(single) == (single, single)
    assert [piece["x"].tolist() for piece in pieces(batch, 3)] == [[0, 3, 6], [1, 4], [2, 5]]
    assert len(pieces(batch, 100)) == 7


# Dual ascent


def dual(**changes):
    return Dual(**{"rise": 0.2, "speed": 0.3, "reference": 0.5, "num_tasks": 1, **changes})


def test_the_state_of_a_method_without_a_multiplier_is_refused():
    assert dual().restore(dual(reference=0.7).state()).reference == 0.7
    with pytest.raises(
        ValueError, match=r"must hold a reference .*, got none; resume with the method that the run began"
    ):
        dual().restore(Penalty().state())


@pytest.mark.parametrize("distilled", [True, False])
@pytest.mark.parametrize("share", [0.3, 1.4, 50.0])
def test_the_multiplier_moves_by_the_clamped_excess_in_logarithms(distilled, share):
    update = dual()
    target = 0.5 * 0.2 if distilled else 0.5 * 1.2
    assert update.target(distilled) == pytest.approx(target)
    met = torch.tensor(share * target, dtype=torch.float64)
    found = update.followed(torch.tensor(2.0, dtype=torch.float64), met, distilled)
    assert float(found) == pytest.approx(2.0 * math.exp(0.3 * max(-1.0, min(1.0, share - 1))))


def test_the_multiplier_stays_within_its_bounds():
    update, low, high = dual(speed=3.0), *BOUNDS
    assert float(update.followed(torch.tensor(high), torch.tensor(9.0), False)) == high
    assert float(update.followed(torch.tensor(low), torch.tensor(0.0), False)) == pytest.approx(low)


def test_a_multiplier_through_replay_scales_the_replayed_gradient():
    mu = torch.tensor(1.7, dtype=torch.float64)
    found, after = taken(dual(multiplier=mu, met=torch.tensor(0.4)), old=OLD, beta=0.7, step=3)
    same(found, slope(THETA, NEW) + 1.7 * 0.7 * slope(THETA, OLD))
    old = mean_loss(Toy(), LAYOUT.unflatten(THETA), OLD)
    average = MEMORY * 0.4 + (1 - MEMORY) * old
    assert float(after.met) == pytest.approx(average)
    assert float(after.multiplier) == pytest.approx(1.7 * math.exp(0.3 * max(-1, min(1, average / 0.6 - 1))))


def test_a_task_begins_with_a_multiplier_of_one_and_its_own_average():
    mu = torch.tensor(1.7, dtype=torch.float64)
    found, after = taken(dual(multiplier=mu, met=torch.tensor(0.4)), old=OLD, beta=0.7, step=0)
    same(found, slope(THETA, NEW) + 0.7 * slope(THETA, OLD))
    assert float(after.met) == pytest.approx(mean_loss(Toy(), LAYOUT.unflatten(THETA), OLD))
    alone, after = taken(dual(), step=0)
    same(alone, slope(THETA, NEW))
    assert after.met is None
    assert float(after.multiplier) == 1.0


def test_a_multiplier_through_the_anchor_scales_its_proximal_step():
    anchor, values = anchored(weight=2.0)
    mu, optimizer = torch.tensor(1.7, dtype=torch.float64), descent()
    told = {"old": OLD, "beta": 0.7, "step": 3, "anchor": anchor, "rate": 0.05}
    found, _ = taken(dual(through="anchor", multiplier=mu), optimizer, **told)
    same(found, slope(THETA, NEW) + 0.7 * slope(THETA, OLD))
    pull = 0.05 * 1.7 * 2.0 * values / values.mean()
    same(optimizer.theta, THETA + 0.1 + (THETA - 0.05 * found - THETA - 0.1) / (1 + pull))


def test_a_multiplier_through_the_penalty_follows_samples_held_out():
    """Nothing else moves it: neither the replayed loss nor the steps between two looks."""
    anchor, _ = anchored(weight=2.0)
    mu, held, optimizer = torch.tensor(1.7, dtype=torch.float64), {**OLD, "target": OLD["target"] + 0.3}, descent()
    update = dual(through="penalty", held_out=True, multiplier=mu, met=torch.tensor(0.4), reference=4.0)
    told = {"old": OLD, "beta": 0.7, "anchor": anchor, "held_out": lambda: held}
    found, between = taken(update, descent(), step=EVERY, **told)
    pull = anchor.gradient(descent().theta)
    assert float(pull.norm()) > 0
    same(found, slope(THETA, NEW) + 0.7 * slope(THETA, OLD) + 1.7 * pull)
    assert float(between.multiplier) == 1.7
    assert float(between.met) == pytest.approx(0.4)
    _, after = taken(update, optimizer, step=2 * EVERY - 1, distilled=True, **told)
    stays = MEMORY**EVERY
    average = stays * 0.4 + (1 - stays) * mean_loss(Toy(), LAYOUT.unflatten(optimizer.theta), held)
    assert float(after.met) == pytest.approx(average)
    excess = average / (0.2 * 4.0) - 1
    assert 0.05 < abs(excess) < 1
    assert float(after.multiplier) == pytest.approx(1.7 * math.exp(EVERY * 0.3 * excess))
    _, alone = taken(update, descent(), step=2 * EVERY - 1, old=OLD, anchor=anchor)
    assert float(alone.multiplier) == 1.7


def test_the_reference_is_the_average_loss_at_the_end_of_every_task():
    tasks, update = make_tasks(), Dual()
    layout, theta = vector(torch.float32)
    found, streams, slow = [], Streams(8), Streams(8)
    for index, weights in enumerate((theta, 0.5 * theta)):
        update = update.after_task(learned(tasks, index, weights, streams))
        draws = slow["dual/samples"]
        corrupted = Toy().corrupt(draw(tasks[index].samples, SAMPLES, draws), draws)
        found.append(mean_loss(Toy(), layout.unflatten(weights), corrupted))
    assert update.num_tasks == 2
    assert update.reference == pytest.approx(sum(found) / 2)
    assert found[0] != pytest.approx(found[1], rel=1e-3)
    again = replace(learned(tasks, 1, theta), revisited=True)
    assert update.after_task(again) is update


# Tasks with weights of their own


def test_each_task_takes_an_equal_share_of_what_is_free_the_largest_first():
    layout = Layout.of({"w": torch.zeros(4, 3), "b": torch.zeros(3)})
    theta = torch.cat([torch.arange(12.0) * torch.tensor([1.0, -1.0]).repeat(6), torch.ones(3)])
    owners = torch.full((15,), FREE, dtype=torch.int16)
    for task, wanted in enumerate(([8, 9, 10, 11], [4, 5, 6, 7], [0, 1, 2, 3])):
        owners = claimed(owners, theta, layout, task, 3)
        assert (owners[:12] == task).nonzero().squeeze(1).tolist() == wanted
        assert owners[12:].tolist() == [0, 0, 0]
    assert owners.dtype == torch.int16


def test_a_task_uses_its_own_and_older_weights():
    owners, theta = torch.tensor([0, 1, 2, -1], dtype=torch.int16), torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert weights_of(theta, owners, 0).tolist() == [1, 0, 0, 0]
    assert weights_of(theta, owners, 1).tolist() == [1, 2, 0, 0]
    assert weights_of(theta, owners, 2).tolist() == [1, 2, 3, 0]


@pytest.mark.parametrize("searching", [True, False])
def test_only_weights_that_may_move_do(searching):
    """Weight decay and moments of the optimiser move every weight; those of others are put back bit for bit."""
    owners = torch.arange(LAYOUT.size).remainder(3).to(torch.int16) - 1  # free, first task, second task
    optimizer = FlatAdam(THETA, Training(weight_decay=0.5))
    for _ in range(3):
        optimizer.step(torch.ones_like(THETA), 0.01)
    before = optimizer.theta.clone()
    step = 2 if searching else 8
    after = Packed(0.6, owners).step(make_turn(Toy(), LAYOUT, optimizer, NEW, step=step))
    moving = owners == (FREE if searching else 1)
    assert torch.equal(optimizer.theta[~moving], before[~moving])
    assert (optimizer.theta[moving] != before[moving]).all()
    assert torch.equal(after.owners, owners)
    assert torch.equal(after.owner, torch.where(owners == FREE, 1, owners) if searching else owners)
    again = Packed(0.6).restore(after.state())
    assert torch.equal(again.owner, after.owner)


def test_the_search_ends_with_the_choice_and_empties_what_is_left():
    optimizer = FlatAdam(THETA, Training())
    turn = make_turn(Toy(), LAYOUT, optimizer, NEW, step=5, task_index=0, num_tasks=2)
    assert Packed(0.7).step(turn).owners.eq(FREE).all()
    optimizer = FlatAdam(THETA, Training())
    turn = make_turn(Toy(), LAYOUT, optimizer, NEW, step=5, task_index=0, num_tasks=2)
    update = Packed(0.6).step(turn)
    named = LAYOUT.unflatten(update.owner)
    assert {name: int((leaf == 0).sum()) for name, leaf in named.items()} == {"in": 5, "where": 5, "out": 5, "bias": 2}
    assert optimizer.theta[update.owner == FREE].abs().max() == 0
    assert optimizer.theta[update.owner == 0].abs().min() > 0
    assert torch.equal(optimizer.theta, optimizer.average)
    assert torch.equal(Packed(0.6).restore(update.state()).owners, update.owners)
    assert Packed().owner is None


# Options


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ball(0.0), r"rise must be > 0 \[share of the old loss\], got 0"),
        (lambda: Proximal(every=0), r"every must be >= 1 \[updates a proximal step\], got 0"),
        (lambda: MetaLeader(0.0), "inner_rate must be > 0, got 0"),
        (lambda: VarianceReduced(momentum=1.0), r"vr_momentum must be in \[0, 1\), got 1"),
        (lambda: Reptile(inner_steps=1), "inner_steps must be >= 2, got 1"),
        (lambda: LearnedRates(inner_steps=0), "inner_steps must be >= 1 and rate_speed >= 0, got 0"),
        (lambda: LearnedRates(rate_speed=-1.0), "inner_steps must be >= 1 and rate_speed >= 0, got 4 and -1"),
        (lambda: Dual("both"), "through must be one of replay, anchor, penalty, got 'both'"),
        (lambda: Dual(rise=0.0), "rise and dual_speed must be > 0, got 0"),
        (lambda: Dual(speed=0.0), "rise and dual_speed must be > 0, got 0.1 and 0"),
        (lambda: Packed(0.0), r"packnet_search must be in \(0, 1\), got 0"),
        (lambda: Packed(1.0), r"packnet_search must be in \(0, 1\), got 1"),
    ],
)
def test_unusable_updates_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(("share", "asked"), [(1.0, 0), (1.001, 1)])
def test_a_penalty_at_its_least_multiplier_is_left_out(share, asked, monkeypatch):
    anchor, _ = anchored(weight=2.0)
    pull, calls = anchor.gradient(descent().theta), []
    monkeypatch.setattr(type(anchor), "gradient", lambda self, theta: calls.append(theta) or pull)
    mu = torch.tensor(BOUNDS[0] * share, dtype=torch.float64)
    update = dual(through="penalty", held_out=True, multiplier=mu, met=torch.tensor(0.4), reference=4.0)
    found, after = taken(update, descent(), old=OLD, beta=0.7, step=EVERY, anchor=anchor)
    assert len(calls) == asked
    same(found, slope(THETA, NEW) + 0.7 * slope(THETA, OLD) + asked * float(mu) * pull)
    assert float(after.multiplier) == float(mu)
