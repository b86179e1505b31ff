"""robosuite's tasks, in the Python that TRCL_ROBOSUITE_PYTHON names or in this one; skipped where there is neither."""

import importlib.util
import json
import os
import sys

import numpy as np
import pytest

import trcl_envs
from trcl_envs.robosuite_experts import EXPERTS, axis_angle, square_turn
from trcl_envs.robosuite_tasks import OBSERVATION_DIM, OBSERVATION_KEYS, TASKS, task_from_env_args
from trcl_policy.cli import main

PYTHON = os.environ.get("TRCL_ROBOSUITE_PYTHON") or None
needs_robosuite = pytest.mark.skipif(
    PYTHON is None and importlib.util.find_spec("robosuite") is None,
    reason="needs robosuite: name the Python of its environment in TRCL_ROBOSUITE_PYTHON",
)
# As robomimic 0.3's low-dimensional data of Lift say it, with the controller in the words of robosuite 1.4.
LIFT = {
    "env_name": "Lift",
    "env_version": "1.4.1",
    "type": 1,
    "env_kwargs": {
        "has_renderer": False,
        "has_offscreen_renderer": False,
        "ignore_done": True,
        "use_object_obs": True,
        "use_camera_obs": False,
        "control_freq": 20,
        "controller_configs": {
            "type": "OSC_POSE",
            "input_max": 1,
            "input_min": -1,
            "output_max": [0.05, 0.05, 0.05, 0.5, 0.5, 0.5],
            "output_min": [-0.05, -0.05, -0.05, -0.5, -0.5, -0.5],
            "kp": 150,
            "damping": 1,
            "impedance_mode": "fixed",
            "kp_limits": [0, 300],
            "damping_limits": [0, 10],
            "position_limits": None,
            "orientation_limits": None,
            "uncouple_pos_ori": True,
            "control_delta": True,
            "interpolation": None,
            "ramp_ratio": 0.2,
        },
        "robots": ["Panda"],
        "camera_depths": False,
        "camera_heights": 84,
        "camera_widths": 84,
        "reward_shaping": False,
    },
}


def make(task, num_worlds=1, **how):
    return trcl_envs.make_env(task, num_worlds, env_python=PYTHON, **how)


def play(env, seeds, steps=8):
    """All observations of some steps under actions that depend on the seed alone."""
    shown = [env.reset(seeds)]
    streams = [np.random.default_rng(seed) for seed in seeds]
    for _ in range(steps):
        shown.append(env.step(np.stack([rng.uniform(-1, 1, 7) for rng in streams])).observation)
    return np.stack(shown, axis=1)


def test_facts_need_no_robosuite():
    for name in TASKS:
        info = trcl_envs.task_info(name.removesuffix("-robosuite"))
        assert (info.name, info.observation_dim, info.action_dim, info.policy_indices) == (name, OBSERVATION_DIM, 7, "")
    assert trcl_envs.resolve_sequence("robosuite3") == ("lift-robosuite", "stack-robosuite", "door-robosuite")
    assert set(trcl_envs.SEQUENCES["robosuite3"]) == set(EXPERTS)


def test_task_without_an_expert_and_missing_robosuite_are_one_line(monkeypatch):
    with pytest.raises(ValueError, match="scripted expert, got can-robosuite"):
        trcl_envs.make_expert("can")
    monkeypatch.setitem(sys.modules, "robosuite", None)
    with pytest.raises(trcl_envs.SimulationError, match="name its Python with --env-python"):
        trcl_envs.make_env("lift", 1)


def test_task_as_robomimic_describes_it():
    task = task_from_env_args(LIFT)
    assert (task.env_name, task.keys, task.observation_dim) == ("Lift", OBSERVATION_KEYS, None)
    assert task.kwargs["lite_physics"] is False
    assert "lite_physics" not in task_from_env_args({**LIFT, "env_version": "1.5.1"}).kwargs
    assert task_from_env_args(LIFT, ("object", "robot0_eef_pos")).keys == ("object-state", "robot0_eef_pos")
    for wrong in ({}, {**LIFT, "type": 2}, {**LIFT, "env_kwargs": None}):
        with pytest.raises(ValueError, match="env_args must be robosuite's"):
            task_from_env_args(wrong)


def test_hand_turns_to_the_nearest_face_of_a_cube():
    observation = np.zeros((4, OBSERVATION_DIM))
    observation[:, 3] = 1.0  # hand: half a turn about x, so that its y axis points along -y
    angles = np.array([0.0, 0.3, np.pi / 2 + 0.2, -0.4])
    observation[:, 14], observation[:, 15] = np.sin(angles / 2), np.cos(angles / 2)
    np.testing.assert_allclose(np.exp(1j * axis_angle(observation[:, 12:16])), 1j * np.exp(1j * angles), atol=1e-12)
    np.testing.assert_allclose(square_turn(observation), [0.0, 0.3, 0.2, -0.4], atol=1e-12)


@needs_robosuite
@pytest.mark.parametrize("task", ["lift", "stack", "door"])
def test_episode_follows_from_its_seed_alone(task):
    env = make(task, 3)
    together = play(env, [5, 6, 7])
    assert together.shape == (3, 9, OBSERVATION_DIM)
    np.testing.assert_array_equal(play(env, [7, 5])[::-1], together[[0, 2]])  # in used worlds, other rows
    np.testing.assert_array_equal(play(make(task), [6])[0], together[1])  # in a fresh one
    assert not np.array_equal(together[0, 0], together[1, 0])


@needs_robosuite
def test_idle_worlds_stand_still_and_broken_ones_show_zeros():
    env = make("lift", 2)
    start = env.reset([0, 1])
    step = env.step(np.ones((2, 7)), np.array([True, False]))
    np.testing.assert_array_equal(step.observation[1], start[1])
    assert not np.array_equal(step.observation[0], start[0])
    broken = env.step(np.array([[np.nan] * 7, [0.0] * 7]))
    assert (broken.failed.tolist(), broken.observation[0].any()) == ([True, False], False)
    np.testing.assert_array_equal(env.reset_rows(np.array([0]), [0])[0], start[0])
    with pytest.raises(ValueError, match=r"actions must have shape \(2, 7\), got \(1, 7\)"):
        env.step(np.zeros((1, 7)))


@needs_robosuite
def test_experts_solve_their_tasks():
    for task in ("lift", "stack", "door"):
        env, expert = make(task, 2), trcl_envs.make_expert(task)
        observation, solved = env.reset([0, 1]), np.zeros(2, dtype=bool)
        for _ in range(env.info.horizon):
            step = env.step(expert.actions(observation), ~solved)
            observation, solved = step.observation, solved | step.success
            if solved.all():
                break
        assert solved.all(), task


@needs_robosuite
def test_environment_from_robomimics_env_args_is_theirs():
    env = make("lift", 1, env_args={**LIFT, "observation_keys": ["object", "robot0_eef_pos"]})
    observation = env.reset([3])
    assert (env.info.observation_dim, env.info.control_frequency, observation.shape) == (13, 20.0, (1, 13))
    ours = make("lift").reset([3])[0]
    np.testing.assert_allclose(observation[0], np.concatenate([ours[9:19], ours[:3]]), atol=1e-12)
    with pytest.raises(ValueError, match=r"observation keys must be among .*; got colour"):
        make("lift", 1, env_args={**LIFT, "observation_keys": ["colour"]})
    with pytest.raises(ValueError, match="robosuite must be able to build Left"):
        make("lift", 1, env_args={**LIFT, "env_name": "Left"})


@needs_robosuite
def test_picture_shows_the_scene():
    if not any(state == "works" for state in trcl_envs.gl_report()["backends"].values()):
        pytest.skip("nothing draws here")
    env = make("door")
    env.reset([0])
    renderer = trcl_envs.make_renderer("door", 96, 64, env_python=PYTHON)
    before = renderer.frame(env.scene(0))
    assert before.shape == (64, 96, 3)
    assert before.std() > 20
    for _ in range(5):
        env.step(np.full((1, 7), 0.8))
    assert np.abs(renderer.frame(env.scene(0)).astype(int) - before).mean() > 1
    with pytest.raises(ValueError, match=r"camera must be one of .*agentview"):
        trcl_envs.make_renderer("door", 96, 64, "nowhere", env_python=PYTHON)
    renderer.close()


@needs_robosuite
@pytest.mark.slow
def test_sequence_goes_through_every_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    python = ["--env-python", PYTHON] if PYTHON else []
    words = "collect --tasks lift,door --episodes 4 --worlds 4 --noise 0.02 --out data.zarr"
    assert main([*words.split(), *python]) == 0
    small = (
        "--data.store data.zarr --data.episodes 4 --data.held_out 1 --training.steps 10 --network.width 16 "
        "--method.name finetune --diffusion.acting_steps 1 --evaluation.episodes 1"
    )
    assert main([*f"train robosuite3 --tasks lift,door {small} --out run".split(), *python]) == 0
    provenance = json.loads((tmp_path / "run/provenance.json").read_text())
    assert "robosuite" in provenance["simulator"]
    capsys.readouterr()
    assert main(["evaluate", "run", "--tasks", "lift", "--episodes", "2", "--workers", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tasks"]["lift-robosuite"]["episodes"] == 2
    assert main(["record", "run", "--moments", "learned", "--size", "64", "--out", "film.png"]) == 0
    assert (tmp_path / "film.png").exists()
