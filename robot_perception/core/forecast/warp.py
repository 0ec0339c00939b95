"""Where the sensor will be, and points as seen from there."""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np

from robot_perception.core.forecast.motion import exp_se3
from robot_perception.core.types import F32, F64, Forecast


def predicted_poses(twist: F64, horizons_s: Sequence[float]) -> F64:
    """(T, 4, 4): the sensor at each horizon, in its frame at the last scan."""
    return np.stack([exp_se3(twist * horizon) for horizon in horizons_s])


def transform(xyz: F32, matrix: F64) -> F32:
    """Points (N, 3) under a rigid transform (4, 4)."""
    moved: F32 = _moved(np.asarray(xyz, np.float32), matrix[:3].astype(np.float32))
    return moved


@numba.njit(cache=True, nogil=True)
def _moved(xyz: F32, matrix: F32) -> F32:
    # A matrix product with so few columns takes four times as long.
    moved = np.empty(xyz.shape, np.float32)
    for i in range(len(xyz)):
        x, y, z = xyz[i, 0], xyz[i, 1], xyz[i, 2]
        for k in range(3):
            moved[i, k] = matrix[k, 0] * x + matrix[k, 1] * y + matrix[k, 2] * z + matrix[k, 3]
    return moved


def cloud_at_horizon(forecast: Forecast, index: int) -> F32:
    """The cloud of horizon `index` in the frame of the sensor at that horizon (N, 3)."""
    return transform(forecast.clouds[index], np.linalg.inv(forecast.sensor_poses[index]))
