"""Runs of methods that keep or do something of their own: weights for each task, rollouts, moments of an episode."""

import json

import pytest

from tests.tiny import result, tiny
from trcl_policy import load_policy

__all__ = ["tiny"]
pytestmark = pytest.mark.sim

SHORT = ("--training.steps=12", "--evaluation.episodes=1", "--evaluation.at_steps=[]", "--save_every_s=0")


def words(name, *more):
    return ("--method.name", name, "--tasks", "[faucet-close, window-close]", *SHORT, *more)


def slow_but(cases, always):
    return [pytest.param(case, marks=() if case in always else pytest.mark.slow) for case in cases]


@pytest.mark.parametrize("name", slow_but(("packnet", "tdgr", "replay_rollout", "lwf", "mer"), ("tdgr",)))
def test_a_run_ends_well(tiny, tmp_path, name):
    done = tiny.trcl("train", tiny.config, "--out", tmp_path / "run", *words(name))
    assert done.status == 0, done.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert None not in metrics["scores"][1]
    policy = load_policy(tmp_path / "run" / "checkpoints" / "last")
    assert (policy.ownership is not None) == (name == "packnet")
    assert policy.spec.shape.guided == (name == "tdgr")


@pytest.mark.parametrize(
    "name", slow_but(("trcl", "trcl_rank1", "trcl_diag", "trcl_lowrank", "ftml", "mas", "packnet"), ("trcl",))
)
def test_a_run_in_half_precision_ends_well(tiny, tmp_path, name):
    done = tiny.trcl("train", tiny.config, "--out", tmp_path / "run", *words(name, "--precision", "bf16"))
    assert done.status == 0, done.stderr
    assert None not in json.loads((tmp_path / "run" / "metrics.json").read_text())["scores"][1]


STOPS = {
    "packnet": ("trcl_policy.continual.packing:Packed.step", 20),
    "replay_rollout": ("trcl_policy.continual.turn:Turn.joined", 17),
}


@pytest.mark.parametrize("name", slow_but(STOPS, ("packnet",)))
def test_a_killed_run_ends_as_if_it_had_never_stopped(tiny, tmp_path, name):
    whole = tiny.trcl("train", tiny.config, "--out", tmp_path / "whole", *words(name))
    assert whole.status == 0, whole.stderr
    target, nth = STOPS[name]
    stopped = tiny.trcl("train", tiny.config, "--out", tmp_path / "cut", *words(name), target=target, nth=nth)
    assert stopped.status < 0
    resumed = tiny.trcl("train", "--resume", tmp_path / "cut")
    assert resumed.status == 0, resumed.stderr
    assert result(tmp_path / "cut") == result(tmp_path / "whole")
    owners = [tmp_path / run / "checkpoints" / "01" / "owner.safetensors" for run in ("whole", "cut")]
    assert [path.exists() for path in owners] == [name == "packnet"] * 2
    if name == "packnet":
        assert owners[0].read_bytes() == owners[1].read_bytes()
