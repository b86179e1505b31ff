"""diffusion_policy's replay buffer: as its published files are, and damaged or meant to do harm."""

import json
import os
import shutil
import zipfile

import numpy as np
import pytest
import zarr

from tests.data.sets import pictures
from trcl_policy.data.archive import pack
from trcl_policy.data.contents import Choices
from trcl_policy.data.convert import convert
from trcl_policy.data.store import EpisodeStore

HERTZ = Choices(control_frequency=10.0, task="push-t")
LENGTHS = (5, 8, 2)


def write_buffer(path):
    """A folder as the Push-T data set is: pictures as float32, episodes end to end."""
    rng, total = np.random.default_rng(0), sum(LENGTHS)
    root = zarr.open_group(path, mode="w", zarr_format=2)
    arrays = {
        "action": rng.uniform(0, 512, (total, 2)).astype(np.float32),
        "img": pictures(rng, total, 12, 12).astype(np.float32),
        "keypoint": rng.normal(size=(total, 9, 2)).astype(np.float32),
        "n_contacts": rng.integers(0, 4, (total, 1)).astype(np.float32),
        "state": rng.normal(size=(total, 5)).astype(np.float32),
    }
    for name, rows in arrays.items():
        root.create_array(f"data/{name}", data=rows, chunks=(4, *rows.shape[1:]))
    root.create_array("meta/episode_ends", data=np.cumsum(LENGTHS))
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_buffer(tmp_path_factory.mktemp("buffer") / "pusht_cchi_v7_replay.zarr")


def rows_of(path):
    root = zarr.open_group(path, mode="r")
    return {name: array[:] for group in ("data", "meta") for name, array in root[group].arrays()}


@pytest.mark.parametrize("zipped", [False, True])
def test_published_layout_becomes_a_store_and_comes_back(source, tmp_path, zipped):
    path = pack(source, tmp_path / "pusht.zarr.zip") if zipped else source
    convert(path, tmp_path / "s.zarr", choices=HERTZ, progress=False)
    store, wanted = EpisodeStore.open(tmp_path / "s.zarr"), rows_of(source)
    assert [(task.name, task.control_frequency) for task in store.tasks] == [("push-t", 10.0)]
    assert store.index.ends.tolist() == [5, 13, 15]
    np.testing.assert_array_equal(store.read("observation.state"), wanted["state"])
    np.testing.assert_array_equal(store.read("observation.images.img"), wanted["img"].astype(np.uint8))
    np.testing.assert_array_equal(store.read("keypoint"), wanted["keypoint"])
    assert np.flatnonzero(store.read("success")).tolist() == [4, 12, 14]
    convert(tmp_path / "s.zarr", tmp_path / "back", "diffusion_policy", progress=False)
    found = rows_of(tmp_path / "back")
    assert set(found) == {*wanted, "success", "task", "attempt"}
    for name, rows in wanted.items():
        assert found[name].dtype == rows.dtype
        np.testing.assert_array_equal(found[name], rows, err_msg=name)


def test_export_is_what_its_readers_expect(tmp_path):
    from tests.data.sets import make_store

    convert(make_store(tmp_path / "s.zarr"), tmp_path / "x.zarr.zip", progress=False)
    with zipfile.ZipFile(tmp_path / "x.zarr.zip") as archive:
        names = archive.namelist()
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        assert json.loads(archive.read("data/img/.zarray"))["zarr_format"] == 2
        assert json.loads(archive.read("meta/episode_ends/.zarray"))["dtype"] == "<i8"
    assert {name.split("/")[1] for name in names if name.startswith("data/") and name.count("/") == 2} >= {
        "state",
        "action",
        "img",
    }


def test_names_can_be_given(source, tmp_path):
    keys = {"img": "observation.images.top", "keypoint": "observation.keypoints"}
    convert(source, tmp_path / "s.zarr", choices=Choices(control_frequency=10.0, keys=keys), progress=False)
    store = EpisodeStore.open(tmp_path / "s.zarr")
    assert store.cameras == ("top",)
    assert "observation.keypoints" in store.keys
    assert store.task_names == ("pusht_cchi_v7_replay",)
    with pytest.raises(ValueError, match=r"keys must name arrays of .* got image"):
        convert(source, tmp_path / "t.zarr", choices=Choices(keys={"image": "x"}), progress=False)


def test_pictures_that_are_no_whole_numbers_are_refused_or_kept_as_numbers(source, tmp_path):
    path = shutil.copytree(source, tmp_path / "b")
    zarr.open_group(path)["data/img"][3, 0, 0, 0] = 0.5
    with pytest.raises(ValueError, match=r"data/img must hold whole numbers from 0 to 255 .* --keys NAME=NAME"):
        convert(path, tmp_path / "s.zarr", choices=HERTZ, progress=False)
    assert sorted(os.listdir(tmp_path)) == ["b"]
    choices = Choices(control_frequency=10.0, keys={"img": "img"})
    convert(path, tmp_path / "s.zarr", choices=choices, progress=False)
    assert EpisodeStore.open(tmp_path / "s.zarr").read("img")[3, 0, 0, 0] == 0.5


# ---- damage and harm ----


def ends(values):
    def damage(path):
        zarr.open_group(path)["meta/episode_ends"][:] = values

    return damage


def describe(name, **change):
    def damage(path):
        file = path / name / ".zarray"
        file.write_text(json.dumps({**json.loads(file.read_text()), **change}))

    return damage


def spoil(path):
    zarr.open_group(path)["data/action"][7] = np.nan


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (ends([5, 3, 15]), r"meta/episode_ends must rise from above 0, got \[5, 3, 15\]"),
        (ends([-5, 13, 15]), r"meta/episode_ends must rise from above 0, got \[-5, 13, 15\]"),
        (ends([5, 13, 16]), r"data/\w+ must have 16 rows, got 15"),
        (lambda path: zarr.open_group(path)["data/state"].resize((9, 5)), "data/state must have 15 rows, got 9"),
        (spoil, "action must be finite, got NaN or infinity in episode 1"),
        (lambda path: shutil.rmtree(path / "data/state"), "data must hold observation.state and action"),
        (lambda path: shutil.rmtree(path / "meta"), "must hold data/<key> and meta/episode_ends|SRC must be"),
        (lambda path: (path / "data/action/.zarray").write_text("{"), "must be JSON|got JSONDecodeError"),
        (lambda path: (path / "data/action/1.0").write_bytes(b"no"), "data/action must be whole|truncated|can't be"),
        (describe("data/action", filters=[{"id": "pickle"}]), "data/action must be compressed by one of .* got pickle"),
        (describe("data/action", dtype="|O"), r"data/action must hold numbers, got values of type \|O"),
        (describe("data/action", compressor={"id": "jpeg2k"}), "must be compressed by one of .* got jpeg2k"),
        (describe("data/action", chunks=[10**9, 2]), "data/action must have chunks of at most 1073741824 bytes"),
    ],
)
def test_damaged_buffer_is_one_clear_line_and_nothing_is_written(source, tmp_path, damage, line, zipped):
    path = shutil.copytree(source, tmp_path / "in" / "bad.zarr")
    damage(path)
    if zipped:
        path = pack(path, tmp_path / "in" / "bad.zarr.zip")
    with pytest.raises(ValueError, match=line) as caught:
        convert(path, tmp_path / "x.zarr", choices=HERTZ, progress=False)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["in"]


def evil_zip(path, source, name, data=b"evil", compression=zipfile.ZIP_STORED, link=False):
    pack(source, path)
    with zipfile.ZipFile(path, "a") as archive:
        entry = zipfile.ZipInfo(name)
        entry.compress_type = compression
        entry.external_attr = (0o120777 if link else 0o100644) << 16
        archive.writestr(entry, data)
    return path


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        ({"name": "../outside"}, r"entries must stay inside the archive, got '\.\./outside'"),
        ({"name": "data/../../outside"}, "entries must stay inside the archive"),
        ({"name": "/etc/outside"}, "entries must stay inside the archive"),
        ({"name": "data\\..\\..\\outside"}, "entries must stay inside the archive"),
        ({"name": "C:/outside"}, "entries must stay inside the archive"),
        (
            {"name": "data/link", "data": b"/etc/passwd", "link": True},
            "entries must be files, got the link 'data/link'",
        ),
        ({"name": "data/action/.zarray"}, "entries must have names of their own, got 'data/action/.zarray' twice"),
        (
            {"name": "data/bomb/0.0", "data": bytes(2**25), "compression": zipfile.ZIP_DEFLATED},
            "entries must hold what they claim, got 'data/bomb/0.0' with 33554432 bytes from",
        ),
        ({"name": "data/more/.zarray", "data": bytes(2**25)}, "must be a short description, got 33554432 bytes"),
    ],
)
def test_archive_that_could_do_harm_is_refused_before_it_is_read(source, tmp_path, monkeypatch, entry, line):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # zipfile's own of the double name
        path = evil_zip(tmp_path / "evil.zarr.zip", source, **entry)
    monkeypatch.setattr(zarr, "open_group", lambda *_, **__: pytest.fail("the archive was opened"))
    with pytest.raises(ValueError, match=line) as caught:
        convert(path, tmp_path / "x.zarr", choices=HERTZ, progress=False)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["evil.zarr.zip"]


def test_truncated_zip_is_one_line(source, tmp_path):
    path = pack(source, tmp_path / "cut.zarr.zip")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="must be a whole zip file, got one that can't be read"):
        convert(path, tmp_path / "x.zarr", choices=HERTZ, progress=False)


def test_frequency_is_asked_for(source, tmp_path):
    with pytest.raises(ValueError, match=r"control frequency must be given with --control-frequency HZ"):
        convert(source, tmp_path / "x.zarr", progress=False)
    with pytest.raises(ValueError, match=r"control frequency must be > 0 \[Hz\], got \[0\.0\]"):
        convert(source, tmp_path / "x.zarr", choices=Choices(control_frequency=0.0), progress=False)


def test_no_pickle_in_a_chunk_is_ever_run(source, tmp_path):
    import pickle

    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    path = shutil.copytree(source, tmp_path / "bad.zarr")
    describe("data/action", filters=[{"id": "pickle"}], dtype="|O", compressor=None)(path)
    for chunk in (path / "data/action").glob("[0-9]*"):
        chunk.write_bytes(pickle.dumps(Harm()))
    with pytest.raises(ValueError, match="got pickle"):
        convert(path, tmp_path / "x.zarr", choices=HERTZ, progress=False)
    assert sorted(os.listdir(tmp_path)) == ["bad.zarr"]
