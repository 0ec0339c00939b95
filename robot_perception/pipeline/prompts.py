"""Prompts that come as messages: a pixel, or a point in space seen by the camera."""

from __future__ import annotations

import cv2
import numpy as np

from robot_perception.core.errors import InputRejected
from robot_perception.core.types import F64, CameraInfo


def pixel_of(camera: CameraInfo, xyz: F64) -> tuple[float, float]:
    """The pixel x, y that shows `xyz` (3,), in metres in the camera's optical frame.

    Lens distortion is applied: the image is taken to be the one that `camera` describes. Raises
    InputRejected for a point behind the camera, outside the image, or an unknown lens model.
    """
    if xyz[2] <= 0:
        raise InputRejected("the point is behind the camera")
    origin = np.zeros(3)
    point = xyz.reshape(1, 1, 3).astype(np.float64)
    if camera.distortion_model in ("plumb_bob", "rational_polynomial", ""):
        seen, _ = cv2.projectPoints(point, origin, origin, camera.k, camera.d)
    elif camera.distortion_model in ("equidistant", "fisheye"):
        seen, _ = cv2.fisheye.projectPoints(point, origin, origin, camera.k, camera.d)
    else:
        raise InputRejected(f"points are not projected through a {camera.distortion_model} lens")
    x, y = (float(v) for v in seen.ravel())
    if not (0 <= x < camera.width and 0 <= y < camera.height):
        raise InputRejected("the point is outside the image")
    return x, y
