"""Sequences of tasks: the ones with a name, and random orders that come out alike on every machine."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

CW10 = (
    "hammer-v3",
    "push-wall-v3",
    "faucet-close-v3",
    "push-back-v3",
    "stick-pull-v3",
    "handle-press-side-v3",
    "push-v3",
    "shelf-place-v3",
    "window-close-v3",
    "peg-unplug-side-v3",
)
# Meta-World's standard sets, in its order.
MT10 = (
    "reach-v3",
    "push-v3",
    "pick-place-v3",
    "door-open-v3",
    "drawer-open-v3",
    "drawer-close-v3",
    "button-press-topdown-v3",
    "peg-insert-side-v3",
    "window-open-v3",
    "window-close-v3",
)
MT50 = (
    "assembly-v3",
    "basketball-v3",
    "bin-picking-v3",
    "box-close-v3",
    "button-press-topdown-v3",
    "button-press-topdown-wall-v3",
    "button-press-v3",
    "button-press-wall-v3",
    "coffee-button-v3",
    "coffee-pull-v3",
    "coffee-push-v3",
    "dial-turn-v3",
    "disassemble-v3",
    "door-close-v3",
    "door-lock-v3",
    "door-open-v3",
    "door-unlock-v3",
    "hand-insert-v3",
    "drawer-close-v3",
    "drawer-open-v3",
    "faucet-open-v3",
    "faucet-close-v3",
    "hammer-v3",
    "handle-press-side-v3",
    "handle-press-v3",
    "handle-pull-side-v3",
    "handle-pull-v3",
    "lever-pull-v3",
    "pick-place-wall-v3",
    "pick-out-of-hole-v3",
    "pick-place-v3",
    "plate-slide-v3",
    "plate-slide-side-v3",
    "plate-slide-back-v3",
    "plate-slide-back-side-v3",
    "peg-insert-side-v3",
    "peg-unplug-side-v3",
    "soccer-v3",
    "stick-push-v3",
    "stick-pull-v3",
    "push-v3",
    "push-wall-v3",
    "push-back-v3",
    "reach-v3",
    "reach-wall-v3",
    "shelf-place-v3",
    "sweep-into-v3",
    "sweep-v3",
    "window-open-v3",
    "window-close-v3",
)
SEQUENCES: dict[str, tuple[str, ...]] = {
    "cw10": CW10,
    "cw20": CW10 + CW10,
    "mt10": MT10,
    "mt50": MT50,
    "quick": ("button-press-topdown-v3", "drawer-open-v3", "window-close-v3", "faucet-close-v3", "door-open-v3"),
    "robosuite3": ("lift-robosuite", "stack-robosuite", "door-robosuite"),
}
SPELLINGS = ("randomN:SEED", "shuffle:SEQUENCE:SEED")


def shuffled(names: Sequence[str], seed: int) -> tuple[str, ...]:
    """The same names in an order that depends on nothing but them and the seed; all orders are equally likely.

    Sorted by hashes, so that neither NumPy's nor Python's generators, which may change, decide what a seed means.
    """
    key = {place: hashlib.sha256(f"{seed}:{place}:{name}".encode()).digest() for place, name in enumerate(names)}
    return tuple(names[place] for place in sorted(key, key=key.__getitem__))


def is_random(spec: str) -> bool:
    """Whether this asks for a random order, rightly spelled or not."""
    return re.match(r"random[0-9:]|random$|shuffle(:|$)", spec) is not None


def split_random(spec: str) -> tuple[str, int, int | None]:
    """What to shuffle, the seed, and how many of the shuffled to keep (None = all).

    ``random20:7`` is the first 20 of ``shuffle:mt50:7``.
    """
    if match := re.fullmatch(r"shuffle:(.+):([0-9]+)", spec):
        return match[1], int(match[2]), None
    match = re.fullmatch(r"random([0-9]+):([0-9]+)", spec)
    if match is None or not 1 <= int(match[1]) <= len(MT50):
        raise ValueError(
            f"random order must be randomN:SEED with N in 1..{len(MT50)}, such as random20:7, "
            f"or shuffle:SEQUENCE:SEED, such as shuffle:mt50:7; got {spec!r}"
        )
    return "mt50", int(match[2]), int(match[1])
