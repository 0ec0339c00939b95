"""Bags as recordings: rosbag2 folders, single MCAP and SQLite files, ROS 1 bags.

Messages are deserialised by the standard definitions of ROS 2 (and of ROS 1 Noetic), never by those
that the file carries: `rosbags` compiles definitions to Python code, and a file from outside is not
to write the code that reads it. The file's definition is parsed and compared instead; where it says
something else, the topic's messages are rejected.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PureWindowsPath
from typing import Any

import yaml
import zstandard
from natsort import natsorted
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from robot_perception.core.errors import InputRejected
from robot_perception.core.types import U16, Transforms
from robot_perception.pipeline.messages import TYPESTORE, deserialize
from robot_perception.pipeline.sources.base import (
    ROLE_OF_TYPE,
    Item,
    Progress,
    RecordingError,
    Topic,
    checked_roles,
    choose_roles,
    role_of,
)
from robot_perception.pipeline.sources.mcap_storage import McapStorage
from robot_perception.pipeline.sources.ros1_storage import Ros1Storage
from robot_perception.pipeline.sources.sqlite_storage import SqliteStorage
from robot_perception.pipeline.sources.storage import Damaged, Raw, Storage, StoredTopic, decompress
from robot_perception.wire import DEFAULT_MAX_BYTES, decode, decode_labels

_ROS1 = get_typestore(Stores.ROS1_NOETIC)
_SUFFIXES = (".mcap", ".db3")
_COMPRESSED = ".zstd"
_MAX_TEXT_BYTES = 2**20
_MAX_NAME = 1000
# Stamps are signed 64-bit numbers in ROS; MCAP's are unsigned.
_END_OF_TIME_NS = 2**63


class BagRecording:
    """A bag in one or more files, which follow one another in time; see `Recording`."""

    def __init__(
        self,
        path: Path,
        kind: str,
        storages: Sequence[Storage],
        damage: Sequence[str] = (),
        compressed_messages: bool = False,
        max_bytes: int = DEFAULT_MAX_BYTES,
        temporary: tempfile.TemporaryDirectory[str] | None = None,
    ) -> None:
        self.path = path
        self.kind = kind
        self._storages = storages
        self._own_damage = list(damage)
        self._opened = [len(storage.damage) for storage in storages]
        self._compressed = compressed_messages
        self._max_bytes = max_bytes
        self._temporary = temporary
        stored = [topic for storage in storages for topic in storage.topics]
        self.topics = _joined(stored)
        self.roles: Mapping[str, str] = choose_roles(self.topics)
        self._refused = {
            (s.topic.name, s.topic.type): reason for s in stored if (reason := _refusal(s))
        }
        self._ros1 = {s.topic.name for s in stored if s.encoding == "ros1"}

    @property
    def damage(self) -> tuple[str, ...]:
        return (*self._own_damage, *itertools.chain(*(s.damage for s in self._storages)))

    def frames(
        self, topics: Mapping[str, str] | None = None, progress: Progress | None = None
    ) -> Iterator[Item]:
        return self._frames(
            checked_roles(self.topics, self.roles if topics is None else topics), progress
        )

    def _frames(self, wanted: Mapping[str, str], progress: Progress | None) -> Iterator[Item]:
        for raw in self._read(wanted, progress):
            role = wanted[raw.topic]
            if role_of(raw.topic, raw.type) == role:
                yield self._item(raw, role)
            else:
                yield Item(role, raw.stamp_ns, None, f"{raw.type} among messages of another type")

    def scan(self, progress: Progress | None = None) -> Iterator[Item]:
        for raw in self._read({topic.name for topic in self.topics}, progress):
            if raw.type in ROLE_OF_TYPE:
                yield self._item(raw, raw.topic)
            else:
                yield Item(raw.topic, raw.stamp_ns, None, None)

    def label_images(self, topic: str) -> Iterator[tuple[int, U16]]:
        """Stamp in ns and label image (H, W) of each message of `topic`; raises RecordingError if
        there is no such topic and InputRejected for one that is none."""
        if topic not in {t.name for t in self.topics}:
            raise RecordingError(f"{self.path} has no topic {topic}")
        for raw in self._read({topic}, None):
            yield decode_labels(self._deserialize(raw), self._max_bytes)

    def _read(self, names: Collection[str], progress: Progress | None) -> Iterator[Raw]:
        for storage, count in zip(self._storages, self._opened, strict=True):
            del storage.damage[count:]
        counts = [topic.count for topic in self.topics if topic.name in names]
        total = None if None in counts else sum(c or 0 for c in counts)
        done = 0
        for storage in self._storages:
            beyond: set[str] = set()
            for raw in storage.messages(names):
                done += 1
                if 0 <= raw.stamp_ns < _END_OF_TIME_NS:
                    yield raw
                elif raw.topic not in beyond:
                    beyond.add(raw.topic)
                    storage.damage.append(f"{raw.topic}: messages at impossible times left out")
                if progress:
                    progress(done, total)

    def _item(self, raw: Raw, name: str) -> Item:
        try:
            frame = decode(self._deserialize(raw), raw.type, self._max_bytes)
        except InputRejected as error:
            return Item(name, raw.stamp_ns, None, error.reason)
        if isinstance(frame, Transforms):
            frame = replace(frame, static=role_of(raw.topic, raw.type) == "tf_static")
        return Item(name, raw.stamp_ns, frame, None)

    def _deserialize(self, raw: Raw) -> Any:
        if reason := self._refused.get((raw.topic, raw.type)):
            raise InputRejected(reason)
        if len(raw.data) > self._max_bytes:
            raise InputRejected(f"message of {len(raw.data)} bytes is over the limit")
        try:
            data: bytes | memoryview = raw.data
            if self._compressed:
                data = decompress("zstd", raw.data, self._max_bytes)
            if raw.topic in self._ros1:
                data = TYPESTORE.ros1_to_cdr(data, raw.type)
        except Damaged as error:
            raise InputRejected(str(error)) from error
        except Exception as error:
            raise InputRejected(f"not a serialised {raw.type}: {type(error).__name__}") from error
        return deserialize(data, raw.type, self._max_bytes)


def open_bag_file(path: Path, max_bytes: int = DEFAULT_MAX_BYTES) -> BagRecording:
    """A single `.mcap`, `.db3` or `.bag` file."""
    storage = _storage(path)
    kind = {".mcap": "mcap", ".db3": "sqlite3", ".bag": "ros1"}[path.suffix]
    return BagRecording(path, kind, [storage], max_bytes=max_bytes)


def is_bag_folder(path: Path) -> bool:
    return (path / "metadata.yaml").is_file() or bool(_storage_files(path))


def open_bag_folder(path: Path, max_bytes: int = DEFAULT_MAX_BYTES) -> BagRecording:
    """A rosbag2 folder. Without (valid) metadata the storage files in it are taken as they are.

    Only the last part of a file name in the metadata counts: no file outside `path` is opened.
    """
    damage: list[str] = []
    try:
        information = _metadata(path / "metadata.yaml")
        names = [PureWindowsPath(name).name for name in information["relative_file_paths"]]
        mode, kind = (information.get(f"compression_{key}") or "" for key in ("mode", "format"))
    except (OSError, ValueError, TypeError, KeyError, RecursionError, yaml.YAMLError) as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else f"is invalid ({error})"
        damage.append(f"metadata.yaml {reason}")
        names, mode, kind = [file.name for file in _storage_files(path)], "", ""
    if mode.lower() in ("file", "message") and kind != "zstd":
        raise RecordingError(f"{path}: compression {kind!r}")
    storages: list[Storage] = []
    temporary = (
        tempfile.TemporaryDirectory() if any(n.endswith(_COMPRESSED) for n in names) else None
    )
    for name in names:
        try:
            file = path / name
            if temporary and name.endswith(_COMPRESSED):
                file = _decompressed(file, Path(temporary.name), damage)
            storages.append(_storage(file))
        except FileNotFoundError:
            damage.append(f"{name}, named in metadata.yaml, is missing")
        except (RecordingError, OSError) as error:
            damage.append(str(error))
    if not storages:
        raise RecordingError(f"{path}: no readable .mcap or .db3 file; {'; '.join(damage)}")
    stored_as = "rosbag2 mcap" if isinstance(storages[0], McapStorage) else "rosbag2 sqlite3"
    packed = mode.lower() == "message"
    return BagRecording(path, stored_as, storages, damage, packed, max_bytes, temporary)


def _metadata(path: Path) -> Mapping[str, Any]:
    if path.stat().st_size > _MAX_TEXT_BYTES:
        raise ValueError("over the size limit")
    document = yaml.safe_load(path.read_text())
    information = document["rosbag2_bagfile_information"]
    if not isinstance(information, Mapping) or not isinstance(
        information["relative_file_paths"], list
    ):
        raise ValueError("not the information of a bag")
    texts = [*information["relative_file_paths"]]
    texts += [information.get(f"compression_{key}") or "" for key in ("mode", "format")]
    # Aliases make a small file stand for gigabytes of text: nothing but text is made text of.
    if not all(isinstance(text, str) and len(text) < _MAX_NAME for text in texts):
        raise ValueError("not the names of files")
    return information


def _storage_files(path: Path) -> list[Path]:
    return natsorted(
        (
            file
            for file in path.iterdir()
            if file.suffix in _SUFFIXES
            or file.name.endswith(tuple(s + _COMPRESSED for s in _SUFFIXES))
        ),
        key=lambda file: file.name,
    )


def _storage(path: Path) -> Storage:
    kinds: dict[str, type[McapStorage] | type[SqliteStorage] | type[Ros1Storage]]
    kinds = {".mcap": McapStorage, ".db3": SqliteStorage, ".bag": Ros1Storage}
    if path.suffix not in kinds:
        raise RecordingError(f"{path.name} is neither an .mcap nor a .db3 file")
    if not path.stat().st_size:
        raise RecordingError(f"{path} is empty")
    return kinds[path.suffix](path)


def _decompressed(path: Path, folder: Path, damage: list[str]) -> Path:
    """The file without its compression, as far as it is whole."""
    out = folder / path.name.removesuffix(_COMPRESSED)
    with path.open("rb") as packed, out.open("wb") as plain:
        try:
            zstandard.ZstdDecompressor().copy_stream(packed, plain)
        except zstandard.ZstdError as error:
            damage.append(f"{path.name}: {error}")
    return out


def _joined(stored: Sequence[StoredTopic]) -> tuple[Topic, ...]:
    """Each topic once: its type with the most messages, and the count over all its types."""
    by_name: dict[str, list[Topic]] = {}
    for topic in (s.topic for s in stored):
        by_name.setdefault(topic.name, []).append(topic)
    joined = []
    for name, parts in sorted(by_name.items()):
        kind = max(parts, key=lambda part: part.count or 0).type
        counts = [part.count for part in parts if part.count is not None]
        joined.append(Topic(name, kind, sum(counts) if len(counts) == len(parts) else None))
    return tuple(joined)


def _refusal(stored: StoredTopic) -> str | None:
    """Why messages of a topic cannot be read; None if they can, or are not wanted anyway."""
    kind = stored.topic.type
    if kind not in ROLE_OF_TYPE:
        return None
    if stored.encoding not in ("cdr", "ros1"):
        return f"serialised as {stored.encoding!r}"
    store = _ROS1 if stored.encoding == "ros1" else TYPESTORE
    text = stored.definition
    if not text or len(text) > _MAX_TEXT_BYTES or text.lstrip().startswith(("module", "=" * 80)):
        # None, or IDL, which only newly generated standard types come with.
        return None
    try:
        parsed = get_types_from_msg(text, kind)
    except Exception:
        return f"the definition of {kind} in the file cannot be parsed"
    for name, (_, fields) in parsed.items():
        known = store.fielddefs.get(name)
        ours = [(f.lower(), d) for f, d in known[1]] if known else None
        if ours != [(f.lower(), d) for f, d in fields]:
            return f"{name} is defined otherwise in the file"
    return None
