"""CameraInfo, Odometry, tf2_msgs/TFMessage and PointStamped -> core types, and rotations back."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from robot_perception.core.errors import InputRejected
from robot_perception.core.types import F64, CameraInfo, Odometry, Transforms
from robot_perception.wire.common import rejects, stamp_of, text, uint32

# Resolution of a decoded quaternion, about 1e-12.
_GRID = 2.0**40


@rejects("sensor_msgs/CameraInfo")
def decode_camera_info(message: Any) -> CameraInfo:
    """Decode a sensor_msgs/CameraInfo; region of interest and binning are applied to `k`.

    Raises InputRejected, also for an uncalibrated camera (focal length 0).
    """
    stamp_ns, frame_id = stamp_of(message)
    # ROS 1 has the names in capitals.
    k = _numbers(message.k if hasattr(message, "k") else message.K, "k", 9).reshape(3, 3)
    d = _numbers(message.d if hasattr(message, "d") else message.D, "d")
    width, height = uint32(message.width, "width"), uint32(message.height, "height")
    if not width or not height:
        raise InputRejected("camera info without an image size")
    if k[0, 0] == 0.0:
        raise InputRejected("camera is not calibrated: focal length 0")
    if k[0, 0] < 0 or k[1, 1] <= 0 or tuple(k[2]) != (0.0, 0.0, 1.0):
        raise InputRejected("k is not a camera matrix")
    model = text(message.distortion_model, "distortion_model")
    roi = getattr(message, "roi", None)
    if roi is not None and roi.width and roi.height:
        width, height = uint32(roi.width, "roi.width"), uint32(roi.height, "roi.height")
        k[0, 2] -= uint32(roi.x_offset, "roi.x_offset")
        k[1, 2] -= uint32(roi.y_offset, "roi.y_offset")
    # 0 means the same as 1.
    binning_x = max(1, uint32(getattr(message, "binning_x", 0), "binning_x"))
    binning_y = max(1, uint32(getattr(message, "binning_y", 0), "binning_y"))
    if binning_x > width or binning_y > height:
        raise InputRejected("binning is larger than the image")
    k[0] /= binning_x
    k[1] /= binning_y
    return CameraInfo(stamp_ns, frame_id, width // binning_x, height // binning_y, k, d, model)


@rejects("nav_msgs/Odometry")
def decode_odometry(message: Any) -> Odometry:
    """Decode a nav_msgs/Odometry; the quaternion is normalised.

    Raises InputRejected for a pose that is not finite and for a zero quaternion.
    """
    stamp_ns, frame_id = stamp_of(message)
    position, q = message.pose.pose.position, message.pose.pose.orientation
    pose = np.eye(4)
    pose[:3, :3] = rotation_of(_numbers([q.x, q.y, q.z, q.w], "orientation", 4))
    pose[:3, 3] = _numbers([position.x, position.y, position.z], "position", 3)
    child = text(message.child_frame_id, "child_frame_id")
    return Odometry(stamp_ns, frame_id, child, pose)


@rejects("tf2_msgs/TFMessage")
def decode_transforms(message: Any) -> Transforms:
    """Decode a tf2_msgs/TFMessage; whether they are static, only its topic tells.

    Raises InputRejected for an empty one, and if any pose is not finite or has no parent or child.
    """
    poses = []
    for stamped in message.transforms:
        stamp_ns, frame_id = stamp_of(stamped)
        child = text(stamped.child_frame_id, "child_frame_id")
        # tf once had names with a leading slash; tf2 takes them as the same.
        parent, child = frame_id.removeprefix("/"), child.removeprefix("/")
        if not parent or not child or parent == child:
            raise InputRejected(f"a transform of {child!r} in {parent!r}")
        t, q = stamped.transform.translation, stamped.transform.rotation
        pose = np.eye(4)
        pose[:3, :3] = rotation_of(_numbers([q.x, q.y, q.z, q.w], "rotation", 4))
        pose[:3, 3] = _numbers([t.x, t.y, t.z], "translation", 3)
        poses.append(Odometry(stamp_ns, parent, child, pose))
    if not poses:
        raise InputRejected("a message without transforms")
    return Transforms(max(pose.stamp_ns for pose in poses), tuple(poses))


@rejects("geometry_msgs/PointStamped")
def decode_point(message: Any) -> tuple[int, str, F64]:
    """Stamp in nanoseconds, frame and finite coordinates (3,) of a geometry_msgs/PointStamped."""
    stamp_ns, frame_id = stamp_of(message)
    point = message.point
    return stamp_ns, frame_id, _numbers([point.x, point.y, point.z], "point", 3)


def rotation_of(q: F64) -> F64:
    """The rotation matrix (3, 3) of a quaternion x, y, z, w of any length but 0.

    Its components are put on a grid of 1e-12 (one of them, at least 0.5, follows from the others).
    So the way matrix -> quaternion -> matrix, which loses a last bit, ends at the same matrix, and
    a recording that is published and decoded again gives exactly the poses it gave at first.
    """
    largest = float(np.abs(q).max())
    if largest == 0.0:
        raise InputRejected("orientation is a zero quaternion")
    scaled = q / largest
    unit = scaled / math.sqrt(float(scaled @ scaled))
    # Not the largest component: of two nearly equal ones rounding would choose now this, now that.
    pivot = next(i for i in (3, 2, 1, 0) if abs(unit[i]) >= 0.4999995)
    # Adding 0.0 turns -0.0 into 0.0.
    unit = np.round(math.copysign(1.0, unit[pivot]) * unit * _GRID) / _GRID + 0.0
    unit[pivot] = 0.0
    unit[pivot] = math.sqrt(1.0 - float(unit @ unit))
    return np.asarray(Rotation.from_quat(unit).as_matrix(), np.float64)


def quaternion_of(rotation: F64) -> F64:
    """The quaternion x, y, z, w, w not negative, of a rotation matrix (3, 3)."""
    return np.asarray(Rotation.from_matrix(rotation).as_quat(canonical=True), np.float64)


def _numbers(values: Any, name: str, count: int | None = None) -> F64:
    """A copy of `values` as finite float64."""
    if count is not None and len(values) != count:
        raise InputRejected(f"{name} has {len(values)} numbers, not {count}")
    array = np.array(values, np.float64)
    if array.ndim != 1:
        raise InputRejected(f"{name} is not a row of numbers")
    if not np.isfinite(array).all():
        raise InputRejected(f"{name} is not finite")
    return array
