"""Core types -> sensor_msgs and nav_msgs, for whatever kind of message the factory makes."""

from __future__ import annotations

import array
from collections.abc import Sequence
from typing import Any, Protocol

import numba
import numpy as np
from numpy.typing import NDArray

from robot_perception.core.types import (
    F32,
    F64,
    U8,
    CameraInfo,
    Frame,
    ImageFrame,
    Odometry,
    Scan,
    Transforms,
)
from robot_perception.wire.cloud import DATATYPES
from robot_perception.wire.common import split_stamp
from robot_perception.wire.motion import quaternion_of

_DATATYPE_OF = {np.dtype(name): number for number, name in DATATYPES.items()}
_ROWS = 4096
_IMAGE_DTYPES = {"mono8": "u1", "8UC1": "u1", "mono16": "<u2", "16UC1": "<u2", "32FC1": "<f4"}


class MessageFactory(Protocol):
    """Makes a message: `make("std_msgs/msg/Header", stamp=..., frame_id="lidar")`.

    Fields that are not given have the type's default. Arrays are given as NumPy arrays, or as
    `array.array`, which is not copied.
    """

    def __call__(self, type_name: str, /, **fields: Any) -> Any: ...


def header(make: MessageFactory, stamp_ns: int, frame_id: str) -> Any:
    """A std_msgs/Header."""
    seconds, nanoseconds = split_stamp(stamp_ns)
    stamp = make("builtin_interfaces/msg/Time", sec=seconds, nanosec=nanoseconds)
    return make("std_msgs/msg/Header", stamp=stamp, frame_id=frame_id)


def encode_rgb(make: MessageFactory, stamp_ns: int, frame_id: str, rgb: U8) -> Any:
    """An rgb8 sensor_msgs/Image of `rgb` (H, W, 3) uint8."""
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError(f"(H, W, 3) uint8 expected, not {rgb.shape} {rgb.dtype}")
    return _image(make, stamp_ns, frame_id, rgb, "rgb8")


def encode_array_image(
    make: MessageFactory, stamp_ns: int, frame_id: str, array: NDArray[Any], encoding: str
) -> Any:
    """A sensor_msgs/Image of one channel: mono8, 8UC1, mono16, 16UC1 or 32FC1; `array` (H, W)."""
    dtype = np.dtype(_IMAGE_DTYPES[encoding])
    if array.dtype != dtype.newbyteorder("=") or array.ndim != 2:
        raise ValueError(f"{encoding} of an array {array.shape} {array.dtype}")
    return _image(make, stamp_ns, frame_id, array.astype(dtype, copy=False), encoding)


def _image(
    make: MessageFactory, stamp_ns: int, frame_id: str, array: NDArray[Any], encoding: str
) -> Any:
    height, width = array.shape[:2]
    rows = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return make(
        "sensor_msgs/msg/Image",
        header=header(make, stamp_ns, frame_id),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=len(rows) // height if height else 0,
        data=rows,
    )


def encode_cloud(
    make: MessageFactory,
    stamp_ns: int,
    frame_id: str,
    xyz: F32,
    extra: dict[str, NDArray[Any]] | None = None,
) -> Any:
    """An unorganised little-endian sensor_msgs/PointCloud2.

    xyz: (N, 3) float32. extra: name -> (N,) of an integer type up to 32 bits, float32 or float64.
    The fields come in this order, each at a multiple of its size (as in a C structure), so that
    readers need not copy them.
    """
    return encode_clouds(make, stamp_ns, frame_id, [(xyz, extra or {})])


def encode_clouds(
    make: MessageFactory,
    stamp_ns: int,
    frame_id: str,
    parts: Sequence[tuple[F32, dict[str, NDArray[Any]]]],
) -> Any:
    """One cloud of several, one after the other, each as in `encode_cloud`; all have the fields of
    the first. An array without dimensions stands for all points of its part."""
    columns = dict.fromkeys("xyz", np.dtype(np.float32))
    columns |= {name: values.dtype for name, values in parts[0][1].items()}
    for xyz, extra in parts:
        if xyz.dtype != np.float32 or xyz.shape[1:] != (3,):
            raise ValueError(f"a cloud {xyz.shape} {xyz.dtype}")
        if {*"xyz", *extra} != columns.keys():
            raise ValueError(f"a cloud with {', '.join(extra)}")
        for name, values in extra.items():
            if values.dtype not in _DATATYPE_OF or values.shape not in ((len(xyz),), ()):
                raise ValueError(f"column {name} is {values.shape} {values.dtype}")
    dtype = np.dtype([(name, d.newbyteorder("<")) for name, d in columns.items()], align=True)
    count = sum(len(xyz) for xyz, _ in parts)
    # Zero, so that the gaps between fields are the same every time; and what rclpy keeps such data
    # in, which else would copy megabytes.
    data = array.array("B", b"\0") * (count * dtype.itemsize)
    points = np.ndarray(count, dtype, data)
    start, dense = 0, True
    for xyz, extra in parts:
        dense &= _fill(points[start : start + len(xyz)], xyz, extra)
        start += len(xyz)
    fields = [
        make(
            "sensor_msgs/msg/PointField",
            name=name,
            offset=int(dtype.fields[name][1]),
            datatype=_DATATYPE_OF[d],
            count=1,
        )
        for name, d in columns.items()
        if dtype.fields is not None
    ]
    return make(
        "sensor_msgs/msg/PointCloud2",
        header=header(make, stamp_ns, frame_id),
        height=1,
        width=len(points),
        fields=fields,
        is_bigendian=False,
        point_step=dtype.itemsize,
        row_step=dtype.itemsize * len(points),
        data=data,
        is_dense=dense,
    )


def _fill(points: NDArray[Any], xyz: F32, extra: dict[str, NDArray[Any]]) -> bool:
    """Write the columns of a cloud into `points` (N,); whether all of `xyz` is finite."""
    if all(values.dtype == np.float32 for values in extra.values()) and len(points):
        columns = np.empty((len(extra), len(xyz)), np.float32)
        for column, values in zip(columns, extra.values(), strict=True):
            column[:] = values
        rows = points.view(np.float32).reshape(len(points), -1)
        return bool(_interleave(rows, np.ascontiguousarray(xyz), columns))
    # Some rows at a time: from column to column they stay in the cache. Twelve bytes at once are
    # faster than three floats.
    positions = np.ndarray(len(points), "V12", points, 0, points.strides)
    packed = np.ascontiguousarray(xyz, "<f4").view("V12")[:, 0]
    for first in range(0, len(points), _ROWS):
        some = slice(first, first + _ROWS)
        positions[some] = packed[some]
        part = points[some]
        for name, values in extra.items():
            part[name] = values[some] if values.ndim else values
    return bool(np.isfinite(xyz).all())


# Compiled when it is loaded: the first message is not to wait for it.
@numba.njit("b1(f4[:,::1], f4[:,::1], f4[:,::1])", cache=True, nogil=True)
def _interleave(rows: F32, xyz: F32, columns: F32) -> bool:
    """Write (N, 3) and columns (K, N) into rows (N, 3 + K); whether all of the former is finite."""
    finite = True
    for n in range(len(xyz)):
        for k in range(3):
            rows[n, k] = xyz[n, k]
            # 0 unless it is NaN or infinite.
            finite &= xyz[n, k] - xyz[n, k] == 0
        for k in range(len(columns)):
            rows[n, 3 + k] = columns[k, n]
    return finite


def encode_scan(make: MessageFactory, scan: Scan) -> Any:
    """A sensor_msgs/PointCloud2 with intensity, time (seconds) and ring where the scan has them.

    Dropped points come last, as NaN: whoever decodes the message counts them again.
    """
    columns = {"intensity": scan.intensity, "time": scan.time_s, "ring": scan.ring}
    extra = {name: values for name, values in columns.items() if values is not None}
    xyz = scan.xyz
    if scan.dropped:
        xyz = np.concatenate([xyz, np.full((scan.dropped, 3), np.nan, np.float32)])
        extra = {n: np.concatenate([v, np.zeros(scan.dropped, v.dtype)]) for n, v in extra.items()}
    return encode_cloud(make, scan.stamp_ns, scan.frame_id, xyz, extra)


def encode_camera_info(make: MessageFactory, info: CameraInfo) -> Any:
    """A sensor_msgs/CameraInfo of a monocular camera: no rectifying rotation, p = [k | 0]."""
    return make(
        "sensor_msgs/msg/CameraInfo",
        header=header(make, info.stamp_ns, info.frame_id),
        height=info.height,
        width=info.width,
        distortion_model=info.distortion_model,
        d=np.asarray(info.d, np.float64),
        k=info.k.reshape(-1),
        r=np.eye(3).reshape(-1),
        p=np.column_stack([info.k, np.zeros(3)]).reshape(-1),
    )


def encode_odometry(make: MessageFactory, odometry: Odometry) -> Any:
    """A nav_msgs/Odometry without covariance or twist."""
    return make(
        "nav_msgs/msg/Odometry",
        header=header(make, odometry.stamp_ns, odometry.frame_id),
        child_frame_id=odometry.child_frame_id,
        pose=make("geometry_msgs/msg/PoseWithCovariance", pose=_pose(make, odometry.pose)),
    )


def encode_transforms(make: MessageFactory, transforms: Transforms) -> Any:
    """A tf2_msgs/TFMessage."""
    return make(
        "tf2_msgs/msg/TFMessage", transforms=[_transform(make, pose) for pose in transforms.poses]
    )


def _transform(make: MessageFactory, odometry: Odometry) -> Any:
    pose = _pose(make, odometry.pose)
    p = pose.position
    return make(
        "geometry_msgs/msg/TransformStamped",
        header=header(make, odometry.stamp_ns, odometry.frame_id),
        child_frame_id=odometry.child_frame_id,
        transform=make(
            "geometry_msgs/msg/Transform",
            translation=make("geometry_msgs/msg/Vector3", x=p.x, y=p.y, z=p.z),
            rotation=pose.orientation,
        ),
    )


def _pose(make: MessageFactory, pose: F64) -> Any:
    x, y, z = (float(v) for v in pose[:3, 3])
    i, j, k, w = (float(v) for v in quaternion_of(pose[:3, :3]))
    return make(
        "geometry_msgs/msg/Pose",
        position=make("geometry_msgs/msg/Point", x=x, y=y, z=z),
        orientation=make("geometry_msgs/msg/Quaternion", x=i, y=j, z=k, w=w),
    )


def encode_image_frame(make: MessageFactory, frame: ImageFrame) -> Any:
    """An rgb8 sensor_msgs/Image."""
    return encode_rgb(make, frame.stamp_ns, frame.frame_id, frame.rgb)


def encode_frame(make: MessageFactory, frame: Frame) -> tuple[str, Any]:
    """The name of the message type for `frame`, and the message."""
    if isinstance(frame, ImageFrame):
        return "sensor_msgs/msg/Image", encode_image_frame(make, frame)
    if isinstance(frame, Scan):
        return "sensor_msgs/msg/PointCloud2", encode_scan(make, frame)
    if isinstance(frame, CameraInfo):
        return "sensor_msgs/msg/CameraInfo", encode_camera_info(make, frame)
    if isinstance(frame, Transforms):
        return "tf2_msgs/msg/TFMessage", encode_transforms(make, frame)
    return "nav_msgs/msg/Odometry", encode_odometry(make, frame)
