"""Strict dataclasses from plain mappings."""

from __future__ import annotations

import dataclasses

import pytest

from trcl_policy.schema import ConfigError, build, copied, field_names, nearest, set_dotted


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    sizes: tuple[int, ...] = (1, 2)

    def __post_init__(self):
        if self.rate < 0:
            raise ValueError(f"rate must be >= 0, got {self.rate}")


@dataclasses.dataclass(frozen=True)
class Outer:
    count: int = 3
    name: str = "a"
    switch: bool = False
    limit: float | None = None
    which: str | tuple[str, ...] = "all"
    inner: Inner = dataclasses.field(default_factory=Inner)


def test_values_arrive_with_their_types():
    document = {"count": 5, "switch": True, "limit": 2, "which": ["x", "y"], "inner": {"rate": "1e-3", "sizes": [4]}}
    made = build(Outer, document)
    assert made == Outer(5, "a", True, 2.0, ("x", "y"), Inner(1e-3, (4,)))
    assert isinstance(made.limit, float)
    assert build(Outer, {}) == Outer()
    assert build(Outer, {"limit": None, "inner": {"rate": float("inf")}}).inner.rate == float("inf")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (
            {"coutn": 1},
            "file: unknown key coutn (did you mean count?); accepted: count, name, switch, limit, which, inner",
        ),
        (
            {"inner": {"rat": 1}},
            "file: unknown key inner.rat (did you mean inner.rate?); accepted: inner.rate, inner.sizes",
        ),
        ({"count": True}, "file: count must be a whole number, got True"),
        ({"count": 1.0}, "file: count must be a whole number, got 1.0"),
        ({"name": 3}, "file: name must be a text, got 3"),
        ({"switch": 1}, "file: switch must be true or false, got 1"),
        ({"limit": "x"}, "file: limit must be a number or null, got 'x'"),
        ({"which": [1]}, "file: which must be a text or a list of texts, got [1]"),
        ({"inner": {"rate": float("nan")}}, "file: inner.rate must be a number, got nan"),
        ({"inner": {"rate": False}}, "file: inner.rate must be a number, got False"),
        ({"inner": {"sizes": [1, "x"]}}, "file: inner.sizes[1] must be a whole number, got 'x'"),
        ({"inner": {"rate": -1}}, "file: inner.rate must be >= 0, got -1.0"),
        ({"inner": None}, "file: inner must be a group of settings, got None"),
        ({3: 1}, "file: unknown key 3; accepted: count, name, switch, limit, which, inner"),
    ],
)
def test_every_fault_is_one_line_with_key_value_and_what_is_accepted(document, message):
    with pytest.raises(ConfigError) as caught:
        build(Outer, document, "file")
    assert str(caught.value) == message


def test_dotted_keys_reach_into_groups_and_leave_the_original_alone():
    original = {"inner": {"rate": 1}}
    document = copied(original)
    set_dotted(document, "inner.rate", 2)
    set_dotted(document, "other.deep", 3)
    assert document == {"inner": {"rate": 2}, "other": {"deep": 3}}
    assert original == {"inner": {"rate": 1}}
    with pytest.raises(ConfigError, match="must be a group of settings, got 2"):
        set_dotted(document, "inner.rate.x", 1)


def test_names_and_neighbours():
    assert field_names(Outer) == ["count", "name", "switch", "limit", "which", "inner.rate", "inner.sizes"]
    assert nearest("swich", ["count", "switch"]) == " (did you mean switch?)"
    assert nearest("zzz", ["count", "switch"]) == ""
