"""Publishes a recording's frames on the input topics, at a rate or as fast as the nodes take it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from std_msgs.msg import Header

from robot_perception.core.types import Frame, ImageFrame, Scan
from robot_perception.pipeline.sources import Recording
from robot_perception.ros.messages import is_available, message_class, rclpy_factory
from robot_perception.wire import encode_frame, split_stamp

_TYPES = {
    "image": "sensor_msgs/msg/Image",
    "points": "sensor_msgs/msg/PointCloud2",
    "camera_info": "sensor_msgs/msg/CameraInfo",
    "odom": "nav_msgs/msg/Odometry",
    "tf": "tf2_msgs/msg/TFMessage",
    "tf_static": "tf2_msgs/msg/TFMessage",
}
# Not in the node's namespace, wherever it is.
_ABSOLUTE = ("tf", "tf_static")
_LATCHED = "tf_static"
_CLOCK_PERIOD_S = 0.01


def spin_until(
    executor: SingleThreadedExecutor, done: Callable[[], bool], timeout_s: float
) -> bool:
    """Spin until `done`; False if it is not within `timeout_s`."""
    end = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() >= end:
            return False
        executor.spin_once(timeout_sec=0.05)
    return True


def wait_until_heard(
    node: Node, executor: SingleThreadedExecutor, names: Collection[str], timeout_s: float
) -> bool:
    """True once the active nodes `names` know of every subscription that `node` has made so far.

    Subscriptions are announced in order: who publishes to the last one knows those before it.
    """
    missing = set(names)

    def take(message: DiagnosticArray) -> None:
        missing.difference_update(status.name.partition(":")[0] for status in message.status)

    subscription = node.create_subscription(DiagnosticArray, "/diagnostics", take, 50)
    heard = spin_until(executor, lambda: not missing, timeout_s)
    node.destroy_subscription(subscription)
    return heard


@dataclass(frozen=True)
class Played:
    """What a run of the player did: frames published by topic, and those never acknowledged."""

    published: dict[str, int]
    unacknowledged: int
    rejected: int


class Player:
    """Publishes on `image`, `points`, `camera_info`, `odom` (relative to the node), `/clock` and,
    where tf2_msgs is installed, `/tf` and `/tf_static`.

    `sent_at` holds the monotonic second at which each image and scan (role, stamp) went out.
    """

    def __init__(
        self, node: Node, executor: SingleThreadedExecutor, roles: Iterable[str] = tuple(_TYPES)
    ) -> None:
        """Publish on the topics of `roles` only: nobody waits for what does not come."""
        self._node = node
        self._executor = executor
        # Reliable publishers reach best-effort subscribers too.
        qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._publishers = {
            role: node.create_publisher(
                message_class(_TYPES[role]),
                f"/{role}" if role in _ABSOLUTE else role,
                latched if role == _LATCHED else qos,
            )
            for role in roles
            if is_available(_TYPES[role])
        }
        self._clock = node.create_publisher(Clock, "/clock", 10)
        self._acknowledged: dict[str, set[int]] = {}
        self.summary = Played({}, 0, 0)
        self.sent_at: dict[tuple[str, int], float] = {}

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(self._publishers)

    def consumers(self, role: str) -> set[str]:
        """The nodes of this package that subscribe to `role`: those that acknowledge frames."""
        topic = self._node.resolve_topic_name(role)
        found = set()
        for info in self._node.get_subscriptions_info_by_topic(topic):
            name = f"{info.node_namespace.rstrip('/')}/{info.node_name}"
            if self._node.count_publishers(f"{name}/processed"):
                found.add(name)
                self._listen(name)
        return found

    def wait_for_consumers(self, roles: dict[str, int], timeout_s: float) -> bool:
        """True once each role has at least that many consumers."""

        def there() -> bool:
            return all(len(self.consumers(role)) >= count for role, count in roles.items())

        return spin_until(self._executor, there, timeout_s)

    def play(self, recording: Recording, rate: float, timeout_s: float = 60.0) -> Iterator[Frame]:
        """Publish all frames, yielding each once it is out; `summary` tells how it went.

        rate: times real time; 0: each frame as soon as all consumers have acknowledged the last.
        """
        published: dict[str, int] = {}
        unacknowledged = rejected = 0
        start_wall, start_stamp = time.monotonic(), None
        for item in recording.frames():
            if item.frame is None:
                rejected += 1
                continue
            if item.topic not in self._publishers:
                continue
            stamp = item.frame.stamp_ns
            if start_stamp is None:
                start_stamp = stamp
            if rate > 0:
                self._run_clock(start_wall, start_stamp, stamp, rate)
            self._publish_clock(stamp)
            _, message = encode_frame(rclpy_factory, item.frame)
            if isinstance(item.frame, ImageFrame | Scan):
                self.sent_at[item.topic, stamp] = time.monotonic()
            self._publishers[item.topic].publish(message)
            published[item.topic] = published.get(item.topic, 0) + 1
            if rate <= 0 and isinstance(item.frame, ImageFrame | Scan):
                unacknowledged += self._await(item.topic, stamp, timeout_s)
            self._executor.spin_once(timeout_sec=0.0)
            self.summary = Played(dict(published), unacknowledged, rejected)
            yield item.frame

    def _listen(self, name: str) -> None:
        if name in self._acknowledged:
            return
        self._acknowledged[name] = seen = set()

        def acknowledge(header: Any) -> None:
            seen.add(header.stamp.sec * 1_000_000_000 + header.stamp.nanosec)

        self._node.create_subscription(Header, f"{name}/processed", acknowledge, 50)

    def _await(self, role: str, stamp_ns: int, timeout_s: float) -> int:
        waiting = self.consumers(role)
        end = time.monotonic() + timeout_s
        while waiting and time.monotonic() < end:
            self._executor.spin_once(timeout_sec=0.05)
            waiting = {name for name in waiting if stamp_ns not in self._acknowledged[name]}
        for name in waiting:
            self._node.get_logger().warning(f"{name} did not acknowledge {role} of {stamp_ns}")
        return len(waiting)

    def _run_clock(self, start_wall: float, start_ns: int, stamp_ns: int, rate: float) -> None:
        """Let the clock run up to `stamp_ns` at `rate`."""
        due = start_wall + (stamp_ns - start_ns) * 1e-9 / rate
        while (left := due - time.monotonic()) > 0:
            self._publish_clock(stamp_ns - int(left * rate * 1e9))
            self._executor.spin_once(timeout_sec=min(left, _CLOCK_PERIOD_S))

    def _publish_clock(self, stamp_ns: int) -> None:
        message = Clock()
        message.clock.sec, message.clock.nanosec = split_stamp(stamp_ns)
        self._clock.publish(message)
