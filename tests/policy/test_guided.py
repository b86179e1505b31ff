"""Windows that tell how far along their episode they are, and generation that is told."""

import numpy as np
import pytest
import torch

from trcl_policy.diffusion.process import Diffusion
from trcl_policy.policy.trajectory import Network, TrajectoryModel
from trcl_policy.policy.windows import Shape, Windows

ENDS = np.array([3, 4, 11])  # one episode has a single step
SHAPE = Shape(2, 1, 2, 8, guided=True)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def windows(shape=SHAPE):
    steps = torch.arange(11.0)
    return Windows({"observation": torch.stack([steps, -steps], 1), "action": steps[:, None]}, ENDS, 1, shape)


def make(shape=SHAPE, kind="mlp", **options):
    network = Network(kind=kind, width=16, depth=1, condition_dim=8, channels=(8, 16), attention_levels=0, kernel=3)
    net = network.build(shape, 2, seed=1)
    model = TrajectoryModel(net, Diffusion(replay_steps=3), shape, **options)
    return model, {name: p.detach() for name, p in net.named_parameters()}


def test_progress_rises_evenly_from_the_first_step_to_the_last():
    found = windows().gather(torch.arange(11))["progress"]
    wanted = [-1, 0, 1, -1, *np.linspace(-1, 1, 7)]
    assert found.shape == (11, 1)
    torch.testing.assert_close(found.squeeze(1).double(), torch.tensor(wanted).double(), rtol=1e-6, atol=1e-7)


def test_windows_without_guidance_have_no_progress():
    plain = Shape(2, 1, 2, 8)
    assert set(windows(plain).gather(torch.arange(3))) == {"observation", "action", "task"}
    assert "progress" not in plain.parts
    assert SHAPE.parts == {"observation": 4, "progress": 1, "action": 8}


def test_progress_is_given_to_the_generator_and_hidden_from_the_policy():
    model, _ = make()
    level = model.draw_levels(20000, generator())
    acting = level[:, 0] == 0
    assert float(acting.float().mean()) == pytest.approx(0.5, abs=0.02)
    assert torch.equal(level[acting, 1], level[acting, 2])
    assert level[acting, 1].min() == 1
    assert level[~acting, 1].max() == 0
    assert torch.equal(level[~acting, 0], level[~acting, 2])


def test_corrupted_guided_windows_leave_the_generators_progress_clean():
    model, _ = make(policy_fraction=0.0)
    batch = windows().gather(torch.arange(11))
    corrupted = model.corrupt(batch, generator())
    assert torch.equal(corrupted["noisy"][:, 4:5], batch["progress"])
    assert corrupted["weight"][:, 1].abs().max() == 0
    noisier, _ = make(policy_fraction=1.0)
    corrupted = noisier.corrupt(batch, generator())
    assert torch.equal(corrupted["noisy"][:, :4], batch["observation"])
    assert (corrupted["noisy"][:, 4:5] != batch["progress"]).all()


@pytest.mark.parametrize("kind", ["mlp", "unet"])
def test_generation_keeps_the_progress_it_is_given(kind):
    model, params = make(kind=kind)
    told = {"task": torch.tensor([0, 1, 1]), "progress": torch.tensor([[-1.0], [0.25], [1.0]])}
    made = model.generate(params, told, generator(4))
    assert torch.equal(made["progress"], told["progress"])
    assert torch.equal(made["task"], told["task"])
    assert (made["observation"].shape, made["action"].shape) == ((3, 4), (3, 8))
    later = model.generate(params, {**told, "progress": -told["progress"]}, generator(4))
    assert torch.equal(later["observation"][1:2], made["observation"][1:2]) is False


def test_generation_without_a_given_progress_makes_its_own():
    model, params = make()
    made = model.generate(params, {"task": torch.tensor([0, 1])}, generator())
    assert made["progress"].shape == (2, 1)
    assert made["progress"][0] != made["progress"][1]


def test_a_guided_policy_acts_as_any_other():
    model, params = make()
    found = model.act(params, torch.zeros(2, 4), torch.tensor([0, 1]), [generator(1), generator(2)])
    assert found.shape == (2, 8, 1)
    assert torch.isfinite(found).all()
