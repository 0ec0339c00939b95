"""The player as an executable; parameters: recording, rate, loop (0: for ever), delay_s."""

from __future__ import annotations

import sys
import time

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rich.progress import Progress

from robot_perception.pipeline.sources import RecordingError, open_recording
from robot_perception.ros.player import Player

# Played all the same when nobody has come by then.
_START_S = 20.0


def main() -> int:
    rclpy.init()
    node = rclpy.create_node("player")
    recording = str(node.declare_parameter("recording", "").value)
    rate = float(node.declare_parameter("rate", 1.0).value)
    loops = int(node.declare_parameter("loop", 1).value)
    delay = float(node.declare_parameter("delay_s", 2.0).value)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        player = Player(node, executor, open_recording(recording).roles)
        # Nodes that start beside this one load for seconds: the first of them, then the others.
        sensors = {"image", "points"} & set(player.roles)
        player.wait_for_consumers(dict.fromkeys(sensors, 1), _START_S)
        end = time.monotonic() + delay
        while time.monotonic() < end:
            executor.spin_once(timeout_sec=0.1)
        for loop in range(loops) if loops > 0 else iter(int, 1):
            source = open_recording(recording)
            with Progress(disable=not sys.stderr.isatty()) as progress:
                task = progress.add_task(f"loop {loop + 1}", total=None)
                for _ in player.play(source, rate):
                    progress.advance(task)
            node.get_logger().info(f"played {player.summary.published}")
    except RecordingError as error:
        node.get_logger().error(str(error))
        return 2
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        executor.remove_node(node)
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
