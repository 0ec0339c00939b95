"""Start a node, spin it, and leave nothing behind."""

from __future__ import annotations

import signal

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn

from robot_perception.ros.base_node import PerceptionNode


def run(name: str, tasks: tuple[str, ...], args: list[str] | None = None) -> int:
    """Run a node until SIGINT, SIGTERM or a shutdown of the context; the exit status."""
    rclpy.init(args=args)
    node = PerceptionNode(name, tasks)
    # One thread: our workers do the work, and the multi-threaded executor starves small messages.
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        if (
            node.get_parameter("autostart").value
            and node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        ):
            node.trigger_activate()
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        # A second signal must not break off what the first one began.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        node.stop()
        executor.remove_node(node)
        node.destroy_node()
        rclpy.try_shutdown()
    return 0
