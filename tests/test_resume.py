"""A run killed with SIGKILL at any moment and resumed ends with the same bits as one that was never stopped."""

import json
import os
import shutil
import signal
import subprocess
import time

import pytest

from tests.tiny import ENVIRONMENT, TRCL, result, tiny
from trcl_policy.files import read_safetensors

__all__ = ["tiny"]
pytestmark = pytest.mark.sim

LEARNER = "trcl_policy.continual.learner:_Run"
# Of the starts that rollouts fingerprint, 1-2 are before task 1, 3-4 within it, 5-6 after it, 7-8 before task 2, 9-12
# within it (the old task and the new one), 13-16 after it, 17-18 before task 3, 19-24 within it, 25-30 after it.
MOMENTS = {
    "in the first task before anything was saved": (f"{LEARNER}._turn", 3),
    "inside the first task": (f"{LEARNER}._turn", 23),
    "inside the second task": (f"{LEARNER}._turn", 47),
    "while measuring within a task": ("trcl_policy.rollout.evaluate:fingerprint", 19),
    "before the first update of a task": ("trcl_policy.rollout.evaluate:fingerprint", 17),
    "inside the first Fisher estimation": ("trcl_policy.continual.fisher:hessian_trace", 1),
    "inside the second Fisher estimation": ("trcl_policy.continual.fisher:hessian_trace", 2),
    "inside replay generation": ("trcl_policy.policy.trajectory:TrajectoryModel.generate", 2),
    "while judging replay": ("trcl_policy.replay_log:judge", 3),
    "between judging replay and saving the state": ("trcl_policy.gauge:Gauge._spend", 11),
    "inside an evaluation": ("trcl_policy.rollout.evaluate:fingerprint", 13),
    "after one task of an evaluation": ("trcl_policy.run:RunFolder.append_records", 8),
    "inside the last evaluation": ("trcl_policy.rollout.evaluate:fingerprint", 29),
    "before the metrics": ("trcl_policy.folder:RunFolder.write_metrics", 2),
    "between weights and configuration of a checkpoint": ("trcl_policy.policy.controller:write_json", 2),
    "between checkpoint and state": ("trcl_policy.folder:RunFolder.point_last_at", 2),
}
ALWAYS = (
    "inside the second task",
    "inside the second Fisher estimation",
    "inside replay generation",
    "between judging replay and saving the state",
    "inside an evaluation",
)


def slow_unless(cases, always):
    return [pytest.param(case, marks=() if case in always else pytest.mark.slow) for case in cases]


def killed_and_resumed(tiny, out, **stop):
    stopped = tiny.trcl("train", tiny.config, "--out", out, **stop)
    if stop["target"].endswith("fingerprint") and stop["nth"] == 13:  # the state is saved before it is measured
        position = read_safetensors(out / "state" / "learner.safetensors")[0]["position"]
        assert position.tolist() == [1, 30, 0]
    resumed = tiny.trcl("train", "--resume", out)
    assert resumed.status == 0, resumed.stderr
    return stopped


@pytest.mark.parametrize("moment", slow_unless(MOMENTS, ALWAYS))
def test_kill_and_resume_equals_never_having_stopped(tiny, tmp_path, moment):
    target, nth = MOMENTS[moment]
    stopped = killed_and_resumed(tiny, tmp_path / "run", target=target, nth=nth)
    assert stopped.status == -signal.SIGKILL
    assert result(tmp_path / "run") == result(tiny.finished)
    assert not list((tmp_path / "run").rglob("*.tmp"))
    facts = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert facts["started"] <= facts["resumed"][0] <= facts["ended"]
    assert all((facts["packages"]["torch"], facts["mujoco"], facts["data"]["fingerprint"]))


@pytest.mark.parametrize("nth", slow_unless([2, 5], [5]))
def test_kill_while_writing_the_state(tiny, tmp_path, nth):
    target = "trcl_policy.folder:write_safetensors"
    stopped = killed_and_resumed(tiny, tmp_path / "run", target=target, nth=nth, when="inside")
    assert stopped.status == -signal.SIGKILL
    assert result(tmp_path / "run") == result(tiny.finished)
    assert not list((tmp_path / "run").rglob("*.tmp"))


@pytest.mark.slow
def test_killed_twice(tiny, tmp_path):
    out = tmp_path / "run"
    first = tiny.trcl("train", tiny.config, "--out", out, target=f"{LEARNER}._turn", nth=40)
    second = tiny.trcl("train", "--resume", out, target="trcl_policy.rollout.evaluate:fingerprint", nth=3)
    assert [first.status, second.status] == [-signal.SIGKILL] * 2
    assert tiny.trcl("train", "--resume", out).status == 0
    assert result(out) == result(tiny.finished)


@pytest.mark.parametrize(
    ("target", "nth"),
    [
        pytest.param(f"{LEARNER}._turn", 33, marks=pytest.mark.slow),
        ("trcl_policy.rollout.evaluate:fingerprint", 19),
        pytest.param("trcl_policy.rollout.evaluate:fingerprint", 13, marks=pytest.mark.slow),
        pytest.param("trcl_policy.continual.fisher:hessian_trace", 1, marks=pytest.mark.slow),
    ],
)
def test_interrupt_saves_and_says_how_to_go_on(tiny, tmp_path, target, nth):
    out = tmp_path / "run"
    stopped = tiny.trcl("train", tiny.config, "--out", out, target=target, nth=nth, signal=signal.SIGINT)
    assert stopped.status == 130
    last = stopped.stderr.splitlines()[-1]
    assert last == f"trcl: stopped and saved; go on with: trcl train --resume {out}"
    assert json.loads((out / "provenance.json").read_text())["ended"] is None
    resumed = tiny.trcl("train", "--resume", out)
    assert resumed.status == 0, resumed.stderr
    assert result(out) == result(tiny.finished)


def test_resuming_a_finished_run_changes_nothing(tiny, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(tiny.finished, out, symlinks=True)
    facts = json.loads((out / "provenance.json").read_text())
    (out / "provenance.json").write_text(json.dumps({**facts, "ended": "2020-01-01T00:00:00+00:00"}))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert tiny.trcl("train", "--resume", out).status == 0
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_log_has_one_line_a_moment_with_losses_and_rates(tiny):
    lines = [json.loads(line) for line in (tiny.finished / "log.jsonl").read_text().splitlines()]
    assert [(line["task_index"], line["step"]) for line in lines] == [
        (task, step) for task in range(3) for step in range(5, 31, 5)
    ]
    assert all(line["learning_rate"] > 0 and line["loss_new"] > 0 for line in lines)
    assert all(("loss_old" in line) == (line["task_index"] > 0) for line in lines)
    assert [len(line["held_out_loss"]) for line in lines if "held_out_loss" in line] == [1, 1, 2, 2, 3, 3]


def test_state_of_another_run_is_refused(tiny, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(tiny.finished, out, symlinks=True)
    text = (out / "config.yaml").read_text()
    (out / "config.yaml").write_text(text.replace("width: 16", "width: 24"))
    resumed = tiny.trcl("train", "--resume", out)
    assert resumed.status == 2
    assert "must hold the state of this run" in resumed.stderr


@pytest.mark.slow
def test_changed_data_set_is_refused(tiny, tmp_path):
    out, store = tmp_path / "run", tmp_path / "other.zarr"
    shutil.copytree(tiny.finished, out, symlinks=True)
    shutil.copytree(tiny.store, store)
    assert tiny.trcl("collect", "--tasks", "window-close-v3", "--episodes", 5, "--out", store).status == 0
    text = (out / "config.yaml").read_text()
    (out / "config.yaml").write_text(text.replace(str(tiny.store), str(store)))
    resumed = tiny.trcl("train", "--resume", out)
    assert resumed.status == 2
    assert "must be the one the run began with" in resumed.stderr


@pytest.mark.slow
def test_real_process_killed_from_outside(tiny, tmp_path):
    out = tmp_path / "run"
    process = subprocess.Popen(
        [*TRCL, "train", str(tiny.config), "--out", str(out)], env=ENVIRONMENT, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not (out / "checkpoints" / "00" / "config.json").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    resumed = tiny.trcl("train", "--resume", out)
    assert resumed.status == 0, resumed.stderr
    assert result(out) == result(tiny.finished)
