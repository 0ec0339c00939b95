"""A simulated drive through a street, with ground truth: the demo's input and a test-bed."""

from robot_perception.pipeline.simulator.config import (
    CAMERA_FRAME,
    CAMERA_IN_LIDAR,
    LIDAR_FRAME,
    MAP_FRAME,
    ODOM_FRAME,
    START_NS,
    InstanceMask,
    PointInstances,
    SimulatorConfig,
    TruePose,
    camera_matrix,
)
from robot_perception.pipeline.simulator.record import (
    Progress,
    SimulatedFrame,
    simulate,
    write_recording,
)
from robot_perception.pipeline.simulator.scene import MOVING_LABEL

__all__ = [
    "CAMERA_FRAME",
    "CAMERA_IN_LIDAR",
    "LIDAR_FRAME",
    "MAP_FRAME",
    "MOVING_LABEL",
    "ODOM_FRAME",
    "START_NS",
    "InstanceMask",
    "PointInstances",
    "Progress",
    "SimulatedFrame",
    "SimulatorConfig",
    "TruePose",
    "camera_matrix",
    "simulate",
    "write_recording",
]
