"""Compares two recordings of results: what one has and the other lacks, and what differs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.highlevel import AnyReader

from robot_perception.pipeline.messages import TYPESTORE


@dataclass(frozen=True)
class TopicParity:
    """Messages of one topic by header stamp: compared, identical, and those on one side only."""

    compared: int = 0
    identical: int = 0
    only_a: int = 0
    only_b: int = 0

    @property
    def same(self) -> bool:
        return self.compared == self.identical and not self.only_a and not self.only_b


@dataclass(frozen=True)
class Parity:
    """`identical` when every message of every compared topic is the same to the last bit."""

    identical: bool
    topics: dict[str, TopicParity]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare(a: Path, b: Path, prefixes: tuple[str, ...]) -> Parity:
    """Compare the topics of two MCAP files that start with one of `prefixes`."""
    topics: dict[str, TopicParity] = {}
    with (
        AnyReader([a], default_typestore=TYPESTORE) as first,
        AnyReader([b], default_typestore=TYPESTORE) as second,
    ):
        names = {c.topic for c in (*first.connections, *second.connections)}
        for name in sorted(n for n in names if n.startswith(prefixes)):
            topics[name] = _compare_topic(first, second, name)
    identical = bool(topics) and all(topic.same for topic in topics.values())
    return Parity(identical, topics)


def _compare_topic(first: AnyReader, second: AnyReader, name: str) -> TopicParity:
    left, right = _by_stamp(first, name), _by_stamp(second, name)
    # One message of each side at a time: the recordings may be larger than memory.
    a, b = next(left, None), next(right, None)
    compared = identical = only_a = only_b = 0
    while a is not None or b is not None:
        if b is None or (a is not None and a[0] < b[0]):
            only_a += 1
            a = next(left, None)
        elif a is None or b[0] < a[0]:
            only_b += 1
            b = next(right, None)
        else:
            compared += 1
            identical += _equal(a[1], b[1])
            a, b = next(left, None), next(right, None)
    return TopicParity(compared, identical, only_a, only_b)


def _by_stamp(reader: AnyReader, name: str) -> Iterator[tuple[int, Any]]:
    connections = [c for c in reader.connections if c.topic == name]
    if not connections:
        return
    for connection, log_ns, data in reader.messages(connections):
        message = reader.deserialize(data, connection.msgtype)
        head = getattr(message, "header", None)
        stamp = log_ns if head is None else head.stamp.sec * 1_000_000_000 + head.stamp.nanosec
        yield stamp, message


def _equal(a: Any, b: Any) -> bool:
    """Whether two messages agree in every field, bit by bit in arrays."""
    if is_dataclass(a):
        return type(a).__name__ == type(b).__name__ and all(
            _equal(getattr(a, name), getattr(b, name)) for name in a.__dataclass_fields__
        )
    if isinstance(a, np.ndarray):
        return bool(a.dtype == b.dtype and a.tobytes() == b.tobytes())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)
