"""Which frames become keyframes."""

from __future__ import annotations

import cv2
import numpy as np

from robot_perception.core.config import RevisitConfig
from robot_perception.core.types import F32, F64, ImageFrame

_VIEW_SIZE = (32, 24)
# Share of the view's variance that must have changed to make a keyframe without odometry.
_VIEW_CHANGE = 0.05


class KeyframeChooser:
    """Takes a frame after a time, and a motion or turn where odometry is known, else a new view.

    `travelled_m` is the distance driven since the start.
    """

    def __init__(self, config: RevisitConfig) -> None:
        self._config = config
        self.travelled_m = 0.0
        self._last_stamp: int | None = None
        self._last_pose: F64 | None = None
        self._last_view: F32 | None = None
        self._path_pose: F64 | None = None

    def step(self, frame: ImageFrame, pose: F64 | None) -> bool:
        """Whether `frame`, taken at `pose` (4, 4) or an unknown one, is to be a keyframe."""
        if pose is not None:
            if self._path_pose is not None:
                step = pose[:3, 3] - self._path_pose[:3, 3]
                self.travelled_m += float(np.linalg.norm(step))
            self._path_pose = pose
        view = _small_view(frame)
        if not self._is_due(frame, pose, view):
            return False
        self._last_stamp, self._last_pose, self._last_view = frame.stamp_ns, pose, view
        return True

    def _is_due(self, frame: ImageFrame, pose: F64 | None, view: F32) -> bool:
        config = self._config
        if self._last_stamp is None or self._last_view is None:
            return True
        # Behind it: the last keyframe had a wrong stamp.
        if 0 <= (frame.stamp_ns - self._last_stamp) * 1e-9 < config.keyframe_period_s:
            return False
        if pose is None or self._last_pose is None:
            return 1 - float((view * self._last_view).mean()) >= _VIEW_CHANGE
        moved = np.linalg.inv(self._last_pose) @ pose
        turn = float(np.arccos(np.clip((np.trace(moved[:3, :3]) - 1) / 2, -1, 1)))
        distance = float(np.linalg.norm(moved[:3, 3]))
        return distance >= config.keyframe_distance_m or turn >= config.keyframe_angle_rad


def _small_view(frame: ImageFrame) -> F32:
    """A tiny grey image (24, 32) of zero mean and unit variance, to tell whether the view moved."""
    grey = cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, _VIEW_SIZE, interpolation=cv2.INTER_AREA).astype(np.float32)
    return np.asarray((small - small.mean()) / max(1e-3, float(small.std())), np.float32)
