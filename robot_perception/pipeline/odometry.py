"""Poses by stamp, and results in their fixed frame."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import replace

import numpy as np

from robot_perception.core.errors import InputRejected
from robot_perception.core.types import Forecast, Odometry

# A stamp this far behind the last one starts the recording anew; less is a message out of order.
RESTART_NS = 500_000_000
_KEPT = 1000
# Odometry of at least 10 Hz has a pose this near to any stamp.
TOLERANCE_NS = 100_000_000


class OdometryBuffer:
    """The latest poses by stamp. Thread-safe; a backward stamp starts it anew (a bag loops)."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._poses: deque[Odometry] = deque(maxlen=_KEPT)

    def add(self, odometry: Odometry) -> None:
        with self._condition:
            if self._poses and odometry.stamp_ns <= self._poses[-1].stamp_ns:
                if self._poses[-1].stamp_ns - odometry.stamp_ns < RESTART_NS:
                    raise InputRejected("odometry stamp is not after the previous one")
                self._poses.clear()
            self._poses.append(odometry)
            self._condition.notify_all()

    def at(self, stamp_ns: int) -> Odometry | None:
        """The pose nearest to `stamp_ns`; None if there is none within 100 ms."""
        with self._condition:
            if not self._poses:
                return None
            best = min(self._poses, key=lambda pose: abs(pose.stamp_ns - stamp_ns))
        return best if abs(best.stamp_ns - stamp_ns) <= TOLERANCE_NS else None

    def wait_for(self, stamp_ns: int, timeout_s: float) -> bool:
        """True once a pose at or after `stamp_ns` has come."""

        def covered() -> bool:
            return bool(self._poses) and self._poses[-1].stamp_ns >= stamp_ns

        with self._condition:
            return self._condition.wait_for(covered, timeout_s)


def in_odometry_frame(forecast: Forecast, odometry: Odometry) -> Forecast:
    """The same forecast with clouds and sensor poses in the odometry's fixed frame."""
    rotation, translation = odometry.pose[:3, :3], odometry.pose[:3, 3]
    clouds = tuple((c @ rotation.T + translation).astype(np.float32) for c in forecast.clouds)
    poses = odometry.pose @ forecast.sensor_poses
    return replace(forecast, frame_id=odometry.frame_id, clouds=clouds, sensor_poses=poses)
