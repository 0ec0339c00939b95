"""The decoder and encoder of messages: well-formed ones, named malformed ones, both libraries."""

from __future__ import annotations

import array
import struct
import zlib
from dataclasses import fields as dataclass_fields
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_typestore
from scipy.spatial.transform import Rotation

from robot_perception.core.errors import InputRejected
from robot_perception.core.types import CameraInfo, Frame, ImageFrame, Odometry, Scan
from robot_perception.pipeline.messages import TYPESTORE, rosbags_factory, serialize
from robot_perception.wire import (
    decode,
    decode_camera_info,
    decode_cloud,
    decode_compressed_image,
    decode_image,
    decode_odometry,
    encode_array_image,
    encode_cloud,
    encode_clouds,
    encode_frame,
    encode_rgb,
    header,
)

STAMP_NS = 1_700_000_000_123_456_789
MAKE = rosbags_factory


def rng() -> np.random.Generator:
    return np.random.default_rng(1)


def image(encoding: str, rows: np.ndarray, width: int, height: int, **changes: Any) -> Any:
    """A sensor_msgs/Image of `rows` (height, step) uint8."""
    message = MAKE(
        "sensor_msgs/msg/Image",
        header=header(MAKE, STAMP_NS, "camera"),
        height=height,
        width=width,
        encoding=encoding,
        step=rows.shape[1],
        data=rows.reshape(-1),
    )
    return changed(message, **changes)


def changed(message: Any, **changes: Any) -> Any:
    """The same message as a plain object, with other values: the decoder reads attributes only."""
    values = {f.name: getattr(message, f.name) for f in dataclass_fields(message)}
    return SimpleNamespace(**(values | changes))


def cloud(dtype: Any, points: np.ndarray, **changes: Any) -> Any:
    """A PointCloud2 of a structured array."""
    dtype = np.dtype(dtype)
    numbers = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 8}
    big = any(dtype[name].base.byteorder == ">" for name in dtype.names)
    message = MAKE(
        "sensor_msgs/msg/PointCloud2",
        header=header(MAKE, STAMP_NS, "lidar"),
        height=1,
        width=len(points),
        fields=[
            SimpleNamespace(
                name=name,
                offset=dtype.fields[name][1],
                datatype=numbers[dtype[name].base.str[1:]],
                count=int(np.prod(dtype[name].shape, dtype=int)),
            )
            for name in dtype.names
        ],
        is_bigendian=big,
        point_step=dtype.itemsize,
        row_step=dtype.itemsize * len(points),
        data=np.frombuffer(points.tobytes(), np.uint8),
        is_dense=True,
    )
    return changed(message, **changes)


XYZI = [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4")]


def xyzi(n: int = 6) -> Any:
    points = np.zeros(n, XYZI)
    for name in ("x", "y", "z", "intensity"):
        points[name] = rng().normal(size=n)
    return cloud(XYZI, points)


def positions(points: np.ndarray) -> np.ndarray:
    return np.stack([points["x"], points["y"], points["z"]], axis=1).astype(np.float32)


def same(a: Frame, b: Frame) -> None:
    assert type(a) is type(b)
    for field in dataclass_fields(a):
        left, right = getattr(a, field.name), getattr(b, field.name)
        if isinstance(left, np.ndarray):
            assert left.dtype == right.dtype and left.shape == right.shape, field.name
            assert left.tobytes() == right.tobytes(), field.name
        else:
            assert left == right, field.name


# Images


def test_rgb8_is_a_view_even_with_padded_rows() -> None:
    rows = rng().integers(0, 256, (4, 20), np.uint8)
    message = image("rgb8", rows, 5, 4)
    frame = decode_image(message)
    assert (frame.stamp_ns, frame.frame_id) == (STAMP_NS, "camera")
    assert np.shares_memory(frame.rgb, message.data)
    assert not frame.rgb.flags.writeable
    np.testing.assert_array_equal(frame.rgb, rows[:, :15].reshape(4, 5, 3))


@pytest.mark.parametrize(
    "wrap", [bytes, bytearray, memoryview, list, lambda b: array.array("B", b)]
)
def test_every_kind_of_buffer(wrap: Any) -> None:
    rows = rng().integers(0, 256, (4, 15), np.uint8)
    frame = decode_image(image("rgb8", rows, 5, 4, data=wrap(rows.tobytes())))
    np.testing.assert_array_equal(frame.rgb, rows.reshape(4, 5, 3))


_ORDERS = {
    "rgb": [0, 1, 2],
    "bgr": [2, 1, 0],
    "rgba": [0, 1, 2, 3],
    "bgra": [2, 1, 0, 3],
    "UC3": [2, 1, 0],
    "UC4": [2, 1, 0, 3],
}


@pytest.mark.parametrize(
    ("encoding", "order"),
    [(f"{k}8", v) for k, v in _ORDERS.items() if "UC" not in k]
    + [(f"8{k}", v) for k, v in _ORDERS.items() if "UC" in k],
)
def test_eight_bit_colour(encoding: str, order: list[int]) -> None:
    rgba = rng().integers(0, 256, (4, 6, 4), np.uint8)
    stored = rgba[:, :, order]
    padded = np.pad(stored.reshape(4, -1), ((0, 0), (0, 3)))
    frame = decode_image(image(encoding, padded, 6, 4))
    np.testing.assert_array_equal(frame.rgb, rgba[:, :, :3])


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("encoding", ["rgb16", "bgr16", "rgba16", "bgra16", "16UC3", "16UC4"])
def test_sixteen_bit_colour(encoding: str, big: bool) -> None:
    rgba = rng().integers(0, 65536, (4, 6, 4), np.uint16)
    key = encoding.removesuffix("16") if encoding.endswith("16") else encoding.removeprefix("16")
    stored = rgba[:, :, _ORDERS[key]].astype(">u2" if big else "<u2")
    rows = np.frombuffer(stored.tobytes(), np.uint8).reshape(4, -1)
    frame = decode_image(image(encoding, np.pad(rows, ((0, 0), (0, 1))), 6, 4, is_bigendian=big))
    np.testing.assert_array_equal(frame.rgb, np.round(rgba[:, :, :3] / 257))


@pytest.mark.parametrize("encoding", ["mono8", "8UC1", "mono16", "16UC1"])
def test_grey(encoding: str) -> None:
    deep = "16" in encoding
    grey = rng().integers(0, 65536 if deep else 256, (4, 6)).astype("<u2" if deep else "u1")
    rows = grey.view(np.uint8).reshape(4, -1)
    expected = np.round(grey / 257) if deep else grey
    np.testing.assert_array_equal(
        decode_image(image(encoding, rows, 6, 4)).rgb, np.stack([expected] * 3, axis=2)
    )


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_mosaic_of_one_colour_gives_that_colour(pattern: str, deep: bool) -> None:
    colour = {"r": 200, "g": 90, "b": 30}
    cell = np.array([[colour[c] for c in pattern[:2]], [colour[c] for c in pattern[2:]]])
    mosaic = np.tile(cell, (4, 5)).astype(np.uint8)
    if deep:
        mosaic = (mosaic.astype(">u2") * 257).astype(">u2").view(np.uint8)
    message = image(f"bayer_{pattern}{16 if deep else 8}", mosaic, 10, 8, is_bigendian=deep)
    rgb = decode_image(message).rgb
    assert (rgb == (200, 90, 30)).all()


def test_yuv_layouts_of_one_colour_agree() -> None:
    """Every YUV encoding of the same colour, with padded rows, gives the same RGB."""
    y, u, v = 120, 90, 200
    width, height = 6, 4

    def padded(rows: list[list[int]]) -> np.ndarray:
        return np.pad(np.array(rows, np.uint8), ((0, 0), (0, 2)))

    packed = {
        "uyvy": [u, y, v, y],
        "yuv422": [u, y, v, y],
        "yuyv": [y, u, y, v],
        "yuv422_yuy2": [y, u, y, v],
    }
    messages = {
        name: image(name, padded([cell * (width // 2)] * height), width, height)
        for name, cell in packed.items()
    }
    luma = [[y] * width] * height
    for name, pair in (("nv12", [u, v]), ("nv21", [v, u])):
        chroma = [pair * (width // 2)] * (height // 2)
        messages[name] = image(name, padded(luma + chroma), width, height)
    # In nv24 a row of chroma is two steps long.
    data = np.concatenate(
        [
            padded(luma).reshape(-1),
            np.pad(np.array([[u, v] * width] * height, np.uint8), ((0, 0), (0, 4))).reshape(-1),
        ]
    )
    messages["nv24"] = image("nv24", padded(luma), width, height, data=data)
    # BT.601, limited range, by hand.
    expected = (
        1.164383 * (y - 16) + 1.596027 * (v - 128),
        1.164383 * (y - 16) - 0.391762 * (u - 128) - 0.812968 * (v - 128),
        1.164383 * (y - 16) + 2.017232 * (u - 128),
    )
    for name, message in messages.items():
        rgb = decode_image(message).rgb
        assert rgb.shape == (height, width, 3), name
        assert np.abs(rgb - np.array(expected)).max() <= 1.0, name


IMAGE = image("rgb8", np.zeros((4, 15), np.uint8), 5, 4)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"encoding": "hsv8"}, "encoding 'hsv8'"),
        ({"encoding": "32FC1"}, "encoding '32FC1'"),
        ({"encoding": 7}, "encoding is not a string"),
        ({"data": np.zeros(59, np.uint8)}, "59 bytes of data where 60"),
        ({"data": np.zeros(0, np.uint8)}, "0 bytes of data"),
        ({"data": np.zeros(60, np.float32)}, "items of 4 bytes"),
        ({"data": None}, "not a buffer"),
        ({"data": [256] * 60}, "malformed"),
        ({"step": 14}, "step 14 is shorter"),
        ({"step": 0}, "step 0 is shorter"),
        ({"width": 0}, "empty image"),
        ({"height": 0}, "empty image"),
        ({"width": 2**32 - 1, "height": 2**32 - 1}, "over the limit"),
        ({"step": 2**32 - 1}, "are claimed"),
        ({"width": -5}, "outside uint32"),
        ({"width": 5.0}, "not an integer"),
        ({"encoding": "yuyv", "step": 15}, "odd width"),
        ({"encoding": "nv12"}, "odd size"),
        ({"encoding": "bayer_rggb8", "width": 2}, "at least 3 x 3"),
        ({"header": None}, "no attribute stamp"),
        ({"header": header(MAKE, -1, "camera")}, "stamp is invalid"),
    ],
)
def test_malformed_image(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputRejected, match=reason):
        decode_image(changed(MAKE("sensor_msgs/msg/Image"), **(vars(IMAGE) | changes)))


def test_image_over_the_limit_and_bytes_after_the_image() -> None:
    with pytest.raises(InputRejected, match="over the limit of 59"):
        decode_image(IMAGE, 59)
    longer = SimpleNamespace(**(vars(IMAGE) | {"data": np.zeros(4096, np.uint8)}))
    assert decode_image(longer).rgb.shape == (4, 5, 3)


def compressed(layout: str, data: Any) -> Any:
    return SimpleNamespace(header=header(MAKE, STAMP_NS, "camera"), format=layout, data=data)


def picture() -> np.ndarray:
    u, v = np.meshgrid(np.arange(40), np.arange(24))
    return np.stack([5 * u, 8 * v, 255 - 5 * u], axis=2).astype(np.uint8)


def encoded(extension: str, rgb: np.ndarray) -> bytes:
    return cv2.imencode(extension, np.ascontiguousarray(rgb[..., ::-1]))[1].tobytes()


def test_compressed_images() -> None:
    rgb = picture()
    png = decode_compressed_image(compressed("rgb8; png compressed bgr8", encoded(".png", rgb)))
    np.testing.assert_array_equal(png.rgb, rgb)
    for layout in ("jpeg", "bgr8; jpeg compressed bgr8", ""):
        jpeg = decode_compressed_image(compressed(layout, encoded(".jpg", rgb)))
        assert jpeg.rgb.shape == rgb.shape
        assert np.abs(jpeg.rgb.astype(int) - rgb).mean() < 4
    assert (png.stamp_ns, png.frame_id) == (STAMP_NS, "camera")


def test_a_mosaic_compressed_as_it_is() -> None:
    mosaic = np.tile(np.array([[200, 90], [90, 30]], np.uint8), (4, 5))
    data = cv2.imencode(".png", mosaic)[1].tobytes()
    rgb = decode_compressed_image(compressed("bayer_rggb8; png compressed ", data)).rgb
    assert (rgb == (200, 90, 30)).all()


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body + chunk(b"IEND", b"")


def jpeg_claiming(width: int, height: int) -> bytes:
    data = bytearray(encoded(".jpg", picture()))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


PNG, JPEG = encoded(".png", picture()), encoded(".jpg", picture())


@pytest.mark.parametrize(
    ("layout", "data", "reason"),
    [
        ("16UC1; compressedDepth png", PNG, "compressedDepth"),
        ("jpeg", b"", "neither JPEG nor PNG"),
        ("jpeg", b"GIF89a" + bytes(100), "neither JPEG nor PNG"),
        ("jpeg", JPEG[: len(JPEG) // 2], "cut off"),
        ("jpeg", JPEG[:40], "frame header"),
        ("jpeg", b"\xff\xd8", "frame header"),
        ("jpeg", JPEG[:-2] + b"\xff\xda" * 101 + b"\xff\xd9", "scans"),
        ("png", PNG[: len(PNG) // 2], "cut off"),
        ("png", PNG[:20], "without a header"),
        ("png", PNG[:60] + bytes(20) + PNG[80:], "broken"),
        ("png", png_claiming(65_000, 65_000), "over the limit"),
        ("png", png_claiming(2**31, 2**31), "over the limit"),
        ("png", png_claiming(0, 5), "empty"),
        ("jpeg", jpeg_claiming(65_000, 65_000), "over the limit"),
    ],
)
def test_malformed_compressed_image(
    layout: str, data: bytes, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "limit" in reason:
        monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded before the check"))
    with pytest.raises(InputRejected, match=reason):
        decode_compressed_image(compressed(layout, data))


# Clouds


def test_float32_cloud_is_a_view() -> None:
    message = xyzi()
    scan = decode_cloud(message)
    assert scan.xyz.shape == (6, 3) and scan.xyz.dtype == np.float32
    assert scan.intensity is not None
    assert np.shares_memory(scan.xyz, message.data)
    assert np.shares_memory(scan.intensity, message.data)
    assert not scan.xyz.flags.writeable and not scan.intensity.flags.writeable
    points = message.data.view(XYZI)
    np.testing.assert_array_equal(scan.xyz, positions(points))
    np.testing.assert_array_equal(scan.intensity, points["intensity"])
    assert (scan.ring, scan.time_s, scan.dropped) == (None, None, 0)
    assert (scan.stamp_ns, scan.frame_id) == (STAMP_NS, "lidar")


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_any_field_order_padding_and_endianness(order: str, kind: str) -> None:
    dtype = np.dtype(
        {
            "names": ["ring", "z", "i", "x", "normals", "y"],
            "formats": [
                f"{order}u2",
                order + kind,
                "u1",
                order + kind,
                (f"{order}f4", 3),
                order + kind,
            ],
            "offsets": [1, 3, 12, 13, 21, 35],
            "itemsize": 47,
        }
    )
    points = np.zeros(8, dtype)
    for name in ("x", "y", "z"):
        points[name] = rng().normal(size=8)
    points["ring"], points["i"] = range(1000, 1008), range(8)
    message = cloud(dtype, points)
    scan = decode_cloud(message)
    np.testing.assert_array_equal(scan.xyz, positions(points))
    assert scan.ring is not None and scan.ring.dtype == np.uint16
    assert scan.ring.tolist() == list(range(1000, 1008))
    assert scan.intensity is not None and scan.intensity.dtype == np.float32
    assert scan.intensity.tolist() == list(range(8))
    assert scan.xyz.dtype.isnative
    same(scan, decode_cloud(message))  # decoding changes nothing in the message


def test_organised_cloud_with_padded_rows() -> None:
    points = np.zeros((2, 3), XYZI)
    points["x"] = [[1, 2, 3], [4, 5, 6]]
    rows = np.pad(points.view(np.uint8).reshape(2, -1), ((0, 0), (0, 7)), constant_values=255)
    message = cloud(XYZI, points.reshape(-1), height=2, width=3, row_step=55, data=rows.tobytes())
    assert decode_cloud(message).xyz[:, 0].tolist() == [1, 2, 3, 4, 5, 6]
    # The padding after the last row may be missing, and there may be more bytes than needed.
    message.data = rows.tobytes()[:-7]
    assert decode_cloud(message).xyz[:, 0].tolist() == [1, 2, 3, 4, 5, 6]
    message.data = rows.tobytes() + bytes(4096)
    assert decode_cloud(message).xyz[:, 0].tolist() == [1, 2, 3, 4, 5, 6]


def test_points_without_return_are_dropped_and_counted() -> None:
    """NaN and Inf in a cloud that says it is dense; a float64 too large for float32 is Inf."""
    dtype = [("x", "<f8"), ("y", "<f8"), ("z", "<f8"), ("ring", "<f4"), ("t", "<u4")]
    points = np.zeros(6, dtype)
    points["x"] = [1, np.nan, 3, np.inf, 5, 1e39]
    points["ring"] = [0, np.nan, 2, 3, 4, -7]
    points["t"] = [0, 1, 2_000_000, 3, 4_000_000, 5]
    scan = decode_cloud(cloud(dtype, points))
    assert scan.dropped == 3
    assert scan.xyz[:, 0].tolist() == [1, 3, 5]
    assert scan.ring is not None and scan.ring.tolist() == [0, 2, 4]
    assert scan.time_s is not None
    np.testing.assert_allclose(scan.time_s, [0, 0.002, 0.004], rtol=1e-6)


_T = np.array([-0.05, 0.0, 0.05])
_UNTIL_END = (STAMP_NS % 10**9) / 1e9


@pytest.mark.parametrize(
    ("name", "kind", "values"),
    [
        ("t", "<u4", _T * 1e9 + 5e7),
        ("offset_time", "<u4", _T * 1e9 + 5e7),
        ("time", "<f4", _T),
        ("timestamp", "<f8", _T),
        ("timestamp", "<f8", _T + STAMP_NS / 1e9),
        ("time_stamp", "<f8", _T * 1e6 + STAMP_NS / 1e3),
        ("timestamp", "<f8", _T * 1e9 + STAMP_NS),
        ("timestamp", ("<u4", 2), (_T * 1e9).astype(np.int64) + STAMP_NS),
        ("t", "<i4", _T * 1e9),
    ],
)
def test_time_of_each_point(name: str, kind: Any, values: np.ndarray) -> None:
    points = np.zeros(3, [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), (name, kind)])
    points[name] = values.view("<u4").reshape(3, 2) if isinstance(kind, tuple) else values
    scan = decode_cloud(cloud(points.dtype, points))
    assert scan.time_s is not None and scan.time_s.dtype == np.float32
    shift = 0.05 if kind == "<u4" else 0.0
    np.testing.assert_allclose(scan.time_s, _T + shift, atol=1e-6)


@pytest.mark.parametrize("first", [STAMP_NS / 1e9 + 37.0, 1234.5, np.nan])
def test_time_of_another_clock_is_not_known(first: float) -> None:
    points = np.zeros(3, [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("timestamp", "<f8")])
    points["timestamp"] = first + _T
    assert decode_cloud(cloud(points.dtype, points)).time_s is None


def test_time_of_a_simulation_that_has_just_started() -> None:
    points = np.zeros(3, [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("time", "<f8")])
    points["time"] = [-0.1, -0.05, 0.0]
    message = cloud(points.dtype, points, header=header(MAKE, 100_000_000, "lidar"))
    time_s = decode_cloud(message).time_s
    assert time_s is not None
    np.testing.assert_allclose(time_s, [-0.1, -0.05, 0.0])


def test_no_points() -> None:
    scan = decode_cloud(MAKE("sensor_msgs/msg/PointCloud2"))
    assert scan.xyz.shape == (0, 3) and scan.intensity is None
    scan = decode_cloud(cloud(XYZI, np.zeros(0, XYZI)))
    assert scan.xyz.shape == (0, 3) and scan.intensity is not None and scan.dropped == 0
    all_nan = np.full(5, np.nan, XYZI)
    assert decode_cloud(cloud(XYZI, all_nan)).dropped == 5


def with_field(index: int, **changes: Any) -> dict[str, Any]:
    described = [SimpleNamespace(**vars(f)) for f in xyzi().fields]
    described[index].__dict__.update(changes)
    return {"fields": described}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"width": 2**32 - 1, "height": 2**32 - 1}, "over the limit|claimed|shorter"),
        ({"height": 2**32 - 1}, "over the limit"),
        ({"row_step": 2**32 - 1, "height": 2**20}, "over the limit"),
        ({"width": 2**28, "row_step": 2**32 - 16, "height": 1}, "over the limit"),
        ({"point_step": 2**32 - 1}, "shorter than a row"),
        ({"width": 2**20, "row_step": 2**24, "height": 1}, "are claimed"),
        ({"data": np.zeros(95, np.uint8)}, "95 bytes of data where 96"),
        ({"row_step": 0}, "shorter than a row"),
        ({"point_step": 0}, "beyond point_step"),
        ({"point_step": 15}, "beyond point_step"),
        (with_field(0, datatype=0), "unknown datatype 0"),
        (with_field(3, datatype=9), "unknown datatype 9"),
        (with_field(2, offset=13), "beyond point_step"),
        (with_field(3, offset=2**32 - 1), "beyond point_step"),
        (with_field(3, count=2**32 - 1), "beyond point_step"),
        (with_field(3, name="x"), "'x' appears twice"),
        (with_field(1, offset=2), "'x' and 'y' overlap"),
        (with_field(3, offset=8), "overlap"),
        (with_field(0, count=2), "no scalar field x"),
        (with_field(0, name="X"), "no scalar field x"),
        (with_field(0, name=None), "field name is not a string"),
        ({"fields": []}, "no scalar field x, y, z"),
        ({"fields": None}, "malformed"),
        (with_field(3, name="ring"), "ring is not a whole number"),
        ({"data": np.zeros((6, 16), np.uint16)}, "items of 2 bytes"),
        ({"header": SimpleNamespace(stamp=None, frame_id="")}, "no attribute"),
    ],
)
def test_malformed_cloud(changes: dict[str, Any], reason: str) -> None:
    message = SimpleNamespace(**(vars(xyzi()) | changes))
    with pytest.raises(InputRejected, match=reason):
        decode_cloud(message)


def test_cloud_over_the_limit() -> None:
    with pytest.raises(InputRejected, match="over the limit of 95"):
        decode_cloud(xyzi(), 95)


# Motion


def odometry(q: Any, position: Any = (1.0, 2.0, 3.0)) -> Any:
    point = MAKE("geometry_msgs/msg/Point", **dict(zip("xyz", position, strict=True)))
    turn = MAKE("geometry_msgs/msg/Quaternion", **dict(zip("xyzw", q, strict=True)))
    pose = MAKE("geometry_msgs/msg/Pose", position=point, orientation=turn)
    return MAKE(
        "nav_msgs/msg/Odometry",
        header=header(MAKE, STAMP_NS, "odom"),
        child_frame_id="base_link",
        pose=MAKE("geometry_msgs/msg/PoseWithCovariance", pose=pose),
    )


@pytest.mark.parametrize("scale", [1.0, -3.0, 1e-200, 1e200])
def test_odometry_is_normalised(scale: float) -> None:
    q = Rotation.from_euler("zyx", [0.3, -0.2, 2.5]).as_quat()
    frame = decode_odometry(odometry(q * scale))
    expected = np.eye(4)
    expected[:3, :3] = Rotation.from_quat(q).as_matrix()
    expected[:3, 3] = 1, 2, 3
    np.testing.assert_allclose(frame.pose, expected, atol=1e-11)
    assert (frame.frame_id, frame.child_frame_id) == ("odom", "base_link")


@pytest.mark.parametrize(
    ("q", "position", "reason"),
    [
        ((0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0), "zero quaternion"),
        ((np.nan, 0.0, 0.0, 1.0), (0.0, 0.0, 0.0), "orientation is not finite"),
        ((0.0, 0.0, 0.0, 1.0), (0.0, np.inf, 0.0), "position is not finite"),
    ],
)
def test_malformed_odometry(q: Any, position: Any, reason: str) -> None:
    with pytest.raises(InputRejected, match=reason):
        decode_odometry(odometry(q, position))


def camera_info(**changes: Any) -> Any:
    k = np.array([700.0, 0, 600, 0, 710, 180, 0, 0, 1])
    message = MAKE(
        "sensor_msgs/msg/CameraInfo",
        header=header(MAKE, STAMP_NS, "camera"),
        width=1242,
        height=376,
        k=k,
        d=np.array([0.1, -0.2, 0, 0, 0]),
        distortion_model="plumb_bob",
    )
    return changed(message, **changes)


def test_camera_info_with_region_of_interest_and_binning() -> None:
    info = decode_camera_info(camera_info())
    assert (info.width, info.height, info.distortion_model) == (1242, 376, "plumb_bob")
    assert info.k.tolist() == [[700, 0, 600], [0, 710, 180], [0, 0, 1]]
    assert info.d.tolist() == [0.1, -0.2, 0, 0, 0]
    roi = MAKE("sensor_msgs/msg/RegionOfInterest", x_offset=100, y_offset=80, width=800, height=200)
    info = decode_camera_info(camera_info(roi=roi, binning_x=2, binning_y=1))
    assert (info.width, info.height) == (400, 200)
    assert info.k.tolist() == [[350, 0, 250], [0, 710, 100], [0, 0, 1]]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"k": np.zeros(9)}, "not calibrated"),
        ({"k": np.zeros(8)}, "8 numbers, not 9"),
        ({"k": np.full(9, np.nan)}, "k is not finite"),
        ({"k": np.eye(3).reshape(-1) * 2}, "not a camera matrix"),
        ({"d": [np.inf]}, "d is not finite"),
        ({"width": 0}, "without an image size"),
        ({"binning_x": 5000}, "binning"),
    ],
)
def test_malformed_camera_info(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputRejected, match=reason):
        decode_camera_info(camera_info(**changes))


def test_ros1_camera_info_has_capitals() -> None:
    store = get_typestore(Stores.ROS1_NOETIC)
    ours = camera_info()
    assert "K" in dict(store.fielddefs["sensor_msgs/msg/CameraInfo"][1])
    values = {n.upper() if n in "dkrp" else n: v for n, v in vars(ours).items()}
    old = SimpleNamespace(**values)
    same(decode_camera_info(old), decode_camera_info(ours))


# There and back


def frames() -> list[Frame]:
    random = rng()
    turn = decode_odometry(odometry(random.normal(size=4)))
    points = random.normal(size=(50, 3)).astype(np.float32)
    full = Scan(
        STAMP_NS,
        "lidar",
        points,
        random.random(50, np.float32),
        random.integers(0, 128, 50, np.uint16),
        random.random(50, np.float32),
        dropped=7,
    )
    return [
        ImageFrame(STAMP_NS, "camera", random.integers(0, 256, (7, 5, 3), np.uint8)),
        Scan(STAMP_NS, "lidar", points),
        full,
        Scan(STAMP_NS, "lidar", points[:0], ring=np.zeros(0, np.uint16)),
        decode_camera_info(camera_info()),
        CameraInfo(0, "", 640, 480, np.diag([500.0, 500.0, 1.0]), np.zeros(0), ""),
        turn,
        Odometry(STAMP_NS, "odom", "base_link", np.eye(4)),
    ]


@pytest.mark.parametrize("index", range(8))
def test_decode_of_encode_is_the_same(index: int) -> None:
    frame = frames()[index]
    type_name, message = encode_frame(MAKE, frame)
    same(decode(message, type_name), frame)
    # The same through the bytes of a recording.
    again = TYPESTORE.deserialize_cdr(serialize(message), type_name)
    same(decode(again, type_name), frame)


def test_clouds_of_several_parts() -> None:
    """Longer than what is copied at a time, none, one value for all points, and a field of its own
    size."""
    parts = []
    for i, count in enumerate((10_001, 0, 3)):
        xyz = rng().random((count, 3), np.float32)
        kinds = rng().integers(0, 255, count, np.uint8)
        parts.append((xyz, {"horizon": np.asarray(i, np.float32), "kind": kinds}))
    message = encode_clouds(MAKE, 0, "lidar", parts)
    layout = [("xyz", "<f4", 3), ("horizon", "<f4"), ("kind", "u1"), ("gap", "u1", 3)]
    values = message.data.view(layout)
    np.testing.assert_array_equal(values["xyz"], np.concatenate([xyz for xyz, _ in parts]))
    np.testing.assert_array_equal(values["kind"], np.concatenate([e["kind"] for _, e in parts]))
    assert np.bincount(values["horizon"].astype(int)).tolist() == [10_001, 0, 3]
    assert not values["gap"].any() and message.is_dense
    with pytest.raises(ValueError, match="float64"):
        encode_cloud(MAKE, 0, "", np.zeros((2, 3)))


def test_encoded_scan_is_decoded_without_a_copy() -> None:
    scan = frames()[1]
    assert isinstance(scan, Scan)
    ring = np.arange(len(scan.xyz), dtype=np.uint16)
    message = encode_frame(MAKE, Scan(0, "lidar", scan.xyz, ring=ring))[1]
    decoded = decode_cloud(message)
    assert np.shares_memory(decoded.xyz, message.data)
    assert decoded.ring is not None and np.shares_memory(decoded.ring, message.data)


def test_poses_come_back_to_the_last_bit() -> None:
    """So that a recording played live gives the poses that are read offline."""
    random = rng()
    turns = [*random.normal(size=(1000, 4)), *np.eye(4), *(random.normal(size=(300, 4)) > 0) * 1.0]
    turns += [np.array([0, 0, np.sin(a / 2), np.cos(a / 2)]) for a in np.linspace(0, 6.3, 500)]
    for q in (q for q in turns if np.any(q)):
        first = decode_odometry(odometry(q))
        np.testing.assert_allclose(
            first.pose[:3, :3], Rotation.from_quat(q).as_matrix(), atol=1e-11
        )
        same(decode_odometry(encode_frame(MAKE, first)[1]), first)


def test_label_and_range_images() -> None:
    labels = rng().integers(0, 65536, (3, 5), np.uint16)
    message = encode_array_image(MAKE, 0, "camera", labels, "16UC1")
    assert (message.step, message.is_bigendian) == (10, 0)
    np.testing.assert_array_equal(message.data.view("<u2").reshape(3, 5), labels)
    ranges = rng().random((3, 5), np.float32)
    message = encode_array_image(MAKE, 0, "lidar", ranges.T, "32FC1")
    assert (message.height, message.width, message.step) == (5, 3, 12)
    np.testing.assert_array_equal(message.data.view("<f4").reshape(5, 3), ranges.T)
    with pytest.raises(ValueError, match="16UC1"):
        encode_array_image(MAKE, 0, "camera", ranges, "16UC1")
    with pytest.raises(ValueError, match="uint8 expected"):
        encode_rgb(MAKE, 0, "camera", labels)
    with pytest.raises(ValueError, match="column id"):
        encode_cloud(MAKE, 0, "", np.zeros((2, 3), np.float32), {"id": np.zeros(2, np.int64)})


def test_dispatch_by_type_name() -> None:
    assert isinstance(decode(IMAGE, "sensor_msgs/msg/Image"), ImageFrame)
    with pytest.raises(InputRejected, match="over the limit"):
        decode(IMAGE, "sensor_msgs/msg/Image", 10)
    with pytest.raises(InputRejected, match="std_msgs/msg/String"):
        decode(IMAGE, "std_msgs/msg/String")


def test_unknown_fields_are_not_swallowed() -> None:
    with pytest.raises(AttributeError, match="frame"):
        MAKE("std_msgs/msg/Header", frame="lidar")


# rclpy


def test_rclpy_and_rosbags_messages_decode_alike() -> None:
    rclpy_serialization = pytest.importorskip("rclpy.serialization")
    from robot_perception.ros.messages import message_class, rclpy_factory

    for frame in frames():
        type_name, live = encode_frame(rclpy_factory, frame)
        assert isinstance(live, message_class(type_name))
        data = rclpy_serialization.serialize_message(live)
        same(decode(live, type_name), frame)
        recorded = TYPESTORE.deserialize_cdr(data, type_name)
        same(decode(recorded, type_name), frame)
        received = rclpy_serialization.deserialize_message(data, message_class(type_name))
        same(decode(received, type_name), frame)
        # Both factories make the same message.
        assert serialize(encode_frame(rosbags_factory, frame)[1]) == serialize(recorded)


def test_rclpy_bytes_are_assigned_the_fast_way_and_decoded_without_a_copy() -> None:
    pytest.importorskip("rclpy")
    from robot_perception.ros.messages import rclpy_factory

    rgb = rng().integers(0, 256, (4, 5, 3), np.uint8)
    message = encode_rgb(rclpy_factory, STAMP_NS, "camera", rgb)
    assert isinstance(message.data, array.array) and message.data.typecode == "B"
    assert np.shares_memory(decode_image(message).rgb, np.frombuffer(message.data, np.uint8))


def test_defaults_are_those_of_rclpy() -> None:
    rclpy_serialization = pytest.importorskip("rclpy.serialization")
    from robot_perception.ros.messages import message_class

    compared = 0
    for type_name in TYPESTORE.fielddefs:
        if type_name.split("/")[0] not in (
            "builtin_interfaces",
            "diagnostic_msgs",
            "geometry_msgs",
            "nav_msgs",
            "sensor_msgs",
            "std_msgs",
            "visualization_msgs",
        ):
            continue
        try:
            live = message_class(type_name)()
        except ImportError:
            continue
        data = rclpy_serialization.serialize_message(live)
        try:
            theirs = TYPESTORE.deserialize_cdr(data, type_name)
        except SerdeError:  # an empty sequence of 8-byte numbers at the end, aligned differently
            continue
        assert serialize(theirs) == serialize(rosbags_factory(type_name)), type_name
        compared += 1
    assert compared > 100


def test_agrees_with_sensor_msgs_py_on_well_formed_clouds() -> None:
    point_cloud2 = pytest.importorskip("sensor_msgs_py.point_cloud2")
    from robot_perception.ros.messages import rclpy_factory

    for frame in frames():
        if not isinstance(frame, Scan) or not len(frame.xyz):
            continue
        message = encode_frame(rclpy_factory, frame)[1]
        theirs = point_cloud2.read_points_numpy(message, ["x", "y", "z"], skip_nans=True)
        np.testing.assert_array_equal(theirs, decode_cloud(message).xyz)
