"""Which classes come when, and what is held out."""

from collections import Counter

import pytest
import torch

from tests.images.small import blob_tasks, blobs
from trcl_policy.images.labelled import Labelled
from trcl_policy.images.settings import ImageData, ImagesConfig, ImageSplit
from trcl_policy.images.tasks import make_tasks, parted, task_classes

NAMES = tuple("abcdefghij")


def test_classes_are_dealt_out_in_order_or_in_a_random_one():
    assert task_classes(NAMES, ImageSplit(num_tasks=5)) == ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))
    assert task_classes(NAMES, ImageSplit(num_tasks=2, num_classes=4)) == ((0, 1), (2, 3))
    shuffled = task_classes(NAMES, ImageSplit(num_tasks=5, order_seed=1))
    assert sorted(c for task in shuffled for c in task) == list(range(10))
    assert shuffled == task_classes(NAMES, ImageSplit(num_tasks=5, order_seed=1))
    assert shuffled != task_classes(NAMES, ImageSplit(num_tasks=5, order_seed=2))


def test_random_orders_permute_all_classes_uniformly():
    """Any class comes at any place, and any two meet in a task as often as chance has it (1 in 9)."""
    first, together, count = Counter(), 0, 600
    for seed in range(count):
        tasks = task_classes(NAMES, ImageSplit(num_tasks=5, order_seed=seed))
        first[tasks[0][0]] += 1
        together += any(set(task) == {0, 1} for task in tasks)
    assert set(first) == set(range(10))
    assert sum((n - count / 10) ** 2 / (count / 10) for n in first.values()) < 27.9  # chi-square, 9, p = .001
    assert abs(together / count - 1 / 9) < 3.3 * (8 / 81 / count) ** 0.5


def test_classes_can_be_listed(tmp_path):
    wanted = ((2, 0), (9,))
    assert task_classes(NAMES, ImageSplit(classes=(("c", "a"), ("j",)))) == wanted
    assert task_classes(NAMES, ImageSplit(classes=((2, "a"), (9,)))) == wanted
    for text in ("[[c, 0], [j]]", "tasks:\n  - [c, a]\n  - [9]\n"):
        (tmp_path / "split.yaml").write_text(text)
        assert task_classes(NAMES, ImageSplit(file=str(tmp_path / "split.yaml"))) == wanted
    assert task_classes(("7", "8"), ImageSplit(classes=((8,), (7,)))) == ((1,), (0,)), "7 is no index, but a name"


FAULTS = {
    "unknown": ({"classes": (("a", "x"),)}, "classes must be among a, b, c, .*, got 'x'"),
    "number": ({"classes": ((10,),)}, "classes must be among .*, got 10"),
    "twice": ({"classes": (("a", "b"), ("c", 0))}, "classes must be in one task each, got a twice"),
    "empty": ({"classes": (("a",), ())}, "classes must be at least one of every task"),
    "uneven": ({"num_tasks": 3}, "num_tasks must divide the 10 classes, got 3"),
    "too many": ({"num_classes": 11}, "num_classes must be <= 10, the classes there are, got 11"),
    "both": ({"classes": (("a",),), "order_seed": 0}, "order_seed and num_classes must be unset"),
    "none": ({"num_tasks": 0}, "num_tasks must be >= 1"),
    "seed": ({"order_seed": -1}, "order_seed must be >= 0 or null, got -1"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_splits_that_do_not_fit_are_one_line(fault):
    options, message = FAULTS[fault]
    with pytest.raises(ValueError, match=message) as caught:
        task_classes(NAMES, ImageSplit(**options))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["a: 1", "[a, b]", "[]", "[[a, 1.5]]", "[[a", "tasks: 3"])
def test_split_files_that_hold_no_lists_are_one_line(tmp_path, text):
    path = tmp_path / "split.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"{path} must") as caught:
        task_classes(NAMES, ImageSplit(file=str(path)))
    assert "\n" not in str(caught.value)


def test_every_class_is_divided_by_its_own_seed():
    images, data = blobs(20, 4), ImageData(held_out=0.25)
    train, held_out = parted(images, range(4), data)
    assert sorted([*train.tolist(), *held_out.tolist()]) == list(range(80))
    assert images.labels[held_out].bincount().tolist() == [5] * 4
    again = parted(images, [3], data)[1]
    assert set(again.tolist()) == {n for n in held_out.tolist() if n >= 60}
    other = parted(images, range(4), ImageData(held_out=0.25, seed=1))[1]
    assert set(other.tolist()) != set(held_out.tolist())
    few = parted(images, range(4), ImageData(held_out=0.25, per_class=8))
    assert [len(part) for part in few] == [24, 8]


def test_a_class_without_enough_images_is_named():
    short = Labelled(torch.zeros(3, 1, 2, 2), torch.tensor([0, 0, 1]), ("a", "b"))
    with pytest.raises(ValueError, match="class b must have images to train on and to hold out, got 1"):
        make_tasks(short, ImagesConfig(data=ImageData(held_out=0.5), split=ImageSplit(num_tasks=2)))
    unused = Labelled(short.images, short.labels, ("a", "b", "c"))
    with pytest.raises(ValueError, match=r"class c must have images .*, got 0"):
        make_tasks(unused, ImagesConfig(data=ImageData(held_out=0.5), split=ImageSplit(classes=(("a",), ("c",)))))


def test_tasks_carry_their_images_labels_and_conditions():
    tasks = blob_tasks()
    sequence = tasks.sequence()
    assert tasks.names == ("1:a+b", "2:c+d")
    assert [task.name for task in sequence] == ["1:a+b", "2:c+d"]
    assert sequence[1].condition["label"].tolist() == [2, 3]
    batch = sequence[1].samples.gather(torch.arange(len(sequence[1].samples)))
    assert set(batch["label"].tolist()) == {2, 3}
    assert torch.equal(batch["x"].view(-1, 1, 8, 8), tasks.real(1, held_out=False).images)
    held = sequence[1].held_out
    assert torch.equal(held.gather(torch.tensor([0]))["x"].view(1, 8, 8), tasks.real(1, held_out=True).images[0])
    assert not {row.tobytes() for row in batch["x"].numpy()} & {
        row.tobytes() for row in held.gather(torch.arange(len(held)))["x"].numpy()
    }


def test_a_task_conditioned_sequence_names_only_tasks():
    tasks = blob_tasks("task")
    assert tasks.num_labels == 2
    sequence = tasks.sequence()
    assert sequence[1].condition["label"].tolist() == [1]
    assert set(sequence[1].samples.gather(torch.arange(12))["label"].tolist()) == {1}
    with pytest.raises(ValueError, match="condition must be one of class, task, got 'both'"):
        ImagesConfig(condition="both")


def test_long_tasks_have_short_names():
    images = blobs(4, 8)
    tasks = make_tasks(images, ImagesConfig(data=ImageData(held_out=0.5), split=ImageSplit(num_tasks=1)))
    assert tasks.names == ("1:a+b+c+d+4 more",)
