"""Recordings of every kind as one stream of typed frames."""

from __future__ import annotations

from pathlib import Path

from robot_perception.pipeline.sources import bag, folder, kitti
from robot_perception.pipeline.sources.base import (
    ROLE_OF_TYPE,
    ROLES,
    Item,
    Progress,
    Recording,
    RecordingError,
    Topic,
)
from robot_perception.wire import DEFAULT_MAX_BYTES

__all__ = [
    "ROLES",
    "ROLE_OF_TYPE",
    "Item",
    "Progress",
    "Recording",
    "RecordingError",
    "Topic",
    "open_recording",
]

_KINDS = (
    "a rosbag2 folder (metadata.yaml, *.mcap, *.db3), a KITTI raw drive (image_02/data,"
    " velodyne_points/data), a KITTI odometry sequence (image_2, velodyne), or images"
    " (.png, .jpg) or point clouds (.bin, .pcd, .ply)"
)


def open_recording(
    path: Path | str, rate_hz: float | None = None, max_bytes: int = DEFAULT_MAX_BYTES
) -> Recording:
    """Open a recording of whatever kind `path` is.

    A rosbag2 folder, `.mcap`, `.db3`, ROS 1 `.bag`, a KITTI raw or odometry folder, or a folder of
    images and/or clouds. rate_hz: frame rate for files without stamps, and in place of KITTI's
    stamps. max_bytes: the largest message that is decoded. Raises RecordingError.
    """
    path = Path(path)
    if rate_hz is not None and not 1e-3 <= rate_hz <= 1e4:
        raise RecordingError(f"a rate of {rate_hz} Hz")
    try:
        if path.is_file():
            if path.suffix not in (".mcap", ".db3", ".bag"):
                raise RecordingError(f"{path} is neither an .mcap, a .db3 nor a .bag file")
            return bag.open_bag_file(path, max_bytes)
        if not path.is_dir():
            raise RecordingError(f"there is no recording {path}")
        if bag.is_bag_folder(path):
            return bag.open_bag_folder(path, max_bytes)
        if kitti.is_raw(path):
            return kitti.open_raw(path, rate_hz)
        if kitti.is_odometry(path):
            return kitti.open_odometry(path, rate_hz)
        if folder.is_folder(path):
            return folder.open_folder(path, rate_hz)
    except OSError as error:
        raise RecordingError(f"{path} cannot be read: {error.strerror or error}") from error
    raise RecordingError(f"{path} is no recording: looked for {_KINDS}, and found none")
