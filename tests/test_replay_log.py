"""What a run writes about its replayed samples."""

import json

import pytest
import torch

from tests.continual.toy import TRAINING, Toy, make_params, make_tasks, method
from tests.tiny import TASKS, tiny
from trcl_policy.continual.learner import learn
from trcl_policy.continual.params import concatenate
from trcl_policy.continual.streams import Streams
from trcl_policy.continual.tasks import Task, TaskSequence
from trcl_policy.files import read_safetensors
from trcl_policy.replay_log import generation, log_replay, read_replay

__all__ = ["tiny"]


@pytest.fixture
def drawn():
    """Tasks of which the second comes back, and a learner's state with a pool of the first two tasks."""
    first, second, _ = make_tasks()
    again = Task("first#2", first.samples, first.condition, first.held_out)
    tasks = TaskSequence((first, second, again))
    pool = concatenate([first.samples.batch, second.samples.batch])
    return tasks, {f"replay/pool/{key}": leaf for key, leaf in pool.items()}


def test_every_old_task_gets_one_line_however_often_it_is_asked_for(drawn, tmp_path):
    tasks, state = drawn
    path = tmp_path / "replay.jsonl"
    for _ in range(2):
        log_replay(path, state, tasks, 1)
    lines = read_replay(path)
    assert [(line["after"], line["task"], line["generation"]) for line in lines] == [
        ("second", "first", 2),
        ("second", "second", 1),
    ]
    assert [line["num_samples"] for line in lines] == [40, 30]
    assert [(line["num_made"], line["real"]["num_made"], line["other"]["num_made"]) for line in lines] == [
        (40, 40, 30),
        (30, 30, 30),
    ]
    path.write_text(path.read_text().splitlines()[0] + '\n{"after": "sec')  # killed while writing
    log_replay(path, state, tasks, 1)
    assert read_replay(path) == lines


def test_generations_begin_again_when_a_task_comes_back(drawn):
    tasks, _ = drawn
    first, second, _ = tasks
    assert [generation(tasks, first, index) for index in (0, 1, 2)] == [1, 2, 1]
    assert generation(tasks, second, 2) == 2


def test_nothing_is_written_where_nothing_can_be_measured(drawn, tmp_path):
    tasks, state = drawn
    path = tmp_path / "replay.jsonl"
    log_replay(path, {"anchor/theta": torch.zeros(3)}, tasks, 1)
    noisy = {f"{key}_noisy": leaf for key, leaf in state.items()}
    log_replay(path, noisy, tasks, 1)
    single = {key: leaf[[0, -1]] for key, leaf in state.items()}  # one sample a task has no neighbour
    log_replay(path, single, tasks, 1)
    blind = TaskSequence(tuple(Task(task.name, task.samples, task.condition) for task in tasks))
    log_replay(path, state, blind, 1)
    assert not path.exists()
    assert read_replay(path) == []


def test_logging_leaves_the_state_and_the_streams_as_they_were(drawn, tmp_path):
    tasks, state = drawn
    before = torch.get_rng_state(), {key: leaf.clone() for key, leaf in state.items()}
    log_replay(tmp_path / "replay.jsonl", state, tasks, 1)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert all(torch.equal(leaf, before[1][key]) for key, leaf in state.items())


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        *(("replay", [20, 20, 20]), ("er", [10, 10, 10])),
        *(("replay_dark", [20, 20]), ("trcl", [20, 20]), ("er_distill", []), ("finetune", [])),
    ],
)
def test_every_replay_with_samples_is_measured_and_changes_nothing_of_the_run(tmp_path, name, sizes):
    def weights(path):
        tasks, streams = make_tasks(), Streams(0)
        for snapshot in learn(Toy(), make_params(), tasks, method(name), TRAINING, streams):
            if snapshot.kind == "settled" and path:
                log_replay(path, snapshot.state(), tasks, snapshot.position.task)
        return snapshot.theta

    path = tmp_path / "replay.jsonl"
    assert torch.equal(weights(path), weights(None))
    assert [line["num_samples"] for line in read_replay(path)] == sizes


@pytest.mark.sim
def test_a_run_writes_the_quality_of_each_pool_and_what_it_cost(tiny):
    lines = read_replay(tiny.finished / "replay.jsonl")
    found = [(line["after"], line["task"], line["generation"], line["num_samples"]) for line in lines]
    assert found == [(TASKS[0], TASKS[0], 1, 64), (TASKS[1], TASKS[0], 2, 64), (TASKS[1], TASKS[1], 1, 64)]
    assert lines[0]["other"] is None
    assert all(line["real"]["radius"] == line["radius"] == line["other"]["radius"] > 0 for line in lines[1:])
    cost = json.loads((tiny.finished / "metrics.json").read_text())["cost"]
    assert cost["seconds"]["replay"] > 0
    state = read_safetensors(tiny.finished / "state" / "learner.safetensors")[0]
    held = [leaf.numel() * leaf.element_size() for key, leaf in state.items() if key.startswith("replay/")]
    assert cost["bytes"]["replay"] == sum(held)
