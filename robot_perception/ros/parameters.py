"""ROS parameters from the dataclasses of `core/config.py`, and back."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter

from robot_perception.core.config import checked

T = TypeVar("T")

_UNBOUNDED = 1e12


def declare(node: Node, config: type[Any], prefix: str = "") -> None:
    """Declare a parameter for every field of the dataclass `config`, with its descriptor."""
    for f in fields(config):
        # An empty list has no type of its own: such a parameter starts without a value.
        default = Parameter.Type.DOUBLE_ARRAY if isinstance(f.default, tuple) else f.default
        node.declare_parameter(prefix + f.name, default, _descriptor(f))


def read(node: Node, config: type[T], prefix: str = "") -> T:
    """The current values as a `config`; raises ValueError naming a value out of bounds."""
    values = {}
    for f in fields(config):  # type: ignore[arg-type]
        name = prefix + f.name
        if isinstance(f.default, tuple):
            unset: Parameter[Any] = Parameter(name, Parameter.Type.DOUBLE_ARRAY, [])
            values[f.name] = tuple(node.get_parameter_or(name, unset).value)
        else:
            values[f.name] = node.get_parameter(name).value
    return checked(config(**values))


def _descriptor(f: Any) -> ParameterDescriptor:
    meta = f.metadata
    unit = f" [{meta['unit']}]" if meta["unit"] else ""
    descriptor = ParameterDescriptor(description=meta["description"] + unit)
    if meta["choices"]:
        descriptor.additional_constraints = "one of: " + ", ".join(meta["choices"])
    low, high = meta["low"], meta["high"]
    if low is None and high is None:
        return descriptor
    # An open side gets a number that no sensible value reaches: ranges have two ends in ROS.
    low = -_UNBOUNDED if low is None else low
    high = _UNBOUNDED if high is None else high
    if isinstance(f.default, bool | str | tuple):
        return descriptor
    if isinstance(f.default, int):
        descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=0)]
    else:
        descriptor.floating_point_range = [
            FloatingPointRange(from_value=float(low), to_value=float(high), step=0.0)
        ]
    return descriptor
