"""The few array operations that the tasks need beyond the array API standard, for NumPy arrays and torch tensors alike.

A task's functions answer in the kind, dtype and device of what they are given: float64 on the CPU, where they are held
to Meta-World bit for bit, and whatever the physics computes with on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from trcl_envs.interface import Array


def namespace(array: Array) -> Any:
    """The module, by the array API standard, that computes with arrays of this kind."""
    return array_namespace(array)


def constant(values: Iterable[float], like: Array) -> Array:
    """Numbers (K,) as an array of the kind, dtype and device of another; never write into it."""
    return _constant(tuple(float(value) for value in values), namespace(like), like.dtype, device(like))


@cache
def _constant(values: tuple[float, ...], xp: Any, dtype: Any, where: Any) -> Array:
    """Kept, because each one made on a GPU waits for a copy from the host."""
    made = xp.asarray(values, dtype=dtype, device=where)
    if isinstance(made, np.ndarray):
        made.flags.writeable = False
    return made


def rows_of(values: Iterable[float], like: Array) -> Array:
    """The same numbers in every one of the rows of another array: (N, K)."""
    return namespace(like).tile(constant(values, like), (len(like), 1))


def zeros(shape: tuple[int, ...], like: Array) -> Array:
    """Zeros of the kind, dtype and device of another array."""
    return namespace(like).zeros(shape, dtype=like.dtype, device=device(like))


def columns(*parts: Array) -> Array:
    """Arrays (N,) and (N, K) side by side: (N, ...)."""
    xp = namespace(parts[0])
    return xp.concat([part[:, None] if part.ndim == 1 else part for part in parts], axis=1)


def lengths(vectors: Array) -> Array:
    """Euclidean lengths along the last axis."""
    return namespace(vectors).linalg.vector_norm(vectors, axis=-1)
