"""sensor_msgs/PointCloud2 -> Scan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robot_perception.core.errors import InputRejected
from robot_perception.core.types import F32, U8, U16, Scan
from robot_perception.wire.common import (
    DEFAULT_MAX_BYTES,
    NS,
    bytes_of,
    rejects,
    rows_of,
    stamp_of,
    text,
    uint32,
    within,
)

# Format of each sensor_msgs/PointField datatype.
DATATYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}

# What drivers call the same thing; of several that are there the first counts.
_INTENSITY = ("intensity", "intensities", "i", "reflectivity")
_RING = ("ring", "channel", "laser_id")
_TIME = ("t", "time", "timestamp", "time_stamp", "offset_time")
_KNOWN = frozenset(("x", "y", "z", *_INTENSITY, *_RING, *_TIME))

_MAX_FIELDS = 1024
# Times farther from the header's stamp than this were taken by another clock.
_MAX_OFFSET_S = 10.0


@dataclass(frozen=True)
class _Field:
    name: str
    offset: int
    format: str
    count: int

    @property
    def end(self) -> int:
        return self.offset + int(self.format[1]) * self.count


@dataclass(frozen=True)
class _Layout:
    """Where the points lie in `data`: `height` rows, each of `width` points."""

    data: U8
    width: int
    height: int
    point_step: int
    row_step: int
    order: str

    def column(self, field: _Field) -> NDArray[Any]:
        """The field's values (N,): a view, or a copy where the rows are padded."""
        return self._view(field.offset, field.format, 1)[:, 0]

    def xyz(self, fields: list[_Field]) -> F32:
        """(N, 3) float32: a view where x, y, z are aligned native float32 side by side."""
        x, y, z = fields
        side_by_side = y.offset == x.offset + 4 and z.offset == x.offset + 8
        if side_by_side and all(f.format == "f4" for f in fields):
            view = self._view(x.offset, "f4", 3)
            if view.dtype.isnative:
                if view.flags.aligned:
                    return view
                # Twelve bytes at once: faster than three unaligned floats.
                packed = np.ascontiguousarray(self._view(x.offset, "V12", 1))
                return packed.view(np.float32).reshape(-1, 3)
        points = np.empty((self.width * self.height, 3), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            for i, field in enumerate(fields):
                points[:, i] = self.column(field)
        return points

    def _view(self, offset: int, kind: str, columns: int) -> NDArray[Any]:
        dtype = np.dtype(self.order + kind)
        grid: NDArray[Any] = np.ndarray(
            (self.height, self.width, columns),
            dtype,
            self.data,
            # Without points `data` may be shorter than one point.
            offset if self.width * self.height else 0,
            (self.row_step, self.point_step, dtype.itemsize),
        )
        return grid.reshape(self.width * self.height, columns)


@rejects("sensor_msgs/PointCloud2")
def decode_cloud(message: Any, max_bytes: int = DEFAULT_MAX_BYTES) -> Scan:
    """Decode a sensor_msgs/PointCloud2.

    Points whose position is not finite in float32 are dropped and counted (REP-117: no return),
    whatever `is_dense` says. `xyz`, `intensity`, `ring` and `time_s` are read-only views of the
    message where it holds them as aligned native float32 (ring: uint16) and no point is dropped.

    - intensity: `intensity`, `intensities`, `i` or `reflectivity`, of any datatype.
    - ring: `ring`, `channel` or `laser_id`, whole numbers in 0..65535.
    - time: `t`, `time`, `timestamp`, `time_stamp` or `offset_time`. Integers are nanoseconds after
      the stamp, two uint32 (count 2) one absolute uint64 of nanoseconds, float32 seconds after the
      stamp. Float64 is seconds after the stamp, or absolute seconds, microseconds or nanoseconds:
      whichever is nearest to the stamp. Times of another clock, more than 10 s from the stamp, and
      times that are not finite leave `time_s` None.

    An optional field with a count above 1 is not what its name says and is passed over; a count of
    0 means 1, as in PCL. Bytes after the last point are ignored. `max_bytes` bounds the data.
    Raises InputRejected.
    """
    stamp_ns, frame_id = stamp_of(message)
    width, height = uint32(message.width, "width"), uint32(message.height, "height")
    point_step = uint32(message.point_step, "point_step")
    row_step = uint32(message.row_step, "row_step")
    count = width * height
    if not count and not len(message.fields):
        return Scan(stamp_ns, frame_id, np.zeros((0, 3), np.float32))
    fields = _fields(message.fields, point_step)
    within(row_step * height, max_bytes)
    data = bytes_of(message.data, max_bytes)
    if count:
        rows_of(data, height, width * point_step, row_step)
    order = ">" if message.is_bigendian else "<"
    layout = _Layout(data, width, height, point_step, row_step, order)
    missing = [name for name in "xyz" if name not in fields or fields[name].count != 1]
    if missing:
        raise InputRejected(f"no scalar field {', '.join(missing)}")
    position = [fields[name] for name in "xyz"]
    intensity, ring = _first(fields, _INTENSITY), _first(fields, _RING)
    time = _first_time(fields)
    _check_overlap([f for f in (*position, intensity, ring, time) if f is not None])

    xyz = layout.xyz(position)
    keep = _finite_rows(xyz)
    columns = (
        _kept(layout.column(f), keep) if f is not None else None for f in (intensity, ring, time)
    )
    strengths, rings, times = columns
    xyz = _kept(xyz, keep)
    return Scan(
        stamp_ns,
        frame_id,
        xyz,
        None if strengths is None else _float32(strengths),
        None if rings is None else _rings(rings),
        None if times is None else _seconds(times, stamp_ns),
        count - len(xyz),
    )


def _fields(described: Any, point_step: int) -> dict[str, _Field]:
    """The fields we know by name, all of them checked."""
    if len(described) > _MAX_FIELDS:
        raise InputRejected(f"{len(described)} fields")
    known: dict[str, _Field] = {}
    for item in described:
        name, datatype = text(item.name, "field name"), uint32(item.datatype, "datatype")
        if datatype not in DATATYPES:
            raise InputRejected(f"field {name[:40]!r} has unknown datatype {datatype}")
        count = max(1, uint32(item.count, "count"))
        field = _Field(name, uint32(item.offset, "offset"), DATATYPES[datatype], count)
        if field.end > point_step:
            raise InputRejected(f"field {name[:40]!r} ends beyond point_step {point_step}")
        if name in _KNOWN:
            if name in known:
                raise InputRejected(f"field {name!r} appears twice")
            known[name] = field
    return known


def _first(fields: dict[str, _Field], names: tuple[str, ...]) -> _Field | None:
    return next((fields[n] for n in names if n in fields and fields[n].count == 1), None)


def _first_time(fields: dict[str, _Field]) -> _Field | None:
    """As `_first`; PointField has no uint64, so two uint32 stand for one."""
    for name in _TIME:
        field = fields.get(name)
        if field is not None and (field.format, field.count) == ("u4", 2):
            return _Field(name, field.offset, "u8", 1)
        if field is not None and field.count == 1:
            return field
    return None


def _check_overlap(used: list[_Field]) -> None:
    ordered = sorted(used, key=lambda f: f.offset)
    for before, after in zip(ordered, ordered[1:], strict=False):
        if after.offset < before.end:
            raise InputRejected(f"fields {before.name!r} and {after.name!r} overlap")


def _finite_rows(xyz: F32) -> NDArray[np.intp] | None:
    """The indices of the finite rows; None where all are."""
    # By columns: three passes over memory with a stride are faster than one over rows of three.
    finite = np.isfinite(xyz[:, 0])
    for i in (1, 2):
        finite &= np.isfinite(xyz[:, i])
    return None if finite.all() else np.flatnonzero(finite)


def _kept(values: NDArray[Any], keep: NDArray[np.intp] | None) -> NDArray[Any]:
    # Taking by index is several times faster than by mask.
    return values if keep is None else values.take(keep, axis=0)


def _float32(values: NDArray[Any]) -> F32:
    if values.flags.aligned and values.dtype == np.float32:
        return values
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.float32)


def _rings(values: NDArray[Any]) -> U16:
    if values.flags.aligned and values.dtype == np.uint16:
        return values
    if not np.can_cast(values.dtype, np.uint16):
        # NaN fails the comparisons.
        whole = (values >= 0) & (values <= 65535) & (values == np.floor(values))
        if not whole.all():
            raise InputRejected("ring is not a whole number in 0..65535")
    return values.astype(np.uint16)


def _seconds(values: NDArray[Any], stamp_ns: int) -> F32 | None:
    """Seconds after the stamp (N,), or None if the times are of another clock or not finite."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        return None
    if not len(values):
        return np.zeros(0, np.float32)
    if values.dtype.itemsize < 8:
        return _float32(values) if values.dtype.kind == "f" else _float32(values / NS)
    if values.dtype.kind == "u":
        # uint64 wraps around, so the difference of two that are close is right as int64.
        offset = (values.astype(np.uint64) - np.uint64(stamp_ns)).view(np.int64)
        seconds = offset / NS
    else:
        seconds = _nearest(values.astype(np.float64), stamp_ns)
    return seconds.astype(np.float32) if np.abs(seconds).max() <= _MAX_OFFSET_S else None


def _nearest(values: NDArray[np.float64], stamp_ns: int) -> NDArray[np.float64]:
    """Float64 times read as what makes them nearest to the stamp."""
    # Within a second: relative, also where the clock of a simulation has only just started.
    if np.abs(values).max() <= 1.0:
        return values
    readings = [values]
    for per_second in (1, 10**6, 10**9):
        readings.append((values - stamp_ns * (per_second / NS)) / per_second)
    return min(readings, key=lambda r: float(np.abs(r).max()))
