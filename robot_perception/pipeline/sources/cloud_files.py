"""PCD and PLY files by Open3D, after a check that they hold what their headers claim.

Open3D gives points that were never read where a file is cut, and allocates whatever is claimed.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from robot_perception.core.errors import InputRejected
from robot_perception.core.types import F32

_MAX_HEADER_BYTES = 2**16
_PLY_SIZES = {
    **dict.fromkeys(("char", "uchar", "int8", "uint8"), 1),
    **dict.fromkeys(("short", "ushort", "int16", "uint16"), 2),
    **dict.fromkeys(("int", "uint", "float", "int32", "uint32", "float32"), 4),
    **dict.fromkeys(("double", "float64"), 8),
}


def read_cloud(path: Path, data: bytes, max_points: int) -> tuple[F32, F32 | None]:
    """Positions (N, 3) and intensity (N,) or None, from `path` whose content is `data`.

    Raises InputRejected for a file that is cut, no cloud, or claims more than `max_points`.
    """
    try:
        count = _ply_count(data) if path.suffix.lower() == ".ply" else _pcd_count(data)
    except (ValueError, KeyError, IndexError, struct.error) as error:
        raise InputRejected(f"{path.name} has no valid header") from error
    if count is None:
        raise InputRejected(f"{path.name} is cut")
    if not 0 <= count <= max_points:
        raise InputRejected(f"{path.name} claims {count} points")
    # Imported where it is needed: it takes a second.
    import open3d

    try:
        with open3d.utility.VerbosityContextManager(open3d.utility.VerbosityLevel.Error):
            cloud = open3d.t.io.read_point_cloud(path)
        xyz = cloud.point["positions"].numpy() if "positions" in cloud.point else np.zeros((0, 3))
        intensity = cloud.point["intensity"].numpy() if "intensity" in cloud.point else None
    except RuntimeError as error:
        raise InputRejected(f"{path.name} is no point cloud") from error
    if len(xyz) != count:
        raise InputRejected(f"{path.name} has {len(xyz)} points where {count} are claimed")
    values = None if intensity is None else intensity.reshape(-1).astype(np.float32)
    return xyz.astype(np.float32), values


def _ply_count(data: bytes) -> int | None:
    """Vertices of a PLY; None if they are not all there."""
    head, end, _ = data[:_MAX_HEADER_BYTES].partition(b"end_header\n")
    if not end:
        head, end, _ = data[:_MAX_HEADER_BYTES].partition(b"end_header\r\n")
    lines = [line.split() for line in head.decode("ascii").splitlines() if line.strip()]
    if not end or lines[0] != ["ply"]:
        raise ValueError("no PLY header")
    start = len(head) + len(end)
    form = {words[0]: words[1] for words in lines[1:] if len(words) > 1}["format"]
    elements = [i for i, words in enumerate(lines) if words[0] == "element"]
    # The vertices come first in every file that holds a cloud.
    if lines[elements[0]][1] != "vertex":
        raise ValueError("the vertices are not the first element")
    count = int(lines[elements[0]][2])
    last = elements[1] if len(elements) > 1 else len(lines)
    properties = [w for w in lines[elements[0] : last] if w[0] == "property"]
    row = sum(_PLY_SIZES[words[1]] for words in properties)
    return count if _is_whole(data, start, count, row, form == "ascii") else None


def _pcd_count(data: bytes) -> int | None:
    """Points of a PCD; None if they are not all there."""
    head, sign, rest = data[:_MAX_HEADER_BYTES].partition(b"\nDATA ")
    form, newline, _ = rest.partition(b"\n")
    if not sign or not newline:
        raise ValueError("no PCD header")
    start = len(head) + len(sign) + len(form) + 1
    lines = (line.split() for line in head.decode("ascii").splitlines())
    fields = {words[0]: words[1:] for words in lines if words}
    count = int(fields["POINTS"][0])
    sizes = [int(size) for size in fields["SIZE"]]
    counts = [int(n) for n in fields.get("COUNT", ["1"] * len(sizes))]
    row = sum(size * n for size, n in zip(sizes, counts, strict=True))
    if form.strip() == b"binary_compressed":
        packed, plain = struct.unpack_from("<II", data, start)
        return count if len(data) >= start + 8 + packed and plain == row * count else None
    return count if _is_whole(data, start, count, row, form.strip() == b"ascii") else None


def _is_whole(data: bytes, start: int, count: int, row_bytes: int, ascii_text: bool) -> bool:
    if ascii_text:
        return len(data[start:].split(b"\n", count)) > count or (
            # The last line may lack its end.
            len(data[start:].splitlines()) == count
        )
    return len(data) - start >= count * row_bytes
