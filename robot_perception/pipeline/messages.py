"""Messages without ROS: made, filled with defaults and serialised by `rosbags`."""

from __future__ import annotations

from typing import Any

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_typestore

TYPESTORE = get_typestore(Stores.ROS2_JAZZY)

# Defaults that the message definitions give and the type store does not keep.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "geometry_msgs/msg/Quaternion": {"w": 1.0},
    "sensor_msgs/msg/NavSatStatus": {"status": -2},
}


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
