"""Ego-motion of the LiDAR and its constant-velocity forecast."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numba
import numpy as np
import small_gicp
from scipy.spatial.transform import Rotation

from robot_perception.core.config import ForecastConfig
from robot_perception.core.types import F32, F64, Odometry, Scan

# Clouds are thinned to voxels of this size, in small places to smaller ones that leave enough.
_VOXEL_M, _LEAST_VOXEL_M = 1.0, 0.1
_ENOUGH_POINTS = 2000
_MAX_CORRESPONDENCE_M = 1.5
_MIN_INLIERS = 200
# A twist beyond these is a failed registration, not a robot.
_MAX_SPEED_MPS = 60.0
_MAX_RATE_RADPS = 4.0
# Scans over which a ground robot's vertical speed is averaged.
_LEVEL_SCANS = 20


@dataclass(frozen=True, eq=False)
class Motion:
    """How the sensor moves: `twist` (6,) rotation vector (rad/s) and velocity (m/s), in the frame
    of the last scan; `relative` (4, 4) the last scan's pose in the frame of the one before."""

    twist: F64
    relative: F64
    source: str

    @property
    def standing(self) -> bool:
        return not self.twist.any()


class MotionEstimator:
    """Twist of the sensor from odometry where it fits the scan's frame, else from the clouds.

    `model` "ground": what goes on is the yaw and the horizontal velocity. A ground robot rolls,
    pitches and bounces, but not for half a second in one direction; of its vertical speed, what a
    tilted sensor sees of its way forward stays. "free": all six components go on.

    Points nearer than `min_range_m`, such as those of the robot itself, are not registered.
    Clouds are registered scan to scan by GICP (small_gicp, one thread: with more, the order of its
    sums and so the result changes from run to run). A failed registration keeps the last twist.
    """

    def __init__(
        self,
        source: str,
        standstill_mps: float,
        model: str = "ground",
        min_range_m: float = 1.0,
    ) -> None:
        self._source, self._model = source, model
        self._standstill = standstill_mps
        self._min_range = min_range_m
        self.reset()

    def reset(self) -> None:
        self._stamp_ns: int | None = None
        self._odometry: Odometry | None = None
        self._cloud: tuple[small_gicp.PointCloud, small_gicp.KdTree] | None = None
        self._twists: deque[F64] = deque(maxlen=2)
        self._vertical: deque[float] = deque(maxlen=_LEVEL_SCANS)

    def step(self, scan: Scan, odometry: Odometry | None) -> Motion | None:
        """The motion up to `scan`; None for the first one."""
        usable = odometry is not None and odometry.child_frame_id == scan.frame_id
        last_odometry, self._odometry = self._odometry, odometry if usable else None
        from_clouds = self._source == "clouds" or (self._source == "auto" and not usable)
        last_cloud = self._cloud
        self._cloud = _prepare(scan.xyz, self._min_range) if from_clouds else None
        last_stamp, self._stamp_ns = self._stamp_ns, scan.stamp_ns
        if last_stamp is None:
            return None
        dt = (scan.stamp_ns - last_stamp) * 1e-9
        if self._odometry is not None and last_odometry is not None and not from_clouds:
            dt = (self._odometry.stamp_ns - last_odometry.stamp_ns) * 1e-9
            relative = np.linalg.inv(last_odometry.pose) @ self._odometry.pose
            source = "odom"
            self._twists = deque(maxlen=2)
        else:
            guess = exp_se3(self._twists[-1] * dt) if self._twists else np.eye(4)
            found = None
            if last_cloud is not None and self._cloud is not None:
                found = _register(last_cloud, self._cloud, guess)
            relative, source = (guess, "last") if found is None else (found, "clouds")
        twist = log_se3(relative) / dt if dt > 0 else np.zeros(6)
        if (
            np.linalg.norm(twist[3:]) > _MAX_SPEED_MPS
            or np.linalg.norm(twist[:3]) > _MAX_RATE_RADPS
        ):
            twist = self._twists[-1] if self._twists else np.zeros(6)
            source = "last"
        # A new one: a copy of this estimator keeps its own.
        self._twists = deque([*self._twists, twist], maxlen=2)
        # Two: more lags behind a braking robot, one passes on all the noise of the registration.
        smooth = np.mean(self._twists, axis=0)
        self._vertical = deque([*self._vertical, twist[5]], maxlen=_LEVEL_SCANS)
        if self._model == "ground":
            smooth[:2], smooth[5] = 0.0, np.mean(self._vertical)
        if np.linalg.norm(smooth[3:]) < self._standstill:
            # What is left at a standstill is the noise of the registration.
            smooth = np.zeros(6)
        return Motion(smooth, relative, source)


def motion_estimator(config: ForecastConfig) -> MotionEstimator:
    """The estimator as configured."""
    return MotionEstimator(
        config.ego_motion, config.standstill_mps, config.motion_model, config.min_range_m
    )


def exp_se3(twist: F64) -> F64:
    """The rigid transform (4, 4) of a twist (rotation vector, translation) held for one unit."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(twist[:3]).as_matrix()
    matrix[:3, 3] = _left_jacobian(twist[:3]) @ twist[3:]
    return matrix


def log_se3(matrix: F64) -> F64:
    """The twist (6,) of a rigid transform; the inverse of `exp_se3`."""
    rotation = Rotation.from_matrix(matrix[:3, :3]).as_rotvec()
    return np.concatenate([rotation, np.linalg.solve(_left_jacobian(rotation), matrix[:3, 3])])


def _left_jacobian(rotation: F64) -> F64:
    angle = float(np.linalg.norm(rotation))
    x, y, z = rotation
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    if angle < 1e-6:
        return np.eye(3) + skew / 2
    a = (1 - np.cos(angle)) / angle**2
    b = (angle - np.sin(angle)) / angle**3
    jacobian: F64 = np.eye(3) + a * skew + b * skew @ skew
    return jacobian


def _prepare(xyz: F32, min_range_m: float) -> tuple[small_gicp.PointCloud, small_gicp.KdTree]:
    useful = small_gicp.PointCloud(_useful(xyz, min_range_m))
    cloud = small_gicp.voxelgrid_sampling(useful, _VOXEL_M, num_threads=1)
    if 0 < cloud.size() < _ENOUGH_POINTS:
        # Of surfaces as many are left as go with the square of the size.
        size = _VOXEL_M * (cloud.size() / _ENOUGH_POINTS) ** 0.5
        size = max(size, _LEAST_VOXEL_M)
        cloud = small_gicp.voxelgrid_sampling(useful, size, num_threads=1)
    tree = small_gicp.KdTree(cloud, num_threads=1)
    small_gicp.estimate_covariances(cloud, tree, num_neighbors=10, num_threads=1)
    return cloud, tree


@numba.njit(cache=True, nogil=True)
def _useful(xyz: F32, min_range_m: float) -> F64:
    """Every second point (N, 3) of those up to 80 m: the voxel grid leaves a few thousand of them
    anyway."""
    useful = np.empty(((len(xyz) + 1) // 2, 3), np.float64)
    count = 0
    for i in range(0, len(xyz), 2):
        squared = xyz[i, 0] ** 2 + xyz[i, 1] ** 2 + xyz[i, 2] ** 2
        if min_range_m**2 < squared < 80.0**2:
            for k in range(3):
                useful[count, k] = xyz[i, k]
            count += 1
    return useful[:count]


def _register(
    target: tuple[small_gicp.PointCloud, small_gicp.KdTree],
    source: tuple[small_gicp.PointCloud, small_gicp.KdTree],
    guess: F64,
) -> F64 | None:
    """Pose of `source` in `target`, or None where registration fails."""
    if target[0].size() < _MIN_INLIERS or source[0].size() < _MIN_INLIERS:
        return None
    result = small_gicp.align(
        target[0],
        source[0],
        target[1],
        init_T_target_source=guess,
        registration_type="GICP",
        max_correspondence_distance=_MAX_CORRESPONDENCE_M,
        num_threads=1,
        max_iterations=20,
    )
    pose = np.array(result.T_target_source)
    return pose if result.num_inliers >= _MIN_INLIERS and np.isfinite(pose).all() else None
