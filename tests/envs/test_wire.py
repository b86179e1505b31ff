import os
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trcl_envs import wire
from trcl_envs.wire import Channel, WireError, pack, unpack

plain = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.text(max_size=5)
arrays = st.sampled_from(wire.DTYPES).flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0)))
values = st.recursive(
    plain | arrays,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def pipe():
    inbox, outbox = os.pipe()
    yield Channel(inbox, outbox), inbox, outbox
    for end in (inbox, outbox):
        try:
            os.close(end)
        except OSError:
            continue


def same(one, other):
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other and type(one) is type(other)


def parts(message):
    start = len(wire.MAGIC) + wire.LENGTHS.size
    header, body = wire.LENGTHS.unpack(message[len(wire.MAGIC) : start])
    assert len(message) == start + header + body
    return message[start : start + header], message[start + header :]


@given(values)
def test_messages_come_back_bit_for_bit(value):
    assert same(unpack(*parts(pack(value))), value)


def test_message_larger_than_a_pipe_arrives(pipe):
    value = {"a": np.random.default_rng(0).standard_normal(300_000), "b": ["text", None]}
    sender = threading.Thread(target=pipe[0].send, args=(value,))
    sender.start()
    assert same(pipe[0].receive(10.0), value)
    sender.join()


@pytest.mark.parametrize(
    ("header", "body"),
    [
        (b"{", b""),
        (b'{"value": 1}', b""),
        (b'{"value": {"$array": 0}, "arrays": []}', b""),
        (b'{"value": 1, "arrays": [["object", [1]]]}', b"\0" * 8),
        (b'{"value": 1, "arrays": [["float64", [2]]]}', b"\0" * 8),
        (b'{"value": 1, "arrays": [["float64", [-1]]]}', b"\0" * 8),
        (b'{"value": 1, "arrays": [["float64", [1]]]}', b"\0" * 9),
        (b'{"value": 1, "arrays": [["uint8", [1000000000000]]]}', b""),
    ],
)
def test_damaged_messages_are_named(header, body):
    with pytest.raises(WireError, match="damaged message"):
        unpack(header, body)


def test_other_dtypes_are_not_sent():
    with pytest.raises(ValueError, match=r"an array must be one of bool, .*, got object"):
        pack({"a": np.array([object()])})


def test_silence_an_end_and_other_bytes_are_told_apart(pipe):
    channel, _, outbox = pipe
    with pytest.raises(WireError, match="gave no answer for 0 s"):
        channel.receive(0.05)
    os.write(outbox, b"Traceback (most ")  # as long as the start of a message
    with pytest.raises(WireError, match="no message"):
        channel.receive(1.0)
    os.close(outbox)
    with pytest.raises(WireError, match="ended"):
        channel.receive(1.0)


def test_huge_announcements_are_refused(pipe):
    channel, _, outbox = pipe
    os.write(outbox, wire.MAGIC + wire.LENGTHS.pack(10, 1 << 60))
    with pytest.raises(WireError, match="no message"):
        channel.receive(1.0)
