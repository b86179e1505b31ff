"""Small data sets for conversions."""

from pathlib import Path

import numpy as np

from trcl_policy.data.store import Episode, EpisodeStore, StoredTask

TASKS = (StoredTask("hammer-v3", 80.0), StoredTask("reach-v3", 80.0))


def pictures(rng, length, height=24, width=32):
    """Moving blobs, so that videos have something to predict."""
    rows, columns = np.mgrid[:height, :width]
    start, frames = rng.uniform(5, 20, 2), []
    for t in range(length):
        blob = np.exp(-((rows - start[0]) ** 2 + (columns - start[1] - t) ** 2) / 30)
        frames.append(np.stack([blob * 255, 255 - blob * 200, np.full_like(blob, 40 + t)], axis=-1))
    return np.array(frames).astype(np.uint8)


def episodes(seed=0, cameras=("corner",), extra=True, lengths=(5, 2, 4), dtype=np.float32):
    rng = np.random.default_rng(seed)
    for number, length in enumerate(lengths):
        more = {
            "next.reward": rng.normal(size=length),
            "contacts": rng.integers(0, 9, (length, 1)),
            "keypoints": rng.normal(size=(length, 3, 2)).astype(np.float16),
        }
        yield Episode(
            TASKS[number % 2].name,
            rng.normal(size=(length, 5)).astype(dtype),
            rng.uniform(-1, 1, (length, 2)).astype(dtype),
            np.arange(length) > length - 3,
            {camera: pictures(rng, length) for camera in cameras},
            attempt=3 * number,
            extra=more if extra else {},
        )


def make_store(path: Path, **options) -> Path:
    with EpisodeStore.create(path, TASKS, {"who": "test", "nested": {"a": [1, None]}}) as store:
        store.extend(list(episodes(**options)))
    return path


def assert_equal_stores(one: Path, other: Path, without=()) -> None:
    """Everything but chunks and compression is the same, bit for bit."""
    a, b = EpisodeStore.open(one), EpisodeStore.open(other)
    assert a.tasks == b.tasks
    assert a.keys == b.keys
    assert a.provenance == b.provenance
    assert a.index.ends.tolist() == b.index.ends.tolist()
    assert a.index.tasks.tolist() == b.index.tasks.tolist()
    assert a.index.attempts.tolist() == b.index.attempts.tolist()
    for key in set(a.keys) - set(without):
        left, right = a.read(key), b.read(key)
        assert left.dtype == right.dtype, key
        np.testing.assert_array_equal(left, right, err_msg=key)
    if not without:
        assert a.fingerprint() == b.fingerprint()
