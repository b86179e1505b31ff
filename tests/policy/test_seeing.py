"""Policies that see: what the core relies on, bit for bit, and what users are used to when they act."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from trcl_policy import load_policy
from trcl_policy.continual.gradients import per_sample_gradients
from trcl_policy.continual.learner import learn
from trcl_policy.continual.methods import Options, make_method
from trcl_policy.continual.optimizer import Training
from trcl_policy.continual.params import Layout, rows
from trcl_policy.continual.replay import NoReplay
from trcl_policy.continual.streams import Streams
from trcl_policy.continual.tasks import Task, TaskSequence
from trcl_policy.diffusion.process import Diffusion
from trcl_policy.policy.controller import ROWS, Policy, PolicySpec
from trcl_policy.policy.normalizer import Normalizer
from trcl_policy.policy.seeing import SeeingWindows
from trcl_policy.policy.trajectory import Network
from trcl_policy.policy.vision import Vision
from trcl_policy.policy.windows import Shape

VISION = Vision(("robot", "front"), 16, 12, stages=1, keypoints=2, learns="always")
OPTIONS = Options(weight=3.0, fisher_samples=16, rank=3, memory=10, dark_draws=2)
TRAINING = Training(steps=3, batch_size=6, learning_rate=1e-3, warmup=1)


def spec(n_obs_steps=1, n_action_steps=3, **vision):
    return PolicySpec(
        tasks=("a", "b"),
        shape=Shape(3 + VISION.num_features, 2, n_obs_steps, 4),
        observation_indices=(0, 1, 3),
        n_action_steps=n_action_steps,
        network=Network(width=12, depth=1, condition_dim=8),
        diffusion=Diffusion(num_train_timesteps=20, acting_steps=2, replay_steps=2),
        vision=replace(VISION, **vision),
    )


def make_tasks(n_obs_steps=1):
    rng, tasks, shape = torch.Generator().manual_seed(0), [], spec(n_obs_steps).shape
    for index in range(2):
        arrays = {name: torch.randn(20, size, generator=rng) for name, size in (("observation", 3), ("action", 2))}
        frames = torch.randint(256, (20, 2, 16, 16, 3), dtype=torch.uint8, generator=rng)
        windows = SeeingWindows(arrays, np.array([9, 20]), index, shape, lambda i, frames=frames: frames[i])
        tasks.append(Task(str(index), windows, {"task": torch.tensor([index])}))
    return TaskSequence(tuple(tasks))


def run(how, resume=None):
    model = spec().model(1)
    params = {name: p.detach() for name, p in model.net.named_parameters()}
    return [
        (s.kind, s.theta.clone(), s.state())
        for s in learn(model, params, make_tasks(), how, TRAINING, Streams(7), 2, resume=resume)
    ]


def method(name, **changes):
    return make_method(name, replace(OPTIONS, **changes))


def assert_same(one, other):
    assert [kind for kind, *_ in one] == [kind for kind, *_ in other]
    assert all(torch.equal(mine, theirs) for (_, mine, _), (_, theirs, _) in zip(one, other, strict=True))


IDENTITIES = {
    "ewc of zero weight is finetuning": (method("ewc", weight=0.0), method("finetune")),
    "zero beta is finetuning": (method("er", replay_weight=0.0), method("finetune")),
    "agem without memory is finetuning": (replace(method("agem"), replay=NoReplay()), method("finetune")),
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_identity_holds_bit_for_bit_on_a_policy_that_learns_to_see(name):
    one, other = IDENTITIES[name]
    assert_same(run(one), run(other))
    assert not torch.equal(run(method("er"))[-1][1], run(other)[-1][1])


@pytest.mark.parametrize("name", ["er", "er_distill", "lwf", "packnet", "mer"])
def test_resuming_equals_never_having_stopped(name):
    whole = run(method(name))
    assert torch.isfinite(whole[-1][1]).all()
    for number in (1, 2, 3):
        assert_same(whole[number + 1 :], run(method(name), whole[number][2]))


@pytest.mark.parametrize("name", ["ewc_lowrank", "mas", "si", "vrmcl", "lamaml"])
def test_fishers_and_meta_gradients_go_through_the_encoder(name):
    first, *_, last = (theta for _, theta, _ in run(method(name)))
    layout = Layout.of({name: leaf for name, leaf in spec().model(1).net.named_parameters()})
    assert torch.isfinite(last).all()
    moved = layout.unflatten((last - first).abs())
    assert all(leaf.any() for leaf in moved.values() if leaf.numel() > 1)


def corrupted_samples(n_obs_steps=1, count=5):
    model = spec(n_obs_steps).model(1)
    params = {name: p.detach() for name, p in model.net.named_parameters()}
    batch = make_tasks(n_obs_steps)[0].samples.gather(torch.arange(count) * 3)
    return model, params, batch, model.corrupt(batch, torch.Generator().manual_seed(3))


def test_corrupting_draws_everything():
    model, params, batch, corrupted = corrupted_samples(2)
    again = model.corrupt(batch, torch.Generator().manual_seed(3))
    assert all(torch.equal(corrupted[key], again[key]) for key in corrupted)
    other = model.corrupt(batch, torch.Generator().manual_seed(4))
    assert not torch.equal(other["pictures"], corrupted["pictures"])
    assert corrupted["pictures"].shape == (5, 2, 2, 12, 12, 3)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    assert torch.equal(model.losses(params, corrupted), model.losses(params, corrupted))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_gradients_of_single_samples_equal_a_loop_and_reach_the_encoder():
    model, params, _, corrupted = corrupted_samples(2)
    layout = Layout.of(params)
    theta = layout.flatten(params)
    together = torch.cat(list(per_sample_gradients(model, layout, theta, corrupted)))
    for row in range(5):
        leaves = {name: leaf.clone().requires_grad_() for name, leaf in params.items()}
        model.losses(leaves, rows(corrupted, slice(row, row + 1))).sum().backward()
        alone = layout.flatten({name: leaf.grad for name, leaf in leaves.items()})
        torch.testing.assert_close(together[row], alone, rtol=1e-3, atol=1e-6)
    for name, leaf in layout.unflatten(together.abs().sum(0)).items():
        assert leaf.any(), name


def test_what_is_seen_is_given_and_never_predicted():
    model, params, _, corrupted = corrupted_samples()
    assert (corrupted["level"][:, 0] == 0).all()
    assert (corrupted["level"][:, 1] > 0).all()
    size = model.shape.parts["observation"]
    predicted = model.predict(params, corrupted)
    assert not predicted[:, :size].any()
    assert not corrupted["target"][:, :size].any()
    dark = {**corrupted, "pictures": 255 - corrupted["pictures"]}
    assert not torch.equal(model.predict(params, dark)[:, size:], predicted[:, size:])
    with pytest.raises(ValueError, match="replay must be stored or rolled out where the encoder learns always"):
        model.generate(params, {"task": torch.tensor([0])}, torch.Generator())


def make_policy(learns="always", known=(True, True), **shape):
    made = spec(learns=learns, **shape)
    size = made.shape.observation_dim
    low = {"observation": torch.full((2, size), -1.0), "action": torch.full((2, 2), -0.5)}
    for task, met in enumerate(known):
        if not met:
            low = {part: leaf.index_fill(0, torch.tensor([task]), float("nan")) for part, leaf in low.items()}
    model = made.model(3)
    encoder = None if learns == "always" else {k: p.detach() for k, p in VISION.build(4).named_parameters()}
    params = {name: p.detach() for name, p in model.net.named_parameters()}
    return Policy(made, model, params, Normalizer(low, {k: -v for k, v in low.items()}), encoder=encoder)


def look(count, seed=0):
    rng = np.random.default_rng(seed)
    images = {f"observation.images.{c}": rng.integers(0, 256, (count, 16, 16, 3), np.uint8) for c in VISION.cameras}
    return {"observation.state": rng.normal(size=(count, 5)), **images}


def some(seen, index):
    return {key: value[index] for key, value in seen.items()}


@pytest.mark.parametrize("learns", ["always", "first_task"])
def test_an_action_depends_neither_on_neighbours_nor_on_the_row(learns):
    policy, seen = make_policy(learns), look(ROWS + 5)

    def act(index):
        policy.reset("b", [1000 + row for row in index])
        return policy.select_action(some(seen, index))

    together = act(list(range(ROWS + 5)))
    for index in ([3], [ROWS + 4, 0], [7, 2, ROWS]):
        assert np.array_equal(act(index), together[index])
    policy.reset("b", [1003])
    alone = policy.select_action(some(seen, 3))
    assert alone.shape == (2,)
    assert np.array_equal(alone, together[3])


def test_every_camera_and_only_chosen_entries_matter():
    policy, seen = make_policy(), look(1)

    def act(changed):
        policy.reset("a", [1])
        return policy.select_action({**seen, **changed})

    wanted = act({})
    for camera in VISION.cameras:
        key = f"observation.images.{camera}"
        assert not np.array_equal(act({key: 255 - seen[key]}), wanted)
    for entry in range(5):
        state = seen["observation.state"].copy()
        state[0, entry] += 0.5
        assert np.array_equal(act({"observation.state": state}), wanted) == (entry in (2, 4))
    assert np.array_equal(act({"observation.images.wrist": np.zeros(3), "reward": 1.0}), wanted)


def test_pictures_in_lerobots_form_are_the_same():
    policy, seen = make_policy(), look(3)
    policy.reset("a", [1, 2, 3])
    wanted = policy.select_action(seen)
    floats = {
        key: torch.from_numpy(value).movedim(-1, 1).float() / 255 if "images" in key else torch.from_numpy(value)
        for key, value in seen.items()
    }
    policy.reset("a", [1, 2, 3])
    assert np.array_equal(policy.select_action(floats), wanted)


@pytest.mark.parametrize(("n_obs_steps", "n_action_steps"), [(1, 3), (2, 3), (2, 1), (3, 2)])
def test_pictures_may_be_left_out_where_they_are_not_needed(n_obs_steps, n_action_steps):
    shape = {"n_obs_steps": n_obs_steps, "n_action_steps": n_action_steps}
    shown, blind = make_policy(**shape), make_policy(**shape)
    needed = []
    for step in range(7):
        seen = look(2, step)
        needed.append(blind.needs_pictures)
        less = seen if needed[-1] else {"observation.state": seen["observation.state"]}
        assert np.array_equal(shown.select_action(seen), blind.select_action(less))
    due = [any((step + more) % n_action_steps == 0 for more in range(n_obs_steps)) for step in range(7)]
    assert needed == due


def test_a_history_of_pictures_slides():
    policy, seen = make_policy(n_obs_steps=2, n_action_steps=1), [look(2, seed) for seed in range(3)]
    policy.reset("a", [1, 2])
    made = [policy.select_action(one) for one in seen]
    policy.reset("a", [1, 2])
    for earlier, now, action in zip([seen[0], *seen], seen, made, strict=False):
        history = {key: np.stack([earlier[key], now[key]], axis=1) for key in now}
        assert np.array_equal(policy.predict_action_chunk(history)[:, 0].numpy(), action)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda seen: seen["observation.state"], "must be a dict with observation.state, observation.images.robot, o"),
        (lambda seen: {}, "observation must hold observation.state, got nothing"),
        (lambda seen: {"observation.state": np.zeros((2, 5))}, "must hold pictures of robot, front at this step"),
        (
            lambda seen: {k: v for k, v in seen.items() if "front" not in k},
            "must hold the pictures of every camera, got none for observation.images.front",
        ),
        (
            lambda seen: {**seen, "observation.images.robot": np.zeros((2, 8, 8, 3), np.uint8)},
            r"observation.images.robot must be bytes \(2, 16, 16, 3\), or floats in \[0, 1\] \(2, 3, 16, 16\), got",
        ),
        (lambda seen: {**seen, "observation.images.robot": np.zeros((2, 16, 16, 3), int)}, "must be bytes"),
    ],
)
def test_what_is_missing_or_misshapen_is_named(change, message):
    policy = make_policy()
    with pytest.raises(ValueError, match=message):
        policy.select_action(change(look(2)))


@pytest.mark.parametrize("learns", ["always", "never"])
def test_saved_and_loaded_policies_are_the_same_bit_for_bit(tmp_path, learns):
    policy = make_policy(learns, known=(True, False), n_obs_steps=2)
    policy.save(tmp_path)
    assert (tmp_path / "encoder.safetensors").exists() == (learns == "never")
    again = load_policy(tmp_path)
    assert again.spec == policy.spec
    for made in (policy, again):
        made.reset("a", range(4))
    for seed in range(3):
        assert np.array_equal(policy.select_action(look(4, seed)), again.select_action(look(4, seed)))


def test_an_encoder_that_does_not_fit_is_named(tmp_path):
    make_policy("never").save(tmp_path)
    other = Policy.save
    policy = make_policy("never")
    policy.encoder = {name: leaf for name, leaf in list(policy.encoder.items())[1:]}
    other(policy, tmp_path)
    with pytest.raises(ValueError, match=r"encoder.safetensors must fit the policy's vision"):
        load_policy(tmp_path)


def test_files_of_policies_from_before_there_were_cameras_are_read():
    made = replace(spec(), vision=None, observation_indices=tuple(range(11)))
    document = {key: value for key, value in made.to_json().items() if key != "vision"}
    assert PolicySpec.from_json(document) == made
    assert PolicySpec.from_json(json.loads(json.dumps(spec().to_json()))) == spec()


def test_a_policy_of_numbers_takes_a_dict_too():
    made = PolicySpec(("a",), Shape(3, 2, 1, 4), (0, 1, 3), 2, Network(width=8, depth=1), Diffusion(acting_steps=2))
    model = made.model(0)
    low = {"observation": -torch.ones(1, 3), "action": -torch.ones(1, 2)}
    params = {name: p.detach() for name, p in model.net.named_parameters()}
    policy = Policy(made, model, params, Normalizer(low, {k: -v for k, v in low.items()}))
    assert not policy.needs_pictures
    seen = look(2)
    wanted = policy.select_action(seen["observation.state"])
    policy.reset()
    assert np.array_equal(policy.select_action(seen), wanted)
