"""Meta-World's own environments, tamed: a start chosen by its random vector, the goal visible, states injected."""

import mujoco
import numpy as np
from metaworld.env_dict import ENV_CLS_MAP

from trcl_envs.catalog import task_spec
from trcl_envs.worlds import start_generator


class PublicEnv:
    def __init__(self, name):
        self.name = name
        self.env = ENV_CLS_MAP[name]()
        self.env._partially_observable = False
        # The space is cached with goal bounds of zero, and steps clip the goal to it.
        self.env.__dict__.pop("sawyer_observation_space", None)
        self.env._set_task_called = True

    def reset(self, seed):
        assert self.start(task_spec(self.name).sample(start_generator(self.name, seed)))

    def start(self, draw):
        """Reset to a random vector; whether Meta-World accepted it.

        It resets twice and asks for the vector once each time, but again and again while object and goal are too close.
        """
        self.env._get_state_rand_vec = iter([draw, draw]).__next__
        try:
            self.env.reset()
        except StopIteration:
            return False
        return True

    def state(self):
        data = self.env.data
        return np.concatenate([data.qpos, data.qvel, data.mocap_pos[0]])

    def begin(self, state, warmstart):
        """Take over a start state, with the solver's warm start, and return its first observation (39,)."""
        model, data = self.env.model, self.env.data
        data.qpos[:], data.qvel[:], data.mocap_pos[0] = np.split(state, [model.nq, model.nq + model.nv])
        mujoco.mj_forward(model, data)
        data.qacc_warmstart[:] = warmstart
        self.env._prev_obs = self.env._get_curr_obs_combined_no_goal()
        space = self.env.sawyer_observation_space
        return np.clip(self.env._get_obs(), space.low, space.high)

    def step(self, action):
        observation, _, _, _, info = self.env.step(action)
        return observation, bool(info["success"])


def solve(env, expert, seeds):
    """Let the expert act on our worlds; returns the control steps to success (0 = not within the horizon)."""
    observation = env.reset(seeds)
    expert.reset(len(seeds))
    lengths = np.zeros(len(seeds), dtype=int)
    for steps in range(1, env.info.horizon + 1):
        step = env.step(expert.actions(observation), active=lengths == 0)
        observation = step.observation
        lengths[(lengths == 0) & step.success] = steps
        if lengths.all():
            break
    return lengths
