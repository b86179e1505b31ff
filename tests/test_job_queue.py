"""Runs that are skipped, killed, locked and counted, with commands that only write a line."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.fake_jobs import FakeJob, job_queue, jobs, launchers, ledger

DRIVER = Path(__file__).with_name("fake_jobs.py")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(job_queue, "POLL_S", 0.01)


def fakes(folder, *names, **options):
    return [FakeJob(folder / name, "none", kind="fake", **options) for name in names]


def test_each_job_runs_its_commands_in_order_and_is_reported_once(tmp_path):
    done = []
    made = fakes(tmp_path, "a", "b", "c")
    assert job_queue.run_jobs(made, launchers.LocalLauncher(1), when_done=done.append, quiet=True) == 0
    assert ledger(tmp_path) == [f"{name} {what}" for name in "abc" for what in ("begins", "ends") * 2]
    assert done == made
    assert made[0].log.read_text() == "work on a\n" * 2


def test_finished_jobs_are_reported_and_not_run(tmp_path):
    made, done = fakes(tmp_path, "a"), []
    job_queue.run_jobs(made, quiet=True)
    before = ledger(tmp_path)
    assert job_queue.run_jobs(made, when_done=done.append, quiet=True) == 0
    assert ledger(tmp_path) == before
    assert done == made


def test_no_more_jobs_than_slots_run_at_a_time(tmp_path):
    job_queue.run_jobs(fakes(tmp_path, *"abcd", seconds=0.15), launchers.LocalLauncher(2), quiet=True)
    running, most = 0, 0
    for line in ledger(tmp_path):
        running += 1 if line.endswith("begins") else -1
        most = max(most, running)
    assert most == 2


def test_a_failed_job_stops_the_others_unless_they_keep_going(tmp_path, capsys):
    made = [*fakes(tmp_path, "a", status=3), *fakes(tmp_path, "b")]
    assert job_queue.run_jobs(made, launchers.LocalLauncher(1), quiet=True) == 3
    assert ledger(tmp_path) == ["a begins", "a ends"]
    assert job_queue.run_jobs(made, launchers.LocalLauncher(1), keep_going=True, quiet=True) == 1
    assert ledger(tmp_path)[-1] == "b ends"
    assert "a: failed with status 3; see" in capsys.readouterr().err


def begun(folder, process, *lines, timeout=60):
    end = time.monotonic() + timeout
    while not {*lines} <= {*ledger(folder)}:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_killed_queue_goes_on_without_running_anything_twice(tmp_path):
    words = [sys.executable, str(DRIVER), str(tmp_path), "a", "b"]
    killed = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    begun(tmp_path, killed, "a begins", "b begins")
    killed.kill()
    killed.wait()
    again = subprocess.Popen([*words, "c"], stderr=subprocess.PIPE, text=True)
    assert [again.stderr.readline().split("/")[-1] for _ in "ab"] == [
        f"{name}: another process is at it, waiting\n" for name in "ab"
    ]
    assert sorted(ledger(tmp_path)) == ["a begins", "b begins"]
    (tmp_path / "go").touch()
    _, told = again.communicate(timeout=60)
    assert again.returncode == 0, told
    lines = ledger(tmp_path)
    assert [lines.count(f"{name} begins") for name in "abc"] == [2, 2, 2]  # each command once: orphans ran on
    assert all((tmp_path / name / "probed").exists() for name in "abc")
    assert "[3/3]" in told


def test_a_terminated_queue_lets_its_jobs_save(tmp_path):
    words = [sys.executable, str(DRIVER), str(tmp_path), "a", "b", "c"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    begun(tmp_path, process, "a begins", "b begins")
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert sorted(ledger(tmp_path)) == ["a begins", "a saved", "b begins", "b saved"]
    assert "stopped; started runs are saved. The same command goes on." in told


def test_a_lock_lasts_until_its_last_holder_is_gone(tmp_path):
    first = job_queue.locked(tmp_path / "x" / ".lock")
    assert job_queue.locked(tmp_path / "x" / ".lock") is None
    holder = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(first,))
    os.close(first)
    assert job_queue.locked(tmp_path / "x" / ".lock") is None
    holder.communicate(b"\n")
    again = job_queue.locked(tmp_path / "x" / ".lock")
    assert again is not None
    os.close(again)


def test_time_left_follows_finished_runs_then_paces_then_guesses(tmp_path):
    forecast = job_queue.Forecast({"a": [100.0, 200.0]}, {"a": 50.0, "b": 100.0, "c": 10.0}.get)
    assert forecast.seconds("a") == 150.0
    assert forecast.seconds("b") == 300.0  # as much longer than guessed as "a" was
    forecast.expect("b", 60.0)
    assert forecast.seconds("b") == 60.0
    assert forecast.seconds("c") == 10.0 * (150 + 60) / (50 + 100)
    forecast.add("b", 80.0)
    assert forecast.seconds("b") == 80.0
    made = [*fakes(tmp_path, "x", "y", "z")]
    forecast.add("fake", 30.0)
    assert forecast.left(made, 2) == 60.0
    assert forecast.left(made, 3) == 30.0


def make_run(folder, tasks="quick", step=150, task=2, ended=None):
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        yaml.safe_dump({"domain": "policy", "tasks": tasks, "training": {"steps": 300}})
    )
    (folder / "provenance.json").write_text(json.dumps({"ended": ended}))
    (folder / "log.jsonl").write_text(json.dumps({"task_index": 0, "step": 5}) + "\n")
    with (folder / "log.jsonl").open("a") as log:
        log.write(json.dumps({"task_index": task, "step": step}) + "\n")
    return folder


def test_a_run_is_trained_resumed_or_only_probed_as_its_folder_says(tmp_path):
    new = jobs.Job(tmp_path / "new", "cw10", ("seed=3",), probe=("--steps", "5"))
    train, recover = (words[3:] for words in new.commands())
    assert train == ["train", "cw10", "--out", str(tmp_path / "new"), "seed=3"]
    assert recover == ["recover", str(tmp_path / "new"), "--steps", "5"]
    assert new.share_done() == 0.0
    begun = jobs.Job(make_run(tmp_path / "begun"), "cw10", ("seed=3",))
    assert begun.commands()[0][3:] == ["train", "--resume", str(tmp_path / "begun")]
    assert begun.share_done() == (2 * 300 + 150) / 1500
    ended = jobs.Job(make_run(tmp_path / "ended", ended="now"), "cw10", probe=())
    (tmp_path / "ended" / "metrics.json").write_text("{}")
    assert [words[3] for words in ended.commands()] == ["recover"]
    (tmp_path / "ended" / "recovery.json").write_text("{}")
    assert ended.commands() == []


def test_jobs_of_methods_come_seed_by_seed_with_their_own_folders(tmp_path):
    made = jobs.method_jobs(tmp_path / "small", "cw10", ["ewc", "trcl"], range(2), ["training.steps=5"])
    assert [(job.method, job.seed) for job in made] == [("ewc", 0), ("trcl", 0), ("ewc", 1), ("trcl", 1)]
    assert made[3].folder == tmp_path / "small" / "trcl" / "seed-1"
    assert made[3].settings == ("method.name=trcl", "seed=1", "training.steps=5")
    assert made[3].kind == "small/trcl"


@pytest.mark.parametrize(
    ("name", "slots", "said"),
    [("slurm", None, "launcher must be one of local, ray"), ("local", 0, "jobs must be >= 1")],
)
def test_wrong_launchers_are_one_clear_line(name, slots, said):
    with pytest.raises(ValueError, match=said):
        launchers.make_launcher(name, slots)


def test_a_plan_ends_quietly_where_its_reader_leaves(tmp_path):
    script = (
        f"import sys; sys.path[:0] = {[str(DRIVER.parents[1]), str(DRIVER.parents[1] / 'scripts')]!r}\n"
        "from pathlib import Path\n"
        "from tests.fake_jobs import FakeJob, job_queue\n"
        f"jobs = [FakeJob(Path({str(tmp_path)!r}) / str(k), 'none', kind='fake') for k in range(5)]\n"
        "job_queue.show_plan(jobs, job_queue.Forecast({}, lambda kind: 1.0), 1)\n"
    )
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", script], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
