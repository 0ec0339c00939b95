"""Files in folders as recordings: what is the same for KITTI's and plain ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from natsort import natsorted

from robot_perception.core.errors import InputRejected
from robot_perception.core.types import F64, Frame
from robot_perception.pipeline.sources import loaders
from robot_perception.pipeline.sources.base import ROLES, Item, Progress, Topic, checked_roles

# Stamps that come without an epoch begin here: ROS takes a stamp of zero for "no time".
FIRST_STAMP_NS = 1_000_000_000
_SECOND_NS = 1_000_000_000
_TYPES = {
    "image": "sensor_msgs/msg/Image",
    "points": "sensor_msgs/msg/PointCloud2",
    "camera_info": "sensor_msgs/msg/CameraInfo",
    "odom": "nav_msgs/msg/Odometry",
}


@dataclass(frozen=True)
class Entry:
    """A frame to be: `load` reads it, raising InputRejected if that cannot be done."""

    role: str
    stamp_ns: int
    load: Callable[[], Frame]


class FileRecording:
    """Frames from files; see `Recording`. The topics are the roles with a slash in front."""

    def __init__(
        self, path: Path, kind: str, entries: Sequence[Entry], damage: Sequence[str] = ()
    ) -> None:
        self.path = path
        self.kind = kind
        self.damage = tuple(damage)
        self._entries = sorted(entries, key=lambda e: (e.stamp_ns, ROLES.index(e.role)))
        counts = {role: sum(e.role == role for e in entries) for role in ROLES}
        self.topics = tuple(
            Topic(f"/{role}", _TYPES[role], count) for role, count in counts.items() if count
        )
        self.roles: Mapping[str, str] = {topic.name[1:]: topic.name for topic in self.topics}

    def frames(
        self, topics: Mapping[str, str] | None = None, progress: Progress | None = None
    ) -> Iterator[Item]:
        wanted = checked_roles(self.topics, self.roles if topics is None else topics)
        return self._read(set(wanted.values()), "", progress)

    def scan(self, progress: Progress | None = None) -> Iterator[Item]:
        return self._read(set(self.roles), "/", progress)

    def _read(self, roles: set[str], prefix: str, progress: Progress | None) -> Iterator[Item]:
        chosen = [entry for entry in self._entries if entry.role in roles]
        for done, entry in enumerate(chosen, 1):
            name = prefix + entry.role
            try:
                yield Item(name, entry.stamp_ns, entry.load(), None)
            except InputRejected as error:
                yield Item(name, entry.stamp_ns, None, error.reason)
            if progress:
                progress(done, len(chosen))


def image_entries(
    images: Mapping[int, Path], stamps: Mapping[int, int], k: F64 | None
) -> list[Entry]:
    """Images by frame number, each with the camera's intrinsics where they are known."""
    first = tuple(images[number] for number in sorted(images)[:10])
    entries = []
    for number, path in images.items():
        stamp = stamps[number]
        entries.append(Entry("image", stamp, partial(loaders.load_image, path, stamp, "camera")))
        if k is not None:
            load = partial(loaders.load_camera_info, first, k, stamp, "camera")
            entries.append(Entry("camera_info", stamp, load))
    return entries


def cloud_entries(clouds: Mapping[int, Path], stamps: Mapping[int, int]) -> list[Entry]:
    entries = []
    for number, path in clouds.items():
        load = partial(loaders.load_cloud, path, stamps[number], "velodyne")
        entries.append(Entry("points", stamps[number], load))
    return entries


def files_in(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Files with one of the suffixes, in natural order of their names; none without the folder."""
    if not folder.is_dir():
        return []
    found = (f for f in folder.iterdir() if f.suffix.lower() in suffixes and f.name[0] != ".")
    return list(natsorted((f for f in found if f.is_file()), key=lambda file: file.name))


def by_number(files: Sequence[Path]) -> dict[int, Path]:
    """Files by the last number in their name; by position where that is not one each."""
    numbers = [re.findall(r"\d+", file.stem) for file in files]
    last = [int(found[-1]) if found else -1 for found in numbers]
    if -1 in last or len(set(last)) < len(last) or last != sorted(last):
        return dict(enumerate(files))
    return dict(zip(last, files, strict=True))


def even_stamps(numbers: Sequence[int], rate_hz: float) -> dict[int, int]:
    """A stamp for each frame number; the first number is at FIRST_STAMP_NS."""
    first = min(numbers, default=0)
    return {n: FIRST_STAMP_NS + round((n - first) * _SECOND_NS / rate_hz) for n in numbers}


def listed_stamps(path: Path) -> list[int]:
    """Stamps in a text file, one a line: date and time (UTC), or seconds.

    Seconds that begin before FIRST_STAMP_NS are taken as relative and moved to begin there. Raises
    ValueError for lines of another form and for stamps that do not increase.
    """
    lines = path.read_text().split("\n")
    stamps = [_stamp_of(line.strip()) for line in lines if line.strip()]
    if any(b <= a for a, b in zip(stamps, stamps[1:], strict=False)):
        raise ValueError("the stamps do not increase")
    if stamps and stamps[0] < FIRST_STAMP_NS:
        return [FIRST_STAMP_NS + stamp - stamps[0] for stamp in stamps]
    return stamps


def _stamp_of(text: str) -> int:
    match = re.fullmatch(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:\.(\d{1,9}))?", text)
    if match:
        when = datetime.strptime(match[1], "%Y-%m-%d %H:%M:%S").replace(tzinfo=timezone.utc)
        return int(when.timestamp()) * _SECOND_NS + int((match[2] or "0").ljust(9, "0"))
    seconds = float(text)
    if not 0.0 <= seconds < 1e10:
        raise ValueError(f"{text!r} is no stamp")
    return round(seconds * 1e9)
