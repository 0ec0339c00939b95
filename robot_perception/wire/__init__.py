"""The one way between messages and core types.

Messages are read by attribute, whether rclpy or `rosbags` made them; neither is imported here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from robot_perception.core.errors import InputRejected
from robot_perception.core.types import Frame
from robot_perception.wire.cloud import decode_cloud
from robot_perception.wire.common import DEFAULT_MAX_BYTES, split_stamp, stamp_of
from robot_perception.wire.encode import (
    MessageFactory,
    encode_array_image,
    encode_camera_info,
    encode_cloud,
    encode_clouds,
    encode_frame,
    encode_image_frame,
    encode_odometry,
    encode_rgb,
    encode_scan,
    header,
)
from robot_perception.wire.image import decode_compressed_image, decode_image, decode_labels
from robot_perception.wire.motion import (
    decode_camera_info,
    decode_odometry,
    decode_point,
    decode_transforms,
)

# Message type -> decoder of a message and a limit in bytes.
DECODABLE: dict[str, Callable[[Any, int], Frame]] = {
    "sensor_msgs/msg/Image": decode_image,
    "sensor_msgs/msg/CompressedImage": decode_compressed_image,
    "sensor_msgs/msg/PointCloud2": decode_cloud,
    "sensor_msgs/msg/CameraInfo": lambda message, _: decode_camera_info(message),
    "nav_msgs/msg/Odometry": lambda message, _: decode_odometry(message),
    "tf2_msgs/msg/TFMessage": lambda message, _: decode_transforms(message),
}


def decode(message: Any, msgtype: str, max_bytes: int = DEFAULT_MAX_BYTES) -> Frame:
    """Decode `message` by the name of its type; raises InputRejected and nothing else."""
    if msgtype not in DECODABLE:
        raise InputRejected(f"messages of type {msgtype[:80]} are not decoded")
    return DECODABLE[msgtype](message, max_bytes)


__all__ = [
    "DECODABLE",
    "DEFAULT_MAX_BYTES",
    "MessageFactory",
    "decode",
    "decode_camera_info",
    "decode_cloud",
    "decode_compressed_image",
    "decode_image",
    "decode_labels",
    "decode_odometry",
    "decode_point",
    "decode_transforms",
    "encode_array_image",
    "encode_camera_info",
    "encode_cloud",
    "encode_clouds",
    "encode_frame",
    "encode_image_frame",
    "encode_odometry",
    "encode_rgb",
    "encode_scan",
    "header",
    "split_stamp",
    "stamp_of",
]
