"""One named random generator per purpose, so that adding a draw in one place changes no other."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def derive_seed(*parts: object) -> int:
    """A 63-bit seed that depends on every part and on nothing else (no process-dependent hash)."""
    text = "\0".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


class Streams:
    """Independent generators addressed by name; all of them can be saved and restored.

    Args:
        seed: the run's seed.
        device: where the generators live; draws made there stay there.
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self.seed = seed
        self.device = torch.device(device)
        self._generators: dict[str, torch.Generator] = {}

    def __getitem__(self, name: str) -> torch.Generator:
        """The generator called ``name``, made on first use from (seed, name)."""
        if name not in self._generators:
            generator = torch.Generator(self.device)
            generator.manual_seed(derive_seed(self.seed, name))
            self._generators[name] = generator
        return self._generators[name]

    def state(self) -> dict[str, Tensor]:
        """Name -> generator state (uint8, CPU)."""
        return {name: generator.get_state().clone() for name, generator in self._generators.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue every stream of ``state`` where it was; all others start anew."""
        self._generators = {}
        for name, value in state.items():
            self[name].set_state(value)
