"""However many processes share the work, the same records come back in the same order."""

import functools

import pytest

from tests.tiny import TASKS, tiny
from trcl_envs.interface import SimulationError
from trcl_policy.rollout.evaluate import BLOCK
from trcl_policy.rollout.workers import Job, cut, run_jobs

__all__ = ["tiny"]


def test_work_is_cut_before_it_is_handed_out():
    jobs = cut("there", ["a", "b"], range(2 * BLOCK + 1))
    assert [(job.task, len(job.seeds)) for job in jobs] == [(t, n) for t in "ab" for n in (BLOCK, BLOCK, 1)]
    assert [seed for job in jobs[:3] for seed in job.seeds] == list(range(2 * BLOCK + 1))
    assert {job.checkpoint for job in jobs} == {"there"}


def test_negative_workers_are_refused():
    with pytest.raises(ValueError, match="workers must be >= 0, got -1"):
        list(run_jobs([], None, -1))


@pytest.mark.sim
@pytest.mark.parametrize("count", [2, pytest.param(1, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)])
def test_number_of_workers_changes_nothing(tiny, count):
    from trcl_envs.catalog import make_env

    checkpoint = str(tiny.finished / "checkpoints" / "01")
    jobs = [Job(checkpoint, TASKS[0], (50, 51)), Job(checkpoint, TASKS[1], (50,)), Job(checkpoint, TASKS[1], (51, 52))]
    make = functools.partial(make_env, threads=1)
    here, there = (list(run_jobs(jobs, make, workers)) for workers in (0, count))
    assert here == there
    assert [episode.seed for block in here for episode in block] == [50, 51, 50, 51, 52]


def _dies(task, worlds):
    import os

    os._exit(1)


@pytest.mark.slow
@pytest.mark.sim
def test_a_worker_that_dies_is_one_line(tiny):
    job = Job(str(tiny.finished / "checkpoints" / "00"), TASKS[0], (1,))
    with pytest.raises(SimulationError, match="a worker process died"):
        list(run_jobs([job], _dies, 1))


@pytest.mark.slow
@pytest.mark.sim
def test_damage_found_by_a_worker_keeps_its_message(tiny, tmp_path):
    from trcl_envs.catalog import make_env

    with pytest.raises(OSError, match=r"can.t read .*config\.json: no such file"):
        list(run_jobs([Job(str(tmp_path), TASKS[0], (1,))], functools.partial(make_env, threads=1), 1))
