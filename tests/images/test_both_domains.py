"""One and the same Method objects drive policies and images."""

import numpy as np
import pytest
import torch

from tests.images.small import blob_tasks, moved, spec
from trcl_policy.continual.learner import learn
from trcl_policy.continual.methods import METHODS, Options, make_method
from trcl_policy.continual.optimizer import Training
from trcl_policy.continual.streams import Streams
from trcl_policy.continual.tasks import Task, TaskSequence
from trcl_policy.diffusion.process import Diffusion
from trcl_policy.policy.trajectory import Network, TrajectoryModel
from trcl_policy.policy.windows import Shape, Windows

OPTIONS = Options(fisher_samples=4, rank=2, replay_samples=4, memory=4, dark_draws=1, inner_steps=2)
TRAINING = Training(steps=2, batch_size=2, learning_rate=1e-3, warmup=0, ema_decay=0.0)
SHAPE = Shape(3, 2, 2, 8)
ONLY_POLICIES = ("replay_rollout", "tdgr")
DEFAULT = ("finetune", "ewc", "er", "agem", "packnet", "trcl")
METHOD_OBJECTS = {name: make_method(name, OPTIONS) for name in METHODS if name not in ONLY_POLICIES}


def windows(index):
    rng = torch.Generator().manual_seed(index)
    arrays = {"observation": torch.randn(20, 3, generator=rng), "action": torch.randn(20, 2, generator=rng)}
    return Windows({name: x.clamp(-1, 1) for name, x in arrays.items()}, np.array([9, 20]), index, SHAPE)


def policies():
    net = Network(width=8, depth=1, condition_dim=8).build(SHAPE, 2, seed=1)
    tasks = TaskSequence(tuple(Task(str(n), windows(n), {"task": torch.tensor([n])}) for n in range(2)))
    model = TrajectoryModel(net, Diffusion(num_train_timesteps=20, replay_steps=2), SHAPE)
    return model, {name: p.detach() for name, p in net.named_parameters()}, tasks


def images():
    model = spec().model(seed=1)
    return model, moved(model, 0.0), blob_tasks(per_class=4).sequence()


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in DEFAULT else pytest.mark.slow) for n in METHOD_OBJECTS]
)
def test_the_same_method_object_learns_policies_and_images(name):
    method = METHOD_OBJECTS[name]
    for domain in (policies, images):
        model, params, tasks = domain()
        first = torch.cat([p.flatten() for p in params.values()]).clone()
        last = list(learn(model, params, tasks, method, TRAINING, Streams(0), 1))[-1]
        assert torch.isfinite(last.theta).all()
        assert not torch.equal(last.theta, first)
        if METHODS[name].update == "penalty":
            assert ("loss_old" in last.scalars) == (METHODS[name].replay != "none")
            assert (last.scalars["penalty"] > 0) == (METHODS[name].anchor != "none")
