"""``trcl evaluate``: what it writes, the matrix that goes on where it was stopped, and workers that are killed."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import time

import psutil
import pytest

from tests.tiny import ENVIRONMENT, TASKS, TRCL, tiny
from trcl_policy.commands import rollouts
from trcl_policy.commands.measure import Evaluate

__all__ = ["tiny"]

pytestmark = pytest.mark.sim


@pytest.fixture
def run(tiny, tmp_path):
    shutil.copytree(tiny.finished, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


def test_result_says_what_it_depends_on(tiny, run):
    done = tiny.trcl("evaluate", run, "--checkpoint", 1, "--episodes", 2, "--json")
    assert done.status == 0, done.stderr
    assert done.stderr == ""
    shown, stored = json.loads(done.stdout), json.loads((run / "evaluations" / "01.json").read_text())
    assert shown.items() <= stored.items()
    assert shown["physics"].startswith("mujoco ")
    assert (shown["backend"], shown["device"], shown["faults"]) == ("cpu", "cpu", [])
    assert len(shown["weights"]) == 12
    assert [entry["failed"] for entry in shown["tasks"].values()] == [0, 0]
    assert [(record["task"], len(record["start"])) for record in stored["records"]] == [
        (task, 12) for task in TASKS[:2] for _ in range(2)
    ]
    assert not (run / "evaluations" / "dumps").exists()


def test_matrix_is_the_runs_own_where_the_seeds_are(tiny, run):
    seed = json.loads((run / "episodes.jsonl").read_text().splitlines()[0])["seed"]
    words = ["evaluate", run, "--matrix", "--seed", seed, "--json"]
    done = tiny.trcl(*words, "--episodes", 2)
    assert done.status == 0, done.stderr
    shown, metrics = json.loads(done.stdout), json.loads((run / "metrics.json").read_text())
    for name in ("tasks", "scores", "intervals", "num_episodes", "average_final", "forgetting"):
        assert shown[name] == metrics[name], name
    assert shown["weights"].keys() == {"00", "01", "02"}
    assert json.loads((run / "evaluations" / "matrix.json").read_text()).items() >= shown.items()

    journal = run / "evaluations" / "matrix.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    assert len(lines) == 12
    journal.write_text("".join(lines[:5]) + lines[5][:20])  # killed while it wrote the sixth
    again = tiny.trcl(*words, "--episodes", 2)
    assert json.loads(again.stdout) == shown
    assert journal.read_text().splitlines(keepends=True)[:5] == lines[:5]
    assert sorted(journal.read_text().splitlines(keepends=True)) == sorted(lines)
    journal.chmod(0o444)
    before = journal.stat().st_mtime_ns
    assert json.loads(tiny.trcl(*words, "--episodes", 2).stdout) == shown  # nothing left to do
    assert journal.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--checkpoint", "1"], "checkpoint must be left out with --matrix, got 1"),
        (["--tasks", "push"], "tasks must be left out with --matrix, got push"),
        (["--backend", "tpu"], "backend must be one of cpu"),
        (["--launcher", "slurm"], "launcher must be one of processes, ray, got slurm"),
        (["--timeout", "-1"], "timeout must be > 0 [s], got -1.0"),
        (["--launcher", "ray"], "workers must be >= 1 with launcher ray, got 0"),
        (["--ray-address", "auto"], "ray_address must be left out where launcher is not ray, got auto"),
        (["--acting-steps", "0"], "acting_steps must be in [1, num_train_timesteps = 100], got 0"),
        (["--n-action-steps", "17"], "n_action_steps must be in [1, horizon = 16], got 17"),
    ],
)
def test_impossible_matrices_are_one_line_and_write_nothing(tiny, run, words, message):
    done = tiny.trcl("evaluate", run, "--matrix", *words)
    assert (done.status, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert message in done.stderr
    assert not (run / "evaluations").exists()


def test_episodes_of_a_policy_that_is_told_how_to_act_are_kept_apart(tiny, run):
    def rolled(*more):
        done = tiny.trcl("evaluate", run, "--matrix", "--episodes", 2, "--json", *more)
        assert done.status == 0, done.stderr
        journal = [json.loads(line) for line in (run / "evaluations" / "matrix.jsonl").read_text().splitlines()]
        return json.loads(done.stdout), journal

    told, lines = rolled("--acting-steps", 1, "--n-action-steps", 2)
    assert (told["acting_steps"], told["n_action_steps"]) == (1, 2)
    assert [(line["acting_steps"], line["n_action_steps"]) for line in lines] == [(1, 2)] * 12
    plain, both = rolled()
    assert (plain["acting_steps"], plain["n_action_steps"]) == (None, None)
    assert len(both) == 24
    assert both[:12] == lines
    assert not any("acting_steps" in line or "n_action_steps" in line for line in both[12:])


@pytest.mark.parametrize("how", [["--matrix"], ["--checkpoint", "01"]])
def test_what_is_told_of_acting_reaches_the_workers(tiny, run, how, monkeypatch):
    def stop(jobs, setup, *rest, **more):
        spec = setup.load(jobs[0].checkpoint).spec
        raise KeyError(spec.diffusion.acting_steps, spec.n_action_steps)

    monkeypatch.setattr(rollouts, "as_done", stop)
    options = Evaluate(run, matrix="--matrix" in how, checkpoint=None if "--matrix" in how else "01")
    with pytest.raises(KeyError, match=re.escape("(3, 4)")):
        rollouts.roll_out(dataclasses.replace(options, acting_steps=3, n_action_steps=4))


def started(run, *words):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    words = [*TRCL, "evaluate", run, "--matrix", "--episodes", 60, "--workers", 2, *words]
    return subprocess.Popen([*map(str, words)], env=ENVIRONMENT, start_new_session=True, **pipes)


def wait_for_lines(run, count):
    journal, until = run / "evaluations" / "matrix.jsonl", time.monotonic() + 240
    while not journal.exists() or len(journal.read_text().splitlines()) < count:
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.slow
def test_a_matrix_survives_ctrl_c_and_kill_9_of_its_workers(tiny, run):
    truth = tiny.trcl("evaluate", run, "--matrix", "--episodes", 60, "--json")
    assert truth.status == 0, truth.stderr
    shutil.rmtree(run / "evaluations")

    process = started(run)
    wait_for_lines(run, 25)
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does: parent and workers
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert len(stderr.splitlines()) == 1, stderr
    assert f"of 360 episodes are kept; go on with: trcl evaluate {run} --matrix --episodes 60 --workers 2" in stderr
    kept = (run / "evaluations" / "matrix.jsonl").read_text()

    process = started(run, "--json")
    wait_for_lines(run, len(kept.splitlines()) + 25)
    workers = [c for c in psutil.Process(process.pid).children() if "spawn_main" in " ".join(c.cmdline())]
    assert len(workers) == 2
    workers[0].kill()
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    document, wanted = json.loads(stdout), json.loads(truth.stdout)
    assert [fault["kind"] for fault in document["faults"]] == ["died"]
    assert "faults of workers (1 died)" in stderr
    assert {**document, "faults": []} == wanted
    assert (run / "evaluations" / "matrix.jsonl").read_text().startswith(kept)
