"""Time to decode a LiDAR scan and an image, beside other ways to do it and beside deserialisation.

    python benchmarks/bench_wire.py [--json FILE] [--repeats N]

The scan has 120 000 points with intensity, ring and time; the image is 1242 x 375 (KITTI's size).
Times are medians in milliseconds of interleaved runs in this process, on one thread of OpenCV.
`structured_reading` reads as sensor_msgs_py does: a structured array from the fields, a NaN filter
if the message says that it is not dense, then one unstructured float32 array. The real
sensor_msgs_py is timed as well where it is installed, as is rclpy; neither is needed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.lib.recfunctions import structured_to_unstructured

from robot_perception.core.types import Scan
from robot_perception.pipeline.messages import TYPESTORE, deserialize, rosbags_factory, serialize
from robot_perception.wire import decode_cloud, decode_image, encode_frame, encode_rgb, header
from robot_perception.wire.cloud import DATATYPES

CLOUD, IMAGE = "sensor_msgs/msg/PointCloud2", "sensor_msgs/msg/Image"
POINTS, WIDTH, HEIGHT = 120_000, 1242, 375
NAN_SHARE = 0.1


def scan(random: np.random.Generator) -> Scan:
    return Scan(
        1_700_000_000_000_000_000,
        "lidar",
        random.normal(0.0, 20.0, (POINTS, 3)).astype(np.float32),
        random.random(POINTS, np.float32),
        random.integers(0, 64, POINTS, np.uint16),
        np.linspace(0.0, 0.1, POINTS, dtype=np.float32),
    )


def packed_cloud(source: Scan, nan_share: float) -> Any:
    """Points of 22 bytes without padding (Velodyne's driver): nothing is aligned."""
    kinds = [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4")]
    kinds += [("ring", "<u2"), ("time", "<f4")]
    points = np.zeros(POINTS, kinds)
    for i, name in enumerate("xyz"):
        points[name] = source.xyz[:, i]
    points["intensity"], points["ring"] = source.intensity, source.ring
    points["time"] = source.time_s
    points["x"][: int(nan_share * POINTS)] = np.nan
    dtype = points.dtype
    number = {format_: datatype for datatype, format_ in DATATYPES.items()}
    offsets = {name: place[1] for name, place in (dtype.fields or {}).items()}
    return rosbags_factory(
        CLOUD,
        header=header(rosbags_factory, source.stamp_ns, source.frame_id),
        height=1,
        width=POINTS,
        fields=[
            rosbags_factory(
                "sensor_msgs/msg/PointField",
                name=name,
                offset=offsets[name],
                datatype=number[kind[1:]],
                count=1,
            )
            for name, kind in kinds
        ],
        point_step=dtype.itemsize,
        row_step=dtype.itemsize * POINTS,
        data=points.view(np.uint8),
        is_dense=nan_share == 0.0,
    )


def structured_reading(message: Any) -> np.ndarray[Any, Any]:
    """x, y, z, intensity, ring, time as (N, 6) float32."""
    dtype = np.dtype(
        {
            "names": [f.name for f in message.fields],
            "formats": ["<" + DATATYPES[f.datatype] for f in message.fields],
            "offsets": [f.offset for f in message.fields],
            "itemsize": message.point_step,
        }
    )
    points = np.ndarray(message.width * message.height, dtype, message.data)
    if not message.is_dense:
        keep = np.ones(len(points), bool)
        for name in dtype.names or ():
            keep &= ~np.isnan(points[name])
        points = points[keep]
    return structured_to_unstructured(points, dtype=np.float32)


def cloud_ways(message: Any, data: bytes) -> dict[str, Callable[[], Any]]:
    ways: dict[str, Callable[[], Any]] = {
        "wire.decode_cloud": lambda: decode_cloud(message),
        "structured_reading": lambda: structured_reading(message),
        "deserialize": lambda: deserialize(data, CLOUD),
        "rosbags deserialize": lambda: TYPESTORE.deserialize_cdr(data, CLOUD),
    }
    if importlib.util.find_spec("sensor_msgs_py"):
        from sensor_msgs_py import point_cloud2

        live = in_rclpy(data, CLOUD)
        ways["sensor_msgs_py.read_points"] = lambda: structured_to_unstructured(
            point_cloud2.read_points(live, skip_nans=True), dtype=np.float32
        )
    return ways | rclpy_way(data, CLOUD)


def image_ways(message: Any, data: bytes) -> dict[str, Callable[[], Any]]:
    order = 1 if message.encoding == "rgb8" else -1

    def copied() -> Any:
        pixels = np.frombuffer(message.data, np.uint8).reshape(HEIGHT, WIDTH, 3)
        return pixels[:, :, ::order].copy()

    ways: dict[str, Callable[[], Any]] = {
        "wire.decode_image": lambda: decode_image(message),
        "frombuffer, reshape, copy": copied,
        "deserialize": lambda: deserialize(data, IMAGE),
        "rosbags deserialize": lambda: TYPESTORE.deserialize_cdr(data, IMAGE),
    }
    return ways | rclpy_way(data, IMAGE)


def in_rclpy(data: bytes, type_name: str) -> Any:
    from rclpy.serialization import deserialize_message

    from robot_perception.ros.messages import message_class

    return deserialize_message(data, message_class(type_name))


def rclpy_way(data: bytes, type_name: str) -> dict[str, Callable[[], Any]]:
    if not importlib.util.find_spec("rclpy"):
        return {}
    return {"rclpy deserialize": lambda: in_rclpy(data, type_name)}


def medians_ms(ways: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Interleaved, so that a busy moment of the machine meets all of them."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(repeats + 3):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if i >= 3:
                times[name].append((time.perf_counter() - start) * 1e3)
    return {name: float(np.median(t)) for name, t in times.items()}


def cases() -> dict[str, dict[str, Callable[[], Any]]]:
    random = np.random.default_rng(0)
    source = scan(random)
    clouds = {
        "cloud, aligned, all finite": encode_frame(rosbags_factory, source)[1],
        "cloud, 22 bytes a point, all finite": packed_cloud(source, 0.0),
        "cloud, 22 bytes a point, 10 % NaN": packed_cloud(source, NAN_SHARE),
    }
    rgb = random.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    bgr = encode_rgb(rosbags_factory, 0, "camera", rgb)
    bgr.encoding = "bgr8"
    images = {"image, rgb8": encode_rgb(rosbags_factory, 0, "camera", rgb), "image, bgr8": bgr}
    return {name: cloud_ways(m, serialize(m)) for name, m in clouds.items()} | {
        name: image_ways(m, serialize(m)) for name, m in images.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--json", type=Path, help="write the result here as well")
    parser.add_argument("--repeats", type=int, default=50)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    result: dict[str, Any] = {"machine": platform.processor() or platform.machine(), "cases": {}}
    for case, ways in cases().items():
        times = medians_ms(ways, arguments.repeats)
        ours = next(iter(times.values()))
        print(case)
        for name, ms in times.items():
            print(f"  {name:30} {ms:8.3f} ms   {ms / ours:7.2f} x")
        result["cases"][case] = {
            name: {"median_ms": ms, "times_wire": ms / ours} for name, ms in times.items()
        }
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
