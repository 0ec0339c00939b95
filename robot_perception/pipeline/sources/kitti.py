"""KITTI raw drives and odometry sequences.

Geiger et al., "Vision meets robotics: the KITTI dataset", IJRR 2013. An image and a scan with the
same number share one stamp (the scan's, where both have their own). Without time stamps frames are
`rate_hz` apart by their number, so that a missing frame leaves a gap.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from robot_perception.core.types import F64, Odometry
from robot_perception.pipeline.sources import loaders
from robot_perception.pipeline.sources.base import RecordingError
from robot_perception.pipeline.sources.files import (
    Entry,
    FileRecording,
    by_number,
    cloud_entries,
    even_stamps,
    files_in,
    image_entries,
    listed_stamps,
)

RATE_HZ = 10.0
# The left colour camera first, then the others.
_RAW_CAMERAS = ("image_02", "image_03", "image_00", "image_01")
_ODOMETRY_CAMERAS = ("image_2", "image_3", "image_0", "image_1")
# Axes of a camera (z forward) in those of REP-103 (x forward).
_OPTICAL_TO_BODY = np.array(
    [[0.0, 0.0, 1.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
)


def is_raw(path: Path) -> bool:
    folders = (path / name / "data" for name in (*_RAW_CAMERAS, "velodyne_points"))
    return any(folder.is_dir() for folder in folders)


def is_odometry(path: Path) -> bool:
    return any((path / name).is_dir() for name in (*_ODOMETRY_CAMERAS, "velodyne"))


def open_raw(path: Path, rate_hz: float | None = None) -> FileRecording:
    """A drive: `image_02/data` and/or `velodyne_points/data`, `timestamps.txt` beside each.

    Intrinsics come from `calib.txt` (P_rect) or from `calib_cam_to_cam.txt` in the folder or the
    one above, as the data set has it.
    """
    camera, images = _first_with_images(path, _RAW_CAMERAS, "data")
    clouds = by_number(files_in(path / "velodyne_points" / "data", (".bin",)))
    damage: list[str] = []
    stamps = _stamps(
        sorted({*images, *clouds}),
        [path / name / "timestamps.txt" for name in ("velodyne_points", camera)],
        rate_hz,
        damage,
    )
    k = None
    if images:
        wanted = f"P_rect_{camera[-2:]}"
        for file in ("calib.txt", "calib_cam_to_cam.txt", "../calib_cam_to_cam.txt"):
            k = _intrinsics(_calibration(path / file), ("P_rect", wanted))
            if k is not None:
                break
    return _recording(path, "kitti raw", images, clouds, stamps, k, [], damage)


def open_odometry(path: Path, rate_hz: float | None = None) -> FileRecording:
    """A sequence: `velodyne`, `image_2` (or 3, 0, 1), `times.txt`, `calib.txt`, poses.

    Poses come from `poses.txt` or `../../poses/NN.txt`. With the calibration's `Tr` they are those
    of "velodyne" in "odom", the first scan's frame; else of "camera", with "odom" turned to x
    forward, z up.
    """
    camera, images = _first_with_images(path, _ODOMETRY_CAMERAS, "")
    clouds = by_number(files_in(path / "velodyne", (".bin",)))
    damage: list[str] = []
    numbers = sorted({*images, *clouds})
    stamps = _stamps(numbers, [path / "times.txt"], rate_hz, damage)
    calibration = _calibration(path / "calib.txt")
    k = _intrinsics(calibration, (f"P{camera[-1:]}",)) if images else None
    odometry: list[Entry] = []
    for file in (path / "poses.txt", path / "../../poses" / f"{path.resolve().name}.txt"):
        if file.is_file():
            odometry = _odometry(file, numbers, stamps, calibration.get("Tr"))
            break
    return _recording(path, "kitti odometry", images, clouds, stamps, k, odometry, damage)


def _recording(
    path: Path,
    kind: str,
    images: Mapping[int, Path],
    clouds: Mapping[int, Path],
    stamps: Mapping[int, int],
    k: F64 | None,
    odometry: list[Entry],
    damage: list[str],
) -> FileRecording:
    if not images and not clouds:
        raise RecordingError(
            f"{path} has the folders of a {kind} recording, but no images or scans"
        )
    entries = [*odometry, *image_entries(images, stamps, k), *cloud_entries(clouds, stamps)]
    return FileRecording(path, kind, entries, damage)


def _first_with_images(
    path: Path, cameras: tuple[str, ...], below: str
) -> tuple[str, dict[int, Path]]:
    for camera in cameras:
        if images := files_in(path / camera / below, loaders.IMAGES):
            return camera, by_number(images)
    return cameras[0], {}


def _stamps(
    numbers: list[int], files: list[Path], rate_hz: float | None, damage: list[str]
) -> dict[int, int]:
    """Stamps by frame number: of the first file that covers all, else at the given rate."""
    for file in files if rate_hz is None else ():
        try:
            listed = listed_stamps(file)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            damage.append(f"{file.parent.name}/{file.name}: {error}")
            continue
        if numbers and numbers[-1] < len(listed):
            return {number: listed[number] for number in numbers}
        damage.append(f"{file.parent.name}/{file.name}: {len(listed)} stamps are too few")
    return even_stamps(numbers, rate_hz or RATE_HZ)


def _calibration(path: Path) -> dict[str, F64]:
    """Numbers by name in lines "name: numbers"; lines of another form are left out."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return {}
    pairs = (line.partition(b":") for line in lines if not line.startswith(b"#"))
    return {
        name.decode(errors="replace").strip(): loaders.numbers_in(text) for name, _, text in pairs
    }


def _intrinsics(calibration: Mapping[str, F64], names: tuple[str, ...]) -> F64 | None:
    for name in names:
        projection = calibration.get(name)
        if projection is not None and projection.size == 12 and np.isfinite(projection).all():
            k = projection.reshape(3, 4)[:, :3].copy()
            if k[0, 0] > 0 and k[1, 1] > 0:
                return k
    return None


def _odometry(
    file: Path, numbers: list[int], stamps: Mapping[int, int], velodyne_to_camera: F64 | None
) -> list[Entry]:
    lines = [line for line in file.read_bytes().splitlines() if line.strip()]
    mount = None
    if velodyne_to_camera is not None and velodyne_to_camera.size == 12:
        mount = _homogeneous(velodyne_to_camera)
    return [
        Entry("odom", stamps[number], partial(_pose, lines[number], stamps[number], mount))
        for number in numbers
        if number < len(lines)
    ]


def _pose(line: bytes, stamp_ns: int, mount: F64 | None) -> Odometry:
    values = loaders.numbers_in(line)
    # A line of another length gives a matrix that is refused.
    camera = _homogeneous(values) if values.size == 12 else np.full((4, 4), np.nan)
    if mount is None:
        return loaders.odometry(_OPTICAL_TO_BODY @ camera, stamp_ns, "camera")
    return loaders.odometry(np.linalg.inv(mount) @ camera @ mount, stamp_ns, "velodyne")


def _homogeneous(values: F64) -> F64:
    return np.vstack((values.reshape(3, 4), [0.0, 0.0, 0.0, 1.0]))
