"""Whatever comes in: a valid result or InputRejected, and what is valid comes back unchanged."""

from __future__ import annotations

import array
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robot_perception.core.errors import InputRejected
from robot_perception.core.types import CameraInfo, ImageFrame, Odometry, Scan
from robot_perception.pipeline.messages import rosbags_factory
from robot_perception.wire import DECODABLE, decode, decode_cloud, encode_frame
from robot_perception.wire.image import _PACKED

LIMIT = 1 << 20
QUIET = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)

garbage = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=40),
    st.complex_numbers(),
    st.just(object()),
    st.just(np.array(3)),
    st.just(np.zeros((2, 2), np.float16)),
    st.just(np.array([None, "x"], object)),
    st.lists(st.integers(-5, 300), max_size=20),
    st.lists(st.text(max_size=2), max_size=4),
    st.builds(SimpleNamespace, x=st.integers()),
)
number = st.one_of(
    st.integers(0, 20),
    st.sampled_from([2**16, 2**31, 2**32 - 1, 2**32, 2**63, -1]),
)
coordinate = st.one_of(st.floats(), st.floats(-10, 10), st.integers(-3, 3))


def message(**fields: Any) -> Any:
    return st.builds(SimpleNamespace, **fields)


def damaged(valid: Any, paths: list[str]) -> Any:
    """Messages with up to two attributes replaced, by something like them or by garbage."""
    value = st.one_of(garbage, number, coordinate, st.binary(max_size=400))

    def replace(original: Any, changes: list[tuple[str, Any]]) -> Any:
        for path, new in changes:
            *parents, last = path.split(".")
            target = original
            for name in parents:
                if isinstance(target, list):
                    target = {str(i): item for i, item in enumerate(target)}.get(name)
                else:
                    target = getattr(target, name, None)
            if isinstance(target, SimpleNamespace):
                setattr(target, last, new)
        return original

    changes = st.one_of(
        st.just([]), st.lists(st.tuples(st.sampled_from(paths), value), min_size=1, max_size=2)
    )
    return st.builds(replace, valid, changes)


HEAD = ["header", "header.stamp", "header.stamp.sec", "header.stamp.nanosec", "header.frame_id"]
stamp = message(sec=st.integers(0, 2**31 - 1), nanosec=st.integers(0, 10**9 - 1))
head = message(stamp=stamp, frame_id=st.text(max_size=5))


def buffer_of(size: int, seed: int, kind: int) -> Any:
    """Bytes, array.array or every second byte of a NumPy array."""
    content = np.random.default_rng(seed).integers(0, 256, 2 * size, np.uint8)
    if kind == 0:
        return content[:size].tobytes()
    return array.array("B", content[:size].tobytes()) if kind == 1 else content[::2]


def with_data(original: Any, size: int, seed: int, kind: int) -> Any:
    original.data = buffer_of(size, seed, kind)
    return original


images = damaged(
    st.builds(
        with_data,
        message(
            header=head,
            width=st.integers(1, 8),
            height=st.integers(1, 6),
            encoding=st.sampled_from([*_PACKED, "nv12", "nv21", "nv24", "32FC1", "8SC1", ""]),
            is_bigendian=st.integers(0, 1),
            step=st.integers(0, 70),
        ),
        st.integers(0, 1500),
        st.integers(0, 2**32),
        st.integers(0, 2),
    ),
    [*HEAD, "width", "height", "encoding", "is_bigendian", "step", "data"],
)
picture = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
FILES = [
    cv2.imencode(name, p)[1].tobytes()
    for name in (".jpg", ".png")
    for p in (picture, picture[..., 0])
]


def with_bytes_changed(content: bytes, changes: list[tuple[int, int]]) -> bytes:
    changed = bytearray(content)
    for at, value in changes:
        changed[at % len(changed)] = value
    return bytes(changed)


# Up to four bytes changed, most of them in the headers.
position_in_file = st.one_of(st.integers(0, 40), st.integers(0, 2000))
compressed = damaged(
    message(
        header=head,
        format=st.sampled_from(["jpeg", "png", "bayer_rggb8; png compressed", "compressedDepth"]),
        data=st.builds(
            with_bytes_changed,
            st.sampled_from(FILES),
            st.lists(st.tuples(position_in_file, st.integers(0, 255)), max_size=4),
        ),
    ),
    [*HEAD, "format", "data"],
)
names = ["intensity", "i", "ring", "channel", "t", "time", "timestamp", "rgb", "x"]
field = message(
    name=st.sampled_from(names),
    offset=st.integers(12, 28),
    datatype=st.integers(1, 8),
    count=st.integers(0, 2),
)


def cloud(
    base: Any, kind: int, start: int, rest: list[Any], spare: int, seed: int, buffer: int
) -> Any:
    size = {7: 4, 8: 8}[kind]
    base.fields = [
        SimpleNamespace(name=n, offset=start + size * i, datatype=kind, count=1)
        for i, n in enumerate("xyz")
    ] + rest
    base.row_step = base.width * base.point_step + spare
    return with_data(base, base.row_step * base.height, seed, buffer)


clouds = damaged(
    st.builds(
        cloud,
        message(
            header=head,
            width=st.integers(0, 6),
            height=st.integers(0, 3),
            is_bigendian=st.booleans(),
            point_step=st.integers(28, 40),
            is_dense=st.booleans(),
        ),
        st.sampled_from([7, 7, 8]),
        st.integers(0, 3),
        st.lists(field, max_size=3),
        st.integers(0, 5),
        st.integers(0, 2**32),
        st.integers(0, 2),
    ),
    [*HEAD, "width", "height", "fields", "is_bigendian", "point_step", "row_step", "data"]
    + [f"fields.{i}.{name}" for i in (0, 2) for name in ("name", "offset", "datatype", "count")],
)
point = message(x=coordinate, y=coordinate, z=coordinate, w=coordinate)
odometry = damaged(
    message(
        header=head,
        child_frame_id=st.text(max_size=4),
        pose=message(pose=message(position=point, orientation=point)),
    ),
    [
        *HEAD,
        "child_frame_id",
        "pose",
        "pose.pose",
        "pose.pose.position.x",
        "pose.pose.orientation.w",
    ],
)
camera_infos = damaged(
    message(
        header=head,
        width=st.integers(0, 900),
        height=st.integers(1, 900),
        distortion_model=st.text(max_size=4),
        k=st.one_of(st.just([2.0, 0, 1, 0, 2, 1, 0, 0, 1]), st.lists(coordinate, max_size=10)),
        d=st.lists(st.floats(-1, 1), max_size=6),
        roi=message(x_offset=number, y_offset=number, width=number, height=number),
        binning_x=st.integers(0, 4),
        binning_y=st.integers(0, 4),
    ),
    [*HEAD, "width", "height", "distortion_model", "k", "d", "roi", "roi.width", "binning_x"],
)
MESSAGES = {
    "sensor_msgs/msg/Image": images,
    "sensor_msgs/msg/CompressedImage": compressed,
    "sensor_msgs/msg/PointCloud2": clouds,
    "nav_msgs/msg/Odometry": odometry,
    "sensor_msgs/msg/CameraInfo": camera_infos,
}
EXAMPLES = {
    "sensor_msgs/msg/Image": 400,
    "sensor_msgs/msg/CompressedImage": 150,
    "sensor_msgs/msg/PointCloud2": 600,
    "nav_msgs/msg/Odometry": 100,
    "sensor_msgs/msg/CameraInfo": 100,
}


def valid(frame: Any, source: Any) -> None:
    """What core/types.py promises of each type."""
    assert frame.stamp_ns >= 0 and isinstance(frame.frame_id, str)
    if isinstance(frame, ImageFrame):
        assert frame.rgb.dtype == np.uint8 and frame.rgb.shape[2] == 3 and frame.rgb.size
    elif isinstance(frame, Scan):
        n = len(frame.xyz)
        assert n + frame.dropped == source.width * source.height
        assert frame.xyz.shape == (n, 3) and frame.xyz.dtype == np.float32
        assert np.isfinite(frame.xyz).all()
        kinds = ((frame.intensity, "f4"), (frame.ring, "u2"), (frame.time_s, "f4"))
        for values, kind in kinds:
            assert values is None or (values.dtype == np.dtype(kind) and values.shape == (n,))
        assert frame.time_s is None or np.isfinite(frame.time_s).all()
    elif isinstance(frame, Odometry):
        assert np.isfinite(frame.pose).all()
        turn = frame.pose[:3, :3]
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    else:
        assert isinstance(frame, CameraInfo)
        assert frame.width > 0 and frame.height > 0 and frame.k[0, 0] > 0


def check(type_name: str, anything: Any) -> bool:
    """Whether it was accepted; any exception but InputRejected, and any warning, goes through."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            frame = decode(anything, type_name, LIMIT)
        except InputRejected as rejected:
            assert 0 < len(rejected.reason) < 120
            assert not isinstance(rejected.__cause__, Warning)
            return False
        valid(frame, anything)
    return True


def explore(type_name: str, examples: int) -> int:
    """Decode many messages; returns how many were accepted."""
    accepted = 0

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=QUIET,
    )
    @given(MESSAGES[type_name])
    def run(anything: Any) -> None:
        nonlocal accepted
        accepted += check(type_name, anything)

    run()
    return accepted


@pytest.mark.parametrize("type_name", MESSAGES)
def test_a_result_or_input_rejected(type_name: str) -> None:
    accepted = explore(type_name, EXAMPLES[type_name])
    # Both outcomes must come up often, or the test would say little of one of them.
    assert 0.1 < accepted / EXAMPLES[type_name] < 0.9


class Hostile:
    """Fails in every way an object can."""

    def __init__(self, error: type[Exception]) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Any:
        raise object.__getattribute__(self, "_error")("no")

    def __bool__(self) -> bool:
        raise RuntimeError("neither")


@pytest.mark.parametrize("decoder", DECODABLE.values())
def test_objects_that_are_no_messages(decoder: Callable[[Any, int], Any]) -> None:
    errors = (AttributeError, KeyError, OSError, RecursionError, MemoryError)
    for anything in (None, 3, "text", object(), {}, Ellipsis, *map(Hostile, errors)):
        with pytest.raises(InputRejected):
            decoder(anything, LIMIT)


scans = st.builds(
    lambda n, seed, has, dropped: (n, seed, has, dropped),
    st.integers(0, 20),
    st.integers(0, 2**32),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
    st.integers(0, 4),
)


@settings(
    max_examples=60,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=QUIET,
)
@given(scans)
def test_scan_comes_back_to_the_last_bit(case: Any) -> None:
    n, seed, (has_intensity, has_ring, has_time), dropped = case
    random = np.random.default_rng(seed)
    bits = random.integers(0, 2**32, (n, 3), np.uint32).view(np.float32)
    scan = Scan(
        int(random.integers(0, 2**31)) * 10**9 + int(random.integers(0, 10**9)),
        "lidar",
        np.where(np.isfinite(bits), bits, np.float32(-0.0)),
        random.normal(size=n).astype(np.float32) if has_intensity else None,
        random.integers(0, 65536, n, np.uint16) if has_ring else None,
        random.normal(size=n).astype(np.float32) if has_time else None,
        dropped,
    )
    back = decode_cloud(encode_frame(rosbags_factory, scan)[1])
    assert (back.stamp_ns, back.frame_id, back.dropped) == (scan.stamp_ns, "lidar", dropped)
    for name in ("xyz", "intensity", "ring", "time_s"):
        a, b = getattr(scan, name), getattr(back, name)
        assert (a is None) == (b is None)
        assert a is None or (a.dtype == b.dtype and a.tobytes() == b.tobytes()), name
