"""Our LeRobotDatasets against the real lerobot package, both ways; it lives in an environment of its own.

python3.12 -m venv ~/lerobot-env && ~/lerobot-env/bin/pip install 'lerobot[dataset]'
.venv/bin/python scripts/check_lerobot.py --python ~/lerobot-env/bin/python

With --golden tests/data/golden/lerobot, what lerobot wrote is kept: the tests' golden files.

Written by us, read by lerobot: every row of every feature, task strings, windows across ends of episodes, statistics.
Written by lerobot, read by us: every row, videos within the error of their compression, pictures and numbers exactly.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

LENGTHS, FPS = (9, 4, 14), 20


def main() -> None:
    """Run both directions, or the half inside lerobot's environment."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", type=Path, help="Python of the environment that holds lerobot")
    parser.add_argument("--src", type=Path, help="episode store to export; a small one is made where not given")
    parser.add_argument("--golden", type=Path, help="folder to keep what lerobot wrote in: the tests' golden files")
    parser.add_argument("--inside", nargs=3, metavar=("OURS", "EXPECTED", "THEIRS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        inside(*map(Path, options.inside))
        return
    if options.python is None:
        parser.error("--python must name the Python of an environment that holds lerobot")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepare(root, options.src)
        words = [str(options.python), __file__, "--inside", *(str(root / n) for n in ("ours", "rows.npz", "theirs"))]
        run = subprocess.run(
            words, env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}, stderr=subprocess.PIPE, text=True
        )
        if run.returncode:
            raise SystemExit(run.stderr)
        if options.golden:
            shutil.copytree(root / "theirs", options.golden, dirs_exist_ok=True)
        compare_theirs(root / "theirs")


def prepare(root: Path, src: Path | None) -> None:
    """Export a store, and lay beside it what lerobot must find."""
    from trcl_policy.data.convert import convert
    from trcl_policy.data.store import EpisodeStore

    if src is None:
        src = root / "src.zarr"
        make_store(src)
    convert(src, root / "ours", "lerobot")
    store = EpisodeStore.open(src)
    names = np.array([store.task_names[task] for task in store.index.tasks])
    lengths = np.diff(store.index.ends, prepend=0)
    rows = {key: store.read(key) for key in store.keys}
    np.savez(root / "rows.npz", __task=np.repeat(names, lengths), __ends=store.index.ends, **rows)


def make_store(path: Path) -> None:
    """A store of two tasks with two cameras and arrays of every kind."""
    from trcl_policy.data.store import Episode, EpisodeStore, StoredTask

    rng = np.random.default_rng(0)
    with EpisodeStore.create(path, [StoredTask("hammer-v3", FPS), StoredTask("push the button", FPS)]) as store:
        for number, length in enumerate(LENGTHS):
            store.append(
                Episode(
                    store.task_names[number % 2],
                    rng.normal(size=(length, 5)),
                    rng.uniform(-1, 1, (length, 2)),
                    np.arange(length) > length - 3,
                    {camera: moving(length, number) for camera in ("corner", "hand")},
                    extra={"next.reward": rng.normal(size=length), "keypoints": rng.normal(size=(length, 3, 2))},
                )
            )


def moving(length: int, seed: int) -> np.ndarray:
    """Pictures (length, 48, 64, 3) of a moving blob."""
    rows, columns = np.mgrid[:48, :64]
    blobs = [np.exp(-((rows - 20 - seed) ** 2 + (columns - 10 - 3 * t) ** 2) / 60) for t in range(length)]
    frames = [np.stack([b * 255, 255 - b * 200, 0 * b + 40 + t], axis=-1) for t, b in enumerate(blobs)]
    return np.stack(frames).astype(np.uint8)


def inside(ours: Path, expected: Path, theirs: Path) -> None:
    """In lerobot's environment: check our export, then write a data set with lerobot itself."""
    import lerobot
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    print(f"lerobot {lerobot.__version__}, Python {sys.version.split()[0]}")
    dataset = LeRobotDataset("local/ours", root=ours, video_backend="pyav", return_uint8=True)
    rows = dict(np.load(expected))
    tasks, ends = rows.pop("__task"), rows.pop("__ends")
    assert (len(dataset), dataset.num_episodes) == (len(tasks), len(ends))
    for index in range(len(dataset)):
        item = dataset[index]
        assert item["task"] == tasks[index], (index, item["task"], tasks[index])
        for key, values in rows.items():
            must_equal(item["next.success" if key == "success" else key], values[index], f"{key}[{index}]")
    print(f"ours read by lerobot: {len(dataset)} rows of {len(rows)} features equal (float64 as its float32)")
    check_windows(ours, rows, ends)
    check_statistics(dataset, rows)
    write_theirs(theirs)


def must_equal(found: Any, wanted: np.ndarray, what: str) -> None:
    """Compare a feature of an item with a row; lerobot puts the channels first and hands out float32 for float64."""
    found = np.asarray(found)
    wanted = wanted.astype(np.float32) if wanted.dtype == np.float64 else wanted
    if wanted.ndim == 3 and wanted.shape[-1] == 3:
        found = found.transpose(1, 2, 0)
    if not np.array_equal(found.reshape(wanted.shape), wanted):
        raise SystemExit(f"{what} must be {wanted}, got {found}")


def check_windows(ours: Path, rows: dict[str, np.ndarray], ends: np.ndarray) -> None:
    """Windows of observations and actions, repeated at the ends of episodes as ours are."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    fps = json.loads((ours / "meta/info.json").read_text())["fps"]
    times = {"observation.state": [-1 / fps, 0], "action": [step / fps for step in range(8)]}
    dataset = LeRobotDataset("local/ours", root=ours, delta_timestamps=times, video_backend="pyav")
    starts = np.concatenate([[0], ends[:-1]])
    for index in range(len(dataset)):
        episode = int(np.searchsorted(ends, index, "right"))
        first, last = starts[episode], ends[episode] - 1
        item = dataset[index]
        must_equal(item["observation.state"], rows["observation.state"][np.maximum([index - 1, index], first)], "state")
        must_equal(item["action"], rows["action"][np.minimum(index + np.arange(8), last)], "action")
    print(f"ours read by lerobot: {len(dataset)} windows equal")


def check_statistics(dataset: Any, rows: dict[str, np.ndarray]) -> None:
    """Statistics that policies normalise with."""
    for key, values in rows.items():
        stats = dataset.meta.stats["next.success" if key == "success" else key]
        picture = values.ndim == 4 and values.shape[-1] == 3
        flat = values.reshape(-1, 3) / 255 if picture else values.astype(np.float64)
        for name, value in (("min", flat.min(0)), ("max", flat.max(0)), ("mean", flat.mean(0)), ("std", flat.std(0))):
            np.testing.assert_allclose(np.squeeze(stats[name]), np.squeeze(value), atol=1e-6, err_msg=f"{key} {name}")
    print("ours read by lerobot: statistics equal")


def write_theirs(root: Path) -> None:
    """A data set from lerobot's own writer, once with videos and once with pictures inside parquet."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    for kind in ("video", "image"):
        picture = {"dtype": kind, "shape": (48, 64, 3), "names": ["height", "width", "channels"]}
        features = {
            "observation.state": {"dtype": "float32", "shape": (5,), "names": None},
            "action": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]},
            "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
            "observation.images.front": picture,
        }
        made = LeRobotDataset.create("local/theirs", FPS, features, root=root / kind, use_videos=kind == "video")
        for number, length in enumerate(LENGTHS):
            frames, rng = moving(length, number), np.random.default_rng(number)
            for step in range(length):
                made.add_frame(
                    {
                        "observation.state": rng.normal(size=5).astype(np.float32),
                        "action": np.array([number, step], np.float32),
                        "next.reward": np.array([step / 7], np.float32),
                        "observation.images.front": frames[step],
                        "task": ("open the drawer", "push it, gently")[number % 2],
                    }
                )
            made.save_episode()
        made.finalize()


def compare_theirs(root: Path) -> None:
    """Read what lerobot wrote and compare it with what it was given."""
    from trcl_policy.data.convert import convert
    from trcl_policy.data.store import EpisodeStore

    for kind in ("video", "image"):
        convert(root / kind, root / f"{kind}.zarr")
        store = EpisodeStore.open(root / f"{kind}.zarr")
        assert store.task_names == ("open the drawer", "push it, gently"), store.task_names
        ends = np.cumsum(LENGTHS)
        assert store.index.ends.tolist() == ends.tolist()
        for number, length in enumerate(LENGTHS):
            rows, rng = slice(ends[number] - length, ends[number]), np.random.default_rng(number)
            states = np.stack([rng.normal(size=5).astype(np.float32) for _ in range(length)])
            assert np.array_equal(store.read("observation.state")[rows], states)
            assert np.array_equal(store.read("action")[rows, 1], np.arange(length))
            assert np.array_equal(store.read("next.reward")[rows].ravel(), np.float32(np.arange(length) / 7))
            frames = store.read("observation.images.front")[rows].astype(int)
            apart = np.abs(frames - moving(length, number))
            assert apart.mean() < 6 if kind == "video" else not apart.any(), (kind, apart.mean())
        print(f"written by lerobot as {kind}, read by us: equal" + (" within compression" if kind == "video" else ""))
        if kind == "image":
            continue
        convert(root / f"{kind}.zarr", root / "back", "lerobot")
        info = json.loads((root / "back/meta/info.json").read_text())
        assert info["features"]["action"]["names"] == ["x", "y"]


if __name__ == "__main__":
    main()
