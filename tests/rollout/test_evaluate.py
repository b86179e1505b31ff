"""Rollouts: when they end, what they count, and that neighbours change nothing."""

import numpy as np
import pytest

from tests.rollout.fake_sim import HORIZON, PointEnv
from trcl_policy.rollout.evaluate import BLOCK, evaluate, fingerprint


class Seeker:
    """Walks to the goal; notes what it was asked."""

    def __init__(self):
        self.resets = []

    def reset(self, task=None, seeds=()):
        self.resets.append((task, tuple(seeds)))

    def select_action(self, observation):
        return np.clip(20 * (observation[:, 2:] - observation[:, :2]), -1, 1)


def test_reachable_goals_count_and_the_rest_run_out_of_time():
    seeds = range(1, 8)
    episodes = evaluate(Seeker(), PointEnv("point", 7), seeds)
    assert [episode.seed for episode in episodes] == list(seeds)
    assert [episode.success for episode in episodes] == [seed % 3 != 0 for seed in seeds]
    for episode in episodes:
        assert (episode.length == HORIZON) == (not episode.success)
        assert episode.return_ == -float(episode.success)  # the world stood still after its first success
        assert not episode.failed


def test_blocks_are_cut_by_position():
    controller = Seeker()
    seeds = list(range(1, 2 * BLOCK + 4))
    episodes = evaluate(controller, PointEnv("point", BLOCK), seeds)
    assert [block for _, block in controller.resets] == [
        tuple(seeds[:BLOCK]),
        tuple(seeds[BLOCK : 2 * BLOCK]),
        tuple(seeds[2 * BLOCK :]),
    ]
    assert {task for task, _ in controller.resets} == {"point"}
    assert [episode.seed for episode in episodes] == seeds
    assert evaluate(controller, PointEnv("point", 3), seeds[:3]) == episodes[:3]
    assert evaluate(controller, PointEnv("point", 3), []) == []


def test_worlds_that_break_are_failures_not_successes():
    episodes = evaluate(Seeker(), PointEnv("point", 4, broken_at=2), [1, 2, 4, 5])
    assert [(episode.failed, episode.success, episode.length) for episode in episodes[1:3]] == [(True, False, 2)] * 2
    assert episodes[0].success


def test_success_in_the_moment_of_breaking_does_not_count():
    length = evaluate(Seeker(), PointEnv("point", 1), [2])[0].length
    broken = evaluate(Seeker(), PointEnv("point", 1, broken_at=length), [2])[0]
    assert (broken.success, broken.failed, broken.length) == (False, True, length)


def test_record_is_the_line_of_the_contract():
    record = evaluate(Seeker(), PointEnv("point", 1), [1])[0].record()
    assert {"task", "seed", "success", "return", "length"} <= set(record)
    assert type(record["success"]) is bool
    assert type(record["length"]) is int


def test_fingerprints_tell_starts_apart():
    row = np.array([0.0, 1.0])
    assert fingerprint(row) == fingerprint(row.astype(np.float32)) != fingerprint(row + 1e-12)
    assert fingerprint(np.stack([row, row], 1)[:, 0]) == fingerprint(row)
    assert len(fingerprint(row)) == 12


@pytest.mark.sim
def test_an_episode_does_not_depend_on_its_neighbours():
    import torch

    from trcl_envs.catalog import make_env
    from trcl_policy.diffusion.process import Diffusion
    from trcl_policy.policy.controller import Policy, PolicySpec
    from trcl_policy.policy.normalizer import Normalizer
    from trcl_policy.policy.trajectory import Network
    from trcl_policy.policy.windows import Shape

    name = "window-close-v3"
    network, diffusion = Network(width=32, depth=1), Diffusion(sampler="ddpm", acting_steps=2)
    spec = PolicySpec((name,), Shape(39, 4, 1, 16), tuple(range(39)), 16, network, diffusion)
    model = spec.model()
    ends = {"observation": torch.ones(1, 39), "action": torch.ones(1, 4)}
    normalizer = Normalizer({part: -end for part, end in ends.items()}, ends)
    policy = Policy(spec, model, dict(model.net.named_parameters()), normalizer)
    env = make_env(name, 5)
    together = evaluate(policy, env, [3, 11, 5, 8, 2])
    assert evaluate(policy, env, [5]) == together[2:3]
    assert evaluate(policy, env, [2, 3, 8]) == [together[4], together[0], together[3]]
    env.close()
