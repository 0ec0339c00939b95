"""Single files to frames. Each raises InputRejected for content that is not what it should be."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from robot_perception.core.errors import InputRejected
from robot_perception.core.types import F64, CameraInfo, ImageFrame, Odometry, Scan
from robot_perception.pipeline.sources.cloud_files import read_cloud
from robot_perception.wire import DEFAULT_MAX_BYTES

IMAGES = (".png", ".jpg", ".jpeg")
CLOUDS = (".bin", ".pcd", ".ply")


def load_image(path: Path, stamp_ns: int, frame_id: str) -> ImageFrame:
    """A PNG or JPEG file as RGB, 8 bits a channel."""
    data = np.frombuffer(_bytes_of(path), np.uint8)
    try:
        rgb = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB) if data.size else None
    except cv2.error as error:
        raise InputRejected(f"{path.name} is no image: {error.err}") from error
    if rgb is None:
        raise InputRejected(f"{path.name} is no image")
    return ImageFrame(stamp_ns, frame_id, np.asarray(rgb, np.uint8))


def load_cloud(path: Path, stamp_ns: int, frame_id: str) -> Scan:
    """A KITTI `.bin` (float32 x, y, z, intensity) or a `.pcd` or `.ply` file."""
    if path.suffix.lower() == ".bin":
        data = _bytes_of(path)
        if not data or len(data) % 16:
            raise InputRejected(f"{path.name} has {len(data)} bytes, not a multiple of 16")
        # KITTI's files are little-endian.
        table = np.frombuffer(data, "<f4").reshape(-1, 4)
        return _scan(table[:, :3], table[:, 3], stamp_ns, frame_id)
    xyz, intensity = read_cloud(path, _bytes_of(path), DEFAULT_MAX_BYTES // 12)
    return _scan(xyz, intensity, stamp_ns, frame_id)


def _scan(xyz: np.ndarray, intensity: np.ndarray | None, stamp_ns: int, frame_id: str) -> Scan:
    positions = np.asarray(xyz, np.float32)
    values = None if intensity is None else np.asarray(intensity, np.float32)
    finite = np.asarray(np.isfinite(positions).all(axis=1), np.bool_)
    dropped = len(positions) - int(finite.sum())
    if dropped:
        positions = positions[finite]
        values = None if values is None else values[finite]
    return Scan(stamp_ns, frame_id, positions, values, dropped=dropped)


def load_pose(path: Path, stamp_ns: int) -> Odometry:
    """A 4x4 camera-to-world matrix in a text file."""
    numbers = numbers_in(_bytes_of(path))
    if numbers.size != 16:
        raise InputRejected(f"{path.name} holds {numbers.size} numbers, not a 4x4 matrix")
    return odometry(numbers.reshape(4, 4), stamp_ns, "camera")


def odometry(pose: F64, stamp_ns: int, child_frame_id: str) -> Odometry:
    """`pose` in the frame "odom"; rejected unless it is a rigid transform."""
    rotation = pose[:3, :3]
    rigid = (
        bool(np.isfinite(pose).all())
        and np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-2)
        and np.linalg.det(rotation) > 0
    )
    if not rigid:
        raise InputRejected("the pose is not a rigid transform")
    return Odometry(stamp_ns, "odom", child_frame_id, pose)


def load_camera_info(images: tuple[Path, ...], k: F64, stamp_ns: int, frame_id: str) -> CameraInfo:
    """Intrinsics `k` of rectified images of the size of the first of `images` that is whole."""
    height, width = _size_of(images)
    return CameraInfo(stamp_ns, frame_id, width, height, k, np.zeros(5))


def numbers_in(text: bytes) -> F64:
    """The numbers in a text, separated by white space; none if it holds anything else."""
    try:
        return np.array([float(word) for word in text.split()], np.float64)
    except ValueError:
        return np.zeros(0)


# One recording's images are of one size.
@lru_cache(maxsize=8)
def _size_of(paths: tuple[Path, ...]) -> tuple[int, int]:
    for path in paths:
        try:
            height, width = load_image(path, 0, "").rgb.shape[:2]
            return height, width
        except InputRejected:
            continue
    raise InputRejected("no image tells its size")


def _bytes_of(path: Path) -> bytes:
    try:
        if path.stat().st_size > DEFAULT_MAX_BYTES:
            raise InputRejected(f"{path.name} is larger than {DEFAULT_MAX_BYTES} bytes")
        return path.read_bytes()
    except OSError as error:
        raise InputRejected(f"{path.name} cannot be read: {error.strerror}") from error
