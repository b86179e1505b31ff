import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.killed_writer import TASKS, append_in_child, episode
from trcl_policy.data.store import Episode, EpisodeStore, StoredTask
from trcl_policy.files import FileError

FACTS = [StoredTask(TASKS[0], 12.5), StoredTask(TASKS[1], 80.0)]


def make(path, numbers=(), tasks=FACTS, **kwargs) -> Path:
    with EpisodeStore.create(path, tasks, **kwargs) as store:
        store.extend([episode(number) for number in numbers])
    return path


def assert_holds(path, numbers) -> None:
    """The store holds exactly these episodes, read by us and, row for row, by plain zarr."""
    store = EpisodeStore.open(path)
    assert len(store) == len(numbers)
    for (start, stop), number in zip(store.episodes_of(), numbers, strict=True):
        wanted = episode(number)
        np.testing.assert_array_equal(store.read("observation.state")[start:stop], wanted.state.astype(np.float32))
        np.testing.assert_array_equal(store.read("action")[start:stop], wanted.action.astype(np.float32))
        np.testing.assert_array_equal(store.read("success")[start:stop], wanted.success)
    assert store.attempts_of(TASKS[0]).tolist() == [2 * number for number in numbers]


# ---- layout ----


def test_layout_on_disk_is_diffusion_policys_in_zarr_format_2(tmp_path):
    path = make(tmp_path / "s.zarr", [0, 1, 2], provenance={"who": "test"})
    root = zarr.open_group(path, mode="r")
    assert root.metadata.zarr_format == 2
    assert {name: (a.shape, str(a.dtype)) for name, a in root["data"].arrays()} == {
        "observation.state": ((12, 5), "float32"),
        "action": ((12, 2), "float32"),
        "success": ((12,), "bool"),
    }
    assert root["meta/episode_ends"][:].tolist() == [3, 7, 12]
    assert root["meta/episode_ends"].dtype == root["meta/task"].dtype == np.int64
    assert root.attrs["task_names"] == list(TASKS)
    assert root.attrs["control_frequency"] == [12.5, 80.0]
    assert root.attrs["provenance"] == {"who": "test"}


def test_image_keys_are_stored_in_chunks_of_few_frames(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (6, 96, 96, 3), dtype=np.uint8)
    with EpisodeStore.create(tmp_path / "s", FACTS) as store:
        store.append(replace(episode(3), images={"corner": frames}))
        np.testing.assert_array_equal(store.read("observation.images.corner"), frames)
        assert store.keys == ("action", "observation.images.corner", "observation.state", "success")
        assert store.cameras == ("corner",)
        assert set(store.arrays(TASKS[0])) == {"action", "observation.state", "success", "episode_ends"}
        assert store.arrays(TASKS[0], store.keys)["observation.images.corner"].shape == frames.shape
    assert zarr.open_group(tmp_path / "s")["data/observation.images.corner"].chunks == (4, 96, 96, 3)


@settings(max_examples=10, deadline=None)
@given(rows=st.lists(st.integers(0, 29), max_size=12), cache=st.sampled_from([1, 60_000, 2**28]))
def test_rows_are_taken_in_any_order_through_a_cache_of_any_size(image_store, rows, cache):
    path, frames = image_store
    store = EpisodeStore.open(path)
    for wanted in (np.array(rows, np.int64), np.array([rows, rows[::-1]], np.int64)):
        taken = store.take("observation.images.corner", wanted, cache)
        np.testing.assert_array_equal(taken, frames[wanted])
    np.testing.assert_array_equal(store.take("action", np.array([3, 1])), store.read("action")[[3, 1]])


@pytest.fixture(scope="module")
def image_store(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "s"
    frames = np.random.default_rng(0).integers(0, 255, (30, 64, 80, 3), dtype=np.uint8)
    with EpisodeStore.create(path, FACTS) as store:
        store.append(replace(episode(0, length=18), images={"corner": frames[:18]}))
        store.append(replace(episode(1, length=12), images={"corner": frames[18:]}))
    return path, frames


def test_rows_out_of_range_and_damaged_chunks_are_named(image_store, tmp_path):
    path = shutil.copytree(image_store[0], tmp_path / "s")
    store, key = EpisodeStore.open(path), "observation.images.corner"
    with pytest.raises(ValueError, match=r"rows must lie in 0\.\.29, got 3 to 30"):
        store.take(key, np.array([3, 30]))
    chunk = path / "data" / key / "0.0.0.0"
    chunk.write_bytes(chunk.read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"0\.0\.0\.0 must be a whole chunk, got bytes that can't be decoded"):
        store.take(key, np.array([0]))
    chunk.write_bytes(bytes(10**6))
    with pytest.raises(ValueError, match="1000000 bytes where 126976 are the most"):
        store.take(key, np.array([0]))
    chunk.unlink()
    with pytest.raises(FileError, match="can't read"):
        store.take(key, np.array([0]))


def test_extra_arrays_keep_their_types(tmp_path):
    extra = {"next.reward": np.arange(4, dtype=np.float64), "depth": np.ones((4, 2, 3), np.uint16)}
    with EpisodeStore.create(tmp_path / "s", FACTS) as store:
        store.append(replace(episode(1), extra=extra))
        with pytest.raises(ValueError, match=r"next\.reward must be of type float64 as stored, got float32"):
            store.append(replace(episode(1), extra={**extra, "next.reward": np.zeros(4, np.float32)}))
        with pytest.raises(ValueError, match=r"next\.reward must have one row per step \(4 >= 1\), got shape \(3,\)"):
            store.append(replace(episode(1), extra={**extra, "next.reward": np.zeros(3)}))
    store = EpisodeStore.open(tmp_path / "s")
    for key, value in extra.items():
        np.testing.assert_array_equal(store.read(key), value)
        assert store.read(key).dtype == value.dtype


def blocks_of(number, size, dtype=np.float32):
    arrays = episode(number).arrays().items()
    whole = {key: value.astype(dtype) if value.dtype.kind == "f" else value for key, value in arrays}
    for start in range(0, len(whole["action"]), size):
        yield {key: value[start : start + size] for key, value in whole.items()}


def test_episode_in_blocks_is_the_episode(tmp_path):
    with EpisodeStore.create(tmp_path / "s", FACTS) as store:
        assert [store.append_blocks(TASKS[0], blocks_of(n, 2), attempt=2 * n) for n in (2, 3)] == [5, 6]
    assert_holds(tmp_path / "s", [2, 3])


def test_blocks_that_stop_fitting_leave_nothing(tmp_path):
    def broken(dtype=np.float32):
        yield from blocks_of(2, 2, dtype)
        yield {key: rows[:1] for key, rows in next(blocks_of(0, 1)).items() if key != "action"}

    with EpisodeStore.create(tmp_path / "s", FACTS) as store:
        with pytest.raises(ValueError, match="keys of an episode must be"):
            store.append_blocks(TASKS[0], broken())
        store.append_blocks(TASKS[0], blocks_of(3, 4, np.float64), attempt=6)  # other types: nothing stayed behind
        assert store.read("action").dtype == np.float64
        with pytest.raises(ValueError, match="keys of an episode must be"):
            store.append_blocks(TASKS[0], broken(np.float64))
        with pytest.raises(ValueError, match="state must be of type float64 as stored, got float32"):
            store.append_blocks(TASKS[0], blocks_of(2, 2))
        with pytest.raises(ValueError, match="must hold at least one row"):
            store.append_blocks(TASKS[0], [])
    assert len(EpisodeStore.open(tmp_path / "s").read("action")) == 6


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"filters": [{"id": "pickle"}], "dtype": "|O"}, "data/action must be compressed by one of .* got pickle"),
        ({"compressor": {"id": "evil"}}, "data/action must be compressed by one of .* got evil"),
        ({"dtype": "|O"}, r"data/action must hold numbers, got values of type \|O"),
        ({"chunks": [2**29, 2]}, "data/action must have chunks of 1 to 1073741824 bytes, got 4294967296"),
    ],
)
def test_array_that_could_run_code_or_fill_memory_is_refused(tmp_path, change, line):
    path = make(tmp_path / "s", [0, 1])
    description = json.loads((path / "data/action/.zarray").read_text())
    (path / "data/action/.zarray").write_text(json.dumps({**description, **change}))
    with pytest.raises(ValueError, match=line):
        EpisodeStore.open(path)


lengths = st.lists(st.tuples(st.sampled_from(TASKS), st.integers(1, 40)), min_size=1, max_size=8)


@settings(max_examples=10, deadline=None)
@given(plan=lengths, seed=st.integers(0, 99), cut=st.integers(0, 8))
def test_what_goes_in_comes_out_task_by_task(tmp_path_factory, plan, seed, cut):
    rng = np.random.default_rng(seed)
    episodes = [
        Episode(task, rng.normal(size=(n, 3)), rng.uniform(-1, 1, (n, 2)), rng.random(n) < 0.5, attempt=i)
        for i, (task, n) in enumerate(plan)
    ]
    folder = tmp_path_factory.mktemp("store")
    with EpisodeStore.create(folder / "s", FACTS) as store:
        store.extend(episodes[:cut])
        store.extend(episodes[cut:])
    store = EpisodeStore.open(folder / "s")
    for task in TASKS:
        mine = [e for e in episodes if e.task == task]
        arrays = store.arrays(task)
        assert store.num_episodes(task) == len(mine)
        assert arrays["episode_ends"].tolist() == np.cumsum([len(e) for e in mine]).tolist()
        for key, field in (("observation.state", "state"), ("action", "action"), ("success", "success")):
            rows = [e.arrays()[key] for e in mine]
            np.testing.assert_array_equal(arrays[key], np.concatenate(rows) if rows else arrays[key][:0], err_msg=field)
        assert store.attempts_of(task).tolist() == [e.attempt for e in mine]
    assert [tuple(span) for span in store.episodes_of(TASKS[0])] == [
        (int(end) - n, int(end))
        for end, (t, n) in zip(np.cumsum([n for _, n in plan]), plan, strict=True)
        if t == TASKS[0]
    ]


def test_task_without_episodes_reads_empty_with_the_right_shapes(tmp_path):
    arrays = EpisodeStore.open(make(tmp_path / "s", [1])).arrays(TASKS[1])
    assert {key: value.shape for key, value in arrays.items()} == {
        "observation.state": (0, 5),
        "action": (0, 2),
        "success": (0,),
        "episode_ends": (0,),
    }


def test_empty_store_opens(tmp_path):
    store = EpisodeStore.open(make(tmp_path / "s"))
    assert (len(store), store.num_rows, store.keys, store.num_episodes(TASKS[0])) == (0, 0, (), 0)
    assert len(store.fingerprint()) == 64


# ---- fingerprint ----


def rewritten(source: Path, target: Path, chunks: int, compressors) -> Path:
    """Copy a store array by array with other chunks and another compression."""
    old, new = zarr.open_group(source, mode="r"), zarr.open_group(target, mode="w", zarr_format=2)
    new.attrs.update(old.attrs.asdict())
    for group in ("data", "meta"):
        for name, array in old[group].arrays():
            copy = new.create_array(
                f"{group}/{name}",
                shape=array.shape,
                dtype=array.dtype,
                chunks=(chunks, *array.shape[1:]),
                compressors=compressors,
            )
            copy[:] = array[:]
    return target


@settings(max_examples=4, deadline=None)
@given(chunks=st.integers(1, 30), batches=st.integers(1, 4))
def test_fingerprint_ignores_chunks_compression_and_the_order_of_calls(tmp_path_factory, chunks, batches):
    folder = tmp_path_factory.mktemp("store")
    wanted = EpisodeStore.open(make(folder / "a", [0, 1, 2, 3])).fingerprint()
    assert EpisodeStore.open(rewritten(folder / "a", folder / "b", chunks, None)).fingerprint() == wanted
    with EpisodeStore.create(folder / "c", FACTS, {"other": "provenance"}) as store:
        for start in range(0, 4, batches):
            store.extend([episode(n) for n in range(start, min(4, start + batches))])
        assert store.fingerprint() == wanted


@pytest.mark.parametrize("change", ["state", "action", "success", "task", "border", "name", "frequency"])
def test_fingerprint_sees_every_change_of_contents(tmp_path, change):
    one, two = episode(1, length=4), episode(2, length=4)
    changed = {
        "state": replace(one, state=one.state + np.eye(4, 5) * 1e-3),
        "action": replace(one, action=-one.action),
        "success": replace(one, success=~one.success),
        "task": replace(one, task=TASKS[1]),
        "border": replace(one, state=one.state[:3], action=one.action[:3], success=one.success[:3]),
    }.get(change, one)
    both = [np.concatenate([getattr(one, f), getattr(two, f)]) for f in ("state", "action", "success")]
    rest = Episode(TASKS[0], *[array[len(changed) :] for array in both]) if change == "border" else two
    facts = {
        "name": [StoredTask(TASKS[0], 12.5), StoredTask("x", 80.0)],
        "frequency": [FACTS[0], StoredTask(TASKS[1], 81.0)],
    }
    with (
        EpisodeStore.create(tmp_path / "a", FACTS) as a,
        EpisodeStore.create(tmp_path / "b", facts.get(change, FACTS)) as b,
    ):
        a.extend([one, two])
        b.extend([changed, rest])
        assert a.num_rows == b.num_rows
        assert a.fingerprint() != b.fingerprint()


# ---- crashes ----


@pytest.mark.parametrize("half", [False, True])
def test_append_killed_at_any_file_leaves_whole_episodes_and_can_go_on(tmp_path, half):
    reference = make(tmp_path / "whole", [0, 1, 2])
    start = make(tmp_path / "start", [0])
    outcomes = set()
    for point in (2, 5, 9, 12, 99) if half else range(1, 40):
        path = shutil.copytree(start, tmp_path / f"s{point}")
        code = append_in_child(path, [1], point, half)
        held = len(EpisodeStore.open(path))  # a reader sees whole episodes only, before anything is repaired
        assert_holds(path, [0, 1][:held])
        with EpisodeStore.open(path, "a") as store:
            lengths = {array.shape[0] for _, array in zarr.open_group(path, mode="r")["data"].arrays()}
            assert lengths == {store.num_rows}  # readers that know nothing of surplus rows see none
            store.extend([episode(n) for n in range(held, 3)])
        assert EpisodeStore.open(path).fingerprint() == EpisodeStore.open(reference).fingerprint()
        assert not list(path.rglob("*.partial"))
        outcomes.add((code, held))
        if code == 0:
            break
    assert outcomes == {(-9, 1), (0, 2)}
    assert point > 12


def test_first_append_killed_at_any_file_leaves_an_empty_store(tmp_path):
    start = make(tmp_path / "start")
    for point in (1, 2, 3, 5, 8, 12, 15, 18):
        path = shutil.copytree(start, tmp_path / f"s{point}")
        assert append_in_child(path, [1, 2], point, half=False) == -9
        assert len(EpisodeStore.open(path)) == 0
        with EpisodeStore.open(path, "a") as store:
            assert sorted(os.listdir(path / "data")) == [".zattrs", ".zgroup"]
            store.append(episode(3))
        assert_holds(path, [3])


def test_failed_append_changes_nothing_and_the_next_one_succeeds(tmp_path, monkeypatch):
    path = make(tmp_path / "s", [0])
    with EpisodeStore.open(path, "a") as store:
        import trcl_policy.data.store as module

        place, calls = module.place, []

        def full(array, start, rows):
            calls.append(array)
            if len(calls) == 3:
                raise OSError(28, "No space left on device")
            place(array, start, rows)

        monkeypatch.setattr(module, "place", full)
        with pytest.raises(FileError, match=f"can't write {path}: no space left on device"):
            store.append(episode(1))
        assert len(store) == 1
        store.append(episode(2))
    assert_holds(path, [0, 2])


def test_create_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    replace_file = os.replace

    def refuse(source, target):
        if str(target) == str(tmp_path / "s"):
            raise OSError(28, "No space left on device")
        replace_file(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(FileError, match="no space left on device"):
        EpisodeStore.create(tmp_path / "s", FACTS)
    assert os.listdir(tmp_path) == []


def test_second_writer_is_kept_out_until_the_first_closes(tmp_path):
    path = make(tmp_path / "s", [0])
    first = EpisodeStore.open(path, "a")
    with pytest.raises(FileError, match=r"another process .* is appending"):
        EpisodeStore.open(path, "a")
    assert len(EpisodeStore.open(path)) == 1
    first.close()
    first.close()
    EpisodeStore.open(path, "a").close()
    with pytest.raises(ValueError, match="mode must be 'a' to change a store"):
        first.append(episode(1))


# ---- tasks and provenance ----


def test_tasks_and_provenance_can_be_added_later(tmp_path):
    path = make(tmp_path / "s", [0], provenance={"a": 1})
    with EpisodeStore.open(path, "a") as store:
        store.add_task(StoredTask("door-open-v3", 80.0))
        store.add_task(StoredTask("door-open-v3", 80.0))
        store.update_provenance({"b": [2]})
        store.append(episode(4, "door-open-v3"))
    store = EpisodeStore.open(path)
    assert store.task_names == (*TASKS, "door-open-v3")
    assert store.provenance == {"a": 1, "b": [2]}
    assert store.num_episodes("door-open-v3") == 1


# ---- errors ----


def bad(field, value):
    return replace(episode(1), **{field: value})


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        (bad("task", "nope"), r"task must be one of \['hammer-v3', 'reach-v3'\], got 'nope'"),
        (bad("action", np.zeros((4, 3))), r"action must have rows of shape \(2,\) as stored, got \(3,\)"),
        (bad("action", np.full((4, 2), np.nan)), "action must be finite, got NaN"),
        (
            bad("state", np.zeros((3, 5))),
            r"observation.state must have one row per step \(4 >= 1\), got shape \(3, 5\)",
        ),
        (bad("success", np.zeros((4, 1), bool)), r"success must have one row per step .* got shape \(4, 1\)"),
        (bad("images", {"c": np.zeros((4, 8, 8, 3), np.uint8)}), r"keys of an episode must be .* got"),
        (Episode(TASKS[0], np.zeros((0, 5)), np.zeros((0, 2)), np.zeros(0, bool)), "one row per step"),
    ],
)
def test_episode_that_does_not_fit_is_refused_and_nothing_is_added(tmp_path, wrong, line):
    path = make(tmp_path / "s", [0])
    with EpisodeStore.open(path, "a") as store, pytest.raises(ValueError, match=line):
        store.extend([episode(1), wrong])
    assert_holds(path, [0])


def set_meta(name, values):
    def damage(path):
        zarr.open_group(path, mode="r+")[f"meta/{name}"][:] = values

    return damage


def set_attribute(name, value):
    return lambda path: zarr.open_group(path, mode="r+").attrs.update({name: value})


def remove(name):
    return lambda path: shutil.rmtree(path / name)


def put_nan(path):
    zarr.open_group(path, mode="r+")["data/action"][3, 1] = np.nan


def shorten(path):
    zarr.open_group(path, mode="r+")["data/action"].resize((5, 2))


def flatten(path):
    zarr.open_group(path, mode="r+").create_array("data/action", data=np.zeros(20, np.float32), overwrite=True)


def scramble(path):
    (path / "data/action/0.0").write_bytes(b"nonsense")


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (set_meta("episode_ends", [3, 2, 12]), r"meta/episode_ends must rise from above 0, got \[ 3 2 12\]"),
        (set_meta("episode_ends", [-5, 7, 12]), "meta/episode_ends must rise"),
        (set_meta("episode_ends", [3, 3, 12]), "meta/episode_ends must rise"),
        (set_meta("episode_ends", [3, 7, 13]), r"data/\S+ must have 13 rows, got 12"),
        (set_meta("task", [0, 2, 0]), r"meta/task must lie in 0..1, got \[2\]"),
        (set_meta("task", [0, -1, 0]), r"meta/task must lie in 0..1, got \[-1\]"),
        (set_attribute("task_names", "hammer"), "attribute task_names must be a list .* got hammer"),
        (set_attribute("control_frequency", [1.0]), r"attribute control_frequency must have 2 entries, got \[1.0\]"),
        (remove("data"), "groups must include data and meta, got none called data"),
        (remove("data/success"), "data must hold .* got none called success"),
        (remove("meta/episode_ends"), "meta/episode_ends must be there"),
        (remove("meta/task"), "meta/task must be there"),
        (lambda path: (path / "data/action/0.0").unlink(), "data/action must be finite"),
        (put_nan, "data/action must be finite, got NaN or infinity in 1 rows"),
        (shorten, "data/action must have 12 rows, got 5"),
        (flatten, r"data/action must be of shape \(rows, dimension\), got \(20,\)"),
        (scramble, "data/action must be whole, got bytes that can't be decoded"),
        (
            lambda path: (path / "meta/task/.zarray").write_text("{"),
            "folder must be a zarr group of format 2, got JSON",
        ),
        (lambda path: (path / ".zgroup").unlink(), "folder must be a zarr group of format 2, got GroupNotFound"),
    ],
)
def test_damaged_store_is_one_clear_line_and_not_touched(tmp_path, damage, line):
    path = make(tmp_path / "s", [0, 1, 2])
    damage(path)
    before = {str(p): p.read_bytes() for p in path.rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match=line) as caught:
        EpisodeStore.open(path, "a")
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert {str(p): p.read_bytes() for p in path.rglob("*") if p.is_file()} == before


def test_store_without_attempts_is_read_and_completed_on_append(tmp_path):
    path = make(tmp_path / "s", [0, 1])
    remove("meta/attempt")(path)
    assert EpisodeStore.open(path).attempts_of(TASKS[0]).tolist() == [-1, -1]
    with EpisodeStore.open(path, "a") as store:
        store.append(episode(2))
        assert store.attempts_of(TASKS[0]).tolist() == [-1, -1, 4]


def test_wrong_arguments_are_named(tmp_path):
    path = make(tmp_path / "s", [0])
    store = EpisodeStore.open(path)
    with pytest.raises(FileError, match=r"can't read .*/no: no such file"):
        EpisodeStore.open(tmp_path / "no")
    with pytest.raises(ValueError, match="mode must be 'r' or 'a', got 'w'"):
        EpisodeStore.open(path, "w")
    with pytest.raises(ValueError, match="must be new or an empty folder"):
        EpisodeStore.create(path)
    with pytest.raises(ValueError, match=r"key must be one of .* got 'actions'"):
        store.read("actions")
    with pytest.raises(ValueError, match=r"task must be one of .* got 'x'"):
        store.arrays("x")
    with pytest.raises(ValueError, match="mode must be 'a' to change a store"):
        store.append(episode(1))
    with EpisodeStore.open(path, "a") as writer:
        with pytest.raises(ValueError, match="control_frequency must be > 0"):
            writer.add_task(StoredTask("new", 0.0))
        with pytest.raises(ValueError, match=r"control_frequency of hammer-v3 must be 12\.5 Hz as stored, got 80\.0"):
            writer.add_task(StoredTask(TASKS[0], 80.0))
        with pytest.raises(ValueError, match="JSON compliant"):
            writer.update_provenance({"x": float("nan")})
    assert json.loads((path / ".zattrs").read_text())["task_names"] == list(TASKS)
