"""Child processes that convert a data set and are killed when a certain row is asked for."""

import multiprocessing
import os
import signal
from pathlib import Path

from trcl_policy.data import convert as module
from trcl_policy.data import lerobot_writing, robomimic_writing


def _convert(source: str, target: str, form: str, episode: int) -> None:
    opened = module.open_source

    def open_dying(path, choices, form=None):
        reader = opened(path, choices, form)
        rows = reader.rows

        def die(key, number, start, stop):
            if number == episode:
                os.kill(os.getpid(), signal.SIGKILL)
            return rows(key, number, start, stop)

        reader.rows = die
        return reader

    module.open_source = open_dying
    robomimic_writing.PART_BYTES = 1  # every episode a part, every episode a shard
    lerobot_writing.DATA_MB = 0
    module.convert(source, target, form, progress=False)


def convert_in_child(source: Path, target: Path, form: str, episode: int) -> int:
    """Return the exit code of a process that converts and dies at ``episode`` (-9)."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["zarr", "trcl_policy.data.convert"])
    child = context.Process(target=_convert, args=(str(source), str(target), form, episode))
    child.start()
    child.join()
    return child.exitcode
