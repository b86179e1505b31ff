"""What the loop promises bit for bit, on the real policy model: a denoising network over windows."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from trcl_policy.continual.learner import learn
from trcl_policy.continual.methods import Options, make_method
from trcl_policy.continual.optimizer import Training
from trcl_policy.continual.replay import NoReplay
from trcl_policy.continual.streams import Streams
from trcl_policy.continual.tasks import Task, TaskSequence
from trcl_policy.diffusion.process import Diffusion
from trcl_policy.policy.trajectory import Network, TrajectoryModel
from trcl_policy.policy.windows import Shape, Windows

SHAPE = Shape(3, 2, 2, 8)
OPTIONS = Options(weight=3.0, fisher_samples=32, rank=3, replay_samples=16, memory=10, dark_draws=2)
TRAINING = Training(steps=4, batch_size=8, learning_rate=1e-3, warmup=1)
NETWORKS = {
    "mlp": Network(width=12, depth=1, condition_dim=8),
    "unet": Network(kind="unet", channels=(8, 16), attention_levels=1, kernel=3, condition_dim=8),
}


def make_tasks(shape):
    rng, tasks = torch.Generator().manual_seed(0), []
    for index in range(2):
        sizes = {"observation": shape.observation_dim, "action": shape.action_dim}
        arrays = {name: torch.randn(20, size, generator=rng).clamp(-1, 1) for name, size in sizes.items()}
        condition = {"task": torch.tensor([index])}
        tasks.append(Task(str(index), Windows(arrays, np.array([9, 20]), index, shape), condition))
    return TaskSequence(tuple(tasks))


def run(how, kind="mlp", resume=None, training=TRAINING):
    net = NETWORKS[kind].build(SHAPE, 2, seed=1)
    model = TrajectoryModel(net, Diffusion(num_train_timesteps=20, replay_steps=2), SHAPE)
    params = {name: p.detach() for name, p in net.named_parameters()}
    found = []
    for s in learn(model, params, make_tasks(SHAPE), how, training, Streams(7), 2, resume=resume):
        found.append((s.kind, s.theta.clone(), s.state()))
    return found


def method(name, **changes):
    return make_method(name, replace(OPTIONS, **changes))


def assert_same(one, other):
    assert [kind for kind, *_ in one] == [kind for kind, *_ in other]
    assert all(torch.equal(mine, theirs) for (_, mine, _), (_, theirs, _) in zip(one, other, strict=True))


IDENTITIES = {
    "zero weight is replay": (method("trcl_diag", weight=0.0), method("replay")),
    "zero weight as published is replay": (method("trcl_rank1", weight=0.0), method("replay")),
    "no replay is ewc": (replace(method("trcl_diag"), replay=NoReplay()), method("ewc")),
    "ewc of zero weight is finetuning": (method("ewc", weight=0.0), method("finetune")),
    "zero beta is ewc": (method("trcl_diag", replay_weight=0.0), method("ewc")),
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_identity_holds_bit_for_bit_on_the_policy_model(name):
    one, other = IDENTITIES[name]
    assert_same(run(one), run(other))
    assert not torch.equal(run(method("trcl_diag"))[-1][1], run(other)[-1][1])


@pytest.mark.parametrize("name", ["replay_dark", "trcl", "trcl_fixed"])
def test_kept_windows_may_remind_of_acting_alone(name):
    runs = [run(method(name, replay_recall=recall)) for recall in ("all", "use")]
    usual, acting = (found[-1] for found in runs)
    kept, others = (
        {key: leaf for key, leaf in state.items() if "pool/" in key and key.endswith(("level", "target", "weight"))}
        for *_, state in (acting, usual)
    )
    assert len(kept) >= 3
    for key, leaf in kept.items():
        if key.endswith("level"):
            assert (leaf[:, 0] == 0).all()
            assert (leaf[:, 1] > 0).all()
            assert (others[key][:, 0] > 0).any()
    assert not torch.equal(usual[1], acting[1])
    settled = [next(state for kind, _, state in found if kind == "settled") for found in runs]
    told = [{key: leaf for key, leaf in state.items() if key.endswith("reference")} for state in settled]
    for key in told[0]:  # of the first task, which both have learned alike
        assert not torch.equal(told[0][key], told[1][key])
    assert len(told[0]) == (name == "trcl")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("trcl_diag", "unet"), ("trcl_mixed", "mlp"), ("packnet", "mlp"), ("vrmcl_distill", "mlp"), ("lamaml", "mlp"),
     ("si", "mlp"), ("mas", "mlp"), ("er_distill", "mlp"), ("lwf", "mlp"), ("trcl_dual", "mlp")],
)  # fmt: skip
def test_resuming_the_policy_model_equals_never_having_stopped(name, kind):
    whole = run(method(name), kind)
    assert torch.isfinite(whole[-1][1]).all()
    for number in (0, 2, 3):
        assert_same(whole[number + 1 :], run(method(name), kind, whole[number][2]))


def test_second_order_steps_reach_every_weight_of_the_network():
    """Meta-gradients of an unrolled step differ from those of first order, through attention and norms too."""
    for kind in NETWORKS:
        one, other = (run(method("ftml", second_order=o, inner_rate=0.5), kind)[-1][1] for o in (True, False))
        assert torch.isfinite(one).all()
        assert not torch.equal(one, other)
