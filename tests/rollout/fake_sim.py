"""A point that an expert steers to its goal: the smallest thing that fits trcl_envs.interface."""

import zlib

import numpy as np

from trcl_envs.interface import Scene, Step, TaskInfo

HORIZON = 30


class PointEnv:
    """The point starts at 0; observation = (position, goal). Goals of every third seed lie out of reach."""

    def __init__(self, task: str = "point", num_worlds: int = 4, broken_at: int | None = None) -> None:
        self.info = TaskInfo(task, "Go there.", 4, 2, HORIZON, 25.0)
        self.num_worlds, self.broken_at, self.closed, self.moved = num_worlds, broken_at, False, []
        self.started = []

    def reset(self, seeds):
        assert 1 <= len(seeds) <= self.num_worlds
        self.seeds = list(seeds)
        self.started.append(len(self.moved))
        self.goal = np.stack([np.random.default_rng(seed).uniform(0.5, 1.5, 2) for seed in seeds])
        self.goal[[seed % 3 == 0 for seed in seeds]] += 9
        self.position, self.time = np.zeros((len(seeds), 2)), 0
        return self._observation()

    def _observation(self):
        return np.concatenate([self.position, self.goal], axis=1)

    def step(self, actions, active=None):
        assert np.abs(actions).max() <= 1
        active = np.ones(len(self.seeds), bool) if active is None else active
        self.moved.append(active.copy())
        self.position = np.where(active[:, None], self.position + 0.1 * actions, self.position)
        self.time += 1
        near = np.linalg.norm(self.position - self.goal, axis=1) < 0.15
        failed = np.array([self.time == self.broken_at and seed % 2 == 0 for seed in self.seeds])
        return Step(self._observation(), -near.astype(float), near, failed)

    def scene(self, row):
        return Scene(self.info.name, np.append(self.position[row], self.time))

    def close(self):
        self.closed = True


class PointExpert:
    def reset(self, num_worlds):
        self.num_worlds = num_worlds

    def actions(self, observations):
        assert len(observations) == self.num_worlds
        return 20 * (observations[:, 2:] - observations[:, :2])  # unclipped, like Meta-World's


class PointRenderer:
    """Colours by the scene, so that frames can be told apart."""

    def __init__(self, size: int = 64) -> None:
        self.size, self.closed = size, False

    def frame(self, scene):
        shade = int(min(255, 40 + 5 * scene.state[-1]))
        return np.full((self.size, self.size, 3), (shade, 90, zlib.crc32(scene.task.encode()) % 200), np.uint8)

    def close(self):
        self.closed = True
