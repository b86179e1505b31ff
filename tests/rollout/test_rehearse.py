"""What a policy meets when it does a task itself."""

from itertools import pairwise

import numpy as np

from tests.rollout.fake_sim import HORIZON, PointEnv
from trcl_policy.rollout.rehearse import rehearse


class Walker:
    """Goes straight to the goal it sees, and remembers what it was told and shown."""

    def __init__(self):
        self.resets, self.seen = [], []

    def reset(self, task, seeds):
        self.resets.append((task, list(seeds)))

    def select_action(self, observation):
        self.seen.append(observation.copy())
        return np.clip(20 * (observation[:, 2:] - observation[:, :2]), -1, 1)


def counter(start=0):
    """Seeds in a row, and how many were asked for at a time."""
    asked = []

    def draw(count):
        first = start + sum(asked)
        asked.append(count)
        return range(first, first + count)

    return draw, asked


def episodes(met):
    ends = [0, *met.episode_ends]
    return [(met.observation[a:b], met.action[a:b]) for a, b in pairwise(ends)]


def test_whole_episodes_come_until_there_are_steps_enough():
    walker, env = Walker(), PointEnv(num_worlds=4)
    draw, asked = counter()
    met = rehearse(walker, env, 100, draw)
    assert asked == [4, 4]
    assert walker.resets == [("point", [0, 1, 2, 3]), ("point", [4, 5, 6, 7])]
    assert len(met.episode_ends) == 8
    assert met.episode_ends[-1] == len(met.observation) == len(met.action) >= 100
    assert met.episode_ends[3] < 100
    assert met.observation.shape[1:] == (4,)
    assert met.action.shape[1:] == (2,)
    assert met.observation.dtype == met.action.dtype == np.float32


def test_an_episode_ends_at_success_or_at_the_horizon():
    walker, env = Walker(), PointEnv(num_worlds=6)
    met = rehearse(walker, env, 1, counter(1)[0])
    assert len(episodes(met)) == 6
    for seed, (observation, _) in enumerate(episodes(met), 1):
        goal = np.random.default_rng(seed).uniform(0.5, 1.5, 2)
        if seed % 3 == 0:  # out of reach
            assert len(observation) == HORIZON
            goal = goal + 9
        else:
            distance = np.linalg.norm(observation[-1, :2] - observation[-1, 2:])
            assert 0.15 <= distance < 0.3  # the last observation is the one before the last action
        np.testing.assert_allclose(observation[0], [0, 0, *goal], rtol=1e-6)


def test_steps_are_what_was_seen_and_done():
    walker, env = Walker(), PointEnv(num_worlds=3)
    met = rehearse(walker, env, 1, counter(1)[0])
    for row, (observation, action) in enumerate(episodes(met)):
        shown = np.stack([step[row] for step in walker.seen])[: len(observation)]
        np.testing.assert_allclose(observation, shown, rtol=1e-6)
        np.testing.assert_allclose(action, np.clip(20 * (shown[:, 2:] - shown[:, :2]), -1, 1), rtol=1e-6)
        np.testing.assert_allclose(observation[1:, :2] - observation[:-1, :2], 0.1 * action[:-1], atol=1e-5)


def test_a_failed_world_ends_its_episode_and_no_other():
    met = rehearse(Walker(), PointEnv(num_worlds=3, broken_at=4), 1, counter(1)[0])
    lengths = [len(action) for _, action in episodes(met)]
    assert lengths[1] == 4
    assert lengths[0] > 4
    assert lengths[2] == HORIZON
