"""Prompts of the segmentation node: a pixel on `prompt_point`, or `/clicked_point` of RViz."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from robot_perception.core.errors import InputRejected
from robot_perception.core.types import F64, CameraInfo
from robot_perception.pipeline.perception import Pipeline
from robot_perception.pipeline.prompts import pixel_of
from robot_perception.ros.messages import rclpy_factory
from robot_perception.wire import decode_point, encode_array_image

PROMPT_POINT, CLICKED_POINT = "prompt_point", "/clicked_point"
TYPE = "geometry_msgs/msg/PointStamped"


def answer(pipeline: Pipeline, message: Any, lock: threading.Lock, is_pixel: bool) -> Any:
    """The mask of a prompt on the latest image, as a message: mono8, 255 on the thing.

    Its header is that image's. Raises InputRejected if there is no image yet, no camera info for a
    point in space, or nothing to see of it.
    """
    _, source, point = decode_point(message)
    with lock:
        frame = pipeline.last_image
        if frame is None:
            raise InputRejected("there is no image yet")
        if is_pixel:
            x, y = float(point[0]), float(point[1])
        else:
            camera = _camera(pipeline, (frame.rgb.shape[1], frame.rgb.shape[0]))
            target = frame.frame_id or camera.frame_id
            x, y = pixel_of(camera, _in_frame(pipeline, point, source, target))
        mask = pipeline.prompt(frame, x, y)
    picture = mask.astype(np.uint8) * 255
    return encode_array_image(rclpy_factory, frame.stamp_ns, frame.frame_id, picture, "mono8")


def _in_frame(pipeline: Pipeline, xyz: F64, source: str, target: str) -> F64:
    """`xyz` (3,) of the frame `source` in `target`, by the latest transform: a click is about what
    is seen now. Raises InputRejected if tf does not know."""
    if source == target:
        return xyz
    found = pipeline.poses.transforms.pose(target, source, None)
    if found is None:
        raise InputRejected(f"tf knows no way from {source} to {target}")
    return np.asarray(found.pose[:3, :3] @ xyz + found.pose[:3, 3])


def _camera(pipeline: Pipeline, size: tuple[int, int]) -> CameraInfo:
    camera = pipeline.camera
    if camera is None:
        raise InputRejected("there is no camera info to project the point with")
    if (camera.width, camera.height) != size:
        raise InputRejected("camera info is for images of another size")
    return camera
