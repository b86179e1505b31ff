"""Workers are killed, stopped, made to hang, raise and lie, for real; the result is the one without the fault."""

import dataclasses
import os
import subprocess
import sys
import time

import psutil
import pytest

from tests.rollout.faulty import blasting, harmful, healthy
from trcl_envs.interface import SimulationError
from trcl_policy.rollout.crew import Crew, Patience, Report
from trcl_policy.rollout.jobs import Answer, Job, cut
from trcl_policy.rollout.launchers import Died, Processes
from trcl_policy.rollout.workers import as_done

JOBS = cut("there", ["point"], range(1, 13), block=4)  # seed 6 is in the second of three


def evaluate(setup, num_workers, jobs=JOBS, **options):
    """All episodes in order, and what went wrong."""
    report = Report()
    done = dict(as_done(jobs, setup, num_workers, report=report, **options))
    assert sorted(done) == list(range(len(jobs)))
    return [done[place] for place in range(len(jobs))], report


@pytest.fixture(scope="module")
def truth():
    episodes, report = evaluate(healthy(), 0)
    assert not report.faults
    assert report.told() == ""
    assert {episode.success for block in episodes for episode in block} == {True, False}
    return episodes


def children():
    return [child for child in psutil.Process().children(recursive=True) if "spawn_main" in " ".join(child.cmdline())]


@pytest.mark.parametrize(
    ("kind", "seen", "timeout"),
    [("kill", "died", None), ("stop", "hung", 3.0), ("hang", "hung", 3.0), ("raise", "raised", None)],
)
def test_result_is_the_one_without_the_fault(truth, tmp_path, kind, seen, timeout):
    episodes, report = evaluate(harmful(kind, tmp_path), 2, timeout=timeout)
    assert episodes == truth
    assert [(fault.kind, fault.task, fault.seeds) for fault in report.faults] == [(seen, "point", (5, 6, 7, 8))]
    assert report.told() == f"1 faults of workers (1 {seen}); 4 episodes were run again elsewhere"
    (fault,) = report.faults
    assert {
        "kill": "killed by SIGKILL",
        "stop": "nothing heard within 3 s",
        "hang": "nothing heard within 3 s",
        "raise": "the simulator lost its way",
    }[kind] == fault.detail
    assert fault.record()["seeds"] == [5, 6, 7, 8]
    assert not children()


@pytest.mark.parametrize("kind", ["raise", "nan", "lie"])
def test_faults_in_this_process_are_mended_too(truth, tmp_path, kind):
    episodes, report = evaluate(harmful(kind, tmp_path), 0)
    assert episodes == truth
    assert [fault.kind for fault in report.faults] == ["nan" if kind == "nan" else "raised"]
    if kind == "lie":
        assert "return must be finite" in report.faults[0].detail
    if kind == "nan":
        assert report.faults[0].seeds == (6,)
        (dump,) = report.dumps
        assert (dump.seed, dump.step, dump.reproduced) == (6, 2, False)


@pytest.mark.parametrize("kind", ["nan again", "raise again"])
def test_a_sick_process_does_not_judge_itself(truth, tmp_path, kind):
    """The one worker fails in that block however often it tries; a fresh one must."""
    episodes, report = evaluate(harmful(kind, tmp_path), 1)
    assert episodes == truth
    seen = ("nan", (6,)) if kind == "nan again" else ("raised", (5, 6, 7, 8))
    assert [(fault.kind, fault.seeds) for fault in report.faults] == [seen]


def test_physics_that_breaks_twice_is_the_truth():
    episodes, report = evaluate(blasting(), 0)
    flat = [episode for block in episodes for episode in block]
    assert {(episode.failed, episode.success) for episode in flat if episode.seed % 2 == 0} == {(True, False)}
    assert not any(episode.failed for episode in flat if episode.seed % 2)
    assert not report.faults
    assert {(dump.seed, dump.step, dump.reproduced) for dump in report.dumps} == {(s, 2, True) for s in range(2, 13, 2)}


def test_a_job_that_kills_every_worker_ends_the_evaluation(tmp_path):
    with pytest.raises(SimulationError) as ended:
        evaluate(harmful("kill", tmp_path, times=99), 2)
    assert str(ended.value).startswith("task point, seeds 5 to 8: 3 workers in a row failed (died, died, died)")
    assert len(list(tmp_path.iterdir())) == 3
    assert not children()


def test_errors_keep_their_kind_and_message(tmp_path):
    jobs = [dataclasses.replace(JOBS[0], checkpoint="broken/03")]
    message = r"broken/03 must be a policy, got a broken one \(task point, seeds 1 to 4, tried 3 times\)"
    with pytest.raises(ValueError, match=message):
        evaluate(healthy(), 0, jobs)
    with pytest.raises(SimulationError, match="raised RuntimeError, raised RuntimeError, raised RuntimeError"):
        evaluate(harmful("raise", tmp_path, times=99), 0)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("block", [1, 5, 12])
def test_neither_workers_nor_blocks_change_a_bit(truth, workers, block):
    episodes, _ = evaluate(healthy(), workers, cut("there", ["point"], range(1, 13), block=block))
    assert [episode for part in episodes for episode in part] == [episode for part in truth for episode in part]


def test_stopping_half_way_leaves_neither_process_nor_handle():
    before = psutil.Process().num_fds()
    done = as_done(JOBS, healthy(), 2)
    next(done)
    assert children()
    done.close()
    assert not children()
    assert psutil.Process().num_fds() <= before + 1  # multiprocessing's resource tracker, once a session


def test_workers_with_other_packages_are_refused():
    report = Report(versions={"mujoco": "0.1"})
    with pytest.raises(SimulationError, match=r"same versions of .*mujoco.*'0\.1'"):
        list(as_done(JOBS, healthy(), 0, report=report))


class Mute:
    """A launcher whose workers never greet, or are dead from the start."""

    def __init__(self, dead):
        self.dead, self.hired, self.killed, self.name = dead, 0, 0, "mute"

    def hire(self):
        self.hired += 1
        return self

    def listen(self, hands, seconds):
        time.sleep(0.01)
        return list(hands) if self.dead else []

    def receive(self):
        raise Died("exit status 1")

    def kill(self):
        self.killed += 1


@pytest.mark.parametrize(("dead", "detail"), [(True, "exit status 1"), (False, "nothing heard within 0.05 s")])
def test_workers_that_never_start_are_one_line(dead, detail):
    launcher = Mute(dead)
    with pytest.raises(SimulationError, match=f"no worker starts; the last one: {detail}"):
        list(Crew(launcher, 1, Patience(start=0.05), Report()).run(JOBS))
    assert launcher.hired == launcher.killed == 3


def test_patience_grows_with_what_was_measured_and_with_tries():
    assert Patience(7.0).seconds(1000.0, 2) == 7.0
    assert Patience().seconds(None, 0) == 1800
    assert Patience().seconds(2.0, 0) == 60
    assert Patience().seconds(30.0, 0) == 300
    assert Patience().seconds(30.0, 2) == 4800
    for bad in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="timeout must be > 0"):
            Patience(bad)


def test_answers_to_another_job_are_refused(truth):
    message = Answer(tuple(truth[0])).pack()
    assert list(Answer.unpack(message, JOBS[0]).episodes) == truth[0]
    with pytest.raises(ValueError, match=r"answer must hold task point, seeds 5 to 8"):
        Answer.unpack(message, JOBS[1])
    assert str(Job("c", "push", (3,))) == "task push, seed 3"
    assert str(Job("c", "push", (3, 5))) == "task push, seeds 3, 5"


@pytest.mark.parametrize(
    ("workers", "options", "message"),
    [
        (-1, {}, "workers must be >= 0, got -1"),
        (0, {"launcher": "slurm"}, "launcher must be one of processes, ray, got slurm"),
        (0, {"launcher": "ray"}, "workers must be >= 1 with launcher ray, got 0"),
        (2, {"address": "auto"}, "ray_address must be left out where launcher is not ray, got auto"),
        (2, {"timeout": 0}, "timeout must be > 0"),
    ],
)
def test_impossible_options_are_named(workers, options, message):
    with pytest.raises(ValueError, match=message):
        list(as_done(JOBS, healthy(), workers, **options))


def test_ctrl_c_is_the_parents_alone():
    """Asked in a fresh process, because the first worker is started differently from all others."""
    script = (
        "import os, signal\n"
        "from tests.rollout.faulty import healthy\n"
        "from trcl_policy.rollout.launchers import Processes\n"
        "if __name__ == '__main__':\n"
        "    hand = Processes(healthy()).hire()\n"
        "    signal.signal(signal.SIGINT, lambda *_: print('heard'))\n"
        "    os.kill(int(hand.name.split()[1]), signal.SIGINT)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print(b'pid' in hand.receive())\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    words = [sys.executable, "-c", script]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert (done.stdout.split(), done.stderr) == (["heard", "True"], "")


def test_a_worker_leaves_with_whoever_hired_it():
    hand = Processes(healthy()).hire()
    assert b"pid" in hand.receive()
    (child,) = children()
    hand.pipe.close()
    assert child.wait(10) == 0
    hand.kill()
