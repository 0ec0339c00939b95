"""Start a node, spin it, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import NoReturn

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions

from robot_perception.pipeline import memory
from robot_perception.pipeline.leaving import leave
from robot_perception.ros.base_node import PerceptionNode
from robot_perception.ros.shared_memory import remove_abandoned

# A signal is noticed within this time.
_WAKE_S = 0.2
# What has not ended by itself this long after a signal is ended all the same, and after this.
_GRACE_S, _LAST_S = 1.4, 0.3


def run(name: str, tasks: tuple[str, ...], args: list[str] | None = None) -> NoReturn:
    """Run a node until SIGINT, SIGTERM or a shutdown of the context, and leave the process."""
    ending = _Ending()
    stopping = _stop_at_signals(ending)
    memory.steady_memory()
    remove_abandoned()
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    node = ending.node = PerceptionNode(name, tasks)
    # One thread: our workers do the work, and the multi-threaded executor starves small messages.
    executor = SingleThreadedExecutor()
    executor.add_node(node)
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
        node.stop()
        executor.remove_node(node)
        ending.leave_ros()
    leave(0)


class _Ending:
    """The end of the node in ROS, by whichever thread comes first. Other nodes hear of it at once,
    and its shared memory goes; `leave` alone would do neither."""

    def __init__(self) -> None:
        self.node: PerceptionNode | None = None
        self._first = threading.Lock()

    def leave_ros(self) -> None:
        if self._first.acquire(blocking=False):
            if self.node is not None:
                self.node.destroy_node()
            rclpy.try_shutdown()


def _stop_at_signals(ending: _Ending) -> threading.Event:
    """An event that SIGINT and SIGTERM set; from then on the process has a deadline.

    rclpy's own handlers end the context first, and what the node then still says or publishes
    fails: with ours the node ends in order, and the context last. Python's handlers wait for the
    main thread, which may be in a long call (a model that warms up); the thread here does not.
    """
    stopping = threading.Event()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)

    def watch() -> None:
        while os.read(reading, 1)[0] not in (signal.SIGINT, signal.SIGTERM):
            pass
        stopping.set()
        time.sleep(_GRACE_S)
        threading.Thread(target=ending.leave_ros, daemon=True).start()
        time.sleep(_LAST_S)
        leave(0)

    threading.Thread(target=watch, daemon=True).start()
    return stopping
