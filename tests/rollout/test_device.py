"""Episodes on a device: the queue, what ends an episode, and that the number of worlds changes nothing."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.rollout.fake_sim import HORIZON, PointEnv
from trcl_envs.interface import SimulationError
from trcl_policy.policy.acting import Acting
from trcl_policy.rollout.device import roll_out, roll_out_jobs
from trcl_policy.rollout.evaluate import evaluate
from trcl_policy.rollout.jobs import Job


class PointWorlds:
    """``PointEnv`` in torch tensors; worlds begin at any time. Worlds of even seeds break at step ``broken_at``."""

    device = torch.device("cpu")

    def __init__(self, num_worlds, broken_at=None, full=False):
        self.single = PointEnv("point", 1)
        self.info, self.num_worlds, self.broken_at, self.full = self.single.info, num_worlds, broken_at, full
        self.position, self.goal = torch.zeros(num_worlds, 2), torch.zeros(num_worlds, 2)
        self.time, self.seed = torch.zeros(num_worlds), torch.zeros(num_worlds)
        self.begun, self.moved, self.closed, self.prepared = [], 0, False, 0

    def prepare(self, seeds):
        self.prepared += 1
        goals = np.concatenate([self.single.reset([seed])[:, 2:] for seed in seeds])
        return torch.tensor(seeds), torch.as_tensor(goals, dtype=torch.float32)

    def begin(self, rows, starts, which):
        self.begun.append((self.moved, which.tolist()))
        self.position[rows], self.time[rows] = 0.0, 0.0
        self.seed[rows], self.goal[rows] = starts[0][which].float(), starts[1][which]
        return self._observation()[rows]

    def _observation(self):
        return torch.cat([self.position, self.goal], 1)

    def advance(self, actions):
        self.moved += 1
        self.position = self.position + 0.1 * actions
        self.time += 1
        near = (self.position - self.goal).norm(dim=1) < 0.15
        failed = (self.time == self.broken_at) & (self.seed % 2 == 0) if self.broken_at else torch.zeros_like(near)
        return SimpleNamespace(observation=self._observation(), reward=-near.float(), success=near, failed=failed)

    def check(self):
        if self.full:
            raise SimulationError("no room")

    def close(self):
        self.closed = True


class Seeker:
    """Walks to the goal by steps that waver with the episode's noise."""

    def __init__(self, n_action_steps=4, noise=0.0):
        self.spec = SimpleNamespace(shape=SimpleNamespace(n_obs_steps=2))
        self.steps, self.noise, self.tasks, self.looks = n_action_steps, noise, [], []

    def reset(self, task=None, seeds=()):
        self.tasks.append(task)

    def noise_stream(self, seed):
        return torch.Generator().manual_seed(int(seed))

    def plan(self, history, rngs, block):
        assert block == len(history) == len(rngs)
        self.looks.append(history.clone())
        waver = torch.stack([torch.randn(self.steps, 2, generator=rng) for rng in rngs])
        ahead = torch.clip(20 * (history[:, -1, 2:] - history[:, -1, :2]), -1, 1)
        return (ahead[:, None] + self.noise * waver).clip(-1, 1)

    def select_action(self, observation):
        return np.clip(20 * (observation[:, 2:] - observation[:, :2]), -1, 1)


def test_with_one_action_a_look_episodes_are_those_of_the_plain_loop():
    seeds = range(1, 12)
    expected = evaluate(Seeker(), PointEnv("point", 11), seeds)
    found = roll_out(Seeker(1), PointWorlds(3), seeds)
    assert [episode.success for episode in found] == [seed % 3 != 0 for seed in seeds]
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.seed, ours.success, ours.length, ours.return_) == (
            theirs.seed,
            theirs.success,
            theirs.length,
            theirs.return_,
        )


@pytest.mark.parametrize("num_worlds", [1, 4, 11, 30])
def test_number_of_worlds_changes_no_episode(num_worlds):
    seeds = list(range(1, 12))
    expected = roll_out(Seeker(noise=0.7), PointWorlds(5), seeds)
    assert len({episode.length for episode in expected}) > 3
    assert roll_out(Seeker(noise=0.7), PointWorlds(num_worlds), seeds) == expected
    assert roll_out(Seeker(noise=0.7), PointWorlds(num_worlds), seeds[::-1]) == expected[::-1]


def test_finished_worlds_take_the_next_of_the_queue_at_once():
    env, finished = PointWorlds(3), []
    episodes = roll_out(Seeker(), env, range(1, 12), progress=finished.append)
    assert [number for _, numbers in env.begun for number in numbers] == list(range(11))
    assert sum(finished) == 11
    looks = sum(-(-episode.length // 4) for episode in episodes)  # an episode holds its world until the next look
    assert env.moved <= 4 * (looks // 3 + HORIZON // 4 + 1)
    assert env.moved < sum(episode.length for episode in episodes)


def test_history_begins_anew_with_every_episode():
    policy, env = Seeker(), PointWorlds(1)
    roll_out(policy, env, [1, 2])
    begun = [moved // 4 for moved, _ in env.begun]
    assert len(begun) == 2
    for look in begun:
        np.testing.assert_array_equal(policy.looks[look][0, 0], policy.looks[look][0, 1])
        assert not policy.looks[look][0, 1, :2].any()
    assert (policy.looks[1][0, 0] != policy.looks[1][0, 1]).any()


def test_worlds_that_break_are_failures_and_make_room():
    episodes = roll_out(Seeker(), PointWorlds(2, broken_at=2), [1, 2, 4, 5])
    assert [(e.failed, e.success, e.length) for e in episodes[1:3]] == [(True, False, 2)] * 2
    assert episodes[0].success
    assert episodes[3].success


def test_success_in_the_moment_of_breaking_does_not_count():
    length = roll_out(Seeker(), PointWorlds(1), [2])[0].length
    broken = roll_out(Seeker(), PointWorlds(1, broken_at=length), [2])[0]
    assert (broken.success, broken.failed, broken.length) == (False, True, length)


def test_prepared_starts_serve_several_policies():
    env, seeds = PointWorlds(2), [4, 5, 7]
    starts = env.prepare(seeds)
    env.prepare = None
    assert roll_out(Seeker(), env, seeds, starts) == roll_out(Seeker(), PointWorlds(3), seeds)


def test_results_that_cannot_be_trusted_raise():
    with pytest.raises(SimulationError, match="no room"):
        roll_out(Seeker(), PointWorlds(2, full=True), [1, 2])


def test_jobs_of_a_task_share_its_worlds_and_start_states(monkeypatch):
    made, policy, loaded = [], Seeker(), []
    monkeypatch.setattr("trcl_policy.rollout.device.load_policy", lambda *given: loaded.append(given) or policy)

    def make_env(task, num_worlds):
        made.append(PointWorlds(num_worlds))
        made[-1].info = PointEnv(task).info
        return made[-1]

    jobs = [Job("00", "a", (1, 2)), Job("01", "a", (1, 2, 4)), Job("01", "b", (4,)), Job("00", "a", (4,))]
    results = dict(roll_out_jobs(jobs, make_env, acting=Acting(2)))
    assert {given[2] for given in loaded} == {Acting(2)}
    for place, job in enumerate(jobs):
        assert [(episode.task, episode.seed) for episode in results[place]] == [(job.task, seed) for seed in job.seeds]
    assert [(env.num_worlds, env.prepared) for env in made] == [(3, 1), (1, 1)]
    assert all(env.closed for env in made)
    assert ([given[0] for given in loaded], policy.tasks) == (["00", "01", "01"], ["a", "a", "b"])
