"""Start a node, spin it, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import sys
import threading

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions

from robot_perception.ros.base_node import PerceptionNode

# A signal is noticed within this time.
_WAKE_S = 0.2


def run(name: str, tasks: tuple[str, ...], args: list[str] | None = None) -> int:
    """Run a node until SIGINT, SIGTERM or a shutdown of the context; the exit status."""
    # rclpy's own handlers end the context first, and what the node then still says or publishes
    # fails: ours let the node end in order, and the context last.
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    node = PerceptionNode(name, tasks)
    # One thread: our workers do the work, and the multi-threaded executor starves small messages.
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    ended = False
    try:
        if (
            node.get_parameter("autostart").value
            and not stopping.is_set()
            and node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        ):
            node.trigger_activate()
        while not stopping.is_set():
            executor.spin_once(timeout_sec=_WAKE_S)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        ended = node.stop()
        executor.remove_node(node)
        node.destroy_node()
        rclpy.try_shutdown()
    if not ended:
        # A step is still computing: the interpreter's own end would wait for it, or crash on it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    return 0
