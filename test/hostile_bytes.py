"""Serialised messages that are none, by name, for every type the nodes subscribe to.

All of them must be rejected. What DDS delivers is whatever a publisher sent, filled up to whole
words of four bytes: nothing below our own decoder compares it with the type of the topic.
"""

from __future__ import annotations

import struct
from typing import Any

import cv2
import numpy as np

from robot_perception.core.types import CameraInfo, Frame, ImageFrame, Odometry, Scan, Transforms
from robot_perception.pipeline.messages import TYPESTORE, rosbags_factory, serialize
from robot_perception.wire import encode_array_image, encode_frame, header

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
CLOUD, CAMERA = "sensor_msgs/msg/PointCloud2", "sensor_msgs/msg/CameraInfo"
ODOMETRY, TF = "nav_msgs/msg/Odometry", "tf2_msgs/msg/TFMessage"
POINT = "geometry_msgs/msg/PointStamped"
TYPES = (IMAGE, COMPRESSED, CLOUD, CAMERA, ODOMETRY, TF, POINT)

# Of a name that is found again in the bytes.
_FRAME = "sensor_frame"
_MOST, _HALF = 2**32 - 1, 2**31 - 1


def good(type_name: str, stamp_ns: int = 1_000_000_000, size: tuple[int, int] = (240, 320)) -> Any:
    """A valid message; images have `size` (rows, columns), clouds 64 beams of 128 points."""
    rows, columns = size
    blocks = np.random.default_rng(stamp_ns).integers(0, 255, (rows // 20, columns // 20, 3))
    rgb = np.kron(blocks.astype(np.uint8), np.ones((20, 20, 1), np.uint8))
    if type_name == COMPRESSED:
        return rosbags_factory(
            COMPRESSED,
            header=header(rosbags_factory, stamp_ns, _FRAME),
            format="jpeg",
            data=cv2.imencode(".jpg", rgb)[1].reshape(-1),
        )
    if type_name == POINT:
        point = rosbags_factory("geometry_msgs/msg/Point", x=columns / 2, y=rows / 2)
        return rosbags_factory(POINT, header=header(rosbags_factory, stamp_ns, _FRAME), point=point)
    elevation = np.linspace(0.05, -0.4, 64)[:, None]
    azimuth = np.linspace(np.pi, -np.pi, 128, endpoint=False)[None, :]
    around = np.broadcast_arrays(np.cos(azimuth), np.sin(azimuth), np.tan(elevation))
    k = np.array([[100.0, 0, columns / 2], [0, 100, rows / 2], [0, 0, 1]])
    pose = Odometry(stamp_ns, _FRAME, "base", np.eye(4))
    frames: dict[str, Frame] = {
        IMAGE: ImageFrame(stamp_ns, _FRAME, rgb),
        CLOUD: Scan(stamp_ns, _FRAME, np.stack(around, -1).reshape(-1, 3).astype(np.float32) * 5),
        CAMERA: CameraInfo(stamp_ns, _FRAME, columns, rows, k, np.zeros(5), "plumb_bob"),
        ODOMETRY: pose,
        TF: Transforms(stamp_ns, (pose,)),
    }
    return encode_frame(rosbags_factory, frames[type_name])[1]


def good_labels(stamp_ns: int) -> Any:
    labels = np.zeros((240, 320), np.uint16)
    return encode_array_image(rosbags_factory, stamp_ns, _FRAME, labels, "16UC1")


def big_endian(message: Any) -> bytes:
    return bytes(TYPESTORE.serialize_cdr(message, message.__msgtype__, little_endian=False))


def replaced(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def word(value: int) -> bytes:
    return struct.pack("<I", value)


def hostile(message: Any) -> dict[str, bytes]:
    """What a valid message is made into; each is to be rejected."""
    type_name = message.__msgtype__
    data = serialize(message)
    random = np.random.default_rng(0)
    other = POINT if type_name == ODOMETRY else ODOMETRY
    found = {
        "nothing": b"",
        "three bytes": data[:3],
        "nothing but the encapsulation": data[:4],
        "cut in half": data[: len(data) // 2],
        "four bytes short": data[:-4],
        "little-endian, said to be big": b"\0\0" + data[2:],
        "big-endian, said to be little": b"\0\1" + big_endian(message)[2:],
        "encapsulated as a parameter list": b"\0\3" + data[2:],
        "encapsulated as XCDR 2": b"\0\7" + data[2:],
        "unknown encapsulation": b"\x77\x66" + data[2:],
        "random bytes": random.bytes(3000),
        "random bytes in an encapsulation": b"\0\1\0\0" + random.bytes(3000),
        "zeros": bytes(5000),
        "all bits set": b"\0\1\0\0" + b"\xff" * 5000,
        "a message of another type": serialize(good(other)),
        "a hundred bytes more": data + bytes(100),
    }
    text = data.index(_FRAME.encode())
    for name, length in (("4 GB", _MOST), ("2 GB", _HALF), ("0", 0), ("1 MB", 2**20)):
        found[f"string of {name}"] = replaced(data, text - 4, word(length))
    found["string without its end"] = replaced(data, text + len(_FRAME), b"x")
    found["string with a NUL"] = replaced(data, text + 3, b"\0")
    found["string that is not UTF-8"] = replaced(data, text, b"\xff\xfe\x80")
    for name, at in _counts(message, data).items():
        there = struct.unpack_from("<I", data, at)[0]
        for what, count in (("4 G", _MOST), ("2 G", _HALF), ("500 M", 2**29), ("4", there + 4)):
            more = " more" if count == there + 4 else ""
            found[f"{name} of {what}{more}"] = replaced(data, at, word(count))
    return found


def _counts(message: Any, data: bytes) -> dict[str, int]:
    """Where the counts of sequences are in the bytes."""
    found = {}
    if hasattr(message, "data"):
        tail = 1 if message.__msgtype__ == CLOUD else 0
        found["data"] = len(data) - tail - len(message.data) - 4
    if hasattr(message, "fields"):
        found["fields"] = data.index(word(len(message.fields)) + word(2) + b"x\0")
    if hasattr(message, "transforms"):
        found["transforms"] = 4
    if hasattr(message, "d"):
        found["coefficients"] = data.index(word(5), data.index(b"plumb_bob"))
    return found


def many_fields(count: int) -> bytes:
    """A cloud of no points whose fields are really there, 20 bytes each."""
    data = serialize(good(CLOUD))
    at = _counts(good(CLOUD), data)["fields"]
    field = word(2) + b"x\0\0\0" + word(0) + b"\7\0\0\0" + word(1)
    return data[:at] + word(count) + field * count + bytes(20)
