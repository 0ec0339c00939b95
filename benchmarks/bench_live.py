"""Latency from publication to result over DDS, and the highest rate without drops, by node.

    python benchmarks/bench_live.py RECORDING [--nodes segmentation] [--rates 10,30] [--json FILE]

One node in its own process at a time, best-effort inputs as on a robot, its main output alone
subscribed to. Frames are the recording's own; without --rates the rate rises until one is dropped.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import qos_profile_sensor_data

from robot_perception.core.types import ImageFrame, Scan
from robot_perception.pipeline.health import percentiles
from robot_perception.pipeline.sources import open_recording
from robot_perception.ros.messages import message_class, rclpy_factory
from robot_perception.wire import encode_frame

_NODES = {
    "segmentation": ("image", "sensor_msgs/msg/Image", "labels", "sensor_msgs/msg/Image"),
    "revisit": ("image", "sensor_msgs/msg/Image", "revisit", "diagnostic_msgs/msg/DiagnosticArray"),
    "forecast": ("points", "sensor_msgs/msg/PointCloud2", "points", "sensor_msgs/msg/PointCloud2"),
}
_RATES = (1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0)
_SECONDS = 6.0


def measure(name: str, messages: list[Any], rates: tuple[float, ...]) -> dict[str, Any]:
    """Latencies and drops of one node at `rates`; without any, at rising ones until it drops."""
    topic, kind, output, output_kind = _NODES[name]
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("bench", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    arrived: dict[int, float] = {}
    processed: set[int] = set()

    def take(message: Any) -> None:
        arrived[message.header.stamp.sec * 10**9 + message.header.stamp.nanosec] = time.monotonic()

    node.create_subscription(message_class(output_kind), f"/{name}/{output}", take, 50)
    node.create_subscription(
        message_class("std_msgs/msg/Header"),
        f"/{name}/processed",
        lambda h: processed.add(h.stamp.sec * 10**9 + h.stamp.nanosec),
        100,
    )
    publisher = node.create_publisher(message_class(kind), topic, qos_profile_sensor_data)
    arguments = ["-p", "keyframe_period_s:=0.0"] if name == "revisit" else []
    command = [sys.executable, "-m", f"robot_perception.ros.{name}_node", "--ros-args", *arguments]
    process = subprocess.Popen(command)
    stamp = 1_000_000_000
    runs = []
    try:
        end = time.monotonic() + 60
        while not publisher.get_subscription_count() and time.monotonic() < end:
            executor.spin_once(timeout_sec=0.1)
        frames = cycle(messages)
        for run, rate in enumerate((5.0, *(rates or _RATES))):  # the first run warms up
            sent: dict[int, float] = {}
            for message in islice(frames, int(rate * _SECONDS)):
                due = time.monotonic() + 1 / rate
                stamp += int(1e9 / rate)
                message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
                sent[stamp] = time.monotonic()
                publisher.publish(message)
                while (left := due - time.monotonic()) > 0:
                    executor.spin_once(timeout_sec=left)
            settle = time.monotonic() + 3
            while time.monotonic() < settle and not sent.keys() <= processed:
                executor.spin_once(timeout_sec=0.05)
            latency = [1e3 * (arrived[s] - t) for s, t in sent.items() if s in arrived]
            lost = len(sent.keys() - processed)
            runs.append(
                {
                    "rate_hz": rate,
                    "sent": len(sent),
                    "unprocessed": lost,
                    "latency_ms": asdict(percentiles(np.array(latency))) if latency else None,
                }
            )
            if run and lost and not rates:
                break
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(10)
        executor.remove_node(node)
        node.destroy_node()
        rclpy.shutdown(context=context)
    whole = [run["rate_hz"] for run in runs[1:] if not run["unprocessed"]]
    return {"runs": runs[1:], "max_rate_without_drops_hz": max(whole, default=0.0)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recording", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--nodes", default=",".join(_NODES))
    parser.add_argument("--rates", default="", help="Hz, by comma")
    options = parser.parse_args()
    rates = tuple(float(rate) for rate in options.rates.split(",") if rate)
    profile = Path(__file__).resolve().parents[1] / "config" / "fastdds.xml"
    os.environ.setdefault("FASTDDS_DEFAULT_PROFILES_FILE", str(profile))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    messages: dict[str, list[Any]] = {"image": [], "points": []}
    for item in islice(open_recording(options.recording).frames(), 90):
        if isinstance(item.frame, ImageFrame | Scan):
            messages[item.topic].append(encode_frame(rclpy_factory, item.frame)[1])
    results = {
        name: measure(name, messages[topic], rates)
        for name, (topic, *_) in _NODES.items()
        if messages[topic] and name in options.nodes.split(",")
    }
    for name, result in results.items():
        print(f"{name}: no drop up to {result['max_rate_without_drops_hz']} Hz")
        for run in result["runs"]:
            p = run["latency_ms"]
            text = f"p50 {p['p50']:.0f}, p90 {p['p90']:.0f}, p99 {p['p99']:.0f} ms" if p else "-"
            print(f"  {run['rate_hz']:5.1f} Hz: {run['unprocessed']}/{run['sent']} lost, {text}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
