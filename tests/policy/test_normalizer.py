"""Ranges by task, fixed once met."""

import pytest
import torch

from trcl_policy.policy.normalizer import Normalizer


def met(*tasks, num_tasks=3, min_range=0.05):
    made = Normalizer.empty({"observation": 4, "action": 2}, num_tasks)
    for task in tasks:
        made = made.fitted(task, values(task), min_range)
    return made


def values(task):
    rng = torch.Generator().manual_seed(task)
    observation = torch.randn(50, 4, generator=rng) * (task + 1)
    observation[:, 2] = 0.7  # constant
    observation[:, 3] = 0.3 + 1e-4 * observation[:, 0]  # almost
    return {"observation": observation, "action": torch.rand(50, 2, generator=rng) * 2 - 1}


def test_demonstrations_fill_the_range_and_come_back():
    made = met(1)
    for part, value in values(1).items():
        scaled = made.normalize(part, value, 1)
        torch.testing.assert_close(made.unnormalize(part, scaled, 1), value, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(scaled[:, :2].amin(0), -torch.ones(2))
        torch.testing.assert_close(scaled[:, :2].amax(0), torch.ones(2))


def test_constant_entries_stay_near_zero():
    scaled = met(1).normalize("observation", values(1)["observation"], 1)
    assert scaled[:, 2].abs().max() < 1e-5
    assert scaled[:, 3].abs().max() < 0.05
    beyond = values(1)["observation"] + 0.05
    assert met(1).normalize("observation", beyond, 1)[:, 2].abs().max() == pytest.approx(2.0, rel=1e-4)


def test_values_beyond_the_range_go_on_linearly():
    made = met(0)
    low, high = made.low["action"][0], made.high["action"][0]
    torch.testing.assert_close(made.normalize("action", 2 * high - low, 0), torch.full((2,), 3.0))


def test_later_tasks_change_no_earlier_number():
    early = met(0)
    late = met(0, 2, 1)
    for part in ("observation", "action"):
        assert torch.equal(early.low[part][0], late.low[part][0])
        assert torch.equal(early.high[part][0], late.high[part][0])
        assert early.low[part][1:].isnan().all()
    assert [early.knows(task) for task in range(3)] == [True, False, False]
    assert all(late.knows(task) for task in range(3))


def test_rows_of_several_tasks_at_once():
    made, task = met(0, 1, 2), torch.tensor([2, 0, 1])
    value = torch.randn(3, 5, 4)
    mixed = made.normalize("observation", value, task)
    for row in range(3):
        assert torch.equal(mixed[row], made.normalize("observation", value[row], int(task[row])))


def test_state_round_trip():
    made = met(0, 2)
    again = Normalizer.from_state(made.state())
    for part in ("observation", "action"):
        assert torch.equal(again.low[part].nan_to_num(9), made.low[part].nan_to_num(9))
        assert torch.equal(again.high[part].nan_to_num(9), made.high[part].nan_to_num(9))
