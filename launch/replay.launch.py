"""Play a recording through all three stages; every other argument is perception.launch.py's."""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare


def generate_launch_description() -> LaunchDescription:
    perception = PathJoinSubstitution(
        [FindPackageShare("robot_perception"), "launch", "perception.launch.py"]
    )
    return LaunchDescription(
        [
            # Without a default: here it must be given.
            DeclareLaunchArgument(
                "recording", description="recording to play: bag, MCAP, KITTI folder"
            ),
            IncludeLaunchDescription(PythonLaunchDescriptionSource(perception)),
        ]
    )
