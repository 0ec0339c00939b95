"""What every recording offers, and the choice of which topics to read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from robot_perception.core.types import Frame

Progress: TypeAlias = Callable[[int, int | None], None]
"""Called with the messages read so far and their total, None where it is not known."""

ROLE_OF_TYPE = {
    "sensor_msgs/msg/Image": "image",
    "sensor_msgs/msg/CompressedImage": "image",
    "sensor_msgs/msg/PointCloud2": "points",
    "sensor_msgs/msg/CameraInfo": "camera_info",
    "nav_msgs/msg/Odometry": "odom",
    "tf2_msgs/msg/TFMessage": "tf",
}
# At equal stamps in this order: what a frame needs comes before it.
ROLES = ("tf_static", "tf", "odom", "camera_info", "image", "points")

# Images of these kinds are of no use as camera input, however many there are.
_DERIVED = ("depth", "disparity", "label", "mask", "overlay", "confidence", "evidence", "range")


class RecordingError(ValueError):
    """A recording cannot be opened, or has not what was asked for."""


@dataclass(frozen=True)
class Topic:
    """A recorded topic; `count` is None where only reading it all would tell."""

    name: str
    type: str
    count: int | None


@dataclass(frozen=True, eq=False)
class Item:
    """One recorded message. `frame` is None where it could not be decoded; `rejected` says why.

    `topic` is the role (`Recording.frames`) or the recorded name (`Recording.scan`); `stamp_ns` is
    the time at which it was recorded, `frame.stamp_ns` that of its header.
    """

    topic: str
    stamp_ns: int
    frame: Frame | None
    rejected: str | None


class Recording(Protocol):
    """A recording: read as often as wanted, never loaded as a whole.

    `roles` gives the topic chosen for each role ("image", "points", "camera_info", "odom",
    "tf", "tf_static").
    `damage` says what was lost: complete once an iterator is exhausted, and of the last one begun.
    """

    @property
    def path(self) -> Path: ...

    @property
    def kind(self) -> str: ...

    @property
    def topics(self) -> tuple[Topic, ...]: ...

    @property
    def roles(self) -> Mapping[str, str]: ...

    @property
    def damage(self) -> Sequence[str]: ...

    def frames(
        self, topics: Mapping[str, str] | None = None, progress: Progress | None = None
    ) -> Iterator[Item]:
        """Frames in the order of recording, `Item.topic` being the role.

        topics: role -> recorded topic, in place of `roles`. Raises RecordingError if there is no
        such topic or its type does not fit the role. A message that cannot be decoded is an item
        without a frame; a damaged recording is read as far as it is whole, see `damage`.
        """
        ...

    def scan(self, progress: Progress | None = None) -> Iterator[Item]:
        """All messages in order, `Item.topic` being the recorded name.

        Those of types that are not decoded have neither a frame nor a reason.
        """
        ...


def role_of(name: str, type_name: str) -> str | None:
    """What a topic of this name and type can be read as."""
    role = ROLE_OF_TYPE.get(type_name)
    # One type for both: the name tells.
    return "tf_static" if role == "tf" and name.endswith("tf_static") else role


def choose_roles(topics: Sequence[Topic]) -> dict[str, str]:
    """The topic to read for each role; roles without a topic that has messages are left out.

    The most messages win; then the shorter name, then the first by name. Topics that say they are
    depth, labels, masks and the like come last, and the camera_info beside the image comes first.
    """
    roles: dict[str, str] = {}
    for role in ("image", "points", "odom", "camera_info", "tf", "tf_static"):
        candidates = [t for t in topics if role_of(t.name, t.type) == role and t.count != 0]
        beside = roles.get("image", "").rpartition("/")[0]

        def rank(topic: Topic, role: str = role, beside: str = beside) -> tuple[object, ...]:
            name = topic.name
            derived = any(word in name.lower() for word in _DERIVED)
            away = role == "camera_info" and name.rpartition("/")[0] != beside
            return (derived, away, -(topic.count or 0), name.count("/"), name)

        if candidates:
            roles[role] = min(candidates, key=rank).name
    return roles


def checked_roles(topics: Sequence[Topic], wanted: Mapping[str, str]) -> dict[str, str]:
    """`wanted` (role -> topic) as recorded topic -> role; RecordingError if it does not fit."""
    types = {topic.name: topic.type for topic in topics}
    by_name: dict[str, str] = {}
    for role, name in wanted.items():
        if role not in ROLES:
            raise RecordingError(f"{role!r} is no role; there are {', '.join(ROLES)}")
        if name not in types:
            raise RecordingError(f"no topic {name!r}; recorded are {', '.join(types) or 'none'}")
        if role_of(name, types[name]) != role:
            raise RecordingError(f"{name!r} of type {types[name]} cannot be read as {role}")
        if name in by_name:
            raise RecordingError(f"{name!r} is asked for twice")
        by_name[name] = role
    return by_name
