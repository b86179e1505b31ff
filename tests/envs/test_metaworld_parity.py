import numpy as np
import pytest

import trcl_envs

pytestmark = pytest.mark.sim
TASKS = trcl_envs.task_names()


@pytest.fixture(scope="module", params=TASKS)
def pair(request):
    from tests.envs.public_metaworld import PublicEnv

    env = trcl_envs.make_env(request.param, num_worlds=20)
    yield PublicEnv(request.param), env, trcl_envs.make_expert(request.param)
    env.close()


def public_length(public, expert, start, seed, horizon):
    public.reset(seed)
    observation = public.begin(*start)
    for steps in range(1, horizon + 1):
        observation, success = public.step(np.clip(expert.actions(observation[None])[0], -1, 1))
        if success:
            return steps
    return 0


def same_lengths(pair, seeds):
    """Episode lengths of the same expert from the same starts, in Meta-World's environment and in ours."""
    from tests.envs.public_metaworld import solve

    public, env, expert = pair
    env.reset(seeds)
    starts = [(env.scene(row).state, env.physics.data[row].qacc_warmstart.copy()) for row in range(len(seeds))]
    theirs = [public_length(public, expert, starts[row], seed, env.info.horizon) for row, seed in enumerate(seeds)]
    return np.array(theirs), solve(env, expert, seeds)


def test_start_state_is_the_one_meta_world_resets_to(pair):
    public, env, _ = pair
    for seed in range(3):
        env.reset([seed])
        public.reset(seed)
        data = public.env.data
        state = np.concatenate([data.qpos, data.qvel, data.mocap_pos[0]])
        np.testing.assert_allclose(env.scene(0).state, state, atol=1e-12)
        np.testing.assert_allclose(env.scene(0).overrides["goal"], public.env._target_pos, atol=1e-12)


def test_observed_goal_has_the_same_bounds(pair):
    public, env, _ = pair
    space, frame = public.env.sawyer_observation_space, np.zeros((2, 18))
    goals = env.spec.observe(frame, frame, np.array([[-np.inf] * 3, [np.inf] * 3]))[:, 36:]
    np.testing.assert_allclose(goals, [space.low[36:], space.high[36:]], atol=1e-12)


def test_same_state_gives_same_observation_and_success(pair):
    public, env, expert = pair
    observation, solved = env.reset([5]), 0
    public.reset(5)
    np.testing.assert_allclose(observation[0], public.begin(env.scene(0).state), atol=1e-6)
    for _ in range(min(env.info.horizon, 200)):
        action = np.clip(expert.actions(observation), -1, 1)
        step = env.step(action)
        observation = step.observation
        public.inject(env.scene(0).state)
        expected = public.observation()
        np.testing.assert_allclose(observation[0], expected, atol=1e-6)
        assert step.success[0] == public.success(expected, action[0])
        solved += step.success[0]
        if solved == 5:
            break
    assert solved


def test_expert_needs_as_many_steps_as_in_meta_world(pair):
    theirs, ours = same_lengths(pair, range(5))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_expert_needs_as_many_steps_in_twenty_episodes(pair):
    theirs, ours = same_lengths(pair, range(20))
    assert np.mean(ours == theirs) >= 0.95
