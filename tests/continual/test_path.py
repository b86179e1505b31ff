"""Synaptic Intelligence against the paper's sums written out step by step."""

import pytest
import torch
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes

from tests.continual.test_anchor import EXACT, learned, normal
from tests.continual.toy import vector
from trcl_policy.continual.path import PathAnchor

SIZE = len(vector()[1])


def walk(anchor, seed, start, steps=4):
    """Some steps from ``start``: the anchor after them, omega written out, and where they lead."""
    omega, here = torch.zeros(SIZE, dtype=torch.float64), start
    for step in range(steps):
        gradient, move = normal(SIZE, seed + step), 0.1 * normal(SIZE, seed + 50 + step)
        before, after = here.clone(), here + move
        anchor = anchor.after_step(gradient, before, after)
        before.add_(7)  # the optimiser writes into its own tensor
        omega -= gradient * move
        here = after
    return anchor, omega, here


def test_importance_is_what_each_weights_moves_took_off_the_loss():
    _, start = vector()
    anchor, total, here = PathAnchor(weight=3.0, damping=0.2), torch.zeros(SIZE, dtype=torch.float64), start
    assert anchor.watches
    for task in range(2):
        begin = here
        anchor, omega, here = walk(anchor, 1000 * task, here)
        assert float(omega.min()) < 0 < float(omega.max())
        total += omega.clamp_min(0) / ((here - begin).square() + 0.2)
        anchor = anchor.after_task(learned(theta=here, task_index=task))
    theta = normal(SIZE, 5)
    offset = theta - here
    torch.testing.assert_close(anchor.value(theta), 3.0 * (total * offset.square()).sum(), **EXACT)
    torch.testing.assert_close(anchor.gradient(theta), 6.0 * total * offset, **EXACT)
    torch.testing.assert_close(anchor.proximal(theta, 0.4), here + offset / (1 + 0.4 * 6.0 * total), **EXACT)
    radius = 0.5 * float(2 * anchor.value(theta)) ** 0.5
    found = anchor.project(theta, radius)
    assert float(2 * anchor.value(found)) == pytest.approx(radius**2, rel=1e-9)
    assert anchor.project(found, radius * (1 + 1e-9)) is found


def test_on_a_quadratic_small_steps_sum_up_to_the_fall_of_the_loss():
    """sum of omega -> L(start) - L(end) as the steps shrink: the defining property of the path integral."""
    _, start = vector()
    curvature, falls = torch.rand(SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.1, []
    for steps in (10, 100, 1000):
        anchor, here, rate = PathAnchor(), start, 5.0 / steps
        for _ in range(steps):
            after = here - rate * curvature * here
            anchor = anchor.after_step(curvature * here, here, after)
            here = after
        loss = 0.5 * float((curvature * (start.square() - here.square())).sum())
        falls.append(float(anchor.omega.sum()) / loss - 1)
    assert falls[0] > 5 * falls[1] > 25 * falls[2] > 0
    assert falls[2] < 0.01


def test_an_interrupted_task_goes_on_bit_for_bit():
    _, start = vector()
    first, _, here = walk(PathAnchor(), 0, start)
    first = first.after_task(learned(theta=here))
    middle, _, further = walk(first, 500, here, steps=3)
    back = PathAnchor().restore(from_bytes(to_bytes(middle.state())))
    ends = [walk(anchor, 900, further)[0].after_task(learned(theta=further)) for anchor in (middle, back)]
    theta = normal(SIZE, 5)
    assert torch.equal(ends[0].gradient(theta), ends[1].gradient(theta))
    assert not torch.equal(ends[0].gradient(theta), first.gradient(theta))
    fresh = PathAnchor().restore({})
    assert fresh.state() == {}
    assert fresh.start is fresh.omega is fresh.held is None


def test_without_a_past_or_weight_nothing_is_charged():
    theta = normal(SIZE, 5)
    anchor, _, here = walk(PathAnchor(weight=0.0), 0, theta)
    for each in (PathAnchor(), walk(PathAnchor(), 0, theta)[0], anchor.after_task(learned(theta=here))):
        assert each.gradient(theta) is None
        assert float(each.value(theta)) == 0
        assert each.proximal(theta, 10.0) is theta
        assert each.project(theta, 1e-9) is theta


def test_a_task_without_steps_moves_the_centre_only():
    _, start = vector()
    anchor, _, here = walk(PathAnchor(), 0, start)
    anchor = anchor.after_task(learned(theta=here))
    moved, theta = anchor.after_task(learned(theta=2 * here)), normal(SIZE, 5)
    torch.testing.assert_close(moved.gradient(theta + here), anchor.gradient(theta), **EXACT)


def test_unusable_options_are_refused():
    with pytest.raises(ValueError, match="weight must be >= 0, got -1"):
        PathAnchor(weight=-1.0)
    with pytest.raises(ValueError, match=r"damping must be > 0 \[squared weights\], got 0"):
        PathAnchor(damping=0.0)
