"""Commands and scripts about physics on a device run, at the smallest size, where mujoco-warp is installed."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import tiny

__all__ = ["tiny"]
ROOT = Path(__file__).parent.parent
pytestmark = [
    pytest.mark.sim,
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("mujoco_warp") is None, reason="needs mujoco-warp"),
]


def run(script, *words):
    command = [sys.executable, ROOT / "scripts" / script, "--backend", "warp-cpu", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_benchmark_measures_rates_shares_memory_and_the_knee(tmp_path):
    run("benchmark_gpu.py", "--worlds", 1, 3, "--looks", 2, "--json", tmp_path / "gpu.json")
    found = json.loads((tmp_path / "gpu.json").read_text())["gpu"]
    assert [row["worlds"] for row in found["rows"]] == [1, 3]
    for row in found["rows"]:
        shares = [row[f"share_{part}"] for part in ("physics", "policy", "bookkeeping")]
        assert sum(shares) == pytest.approx(1.0)
        assert min(shares) > 0
    rates = [row["control_steps_per_s"] for row in found["rows"]]
    assert found["control_steps_per_s"] == max(rates)
    assert found["knee_worlds"] == (1 if rates[0] >= 0.9 * max(rates) else 3)


def test_evaluate_on_a_device_prints_one_document_and_writes_every_episode(tiny):
    words = ["evaluate", tiny.finished, "--tasks", "faucet-close", "--episodes", "3", "--backend", "warp-cpu", "--json"]
    done = tiny.trcl(*words)
    assert done.status == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["backend"] == "warp-cpu"
    assert found["tasks"]["faucet-close-v3"]["episodes"] == 3
    (written,) = (Path(tiny.finished) / "evaluations").glob("*.json")
    records = json.loads(written.read_text())["records"]
    assert [record["seed"] for record in records] == [1_000_000, 1_000_001, 1_000_002]
    assert all(1 <= record["length"] <= 200 for record in records)
