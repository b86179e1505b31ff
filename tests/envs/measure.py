"""Speed, memory, start states and scripted experts of the batched tasks.

``python tests/envs/measure.py speed`` for one scene, ``python tests/envs/measure.py experts [TASK ...]`` for a table,
``python tests/envs/measure.py settling [TASK ...]`` for the tasks whose start state depends on no moved body.
"""

import itertools
import resource
import sys
import time

import mujoco
import numpy as np

import trcl_envs
from trcl_envs.catalog import task_spec
from trcl_envs.metaworld import HAND_QUAT
from trcl_envs.metaworld_tasks import TASKS
from trcl_envs.worlds import start_generator
from trcl_policy.continual.statistics import wilson_interval

EPISODES = 100  # seeds 0 to 99
PAPERS_HORIZON = 200
LONGEST = 500  # Meta-World's environments raise beyond


def draws_to_the_edge(name, count):
    """Start vectors of seeds 0 to ``count - 1``, and all corners of the box that they are drawn from."""
    task, spec = TASKS[name], task_spec(name)
    corners = itertools.product(*zip(task.low, task.high, strict=True))
    seeded = [spec.sample(start_generator(name, seed)) for seed in range(count)]
    return np.unique(np.array([*seeded, *corners]), axis=0)


def settled_states(name, draws):
    """Integration states (n, S) before the last physics step of settling, each settled anew with MuJoCo alone."""
    spec = task_spec(name)
    model, settling = spec.load_model(), spec.settling
    data, states = mujoco.MjData(model), []
    what = int(mujoco.mjtState.mjSTATE_INTEGRATION)
    for draw in draws:
        for key, place in spec.overrides(draw[None]).items():
            model.body(key.partition(":")[2]).pos[:] = place[0]
        mujoco.mj_resetData(model, data)
        data.ctrl[:], data.mocap_pos[0], data.mocap_quat[0] = settling.ctrl, settling.mocap_pos, HAND_QUAT
        mujoco.mj_step(model, data, settling.substeps - 1)
        states.append(np.empty(mujoco.mj_stateSize(model, what)))
        mujoco.mj_getState(model, data, states[-1], what)
    return np.stack(states)


def settles_alike(name, count=200):
    if not TASKS[name].moved:
        return True
    states = settled_states(name, draws_to_the_edge(name, count))
    return bool((states == states[0]).all())


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


def expert_lengths(task):
    """Control steps to success of each episode, 0 = none within ``LONGEST``."""
    env, scripted = trcl_envs.make_env(task, EPISODES), trcl_envs.make_expert(task)
    observation, lengths = env.reset(range(EPISODES)), np.zeros(EPISODES, dtype=int)
    for steps in range(1, LONGEST + 1):
        step = env.step(scripted.actions(observation), active=lengths == 0)
        observation = step.observation
        lengths[(lengths == 0) & step.success] = steps
        if lengths.all():
            break
    env.close()
    return lengths


def share(lengths, horizon):
    solved = int(((lengths > 0) & (lengths <= horizon)).sum())
    low, high = wilson_interval(solved, len(lengths))
    return f"{solved / len(lengths):.2f} [{low:.2f}, {high:.2f}]"


def expert_row(task):
    lengths, horizon = expert_lengths(task), trcl_envs.task_info(task).horizon
    solved = lengths[(lengths > 0) & (lengths <= horizon)]
    columns = [task, share(lengths, PAPERS_HORIZON), str(horizon), share(lengths, horizon)]
    return "| " + " | ".join([*columns, f"{solved.mean():.0f}", str(solved.max())]) + " |"


if __name__ == "__main__":
    what, *names = sys.argv[1:]
    if what == "speed":
        for threads in (1, 2):
            reset, rate, size = speed("hammer-v3", threads)
            print(f"hammer-v3, {threads} threads: reset {reset:.1f} ms, {rate:.0f} steps/s, {size:.2f} MiB a world")
        for size in (256, 480):
            print(f"hammer-v3: {frames('hammer-v3', size):.0f} frames/s at {size} x {size} px")
    elif what == "settling":
        for name in names or sorted(TASKS):
            print(f"{name} {settles_alike(trcl_envs.resolve_task(name))}", flush=True)
    else:
        print(f"| task | solved in {PAPERS_HORIZON} steps | horizon | solved in it | mean steps | longest |")
        print("|---|---|---|---|---|---|")
        for name in names or sorted(TASKS):
            print(expert_row(trcl_envs.resolve_task(name)), flush=True)
