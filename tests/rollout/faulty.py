"""Environments and policies that do harm in the process they run in; light to import, because workers are spawned.

Each kind of harm happens once a marker folder: whoever makes the marker first does it, so exactly one worker is hit.
"""

import os
import signal
import time
from functools import partial

import numpy as np

from tests.rollout.fake_sim import PointEnv
from trcl_envs.interface import Scene
from trcl_policy.rollout.jobs import Setup

WORLDS = 4
WORKER_SEED = 6
"""The episode in whose block the harm is done."""


class Seeker:
    """Walks to the goal with noise of its own stream, one an episode."""

    def reset(self, task=None, seeds=()):
        self.noise = [np.random.default_rng([seed, 7]) for seed in seeds]

    def select_action(self, observation):
        noise = np.stack([rng.normal(0, 0.2, 2) for rng in self.noise[: len(observation)]])
        return np.clip(5 * (observation[:, 2:] - observation[:, :2]) + noise, -1, 1)


def load(checkpoint):
    if "broken" in checkpoint:
        raise ValueError(f"{checkpoint} must be a policy, got a broken one")
    return Seeker()


class HarmfulEnv(PointEnv):
    """A point whose process comes to harm in the third step of the block with seed 6, ``times`` times."""

    def __init__(self, task, num_worlds, kind, markers, times):
        super().__init__(task, num_worlds)
        self.kind, self.markers, self.times = kind, markers, times

    def step(self, actions, active=None):
        step = super().step(actions, active)
        if self.time == 3 and WORKER_SEED in self.seeds and (self._is_sick() or self._is_first()):
            if self.kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.kind == "hang":
                time.sleep(600)
            if self.kind == "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            if self.kind in ("raise", "raise again"):
                raise RuntimeError("the simulator lost its way")
            if self.kind in ("nan", "nan again"):
                step.failed[self.seeds.index(WORKER_SEED)] = True
            if self.kind == "lie":
                step.reward[:] = np.nan
        return step

    def _is_sick(self):
        """Whether this process was hit before and goes on like that."""
        return "again" in self.kind and any(name.startswith(f"{os.getpid()}-") for name in os.listdir(self.markers))

    def _is_first(self):
        if len(os.listdir(self.markers)) >= self.times:
            return False
        with open(os.path.join(self.markers, f"{os.getpid()}-{time.monotonic_ns()}"), "x"):
            return True

    def scene(self, row):
        return Scene(self.info.name, np.append(self.position[row], self.time), layout={"qpos": 2, "time": 1})


class BlastingEnv(PointEnv):
    """A point whose physics really becomes non-finite: that of even seeds, always in step 3."""

    def __init__(self, task, num_worlds):
        super().__init__(task, num_worlds, broken_at=3)


def make_harmful(kind, markers, times, task, num_worlds):
    return HarmfulEnv(task, num_worlds, kind, markers, times)


def harmful(kind, markers, times=1):
    return Setup(partial(make_harmful, kind, str(markers), times), load)


def healthy():
    return Setup(PointEnv, load)


def blasting():
    return Setup(BlastingEnv, load)
