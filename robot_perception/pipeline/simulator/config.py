"""What can be set about a simulated drive, and the ground truth that comes beside the frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robot_perception.core.config import param
from robot_perception.core.types import F64, U16

LIDAR_FRAME = "velodyne"
CAMERA_FRAME = "camera"
ODOM_FRAME = "odom"
MAP_FRAME = "map"
# Stamps start at a date of today's size, where float64 seconds would already lose nanoseconds.
START_NS = 1_700_000_000_000_000_000
LIDAR_HEIGHT_M = 1.73
# Pose of the camera's optical frame (x right, y down, z forward) in the LiDAR frame.
CAMERA_IN_LIDAR: F64 = np.array(
    [[0.0, 0.0, 1.0, 0.27], [-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, -0.08], [0.0, 0.0, 0.0, 1.0]]
)
CAMERA_IN_LIDAR.flags.writeable = False


@dataclass(frozen=True)
class SimulatorConfig:
    """A drive around the block; the same settings give the same bytes on the same machine."""

    seed: int = param(0, "seed of the street, the traffic and the noise", low=0)
    duration_s: float = param(
        30.0, "length of the drive; a lap takes about 24 s", unit="s", low=0.1, high=600.0
    )
    speed_mps: float = param(10.0, "top speed of the robot", unit="m/s", low=1.0, high=15.0)
    stop_s: float = param(
        1.5, "time at the zebra crossing, every lap", unit="s", low=0.0, high=60.0
    )
    image_width: int = param(640, "width of the image", unit="px", low=32, high=4096)
    image_height: int = param(360, "height of the image", unit="px", low=32, high=4096)
    horizontal_fov_deg: float = param(
        80.0, "horizontal field of view", unit="deg", low=20, high=120
    )
    camera_noise: float = param(1.5, "standard deviation of the image noise", low=0.0, high=50.0)
    beams: int = param(64, "beams of the LiDAR", low=2, high=256)
    columns: int = param(1024, "columns of a LiDAR revolution", low=32, high=8192)
    elevation_top_deg: float = param(2.0, "elevation of the highest beam", unit="deg", high=60)
    elevation_bottom_deg: float = param(-24.8, "elevation of the lowest beam", unit="deg", low=-80)
    rate_hz: float = param(10.0, "revolutions and images a second", unit="Hz", low=1.0, high=50.0)
    max_range_m: float = param(85.0, "range of the LiDAR", unit="m", low=5.0, high=500.0)
    range_noise_m: float = param(0.02, "standard deviation of a range", unit="m", low=0, high=1)
    dropout: float = param(0.03, "share of the returns that are lost", low=0.0, high=0.99)
    odom_drift: float = param(
        0.0, "relative error of the odometry's distance; its heading drifts too", low=0.0, high=0.2
    )
    cars: int = param(
        6, "cars that drive: one ahead, one behind, the others oncoming", high=8, low=0
    )
    cyclists: int = param(2, "cyclists", low=0, high=6)
    pedestrians: int = param(8, "people on the pavements", low=0, high=30)


@dataclass(frozen=True, eq=False, slots=True)
class InstanceMask:
    """Instances of an image: `labels` (H, W) uint16, 0 where there is only sky.

    The same number is the same thing in all images and scans of a drive; from `MOVING_LABEL` on,
    things that move.
    """

    stamp_ns: int
    frame_id: str
    labels: U16


@dataclass(frozen=True, eq=False, slots=True)
class PointInstances:
    """Instances of a scan: `labels` (N,) uint16, in the order of its points, as `InstanceMask`."""

    stamp_ns: int
    frame_id: str
    labels: U16


@dataclass(frozen=True, eq=False, slots=True)
class TruePose:
    """The true pose of `child_frame_id` in `frame_id`: `pose` (4, 4) float64."""

    stamp_ns: int
    frame_id: str
    child_frame_id: str
    pose: F64


def camera_matrix(config: SimulatorConfig) -> F64:
    """Intrinsics (3, 3) in pixels; pixel centres have whole coordinates, as in OpenCV."""
    focal = config.image_width / 2 / np.tan(np.deg2rad(config.horizontal_fov_deg) / 2)
    # The horizon lies above the middle: the street is more interesting than the sky.
    centre = ((config.image_width - 1) / 2, (config.image_height - 1) * 0.47)
    return np.array([[focal, 0.0, centre[0]], [0.0, focal, centre[1]], [0.0, 0.0, 1.0]])


def elevations(config: SimulatorConfig) -> F64:
    """Elevation (beams,) of each ring in rad; ring 0 is the highest beam."""
    return np.deg2rad(
        np.linspace(config.elevation_top_deg, config.elevation_bottom_deg, config.beams)
    )
