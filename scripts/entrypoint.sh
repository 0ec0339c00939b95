#!/usr/bin/env bash
# Of the robot's container: the distribution, the environment and the package, then the command.
set -e
# shellcheck disable=SC1090,SC1091
. "/opt/ros/$ROS_DISTRO/setup.bash"
# shellcheck disable=SC1091
. /ws/.venv/bin/activate
# shellcheck disable=SC1091
. /ws/install/setup.bash
exec "$@"
