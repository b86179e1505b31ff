"""Every task against Meta-World's own environment, from the same start, under the same actions."""

import numpy as np
import pytest

import trcl_envs
from trcl_envs.metaworld_tasks import TASKS

pytestmark = [pytest.mark.sim, pytest.mark.filterwarnings("ignore:Constant.s. may be too high")]
RANDOM_STEPS = 25
STEPS_AFTER_SUCCESS = 3
LET_GO, PUT_DOWN = np.array([0.0, 0.0, 0.0, -1.0]), np.array([0.0, 0.0, -1.0, 1.0])


@pytest.fixture(scope="module", params=trcl_envs.SEQUENCES["mt50"])
def pair(request):
    from tests.envs.public_metaworld import PublicEnv

    public, env = PublicEnv(request.param), trcl_envs.make_env(request.param, num_worlds=10)
    yield public, env, trcl_envs.make_expert(request.param)
    env.close()
    public.env.close()


def begin_both(public, env, seed):
    """First observations of Meta-World (39,) and ours (1, 39), once both agree on the state, in which nothing differs.

    Not even the solver's warm start: contacts blow up its last bits until episodes differ by a step.
    """
    ours = env.reset([seed])
    public.reset(seed)
    np.testing.assert_allclose(env.scene(0).state, public.state(), atol=1e-12)
    np.testing.assert_allclose(env.scene(0).overrides["goal"], public.env._target_pos, atol=1e-12)
    theirs = public.begin(env.scene(0).state, env.physics.data[0].qacc_warmstart.copy())
    np.testing.assert_allclose(env.physics.data[0].xpos, public.env.data.xpos, atol=1e-12)
    return theirs, ours


def compare_steps(public, env, choose, seed, num_steps):
    """Hold every step to Meta-World's until a while after success; returns the steps to success (0 = not solved)."""
    theirs, ours = begin_both(public, env, seed)
    np.testing.assert_allclose(ours[0], theirs, atol=1e-6)
    solved_after = 0
    for steps in range(1, num_steps + 1):
        action = np.clip(choose(ours), -1, 1)
        step = env.step(action)
        theirs, success = public.step(action[0])
        ours = step.observation
        np.testing.assert_allclose(ours[0], theirs, atol=1e-6)
        assert step.success[0] == success, steps
        if success and not solved_after:
            solved_after = steps
        if solved_after and steps >= solved_after + STEPS_AFTER_SUCCESS:
            break
    return solved_after


def test_starts_are_drawn_from_meta_worlds_bounds(pair):
    public, env, _ = pair
    task, space = TASKS[public.name], public.env._random_reset_space
    used = slice(3 if public.name == "sweep-into-v3" else None)  # the rest of its vector, drawn by .001 m, goes unused
    np.testing.assert_allclose(np.array([task.low, task.high])[:, used], [space.low[used], space.high[used]], atol=1e-9)
    draws = np.stack([env.spec.sample(np.random.default_rng(seed)) for seed in range(50)])
    assert (np.abs(draws - (np.array(task.low) + task.high) / 2) <= (np.array(task.high) - task.low) / 2 + 1e-12).all()


def test_starts_that_are_too_close_to_the_goal_are_those_meta_world_refuses(pair):
    public, _, _ = pair
    task = TASKS[public.name]
    draws = np.random.default_rng(0).uniform(task.low, task.high, size=(20000, len(task.low)))
    distance = np.linalg.norm(draws[:, :2] - draws[:, 3:5], axis=1) if len(task.low) == 6 else np.ones(len(draws))
    for close in (True, False):
        candidates = np.flatnonzero((distance < task.apart) == close)
        if len(candidates):
            hardest = candidates[np.argmin(np.abs(distance[candidates] - task.apart))]
            assert public.start(draws[hardest]) != close


def test_observed_goal_has_the_same_bounds(pair):
    public, env, _ = pair
    space, frame = public.env.sawyer_observation_space, np.zeros((2, 18))
    goals = env.spec.observe(frame, frame, np.array([[-np.inf] * 3, [np.inf] * 3]))[:, 36:]
    np.testing.assert_allclose(goals, [space.low[36:], space.high[36:]], atol=1e-12)


def test_random_actions_from_the_same_start_give_the_same_observations_and_successes(pair):
    public, env, _ = pair
    rng = np.random.default_rng(0)
    compare_steps(public, env, lambda observation: rng.uniform(-1, 1, size=(1, 4)), 1, RANDOM_STEPS)


def test_expert_solves_the_task_in_the_same_steps_with_the_same_observations(pair):
    public, env, expert = pair
    assert compare_steps(public, env, expert.actions, 5, env.info.horizon)


@pytest.mark.parametrize("action", [LET_GO, PUT_DOWN])
def test_pushed_thermos_counts_only_while_the_fingers_press_on_the_lifted_stick(action):
    from tests.envs.public_metaworld import PublicEnv

    public, env, expert = (
        PublicEnv("stick-push-v3"),
        trcl_envs.make_env("stick-push-v3", 1),
        trcl_envs.make_expert("stick-push-v3"),
    )
    assert compare_steps(public, env, expert.actions, 5, env.info.horizon)
    flags = []
    for _ in range(40):
        step, (_, theirs) = env.step(action[None]), public.step(action)
        assert step.success[0] == theirs
        flags.append(theirs)
    assert flags[0]
    assert not flags[-1]
    assert np.linalg.norm(step.observation[0, 11:14] - env.scene(0).overrides["goal"]) < 0.12
    env.close()


@pytest.mark.slow
def test_expert_needs_as_many_steps_in_ten_episodes(pair):
    from tests.envs.public_metaworld import solve

    public, env, expert = pair
    env.reset(range(10))
    starts = [(env.scene(row).state, env.physics.data[row].qacc_warmstart.copy()) for row in range(10)]
    theirs = [length_in_public(public, expert, start, seed, env.info.horizon) for seed, start in enumerate(starts)]
    np.testing.assert_array_equal(solve(env, expert, range(10)), theirs)


def length_in_public(public, expert, start, seed, horizon):
    public.reset(seed)
    observation = public.begin(*start)
    for steps in range(1, horizon + 1):
        observation, success = public.step(np.clip(expert.actions(observation[None])[0], -1, 1))
        if success:
            return steps
    return 0
