"""Know a place again: camera images in, revisits of known places out."""

from launch import LaunchDescription
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from robot_perception.ros.launching import (
    config_argument,
    declare,
    large_messages,
    options,
    rviz_node,
    value,
)


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            *declare(
                "fixed_frame",
                "image_topic",
                "camera_info_topic",
                "odom_topic",
                "labels_topic",
                fixed_frame="odom",
            ),
            config_argument("revisit.yaml"),
            *large_messages(),
            Node(
                **options("image", "camera_info", "odom", "labels"),
                executable="revisit_node",
                name="revisit",
                parameters=[
                    LaunchConfiguration("config_file"),
                    {"use_sim_time": value("use_sim_time", bool)},
                ],
            ),
            rviz_node("revisit.rviz", ["image", "odom"], ["revisit/evidence", "revisit/markers"]),
        ]
    )
