"""Messages without ROS: made, filled with defaults, serialised and deserialised by `rosbags`."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_typestore

from robot_perception.core.errors import InputRejected
from robot_perception.wire import DEFAULT_MAX_BYTES

TYPESTORE = get_typestore(Stores.ROS2_JAZZY)

# Defaults that the message definitions give and the type store does not keep.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "geometry_msgs/msg/Quaternion": {"w": 1.0},
    "sensor_msgs/msg/NavSatStatus": {"status": -2},
}

_CLOUD, _TF = "sensor_msgs/msg/PointCloud2", "tf2_msgs/msg/TFMessage"
# Messages in a message become Python objects of ten times their bytes; nobody needs so many.
_MOST_NESTED = 10_000


def rosbags_factory(type_name: str, /, **fields: Any) -> Any:
    """A `rosbags` message; fields not given have the type's default. A wire.MessageFactory."""
    described = TYPESTORE.fielddefs[type_name][1]
    unknown = fields.keys() - {name for name, _ in described}
    if unknown:
        raise AttributeError(f"{type_name} has no field {', '.join(sorted(unknown))}")
    defaults = _DEFAULTS.get(type_name, {})
    values = {
        name: _converted(fields[name], kind)
        if name in fields
        else defaults[name]
        if name in defaults
        else _default(kind)
        for name, kind in described
    }
    return TYPESTORE.types[type_name](**values)


def serialize(message: Any) -> bytes:
    """The message in CDR, little-endian."""
    return bytes(TYPESTORE.serialize_cdr(message, message.__msgtype__))


def deserialize(
    data: bytes | memoryview, type_name: str, max_bytes: int = DEFAULT_MAX_BYTES
) -> Any:
    """The message in `data`, which is CDR of either byte order.

    Its arrays are views of `data`, so the time it takes does not hang on their size. Raises
    InputRejected for more than `max_bytes`, and for bytes that are not a `type_name`: what is
    claimed is compared with what is there before anything is allocated.
    """
    if len(data) > max_bytes:
        raise InputRejected(f"message of {len(data)} bytes is over the limit")
    try:
        nested = _nested(data, type_name)
        if nested <= _MOST_NESTED:
            return TYPESTORE.deserialize_cdr(memoryview(data), type_name)
    except Exception as error:
        # Generated code on foreign bytes: whatever it raises, the message is not one.
        raise InputRejected(f"not a serialised {type_name}") from error
    raise InputRejected(f"{nested} messages in one {type_name}, over the limit of {_MOST_NESTED}")


def _nested(data: bytes | memoryview, type_name: str) -> int:
    """How many fields a cloud, or transforms a message of tf, claims to have; 0 for other types."""
    order = ">" if data[1] == 0 else "<"
    at = 4
    if type_name == _CLOUD:
        # Behind stamp, frame_id, height and width.
        frame_end = 16 + struct.unpack_from(f"{order}I", data, 12)[0]
        at = frame_end + -frame_end % 4 + 8
    elif type_name != _TF:
        return 0
    return int(struct.unpack_from(f"{order}I", data, at)[0])


def _default(kind: Any) -> Any:
    node, detail = kind
    if node == Nodetype.NAME:
        return rosbags_factory(detail)
    if node == Nodetype.BASE:
        return _zero(detail[0])
    element, length = detail
    count = length if node == Nodetype.ARRAY else 0
    if element[0] == Nodetype.BASE and element[1][0] != "string":
        return np.zeros(count, _dtype(element[1][0]))
    return [_default(element) for _ in range(count)]


def _converted(value: Any, kind: Any) -> Any:
    node, detail = kind
    if node == Nodetype.BASE:
        # rclpy has a byte as bytes of length one.
        return value[0] if isinstance(value, bytes) else value
    if node in (Nodetype.ARRAY, Nodetype.SEQUENCE):
        element = detail[0]
        if element[0] == Nodetype.BASE and element[1][0] != "string":
            return np.asarray(value, _dtype(element[1][0])).reshape(-1)
        return list(value)
    return value


def _zero(base: str) -> Any:
    if base == "string":
        return ""
    return _dtype(base).type(0).item()


def _dtype(base: str) -> np.dtype[Any]:
    return np.dtype({"byte": "uint8", "char": "uint8"}.get(base, base))
