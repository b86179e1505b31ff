"""The pages on one's own task and sequence: the code they show, in a package of its own, through every command."""

import dataclasses
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import trcl_envs
from tests.packages import install
from trcl_envs.catalog import task_spec
from trcl_envs.cpu import CpuPhysics
from trcl_envs.worlds import Worlds
from trcl_policy.cli import main

ROOT = Path(__file__).parent.parent
SMALL = (
    "--data.episodes 6 --data.held_out 1 --training.steps 40 --network.width 16 --network.depth 1 "
    "--evaluation.episodes 2 --diffusion.acting_steps 2 --method.name finetune "
    "--policy.horizon 4 --policy.n_action_steps 4"
)


def code(page, number=0):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)[number]


@pytest.fixture
def pusher(tmp_path, monkeypatch):
    """The page's package, importable."""
    groups = {"tasks": {"push-puck": "pusher:spec"}, "sequences": {"pucks": "pusher:PUCKS"}}
    body = code("docs/own_task.md") + '\nPUCKS = ["push-puck", "push-puck"]\n'
    folder = install(tmp_path / "site", "pusher", body, **groups)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "pusher", raising=False)
    yield folder
    sys.modules.pop("pusher", None)
    gymnasium.registry.pop("trcl/push-puck", None)


def test_example_task_fits_in_forty_lines():
    assert len([line for line in code("docs/own_task.md").splitlines() if line.strip()]) <= 40


def test_example_task_goes_through_every_command(pusher, tmp_path, capsys):
    assert main(["collect", "--tasks", "push-puck", "--episodes", "6", "--worlds", "6", "--out", "puck.zarr"]) == 0
    words = f"train quickstart --tasks pucks --data.store puck.zarr {SMALL} --out run"
    assert main(words.split()) == 0
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["tasks"] == ["push-puck", "push-puck#2"]
    capsys.readouterr()
    assert main(["evaluate", "run", "--episodes", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tasks"]["push-puck"]["episodes"] == 3
    assert main(["tasks", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["tasks"]["push-puck"]["instruction"] == "Push the puck to the goal."
    assert listed["sequences"]["pucks"] == ["push-puck", "push-puck"]
    if any(state == "works" for state in trcl_envs.gl_report()["backends"].values()):
        assert main(["record", "run", "--moments", "learned", "--size", "64", "--out", "film.png"]) == 0
        assert (tmp_path / "film.png").stat().st_size > 1000


def test_its_expert_solves_it_and_the_start_follows_the_seed(pusher):
    env, expert = trcl_envs.make_env("push-puck", 8), trcl_envs.make_expert("push-puck")
    observation = env.reset(range(8))
    np.testing.assert_array_equal(observation[3], trcl_envs.make_env("push-puck", 1).reset([3])[0])
    assert len(np.unique(observation[:, 4])) == 8
    solved = np.zeros(8, dtype=bool)
    for _ in range(env.info.horizon):
        step = env.step(expert.actions(observation))
        observation, solved = step.observation, solved | step.success
    assert solved.all()


def test_gymnasium_knows_it_after_the_import_without_loading_it(pusher):
    ask = (
        "import sys, gymnasium, trcl_envs; print('pusher' in sys.modules);"
        "env = gymnasium.make('trcl/push-puck'); env.reset(seed=0);"
        "print(env.observation_space.shape, sum(1 for _ in iter(lambda: env.step([0, 0])[3], True)) + 1);"
        "print(gymnasium.make_vec('trcl/push-puck', num_envs=3).reset(seed=0)[0].shape)"
    )
    path = ":".join([str(pusher), *filter(None, sys.path)])
    told = subprocess.run(
        [sys.executable, "-c", ask], capture_output=True, text=True, check=True, env={"PYTHONPATH": path}
    )
    assert told.stdout.splitlines() == ["False", "(6,) 60", "(3, 6)"]


def test_page_on_sequences_says_what_is_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code("docs/own_sequence.md"), "own_sequence.md", "exec"), {})  # our own documentation
    members, entry = code("docs/own_sequence.md", 1), {"drawers": "my_package:DRAWERS"}
    monkeypatch.syspath_prepend(install(tmp_path / "site", "my_package", members, sequences=entry))
    assert trcl_envs.resolve_sequence("drawers") == ("drawer-open-v3", "drawer-close-v3", "drawer-open-v3")
    assert sorted(trcl_envs.resolve_sequence("shuffle:drawers:7")) == sorted(trcl_envs.resolve_sequence("drawers"))
    for task, sizes in (("hammer", (39, 4)), ("lift", (37, 7))):
        info = trcl_envs.task_info(task)
        assert (info.observation_dim, info.action_dim) == sizes


BROKEN = """
import numpy as np
from trcl_envs.interface import TaskInfo, TaskSpec
fine = TaskSpec(TaskInfo("other", "Do it.", 1, 1, 5, 20.0), lambda: None, 1, lambda now: 0, lambda now, seen, goal: 0)
number = 3
def fails():
    raise RuntimeError("no such thing")
"""


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("broken:missing", "SimulationError.* my-task = 'broken:missing' can't be loaded: AttributeError"),
        ("absent:spec", "SimulationError.*can't be loaded: ModuleNotFoundError: No module named 'absent'"),
        ("broken:number", "ValueError.*must be a TaskSpec or a function that returns one, got int"),
        ("broken:fine", "ValueError.*must be called by.*got 'my-task' and 'other'"),
    ],
)
def test_wrong_entry_points_are_one_line_when_asked_for(tmp_path, monkeypatch, entry, message):
    monkeypatch.syspath_prepend(install(tmp_path / "site", "broken", BROKEN, tasks={"my-task": entry}))
    monkeypatch.delitem(sys.modules, "broken", raising=False)
    assert "my-task" in trcl_envs.task_names()
    with pytest.raises((ValueError, trcl_envs.SimulationError)) as caught:
        trcl_envs.make_env("my-task", 1)
    told = f"{caught.type.__name__}: {caught.value}"
    assert re.search(message, told), told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"substeps": 4}, r"control_frequency of push-puck must be 1 / \(substeps \* timestep\) = 25 Hz, got 20"),
        ({"observe": lambda frame, before, goal: frame}, r"observe of push-puck must give \(1, 6\).*got \(1, 4\)"),
        ({"command": lambda actions, mocap: (actions[:, :1], mocap)}, r"command must give controls \(1, 2\), got"),
    ],
)
def test_specs_that_do_not_fit_their_scene_are_one_line(pusher, change, message):
    spec = dataclasses.replace(task_spec("push-puck"), **change)

    def one_step():
        worlds = Worlds(spec, CpuPhysics(spec.load_model, 1))
        worlds.reset([0])
        worlds.step(np.zeros((1, 2)))

    with pytest.raises(ValueError, match=message):
        one_step()


def test_task_without_an_expert_says_so(pusher, monkeypatch):
    spec = dataclasses.replace(task_spec("push-puck"), expert=None)
    monkeypatch.setattr(sys.modules["pusher"], "spec", spec)
    with pytest.raises(ValueError, match="scripted expert, got push-puck: bring demonstrations"):
        trcl_envs.make_expert("push-puck")


@pytest.mark.skipif(importlib.util.find_spec("mujoco_warp") is None, reason="needs mujoco-warp")
def test_example_task_runs_on_the_physics_of_a_gpu(pusher):
    """On Warp's CPU device: a scene without a mocap body, a task without settling."""
    cpu, warp = (trcl_envs.make_env("push-puck", 3, backend=backend) for backend in ("cpu", "warp-cpu"))
    expert, taken = trcl_envs.make_expert("push-puck"), []
    np.testing.assert_allclose(warp.reset([0, 1, 2]), cpu.reset([0, 1, 2]), atol=1e-6)
    for env in (cpu, warp):
        seen, solved = env.reset([0, 1, 2]), np.zeros(3, dtype=int)
        for step in range(1, env.info.horizon + 1):
            moved = env.step(expert.actions(seen), active=solved == 0)
            seen = moved.observation
            solved[(solved == 0) & moved.success] = step
        taken.append(solved)
        env.close()
    assert (taken[0] > 0).all()
    np.testing.assert_allclose(*taken, atol=1)
