"""ROS 1 bags (format 2.0), whole or not.

Records are parsed by `rosbags`. Its own reader wants a bag that is whole: here the chunks come from
the index, or from walking the file where there is no valid one (a recorder that died, a cut file),
and are read one by one, so that a damaged one costs only itself.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from rosbags.rosbag1.reader import Header, Reader, ReaderError, RecordType, read_uint32
from rosbags.typesys.msg import normalize_msgtype

from robot_perception.pipeline.sources.base import RecordingError, Topic
from robot_perception.pipeline.sources.storage import (
    Batch,
    Damaged,
    Raw,
    StoredTopic,
    decompress,
    merge,
)

MAGIC = b"#ROSBAG V2.0\n"
_ERRORS = (ReaderError, struct.error, ValueError, IndexError, AssertionError, OSError, MemoryError)
# A record's header holds a few short fields and, in a connection, the message definition.
_MAX_HEADER_BYTES = 2**24


@dataclass(frozen=True)
class _Part:
    """A chunk: where its header starts, its earliest message, whether it is cut."""

    offset: int
    start_ns: int
    cut: bool = False


class Ros1Storage:
    """A ROS 1 bag; see `Storage`. Type names are ROS 2's, the data is serialised as ROS 1 does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damage: list[str] = []
        self._parts: list[_Part] = []
        self._size = path.stat().st_size
        # Connection number -> topic, type, definition.
        self._connections: dict[int, tuple[str, str, str]] = {}
        self._counts: Counter[int] = Counter()
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise RecordingError(f"{path} is not a ROS 1 bag of version 2.0")
            if not self._from_index(file):
                self._walk(file)
        self.topics = self._stored_topics()

    def messages(self, names: Collection[str]) -> Iterator[Raw]:
        wanted = {key: (c[0], c[1]) for key, c in self._connections.items() if c[0] in names}
        with self.path.open("rb") as file:
            batches = (
                Batch(part.start_ns, partial(self._load, file, part, wanted))
                for part in sorted(self._parts, key=lambda p: (p.start_ns, p.offset))
            )
            yield from merge(batches, self.damage)

    def _from_index(self, file: BinaryIO) -> bool:
        """Take over the bag's own index; False if there is none that can be trusted.

        The reader of `rosbags` would also read the index of each chunk, which is not needed here
        and as likely to be damaged as the chunk itself.
        """
        reader = Reader(self.path)
        reader.bio = file
        try:
            header = Header.read(file, RecordType.BAGHEADER)
            if header.get("encryptor"):
                raise RecordingError(f"{self.path} is encrypted")
            file.seek(header.get_uint64("index_pos"))
            if not file.tell():
                return False
            connections = [reader.read_connection() for _ in range(header.get_uint32("conn_count"))]
            chunks = [reader.read_chunk_info() for _ in range(header.get_uint32("chunk_count"))]
        except RecordingError:
            raise
        except _ERRORS:
            return False
        if any(not len(MAGIC) <= chunk.pos < self._size for chunk in chunks):
            return False
        self._connections = {c.id: (c.topic, c.msgtype, c.msgdef.data) for c in connections}
        self._parts = [_Part(chunk.pos, chunk.start_time) for chunk in chunks]
        self._counts = Counter()
        for chunk in chunks:
            self._counts.update(chunk.connection_counts)
        return True

    def _walk(self, file: BinaryIO) -> None:
        """Find chunks, connections and counts without the index."""
        self.damage.append(f"{self.path.name}: without a valid index")
        offset = len(MAGIC)
        while offset < self._size:
            try:
                header, size, data_at = self._record(file, offset)
                kind = header.get_uint8("op")
                cut = data_at + size > self._size
                if kind == RecordType.CONNECTION and not cut:
                    self._add_connection(header, file.read(size))
            except (Damaged, *_ERRORS) as error:
                lost = f"the rest from byte {offset} cannot be read ({error})"
                self.damage.append(f"{self.path.name}: {lost}")
                return
            if kind == RecordType.CHUNK:
                self._add_chunk(file, offset, cut)
            if cut:
                lost = f"cut at byte {self._size}, in the record at byte {offset}"
                self.damage.append(f"{self.path.name}: {lost}")
            offset = data_at + size

    def _record(self, file: BinaryIO, offset: int) -> tuple[Header, int, int]:
        """Header of the record at `offset`, size and position of its data."""
        file.seek(offset)
        length = read_uint32(file)
        if length > min(_MAX_HEADER_BYTES, self._size - offset):
            raise Damaged(f"a header of {length} bytes is claimed")
        file.seek(offset)
        header = Header.read(file)
        size = read_uint32(file)
        return header, size, file.tell()

    def _add_chunk(self, file: BinaryIO, offset: int, cut: bool) -> None:
        stamps = []
        try:
            for header, data in self._records(self._unpack(file, offset, cut)):
                if header.get_uint8("op") == RecordType.CONNECTION:
                    self._add_connection(header, data)
                elif header.get_uint8("op") == RecordType.MSGDATA:
                    key = header.get_uint32("conn")
                    self._counts[key] += 1
                    stamps.append(header.get_time("time"))
        except (Damaged, *_ERRORS) as error:
            self.damage.append(f"{self.path.name}: {error}")
        if stamps:
            self._parts.append(_Part(offset, min(stamps), cut))

    def _add_connection(self, header: Header, data: bytes) -> None:
        fields = BytesIO(struct.pack("<I", len(data)) + data)
        described = Header.read(fields)
        topic = "/" + "/".join(part for part in header.get_string("topic").split("/") if part)
        kind = normalize_msgtype(described.get_string("type"))
        definition = described.get_string("message_definition")
        self._connections[header.get_uint32("conn")] = (topic, kind, definition)

    def _stored_topics(self) -> list[StoredTopic]:
        totals: dict[tuple[str, str, str], int] = {}
        for key, entry in self._connections.items():
            totals[entry] = totals.get(entry, 0) + self._counts[key]
        return [
            StoredTopic(Topic(topic, kind, count), definition, "ros1")
            for (topic, kind, definition), count in sorted(totals.items())
        ]

    def _load(
        self, file: BinaryIO, part: _Part, wanted: dict[int, tuple[str, str]]
    ) -> Iterator[Raw]:
        try:
            for header, data in self._records(self._unpack(file, part.offset, part.cut)):
                if header.get_uint8("op") == RecordType.MSGDATA:
                    key = header.get_uint32("conn")
                    if key in wanted:
                        yield Raw(*wanted[key], header.get_time("time"), data)
        except _ERRORS as error:
            raise Damaged(f"chunk at byte {part.offset}: {error}") from error

    def _unpack(self, file: BinaryIO, offset: int, cut: bool) -> bytes:
        where = f"chunk at byte {offset}"
        try:
            header, size, _ = self._record(file, offset)
            data = file.read(min(size, self._size))
            claimed = header.get_uint32("size")
            unpacked = decompress(header.get_string("compression"), data, claimed)
        except (Damaged, *_ERRORS) as error:
            raise Damaged(f"{where}: {error}") from error
        if len(unpacked) != claimed and not cut:
            raise Damaged(f"{where}: {len(unpacked)} of {claimed} bytes")
        return unpacked

    def _records(self, data: bytes) -> Iterator[tuple[Header, bytes]]:
        """Whole records in a chunk."""
        stream = BytesIO(data)
        while stream.tell() < len(data):
            try:
                header = Header.read(stream)
                size = read_uint32(stream)
            except ReaderError:
                return
            if stream.tell() + size > len(data):
                return
            yield header, stream.read(size)
