"""The real nodes in processes of their own, over real DDS."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState, GetState  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.parameter_client import AsyncParameterClient  # noqa: E402
from rclpy.qos import ReliabilityPolicy, qos_profile_sensor_data  # noqa: E402
from sensor_msgs.msg import Image, PointCloud2  # noqa: E402
from std_msgs.msg import Header  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from robot_perception.core.types import ImageFrame, Scan  # noqa: E402
from robot_perception.ros.messages import rclpy_factory  # noqa: E402
from robot_perception.ros.player import wait_until_heard  # noqa: E402
from robot_perception.wire import decode_cloud, encode_frame  # noqa: E402

# Only what never comes may fail here, not what comes late on a busy machine.
_START_S = 240.0
_PATIENCE_S = 120.0


class Peer:
    """This process's end: publishes, listens, and reads the node's diagnostics."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("peer", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.status: dict[str, dict[str, str]] = {}
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 50)

    def close(self) -> None:
        self.executor.remove_node(self.node)
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def until(self, condition: Callable[[], bool], timeout_s: float = _PATIENCE_S) -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, f"waited {timeout_s} s in vain; status: {self.status}"
            self.executor.spin_once(timeout_sec=0.05)

    def heard_by(self, *names: str) -> None:
        """Wait until these active nodes know of all subscriptions made so far."""
        assert wait_until_heard(self.node, self.executor, names, _START_S), names

    def spin(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.01)

    def collect(self, kind: type, topic: str, qos: Any = 10) -> list[Any]:
        messages: list[Any] = []
        self.node.create_subscription(kind, topic, messages.append, qos)
        return messages

    def answered(self, ask: Callable[[], Any]) -> Any:
        """The answer to a question that may be repeated.

        A server loses its answer where it discovered the client's writer before its reader
        (rmw_fastrtps waits 0.1 s for it, then gives up): the question is asked again.
        """
        end = time.monotonic() + _START_S
        asked: list[Any] = []
        while time.monotonic() < end:
            asked.append(ask())
            again = time.monotonic() + 5.0
            while time.monotonic() < again:
                self.executor.spin_once(timeout_sec=0.05)
                for future in asked:
                    if future.done():
                        return future.result()
        raise AssertionError(f"no answer to any of {len(asked)} questions")

    def call(self, kind: type, name: str, request: Any) -> Any:
        client = self.client(kind, name)
        return self.answered(lambda: client.call_async(request))

    def client(self, kind: type, name: str) -> Any:
        client = self.node.create_client(kind, name)
        self.until(client.service_is_ready, _START_S)
        return client

    def state(self, name: str) -> str:
        return str(
            self.call(GetState, f"/{name}/get_state", GetState.Request()).current_state.label
        )

    def change(self, name: str, transition: int) -> bool:
        client = self.client(ChangeState, f"/{name}/change_state")
        # A transition must not be repeated: one that does not exist goes ahead of it.
        nothing = ChangeState.Request(transition=Transition(label="nothing"))
        assert not self.answered(lambda: client.call_async(nothing)).success
        future = client.call_async(ChangeState.Request(transition=Transition(id=transition)))
        self.until(future.done, _START_S)
        return bool(future.result().success)

    def counts(self, name: str) -> dict[str, int]:
        values = self.status.get(name, {})
        keys = ("received", "processed", "dropped", "rejected", "pending")
        return {key: int(values.get(key, 0)) for key in keys}

    def subscribers(self, name: str, topic: str) -> int:
        """How many subscribers of a topic the node itself knows."""
        return int(self.status.get(f"{name}: latency", {}).get(f"subscribers of {topic}", 0))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = {pair.key: pair.value for pair in status.values}
            self.status[status.name] = {"message": status.message, **values}


@pytest.fixture
def peer(ros_domain: int) -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


@contextmanager
def running(name: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A node in its own process; it must end by SIGINT, in time and with status 0."""
    command = [sys.executable, "-m", f"robot_perception.ros.{name}_node", "--ros-args"]
    process = subprocess.Popen([*command, "-p", "diagnostics_period_s:=0.2", *arguments])
    try:
        yield process
        process.send_signal(signal.SIGINT)
        assert process.wait(_PATIENCE_S) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def ring_scan(stamp_ns: int, beams: int = 64, columns: int = 1024) -> Scan:
    """A square room seen by a spinning LiDAR."""
    elevation = np.linspace(0.05, -0.4, beams)[:, None]
    azimuth = np.linspace(np.pi, -np.pi, columns, endpoint=False)[None, :]
    wall = 10.0 / np.maximum(np.abs(np.cos(azimuth)), np.abs(np.sin(azimuth)))
    floor = np.where(elevation < -0.01, 1.7 / np.maximum(-np.tan(elevation), 1e-6), np.inf)
    reach = np.minimum(wall, floor)
    xyz = np.stack(
        [reach * np.cos(azimuth), reach * np.sin(azimuth), reach * np.tan(elevation)], axis=-1
    )
    return Scan(stamp_ns, "velodyne", xyz.reshape(-1, 3).astype(np.float32))


def message_of(frame: ImageFrame | Scan) -> Any:
    return encode_frame(rclpy_factory, frame)[1]


def test_forecast_node_lives_through_a_working_day(peer: Peer) -> None:
    """Large clouds in, forecasts out, a malformed one between, deactivated and activated again."""
    with running("forecast", "-p", "qos_overrides./points.subscription.reliability:=reliable"):
        points = peer.node.create_publisher(PointCloud2, "points", 10)
        results = peer.collect(PointCloud2, "/forecast/points")
        processed = peer.collect(Header, "/forecast/processed", 50)
        peer.until(lambda: points.get_subscription_count() == 1, _START_S)
        peer.heard_by("forecast")
        for i in range(1, 4):
            points.publish(message_of(ring_scan(i * 100_000_000)))
            peer.until(lambda i=i: len(processed) >= i)
        peer.until(lambda: len(results) == 2)
        cloud = results[-1]
        assert cloud.header.frame_id == "velodyne"
        assert cloud.header.stamp.nanosec == 300_000_000
        fields = {"x", "y", "z", "horizon", "probability", "moving"}
        assert {f.name for f in cloud.fields} == fields
        # Nothing moves: what is predicted is what is seen.
        seen = decode_cloud(message_of(ring_scan(0)), 2**28).xyz
        predicted = decode_cloud(cloud, 2**28).xyz
        assert (
            abs(np.linalg.norm(predicted, axis=1).max() - np.linalg.norm(seen, axis=1).max()) < 0.5
        )

        bad = message_of(ring_scan(400_000_000))
        bad.row_step, bad.width = 7, 2**31
        points.publish(bad)
        peer.until(lambda: peer.counts("forecast: points")["rejected"] == 1)
        assert peer.counts("forecast: points") == {
            "received": 4, "processed": 3, "dropped": 0, "rejected": 1, "pending": 0,
        }  # fmt: skip
        assert peer.change("forecast", Transition.TRANSITION_DEACTIVATE)
        assert peer.change("forecast", Transition.TRANSITION_ACTIVATE)
        assert peer.change("forecast", Transition.TRANSITION_DEACTIVATE)
        assert peer.change("forecast", Transition.TRANSITION_CLEANUP)
        assert peer.state("forecast") == "unconfigured"
        assert peer.change("forecast", Transition.TRANSITION_CONFIGURE)
        assert peer.change("forecast", Transition.TRANSITION_ACTIVATE)
        peer.until(lambda: points.get_subscription_count() == 1)
        points.publish(message_of(ring_scan(500_000_000)))
        peer.until(lambda: len(processed) == 5)


def test_a_large_cloud_arrives_best_effort(peer: Peer) -> None:
    """Two megabytes a message over the shared-memory profile; without it, none would come."""
    with running("forecast"):
        points = peer.node.create_publisher(PointCloud2, "points", qos_profile_sensor_data)
        processed = peer.collect(Header, "/forecast/processed", 50)
        peer.until(lambda: points.get_subscription_count() == 1, _START_S)
        peer.heard_by("forecast")
        message = message_of(ring_scan(1, 64, 2048))
        assert len(message.data) > 1.5e6

        def send_until_processed(count: int) -> int:
            """One at a time, until so many more were processed; how many that took."""
            sent = 0
            for _ in range(count):
                before = len(processed)
                while len(processed) == before:
                    assert sent < count + 20
                    message.header.stamp.sec += 1
                    points.publish(message)
                    sent, end = sent + 1, time.monotonic() + 10.0
                    while len(processed) == before and time.monotonic() < end:
                        peer.spin(0.02)
            return sent

        send_until_processed(1)  # best effort: discovery may take its first messages
        assert send_until_processed(10) <= 12
        # Nobody subscribes to a forecast: the scans are dropped for that reason, and counted.
        peer.until(lambda: peer.counts("forecast: points")["received"] >= len(processed))
        counts = peer.counts("forecast: points")
        assert counts["dropped"] == counts["received"]
        reasons = peer.status["forecast: points"]
        assert reasons["dropped: no subscriber"] == reasons["received"]


def test_configuring_fails_cleanly_and_can_be_tried_again(peer: Peer) -> None:
    with running("forecast", "-p", "method:=atppnet", "-p", "checkpoint:=/nowhere.safetensors"):
        assert peer.state("forecast") == "unconfigured"
        assert not peer.change("forecast", Transition.TRANSITION_CONFIGURE)
        assert peer.state("forecast") == "unconfigured"
        client = AsyncParameterClient(peer.node, "forecast")
        peer.until(client.services_are_ready, _START_S)
        peer.answered(lambda: client.set_parameters([Parameter("method", value="ego_warp")]))
        assert peer.change("forecast", Transition.TRANSITION_CONFIGURE)
        assert peer.change("forecast", Transition.TRANSITION_ACTIVATE)


def test_parameters_have_bounds_and_descriptions(peer: Peer) -> None:
    with running("segmentation"):
        client = AsyncParameterClient(peer.node, "segmentation")
        peer.until(client.services_are_ready, _START_S)
        answer = peer.answered(lambda: client.describe_parameters(["track_iou", "backend"]))
        iou, backend = answer.descriptors
        assert iou.floating_point_range[0].to_value == 1.0
        assert iou.description
        assert "embedded" in backend.additional_constraints
        answer = peer.answered(lambda: client.set_parameters([Parameter("track_iou", value=3.0)]))
        assert not answer.results[0].successful


def test_segmentation_and_revisit_share_labels_and_save_a_map(peer: Peer, tmp_path: Any) -> None:
    """Two processes: the revisit node takes the segmentation node's labels of the same stamp."""
    map_path = tmp_path / "place.map"
    reliable = ["-p", "qos_overrides./image.subscription.reliability:=reliable"]
    reliable += ["-p", "inbox_size:=20"]
    with (
        running("segmentation", *reliable),
        running(
            "revisit", *reliable,
            "-p", "labels_wait_s:=30.0", "-r", "labels:=/segmentation/labels",
            "-p", f"map_path:={map_path}",
            "-p", "fit_keyframes:=2", "-p", "keyframe_period_s:=0.0",
        ),
    ):  # fmt: skip
        images = peer.node.create_publisher(Image, "image", 10)
        edges = peer.collect(DiagnosticArray, "/revisit/revisit")
        processed = peer.collect(Header, "/revisit/processed", 50)
        peer.until(lambda: images.get_subscription_count() == 2, _START_S)
        peer.until(lambda: peer.subscribers("segmentation", "labels") == 1, _START_S)
        peer.heard_by("segmentation", "revisit")
        (labels,) = peer.node.get_subscriptions_info_by_topic("/segmentation/labels")
        assert labels.qos_profile.reliability == ReliabilityPolicy.RELIABLE
        rng = np.random.default_rng(0)
        for i in range(3):
            blocks = rng.integers(0, 255, (12, 16, 3), np.uint8)
            rgb = np.ascontiguousarray(np.kron(blocks, np.ones((20, 20, 1), np.uint8)))
            images.publish(message_of(ImageFrame((i + 1) * 1_000_000_000, "camera", rgb)))
            peer.until(lambda i=i: len(processed) == i + 1, _START_S)
        peer.until(lambda: len(edges) >= 1)
        assert edges[-1].status[0].message == "no revisit"
        assert peer.call(Trigger, "/revisit/save_map", Trigger.Request()).success
        assert map_path.stat().st_size > 0
        assert peer.call(Trigger, "/revisit/reset_map", Trigger.Request()).success
        assert peer.call(Trigger, "/revisit/load_map", Trigger.Request()).success
