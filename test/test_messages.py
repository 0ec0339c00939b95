"""Serialised messages: whatever the bytes are, a message or InputRejected; and rclpy's are ours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hostile_bytes import CLOUD, IMAGE, TYPES, big_endian, good
from hypothesis import given, settings
from hypothesis import strategies as st
from test_wire_properties import LIMIT, MESSAGES, check

from robot_perception.core.errors import InputRejected
from robot_perception.pipeline.messages import TYPESTORE, deserialize, serialize
from robot_perception.wire import decode

VALID = {kind: serialize(good(kind, size=(40, 60))) for kind in TYPES}

# Lengths and counts are among the first words; bytes anywhere.
_WORDS = st.sampled_from([0, 1, 2, 255, 2**16, 2**29, 2**31 - 1, 2**31, 2**32 - 1])
_CHANGES = st.lists(
    st.one_of(
        st.tuples(st.integers(0, 60), _WORDS),
        st.tuples(st.integers(0, 10**5), st.integers(0, 255)),
    ),
    max_size=3,
)


def mutated(data: bytes, changes: list[tuple[int, int]], cut: int) -> bytes:
    """Words (of the first 61) or bytes replaced, and some bytes off or onto the end."""
    out = bytearray(data)
    for at, value in changes:
        if at <= 60:
            out[4 * at : 4 * at + 4] = value.to_bytes(4, "little")
        else:
            out[at % len(out)] = value % 256
    return bytes(out[:-cut] if cut > 0 else out + bytes(-cut))


def told(data: bytes, kind: str) -> bool:
    """Whether it is a message; then the decoder, too, gives a valid result or InputRejected."""
    try:
        message = deserialize(data, kind, LIMIT)
    except InputRejected as rejected:
        assert 0 < len(rejected.reason) < 120
        return False
    if kind in MESSAGES:
        check(kind, message)
    assert message.__msgtype__ == kind
    return True


def test_changed_bytes_are_a_message_or_rejected() -> None:
    found = {True: 0, False: 0}

    @settings(max_examples=250, deadline=None, database=None, derandomize=True)
    @given(st.sampled_from(TYPES), _CHANGES, st.sampled_from([0, 0, 0, -1, -40, 1, 5, 100]))
    def run(kind: str, changes: list[tuple[int, int]], cut: int) -> None:
        found[told(mutated(VALID[kind], changes, cut), kind)] += 1

    run()
    assert min(found.values()) > 25


@settings(max_examples=50, deadline=None, database=None, derandomize=True)
@given(st.sampled_from(TYPES), st.binary(max_size=300), st.sampled_from([b"", b"\0\1\0\0"]))
def test_random_bytes_are_a_message_or_rejected(kind: str, data: bytes, start: bytes) -> None:
    told(start + data, kind)


@pytest.mark.parametrize("kind", [IMAGE, CLOUD])
def test_data_is_not_copied(kind: str) -> None:
    message = good(kind)
    data = serialize(message)
    read: Any = deserialize(data, kind)
    assert np.shares_memory(read.data, np.frombuffer(data, np.uint8))
    if kind == IMAGE:
        frame: Any = decode(read, kind)
        assert np.shares_memory(frame.rgb, read.data)
    np.testing.assert_array_equal(deserialize(big_endian(message), kind).data, message.data)


@pytest.mark.parametrize("kind", TYPES)
def test_rclpy_has_the_same_definition_and_bytes(kind: str) -> None:
    """The nodes read by our definitions what others send by those of their distribution."""
    pytest.importorskip(kind.partition("/")[0])
    from rclpy.serialization import deserialize_message, serialize_message

    from robot_perception.ros.messages import message_class

    def same(name: str) -> None:
        ours = [field for field, _ in TYPESTORE.fielddefs[name][1]]
        theirs = message_class(name).get_fields_and_field_types()
        assert [field.lower() for field in ours] == [field.lower() for field in theirs], name
        for nested in theirs.values():
            package, _, rest = nested.partition("[")[0].removeprefix("sequence<").partition("/")
            if rest:
                same(f"{package}/msg/{rest.rstrip('>')}")

    same(kind)
    live = deserialize_message(VALID[kind], message_class(kind))
    again = deserialize(serialize_message(live), kind)
    assert serialize(again) == VALID[kind]
