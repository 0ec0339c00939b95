"""Segment anything: camera images in, label images out."""

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
            *declare("fixed_frame", "image_topic", "camera_info_topic", fixed_frame="camera"),
            config_argument("segmentation.yaml"),
            *large_messages(),
            Node(
                **options("image", "camera_info"),
                executable="segmentation_node",
                name="segmentation",
                parameters=[
                    LaunchConfiguration("config_file"),
                    {"use_sim_time": value("use_sim_time", bool)},
                ],
            ),
            rviz_node(
                "segmentation.rviz",
                ["image"],
                ["segmentation/overlay", "segmentation/labels", "segmentation/confidence"],
            ),
        ]
    )
