"""Malformed messages by name: what the decoder must say of each.

A reason (a regular expression) means InputRejected; a number, so many valid points; "image", a
valid image. Every defect that was ever found stays here under its name.
"""

from __future__ import annotations

import array
import struct
import zlib
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

IMAGE, CLOUD = "sensor_msgs/msg/Image", "sensor_msgs/msg/PointCloud2"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
UINT32_MAX = 2**32 - 1


@dataclass(frozen=True)
class Case:
    type_name: str
    message: Any
    expected: str | int


def head(sec: Any = 1_700_000_000, nanosec: Any = 5, frame_id: Any = "sensor") -> Any:
    return SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec), frame_id=frame_id)


def field(name: Any, offset: Any, datatype: Any = 7, count: Any = 1) -> Any:
    return SimpleNamespace(name=name, offset=offset, datatype=datatype, count=count)


def points(**changes: Any) -> Any:
    """Six points of x, y, z, intensity, in one row."""
    data = np.arange(24, dtype="<f4").tobytes()
    values = {
        "header": head(),
        "height": 1,
        "width": 6,
        "fields": [field(n, 4 * i) for i, n in enumerate(("x", "y", "z", "intensity"))],
        "is_bigendian": False,
        "point_step": 16,
        "row_step": 96,
        "data": data,
        "is_dense": True,
    }
    return SimpleNamespace(**(values | changes))


def with_field(index: int, **changes: Any) -> Any:
    message = points()
    vars(message.fields[index]).update(changes)
    return message


def with_values(**values: float) -> Any:
    """The first point with these coordinates, in a cloud that claims to be dense."""
    rows = np.arange(24, dtype="<f4").reshape(6, 4)
    for name, value in values.items():
        rows[0, "xyz".index(name)] = value
    return points(data=rows.tobytes())


def picture(**changes: Any) -> Any:
    values = {
        "header": head(),
        "height": 4,
        "width": 5,
        "encoding": "rgb8",
        "is_bigendian": 0,
        "step": 15,
        "data": bytes(60),
    }
    return SimpleNamespace(**(values | changes))


def packed(layout: Any, data: Any) -> Any:
    return SimpleNamespace(header=head(), format=layout, data=data)


_RAMP = np.add.outer(np.arange(24), np.arange(40)).astype(np.uint8)
_RGB = np.stack([_RAMP, 255 - _RAMP, _RAMP], axis=2)
JPEG, PNG = (cv2.imencode(e, _RGB)[1].tobytes() for e in (".jpg", ".png"))
PROGRESSIVE = cv2.imencode(".jpg", _RGB, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int = 8, colour: int = 2, body: bytes = b"") -> bytes:
    start = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    filled = chunk(b"IDAT", zlib.compress(body or bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + start + filled + chunk(b"IEND", b"")


def jpeg_with(offset: int, value: bytes) -> bytes:
    """The JPEG with other bytes in its frame header."""
    data = bytearray(JPEG)
    at = data.index(b"\xff\xc0") + offset
    data[at : at + len(value)] = value
    return bytes(data)


_BIG = np.arange(24, dtype=">f4").tobytes()
_PADDED = np.pad(np.arange(24, dtype="<f4").view(np.uint8).reshape(2, 48), ((0, 0), (0, 16)))
_CLOUDS: dict[str, tuple[Any, str | int]] = {
    "cloud: width x height overflows 64 bits": (
        points(width=UINT32_MAX, height=UINT32_MAX),
        "over the limit|claimed|shorter",
    ),
    "cloud: row_step x height overflows 64 bits": (
        points(row_step=UINT32_MAX, height=UINT32_MAX),
        "over the limit",
    ),
    "cloud: width x point_step wraps around in 32 bits": (
        points(width=2**28, row_step=0),
        "shorter than a row",
    ),
    "cloud: 640 kB claimed, 96 bytes there": (
        points(width=40_000, row_step=640_000),
        "claimed|bytes of data",
    ),
    "cloud: 64 MiB claimed": (points(width=2**22, row_step=2**26), "over the limit"),
    "cloud: point_step 0": (points(point_step=0), "beyond point_step"),
    "cloud: point_step shorter than its fields": (points(point_step=12), "beyond point_step"),
    "cloud: row_step 0": (points(row_step=0), "shorter than a row"),
    "cloud: row_step shorter than its points": (points(row_step=95), "shorter than a row"),
    "cloud: one byte short": (points(data=bytes(95)), "95 bytes"),
    "cloud: no data": (points(data=b""), "0 bytes"),
    "cloud: last row without its padding": (
        points(height=2, width=3, row_step=64, data=_PADDED.reshape(-1)[:112].tobytes()),
        6,
    ),
    "cloud: rows with padding": (
        points(height=2, width=3, row_step=64, data=_PADDED.tobytes()),
        6,
    ),
    "cloud: trailing bytes": (points(data=np.zeros(500, np.uint8).tobytes()), 6),
    "cloud: big-endian": (points(is_bigendian=True, data=_BIG), 6),
    "cloud: datatype 0": (with_field(0, datatype=0), "unknown datatype 0"),
    "cloud: datatype 9": (with_field(3, datatype=9), "unknown datatype 9"),
    "cloud: datatype 255": (with_field(1, datatype=255), "unknown datatype 255"),
    "cloud: datatype is text": (with_field(1, datatype="7"), "not an integer"),
    "cloud: offset beyond the step": (with_field(2, offset=16), "beyond point_step"),
    "cloud: offset of 2^32 - 1": (with_field(2, offset=UINT32_MAX), "beyond point_step"),
    "cloud: field reaches over the step by a byte": (with_field(3, offset=13), "beyond"),
    "cloud: negative offset": (with_field(0, offset=-4), "outside uint32"),
    "cloud: count of 2^32 - 1": (with_field(3, count=UINT32_MAX), "beyond point_step"),
    "cloud: count 0 as PCL writes it": (with_field(3, count=0), 6),
    "cloud: x twice": (with_field(3, name="x"), "appears twice"),
    "cloud: intensity twice": (
        points(fields=[*points().fields, field("intensity", 12)]),
        "appears twice",
    ),
    "cloud: unknown field twice": (
        points(
            fields=[field("x", 0), field("y", 4), field("z", 8), field("a", 12), field("a", 12)]
        ),
        6,
    ),
    "cloud: x over y": (with_field(1, offset=0), "overlap"),
    "cloud: intensity over z": (with_field(3, offset=8), "overlap"),
    "cloud: x has two values": (with_field(0, count=2), "no scalar field x|overlap"),
    "cloud: no z": (with_field(2, name="height"), "no scalar field z"),
    "cloud: no fields": (points(fields=[]), "no scalar field"),
    "cloud: fields are None": (points(fields=None), "malformed"),
    "cloud: field without a name": (with_field(0, name=None), "not a string"),
    "cloud: name of bytes": (with_field(0, name=b"x"), "not a string"),
    "cloud: 5000 fields": (points(fields=[field("a", 0)] * 5000), "5000 fields"),
    "cloud: falsely dense NaN": (with_values(x=np.nan), 5),
    "cloud: falsely dense +Inf": (with_values(y=np.inf), 5),
    "cloud: falsely dense -Inf": (with_values(z=-np.inf), 5),
    "cloud: all NaN": (points(data=np.full(24, np.nan, "<f4").tobytes()), 0),
    "cloud: float64 beyond float32": (
        points(
            fields=[field(n, 8 * i, 8) for i, n in enumerate("xyz")],
            point_step=24,
            row_step=24,
            width=1,
            data=np.array([1e300, 0, 0], "<f8").tobytes(),
        ),
        0,
    ),
    "cloud: zero points, no fields": (
        points(width=0, height=0, fields=[], point_step=0, row_step=0, data=b""),
        0,
    ),
    "cloud: zero points": (points(width=0, row_step=0, data=b""), 0),
    "cloud: zero points, 4 GiB rows": (points(width=0, row_step=UINT32_MAX), "over the limit"),
    "cloud: zero rows of many points": (points(height=0, data=b""), 0),
    "cloud: ring of fractions": (
        points(
            fields=[*points().fields[:3], field("ring", 12)],
            data=np.full(24, 0.5, "<f4").tobytes(),
        ),
        "ring is not",
    ),
    "cloud: ring of NaN": (
        points(
            fields=[*points().fields[:3], field("ring", 12)],
            data=np.array([0, 0, 0, np.nan] * 6, "<f4").tobytes(),
        ),
        "ring is not",
    ),
    "cloud: width of 1.5": (points(width=1.5), "not an integer"),
    "cloud: width -1": (points(width=-1), "outside uint32"),
    "cloud: width is NumPy's": (points(width=np.uint32(6)), 6),
    "cloud: data of two-byte items": (points(data=array.array("H", bytes(96))), "2 bytes"),
    "cloud: data of two dimensions": (points(data=np.zeros((6, 16), np.uint8)), 6),
    "cloud: data of text": (points(data="x" * 96), "not a buffer|malformed"),
    "cloud: every second byte": (points(data=np.zeros(192, np.uint8)[::2]), 6),
    "cloud: stamp before 1970": (points(header=head(sec=-1)), "stamp"),
    "cloud: a second of nanoseconds": (points(header=head(nanosec=10**9)), "stamp"),
    "cloud: stamp of floats": (points(header=head(sec=1.5)), "stamp"),
    "cloud: no header": (points(header=None), "no attribute"),
    "cloud: frame id is a number": (points(header=head(frame_id=3)), "not a string"),
    "cloud: NUL in the frame id": (points(header=head(frame_id="a\0b")), "holds a NUL"),
    "cloud: is_bigendian cannot be told": (
        points(is_bigendian=np.zeros(2)),
        "malformed",
    ),
}
_IMAGES: dict[str, tuple[Any, str | int]] = {
    "image: width x height x step overflows": (
        picture(width=UINT32_MAX, height=UINT32_MAX, step=UINT32_MAX),
        "over the limit",
    ),
    "image: width x 3 wraps around in 32 bits": (
        picture(width=2**32 // 3 + 1, step=2),
        "over the limit|shorter",
    ),
    "image: step of 2^32 - 1": (picture(step=UINT32_MAX), "claimed|over the limit"),
    "image: step 0": (picture(step=0), "shorter"),
    "image: step shorter than a row": (picture(step=14), "shorter"),
    "image: one byte short": (picture(data=bytes(59)), "59 bytes"),
    "image: trailing bytes": (picture(data=bytes(999)), "image"),
    "image: padded rows": (picture(step=32, data=bytes(128)), "image"),
    "image: last row without its padding": (picture(step=32, data=bytes(32 * 3 + 15)), "image"),
    "image: no pixels": (picture(width=0, height=0, step=0, data=b""), "empty"),
    "image: no rows": (picture(height=0), "empty"),
    "image: unknown encoding": (picture(encoding="hsv8"), "encoding"),
    "image: empty encoding": (picture(encoding=""), "encoding"),
    "image: encoding of a megabyte": (picture(encoding="x" * 2**20), "encoding"),
    "image: depth": (picture(encoding="32FC1", step=20, data=bytes(80)), "encoding"),
    "image: encoding is None": (picture(encoding=None), "not a string"),
    "image: odd nv12": (picture(encoding="nv12"), "odd size"),
    "image: odd yuyv": (picture(encoding="yuyv"), "odd width"),
    "image: nv12 without chroma": (
        picture(encoding="nv12", width=4, step=4, data=bytes(16)),
        "bytes of data",
    ),
    "image: Bayer mosaic of one line": (
        picture(encoding="bayer_rggb8", height=1, step=5),
        "3 x 3",
    ),
    "image: 16 bits, big-endian": (
        picture(encoding="rgb16", is_bigendian=1, step=30, data=bytes(120)),
        "image",
    ),
    "image: 16 bits at an odd step": (
        picture(encoding="mono16", step=11, data=bytes(44)),
        "image",
    ),
    "image: data is None": (picture(data=None), "buffer"),
    "image: data of floats": (picture(data=np.zeros(60)), "items of"),
    "image: width is a string": (picture(width="5"), "not an integer"),
    "image: stamp is far in the future": (picture(header=head(sec=2**31 - 1)), "image"),
    "image: stamp beyond int32": (picture(header=head(sec=2**40)), "image|stamp"),
}
_FILES: dict[str, tuple[Any, str | int]] = {
    "jpeg: empty": (packed("jpeg", b""), "neither"),
    "jpeg: magic alone": (packed("jpeg", b"\xff\xd8"), "frame header"),
    "jpeg: cut in the header": (packed("jpeg", JPEG[:40]), "frame header"),
    "jpeg: cut in the middle": (packed("jpeg", JPEG[: len(JPEG) // 2]), "cut off"),
    "jpeg: without its end mark": (packed("jpeg", JPEG[:-2]), "cut off"),
    "jpeg: 65,535 x 65,535 claimed": (packed("jpeg", jpeg_with(5, b"\xff" * 4)), "limit"),
    "jpeg: no rows": (packed("jpeg", jpeg_with(5, b"\0\0")), "empty"),
    "jpeg: no columns": (packed("jpeg", jpeg_with(7, b"\0\0")), "empty"),
    "jpeg: taller than its data": (packed("jpeg", jpeg_with(5, b"\x01\x00")), "broken|image"),
    "jpeg: nine components": (packed("jpeg", jpeg_with(9, b"\x09")), "broken"),
    "jpeg: no components": (packed("jpeg", jpeg_with(9, b"\x00")), "broken"),
    "jpeg: 200 scans": (
        packed("jpeg", PROGRESSIVE[:-2] + b"\xff\xda" * 200 + b"\xff\xd9"),
        "scans",
    ),
    "jpeg: progressive": (packed("jpeg", PROGRESSIVE), "image"),
    "jpeg: segment of length 0": (
        packed("jpeg", b"\xff\xd8\xff\xe0\0\0" + JPEG[2:]),
        "frame header|broken|image",
    ),
    "jpeg: bytes after its end": (packed("jpeg", JPEG + bytes(1000)), "image"),
    "jpeg: called png": (packed("png", JPEG), "image"),
    "jpeg: fill bytes for ever": (packed("jpeg", b"\xff\xd8" + b"\xff" * 5000), "frame header"),
    "png: cut": (packed("png", PNG[: len(PNG) // 2]), "cut off"),
    "png: cut in the header": (packed("png", PNG[:20]), "without a header"),
    "png: 2^31 x 2^31 claimed": (packed("png", png(2**31, 2**31)), "limit"),
    "png: one row of 2^30": (packed("png", png(2**30, 1)), "limit"),
    "png: no pixels": (packed("png", png(0, 0)), "empty"),
    "png: a bomb of zeros": (packed("png", png(30_000, 30_000, 1, 0, bytes(10**6))), "limit"),
    "png: colour type 9": (packed("png", png(8, 8, 8, 9)), "broken"),
    "png: depth of 3 bits": (packed("png", png(8, 8, 3, 2)), "broken"),
    "png: checksum of the header wrong": (
        packed("png", PNG[:29] + b"\0\0\0\0" + PNG[33:]),
        "broken|image",
    ),
    "png: pixels overwritten": (packed("png", PNG[:60] + bytes(20) + PNG[80:]), "broken|image"),
    "png: first chunk is another": (packed("png", PNG[:12] + b"IDAT" + PNG[16:]), "header"),
    "png: a chunk of 3.5 GB claimed": (packed("png", PNG[:33] + b"\xd0" + PNG[34:]), "claims"),
    "png: a chunk of 2^32 - 1 claimed": (
        packed("png", PNG[:33] + b"\xff" * 4 + PNG[37:]),
        "claims",
    ),
    "png: an animation": (
        packed("png", PNG[:33] + chunk(b"acTL", bytes(8)) + PNG[33:]),
        "animation",
    ),
    "png: a million chunks": (
        packed("png", PNG[:33] + chunk(b"tEXt", b"") * 10**6 + PNG[33:]),
        "chunks|limit",
    ),
    "png: compressedDepth": (packed("16UC1; compressedDepth png", PNG), "compressedDepth"),
    "file: GIF": (packed("gif", b"GIF89a" + bytes(50)), "neither"),
    "file: format is None": (packed(None, PNG), "not a string"),
    "file: text": (packed("jpeg", "\xff\xd8"), "buffer|malformed"),
}

CORPUS = {
    name: Case(type_name, message, expected)
    for type_name, group in ((CLOUD, _CLOUDS), (IMAGE, _IMAGES), (COMPRESSED, _FILES))
    for name, (message, expected) in group.items()
}
