"""The rollout benchmark compares like with like: same starts, same commands, same work counted."""

import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.sim, pytest.mark.filterwarnings("ignore::UserWarning")]
ROOT = Path(__file__).parent.parent


@pytest.fixture
def scripts(monkeypatch):
    pytest.importorskip("metaworld")
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import benchmark_rollouts
    import rollout_loops
    import rollout_peers

    yield benchmark_rollouts, rollout_loops, rollout_peers
    for name in ("benchmark_rollouts", "rollout_loops", "rollout_peers"):
        sys.modules.pop(name, None)


def test_open_loop_replays_the_closed_loop_from_its_starts(scripts):
    _, loops, peers = scripts
    loop = loops.Loop("push-v3", 3, 1, loops.EXPERT)
    actions = loop.expert_actions(12)
    ends = loop.env.physics.qpos.copy()
    loop.begin()
    opened = peers.OpenLoop(loop.env, actions, threads=2)
    assert (opened.num_steps, opened.control.shape[:2]) == (60, (3, 60))
    states, _ = opened.rollout.rollout(
        [opened.model] * 3, opened.datas, opened.starts, opened.control, control_spec=opened.what
    )
    nq = ends.shape[1]
    # Without the forward pass after each control step, the solver starts warm from elsewhere: last digits only.
    np.testing.assert_allclose(states[:, -1, 1 : 1 + nq], ends, atol=1e-4)
    assert np.abs(states[:, -1, 1 : 1 + nq] - states[:, 0, 1 : 1 + nq]).max() > 0.05
    opened.close()
    loop.close()


def test_shares_are_of_the_whole_and_halves_do_the_same_work(scripts):
    _, loops, _ = scripts
    loop, halves = loops.Loop("push-v3", 4, 2, "policy 1"), loops.Halves("push-v3", 4, "policy 1")
    shares = loop.shares(3)
    assert sum(shares.values()) == pytest.approx(1)
    assert min(shares.values()) > 0
    assert halves.seconds(3) > 0
    whole = [loop.env.scene(row).state for row in range(4)]
    parts = [part.env.scene(row).state for part in halves.loops for row in range(2)]
    np.testing.assert_array_equal(whole, parts)
    loop.close()
    halves.close()


def test_public_environment_shows_its_goal_and_draws_it_anew(scripts):
    _, _, peers = scripts
    env = peers.Visible("push-v3", seed=3)
    goals = np.stack([env.reset()[0][-3:] for _ in range(3)])
    assert (goals[0] != goals[1]).any()
    np.testing.assert_array_equal(env.step(np.zeros(4, np.float32))[0][-3:], goals[2])


def test_ratios_count_six_evaluations_and_take_the_better_way(scripts):
    bench, _, _ = scripts
    rates = {f"ours, {way}, {actor}": 100.0 for way in ("1 threads", "2 threads") for actor in ("nothing", "expert")}
    rates |= {"ours, 1 threads, public expert": 80.0, "ours, 2 threads, public expert": 90.0}
    rates |= {"ours, 2 processes, expert": 150.0, "ours, 2 processes, public expert": 120.0}
    rates |= {"AsyncVectorEnv, 2 processes, public expert": 20.0, "AsyncVectorEnv, 4 processes, public expert": 30.0}
    rates |= {"Meta-World in a loop, public expert": 40.0}
    rates |= {"mujoco.rollout, 1 threads, physics steps": 800.0, "mujoco.rollout, 2 threads, physics steps": 1200.0}
    found = bench.compare(rates, {"ours": 3.0, "AsyncVectorEnv, 2 processes": 2.0})
    assert (found["ratio_async"], found["ratio_async_threads"]) == (4.0, 3.0)
    assert (found["ratio_limit"], found["ratio_limit_threads"]) == (6 * 150 / 1200, 6 * 100 / 1200)
    assert (found["ratio_limit_one_thread"], found["ratio_limit_five_one_thread"]) == (0.75, 0.625)
    assert found["ratio_limit_five"] == pytest.approx(5 * 150 / 1200)
    assert (found["ratio_loop"], found["ratio_async_episodes"]) == (2.0, 1.5)
