"""See the next half second: LiDAR scans in, predicted scans out."""

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
            *declare("fixed_frame", "points_topic", "odom_topic"),
            config_argument("forecast.yaml"),
            *large_messages(),
            Node(
                **options("points", "odom"),
                executable="forecast_node",
                name="forecast",
                parameters=[
                    LaunchConfiguration("config_file"),
                    {"use_sim_time": value("use_sim_time", bool)},
                ],
            ),
            rviz_node("forecast.rviz", ["points"], ["forecast/points", "forecast/range_image"]),
        ]
    )
