"""Results into an MCAP file that `ros2 bag`, RViz and Foxglove open.

The `mcap` library writes the file and `rosbags` the messages and their definitions: the writer of
`rosbags` makes folders with a metadata.yaml, where one file is easier to hand on.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection
from contextlib import suppress
from dataclasses import is_dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from mcap.exceptions import UnsupportedCompressionError
from mcap.writer import CompressionType, Writer

from robot_perception.pipeline.messages import TYPESTORE

_HEADER = "std_msgs/msg/Header"
_LAST_STAMP_NS = 2**63 - 1
# Durations of zero stand for "not specified".
_LATCHED_QOS = """\
- history: keep_last
  depth: 1
  reliability: reliable
  durability: transient_local
  deadline: {sec: 0, nsec: 0}
  lifespan: {sec: 0, nsec: 0}
  liveliness: automatic
  liveliness_lease_duration: {sec: 0, nsec: 0}
  avoid_ros_namespace_conventions: false
"""


class SinkError(OSError):
    """The output cannot be written; what had been written before stays readable."""


class McapSink:
    """Writes a ROS 2 MCAP; a context manager.

    The file grows as `NAME.part.mcap` and gets its name when all went well, so that an earlier
    result is replaced by a whole one only. What a failure or a crash leaves behind under the first
    name can be opened as a (damaged) recording; at most the last chunk of 1 MiB, or the last
    larger message, is missing. latched: topics marked as reliable and transient local.
    """

    def __init__(self, path: Path | str, latched: Collection[str] = ("/tf_static",)) -> None:
        self.path = Path(path)
        if self.path.suffix != ".mcap":
            raise SinkError(f"{self.path}: the name of the output must end in .mcap")
        self.partial = self.path.with_suffix(".part.mcap")
        self._latched = frozenset(latched)
        self._schemas: dict[str, int] = {}
        self._channels: dict[str, tuple[int, str]] = {}
        self._sequence: dict[int, int] = {}
        self._last_ns = 0
        self._failed = False
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.partial.open("wb")
            self._writer = self._start()
        except OSError as error:
            raise SinkError(f"{self.partial} cannot be written: {error.strerror}") from error

    def __enter__(self) -> McapSink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> Literal[False]:
        if error is None:
            self.close()
        else:
            # The index is written all the same, the name is not given.
            with suppress(SinkError):
                self._finish()
        return False

    def write(self, topic: str, type_name: str, message: Any, stamp_ns: int) -> None:
        """Write a message of the `rosbags` library, logged at `stamp_ns`.

        Raises SinkError, and ValueError for a type or a stamp that cannot be written.
        """
        _check_type(type_name)
        data = bytes(TYPESTORE.serialize_cdr(message, type_name))
        self._write(topic, type_name, data, stamp_ns)

    def write_cdr(self, topic: str, type_name: str, data: bytes) -> int:
        """Write a serialised message at the stamp of its header; that stamp in ns.

        Of a message without a header of its own, the first one inside counts; if there is none,
        the latest stamp written so far. Raises SinkError, and ValueError for bytes that are none.
        """
        _check_type(type_name)
        stamp_ns = self._stamp_of(type_name, data)
        self._write(topic, type_name, data, stamp_ns)
        return stamp_ns

    def close(self) -> None:
        """Write the index and give the file its name. Raises SinkError."""
        if self._file.closed:
            return
        self._finish()
        try:
            os.replace(self.partial, self.path)
        except OSError as error:
            raise SinkError(f"{self.path} cannot be written: {error.strerror}") from error

    def _start(self) -> Writer:
        try:
            writer = Writer(self._file, compression=CompressionType.ZSTD)
        except UnsupportedCompressionError:
            writer = Writer(self._file, compression=CompressionType.NONE)
        writer.start(profile="ros2", library="robot_perception")
        return writer

    def _write(self, topic: str, type_name: str, data: bytes, stamp_ns: int) -> None:
        if self._failed or self._file.closed:
            raise SinkError(f"{self.partial} is closed")
        if not 0 <= stamp_ns <= _LAST_STAMP_NS:
            raise ValueError(f"{topic}: a stamp of {stamp_ns} ns")
        try:
            channel = self._channel(topic, type_name)
            self._sequence[channel] += 1
            self._writer.add_message(channel, stamp_ns, data, stamp_ns, self._sequence[channel])
        except OSError as error:
            self._give_up(error)
        self._last_ns = max(self._last_ns, stamp_ns)

    def _channel(self, topic: str, type_name: str) -> int:
        if topic in self._channels:
            channel, known = self._channels[topic]
            if known != type_name:
                raise ValueError(f"{topic} carries {known}, not {type_name}")
            return channel
        if type_name not in self._schemas:
            text, _ = TYPESTORE.generate_msgdef(type_name, ros_version=2)
            schema = self._writer.register_schema(type_name, "ros2msg", text.encode())
            self._schemas[type_name] = schema
        # The profile demands the key; the policies are named as in rosbag2 version 9.
        qos = {"offered_qos_profiles": _LATCHED_QOS if topic in self._latched else ""}
        channel = self._writer.register_channel(topic, "cdr", self._schemas[type_name], qos)
        self._channels[topic] = (channel, type_name)
        self._sequence[channel] = 0
        return channel

    def _stamp_of(self, type_name: str, data: bytes) -> int:
        fields = TYPESTORE.fielddefs[type_name][1]
        if fields and fields[0][1][1] == _HEADER:
            # Behind four bytes that tell the byte order, the stamp comes first.
            if len(data) < 12:
                raise ValueError(f"{len(data)} bytes are no {type_name}")
            sec, nanosec = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
            return int(sec) * 1_000_000_000 + int(nanosec)
        try:
            found = _first_stamp(TYPESTORE.deserialize_cdr(data, type_name))
        except Exception as error:
            # Generated code on foreign bytes may raise anything.
            raise ValueError(f"these bytes are no {type_name}") from error
        return self._last_ns if found is None else found

    def _finish(self) -> None:
        if self._failed or self._file.closed:
            return
        try:
            self._writer.finish()  # type: ignore[no-untyped-call]
            self._file.close()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._failed = True
        # Closing tries once more to write what is left in the buffer.
        with suppress(OSError):
            self._file.close()
        raise SinkError(
            f"{self.partial} cannot be written ({error.strerror}); it holds what came before"
        ) from error


def _check_type(type_name: str) -> None:
    if type_name not in TYPESTORE.fielddefs:
        raise ValueError(f"the definition of {type_name} is not known")


def _first_stamp(message: Any) -> int | None:
    """Stamp of the first header in a message, depth first."""
    if isinstance(message, list):
        return next((s for item in message if (s := _first_stamp(item)) is not None), None)
    if not is_dataclass(message):
        return None
    if getattr(message, "__msgtype__", "") == _HEADER:
        stamp: Any = getattr(message, "stamp")  # noqa: B009
        return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)
    names = (name for name in message.__dataclass_fields__ if name != "__msgtype__")
    stamps = (_first_stamp(getattr(message, name)) for name in names)
    return next((stamp for stamp in stamps if stamp is not None), None)
