"""Classifier-free guidance of the joint model: of what is generated, never of acting."""

import dataclasses

import pytest
import torch

from trcl_policy.config import load_config
from trcl_policy.diffusion.guidance import Guidance
from trcl_policy.diffusion.process import Diffusion
from trcl_policy.policy.spec import PolicySpec
from trcl_policy.policy.trajectory import Network
from trcl_policy.policy.windows import Shape

SHAPE = Shape(observation_dim=3, action_dim=2, n_obs_steps=1, horizon=4)


def spec(**guidance):
    network = Network(width=16, depth=1, condition_dim=8)
    made = Diffusion(num_train_timesteps=20, acting_steps=3, replay_steps=3)
    return PolicySpec(("a", "b"), SHAPE, (0, 1, 2), 2, network, made, guidance=Guidance(**guidance))


def model_and_params(**guidance):
    model = spec(**guidance).model(seed=0)
    return model, {name: leaf.detach() for name, leaf in model.net.named_parameters()}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(count):
    return {
        "observation": torch.randn(count, 3, generator=generator(1)),
        "action": torch.randn(count, 8, generator=generator(2)),
        "task": torch.arange(count) % 2,
    }


def test_tasks_are_hidden_from_the_generators_samples_alone():
    model, _ = model_and_params(label_dropout=0.25)
    given = batch(4000)
    corrupted = model.corrupt(given, generator())
    hidden, acting = corrupted["task"] == 2, corrupted["level"][:, 0] == 0
    assert (corrupted["task"] == given["task"])[~hidden].all()
    assert not hidden[acting].any()
    assert 0.2 < hidden[~acting].float().mean() < 0.3


def test_without_guidance_nothing_is_drawn_for_it():
    plain, _ = model_and_params()
    guided, _ = model_and_params(label_dropout=0.25)
    one, other = (model.corrupt(batch(50), generator()) for model in (plain, guided))
    assert (one["task"] == batch(50)["task"]).all()
    for key in ("noisy", "target", "level"):
        torch.testing.assert_close(one[key], other[key], rtol=0, atol=0)


def test_the_sampler_goes_beyond_the_told_task_and_acting_does_not():
    models = {scale: model_and_params(label_dropout=0.1, scale=scale) for scale in (1.0, 3.0)}
    (plain, params), (guided, _) = models[1.0], models[3.0]
    x, level = torch.randn(6, 11, generator=generator(3)), torch.full((6, 2), 9)
    told, untold = {"task": torch.arange(6) % 2}, {"task": torch.full((6,), 2)}
    given, none = plain.denoise(params, x, level, told), plain.denoise(params, x, level, untold)
    assert (given - none).abs().max() > 1e-3
    torch.testing.assert_close(guided.denoise(params, x, level, told), none + 3 * (given - none))
    made = [model.generate(params, told, generator(4))["action"] for model in (plain, guided)]
    assert (made[0] - made[1]).abs().max() > 1e-3
    looks = torch.randn(6, 3, generator=generator(5))
    acts = [model.act(params, looks, told["task"], [generator(row) for row in range(6)]) for model in (plain, guided)]
    torch.testing.assert_close(*acts, rtol=0, atol=0)


def test_files_keep_it_and_older_ones_have_none():
    document = spec(label_dropout=0.1, scale=2.0).to_json()
    assert PolicySpec.from_json(document).guidance == Guidance(0.1, 2.0)
    del document["guidance"]
    assert PolicySpec.from_json(document).guidance == Guidance()


def test_it_is_a_setting_of_a_run():
    given = {"policy.guidance.label_dropout": 0.1, "policy.guidance.scale": 1.5}
    assert load_config("quickstart", given).policy.guidance == Guidance(0.1, 1.5)
    with pytest.raises(ValueError, match=r"scale must be >= 0, and 1 where label_dropout is 0, got 1\.5"):
        load_config("quickstart", {"policy.guidance.scale": 1.5})
    assert dataclasses.asdict(load_config("quickstart", {}).policy.guidance) == {"label_dropout": 0.0, "scale": 1.0}
