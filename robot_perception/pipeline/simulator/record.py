"""A drive as a stream of frames with ground truth, and as a recording."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.random import PCG64, Generator

from robot_perception.core.config import checked
from robot_perception.core.types import (
    F64,
    CameraInfo,
    Frame,
    ImageFrame,
    Odometry,
    Scan,
    Transforms,
)
from robot_perception.pipeline.messages import rosbags_factory
from robot_perception.pipeline.simulator.config import (
    CAMERA_FRAME,
    CAMERA_IN_LIDAR,
    LIDAR_FRAME,
    MAP_FRAME,
    ODOM_FRAME,
    START_NS,
    InstanceMask,
    PointInstances,
    SimulatorConfig,
    TruePose,
    camera_matrix,
)
from robot_perception.pipeline.simulator.drive import Motion
from robot_perception.pipeline.simulator.scene import build_street
from robot_perception.pipeline.simulator.sensors import camera_image, lidar_scan
from robot_perception.pipeline.sinks import McapSink
from robot_perception.wire import encode_array_image, encode_frame, encode_odometry, header

SimulatedFrame: TypeAlias = Frame | InstanceMask | PointInstances | TruePose
Progress: TypeAlias = Callable[[int, int], None]
"""Called with the images and scans made so far, and how many there will be."""

_DRIFT_STREAM = 3


def simulate(config: SimulatorConfig, progress: Progress | None = None) -> Iterator[SimulatedFrame]:
    """A drive around the block, in the order of stamps.

    Scan n is stamped with the end of its revolution, n / rate after the start; the image before it
    with the middle of that revolution, when the LiDAR looks ahead too. At each of these stamps
    (and at the start) come first the Odometry, `velodyne` in `odom`, and the TruePose, `velodyne`
    in `map`; both frames are where the LiDAR was at the start. Before an ImageFrame comes its
    CameraInfo, after it its InstanceMask, after a Scan its PointInstances. See `lidar_scan` for
    the meaning of a scan's points. Raises ValueError for settings out of bounds.
    """
    checked(config)
    if config.elevation_bottom_deg >= config.elevation_top_deg:
        raise ValueError("elevation_bottom_deg is not below elevation_top_deg")
    if config.duration_s * config.rate_hz < 1 - 1e-6:
        raise ValueError(f"duration_s is {config.duration_s}, less than a revolution")
    return _frames(config, progress)


def _frames(config: SimulatorConfig, progress: Progress | None) -> Iterator[SimulatedFrame]:
    street = build_street(config)
    count = int(config.duration_s * config.rate_hz + 1e-6)
    half_ns = round(5e8 / config.rate_hz)
    stamps = START_NS + half_ns * np.arange(2 * count + 1)
    poses = _from_start(street.sensor, np.asarray((stamps - START_NS) * 1e-9))
    odometry = drifted(poses, config)
    k = camera_matrix(config)
    for i, stamp in enumerate(stamps.tolist()):
        yield Odometry(stamp, ODOM_FRAME, LIDAR_FRAME, odometry[i])
        yield TruePose(stamp, MAP_FRAME, LIDAR_FRAME, poses[i])
        if i % 2:
            size = (config.image_width, config.image_height)
            yield CameraInfo(stamp, CAMERA_FRAME, *size, k, np.zeros(5))
            yield from camera_image(street, config, stamp)
        elif i:
            yield from lidar_scan(street, config, stamp)
        if progress is not None and i:
            progress(i, 2 * count)


def _from_start(sensor: Motion, seconds: F64) -> F64:
    start = sensor(np.zeros(1))[0]
    moved: F64 = np.linalg.inv(start) @ sensor(seconds)
    return moved


def drifted(poses: F64, config: SimulatorConfig) -> F64:
    """What odometry makes of true poses (T, 4, 4): off by a share of the way, and in heading.

    The errors of distance (relative) and of heading (rad per 10 m) are constant over the drive,
    normally distributed with `odom_drift` as their standard deviation.
    """
    if config.odom_drift == 0:
        return poses
    rng = Generator(PCG64([config.seed, _DRIFT_STREAM]))
    stretch, bend = config.odom_drift * rng.standard_normal(2)
    steps = np.linalg.inv(poses[:-1]) @ poses[1:]
    out = [poses[0]]
    for step in steps:
        way = float(np.linalg.norm(step[:3, 3]))
        c, s = np.cos(0.1 * bend * way), np.sin(0.1 * bend * way)
        wrong = step.copy()
        wrong[:3, 3] *= 1 + stretch
        turn = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
        out.append(out[-1] @ wrong @ turn)
    return np.stack(out)


def write_recording(
    config: SimulatorConfig, path: Path | str, progress: Progress | None = None
) -> None:
    """Write a drive as an MCAP; the file gets its name when it is whole.

    Topics: /image (rgb8), /camera_info, /points, /odom; /tf (odom -> velodyne), /tf_static
    (velodyne -> camera); /ground_truth/pose (PoseStamped), /ground_truth/instances (16UC1 image),
    /ground_truth/point_labels (16UC1 image of one row, a column for each point of the scan of the
    same stamp). Messages are logged at their stamps. Raises ValueError, SinkError.
    """
    frames = simulate(config, progress)
    with McapSink(path) as sink:
        mount = Odometry(START_NS, LIDAR_FRAME, CAMERA_FRAME, CAMERA_IN_LIDAR)
        static = encode_frame(rosbags_factory, Transforms(START_NS, (mount,)))
        sink.write("/tf_static", *static, START_NS)
        for frame in frames:
            for topic, message in _messages(frame):
                sink.write(topic, message.__msgtype__, message, frame.stamp_ns)


def _messages(frame: SimulatedFrame) -> Iterator[tuple[str, Any]]:
    make = rosbags_factory
    if isinstance(frame, InstanceMask | PointInstances):
        masks = isinstance(frame, InstanceMask)
        labels = frame.labels if masks else frame.labels[None]
        topic = "/ground_truth/instances" if masks else "/ground_truth/point_labels"
        yield topic, encode_array_image(make, frame.stamp_ns, frame.frame_id, labels, "16UC1")
    elif isinstance(frame, TruePose):
        as_odometry = Odometry(frame.stamp_ns, frame.frame_id, frame.child_frame_id, frame.pose)
        pose = encode_odometry(make, as_odometry).pose.pose
        top = header(make, frame.stamp_ns, frame.frame_id)
        yield "/ground_truth/pose", make("geometry_msgs/msg/PoseStamped", header=top, pose=pose)
    else:
        yield _TOPICS[type(frame)], encode_frame(make, frame)[1]
        if isinstance(frame, Odometry):
            yield "/tf", encode_frame(make, Transforms(frame.stamp_ns, (frame,)))[1]


_TOPICS: dict[type, str] = {
    ImageFrame: "/image",
    CameraInfo: "/camera_info",
    Scan: "/points",
    Odometry: "/odom",
}
