"""Policies in which every task has weights of its own."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.policy.test_controller import looks, make
from trcl_policy import load_policy
from trcl_policy.continual.params import Layout
from trcl_policy.files import read_safetensors, write_safetensors
from trcl_policy.policy.controller import Ownership, Policy


def owned(visits=(0, 1), known=(True, True)):
    """A policy whose weights belong to the first visit, the second, or none, in turn."""
    plain = make(known=known)
    layout = Layout.of(plain.params)
    owner = (torch.arange(layout.size) % 3 - 1).to(torch.int16)
    ownership = Ownership(layout.unflatten(owner), torch.tensor(visits))
    return Policy(plain.spec, plain.model, plain.params, plain.normalizer, ownership), owner, layout


def act(policy, task):
    policy.reset(task, range(4))
    return policy.select_action(looks(4))


@pytest.mark.parametrize(("task", "wanted"), [("a", [0]), ("b", [0, 1])])
def test_a_task_acts_with_its_own_and_older_weights(task, wanted):
    policy, owner, layout = owned()
    kept = sum((owner == visit) for visit in wanted).bool()
    theta = torch.where(kept, layout.flatten(policy.params), 0.0)
    masked = Policy(policy.spec, policy.model, layout.unflatten(theta), policy.normalizer)
    assert np.array_equal(act(policy, task), act(masked, task))
    bare = Policy(policy.spec, policy.model, policy.params, policy.normalizer)
    assert not np.array_equal(act(policy, task), act(bare, task))


def test_a_task_met_twice_uses_what_its_last_visit_has():
    policy, owner, layout = owned(visits=(1, 0))
    first, second = (layout.flatten(policy.params_of(task)) for task in (0, 1))
    assert (first[owner == 1] != 0).any()
    assert (second[owner == 1] == 0).all()
    never, _, _ = owned(visits=(0, -1), known=(True, False))
    assert layout.flatten(never.params_of(1)).abs().max() == 0


def test_ownership_survives_saving_and_loading(tmp_path):
    policy, owner, _ = owned()
    policy.save(tmp_path)
    again = load_policy(tmp_path)
    assert torch.equal(again.ownership.visits, policy.ownership.visits)
    assert torch.equal(again.owner, owner)
    for task in ("a", "b"):
        assert np.array_equal(act(policy, task), act(again, task))
    assert make().owner is None
    make().save(tmp_path / "plain")
    assert load_policy(tmp_path / "plain").ownership is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: {name: leaf for name, leaf in state.items() if name != "visits"},
        lambda state: {**state, "visits": torch.tensor([0, 1, 2])},
        lambda state: dict(list(state.items())[1:]),
        lambda state: {**state, "owner.more": torch.zeros(2)},
    ],
)
def test_owners_that_do_not_fit_are_named_in_one_line(tmp_path, damage):
    policy, _, _ = owned()
    policy.save(tmp_path)
    path = tmp_path / "owner.safetensors"
    write_safetensors(path, damage(read_safetensors(path)[0]))
    with pytest.raises(ValueError, match=r"owner\.safetensors must fit the network beside it") as caught:
        load_policy(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_torn_file_of_owners_is_named_in_one_line(tmp_path):
    policy, _, _ = owned()
    policy.save(tmp_path)
    path = tmp_path / "owner.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"owner\.safetensors") as caught:
        load_policy(tmp_path)
    assert "\n" not in str(caught.value)


def test_ownership_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        owned()[0].ownership.visits = None
