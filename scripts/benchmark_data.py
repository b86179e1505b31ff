"""Training windows a second of our loader against those of its peers, and memory on stores larger than memory.

.venv/bin/python scripts/benchmark_data.py --json results/benchmarks/data.json        # one process each, minutes
.venv/bin/python scripts/benchmark_data.py --big /tmp --json results/benchmarks/data.json     # also 5 GB of pictures

The same demonstrations (as many and as wide as robomimic's Lift, proficient human) lie in an episode store, a robomimic
HDF5 and a LeRobotDataset, all written by `trcl convert`. Windows of 2 observations and 16 actions are drawn at random,
256 a batch, by one process: ours as training draws them; robomimic's SequenceDataset in a DataLoader in each of its
cache modes; a reader of parquet that works like LeRobot's, one item and one key at a time out of a memory-mapped table.
Times are the process's own, parts take turns, and the fastest turn of each counts.

With --big, a store of pictures is generated in the given folder and removed afterwards. A process of its own draws
windows from it; its peak memory is that of the whole process, libraries included. So is that of conversions of a small
store and of a larger one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from trcl_policy.continual.tasks import draw
from trcl_policy.data.convert import convert
from trcl_policy.data.store import Episode, EpisodeStore, StoredTask
from trcl_policy.policy.windows import Shape, Windows

EPISODES, STEPS = 200, 48  # robomimic's Lift (ph): 200 demonstrations, 9,666 steps
STATE_DIM, ACTION_DIM = 19, 7
N_OBS_STEPS, HORIZON, BATCH = 2, 16, 256
SIZE = 96  # of pictures [pixels]
SECONDS = 3.0  # of a turn


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="turns, of which the fastest counts")
    parser.add_argument("--big", type=Path, help="scratch folder for a large store of images, removed afterwards")
    parser.add_argument("--only-big", action="store_true", help="leave the speeds of the JSON file as they are")
    parser.add_argument("--gigabytes", type=float, default=5.0, help="size of that store [GB]")
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = json.loads(options.json.read_text()) if options.only_big else {}
    if not options.only_big:
        with tempfile.TemporaryDirectory() as folder:
            found["low_dimensional"] = low_dimensional(Path(folder), options.repeats)
            found["images"] = images(Path(folder), options.repeats)
    if options.big:
        found["larger_than_memory"] = big(options.big, options.gigabytes)
    found["machine"] = {
        "processor": processor(),
        "platform": platform.platform(),
        "threads": 1,
        "repeats": options.repeats,
    }
    print(json.dumps(found, indent=2))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(found, indent=2) + "\n")


def processor() -> str:
    """Return the processor's name, as Linux has it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def low_dimensional(root: Path, repeats: int) -> dict[str, Any]:
    """Windows a second without pictures."""
    write_store(root / "s.zarr", EPISODES, STEPS, cameras=0)
    for name, form in (("s.hdf5", "robomimic"), ("lerobot", "lerobot")):
        convert(root / "s.zarr", root / name, form, progress=False)
    loaders = {
        "ours": ours(root / "s.zarr"),
        "robomimic_cache_all": robomimic(root / "s.hdf5", "all"),
        "robomimic_cache_low_dim": robomimic(root / "s.hdf5", "low_dim"),
        "robomimic_no_cache": robomimic(root / "s.hdf5", None),
        "parquet_like_lerobot": loader(ParquetWindows(root / "lerobot")),
    }
    return compared(loaders, repeats, {"episodes": EPISODES, "rows": EPISODES * STEPS})


def images(root: Path, repeats: int) -> dict[str, Any]:
    """Windows a second with two pictures each, from the store's compressed chunks and from HDF5."""
    write_store(root / "i.zarr", 20, STEPS, cameras=1)
    convert(root / "i.zarr", root / "i.hdf5", progress=False)
    loaders = {
        "ours": our_images(root / "i.zarr", 2**28),
        "ours_no_cache": our_images(root / "i.zarr", 1),
        "robomimic_cache_low_dim": robomimic(root / "i.hdf5", "low_dim", ("camera0_image",), batch=32),
    }
    return compared(loaders, repeats, {"rows": 20 * STEPS, "pixels": SIZE})


def compared(loaders: dict[str, Iterator[int]], repeats: int, facts: dict[str, Any]) -> dict[str, Any]:
    """Return windows a second by loader, and ours as a multiple of each other one's."""
    best = dict.fromkeys(loaders, 0.0)
    for _ in range(repeats):
        for name, batches in loaders.items():
            best[name] = max(best[name], rate(batches))
    ratio = {name: best["ours"] / value for name, value in best.items() if name != "ours"}
    window = {"n_obs_steps": N_OBS_STEPS, "horizon": HORIZON, "batch": BATCH}
    return {**facts, **window, "windows_per_s": best, "ratio": ratio}


def rate(batches: Iterator[int]) -> float:
    """Return windows a second of process time, so that other work on the machine counts little."""
    next(batches)
    count, start = 0, time.process_time()
    while time.process_time() - start < SECONDS:
        count += next(batches)
    return count / (time.process_time() - start)


def write_store(path: Path, episodes: int, steps: int, cameras: int) -> None:
    """Write random demonstrations."""
    rng = np.random.default_rng(0)
    block = noisy(rng, steps) if cameras else None
    with EpisodeStore.create(path, [StoredTask("lift", 20.0)]) as store:
        for number in range(episodes):
            frames = {f"camera{c}": block ^ np.uint8(number % 256) for c in range(cameras)}
            state, action = rng.normal(size=(steps, STATE_DIM)), rng.uniform(-1, 1, (steps, ACTION_DIM))
            store.append(Episode("lift", state, action, np.arange(steps) == steps - 1, frames, number))


def noisy(rng: np.random.Generator, steps: int) -> np.ndarray:
    """Return pictures of coloured squares under sensor noise, which compress as badly as a real camera's."""
    coarse = rng.integers(0, 256, (steps, SIZE // 8, SIZE // 8, 3)).repeat(8, axis=1).repeat(8, axis=2)
    return np.clip(coarse + rng.integers(-4, 5, coarse.shape), 0, 255).astype(np.uint8)


def ours(path: Path) -> Iterator[int]:
    """Draw batches as training does."""
    arrays = EpisodeStore.open(path).arrays("lift")
    parts = {"observation": arrays["observation.state"], "action": arrays["action"]}
    shape = Shape(STATE_DIM, ACTION_DIM, N_OBS_STEPS, HORIZON)
    tensors = {name: torch.from_numpy(rows) for name, rows in parts.items()}
    windows, rng = Windows(tensors, arrays["episode_ends"], 0, shape), torch.Generator().manual_seed(0)
    while True:
        yield len(draw(windows, BATCH, rng)["action"])


def our_images(path: Path, cache_bytes: int) -> Iterator[int]:
    """Draw batches with the pictures of every observation."""
    store, rng = EpisodeStore.open(path), np.random.default_rng(0)
    starts = store.episodes_of().repeat(np.diff(store.index.ends, prepend=0), axis=0)[:, 0]
    while True:
        last = rng.integers(0, store.num_rows, BATCH)
        rows = np.maximum(last[:, None] + np.arange(1 - N_OBS_STEPS, 1), starts[last, None])
        yield len(store.take("observation.images.camera0", rows, cache_bytes))


def robomimic(path: Path, cache: str | None, pictures: tuple[str, ...] = (), batch: int = BATCH) -> Iterator[int]:
    """Batches of robomimic's own data set in torch's DataLoader, as its training script makes them."""
    from robomimic.utils import obs_utils
    from robomimic.utils.dataset import SequenceDataset

    with contextlib.redirect_stdout(open(os.devnull, "w")), contextlib.redirect_stderr(open(os.devnull, "w")):
        obs_utils.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": ["state"], "rgb": list(pictures)}})
        dataset = SequenceDataset(
            str(path),
            obs_keys=("state", *pictures),
            dataset_keys=("actions",),
            frame_stack=N_OBS_STEPS,
            seq_length=HORIZON,
            hdf5_cache_mode=cache,
            load_next_obs=False,
        )
    yield from loader(dataset, batch)


def loader(dataset: Dataset, batch: int = BATCH) -> Iterator[int]:
    """Yield the sizes of a DataLoader's batches, for ever."""
    while True:
        for made in DataLoader(dataset, batch_size=batch, shuffle=True, num_workers=0, drop_last=True):
            yield len(made["action"] if "action" in made else made["actions"])


class ParquetWindows(Dataset):
    """Windows out of a memory-mapped table, item by item and key by key as LeRobotDataset reads them."""

    def __init__(self, root: Path) -> None:
        import pyarrow.parquet as pq

        self._table = pq.read_table(root / "data", memory_map=True).combine_chunks()
        ends = pq.read_table(root / "meta/episodes", columns=["dataset_from_index", "dataset_to_index"]).to_pydict()
        self._spans = list(zip(ends["dataset_from_index"], ends["dataset_to_index"], strict=True))
        self._episode = self._table["episode_index"].to_numpy()

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        first, past = self._spans[self._episode[index]]
        steps = {"observation.state": range(1 - N_OBS_STEPS, 1), "action": range(HORIZON)}
        rows = {key: [max(first, min(past - 1, index + step)) for step in of] for key, of in steps.items()}
        return {key: torch.tensor(self._table[key].take(wanted).to_pylist()) for key, wanted in rows.items()}


def big(scratch: Path, gigabytes: float) -> dict[str, Any]:
    """Peak memory and speed on a store of pictures that is larger than what the process may hold."""
    frames = int(gigabytes * 1e9 / (SIZE * SIZE * 3))
    free = shutil.disk_usage(scratch).free
    if free < 1.5e9 * gigabytes:
        raise SystemExit(f"--big needs {1.5 * gigabytes:.0f} GB free, got {free / 1e9:.0f} GB in {scratch}")
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        root = Path(folder)
        begun = time.perf_counter()
        write_store(root / "big.zarr", frames // 500, 500, cameras=1)
        seconds = time.perf_counter() - begun
        size = sum(file.stat().st_size for file in (root / "big.zarr").rglob("*") if file.is_file())
        found: dict[str, Any] = {
            "bytes_of_pictures": frames * SIZE * SIZE * 3,
            "bytes_on_disk": size,
            "write_s": seconds,
        }
        found["draw"] = alone(draw_big, root / "big.zarr")
        shutil.rmtree(root / "big.zarr")
        found["convert"] = {form: conversions(root, form) for form in ("diffusion_policy", "robomimic", "lerobot")}
    return found


def conversions(root: Path, form: str) -> dict[str, Any]:
    """Peak memory of converting a store, and one six times as large."""
    peaks = {}
    for episodes in (4, 24):
        write_store(root / "c.zarr", episodes, 250, cameras=1)
        made = alone(convert_one, root / "c.zarr", form)
        peaks[f"{episodes * 250 * SIZE * SIZE * 3 / 1e6:.0f}_MB"] = made
        shutil.rmtree(root / "c.zarr")
    return peaks


def convert_one(path: Path, form: str) -> dict[str, float]:
    """Convert a store; returns seconds."""
    begun = time.perf_counter()
    made = convert(path, path.with_name("converted"), form, progress=False).path
    seconds = time.perf_counter() - begun
    shutil.rmtree(made) if made.is_dir() else made.unlink()
    return {"s": seconds}


def draw_big(path: Path) -> dict[str, float]:
    """Draw batches of pictures; returns windows a second."""
    return {"windows_per_s": max(rate(our_images(path, 2**28)) for _ in range(3))}


def alone(work: Callable[..., dict[str, float]], *words: Any) -> dict[str, float]:
    """Run in a process of its own; returns what it found, and its peak memory before and after [bytes]."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_report, args=(sender, work, words))
    child.start()
    found = receiver.recv()
    child.join()
    return found


def _report(sender: Any, work: Callable[..., dict[str, float]], words: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    Path("/proc/self/clear_refs").write_text("5")  # begin anew: getrusage's peak is that of the parent before exec
    before = peak_bytes()
    found = work(*words)
    sender.send({**found, "peak_bytes": peak_bytes(), "peak_bytes_before": before})


def peak_bytes() -> int:
    """Return the largest memory that this process has held since its peak was reset [bytes]; Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
