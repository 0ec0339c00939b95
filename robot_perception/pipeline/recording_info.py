"""What is in a recording: topics, rates, gaps, delays, damage."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from robot_perception.pipeline.sources import Item, Progress, Recording


@dataclass(frozen=True)
class TopicInfo:
    """A topic as it was found on reading it all; times are those of recording.

    `count` messages, `rejected` of which cannot be decoded, for the `reasons` given with their
    numbers. `rate_hz` from the median time between messages and `largest_gap_s` are None for fewer
    than two messages. `delay_s` is the median of the time of recording less the header's stamp;
    None where the header is not read. `role` is the pipeline's input that it is read as, if any.
    """

    name: str
    type: str
    role: str | None
    count: int
    rejected: int
    reasons: dict[str, int]
    first_ns: int | None
    last_ns: int | None
    rate_hz: float | None
    largest_gap_s: float | None
    delay_s: float | None


@dataclass(frozen=True)
class RecordingInfo:
    """`size_bytes` of the files, `duration_s` from the first to the last message."""

    path: str
    kind: str
    size_bytes: int
    duration_s: float
    first_ns: int | None
    last_ns: int | None
    topics: tuple[TopicInfo, ...]
    rejected: int
    damage: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass
class _Seen:
    # Eight bytes a message and list; nothing else is kept of a message.
    stamps: array[int] = field(default_factory=lambda: array("q"))
    delays: array[int] = field(default_factory=lambda: array("q"))
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, item: Item) -> None:
        self.stamps.append(item.stamp_ns)
        if item.frame is not None:
            self.delays.append(item.stamp_ns - item.frame.stamp_ns)
        elif item.rejected is not None:
            self.reasons[item.rejected] += 1


def describe(recording: Recording, progress: Progress | None = None) -> RecordingInfo:
    """Read the recording as a whole, decoding what can be decoded."""
    seen: dict[str, _Seen] = {topic.name: _Seen() for topic in recording.topics}
    for item in recording.scan(progress):
        seen.setdefault(item.topic, _Seen()).add(item)
    roles = {name: role for role, name in recording.roles.items()}
    topics = tuple(
        _topic_info(topic.name, topic.type, roles.get(topic.name), seen[topic.name])
        for topic in recording.topics
    )
    first = min((t.first_ns for t in topics if t.first_ns is not None), default=None)
    last = max((t.last_ns for t in topics if t.last_ns is not None), default=None)
    return RecordingInfo(
        path=str(recording.path),
        kind=recording.kind,
        size_bytes=_size_of(recording.path),
        duration_s=0.0 if first is None or last is None else (last - first) * 1e-9,
        first_ns=first,
        last_ns=last,
        topics=topics,
        rejected=sum(topic.rejected for topic in topics),
        damage=tuple(recording.damage),
    )


def _topic_info(name: str, kind: str, role: str | None, seen: _Seen) -> TopicInfo:
    stamps = np.sort(np.frombuffer(seen.stamps, np.int64)) if seen.stamps else np.zeros(0, np.int64)
    gaps = np.diff(stamps)
    median_ns = float(np.median(gaps)) if gaps.size else 0.0
    return TopicInfo(
        name=name,
        type=kind,
        role=role,
        count=len(stamps),
        rejected=seen.reasons.total(),
        reasons=dict(seen.reasons),
        first_ns=int(stamps[0]) if stamps.size else None,
        last_ns=int(stamps[-1]) if stamps.size else None,
        rate_hz=1e9 / median_ns if median_ns > 0 else None,
        largest_gap_s=float(gaps.max()) * 1e-9 if gaps.size else None,
        delay_s=float(np.median(np.frombuffer(seen.delays, np.int64))) * 1e-9
        if seen.delays
        else None,
    )


def _size_of(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
