"""What is saved of an episode that broke, and that replaying it breaks it again in the same place."""

import functools
import io

import numpy as np
import pytest

from tests.rollout.fake_sim import PointEnv
from tests.rollout.faulty import BlastingEnv, Seeker
from trcl_envs.interface import Scene
from trcl_policy.rollout.dumps import Dump, parts, read_dump, replay, trace, write_dumps
from trcl_policy.rollout.evaluate import evaluate


@pytest.fixture
def dump():
    env = BlastingEnv("point", 4)
    broken = evaluate(Seeker(), env, [1, 2, 3, 4])[3]
    assert broken.failed
    return trace(Seeker(), env, "runs/x/checkpoints/03", broken, "fake 1.0")


def test_dump_holds_the_last_finite_state_and_all_actions(dump):
    assert (dump.task, dump.seed, dump.step, dump.reproduced, dump.physics) == ("point", 4, 2, True, "fake 1.0")
    assert dump.actions.shape == (3, 2)
    assert dump.state.keys() == {"state"}
    moved = np.append(0.1 * dump.actions[:2].sum(axis=0), 2)  # before the third action, which broke it
    np.testing.assert_allclose(dump.state["state"], moved, atol=1e-12)


def test_file_gives_back_every_bit(dump, tmp_path):
    (path,) = write_dumps(tmp_path / "dumps", [dump])
    assert path.name == "03-point-4.npz"
    again = read_dump(path)
    for name in ("task", "seed", "checkpoint", "step", "reproduced", "physics"):
        assert getattr(again, name) == getattr(dump, name)
    assert again.actions.dtype == dump.actions.dtype
    np.testing.assert_array_equal(again.actions, dump.actions)
    np.testing.assert_array_equal(again.state["state"], dump.state["state"])


def test_replay_breaks_in_the_same_step(dump):
    shown = replay(dump, BlastingEnv)
    assert (shown.step, shown.difference) == (2, 0.0)


def test_replay_on_sound_physics_says_so(dump):
    shown = replay(dump, PointEnv)
    assert (shown.step, shown.difference) == (None, 0.0)
    early = replay(dump, functools.partial(PointEnv, broken_at=1))
    assert (early.step, early.difference) == (0, None)


def test_states_are_named_where_the_simulator_names_them():
    scene = Scene("t", np.arange(6.0), layout={"qpos": 3, "qvel": 2, "mocap_pos": 1})
    named = {name: values.tolist() for name, values in parts(scene).items()}
    assert named == {"qpos": [0, 1, 2], "qvel": [3, 4], "mocap_pos": [5]}


@pytest.mark.parametrize("damage", ["cut", "text", "another npz", "pickle", "another format"])
def test_damaged_files_are_named(dump, tmp_path, damage):
    path, stream = tmp_path / "x.npz", io.BytesIO()
    whole = dump.to_bytes()
    if damage == "another npz":
        np.savez(stream, a=1)
    if damage == "pickle":
        np.savez(stream, format=np.array([object()], dtype=object))
    if damage == "another format":
        np.savez(stream, format=99)
    path.write_bytes({"cut": whole[:-50], "text": b"hello"}.get(damage, stream.getvalue()))
    with pytest.raises(ValueError, match=r"x\.npz must be a dump of 'trcl evaluate', got"):
        read_dump(path)
    with pytest.raises(OSError, match="no such file"):
        read_dump(tmp_path / "y.npz")


@pytest.mark.sim
def test_a_real_episode_that_breaks_is_saved_and_replayed(tmp_path):
    from trcl_envs.catalog import make_env
    from trcl_policy import replay_dump

    class Broken:
        """Its third action is no number, as with broken weights."""

        def reset(self, task=None, seeds=()):
            self.time = 0

        def select_action(self, observation):
            self.time += 1
            return np.full((len(observation), 4), np.nan if self.time == 3 else 0.1, np.float32)

    env = make_env("window-close", 2)
    broken = evaluate(Broken(), env, [5, 6])
    assert [(episode.failed, episode.length) for episode in broken] == [(True, 3)] * 2
    dump = trace(Broken(), env, "00", broken[1], "mujoco")
    assert dump.reproduced
    assert dump.state.keys() == {"qpos", "qvel", "mocap_pos"}
    assert all(np.isfinite(values).all() for values in dump.state.values())
    env.reset([6])
    for action in dump.actions[:2]:
        env.step(action[None])
    np.testing.assert_array_equal(env.physics.qpos[0], dump.state["qpos"])
    np.testing.assert_array_equal(env.physics.qvel[0], dump.state["qvel"])
    env.close()
    shown = replay_dump(write_dumps(tmp_path, [dump])[0])
    assert (shown.step, shown.difference) == (2, 0.0)
    assert Dump.from_bytes(dump.to_bytes()).state.keys() == dump.state.keys()
