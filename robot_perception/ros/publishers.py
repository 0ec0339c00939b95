"""The output topics of a node, and who listens to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions

from robot_perception.core.types import ImageFrame, Result, Scan
from robot_perception.pipeline import outputs
from robot_perception.pipeline.perception import Tasks
from robot_perception.ros.messages import is_available, message_class, rclpy_factory

_LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Publishers:
    """A publisher for each output of `tasks`; `topic_of` names it by task and topic."""

    def __init__(self, node: Node, tasks: Tasks, topic_of: Callable[[str, str], str]) -> None:
        self._node = node
        self._made: dict[tuple[str, str], Publisher[Any]] = {}
        for task, topics in outputs.topics(tasks).items():
            for topic in (t for t in topics if is_available(t.type) or not t.optional):
                self._made[task, topic.name] = node.create_publisher(
                    message_class(topic.type),
                    topic_of(task, topic.name),
                    _LATCHED if topic.latched else 5,
                    qos_overriding_options=QoSOverridingOptions.with_default_policies(),
                )

    def of(self, task: str, topic: str) -> Publisher[Any]:
        return self._made[task, topic]

    def listened(self) -> set[str]:
        """The tasks that somebody listens to."""
        return {task for (task, _), p in self._made.items() if p.get_subscription_count()}

    def subscribers(self) -> dict[str, int]:
        """How many listen to each topic that anybody listens to."""
        counts = {name: p.get_subscription_count() for (_, name), p in self._made.items()}
        return {f"subscribers of {name}": count for name, count in counts.items() if count}

    def publish(self, result: Result, frame: ImageFrame | Scan) -> None:
        """Publish what is wanted of `result`, which was made from `frame`."""
        task = outputs.task_of(result)
        for topic, build in outputs.messages(result, frame).items():
            publisher = self._made.get((task, topic))
            if publisher is None:
                continue
            # A latched topic is for those who come later: it is always kept up to date.
            latched = publisher.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
            if latched or publisher.get_subscription_count():
                publisher.publish(build(rclpy_factory))

    def destroy(self) -> None:
        for publisher in self._made.values():
            self._node.destroy_publisher(publisher)
        self._made.clear()
