"""The last scan as the sensor will see it: constant-velocity ego-warp with a z-buffer."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from robot_perception.core.forecast.motion import exp_se3
from robot_perception.core.range_image import SensorModel, look_from
from robot_perception.core.types import F32, F64, Forecast


def predicted_poses(twist: F64, horizons_s: Sequence[float]) -> F64:
    """(T, 4, 4): the sensor at each horizon, in its frame at the last scan."""
    return np.stack([exp_se3(twist * horizon) for horizon in horizons_s])


def warp(xyz: F32, poses: F64, model: SensorModel) -> tuple[tuple[F32, ...], F32]:
    """Points (N, 3) that are seen from each of `poses` (T, 4, 4), and the range images (T, H, W).

    The world is taken to stand still, so what is predicted for each pose are those of the points
    that fall into its range image and that no nearer surface comes to hide. Points are not moved to
    pixel centres: they stay where they were measured.
    """
    _, behind_now, _ = look_from(xyz, np.eye(4), model)

    def look(pose: F64) -> tuple[F32, F32]:
        image, behind, inside = look_from(xyz, pose, model)
        # What the sensor sees now although it seems to be behind something is no less visible then.
        return xyz[inside & (~behind | behind_now)], image

    with ThreadPoolExecutor() as pool:
        views = list(pool.map(look, poses))
    return tuple(cloud for cloud, _ in views), np.stack([image for _, image in views])


def transform(xyz: F32, matrix: F64) -> F32:
    """Points (N, 3) under a rigid transform (4, 4)."""
    moved: F32 = xyz @ matrix[:3, :3].T.astype(np.float32) + matrix[:3, 3].astype(np.float32)
    return moved


def cloud_at_horizon(forecast: Forecast, index: int) -> F32:
    """The cloud of horizon `index` in the frame of the sensor at that horizon (N, 3)."""
    return transform(forecast.clouds[index], np.linalg.inv(forecast.sensor_poses[index]))
