"""Actors on a Ray cluster of several nodes started on this machine: same records, also when actors and nodes die."""

import builtins
import contextlib
import os
import signal
import threading

import psutil
import pytest

from tests.rollout.faulty import harmful, healthy
from trcl_envs.interface import SimulationError
from trcl_policy.rollout.crew import Report
from trcl_policy.rollout.jobs import cut
from trcl_policy.rollout.workers import as_done

JOBS = cut("there", ["point"], range(1, 13), block=4)


def evaluate(setup, num_workers, jobs=JOBS, **options):
    report = Report()
    done = dict(as_done(jobs, setup, num_workers, report=report, **options))
    return [done[place] for place in range(len(jobs))], report


def test_without_ray_one_line_says_how_to_install_it(monkeypatch):
    original = builtins.__import__

    def without(name, *rest):
        if name == "ray":
            raise ModuleNotFoundError("No module named 'ray'")
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SimulationError, match=r"^Ray is not installed: run pip install .*ray>=2.40"):
        evaluate(healthy(), 1, launcher="ray")


@contextlib.contextmanager
def cluster_of(*cpus):
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    try:
        nodes = [cluster.add_node(num_cpus=count) for count in cpus]
        cluster.wait_for_nodes()
        yield cluster, nodes
    finally:
        cluster.shutdown()


@pytest.fixture(scope="module")
def truth():
    return evaluate(healthy(), 0)[0]


@pytest.mark.slow
def test_two_nodes_give_the_same_records_whatever_happens_to_an_actor(truth, tmp_path):
    with cluster_of(1, 1) as (cluster, _):
        episodes, report = evaluate(healthy(), 2, launcher="ray", address=cluster.address)
        assert episodes == truth
        assert not report.faults
        for kind, seen, timeout in (("kill", "died", None), ("hang", "hung", 20.0), ("raise", "raised", None)):
            (tmp_path / kind).mkdir()
            episodes, report = evaluate(
                harmful(kind, tmp_path / kind), 2, launcher="ray", address=cluster.address, timeout=timeout
            )
            assert episodes == truth, kind
            assert [(fault.kind, fault.seeds) for fault in report.faults] == [(seen, (5, 6, 7, 8))]


@pytest.mark.slow
def test_a_node_that_dies_takes_nothing_along(truth, tmp_path):
    with cluster_of(0, 1, 1) as (cluster, nodes):
        jobs = cut("there", ["point"], range(1, 13), block=4)
        setup = harmful("hang", tmp_path)  # keeps one actor busy until its node is gone

        def end_the_node_of_the_hung_actor():
            while not list(tmp_path.iterdir()):
                threading.Event().wait(0.1)
            actor = psutil.Process(int(next(tmp_path.iterdir()).name.split("-")[0]))
            raylet = next(parent for parent in actor.parents() if "raylet" in parent.name())
            node = next(node for node in nodes if node.all_processes["raylet"][0].process.pid == raylet.pid)
            cluster.remove_node(node, allow_graceful=False)
            if actor.is_running():
                os.kill(actor.pid, signal.SIGKILL)

        killer = threading.Thread(target=end_the_node_of_the_hung_actor)
        killer.start()
        episodes, report = evaluate(setup, 2, jobs, launcher="ray", address=cluster.address)
        killer.join()
        assert episodes == truth
        assert [(fault.kind, fault.seeds) for fault in report.faults] == [("died", (5, 6, 7, 8))]


@pytest.mark.slow
def test_a_cluster_of_this_machine_is_started_and_ended(truth):
    ray = pytest.importorskip("ray")
    episodes, report = evaluate(healthy(), 2, launcher="ray")
    assert episodes == truth
    assert not report.faults
    assert not ray.is_initialized()


@pytest.mark.slow
def test_an_address_where_nobody_answers_is_one_line():
    pytest.importorskip("ray")
    with pytest.raises(SimulationError, match=r"no Ray cluster answers at 127\.0\.0\.1:1"):
        evaluate(healthy(), 1, launcher="ray", address="127.0.0.1:1")
