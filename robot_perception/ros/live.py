"""Replay a recording through live nodes in processes of their own, and record what they publish.

    python -m robot_perception.ros.live RECORDING --out live.mcap [--rate 0] [--composed]

Prints one JSON object: what was played, each node's last diagnostics, and the latency seen from
outside (from the publication of a frame to the arrival of each result).
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
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from robot_perception.core.config import ForecastConfig, RevisitConfig, SegmentationConfig
from robot_perception.pipeline import outputs
from robot_perception.pipeline.health import percentiles
from robot_perception.pipeline.perception import TASKS, Tasks
from robot_perception.pipeline.sinks import McapSink
from robot_perception.pipeline.sources import open_recording
from robot_perception.ros.messages import message_class
from robot_perception.ros.player import Player, spin_until, wait_until_heard

_ROLES = {"segmentation": "image", "revisit": "image", "forecast": "points"}
# No frame may be given up in a run that is compared with the offline pipeline.
_LABELS_WAIT_S = 60.0
_ODOM_WAIT_S = 10.0


class Recorder:
    """Writes every output message to the sink, as it comes over the wire."""

    def __init__(self, node: Node, sink: McapSink, tasks: Tasks) -> None:
        self._sink = sink
        self.sent_at: dict[tuple[str, int], float] = {}
        self.latency_ms: dict[str, list[float]] = {}
        self.count: dict[str, int] = {}
        self.diagnostics: dict[str, dict[str, str]] = {}
        self.last_arrival = time.monotonic()
        for task, topics in outputs.topics(tasks).items():
            for topic in (t for t in topics if t.recorded):
                qos = QoSProfile(
                    depth=100,
                    reliability=ReliabilityPolicy.RELIABLE,
                    durability=DurabilityPolicy.TRANSIENT_LOCAL
                    if topic.latched
                    else DurabilityPolicy.VOLATILE,
                )
                name = f"/{task}/{topic.name}"
                node.create_subscription(
                    message_class(topic.type),
                    name,
                    lambda data, name=name, topic=topic, task=task: self._take(
                        name, topic.type, _ROLES[task], data
                    ),
                    qos,
                    raw=True,
                )
        node.create_subscription(DiagnosticArray, "/diagnostics", self._take_diagnostics, 100)

    def _take(self, name: str, type_name: str, role: str, data: bytes) -> None:
        arrived = self.last_arrival = time.monotonic()
        stamp_ns = self._sink.write_cdr(name, type_name, bytes(data))
        sent = self.sent_at.get((role, stamp_ns))
        if sent is not None:
            self.latency_ms.setdefault(name, []).append((arrived - sent) * 1e3)
        self.count[name] = self.count.get(name, 0) + 1

    def _take_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = {pair.key: pair.value for pair in status.values}
            self.diagnostics[status.name] = {"message": status.message, **values}


def start_nodes(composed: bool, environment: dict[str, str]) -> list[subprocess.Popen[bytes]]:
    """Start the nodes with inputs that lose nothing; the processes."""
    reliable = [
        argument
        for role in ("image", "points")
        for argument in ("-p", f"qos_overrides./{role}.subscription.reliability:=reliable")
    ]
    wait = ["-p", f"labels_wait_s:={_LABELS_WAIT_S}", "-r", "labels:=/segmentation/labels"]
    reliable += ["-p", f"odom_wait_s:={_ODOM_WAIT_S}", "-p", "inbox_size:=10"]
    arguments = ["--ros-args", "-p", "use_sim_time:=true", *reliable]
    return [
        subprocess.Popen(
            [sys.executable, "-m", f"robot_perception.ros.{name}_node", *arguments]
            + (wait if name == "revisit" else []),
            env=environment,
        )
        for name in (("perception",) if composed else TASKS)
    ]


def stop_nodes(processes: list[subprocess.Popen[bytes]]) -> list[int]:
    """SIGINT to all; SIGKILL to those that have not gone after 30 s; their exit codes."""
    for process in processes:
        process.send_signal(signal.SIGINT)
    end = time.monotonic() + 30.0
    for process in processes:
        try:
            process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return [process.returncode for process in processes]


def run(
    recording: Path, out: Path, rate: float, composed: bool, startup_s: float
) -> dict[str, Any]:
    """Play `recording` through live nodes into the MCAP `out`; a summary."""
    source = open_recording(recording)
    wanted = {"image": 1 if composed else 2, "points": 1}
    consumers = {role: count for role, count in wanted.items() if role in source.roles}
    rclpy.init()
    node = rclpy.create_node("player")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    processes = start_nodes(composed, dict(os.environ))
    try:
        tasks = Tasks(SegmentationConfig(), RevisitConfig(), ForecastConfig())
        with McapSink(out, outputs.latched(tasks)) as sink:
            recorder = Recorder(node, sink, tasks)
            player = Player(node, executor, source.roles)
            if not player.wait_for_consumers(consumers, startup_s):
                raise TimeoutError(f"the nodes did not start within {startup_s:.0f} s")
            names = ("perception",) if composed else TASKS
            if not wait_until_heard(node, executor, names, startup_s):
                raise TimeoutError(f"no diagnostics of all nodes within {startup_s:.0f} s")
            if not composed and not spin_until(
                executor, lambda: _labels_are_heard(recorder), startup_s
            ):
                raise TimeoutError(f"revisit did not find the labels within {startup_s:.0f} s")
            start = time.monotonic()
            recorder.sent_at = player.sent_at
            for _ in player.play(source, rate):
                pass
            duration = time.monotonic() - start
            _settle(executor, recorder, 2.5)
    finally:
        exit_codes = stop_nodes(processes)
        executor.remove_node(node)
        node.destroy_node()
        rclpy.try_shutdown()
    return {
        "played": asdict(player.summary),
        "duration_s": duration,
        "received": recorder.count,
        "latency_ms": {
            name: asdict(percentiles(np.array(values)))
            for name, values in recorder.latency_ms.items()
        },
        "diagnostics": recorder.diagnostics,
        "exit_codes": exit_codes,
    }


def _labels_are_heard(recorder: Recorder) -> bool:
    """Whether segmentation knows that revisit, too, listens to its labels."""
    values = recorder.diagnostics.get("segmentation: latency", {})
    return int(values.get("subscribers of labels", 0)) >= 2


def _settle(executor: SingleThreadedExecutor, recorder: Recorder, quiet_s: float) -> None:
    """Spin until nothing has arrived for `quiet_s`."""
    recorder.last_arrival = time.monotonic()
    while time.monotonic() - recorder.last_arrival < quiet_s:
        executor.spin_once(timeout_sec=0.05)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recording", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rate", type=float, default=0.0, help="times real time; 0: lock-step")
    parser.add_argument("--composed", action="store_true", help="all nodes in one process")
    parser.add_argument("--startup-s", type=float, default=240.0)
    options = parser.parse_args()
    summary = run(options.recording, options.out, options.rate, options.composed, options.startup_s)
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
