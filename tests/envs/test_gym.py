import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import trcl_envs

pytestmark = [pytest.mark.sim, pytest.mark.filterwarnings("ignore:.*Box observation space")]


def test_single_environment_passes_gymnasiums_checker():
    env = gymnasium.make("trcl/hammer-v3")
    check_env(env.unwrapped, skip_render_check=True)
    env.close()


def test_every_task_is_registered_with_its_horizon():
    for name in trcl_envs.task_names():
        spec = gymnasium.spec(f"trcl/{name}")
        assert (spec.max_episode_steps, spec.kwargs) == (trcl_envs.task_info(name).horizon, {"task": name})


def test_registering_again_changes_nothing():
    before = dict(gymnasium.registry)
    trcl_envs.register_envs()
    assert gymnasium.registry == before


def test_episode_is_truncated_at_the_horizon():
    env = gymnasium.make("trcl/push-v3")
    env.reset(seed=0)
    for steps in range(1, 201):
        _, _, terminated, truncated, info = env.step(np.zeros(4, dtype=np.float32))
        assert not terminated
        assert not info["success"]
        assert truncated == (steps == 200)
    env.close()


def test_worlds_of_a_vector_start_like_single_environments_with_seed_plus_row():
    single, vector = gymnasium.make("trcl/push-v3"), gymnasium.make_vec("trcl/push-v3", num_envs=3)
    observations, _ = vector.reset(seed=5)
    assert observations in vector.observation_space
    for row in range(3):
        np.testing.assert_array_equal(observations[row], single.reset(seed=5 + row)[0])
    listed, _ = vector.reset(seed=[7, 6, 5])
    np.testing.assert_array_equal(listed[2], observations[0])
    single.close()
    vector.close()


def test_vector_equals_gymnasiums_own_vector_through_a_restart():
    ours = gymnasium.make_vec("trcl/push-v3", num_envs=2, max_episode_steps=3)
    theirs = gymnasium.make_vec("trcl/push-v3", num_envs=2, vectorization_mode="sync", max_episode_steps=3)
    for env in (ours, theirs):
        env.reset(seed=0)
        env.action_space.seed(1)
    for steps in range(1, 7):
        mine, other = (env.step(env.action_space.sample()) for env in (ours, theirs))
        for got, expected in zip(mine[1:4], other[1:4], strict=True):
            np.testing.assert_array_equal(got, expected)
        if steps <= 3:  # the next episode's start is drawn by each in its own way
            np.testing.assert_array_equal(mine[0], other[0])
        np.testing.assert_array_equal(mine[4]["success"], other[4].get("success", np.zeros(2, dtype=bool)))
        assert (mine[0][:, :18] == mine[0][:, 18:36]).all() == (steps == 4)
    ours.close()
    theirs.close()


def test_wrong_number_of_seeds_and_render_mode_are_named():
    vector = gymnasium.make_vec("trcl/push-v3", num_envs=2)
    with pytest.raises(ValueError, match="seed must hold 2 numbers"):
        vector.reset(seed=[1, 2, 3])
    vector.close()
    with pytest.raises(ValueError, match="render_mode must be None or 'rgb_array', got 'human'"):
        trcl_envs.gym.TaskEnv("push", render_mode="human")
