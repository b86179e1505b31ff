"""Conversions between the formats: round trips, what is refused, and what a stop leaves."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.killed_conversion import convert_in_child
from tests.data.sets import TASKS, assert_equal_stores, episodes, make_store
from trcl_policy.cli import main
from trcl_policy.data import contents, lerobot_writing, robomimic_writing
from trcl_policy.data.contents import Choices, all_rows
from trcl_policy.data.convert import FORMATS, convert, detect, guess, open_source
from trcl_policy.data.store import Episode, EpisodeStore, StoredTask
from trcl_policy.files import FileError

NAMES = {"zarr": "x.zarr", "robomimic": "x.hdf5", "lerobot": "x", "diffusion_policy": "x.zarr.zip"}
PICTURES = ("observation.images.corner", "observation.images.hand")
OTHERS = [name for name in FORMATS if name != "zarr"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("source") / "s.zarr", cameras=("corner", "hand"))


# ---- round trips ----


@pytest.mark.parametrize("form", [*OTHERS, "folder"])
def test_round_trip_is_identical(store, tmp_path, form):
    name = "x.dp" if form == "folder" else NAMES[form]
    there = convert(store, tmp_path / name, "diffusion_policy" if form == "folder" else form, progress=False)
    back = convert(tmp_path / name, tmp_path / "back.zarr", progress=False)
    assert_equal_stores(store, tmp_path / "back.zarr")
    assert there.fingerprint == back.fingerprint == EpisodeStore.open(store).fingerprint()
    assert (there.episodes, there.rows, there.losses, there.errors, there.resumed) == (3, 11, (), (), 0)
    assert sorted(os.listdir(tmp_path)) == sorted([name, "back.zarr"])


@pytest.mark.slow
def test_chain_through_every_format_is_identical(store, tmp_path):
    path = store
    for number, form in enumerate(("lerobot", "robomimic", "diffusion_policy", "zarr")):
        path = convert(path, tmp_path / f"{number}-{NAMES[form]}", form, progress=False).path
    assert_equal_stores(store, path)


@pytest.mark.parametrize("form", OTHERS)
@settings(max_examples=2, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=5),
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    dtype=st.sampled_from([np.float32, np.float64]),
    extra=st.sampled_from(
        [("<f2", ()), ("<f8", (2, 3)), ("<u1", (1,)), ("<i8", (4,)), ("|b1", (2,)), ("<u2", (4, 5, 1))]
    ),
    seed=st.integers(0, 99),
)
def test_any_small_store_comes_back(tmp_path_factory, form, lengths, sizes, dtype, extra, seed):
    folder, rng = tmp_path_factory.mktemp("any"), np.random.default_rng(seed)
    kind, shape = np.dtype(extra[0]), extra[1]
    with EpisodeStore.create(folder / "s.zarr", [StoredTask("only", 12.5)]) as made:
        for length in lengths:
            more = rng.integers(0, 2, (length, *shape)).astype(kind)
            whole = Episode("only", *(rng.normal(size=(length, n)) for n in sizes), rng.random(length) < 0.5)
            block = replace(whole, extra={"more": more}).arrays()
            made.append_blocks("only", [{k: v.astype(dtype) if v.dtype == np.float32 else v for k, v in block.items()}])
    convert(folder / "s.zarr", folder / NAMES[form], form, progress=False)
    convert(folder / NAMES[form], folder / "b.zarr", progress=False)
    assert_equal_stores(folder / "s.zarr", folder / "b.zarr")


@pytest.mark.parametrize("form", ["zarr", "robomimic", "lerobot"])
def test_blocks_of_one_row_change_nothing(store, tmp_path, monkeypatch, form):
    monkeypatch.setattr(contents, "BLOCK_BYTES", 1)
    monkeypatch.setattr(lerobot_writing, "BLOCK_BYTES", 1)
    monkeypatch.setattr(robomimic_writing, "PART_BYTES", 1)
    monkeypatch.setattr(lerobot_writing, "DATA_MB", 0)  # a shard an episode
    asked = []
    source = type(open_source(store, Choices()))
    rows = source.rows
    monkeypatch.setattr(source, "rows", lambda self, *a: asked.append(a[3] - a[2]) or rows(self, *a))
    convert(store, tmp_path / NAMES[form], form, progress=False)
    assert set(asked) == {1}  # nothing larger is ever in memory
    monkeypatch.undo()
    convert(tmp_path / NAMES[form], tmp_path / "back.zarr", progress=False)
    assert_equal_stores(store, tmp_path / "back.zarr")
    if form == "lerobot":
        assert len(list((tmp_path / "x/data").glob("*/*.parquet"))) == 3
        assert len(list((tmp_path / "x/videos/observation.images.hand").glob("*/*.mp4"))) == 3


def test_compressed_video_differs_by_what_is_told(store, tmp_path):
    report = convert(store, tmp_path / "l", "lerobot", Choices(video_quality=18), progress=False)
    convert(tmp_path / "l", tmp_path / "back.zarr", progress=False)
    pictures = list(PICTURES)
    assert_equal_stores(store, tmp_path / "back.zarr", without=pictures)
    assert [key for key, *_ in report.errors] == pictures
    one, other = (EpisodeStore.open(path).read(pictures[0]).astype(int) for path in (store, tmp_path / "back.zarr"))
    apart = np.abs(one - other)
    assert 0 < apart.mean() < 6  # tiny pictures of saturated colours, at half their resolution
    assert report.errors[0][1:] == pytest.approx((apart.mean(), apart.max()))


def test_odd_sizes_of_pictures_are_kept(tmp_path):
    path, frames = tmp_path / "s.zarr", np.random.default_rng(0).integers(0, 255, (4, 33, 21, 3), np.uint8)
    with EpisodeStore.create(path, TASKS) as made:
        made.append(replace(next(episodes(cameras=(), extra=False, lengths=(4,))), images={"c": frames}))
    for quality in (0, 20):
        convert(path, tmp_path / f"{quality}", "lerobot", Choices(video_quality=quality), progress=False)
        reader = open_source(tmp_path / f"{quality}", Choices())
        (back,) = all_rows(reader, "observation.images.c")
        assert back.shape == frames.shape
        assert np.array_equal(back, frames) == (quality == 0)


# ---- stops ----


@pytest.mark.parametrize("form", FORMATS)
def test_killed_conversion_goes_on_where_it_was(store, tmp_path, form):
    target = tmp_path / NAMES[form]
    assert convert_in_child(store, target, form, episode=2) == -9
    assert sorted(os.listdir(tmp_path)) == [f".{target.name}.converting"]
    report = convert(store, target, form, progress=False)
    assert report.resumed == 2
    assert sorted(os.listdir(tmp_path)) == [target.name]
    convert(target, tmp_path / "back.zarr", progress=False)
    assert_equal_stores(store, tmp_path / "back.zarr")


def test_other_source_or_other_choices_start_again(store, tmp_path):
    target = tmp_path / "x.zarr"
    assert convert_in_child(store, target, "zarr", episode=2) == -9
    report = convert(store, target, choices=Choices(drop=("next.reward",)), progress=False)
    assert (report.resumed, "next.reward" in EpisodeStore.open(target).keys) == (0, False)


def test_what_was_written_is_compared_with_the_source(store, tmp_path, monkeypatch):
    from trcl_policy.data.diffusion_policy import BufferSink

    append = BufferSink.append

    def wrong(self, episode, blocks):
        changed = ({**block, "action": block["action"] + np.float32(1e-6)} for block in blocks)
        append(self, episode, changed if episode == 1 else blocks)

    monkeypatch.setattr(BufferSink, "append", wrong)
    with pytest.raises(ValueError, match=r"what was written must have the fingerprint .* nothing is kept"):
        convert(store, tmp_path / "x", "diffusion_policy", progress=False)
    assert os.listdir(tmp_path) == []


def test_full_disk_is_one_line_and_can_go_on(store, tmp_path, monkeypatch):
    import trcl_policy.data.store as module

    place, count = module.place, iter(range(10**6))

    def full(*words):
        if next(count) == 20:
            raise OSError(28, "No space left on device")
        place(*words)

    with monkeypatch.context() as patch:
        patch.setattr(module, "place", full)
        with pytest.raises(FileError, match="no space left on device"):
            convert(store, tmp_path / "x.zarr", progress=False)
    assert not (tmp_path / "x.zarr").exists()
    assert convert(store, tmp_path / "x.zarr", progress=False).resumed >= 1
    assert_equal_stores(store, tmp_path / "x.zarr")


def test_two_conversions_to_one_place_do_not_meet(store, tmp_path):
    from trcl_policy.data.arrays import acquire

    (tmp_path / ".x.zarr.converting").mkdir()
    held = acquire(tmp_path / ".x.zarr.converting")
    with pytest.raises(FileError, match="another process"):
        convert(store, tmp_path / "x.zarr", progress=False)
    os.close(held)


# ---- what is refused ----


def test_frequencies_that_differ_are_a_loss_for_lerobot_only(tmp_path):
    path = tmp_path / "s.zarr"
    with EpisodeStore.create(path, [StoredTask(TASKS[0].name, 20.0), StoredTask(TASKS[1].name, 12.5)]) as made:
        made.extend(list(episodes(cameras=(), extra=False)))
    with pytest.raises(ValueError, match=r"would be lost .*control frequencies of 12\.5, 20 Hz: LeRobot has one, 20"):
        convert(path, tmp_path / "l", "lerobot", progress=False)
    assert os.listdir(tmp_path) == ["s.zarr"]
    report = convert(path, tmp_path / "l", "lerobot", Choices(allow_loss=True), progress=False)
    assert len(report.losses) == 1
    convert(tmp_path / "l", tmp_path / "back.zarr", progress=False)  # our own way back still knows them
    assert_equal_stores(path, tmp_path / "back.zarr")


@pytest.mark.parametrize("name", ["timestamp", "task_index", "empty"])
def test_arrays_that_lerobot_can_not_hold_are_named(tmp_path, name):
    extra = {name: np.zeros((3, 0) if name == "empty" else 3)}
    with EpisodeStore.create(tmp_path / "s.zarr", TASKS) as made:
        made.append(replace(next(episodes(cameras=(), extra=False, lengths=(3,))), extra=extra))
    with pytest.raises(ValueError, match=f"arrays need values, and names .* got {name}"):
        convert(tmp_path / "s.zarr", tmp_path / "l", "lerobot", Choices(allow_loss=True), progress=False)


@pytest.mark.parametrize(("form", "foreign"), [("robomimic", "obs.state"), ("diffusion_policy", "state")])
def test_names_that_collide_in_the_other_format(tmp_path, form, foreign):
    with EpisodeStore.create(tmp_path / "s.zarr", TASKS) as made:
        whole = next(episodes(cameras=(), extra=False, lengths=(3,)))
        made.append(replace(whole, extra={foreign: np.zeros((3, 2))}))
    if form == "robomimic":
        with pytest.raises(ValueError, match="must have places of their own in robomimic's layout, got obs/state/ of"):
            convert(tmp_path / "s.zarr", tmp_path / "x", form, progress=False)
        return
    convert(tmp_path / "s.zarr", tmp_path / "x", form, progress=False)
    convert(tmp_path / "x", tmp_path / "b.zarr", progress=False)
    assert_equal_stores(tmp_path / "s.zarr", tmp_path / "b.zarr")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (dict(to="hdf5"), r"to must be one of zarr, robomimic, lerobot, diffusion_policy, got 'hdf5'"),
        (dict(), r"--to must be one of .* where DST's ending does not say it, got out"),
        (dict(to="zarr", choices=Choices(rename_tasks={"x": "y"})), r"rename-tasks must name tasks .* got 'x'"),
        (dict(to="zarr", choices=Choices(rename_tasks={"hammer-v3": "reach-v3"})), "must keep names distinct"),
        (dict(to="lerobot", choices=Choices(video_quality=60)), "video-quality must be in 0 .* to 51, got 60"),
        (dict(to="zarr", choices=Choices(drop=("action",))), "data must hold observation.state and action, got"),
    ],
)
def test_choices_that_do_not_fit_are_one_line(store, tmp_path, words, line):
    with pytest.raises(ValueError, match=line):
        convert(store, tmp_path / "out", progress=False, **words)
    assert os.listdir(tmp_path) == []


def test_existing_target_and_missing_source_are_one_line(store, tmp_path):
    with pytest.raises(ValueError, match=r"DST must be new, got .*, which exists"):
        convert(store, store, "zarr")
    with pytest.raises(FileError, match=r"can't read .*/no: no such file"):
        convert(tmp_path / "no", tmp_path / "x.zarr")
    (tmp_path / "text.hdf5").write_text("no HDF5 at all")
    with pytest.raises(ValueError, match="SRC must be an episode store, a robomimic HDF5"):
        convert(tmp_path / "text.hdf5", tmp_path / "x.zarr")


def test_formats_are_seen_from_contents_and_guessed_from_names(store, tmp_path):
    assert detect(store) == "zarr"
    for form in OTHERS:
        convert(store, tmp_path / f"{form}.bin", form, Choices(drop=PICTURES), progress=False)
        assert detect(tmp_path / f"{form}.bin") == form
    guesses = {"a.hdf5": "robomimic", "a.H5": "robomimic", "a.zarr": "zarr", "a.zarr.zip": "diffusion_policy"}
    assert {name: guess(tmp_path / name) for name in guesses} == guesses


def test_tasks_are_renamed_and_arrays_left_out(store, tmp_path):
    choices = Choices(rename_tasks={"hammer-v3": "strike"}, drop=("contacts", "observation.images.hand"))
    convert(store, tmp_path / "x.zarr", choices=choices, progress=False)
    made = EpisodeStore.open(tmp_path / "x.zarr")
    assert made.task_names == ("strike", "reach-v3")
    assert set(EpisodeStore.open(store).keys) - set(made.keys) == {"contacts", "observation.images.hand"}


# ---- the command ----


def test_command_converts_and_tells(store, tmp_path, capsys):
    assert main(["convert", str(store), str(tmp_path / "a.hdf5")]) == 0
    out = capsys.readouterr()
    assert out.out.startswith(f"{tmp_path}/a.hdf5: robomimic, 3 episodes, 11 rows, fingerprint ")
    assert out.err == ""
    words = [
        "--to",
        "lerobot",
        "--video-quality",
        "20",
        "--rename-tasks",
        "hammer-v3=hit it; reach-v3=go there",
        "--json",
    ]
    assert main(["convert", str(tmp_path / "a.hdf5"), str(tmp_path / "l"), *words]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["episodes"], told["lost"], set(told["errors"])) == (
        3,
        [],
        {"observation.images.corner", "observation.images.hand"},
    )
    assert main(["convert", str(tmp_path / "l"), str(tmp_path / "x.zarr"), "--drop", "contacts,keypoints"]) == 0
    assert EpisodeStore.open(tmp_path / "x.zarr").task_names == ("hit it", "go there")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--too", "zarr"], "unknown option --too (did you mean --to?)"),
        (["--keys", "a"], "--keys must be OLD=NEW pairs joined by ',', got 'a'"),
        (["--to", "hdf5"], "to must be one of zarr, robomimic, lerobot, diffusion_policy, got 'hdf5'"),
        (["--video-quality"], "--video-quality needs a value, got nothing after it"),
    ],
)
def test_command_says_in_one_line_what_is_wrong(store, tmp_path, capsys, words, line):
    assert main(["convert", str(store), str(tmp_path / "x.zarr"), *words]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert line in told.err
    assert os.listdir(tmp_path) == []
