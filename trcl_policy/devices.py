"""Which torch device a name stands for."""

from __future__ import annotations

import torch

from trcl_policy.config import DEVICES
from trcl_policy.schema import ConfigError, nearest


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
