"""What the batched rollouts are measured against: Meta-World's own environments, and MuJoCo's own batched rollouts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium
import mujoco
import numpy as np
from metaworld.env_dict import ENV_CLS_MAP
from mujoco.rollout import Rollout
from numpy.typing import NDArray

from trcl_envs.interface import Expert, FloatArray
from trcl_envs.metaworld import HAND_QUAT
from trcl_envs.worlds import Worlds

LONGEST = 480
"""Control steps of an episode; Meta-World's environments raise after 500."""
REPEATS = 5
"""Times that the few environments of a peer start anew and go on, so that its turns last as long as one of ours:
on a busy machine short turns find quiet moments more easily."""


class Visible(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Meta-World's environment of a task with its goal visible, drawn anew in every episode.

    Args:
        task: its name.
        seed: of the goals.
    """

    def __init__(self, task: str, seed: int = 0) -> None:
        env = ENV_CLS_MAP[task]()
        env._set_task_called, env._freeze_rand_vec, env._partially_observable = True, False, False
        env.__dict__.pop("sawyer_observation_space", None)  # cached with goal bounds of zero
        env.seeded_rand_vec = True
        env.seed(seed)
        super().__init__(env)
        self.observation_space, self.action_space = env.observation_space, env.action_space

    def reset(self, **options: Any) -> tuple[FloatArray, dict[str, Any]]:
        """Start an episode; the seed was given once."""
        return self.env.reset()


class PublicLoop:
    """Meta-World's environment in a Python loop."""

    def __init__(self, task: str) -> None:
        self.env = Visible(task)

    def steps(self, expert: Expert, count: int) -> float:
        """Seconds of ``REPEATS`` times ``count`` control steps in closed loop with an expert, resets left out."""
        spent = 0.0
        for _ in range(REPEATS):
            observation, _ = self.env.reset()
            started = time.perf_counter()
            for _ in range(count):
                observation, *_ = self.env.step(np.clip(expert.actions(observation[None])[0], -1, 1))
            spent += time.perf_counter() - started
        return spent

    def episodes(self, expert: Expert, count: int) -> float:
        """Seconds of ``count`` episodes, resets included, each to its first success."""
        started = time.perf_counter()
        for _ in range(count):
            observation, _ = self.env.reset()
            for _ in range(LONGEST):
                observation, _, _, _, info = self.env.step(np.clip(expert.actions(observation[None])[0], -1, 1))
                if info["success"]:
                    break
        return time.perf_counter() - started

    def reset(self) -> float:
        """Seconds of one reset."""
        started = time.perf_counter()
        self.env.reset()
        return time.perf_counter() - started


class PublicVector:
    """Gymnasium's AsyncVectorEnv over Meta-World's environments, one process each."""

    def __init__(self, task: str, num_envs: int) -> None:
        makers: list[Callable[[], Any]] = [partial(Visible, task, seed) for seed in range(num_envs)]
        self.env = gymnasium.vector.AsyncVectorEnv(makers, context="spawn")

    def steps(self, expert: Expert, count: int) -> float:
        """Seconds of ``REPEATS`` times ``count`` control steps of all environments with an expert, resets left out."""
        spent = 0.0
        for _ in range(REPEATS):
            observation, _ = self.env.reset()
            started = time.perf_counter()
            for _ in range(count):
                observation, *_ = self.env.step(clipped(expert, observation))
            spent += time.perf_counter() - started
        return spent

    def episodes(self, expert: Expert, rounds: int) -> float:
        """Seconds of ``rounds`` episodes of every environment, resets included, all to their first success."""
        started = time.perf_counter()
        for _ in range(rounds):
            observation, _ = self.env.reset()
            solved = np.zeros(self.env.num_envs, dtype=bool)
            for _ in range(LONGEST):
                observation, _, _, _, info = self.env.step(clipped(expert, observation))
                solved |= np.asarray(info["success"], dtype=bool)
                if solved.all():
                    break
        return time.perf_counter() - started

    def close(self) -> None:
        """End the processes."""
        self.env.close()


def clipped(expert: Expert, observation: FloatArray) -> NDArray[np.float32]:
    """Actions as these environments take them."""
    return np.clip(expert.actions(observation), -1, 1).astype(np.float32)


class OpenLoop:
    """``mujoco.rollout`` on the physics steps of an episode: same model, same starts, same commands.

    Args:
        env: reset worlds whose physics is copied.
        actions: (T, N, 4) in [-1, 1].
        threads: threads of the rollout.
    """

    def __init__(self, env: Worlds, actions: Sequence[FloatArray], threads: int) -> None:
        physics, spec = env.physics, env.spec
        self.model = physics._models[0]
        self.datas = [mujoco.MjData(self.model) for _ in range(threads)]
        self.num_steps = len(actions) * spec.substeps
        self.starts = np.stack([self._start(data) for data in physics.data])
        self.what = int(mujoco.mjtState.mjSTATE_CTRL | mujoco.mjtState.mjSTATE_MOCAP_POS)
        self.what |= int(mujoco.mjtState.mjSTATE_MOCAP_QUAT)
        mocap_pos, rows = physics.mocap_pos.copy(), []
        for action in actions:
            ctrl, mocap_pos = spec.command(action, mocap_pos)
            quat = np.tile(HAND_QUAT, (len(ctrl), 1))
            rows += [np.concatenate([ctrl, mocap_pos, quat], axis=1)] * spec.substeps
        self.control = np.stack(rows, axis=1)
        self.rollout = Rollout(nthread=threads if threads > 1 else 0)

    def _start(self, data: Any) -> FloatArray:
        what = int(mujoco.mjtState.mjSTATE_FULLPHYSICS)
        state = np.empty(mujoco.mj_stateSize(self.model, what))
        mujoco.mj_getState(self.model, data, state, what)
        return state

    def steps(self) -> float:
        """Seconds of all physics steps of all worlds."""
        started = time.perf_counter()
        models = [self.model] * len(self.starts)
        self.rollout.rollout(models, self.datas, self.starts, self.control, control_spec=self.what)
        return time.perf_counter() - started

    def close(self) -> None:
        """End the threads."""
        self.rollout.close()
