"""However many workers share the work, and however it is cut, the same records come back in the same order."""

import functools

import pytest

from tests.rollout.fake_sim import PointEnv
from tests.rollout.faulty import harmful, load
from tests.tiny import TASKS, tiny
from trcl_policy.rollout import workers as module
from trcl_policy.rollout.evaluate import BLOCK
from trcl_policy.rollout.jobs import Setup, Worker
from trcl_policy.rollout.workers import Job, cut, run_jobs

__all__ = ["tiny"]


def test_work_is_cut_before_it_is_handed_out():
    jobs = cut("there", ["a", "b"], range(2 * BLOCK + 1))
    assert [(job.task, len(job.seeds)) for job in jobs] == [(t, n) for t in "ab" for n in (BLOCK, BLOCK, 1)]
    assert [seed for job in jobs[:3] for seed in job.seeds] == list(range(2 * BLOCK + 1))
    assert {job.checkpoint for job in jobs} == {"there"}
    assert [job.seeds for job in cut("there", ["a"], range(5), block=2)] == [(0, 1), (2, 3), (4,)]


def test_negative_workers_are_refused():
    with pytest.raises(ValueError, match="workers must be >= 0, got -1"):
        list(run_jobs([], None, -1))


def test_jobs_come_back_in_their_order(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "setup_for", lambda make_env, device: harmful("raise", tmp_path))
    jobs = cut("there", ["point"], [6, 1, 2, 3, 4], block=1)  # the first comes back last: its first try raises
    shuffled = [place for place, _ in module.as_done(jobs, harmful("raise", tmp_path), 0)]
    assert shuffled[0] != 0
    (tmp_path / "again").mkdir()
    monkeypatch.setattr(module, "setup_for", lambda make_env, device: harmful("raise", tmp_path / "again"))
    assert [block[0].seed for block in run_jobs(jobs, None, 0)] == [6, 1, 2, 3, 4]


def test_a_worker_keeps_policy_and_worlds_while_they_fit():
    made, loaded = [], []

    def make_env(task, num_worlds):
        made.append(PointEnv(task, num_worlds))
        return made[-1]

    worker = Worker(Setup(make_env, lambda checkpoint: loaded.append(checkpoint) or load(checkpoint)))
    for checkpoint, task, count in (("a", "x", 3), ("a", "x", 2), ("b", "x", 3), ("b", "x", 30), ("b", "y", 1)):
        worker.work(Job(checkpoint, task, tuple(range(count))))
    assert loaded == ["a", "b"]
    assert [(env.info.name, env.num_worlds, env.closed) for env in made] == [
        ("x", 3, True),
        ("x", BLOCK, True),
        ("y", 1, False),
    ]
    worker.close()
    assert made[-1].closed


@pytest.mark.sim
@pytest.mark.parametrize("count", [2, pytest.param(1, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)])
def test_number_of_workers_changes_nothing(tiny, count):
    from trcl_envs.catalog import make_env

    checkpoint = str(tiny.finished / "checkpoints" / "01")
    jobs = [Job(checkpoint, TASKS[0], (50, 51)), Job(checkpoint, TASKS[1], (50,)), Job(checkpoint, TASKS[1], (51, 52))]
    make = functools.partial(make_env, threads=1)
    here, there = (list(run_jobs(jobs, make, workers)) for workers in (0, count))
    assert here == there
    assert [episode.seed for block in here for episode in block] == [50, 51, 50, 51, 52]


@pytest.mark.sim
def test_how_the_work_is_cut_changes_nothing(tiny):
    from trcl_envs.catalog import make_env

    checkpoint = str(tiny.finished / "checkpoints" / "01")
    make = functools.partial(make_env, threads=1)
    one, three, all_ = (
        [episode for block in run_jobs(cut(checkpoint, [TASKS[0]], range(7), block), make, 0) for episode in block]
        for block in (1, 3, 7)
    )
    assert one == three == all_
    assert len({episode.start for episode in one}) == 7


@pytest.mark.slow
@pytest.mark.sim
def test_damage_found_by_a_worker_keeps_its_message(tiny, tmp_path):
    from trcl_envs.catalog import make_env

    with pytest.raises(OSError, match=r"can.t read .*config\.json: no such file"):
        list(run_jobs([Job(str(tmp_path), TASKS[0], (1,))], functools.partial(make_env, threads=1), 1))
