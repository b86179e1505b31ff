"""robomimic's HDF5: written by hand in its layout, read by its own SequenceDataset, and damaged."""

import json
import os

import h5py
import numpy as np
import pytest
import torch

from tests.data.sets import make_store, pictures
from trcl_policy.data.contents import Choices
from trcl_policy.data.convert import convert
from trcl_policy.data.store import EpisodeStore
from trcl_policy.policy.windows import Shape, Windows

LENGTHS = {"demo_0": 6, "demo_2": 3, "demo_10": 9}
ENV = {"env_name": "Lift", "type": 1, "env_version": "1.4.1", "env_kwargs": {"control_freq": 20, "robots": ["Panda"]}}


def write_robomimic(path, images=True, sparse=True):
    """A file as robomimic's own scripts leave it."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps(ENV, indent=4)
        data.attrs["total"] = sum(LENGTHS.values())
        for name, length in LENGTHS.items():
            demo = data.create_group(name)
            demo.attrs["num_samples"] = length
            demo.attrs["model_file"] = "<mujoco/>" * 10_000  # longer than the 64 KB of an ordinary attribute
            demo["actions"] = rng.uniform(-1, 1, (length, 7))
            demo["states"] = rng.normal(size=(length, 32))
            demo["rewards"] = (np.arange(length) == length - 1).astype(float) if sparse else rng.normal(size=length)
            demo["dones"] = (np.arange(length) == length - 1).astype(np.int64)
            for group in ("obs", "next_obs"):
                demo[f"{group}/robot0_eef_pos"] = rng.normal(size=(length, 3))
                demo[f"{group}/object"] = rng.normal(size=(length, 10)).astype(np.float32)
                demo[f"{group}/robot0_gripper_qpos"] = rng.normal(size=(length, 2))
                if images:
                    frames = pictures(rng, length, 16, 16)
                    demo.create_dataset(
                        f"{group}/agentview_image", data=frames, chunks=(1, 16, 16, 3), compression="gzip"
                    )
                    demo[f"{group}/agentview_depth"] = rng.random((length, 16, 16, 1)).astype(np.float32)
        for mask, demos in (("train", ["demo_0", "demo_10"]), ("valid", ["demo_2"])):
            file[f"mask/{mask}"] = np.array(demos, dtype="S")
    return path


def everything(path):
    """Every array of the demonstrations, attribute and mask of a file."""
    found = {}
    with h5py.File(path) as file:
        file["data"].visititems(lambda name, item: found.update({name: item[()]} if hasattr(item, "dtype") else {}))
        found |= {f"mask/{name}": file["mask"][name][()] for name in file.get("mask", ())}
        for where in (file["data"], *file["data"].values()):
            found |= {f"{where.name}@{name}": np.array(value) for name, value in where.attrs.items()}
    return found


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_robomimic(tmp_path_factory.mktemp("robomimic") / "lift.hdf5")


def test_robomimic_file_becomes_a_store(source, tmp_path):
    convert(source, tmp_path / "s.zarr", progress=False)
    store = EpisodeStore.open(tmp_path / "s.zarr")
    assert [(task.name, task.control_frequency) for task in store.tasks] == [("Lift", 20.0)]
    assert store.index.ends.tolist() == [6, 9, 18]  # by number, not by name: demo_10 comes after demo_2
    assert set(store.keys) == {
        "observation.state",
        "observation.images.agentview",
        "obs.agentview_depth",
        "action",
        "success",
        "next.reward",
        "next.done",
        "next.observation.state",
        "next.observation.images.agentview",
        "next_obs.agentview_depth",
        "simulator.state",
    }
    with h5py.File(source) as file:
        demo = file["data/demo_10"]
        names = ("object", "robot0_eef_pos", "robot0_gripper_qpos")
        state = np.concatenate([demo[f"obs/{name}"][()] for name in names], axis=1)
        np.testing.assert_array_equal(store.read("observation.state")[9:], state)
        np.testing.assert_array_equal(store.read("action")[9:], demo["actions"][()])
        np.testing.assert_array_equal(store.read("observation.images.agentview")[9:], demo["obs/agentview_image"][()])
        assert store.read("action").dtype == store.read("observation.state").dtype == np.float64
        assert (
            store.read("success").tolist()
            == np.concatenate([file[f"data/{d}/rewards"][()] for d in LENGTHS]).astype(bool).tolist()
        )
    kept = store.provenance["robomimic"]
    assert kept["masks"] == {"train": ["demo_0", "demo_10"], "valid": ["demo_2"]}
    assert json.loads(kept["env_args"]) == ENV
    assert [part[0] for part in kept["layout"]["observation.state"]] == [f"obs/{name}" for name in names]
    assert kept["success_from"] == "rewards"


def test_robomimic_file_comes_back(source, tmp_path):
    convert(source, tmp_path / "s.zarr", progress=False)
    convert(tmp_path / "s.zarr", tmp_path / "back.hdf5", progress=False)
    wanted, found = everything(source), everything(tmp_path / "back.hdf5")
    new = {f"{demo}/success" for demo in LENGTHS} | {f"/data/{d}@{n}" for d in LENGTHS for n in ("task", "attempt")}
    assert set(found) - set(wanted) == new
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype, name
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_observation_keys_choose_and_order(source, tmp_path):
    keys = ("robot0_gripper_qpos", "object")
    convert(source, tmp_path / "s.zarr", choices=Choices(observation_keys=keys), progress=False)
    store = EpisodeStore.open(tmp_path / "s.zarr")
    with h5py.File(source) as file:
        state = np.concatenate([file[f"data/demo_0/obs/{key}"][()] for key in keys], axis=1)
        np.testing.assert_array_equal(store.read("observation.state")[:6], state)
        np.testing.assert_array_equal(store.read("obs.robot0_eef_pos")[:6], file["data/demo_0/obs/robot0_eef_pos"][()])
    convert(tmp_path / "s.zarr", tmp_path / "back.hdf5", progress=False)
    assert everything(tmp_path / "back.hdf5").keys() >= everything(source).keys()
    with pytest.raises(ValueError, match=r"observation-keys must be among object, robot0_eef_pos, .* got eef"):
        convert(source, tmp_path / "t.zarr", choices=Choices(observation_keys=("eef",)), progress=False)


def test_masks_choose_episodes(source, tmp_path):
    convert(source, tmp_path / "s.zarr", choices=Choices(mask="train", task="lift-it"), progress=False)
    store = EpisodeStore.open(tmp_path / "s.zarr")
    assert (len(store), store.num_rows, store.task_names) == (2, 15, ("lift-it",))
    with pytest.raises(
        ValueError, match=r"mask must be one of \['train', 'valid'\], got 'test', which .* does not have"
    ):
        convert(source, tmp_path / "t.zarr", choices=Choices(mask="test"), progress=False)
    with h5py.File(tmp_path / "bare.hdf5", "w") as file, h5py.File(source) as old:
        old.copy("data", file)
    convert(tmp_path / "bare.hdf5", tmp_path / "u.zarr", progress=False)
    with pytest.raises(ValueError, match=r"mask must be one of \[\], got 'train'"):
        convert(tmp_path / "bare.hdf5", tmp_path / "v.zarr", choices=Choices(mask="train"), progress=False)


def test_dense_rewards_say_nothing_of_success(tmp_path):
    convert(write_robomimic(tmp_path / "d.hdf5", images=False, sparse=False), tmp_path / "s.zarr", progress=False)
    assert np.flatnonzero(EpisodeStore.open(tmp_path / "s.zarr").read("success")).tolist() == [5, 8, 17]


# ---- robomimic's own reader ----


def sequence_dataset(path, images, stack, horizon, mask=None):
    from robomimic.utils import obs_utils
    from robomimic.utils.dataset import SequenceDataset

    modalities = {"obs": {"low_dim": ["state"], "rgb": images}}
    obs_utils.initialize_obs_utils_with_obs_specs(modalities)
    return SequenceDataset(
        str(path),
        obs_keys=("state", *images),
        dataset_keys=("actions", "rewards", "dones"),
        frame_stack=stack,
        seq_length=horizon,
        pad_frame_stack=True,
        pad_seq_length=True,
        hdf5_cache_mode=None,
        filter_by_attribute=mask,
    )


@pytest.mark.parametrize(("stack", "horizon"), [(1, 1), (2, 8), (3, 5)])
def test_robomimics_own_reader_yields_our_windows(tmp_path, stack, horizon):
    path = make_store(tmp_path / "s.zarr", lengths=(7, 3, 12, 1, 9))
    convert(path, tmp_path / "x.hdf5", progress=False)
    store, images = EpisodeStore.open(path), store_images(path)
    theirs = sequence_dataset(tmp_path / "x.hdf5", ["corner_image"], stack, horizon)
    shape = Shape(5, 2, stack, horizon)
    parts = {
        "observation": torch.from_numpy(store.read("observation.state")),
        "action": torch.from_numpy(store.read("action")),
    }
    ours = Windows(parts, store.index.ends, 0, shape).gather(torch.arange(store.num_rows))
    assert len(theirs) == store.num_rows
    for index in range(len(theirs)):
        item = theirs[index]
        np.testing.assert_array_equal(item["obs"]["state"][:stack].ravel(), ours["observation"][index])
        np.testing.assert_array_equal(item["actions"][stack - 1 :].ravel(), ours["action"][index])
        np.testing.assert_array_equal(item["obs"]["corner_image"][stack - 1], images[index])
        last = index + 1 in store.index.ends
        assert item["dones"][stack - 1] == last
        assert item["rewards"][stack - 1] == store.read("next.reward")[index]
        following = store.read("observation.state")[index + (not last)]
        np.testing.assert_array_equal(item["next_obs"]["state"][stack - 1], following)
    for task in store.task_names:
        assert len(sequence_dataset(tmp_path / "x.hdf5", [], 1, 1, task)) == len(store.read("action", task))


def store_images(path):
    return EpisodeStore.open(path).read("observation.images.corner")


@pytest.mark.sim
def test_robomimic_file_trains(tmp_path):
    from trcl_policy.config import load_config
    from trcl_policy.run import train

    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "door.hdf5", "w") as file:
        env = {"env_name": "door-open-v3", "type": 2, "env_kwargs": {"control_freq": 80}}
        file.create_group("data").attrs["env_args"] = json.dumps(env)
        for number in range(4):
            demo = file.create_group(f"data/demo_{number}")
            demo.attrs["num_samples"] = 30
            demo["actions"], demo["obs/hand"] = rng.uniform(-1, 1, (30, 4)), rng.normal(size=(30, 18))
            demo["obs/previous"], demo["obs/goal"] = rng.normal(size=(30, 18)), rng.normal(size=(30, 3))
    keys = Choices(observation_keys=("hand", "previous", "goal"))
    convert(tmp_path / "door.hdf5", tmp_path / "door.zarr", choices=keys, progress=False)
    small = {
        "training.steps": 4,
        "network.width": 8,
        "network.depth": 1,
        "diffusion.acting_steps": 1,
        "policy.n_action_steps": 8,
        "evaluation.episodes": 1,
    }
    data = {
        "tasks": ["door-open-v3"],
        "data.store": str(tmp_path / "door.zarr"),
        "data.episodes": 4,
        "data.held_out": 1,
    }
    config = load_config("quickstart", {**small, **data, "method.name": "finetune"})
    folder = train(config, str(tmp_path / "run"))
    assert json.loads((folder.path / "metrics.json").read_text())["tasks"] == ["door-open-v3"]


# ---- damage ----


def edit(change):
    def damage(path):
        with h5py.File(path, "r+") as file:
            change(file)

    return damage


def put(name, value):
    def change(file):
        del file[name]
        file[name] = value

    return edit(change)


def truncate(path):
    with open(path, "rb+") as file:
        file.truncate(os.path.getsize(path) // 2)


def huge(file):
    del file["data/demo_0/states"]
    file.create_dataset("data/demo_0/states", (6, 10**9), "f8", chunks=(1, 10**6), compression="gzip")


def external(file):
    del file["data/demo_0/actions"]
    file["data/demo_0/actions"] = h5py.ExternalLink("/etc/hosts", "/x")


def elsewhere(file):
    del file["data/demo_0/actions"]
    file.create_dataset("data/demo_0/actions", (6, 7), "f8", external=[("/etc/hosts", 0, 336)])


def rename(file):
    del file["mask"]
    file.move("data/demo_0", "data/trial")


NAN = np.full((3, 7), np.nan)


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (truncate, "must be a whole HDF5 file, got one that can't be opened: .*truncated"),
        (put("data/demo_2/actions", NAN), "action must be finite, got NaN or infinity in episode 1"),
        (put("data/demo_2/obs/object", np.full((3, 10), np.inf, "f4")), "observation.state must be finite, got NaN"),
        (put("data/demo_2/actions", np.zeros((4, 7))), "/data/demo_2/actions must have num_samples = 3 rows, got 4"),
        (put("data/demo_2/actions", np.zeros((3, 6))), r"data/demo_2/actions must have rows of float64 \(7,\) .* got"),
        (put("data/demo_2/actions", np.zeros((3, 7), "f4")), "demo_2/actions must have rows of float64 .* got float32"),
        (edit(lambda f: f["data/demo_2/obs"].pop("object")), "must hold the same arrays, got obs/object not in all"),
        (edit(lambda f: f["data/demo_0"].pop("actions")), "must hold the same arrays|must hold actions"),
        (edit(rename), "data must hold groups demo_0, demo_1, ..., got trial"),
        (edit(lambda f: f.pop("data")), "data must be there and be a group, got nothing"),
        (put("mask/train", np.array(["demo_7"], "S")), "mask/train must name demonstrations of the file, got demo_7"),
        (edit(lambda f: f["data"].attrs.update(env_args="{")), "env_args of data must be a JSON object, got '{'"),
        (edit(lambda f: f["data"].attrs.pop("env_args")), "control frequency must be given with --control-frequency"),
        (put("data/demo_2/actions", "drive"), "demo_2/actions|must hold the same arrays"),
        (edit(huge), "/data/demo_0/states must hold its values, got 0 bytes for 48000000000 that it claims"),
        (edit(external), "/data/demo_0/actions must lie in the file itself, got a link"),
        (edit(elsewhere), "/data/demo_0/actions must lie in the file itself, got values elsewhere"),
    ],
)
def test_damaged_file_is_one_clear_line_and_nothing_is_written(source, tmp_path, damage, line):
    path = tmp_path / "bad.hdf5"
    path.write_bytes(source.read_bytes())
    damage(path)
    with pytest.raises(ValueError, match=line) as caught:
        convert(path, tmp_path / "x.zarr", progress=False)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["bad.hdf5"]


def test_what_holds_no_numbers_is_a_loss(source, tmp_path):
    path = tmp_path / "text.hdf5"
    path.write_bytes(source.read_bytes())
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            demo["language"] = "lift the cube"
    with pytest.raises(ValueError, match=r"would be lost .*: language of the demonstrations, which holds no numbers"):
        convert(path, tmp_path / "x.zarr", progress=False)
    report = convert(path, tmp_path / "x.zarr", choices=Choices(allow_loss=True), progress=False)
    assert report.losses == ("language of the demonstrations, which holds no numbers",)
