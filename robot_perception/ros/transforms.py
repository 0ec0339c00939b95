"""tf as two more inputs of a node, where tf2_msgs is installed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from robot_perception.core.types import Frame
from robot_perception.ros.messages import is_available
from robot_perception.ros.stream import Stream
from robot_perception.ros.worker import Received
from robot_perception.wire import decode_transforms

TF, TF_STATIC = "/tf", "/tf_static"
_TYPE = "tf2_msgs/msg/TFMessage"
_QOS = {
    TF: QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT),
    TF_STATIC: QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL),
}


def streams(node: Node, step: Callable[[Frame], None], max_bytes: int) -> dict[str, Stream]:
    """The streams of /tf and /tf_static, by topic, each of whose messages goes to `step`."""
    if not is_available(_TYPE):
        return {}

    def handle(static: bool) -> Callable[[Received], None]:
        return lambda received: step(replace(decode_transforms(received.message), static=static))

    return {
        topic: Stream(node, topic, _TYPE, handle(topic == TF_STATIC), 1, False, max_bytes, qos)
        for topic, qos in _QOS.items()
    }
