"""Replays what ``trcl evaluate`` saved of episodes whose physics became non-finite."""

from __future__ import annotations

import functools
from pathlib import Path

from trcl_envs.catalog import make_env
from trcl_policy.rollout.dumps import Replay, read_dump, replay


def replay_dump(path: Path | str, backend: str = "cpu") -> Replay:
    """What happens when a saved episode is run again from its seed with its actions; needs no checkpoint.

    Args:
        path: a file of ``RUN/evaluations/dumps/``.
        backend: physics backend.

    Raises:
        FileError: the file can't be read.
        ValueError: it is no dump.
    """
    return replay(read_dump(path), functools.partial(make_env, backend=backend))
