"""Times of work that takes turns, and how benchmarks print them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


def fastest(works: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Seconds of the fastest turn of each; they take turns, and the first one warms up."""
    turns = [{name: work() for name, work in works.items()} for _ in range(rounds + 1)][1:]
    return {name: min(turn[name] for turn in turns) for name in works}


def timed(work: Callable[[], object]) -> float:
    """Seconds of some work."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def heading(text: str) -> None:
    """Print the title of a table."""
    print(f"\n{text}", flush=True)


def line(name: str, value: float | None, unit: str = "", digits: int = 0) -> None:
    """Print a row of a table."""
    print(f"  {name:<62}" + ("" if value is None else f"{value:12,.{digits}f} {unit}"), flush=True)
