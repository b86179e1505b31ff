"""Speed, memory and expert success of the batched tasks: ``python tests/envs/measure.py [TASK ...]``."""

import resource
import sys
import time

import numpy as np

import trcl_envs


def memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def speed(task, threads, num_worlds=64, steps=60):
    """Milliseconds per reset, control steps per second without an expert, MiB per world after use."""
    before = memory()
    env = trcl_envs.make_env(task, num_worlds, threads)
    start = time.perf_counter()
    env.reset(range(num_worlds))
    reset = (time.perf_counter() - start) / num_worlds
    actions = np.random.default_rng(0).uniform(-1, 1, size=(steps, num_worlds, 4))
    start = time.perf_counter()
    for action in actions:
        env.step(action)
    rate = num_worlds * steps / (time.perf_counter() - start)
    env.close()
    return 1e3 * reset, rate, (memory() - before) / num_worlds


def expert(task, episodes=20):
    env, scripted = trcl_envs.make_env(task, episodes), trcl_envs.make_expert(task)
    observation, lengths = env.reset(range(episodes)), np.zeros(episodes, dtype=int)
    for steps in range(1, env.info.horizon + 1):
        step = env.step(scripted.actions(observation), active=lengths == 0)
        observation = step.observation
        lengths[(lengths == 0) & step.success] = steps
    env.close()
    return np.mean(lengths > 0), lengths[lengths > 0].mean(), env.info.horizon


def frames(task, size, count=60):
    env = trcl_envs.make_env(task, 1)
    env.reset([0])
    renderer = trcl_envs.make_renderer(task, size, size)
    renderer.frame(env.scene(0))
    start = time.perf_counter()
    for _ in range(count):
        renderer.frame(env.scene(0))
    rate = count / (time.perf_counter() - start)
    renderer.close()
    return rate


if __name__ == "__main__":
    for threads in (1, 2):
        reset, rate, size = speed("hammer-v3", threads)
        print(f"hammer-v3, {threads} threads: reset {reset:.1f} ms, {rate:.0f} control steps/s, {size:.2f} MiB a world")
    for size in (256, 480):
        print(f"hammer-v3: {frames('hammer-v3', size):.0f} frames/s at {size} x {size} px")
    for task in sys.argv[1:] or trcl_envs.task_names():
        success, length, horizon = expert(task)
        print(f"{task}: expert {success:.2f} of 20 episodes, {length:.0f} steps on average, horizon {horizon}")
