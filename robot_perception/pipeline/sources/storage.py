"""What the bag storages share: raw messages, bounded decompression, order by time."""

from __future__ import annotations

import bz2
import heapq
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Protocol

import lz4.frame
import zstandard

from robot_perception.pipeline.sources.base import Topic

# Largest chunk that is decompressed: what the file claims is not to be believed.
MAX_CHUNK_BYTES = 2**30


class Damaged(Exception):
    """A part of the storage cannot be read; the message says which and why."""


@dataclass(frozen=True)
class Raw:
    """A message as it was recorded: CDR, or the ROS 1 serialisation."""

    topic: str
    type: str
    stamp_ns: int
    data: bytes


@dataclass(frozen=True)
class StoredTopic:
    """A topic and the definition of its type that the file carries ("" if it does not)."""

    topic: Topic
    definition: str = ""
    encoding: str = "cdr"
    latched: bool = False


class Storage(Protocol):
    """One file. `damage` grows while it is read."""

    topics: list[StoredTopic]
    damage: list[str]

    def messages(self, names: Collection[str]) -> Iterator[Raw]:
        """Messages of the named topics by time, as far as the file is whole. Never raises."""
        ...


@dataclass(frozen=True)
class Batch:
    """Messages that lie together: `load` reads them; none is earlier than `start_ns`."""

    start_ns: int
    load: Callable[[], Iterable[Raw]]


def merge(batches: Iterable[Batch], damage: list[str]) -> Iterator[Raw]:
    """The messages of `batches`, which are sorted by start, by time; damaged ones are reported.

    Only batches that overlap in time are in memory together.
    """
    heap: list[tuple[int, int, Raw]] = []
    serial = 0
    for batch in batches:
        while heap and heap[0][0] < batch.start_ns:
            yield heapq.heappop(heap)[2]
        try:
            for raw in batch.load():
                heapq.heappush(heap, (raw.stamp_ns, serial, raw))
                serial += 1
        except (Damaged, OSError) as error:
            damage.append(str(error))
    while heap:
        yield heapq.heappop(heap)[2]


def decompress(kind: str, data: bytes, size: int) -> bytes:
    """At most `size` bytes of `data`; fewer where the data ends early. Raises Damaged."""
    if size > MAX_CHUNK_BYTES:
        raise Damaged(f"{size} bytes claimed for one chunk")
    try:
        if kind in ("", "none"):
            return data[:size]
        if kind == "zstd":
            reader = zstandard.ZstdDecompressor().stream_reader(BytesIO(data))
            return bytes(reader.read(size)) if size else b""
        if kind == "lz4":
            return bytes(lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=size))
        if kind == "bz2":
            return bz2.BZ2Decompressor().decompress(data, max_length=size)
    except (zstandard.ZstdError, RuntimeError, OSError, ValueError, MemoryError) as error:
        raise Damaged(f"{kind} data is damaged ({error})") from error
    raise Damaged(f"compression {kind!r} is not known")
