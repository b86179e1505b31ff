"""LeRobotDataset v3: golden files of lerobot itself, the layout of ours, and damaged ones.

The golden files are what lerobot 0.6.1 wrote; scripts/check_lerobot.py makes them again and checks the other direction.
"""

import importlib.util
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.sets import make_store
from trcl_policy.data.contents import Choices
from trcl_policy.data.convert import convert
from trcl_policy.data.store import EpisodeStore

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden" / "lerobot"
LANGUAGE = Choices(rename_tasks={"open the drawer": "drawer-open-v3"})


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("check_lerobot", ROOT / "scripts" / "check_lerobot.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", ["video", "image"])
def test_what_lerobot_wrote_is_read(script, tmp_path, kind):
    shutil.copytree(GOLDEN, tmp_path / "theirs")
    script.compare_theirs(tmp_path / "theirs")
    convert(GOLDEN / kind, tmp_path / "s.zarr", choices=LANGUAGE, progress=False)
    store = EpisodeStore.open(tmp_path / "s.zarr")
    assert store.task_names == ("drawer-open-v3", "push it, gently")
    assert store.provenance["lerobot"]["task_strings"] == ["open the drawer", "push it, gently"]
    assert [task.control_frequency for task in store.tasks] == [20.0, 20.0]
    assert np.flatnonzero(store.read("success")).tolist() == [8, 12, 26]


def test_language_comes_back(tmp_path):
    convert(GOLDEN / "image", tmp_path / "s.zarr", choices=LANGUAGE, progress=False)
    convert(tmp_path / "s.zarr", tmp_path / "back", "lerobot", progress=False)
    table = pq.read_table(tmp_path / "back/meta/tasks.parquet").to_pylist()
    assert {row["task"]: row["task_index"] for row in table} == {"open the drawer": 0, "push it, gently": 1}
    convert(tmp_path / "back", tmp_path / "again.zarr", progress=False)
    again = EpisodeStore.open(tmp_path / "again.zarr")
    assert again.task_names == ("drawer-open-v3", "push it, gently")
    assert again.fingerprint() == EpisodeStore.open(tmp_path / "s.zarr").fingerprint()


def kinds(schema):
    return {field.name: str(field.type).replace("element", "item") for field in schema}


def test_layout_is_lerobots(tmp_path):
    """Every file, column and entry that lerobot writes is there, of the same type, but for what is named here."""
    choices = Choices(video_quality=20)
    convert(GOLDEN / "video", tmp_path / "s.zarr", progress=False)
    convert(tmp_path / "s.zarr", tmp_path / "x", "lerobot", choices, progress=False)
    theirs = {p.relative_to(GOLDEN / "video").as_posix() for p in (GOLDEN / "video").rglob("*") if p.is_file()}
    ours = {p.relative_to(tmp_path / "x").as_posix() for p in (tmp_path / "x").rglob("*") if p.is_file()}
    assert ours == theirs | {"meta/trcl.json"}
    one, two = (json.loads((root / "meta/info.json").read_text()) for root in (GOLDEN / "video", tmp_path / "x"))
    assert set(one) == set(two)
    for name in set(one) - {"features"}:
        assert one[name] == two[name], name
    assert set(two["features"]) == {*one["features"], "next.success"}
    for name, feature in one["features"].items():
        assert {k: feature[k] for k in ("dtype", "shape")} == {k: two["features"][name][k] for k in ("dtype", "shape")}
    for file in sorted(name for name in theirs if name.endswith(".parquet")):
        old, new = (kinds(pq.read_schema(root / file)) for root in (GOLDEN / "video", tmp_path / "x"))
        missing = {name for name in set(old) - set(new) if not name.rpartition("/")[2].startswith("q")}
        assert {m for m in missing if not m.startswith(("stats/", "index"))} == set(), file
        wrong = {name: (old[name], new[name]) for name in set(old) & set(new) if old[name] != new[name]}
        assert {n: w for n, w in wrong.items() if not n.startswith("stats/")} == {}, file
    old, new = (json.loads((root / "meta/stats.json").read_text()) for root in (GOLDEN / "video", tmp_path / "x"))
    for key in ("action", "observation.state", "next.reward", "observation.images.front"):
        for name in ("mean", "std") if "images" in key else ("min", "max", "mean", "std"):  # theirs are of few pixels
            tolerance = 0.02 if "images" in key else 1e-5
            np.testing.assert_allclose(new[key][name], old[key][name], atol=tolerance, err_msg=f"{key} {name}")


# ---- damage ----


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lerobot")
    convert(make_store(folder / "s.zarr"), folder / "x", "lerobot", progress=False)
    return folder / "x"


DATA, EPISODES = "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"
VIDEO = "videos/observation.images.corner/chunk-000/file-000.mp4"


def change_table(name, change):
    def damage(path):
        pq.write_table(change(pq.read_table(path / name)), path / name)

    return damage


def without(column):
    return lambda table: table.drop_columns([column])


def put(column, values):
    def change(table):
        number = table.schema.get_field_index(column)
        return table.set_column(
            number, column, pa.array(values(table[column].to_pylist()), table.schema.field(number).type)
        )

    return change


def info(**change):
    def damage(path):
        file = path / "meta/info.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **change}))

    return damage


def cut(name, keep=0.5):
    def damage(path):
        data = (path / name).read_bytes()
        (path / name).write_bytes(data[: int(len(data) * keep)])

    return damage


def nan(values):
    return [[float("nan")] * len(values[0]), *values[1:]]


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (change_table(DATA, without("action")), "must have a column for every feature, got none called action"),
        (change_table(DATA, without("task_index")), "must have the columns timestamp, .* got none called task_index"),
        (change_table(EPISODES, without("length")), "must have the columns .* got none called length"),
        (
            change_table(EPISODES, without("videos/observation.images.corner/from_timestamp")),
            "got none called videos/obs",
        ),
        (change_table("meta/tasks.parquet", without("task")), "must have the column task, got task_index"),
        (
            change_table(EPISODES, put("length", lambda v: [v[0], -v[1], v[2]])),
            "episodes must follow each other without",
        ),
        (change_table(EPISODES, put("dataset_to_index", lambda v: [v[0], v[0] - 1, v[2]])), "episodes must follow"),
        (change_table(DATA, put("action", nan)), "action must be finite, got NaN or infinity in episode 0"),
        (
            change_table(DATA, put("next.reward", lambda v: [None, *v[1:]])),
            "must have no gaps, got 1 rows without a value",
        ),
        (change_table(DATA, put("task_index", lambda v: [9] * len(v))), r"task_index must lie in 0\.\.1, got 9"),
        (change_table(DATA, lambda table: table.slice(0, 6)), "must have 7 rows, got 6"),
        (change_table(DATA, put("episode_index", lambda v: [0] * len(v))), "rows of episode 1 must lie together in"),
        (cut(DATA), "must be a whole parquet file, got"),
        (cut(EPISODES), "must be a whole parquet file, got"),
        (cut(VIDEO), "must be a whole video, got|must have .* frames"),
        (lambda path: (path / VIDEO).unlink(), "can't read .*: no such file"),
        (info(codebase_version="v2.1"), "codebase_version must be v3.0, got v2.1"),
        (info(data_path="../../{chunk_index}/{file_index}.parquet"), "data_path must lead to files of the data set"),
        (info(video_path="/etc/{video_key}"), "video_path must lead to files of the data set"),
        (info(data_path="{chunk_index.__class__}"), "data_path must lead to files of the data set"),
        (
            info(features={"action": {"dtype": "float32"}}),
            "must be described as lerobot is, got a description that fails",
        ),
        (info(fps="fast"), "must hold features and fps"),
        (lambda path: (path / "meta/info.json").write_text("{"), "must be JSON"),
        (lambda path: shutil.rmtree(path / "meta/episodes"), "meta/episodes must list episodes, got none"),
    ],
)
def test_damaged_data_set_is_one_clear_line_and_nothing_is_written(source, tmp_path, damage, line):
    path = shutil.copytree(source, tmp_path / "bad")
    damage(path)
    with pytest.raises((ValueError, OSError), match=line) as caught:
        convert(path, tmp_path / "x.zarr", progress=False)
    assert "\n" not in str(caught.value)
    assert [name for name in os.listdir(tmp_path) if not name.startswith(".")] == ["bad"]


def test_rows_of_another_length_are_named(source, tmp_path):
    path = shutil.copytree(source, tmp_path / "bad")
    table = pq.read_table(path / DATA)
    ragged = [row[: 1 + (number == 0)] for number, row in enumerate(table["action"].to_pylist())]
    column = table.schema.get_field_index("action")
    pq.write_table(table.set_column(column, "action", pa.array(ragged, pa.list_(pa.float32()))), path / DATA)
    with pytest.raises(ValueError, match=r"column action must hold numbers of shape \(2,\) in every row"):
        convert(path, tmp_path / "x.zarr", progress=False)


def test_irregular_times_and_text_are_losses(source, tmp_path):
    path = shutil.copytree(source, tmp_path / "l")
    change_table(DATA, put("timestamp", lambda v: [v[0] + 0.01, *v[1:]]))(path)
    with pytest.raises(ValueError, match=r"would be lost .*: times that are no multiples of 1 / fps in 1 episodes"):
        convert(path, tmp_path / "x.zarr", progress=False)
    document = json.loads((path / "meta/info.json").read_text())
    document["features"]["note"] = {"dtype": "string", "shape": [1], "names": None}
    info(features=document["features"])(path)
    report = convert(path, tmp_path / "x.zarr", choices=Choices(allow_loss=True), progress=False)
    assert [line.split(",")[0] for line in report.losses] == [
        "note",
        "times that are no multiples of 1 / fps in 1 episodes",
    ]
