"""Settings that depend on the machine are decided once, when a run begins, and written down."""

import dataclasses
import time

import pytest
import torch
import yaml

from tests.tiny import tiny
from trcl_policy import devices, run
from trcl_policy.config import load_config

__all__ = ["tiny"]
CPU = torch.device("cpu")


@pytest.mark.parametrize(("is_faster", "precision"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_what_the_machine_is_faster_with(monkeypatch, is_faster, precision):
    monkeypatch.setattr(devices, "is_faster_in_bf16", lambda device: is_faster)
    wanted = load_config("cw10-small")
    assert wanted.precision == "auto"
    assert devices.settled(wanted) == dataclasses.replace(wanted, precision=precision)


def test_a_precision_that_is_asked_for_is_not_questioned(monkeypatch):
    monkeypatch.setattr(devices, "is_faster_in_bf16", lambda device: pytest.fail("nothing was to be found out"))
    for precision in ("fp32", "bf16"):
        wanted = load_config("cw10-small", {"precision": precision, "device": "cpu"})
        assert devices.settled(wanted) is wanted


@pytest.mark.parametrize(("slow", "is_faster"), [(torch.float32, True), (torch.bfloat16, False)])
def test_products_are_timed_in_both(monkeypatch, slow, is_faster):
    class Matrix:
        def __init__(self, dtype):
            self.dtype = dtype

        def __matmul__(self, other):
            time.sleep(0.02 if self.dtype is slow else 0)

    monkeypatch.setattr(torch, "ones", lambda *shape, dtype: Matrix(dtype))
    assert devices.is_faster_in_bf16(CPU) is is_faster


@pytest.mark.sim
@pytest.mark.parametrize("is_faster", [True, False])
def test_a_run_writes_down_what_it_learned_in(tiny, tmp_path, monkeypatch, capsys, is_faster):
    for module in (devices, run):
        monkeypatch.setattr(module, "is_faster_in_bf16", lambda device: is_faster)
    wanted = load_config(tiny.config, {"precision": "auto", "training.steps": 1, "evaluation.at_steps": []})
    folder = run.train(wanted, tmp_path / "run")
    precision = "bf16" if is_faster else "fp32"
    assert yaml.safe_load((folder.path / "config.yaml").read_text())["precision"] == precision
    assert "emulates" not in capsys.readouterr().err


@pytest.mark.sim
def test_a_run_in_emulated_bf16_says_so(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "is_faster_in_bf16", lambda device: False)
    wanted = load_config(tiny.config, {"precision": "bf16", "training.steps": 1, "evaluation.at_steps": []})
    run.train(wanted, tmp_path / "run")
    lines = [line for line in capsys.readouterr().err.splitlines() if "emulates" in line]
    assert len(lines) == 1
    assert "--precision auto" in lines[0]
