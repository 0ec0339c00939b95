"""Messages of rclpy, made from names, values and NumPy arrays."""

from __future__ import annotations

import array
import functools
import importlib
import importlib.util
from typing import Any

import numpy as np


@functools.cache
def message_class(type_name: str) -> Any:
    """The class of a type such as "sensor_msgs/msg/Image"; raises ImportError if there is none."""
    package, kind, name = type_name.split("/")
    module = importlib.import_module(f"{package}.{kind}")
    if not hasattr(module, name):
        raise ImportError(f"{package} has no message {name}")
    return getattr(module, name)


def is_available(type_name: str) -> bool:
    """Whether the message package of `type_name` is installed."""
    return importlib.util.find_spec(type_name.partition("/")[0]) is not None


def rclpy_factory(type_name: str, /, **fields: Any) -> Any:
    """An rclpy message; fields not given have the type's default. A wire.MessageFactory."""
    message = message_class(type_name)()
    for name, value in fields.items():
        is_array = isinstance(value, np.ndarray)
        setattr(message, name, _converted(value, getattr(message, name)) if is_array else value)
    return message


def _converted(value: np.ndarray[Any, Any], default: Any) -> Any:
    """`value` as the kind of container the field has."""
    if isinstance(default, np.ndarray):
        return np.asarray(value, default.dtype).reshape(-1)
    if not isinstance(default, array.array):
        return value.tolist()
    # Anything but an array.array is checked element by element in Python: hundreds of times slower.
    converted = array.array(default.typecode)
    flat = np.ascontiguousarray(value, default.typecode).reshape(-1)
    converted.frombytes(flat.view(np.uint8).data)
    return converted
