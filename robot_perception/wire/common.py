"""Checks that every message goes through: integers, stamps, bytes, sizes before allocation."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np

from robot_perception.core.errors import InputRejected
from robot_perception.core.types import U8

DEFAULT_MAX_BYTES = 256 * 2**20
NS = 1_000_000_000
_UINT32_MAX = 2**32 - 1

P = ParamSpec("P")
T = TypeVar("T")


def rejects(
    what: str,
) -> Callable[[Callable[Concatenate[Any, P], T]], Callable[Concatenate[Any, P], T]]:
    """Decorator of a decoder: whatever goes wrong with an object of unknown make is InputRejected.

    The checks in the decoder give the reasons people should see; this is for attributes that are
    missing or of a wrong type, which may fail anywhere and in any way.
    """

    def decorate(decoder: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], T]:
        @functools.wraps(decoder)
        def guarded(message: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return decoder(message, *args, **kwargs)
            except InputRejected:
                raise
            except MemoryError as error:
                raise InputRejected(f"no memory for this {what}") from error
            except AttributeError as error:
                raise InputRejected(f"not a {what}: no attribute {error.name}") from error
            except Exception as error:
                raise InputRejected(f"malformed {what} ({type(error).__name__})") from error

        return guarded

    return decorate


def uint32(value: Any, name: str) -> int:
    """`value` as a Python int, so that products of them cannot overflow."""
    try:
        number = operator.index(value)
    except TypeError:
        raise InputRejected(f"{name} is not an integer") from None
    if not 0 <= number <= _UINT32_MAX:
        raise InputRejected(f"{name} is outside uint32")
    return number


def text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise InputRejected(f"{name} is not a string")
    if "\0" in value:
        # Neither DDS nor C has such strings: what comes out again would be another one.
        raise InputRejected(f"{name} holds a NUL")
    return value


def stamp_of(message: Any) -> tuple[int, str]:
    """Stamp in ns and frame id of `message.header`."""
    header = message.header
    try:
        seconds = operator.index(header.stamp.sec)
        nanoseconds = operator.index(header.stamp.nanosec)
    except TypeError:
        raise InputRejected("stamp is not made of integers") from None
    if not 0 <= seconds <= _UINT32_MAX or not 0 <= nanoseconds < NS:
        raise InputRejected("stamp is invalid: sec >= 0 and nanosec < 1e9 expected")
    return seconds * NS + nanoseconds, text(header.frame_id, "frame_id")


def split_stamp(stamp_ns: int) -> tuple[int, int]:
    """Seconds and nanoseconds of a stamp."""
    return divmod(int(stamp_ns), NS)


def bytes_of(data: Any, max_bytes: int) -> U8:
    """`data` (array.array, bytes, memoryview, NumPy array, list of int) as (N,) uint8.

    A read-only view of the same memory where there is a contiguous buffer. The view keeps the
    message alive, and whoever writes to it by mistake learns of it.
    """
    if isinstance(data, list | tuple):
        within(len(data), max_bytes)
        flat = np.array(data, np.uint8).reshape(-1)
    else:
        try:
            buffer = memoryview(data)
        except TypeError:
            raise InputRejected("data is not a buffer of bytes") from None
        if buffer.itemsize != 1:
            raise InputRejected(f"data has items of {buffer.itemsize} bytes, not of 1")
        within(buffer.nbytes, max_bytes)
        flat = np.frombuffer(buffer if buffer.c_contiguous else buffer.tobytes(), np.uint8)
    flat.flags.writeable = False
    return flat


def within(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise InputRejected(f"{size} bytes, over the limit of {max_bytes}")


def rows_of(data: U8, rows: int, row_bytes: int, step: int) -> U8:
    """The first `row_bytes` of each of `rows` rows that start `step` bytes apart, without a copy.

    Padding after the last row may be missing, and bytes beyond it are ignored (drivers round their
    buffers up to pages); neither leaves a doubt about what the rows hold.
    """
    if step < row_bytes:
        raise InputRejected(f"step {step} is shorter than a row of {row_bytes} bytes")
    needed = step * (rows - 1) + row_bytes if rows else 0
    if len(data) < needed:
        raise InputRejected(f"{len(data)} bytes of data where {needed} are claimed")
    return np.ndarray((rows, row_bytes), np.uint8, data, 0, (step, 1))
