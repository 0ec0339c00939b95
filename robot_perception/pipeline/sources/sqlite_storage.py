"""rosbag2 databases (`.db3`), whole or not.

SQLite refuses a database that is shorter than its header says. `writable_schema` lifts that (the
file is open for reading only), and a file layer that hides the last, incomplete page keeps SQLite
from filling what is missing with zeros.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import apsw

from robot_perception.pipeline.sources.base import RecordingError, Topic
from robot_perception.pipeline.sources.storage import Raw, StoredTopic

MAGIC = b"SQLite format 3\x00"


class _WholePages(apsw.VFS):
    """Shows files only up to their last whole page."""

    def __init__(self, name: str, page_bytes: int) -> None:
        self._page_bytes = page_bytes
        super().__init__(name, "")

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        return _WholePagesFile(name, flags, self._page_bytes)


class _WholePagesFile(apsw.VFSFile):
    def __init__(self, name: Any, flags: list[int], page_bytes: int) -> None:
        self._page_bytes = page_bytes
        super().__init__("", name, flags)

    def xFileSize(self) -> int:
        return int(super().xFileSize()) // self._page_bytes * self._page_bytes


class SqliteStorage:
    """A rosbag2 database; see `Storage`. Raises RecordingError if it is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damage: list[str] = []
        with path.open("rb") as file:
            head = file.read(100)
        if not head.startswith(MAGIC) or len(head) < 100:
            raise RecordingError(f"{path} is not an SQLite database")
        page = int.from_bytes(head[16:18], "big")
        page = 65536 if page == 1 else page
        if page < 512 or page & (page - 1):
            raise RecordingError(f"{path} is not an SQLite database: pages of {page} bytes")
        claimed, size = page * int.from_bytes(head[28:32], "big"), path.stat().st_size
        self._journal = path.with_name(path.name + "-wal")
        self._cut = size < claimed and not self._journal.exists()
        self._page = page
        if self._cut:
            self.damage.append(f"{path.name}: {size} of {claimed} bytes are there")
        try:
            self.topics = self._stored_topics()
        except (apsw.Error, TypeError, ValueError) as error:
            raise RecordingError(f"{path} has no readable table of topics: {error}") from error

    def messages(self, names: Collection[str]) -> Iterator[Raw]:
        connection = self._connect()
        try:
            topics = {
                key: (name, kind)
                for key, name, kind in connection.execute("SELECT id, name, type FROM topics")
                if name in names
            }
            marks = ",".join("?" * len(topics))
            # The index by time may lie behind the cut; the rows are in the order of writing.
            source, order = (
                ("messages NOT INDEXED", "id") if self._cut else ("messages", "timestamp")
            )
            rows = connection.execute(
                f"SELECT topic_id, timestamp, data FROM {source}"
                f" WHERE topic_id IN ({marks}) ORDER BY {order}",
                tuple(topics),
            )
            for key, stamp, data in rows:
                if isinstance(data, bytes) and isinstance(stamp, int):
                    yield Raw(*topics[key], stamp, data)
                else:
                    self.damage.append(f"{self.path.name}: a row of another type than a message")
        except apsw.Error as error:
            self.damage.append(f"{self.path.name}: the rest cannot be read ({error})")
        finally:
            connection.close()

    def _connect(self) -> apsw.Connection:
        vfs = None
        if self._cut:
            # Held by the connection, under a name of its own.
            vfs = f"whole_pages_{id(self)}"
            self._vfs = _WholePages(vfs, self._page)
        # "immutable" needs no lock file beside it, but hides what is still in the journal.
        immutable = 0 if self._journal.exists() else 1
        connection = apsw.Connection(
            f"{self.path.resolve().as_uri()}?immutable={immutable}",
            flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI,
            vfs=vfs,
        )
        if self._cut:
            connection.execute("PRAGMA writable_schema=ON")
        return connection

    def _stored_topics(self) -> list[StoredTopic]:
        connection = self._connect()
        try:
            counts = self._counts(connection)
            definitions = self._definitions(connection)
            return [
                StoredTopic(
                    Topic(name, kind, None if counts is None else counts.get(key, 0)),
                    definitions.get(kind, ""),
                    encoding,
                )
                for key, name, kind, encoding in connection.execute(
                    "SELECT id, name, type, serialization_format FROM topics ORDER BY id"
                )
                if isinstance(name, str) and isinstance(kind, str) and isinstance(encoding, str)
            ]
        finally:
            connection.close()

    def _counts(self, connection: apsw.Connection) -> dict[int, int] | None:
        if self._cut:
            return None
        try:
            query = "SELECT topic_id, COUNT(*) FROM messages GROUP BY topic_id"
            rows: list[Any] = connection.execute(query).fetchall()
            return dict(rows)
        except apsw.Error:
            return None

    def _definitions(self, connection: apsw.Connection) -> dict[str, str]:
        """Message definitions by type; recorders before Iron wrote none."""
        query = "SELECT topic_type, encoded_message_definition FROM message_definitions"
        try:
            return {str(kind): str(text) for kind, text in connection.execute(query)}
        except apsw.Error:
            return {}
