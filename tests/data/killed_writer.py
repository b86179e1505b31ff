"""Child processes that append to a store and are killed at the n-th file they write."""

import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np

from trcl_policy.data.store import Episode, EpisodeStore

TASKS = ("hammer-v3", "reach-v3")


def episode(number: int, task: str = TASKS[0], length: int | None = None) -> Episode:
    """An episode whose values are its number, so that torn rows show."""
    length = 3 + number if length is None else length
    rows = np.arange(length)
    return Episode(
        task,
        state=np.full((length, 5), number) + rows[:, None] / 100,
        action=np.full((length, 2), number) / 10 - rows[:, None] / 1000,
        success=rows == length - 1,
        attempt=2 * number,
    )


def _die_at(point: int, half: bool) -> None:
    """Kill this process at its ``point``-th file, before the file is touched or when half of it is written."""
    import zarr.storage._local as local

    write, count = local._put, iter(range(1, 10**6))

    def put(path: Path, value, exclusive: bool = False) -> int:
        if next(count) == point:
            if half:
                data = bytes(value.as_buffer_like())
                path.parent.mkdir(parents=True, exist_ok=True)
                path.with_suffix(".0123.partial").write_bytes(data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return write(path, value, exclusive)

    local._put = put


def _append(path: str, numbers: list[int], point: int, half: bool) -> None:
    with EpisodeStore.open(path, "a") as store:
        _die_at(point, half)
        store.extend([episode(number) for number in numbers])


def append_in_child(path: Path, numbers: list[int], point: int, half: bool) -> int:
    """Return the exit code of a process that appends these episodes and dies at ``point`` (-9), or gets through (0)."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["zarr", "trcl_policy.data.store"])
    child = context.Process(target=_append, args=(str(path), numbers, point, half))
    child.start()
    child.join()
    return child.exitcode
