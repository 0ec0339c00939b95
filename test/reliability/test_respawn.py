"""A node that dies under ROS 2 launch comes back, is configured and works, all by itself."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from figures import record
from test_devices import scan
from test_launch import PROGRAM, share  # noqa: F401

pytest.importorskip("launch.actions", reason="ROS 2 launch is not installed")
rclpy = pytest.importorskip("rclpy")

from sensor_msgs.msg import PointCloud2  # noqa: E402
from std_msgs.msg import Header  # noqa: E402
from test_nodes import Peer  # noqa: E402

from robot_perception.ros.messages import rclpy_factory  # noqa: E402
from robot_perception.wire import encode_frame  # noqa: E402

_PATIENCE_S = 240.0


def node_of(launch: psutil.Process) -> int | None:
    """The process of the node, if there is one now."""
    for child in launch.children(recursive=True):
        try:
            if "robot_perception.ros.forecast_node" in child.cmdline():
                return child.pid
        except psutil.NoSuchProcess:
            continue
    return None


def test_a_killed_node_comes_back(share: Path, ros_domain: int) -> None:  # noqa: F811
    command = [sys.executable, "-c", PROGRAM, str(share / "launch" / "forecast.launch.py")]
    process = subprocess.Popen(command, cwd=share)
    launch = psutil.Process(process.pid)
    peer = Peer()
    try:
        points = peer.node.create_publisher(PointCloud2, "/robot/points", 5)
        processed = peer.collect(Header, "/robot/forecast/processed", 50)
        message = encode_frame(rclpy_factory, scan(0))[1]

        def answered() -> bool:
            message.header.stamp.sec += 1
            points.publish(message)
            peer.spin(0.2)
            return bool(processed)

        peer.until(answered, _PATIENCE_S)
        killed, times = set(), []
        for _ in range(2):
            pid = node_of(launch)
            assert pid is not None and pid not in killed
            psutil.Process(pid).kill()
            killed.add(pid)
            start = time.monotonic()
            peer.until(lambda: node_of(launch) not in {None, *killed}, _PATIENCE_S)
            peer.spin(0.5)  # what the dead one had sent
            processed.clear()
            peer.until(answered, _PATIENCE_S)
            times.append(time.monotonic() - start)
        process.send_signal(signal.SIGINT)
        assert process.wait(120.0) == 0
        assert all(not psutil.pid_exists(pid) for pid in killed)
    finally:
        if process.poll() is None:
            for child in launch.children(recursive=True):
                child.kill()
            process.kill()
            process.wait()
        peer.close()
    record(
        "lifecycle",
        "kill -9 of a node under ROS 2 launch",
        "it is started, configured and active again, and processes scans",
        len(times),
        came_back=len(times),
        seconds_until_the_next_result=[round(t, 1) for t in times],
    )
