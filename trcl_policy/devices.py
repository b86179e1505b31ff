"""What a run's settings stand for on this machine: its torch device, and the precision that is fast there."""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from trcl_policy.config import DEVICES, RunConfig
from trcl_policy.schema import ConfigError, nearest

SIZE = 256
"""Rows and columns of the matrices that ``is_faster_in_bf16`` multiplies: the layers of a small network."""
ROUNDS = 5


def resolve_device(name: str) -> torch.device:
    """The torch device for ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ConfigError: another name, or CUDA is asked for and not there.
    """
    if name not in DEVICES:
        raise ConfigError(f"device must be one of {', '.join(DEVICES)}{nearest(name, DEVICES)}, got {name}")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device must be one this machine has (cpu), got cuda; `trcl doctor` says what is missing")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def settled(config: RunConfig) -> RunConfig:
    """The configuration with its precision decided: ``auto`` is ``bf16`` where the run's device is faster with it."""
    if config.precision != "auto":
        return config
    is_fast = is_faster_in_bf16(resolve_device(config.device))
    return replace(config, precision="bf16" if is_fast else "fp32")


def is_faster_in_bf16(device: torch.device) -> bool:
    """Whether matrices are multiplied faster in bf16 than in fp32, by trial (some milliseconds).

    Flags of the processor do not tell: without instructions of its own bf16 runs many times slower than fp32,
    with those for wider types it may run at any speed between.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return _multiplying(torch.bfloat16) < _multiplying(torch.float32)


def _multiplying(dtype: torch.dtype) -> float:
    """Seconds that one product of two matrices takes on the CPU: the best of a few, the first not counted."""
    one = torch.ones(SIZE, SIZE, dtype=dtype)
    taken = []
    for _ in range(1 + ROUNDS):
        started = time.perf_counter()
        one @ one
        taken.append(time.perf_counter() - started)
    return min(taken[1:])
