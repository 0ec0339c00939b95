"""ament_python package; installable by pip too, with `[ros]` where there is no ROS."""

from glob import glob
from pathlib import Path

from setuptools import find_packages, setup

NAME = "robot_perception"
HERE = Path(__file__).resolve().parent


def requirements() -> list[str]:
    lines = (HERE / "requirements.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def package_files(*endings: str) -> list[str]:
    package = HERE / NAME
    return [str(p.relative_to(package)) for e in endings for p in sorted(package.rglob(f"*{e}"))]


setup(
    name=NAME,
    version="0.1.0",
    description="Segment anything, know a place again, see the next half second: ROS 2 nodes",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    maintainer="robot_perception maintainers",
    maintainer_email="maintainers@robot-perception.invalid",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={NAME: package_files(".yaml", ".safetensors", ".html")},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", sorted(glob("launch/*.launch.py"))),
        (f"share/{NAME}/config", sorted(glob("config/*.yaml") + glob("config/*.xml"))),
        (f"share/{NAME}/config/rviz", sorted(glob("config/rviz/*.rviz"))),
        (f"share/{NAME}/config/foxglove", sorted(glob("config/foxglove/*.json"))),
    ],
    zip_safe=False,
    install_requires=requirements(),
    extras_require={
        "ros": [
            "ros-ament-index-python",
            "ros-common-interfaces",
            "ros-lifecycle-msgs",
            "ros-rclpy>=9.1",
            "ros-rmw-fastrtps-cpp",
            "ros-rosgraph-msgs",
        ],
        # `batch --address`: many machines.
        "cluster": ["ray>=2.40"],
        # `replay --viewer`: the rerun viewer.
        "viewer": ["rerun-sdk>=0.24"],
        # `forecast train --search`.
        "search": ["optuna>=4.0"],
        # Coverage-guided fuzzing, for `make reliability`.
        "fuzz": ["atheris>=3.0"],
        "test": [
            "ament-xmllint",
            "colcon-common-extensions",
            "flake8",
            "hypothesis",
            "mcap-ros2-support",
            "mypy",
            "optuna>=4.0",
            "pydocstyle",
            "pytest>=8",
            "pytest-cov",
            "pytest-timeout",
            "rerun-sdk>=0.24",
            "ros-ament-flake8",
            "ros-ament-pep257",
            "ruff",
        ],
    },
    entry_points={
        "console_scripts": [
            "robot-perception = robot_perception.apps.cli:command",
            "segmentation_node = robot_perception.ros.segmentation_node:main",
            "revisit_node = robot_perception.ros.revisit_node:main",
            "forecast_node = robot_perception.ros.forecast_node:main",
            "perception_node = robot_perception.ros.perception_node:main",
            "player_node = robot_perception.ros.player_node:main",
        ]
    },
)
