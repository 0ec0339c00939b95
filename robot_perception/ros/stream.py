"""One input topic of a node: subscription, inbox, worker, and what became of its messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.node import Node
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from rclpy.qos_overriding_options import QoSOverridingOptions

from robot_perception.pipeline.inbox import Accounting, Inbox
from robot_perception.pipeline.messages import deserialize
from robot_perception.ros import diagnostics
from robot_perception.ros.messages import message_class
from robot_perception.ros.worker import Received, Worker, now, work


class Stream:
    """Messages of `topic` to `handle`: in a thread of its own if `threaded`, else at once.

    They come as serialised bytes and are deserialised here, in that thread: rclpy would do it in
    the executor's, also for what is dropped, leave out uncounted what it cannot read, and give on
    some of what is malformed. What is no message, or is over `max_bytes`, is rejected.

    Counts go on over `stop` and `start`: what was received stays received.
    """

    def __init__(
        self,
        node: Node,
        topic: str,
        type_name: str,
        handle: Callable[[Received], None],
        size: int,
        threaded: bool,
        max_bytes: int,
        qos: QoSProfile = qos_profile_sensor_data,
    ) -> None:
        self.topic = topic
        self._qos = qos
        self.threaded = threaded
        self._node = node
        self._type_name = type_name
        self._handle = handle
        self._max_bytes = max_bytes
        self._inbox: Inbox[Received] = Inbox(size)
        self._worker: Worker | None = None
        self._subscription: Any = None
        self._last_at: float | None = None
        self._error = ""
        self._before = Accounting(0, 0, 0, 0, 0)

    @property
    def has_publisher(self) -> bool:
        return self._node.count_publishers(self._node.resolve_topic_name(self.topic)) > 0

    def start(self) -> None:
        self._inbox.open()
        if self.threaded:
            self._worker = Worker(self._inbox, self._handle_and_clear, self._on_error)
        self._subscription = self._node.create_subscription(
            message_class(self._type_name),
            self.topic,
            self._receive,
            self._qos,
            raw=True,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )

    def close(self) -> None:
        """Take nothing more, and ask the worker to end."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None
        self._inbox.close()
        if self._worker is not None:
            self._worker.ask_to_end()

    def join(self, timeout_s: float) -> bool:
        """Wait for the worker; False where a step takes too long and goes on, unseen."""
        worker, self._worker = self._worker, None
        if worker is None or worker.join(timeout_s):
            return True
        self._node.get_logger().warning(f"{self.topic}: a step goes on in the background")
        return False

    def status(self, stale_after_s: float) -> DiagnosticStatus | None:
        """The state since the last call; None for an optional input that nobody sends."""
        if self._last_at is None and not self.threaded:
            return None
        counts = self._inbox.accounting()
        before, self._before = self._before, counts
        state = diagnostics.InputState(
            self.topic,
            counts,
            before,
            None if self._last_at is None else now() - self._last_at,
            self._inbox.reasons(),
            self._error,
        )
        return diagnostics.input_status(self._node.get_name(), state, stale_after_s)

    def _receive(self, data: bytes) -> None:
        self._last_at = now()
        self._inbox.put(Received(data, self._last_at))
        if not self.threaded:
            received = self._inbox.get(timeout_s=0.0)
            if received is not None:
                work(self._inbox, received, self._handle_and_clear, self._on_error)

    def _handle_and_clear(self, received: Received) -> None:
        message = deserialize(received.message, self._type_name, self._max_bytes)
        self._handle(Received(message, received.at))
        self._error = ""

    def _on_error(self, reason: str) -> None:
        self._error = reason
        self._node.get_logger().warning(f"{self.topic}: {reason}", throttle_duration_sec=5.0)
