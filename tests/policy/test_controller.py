"""Acting: receding horizon, history, streams, files."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from tests.tiny import TASKS, tiny
from trcl_policy import load_policy
from trcl_policy.diffusion.process import Diffusion
from trcl_policy.policy.acting import Acting
from trcl_policy.policy.controller import ROWS, Policy, PolicySpec
from trcl_policy.policy.normalizer import Normalizer
from trcl_policy.policy.trajectory import Network
from trcl_policy.policy.windows import Shape

__all__ = ["tiny"]
NETWORKS = {
    "mlp": Network(width=48, depth=2),
    "unet": Network(kind="unet", channels=(16, 32), attention_levels=1, kernel=3),
}


def make(n_obs_steps=1, n_action_steps=3, network="mlp", known=(True, True), **diffusion):
    spec = PolicySpec(
        tasks=("a", "b"),
        shape=Shape(5, 2, n_obs_steps, 8),
        observation_indices=(0, 1, 2, 5, 6),
        n_action_steps=n_action_steps,
        network=NETWORKS[network],
        diffusion=Diffusion(**{"acting_steps": 3, **diffusion}),
    )
    rng = torch.Generator().manual_seed(0)
    low = {"observation": -1 - torch.rand(2, 5, generator=rng), "action": -0.8 - 0.1 * torch.rand(2, 2, generator=rng)}
    high = {part: 0.9 * -leaf for part, leaf in low.items()}
    for task, met in enumerate(known):
        if not met:
            low = {part: leaf.index_fill(0, torch.tensor([task]), float("nan")) for part, leaf in low.items()}
    model = spec.model(seed=3)
    return Policy(spec, model, {k: p.detach() for k, p in model.net.named_parameters()}, Normalizer(low, high))


def looks(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 7))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpm++"])
def test_an_action_depends_neither_on_neighbours_nor_on_the_row(network, sampler):
    policy, observation = make(network=network, sampler=sampler), looks(2 * ROWS + 5)
    rng = np.random.default_rng(1)

    def act(rows):
        policy.reset("b", [1000 + row for row in rows])
        return policy.select_action(observation[rows])

    together = act(list(range(len(observation))))
    for row in (0, 1, ROWS - 1, ROWS, 2 * ROWS + 4):
        policy.reset("b", [1000 + row])
        assert np.array_equal(policy.select_action(observation[row]), together[row])
    for count in (2, 3, 7, ROWS - 1, ROWS + 1):
        rows = [int(row) for row in rng.permutation(len(observation))[:count]]
        assert np.array_equal(act(rows), together[rows])


def test_rows_of_one_seed_and_look_are_one_and_other_seeds_differ():
    policy, observation = make(), np.repeat(looks(1), 3, axis=0)
    policy.reset("a", [7, 7, 8])
    made = policy.select_action(observation)
    assert np.array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])
    policy.reset("b", [7])
    assert not np.array_equal(policy.select_action(observation[0]), made[0])


@pytest.mark.parametrize("n_action_steps", [1, 3, 8])
def test_it_looks_again_after_n_action_steps(n_action_steps, monkeypatch):
    policy, seen = make(n_action_steps=n_action_steps), []
    original = policy.predict_action_chunk
    monkeypatch.setattr(policy, "predict_action_chunk", lambda history: seen.append(history) or original(history))
    policy.reset("a", [5])
    actions = np.stack([policy.select_action(look) for look in looks(9)])
    assert len(seen) == -(-9 // n_action_steps)
    policy.reset("a", [5])
    chunk = original(torch.tensor(looks(9)[:1, None], dtype=torch.float32))
    assert chunk.shape == (1, n_action_steps, 2)
    assert np.array_equal(actions[:n_action_steps], chunk[0].numpy())


def test_history_repeats_the_first_look_and_then_slides(monkeypatch):
    policy, seen = make(n_obs_steps=3, n_action_steps=1), []
    original = policy.predict_action_chunk
    monkeypatch.setattr(
        policy, "predict_action_chunk", lambda history: seen.append(history.clone()) or original(history)
    )
    steps = [looks(2, seed) for seed in range(5)]
    for step in steps:
        assert policy.select_action(step).shape == (2, 2)
    for time, history in enumerate(seen):
        wanted = np.stack([steps[max(0, time + shift)] for shift in (-2, -1, 0)], axis=1)
        np.testing.assert_allclose(history.numpy(), wanted, rtol=1e-6)
    policy.reset()
    policy.select_action(steps[4])
    np.testing.assert_allclose(seen[-1].numpy(), np.repeat(steps[4][:, None], 3, 1), rtol=1e-6)


def test_only_chosen_entries_matter():
    policy, look = make(), looks(1)[0]
    policy.reset("a", [1])
    wanted = policy.select_action(look)
    for entry in range(7):
        other = look.copy()
        other[entry] += 0.5
        policy.reset("a", [1])
        same = np.array_equal(policy.select_action(other), wanted)
        assert same == (entry in (3, 4))


def test_shapes_and_bounds():
    policy = make(n_obs_steps=2, n_action_steps=4)
    single, batch = policy.select_action(looks(1)[0]), None
    policy.reset()
    batch = policy.select_action(100 * looks(6))
    assert (single.shape, batch.shape) == ((2,), (6, 2))
    assert np.abs(batch).max() <= 1
    chunk = policy.predict_action_chunk(np.stack([looks(6)] * 2, axis=1))
    assert tuple(chunk.shape) == (6, 4, 2)


def test_wrong_shapes_are_named():
    policy = make()
    with pytest.raises(ValueError, match=r"observation must be \(Do,\) or \(B, Do\) with Do >= 7, got \(3,\)"):
        policy.select_action(np.zeros(3))
    policy.select_action(looks(2))
    with pytest.raises(ValueError, match="reset"):
        policy.select_action(looks(3))


def test_only_learned_tasks_can_be_chosen():
    policy = make(known=(True, False))
    assert policy.learned_tasks == ["a"]
    with pytest.raises(ValueError, match=r"task must be a learned one \(a\), got 'b'"):
        policy.reset("b")
    with pytest.raises(ValueError, match="task must be one of a, b, got 'c'"):
        policy.reset("c")
    with pytest.raises(ValueError, match="must be a learned one"):
        make(known=(False, False))


@pytest.mark.parametrize("network", NETWORKS)
def test_saved_and_loaded_policies_are_the_same_bit_for_bit(tmp_path, network):
    policy = make(n_obs_steps=2, network=network, known=(True, False))
    policy.save(tmp_path / "here")
    again = load_policy(tmp_path / "here")
    assert again.spec == policy.spec
    assert again.learned_tasks == ["a"]
    assert set(again.params) == set(policy.params)
    assert all(torch.equal(again.params[name], policy.params[name]) for name in policy.params)
    for made in (policy, again):
        made.reset("a", range(4))
    for seed in range(5):
        assert np.array_equal(policy.select_action(looks(4, seed)), again.select_action(looks(4, seed)))


def test_a_policy_loaded_to_act_otherwise_is_one_saved_so(tmp_path):
    make(n_action_steps=3).save(tmp_path / "saved")
    make(n_action_steps=2, acting_steps=1).save(tmp_path / "otherwise")

    def acts(folder, *acting):
        policy = load_policy(tmp_path / folder, "cpu", *acting)
        policy.reset("a", [5])
        return [policy.select_action(look).tolist() for look in looks(5)]

    assert acts("saved", Acting(1, 2)) == acts("otherwise")
    assert acts("saved", Acting(n_action_steps=2)) != acts("otherwise")
    assert acts("saved", Acting(acting_steps=1)) != acts("otherwise")
    assert acts("saved", Acting()) == acts("saved") != acts("saved", Acting(1, 2))
    with pytest.raises(ValueError, match=r"acting_steps must be in \[1, num_train_timesteps = 100\], got 101"):
        load_policy(tmp_path / "saved", acting=Acting(101))


def test_spec_round_trip_through_json():
    spec = make(network="unet").spec
    assert PolicySpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    for document in ({**spec.to_json(), "format": 2}, {}, [1]):
        with pytest.raises(ValueError, match="format must be 1"):
            PolicySpec.from_json(document)
    with pytest.raises(ValueError, match=r"n_action_steps must be in \[1, horizon = 8\], got 9"):
        dataclasses.replace(spec, n_action_steps=9)
    with pytest.raises(ValueError, match="observation_indices must number 5, got 2"):
        dataclasses.replace(spec, observation_indices=(0, 1))


def test_levels_serve_policy_and_generator():
    model = make().model
    level = model.draw_levels(20000, torch.Generator().manual_seed(0))
    acting = level[:, 0] == 0
    assert float(acting.float().mean()) == pytest.approx(0.5, abs=0.02)
    assert torch.equal(level[~acting, 0], level[~acting, 1])
    assert level[:, 1].min() == 1
    assert level[:, 1].max() == 100


def test_windows_corrupted_for_use_train_the_policy_alone():
    model, rng = make().model, torch.Generator().manual_seed(0)
    batch = {name: torch.randn(500, size, generator=rng) for name, size in model.parts.items()}
    batch["task"] = torch.zeros(500, dtype=torch.int64)
    found = model.corrupt_for_use(batch, rng)
    assert (found["level"][:, 0] == 0).all()
    assert found["level"][:, 1].unique().numel() > 90
    assert torch.equal(found["noisy"][:, : model.parts["observation"]], batch["observation"])
    assert (found["weight"] == torch.tensor([0.0, 1.0])).all()
    assert model.policy_fraction == 0.5


def test_building_a_network_leaves_the_global_stream_alone():
    torch.manual_seed(11)
    before = torch.rand(1)
    torch.manual_seed(11)
    first, second = make().params, make().params
    assert torch.equal(torch.rand(1), before)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.sim
def test_a_checkpoint_loads_on_its_own_and_rolls_out_alike(tiny, tmp_path):
    from trcl_envs.catalog import make_env
    from trcl_policy.rollout.evaluate import evaluate

    shutil.copytree(tiny.finished / "checkpoints" / "01", tmp_path / "alone")
    policy = load_policy(tmp_path / "alone")
    assert policy.learned_tasks == list(TASKS[:2])
    env = make_env(TASKS[1], 2)
    episodes = evaluate(policy, env, [1_000_000, 1_000_001])
    env.close()
    lines = [json.loads(line) for line in (tiny.finished / "episodes.jsonl").read_text().splitlines()]
    wanted = [line for line in lines if (line["checkpoint"], line["step"], line["task"]) == (1, None, TASKS[1])]
    assert [{"checkpoint": 1, "step": None, "update": 30, **episode.record()} for episode in episodes] == wanted
