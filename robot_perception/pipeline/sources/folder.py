"""A plain folder of images and/or point clouds, in the natural order of their names."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np

from robot_perception.core.types import F64
from robot_perception.pipeline.sources import loaders
from robot_perception.pipeline.sources.files import (
    Entry,
    FileRecording,
    by_number,
    cloud_entries,
    even_stamps,
    files_in,
    image_entries,
)

IMAGE_RATE_HZ = 30.0
CLOUD_RATE_HZ = 10.0
_INTRINSICS = "camera-intrinsics.txt"
_POSE = ".pose.txt"
# Nanoseconds since 1970 or seconds with a fraction, as EuRoC and TUM name their images.
_STAMP_NAME = re.compile(r"(?:(\d{19})|(\d{9,10})\.(\d{1,9}))")


def is_folder(path: Path) -> bool:
    return bool(files_in(path, (*loaders.IMAGES, *loaders.CLOUDS)))


def open_folder(path: Path, rate_hz: float | None = None) -> FileRecording:
    """Images (png, jpg) and clouds (KITTI's bin, pcd, ply).

    Names that are times ("1403636579763555584", "1305031102.175304") give the stamps. Otherwise
    frames are `rate_hz` apart (images 30 Hz; clouds, and images beside clouds, 10 Hz) by the
    number in their name, or by position where numbers leave more than nine frames in ten out.
    With `frame-N.pose.txt` (camera to world, as 7-Scenes has it) there is odometry too, and
    `camera-intrinsics.txt` (3x3) gives the camera's. Depth images beside colour ones are left out.
    """
    images = files_in(path, loaders.IMAGES)
    colour = [file for file in images if ".color." in file.name]
    images = colour or images
    clouds = files_in(path, loaders.CLOUDS)
    numbered_images, numbered_clouds = _numbered(images), _numbered(clouds)
    numbers = sorted({*numbered_images, *numbered_clouds})
    stamps = _named_stamps({**numbered_clouds, **numbered_images}) if rate_hz is None else None
    if stamps is None or (images and clouds):
        default = CLOUD_RATE_HZ if clouds else IMAGE_RATE_HZ
        stamps = even_stamps(numbers, rate_hz or default)
    entries = image_entries(numbered_images, stamps, _intrinsics(path / _INTRINSICS))
    entries += cloud_entries(numbered_clouds, stamps)
    for number, image in numbered_images.items():
        pose = path / (image.name.split(".")[0] + _POSE)
        if pose.is_file():
            load = partial(loaders.load_pose, pose, stamps[number])
            entries.append(Entry("odom", stamps[number], load))
    return FileRecording(path, "folder", entries)


def _numbered(files: list[Path]) -> dict[int, Path]:
    numbered = by_number(files)
    if numbered and max(numbered) - min(numbered) >= 10 * len(numbered):
        return dict(enumerate(files))
    return numbered


def _named_stamps(files: dict[int, Path]) -> dict[int, int] | None:
    stamps = {}
    for number, file in files.items():
        match = _STAMP_NAME.fullmatch(file.stem)
        if not match:
            return None
        whole, fraction = match[2], match[3]
        stamps[number] = int(match[1] or whole + fraction.ljust(9, "0"))
    return stamps


def _intrinsics(path: Path) -> F64 | None:
    if not path.is_file():
        return None
    numbers = loaders.numbers_in(path.read_bytes())
    if numbers.size != 9 or not np.isfinite(numbers).all() or numbers[0] <= 0 or numbers[4] <= 0:
        return None
    return numbers.reshape(3, 3)
