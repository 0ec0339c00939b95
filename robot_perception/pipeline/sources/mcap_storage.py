"""MCAP files, whole or not.

The `mcap` library reads the summary; without a valid one (a recorder that died, a cut file) the
chunks are found by walking the file. Chunks are then read one by one, each checked, so that a
damaged one costs only itself, which the library's own readers cannot do: they end at the first
error, and in a cut file lose the whole last chunk.
"""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.reader import make_reader
from mcap.records import Channel, Chunk, Schema

from robot_perception.pipeline.sources.base import RecordingError, Topic
from robot_perception.pipeline.sources.storage import (
    Batch,
    Damaged,
    Raw,
    StoredTopic,
    decompress,
    merge,
)

MAGIC = b"\x89MCAP0\r\n"
_HEAD = struct.Struct("<BQ")
# Channel, sequence number, log time and publish time, in front of a message's data.
_MESSAGE = struct.Struct("<HIQQ")
# Start of the summary and of its offsets, checksum, magic.
_FOOTER_END = struct.Struct("<QQI8s")
_CHUNK_HEAD_BYTES = 40
# Messages outside chunks are read in runs of about this many bytes.
_RUN_BYTES = 4 * 2**20
_ERRORS = (McapError, struct.error, ValueError, OverflowError, MemoryError)


@dataclass(frozen=True)
class _Part:
    """A chunk record, or a run of plain records: where, and its earliest message."""

    offset: int
    length: int
    start_ns: int
    chunked: bool
    cut: bool = False
    channels: frozenset[int] | None = None


@dataclass
class _Index:
    parts: list[_Part] = field(default_factory=list)
    channels: dict[int, Channel] = field(default_factory=dict)
    schemas: dict[int, Schema] = field(default_factory=dict)
    counts: Counter[int] = field(default_factory=Counter)


class McapStorage:
    """A ROS 2 MCAP; see `Storage`. Raises RecordingError if it is no MCAP at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damage: list[str] = []
        self._size = path.stat().st_size
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise RecordingError(f"{path} is not an MCAP file: its first bytes are others")
            self._index = _from_summary(file) or self._walk(file)
        self.topics = self._stored_topics()

    def messages(self, names: Collection[str]) -> Iterator[Raw]:
        index = self._index
        wanted = {
            key: (c.topic, schema.name)
            for key, c in index.channels.items()
            if c.topic in names and (schema := index.schemas.get(c.schema_id))
        }
        with self.path.open("rb") as file:
            batches = (
                Batch(part.start_ns, partial(self._load, file, part, wanted))
                for part in sorted(index.parts, key=lambda p: (p.start_ns, p.offset))
                if part.channels is None or part.channels & wanted.keys()
            )
            yield from merge(batches, self.damage)

    def _stored_topics(self) -> list[StoredTopic]:
        index = self._index
        totals: dict[tuple[str, str, str, str], int] = {}
        for key, channel in index.channels.items():
            schema = index.schemas.get(channel.schema_id)
            text = schema.data.decode(errors="replace") if schema else ""
            name = schema.name if schema else "unknown"
            entry = (channel.topic, name, text, channel.message_encoding)
            totals[entry] = totals.get(entry, 0) + index.counts[key]
        return [
            StoredTopic(Topic(topic, name, count), text, encoding)
            for (topic, name, text, encoding), count in sorted(totals.items())
        ]

    def _load(
        self, file: BinaryIO, part: _Part, wanted: dict[int, tuple[str, str]]
    ) -> Iterator[Raw]:
        data = _read(file, part.offset, part.length)
        if part.chunked:
            data = _unpack(data, part)
        for opcode, body in _records(data):
            if opcode == Opcode.MESSAGE:
                channel, _, log_ns, _ = _MESSAGE.unpack_from(body)
                if channel in wanted:
                    yield Raw(*wanted[channel], log_ns, bytes(body[_MESSAGE.size :]))

    def _walk(self, file: BinaryIO) -> _Index:
        """Find the chunks without a summary."""
        index = _Index()
        offset, run_start, run_ns = len(MAGIC), -1, 0
        ended = False

        def close_run(end: int) -> None:
            nonlocal run_start
            if run_start >= 0:
                index.parts.append(_Part(run_start, end - run_start, run_ns, chunked=False))
            run_start = -1

        while offset + _HEAD.size <= self._size:
            opcode, length = _HEAD.unpack(_read(file, offset, _HEAD.size))
            start, offset = offset, offset + _HEAD.size + length
            if opcode in (Opcode.DATA_END, Opcode.FOOTER):
                ended = True
                break
            cut = offset > self._size
            whole = min(offset, self._size) - start
            if opcode == Opcode.CHUNK:
                close_run(start)
                self._add_chunk(file, index, start, whole, cut)
            elif opcode == Opcode.MESSAGE and not cut:
                if length < _MESSAGE.size:
                    continue
                head = _read(file, start + _HEAD.size, _MESSAGE.size)
                channel, _, log_ns, _ = _MESSAGE.unpack(head)
                index.counts[channel] += 1
                if run_start >= 0 and start - run_start > _RUN_BYTES:
                    close_run(start)
                run_ns = min(run_ns, log_ns) if run_start >= 0 else log_ns
                run_start = run_start if run_start >= 0 else start
            elif opcode in (Opcode.SCHEMA, Opcode.CHANNEL) and not cut:
                try:
                    _collect(index, opcode, _read(file, start + _HEAD.size, length))
                except Damaged as error:
                    self.damage.append(f"{self.path.name}: {error}")
            if cut or not opcode:
                lost = f"cut at byte {self._size}, in the record at byte {start}"
                self.damage.append(f"{self.path.name}: {lost}")
                ended = True
                offset = start
                break
        close_run(min(offset, self._size))
        if not ended:
            self.damage.append(f"{self.path.name}: ends without a footer")
        elif not self.damage:
            self.damage.append(f"{self.path.name}: without a valid summary")
        return index

    def _add_chunk(
        self, file: BinaryIO, index: _Index, offset: int, length: int, cut: bool
    ) -> None:
        part = _Part(offset, length, 0, chunked=True, cut=cut)
        stamps = []
        channels = set()
        try:
            for opcode, body in _records(_unpack(_read(file, offset, length), part)):
                if opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
                    _collect(index, opcode, body)
                elif opcode == Opcode.MESSAGE:
                    channel, _, stamp = struct.unpack_from("<HIQ", body)
                    index.counts[channel] += 1
                    channels.add(channel)
                    stamps.append(stamp)
        except Damaged as error:
            # Nothing of it can be used, and it is not read again.
            self.damage.append(f"{self.path.name}: {error}")
            return
        if stamps:
            found = frozenset(channels)
            index.parts.append(_Part(offset, length, min(stamps), True, cut, found))


def _from_summary(file: BinaryIO) -> _Index | None:
    """The library's summary as an index; None if there is none or it does not fit."""
    try:
        if not _summary_is_whole(file):
            return None
        file.seek(0)
        summary = make_reader(file).get_summary()
    except (Damaged, *_ERRORS, OSError):
        return None
    if summary is None or summary.statistics is None:
        return None
    if summary.statistics.message_count and not summary.chunk_indexes:
        return None
    return _Index(
        [
            _Part(
                chunk.chunk_start_offset,
                chunk.chunk_length,
                chunk.message_start_time,
                chunked=True,
                channels=frozenset(chunk.message_index_offsets) or None,
            )
            for chunk in summary.chunk_indexes
        ],
        dict(summary.channels),
        dict(summary.schemas),
        Counter(summary.statistics.channel_message_counts),
    )


def _summary_is_whole(file: BinaryIO) -> bool:
    """Whether the footer is there and its checksum fits, which the library does not look at."""
    end = file.seek(0, 2)
    start, _, crc, magic = _FOOTER_END.unpack(_read(file, end - _FOOTER_END.size, _FOOTER_END.size))
    if magic != MAGIC or not 0 < start <= end:
        return False
    return not crc or zlib.crc32(_read(file, start, end - len(MAGIC) - 4 - start)) == crc


def _read(file: BinaryIO, offset: int, length: int) -> bytes:
    size = file.seek(0, 2)
    if offset < 0 or length < 0 or offset + length > size:
        raise Damaged(f"{length} bytes at byte {offset} are beyond the end of the file")
    file.seek(offset)
    return file.read(length)


def _unpack(data: bytes, part: _Part) -> bytes:
    """The records in a chunk; of a chunk that is cut, those up to the cut."""
    where = f"chunk at byte {part.offset}"
    if len(data) < _HEAD.size + _CHUNK_HEAD_BYTES:
        raise Damaged(f"{where}: cut")
    try:
        # The library takes what there is of the data, so a cut chunk parses too.
        chunk = Chunk.read(ReadDataStream(BytesIO(data[_HEAD.size :])))
        unpacked = decompress(chunk.compression, chunk.data, chunk.uncompressed_size)
    except (Damaged, *_ERRORS) as error:
        raise Damaged(f"{where}: {error}") from error
    if part.cut:
        return unpacked
    crc = chunk.uncompressed_crc
    if len(unpacked) != chunk.uncompressed_size or (crc and zlib.crc32(unpacked) != crc):
        raise Damaged(f"{where}: checksum or size do not fit")
    return unpacked


def _records(data: bytes) -> Iterator[tuple[int, memoryview]]:
    """Whole records in `data`: opcode and body."""
    view = memoryview(data)
    offset = 0
    while offset + _HEAD.size <= len(view):
        opcode, length = _HEAD.unpack_from(view, offset)
        offset += _HEAD.size
        if offset + length > len(view):
            return
        if opcode != Opcode.MESSAGE or length >= _MESSAGE.size:
            yield opcode, view[offset : offset + length]
        offset += length


def _collect(index: _Index, opcode: int, body: bytes | memoryview) -> None:
    stream = ReadDataStream(BytesIO(body))
    try:
        if opcode == Opcode.SCHEMA:
            schema = Schema.read(stream)
            index.schemas[schema.id] = schema
        else:
            channel = Channel.read(stream)
            index.channels[channel.id] = channel
    except _ERRORS as error:
        raise Damaged(f"a schema or channel is damaged ({error})") from error
