"""Where runs and commands get their simulation from."""

import json
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from tests.packages import install
from tests.test_own_task import SMALL, code
from trcl_envs import catalog, remote
from trcl_policy.cli import main
from trcl_policy.config import load_config
from trcl_policy.data.store import Episode, EpisodeStore, StoredTask
from trcl_policy.policy_domain import PolicyDomain
from trcl_policy.schema import ConfigError
from trcl_policy.simulation import Simulation, data_env_args, run_simulation

ENV_ARGS = {"env_name": "Lift", "type": 1, "env_kwargs": {}, "observation_keys": ["object"]}


@pytest.fixture
def pusher(tmp_path, monkeypatch):
    """The task of docs/own_task.md, importable here and in other processes."""
    folder = install(tmp_path / "site", "pusher", code("docs/own_task.md"), tasks={"push-puck": "pusher:spec"})
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "pusher", raising=False)
    remote.stop_all()
    yield
    remote.stop_all()
    sys.modules.pop("pusher", None)


def collected(name, *there):
    assert main([*f"collect --tasks push-puck --episodes 6 --worlds 4 --out {name}.zarr".split(), *there]) == 0
    return EpisodeStore.open(f"{name}.zarr")


def test_collecting_comes_to_the_same_in_another_python(pusher):
    here, there = collected("here"), collected("there", "--env-python", sys.executable)
    assert here.fingerprint() == there.fingerprint()
    assert there.provenance["simulator"] == catalog.simulator_versions()


@pytest.mark.slow
def test_learning_and_measuring_come_to_the_same_in_another_python(pusher, tmp_path):
    collected("data")
    for name, there in (("here", []), ("there", ["--env-python", sys.executable])):
        words = f"train quickstart --tasks push-puck --data.store data.zarr {SMALL} --training.steps 5 --out {name}"
        assert main([*words.split(), *there]) == 0
    lines = [(tmp_path / name / "episodes.jsonl").read_text() for name in ("here", "there")]
    assert lines[0] == lines[1]
    assert main(["evaluate", "there", "--episodes", "2", "--workers", "1"]) == 0
    record = json.loads((tmp_path / "there/evaluations/00.json").read_text())["records"][0]
    line = json.loads(lines[0].splitlines()[0])
    assert record == {key: line[key] for key in record}  # the seeds of a run's own rollouts
    assert json.loads((tmp_path / "there/provenance.json").read_text())["simulator"] == catalog.simulator_versions()
    assert f"env_python: {sys.executable}" in (tmp_path / "there/config.yaml").read_text()


def test_run_is_simulated_where_and_as_it_was_unless_told_otherwise():
    config = SimpleNamespace(simulation=SimpleNamespace(env_python="/a/python"), tasks="lift")
    data = {"collected_with": {"env_args": {"lift-robosuite": ENV_ARGS}}}
    folder = SimpleNamespace(config=lambda: config, provenance=lambda: {"data": data})
    assert run_simulation(folder) == Simulation("/a/python", "cpu", {"lift-robosuite": ENV_ARGS})
    assert run_simulation(folder, "/b/python").env_python == "/b/python"


def test_stores_converted_from_robomimic_say_how_they_were_simulated():
    layout = {"observation.state": [["obs/object", 0, 10], ["obs/robot0_eef_pos", 10, 13]]}
    told = {"env_args": json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {}}), "layout": layout}
    found = data_env_args({"robomimic": told}, ["lift-robosuite"])
    assert found == {"lift-robosuite": {**ENV_ARGS, "observation_keys": ["object", "robot0_eef_pos"]}}
    assert data_env_args({"robomimic": {**told, "env_args": '{"type": 2}'}}, ["lift-robosuite"]) == {}
    assert data_env_args({"robomimic": {"env_args": None}}, ["lift-robosuite"]) == {}
    with pytest.raises(ConfigError, match=r"env_args of data\.store must be JSON"):
        data_env_args({"robomimic": {"env_args": "Lift"}}, ["lift-robosuite"])


def test_env_args_reach_what_is_built(monkeypatch):
    built = []
    monkeypatch.setattr(catalog, "make_env", lambda *given: built.append(given))
    monkeypatch.setattr(catalog, "make_renderer", lambda *given: built.append(given))
    simulation = Simulation("/a/python", env_args={"lift-robosuite": ENV_ARGS})
    simulation.make_env("lift-robosuite", 3)
    simulation.make_env("door-robosuite", 3, threads=2)
    simulation.make_renderer("lift-robosuite", 8, 9)
    assert built == [
        ("lift-robosuite", 3, 1, "cpu", "/a/python", ENV_ARGS),
        ("door-robosuite", 3, 2, "cpu", "/a/python", None),
        ("lift-robosuite", 8, 9, None, "/a/python", ENV_ARGS),
    ]


def lift_store(path, width, **provenance):
    with EpisodeStore.create(path, [StoredTask("lift-robosuite", 20.0)], provenance=provenance) as store:
        for _ in range(4):
            state, success = np.random.default_rng(0).normal(size=(12, width)), np.arange(12) == 11
            store.append(Episode("lift-robosuite", state, np.zeros((12, 7)), success))


def test_page_on_robosuite_shows_a_store_that_is_understood(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code("docs/robosuite.md"), "robosuite.md", "exec"), {})  # our own documentation
    described = catalog.described(data_env_args(EpisodeStore.open("lift.zarr").provenance, ())["lift-robosuite"])
    assert (described.env_name, described.keys[-1], described.observation_dim) == ("Lift", "object-state", None)


def test_data_that_say_how_they_were_simulated_say_the_size_of_observations(tmp_path):
    settings = {"tasks": ["lift"], "data.episodes": 4, "data.held_out": 1}
    lift_store(tmp_path / "robomimic.zarr", 10, env_args={"lift-robosuite": ENV_ARGS})
    domain = PolicyDomain(load_config("quickstart", {**settings, "data.store": str(tmp_path / "robomimic.zarr")}))
    assert domain.spec.observation_indices == tuple(range(10))
    lift_store(tmp_path / "plain.zarr", 10)
    with pytest.raises(ConfigError, match=r"observations of 37 numbers for lift-robosuite, .* got 10"):
        PolicyDomain(load_config("quickstart", {**settings, "data.store": str(tmp_path / "plain.zarr")}))
