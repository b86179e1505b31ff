"""Options, marks and surroundings that all tests share."""

import importlib.util
import os

# Before torch and mujoco are imported: one thread a process (more spin on a busy machine), no screen, no network.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
from hypothesis import settings

# The same examples everywhere and no time limit per example: a slow machine is no failure.
settings.register_profile("trcl", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("trcl")


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def pytest_collection_modifyitems(items):
    """Skip what this machine can't run, with the reason (pyproject.toml leaves ``slow`` and ``gpu`` out by default)."""
    wanted = {mark for item in items for mark in ("gpu", "sim") if item.get_closest_marker(mark)}
    skips = {}
    if "sim" in wanted and importlib.util.find_spec("metaworld") is None:
        skips["sim"] = pytest.mark.skip(reason='needs metaworld: pip install "trcl-policy[sim]"')
    if "gpu" in wanted and not _cuda():
        skips["gpu"] = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        for mark, skip in skips.items():
            if item.get_closest_marker(mark):
                item.add_marker(skip)
