"""All three stages, in three processes or in one, on live topics or on a recording."""

from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.actions import OpaqueFunction
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from robot_perception.ros.launch_parameters import stage_parameters
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
                "composed",
                "recording",
                "rate",
                "loop",
                "image_topic",
                "camera_info_topic",
                "points_topic",
                "odom_topic",
                "labels_wait_s",
                "fixed_frame",
            ),
            config_argument("perception.yaml"),
            *large_messages(),
            OpaqueFunction(function=nodes),
        ]
    )


def nodes(context: LaunchContext) -> list[Any]:
    recording = LaunchConfiguration("recording").perform(context)
    if recording:
        # A recording brings its own time.
        context.launch_configurations["use_sim_time"] = "true"
    composed = IfCondition(LaunchConfiguration("composed")).evaluate(context)
    stages = one_process() if composed else three_processes(context)
    rviz = rviz_node(
        "perception.rviz",
        ["image", "points", "odom"],
        [
            "segmentation/overlay",
            "segmentation/labels",
            "revisit/evidence",
            "revisit/markers",
            "forecast/points",
            "forecast/range_image",
        ],
    )
    return [*stages, *([player()] if recording else []), rviz]


def one_process() -> list[Node]:
    return [
        Node(
            **options("image", "camera_info", "points", "odom"),
            executable="perception_node",
            name="perception",
            parameters=[
                LaunchConfiguration("config_file"),
                {"use_sim_time": value("use_sim_time", bool)},
            ],
        )
    ]


def three_processes(context: LaunchContext) -> list[Node]:
    file = LaunchConfiguration("config_file").perform(context)
    sim_time = {"use_sim_time": value("use_sim_time", bool)}
    wait = {"labels_wait_s": value("labels_wait_s", float)}
    revisit = options("image", "camera_info", "odom")
    # The places are described by the segments that the segmentation node has found.
    revisit["remappings"].append(("labels", "segmentation/labels"))
    return [
        Node(
            **options("image", "camera_info"),
            executable="segmentation_node",
            name="segmentation",
            parameters=[stage_parameters(file, "segmentation"), sim_time],
        ),
        Node(
            **revisit,
            executable="revisit_node",
            name="revisit",
            parameters=[stage_parameters(file, "revisit"), wait, sim_time],
        ),
        Node(
            **options("points", "odom"),
            executable="forecast_node",
            name="forecast",
            parameters=[stage_parameters(file, "forecast"), sim_time],
        ),
    ]


def player() -> Node:
    return Node(
        **options("image", "camera_info", "points", "odom", respawn=False, emulate_tty=False),
        executable="player_node",
        name="player",
        parameters=[
            {
                "recording": value("recording", str),
                "rate": value("rate", float),
                "loop": value("loop", int),
                # The nodes load their models before they subscribe.
                "delay_s": 60.0,
            }
        ],
    )
