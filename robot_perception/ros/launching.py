"""What the launch files share: their arguments, and the options of every node."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

PACKAGE = "robot_perception"

# Argument: default and description.
ARGUMENTS: dict[str, tuple[str, str]] = {
    "namespace": ("", "namespace of all nodes and of their relative topics"),
    "use_sim_time": ("false", "take the time from /clock"),
    "log_level": ("info", "least severity that is logged"),
    "respawn": ("true", "start a node again if it ends by itself"),
    "rviz": ("false", "start RViz 2 with the configuration for these nodes"),
    "fixed_frame": ("velodyne", "frame RViz shows everything in"),
    "image_topic": ("image", "topic the camera images come on"),
    "camera_info_topic": ("camera_info", "topic the camera intrinsics come on"),
    "points_topic": ("points", "topic the LiDAR scans come on"),
    "odom_topic": ("odom", "topic the odometry comes on"),
    "labels_topic": ("segmentation/labels", "topic the label images come on"),
    "labels_wait_s": ("1.0", "longest wait of revisit for an image's labels [s]; 0: takes none"),
    "composed": ("false", "all stages in one process instead of three"),
    "recording": ("", "recording to play: bag, MCAP, KITTI folder; empty: live topics"),
    "rate": ("1.0", "speed of the recording, times real time; 0: as fast as the nodes take it"),
    "loop": ("1", "times the recording is played; 0: for ever"),
}
_COMMON = ("namespace", "use_sim_time", "log_level", "respawn", "rviz")


def declare(*names: str, **defaults: str) -> list[DeclareLaunchArgument]:
    """The arguments every launch file has and those in `names`; `defaults` replaces some."""
    return [
        DeclareLaunchArgument(
            name,
            default_value=defaults.get(name, ARGUMENTS[name][0]),
            description=ARGUMENTS[name][1],
        )
        for name in (*_COMMON, *names)
    ]


def config_argument(file: str) -> DeclareLaunchArgument:
    """The argument that names the parameter file, by default the package's `file`."""
    return DeclareLaunchArgument(
        "config_file", default_value=_config(file), description="ROS parameter file of the nodes"
    )


def large_messages() -> list[Any]:
    """Let Fast DDS carry images and clouds, unless the user has a profile of their own."""
    # Fast DDS 3 warns about the name that older releases have for it, and reads the file twice.
    old = os.environ.get("ROS_DISTRO") in ("humble", "iron", "jazzy")
    variable = f"{'FASTRTPS' if old else 'FASTDDS'}_DEFAULT_PROFILES_FILE"
    return [
        DeclareLaunchArgument(
            "fastdds_profile",
            default_value=EnvironmentVariable(variable, default_value=_config("fastdds.xml")),
            description="Fast DDS profile with room for large messages",
        ),
        SetEnvironmentVariable(variable, LaunchConfiguration("fastdds_profile")),
    ]


def options(*inputs: str, **replaced: Any) -> dict[str, Any]:
    """Options of each node of the package: `inputs` are those of image, points, ... it has."""
    return {
        "package": PACKAGE,
        "namespace": LaunchConfiguration("namespace"),
        "output": "screen",
        "emulate_tty": True,
        "respawn": LaunchConfiguration("respawn"),
        "respawn_delay": 2.0,
        "ros_arguments": ["--log-level", LaunchConfiguration("log_level")],
        "remappings": [(name, LaunchConfiguration(f"{name}_topic")) for name in inputs],
        **replaced,
    }


def value(argument: str, kind: type) -> ParameterValue:
    """The argument as the value of a parameter of this type."""
    return ParameterValue(LaunchConfiguration(argument), value_type=kind)


def rviz_node(config: str, inputs: Sequence[str], outputs: Sequence[str]) -> Node:
    """RViz 2, if asked for, on these topics in the namespace."""
    relative = [(f"/{topic}", topic) for topic in outputs]
    return Node(
        package="rviz2",
        executable="rviz2",
        name="rviz",
        namespace=LaunchConfiguration("namespace"),
        condition=IfCondition(LaunchConfiguration("rviz")),
        arguments=[
            "-d",
            _config(os.path.join("rviz", config)),
            "-f",
            LaunchConfiguration("fixed_frame"),
        ],
        parameters=[{"use_sim_time": value("use_sim_time", bool)}],
        remappings=[(f"/{name}", LaunchConfiguration(f"{name}_topic")) for name in inputs]
        + relative,
    )


def _config(file: str) -> PathJoinSubstitution:
    return PathJoinSubstitution([FindPackageShare(PACKAGE), "config", file])
