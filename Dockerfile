# robot: the package built by colcon on a ROS 2 distribution.   docker build --target robot .
# workstation: the package with the ROS 2 wheels of PyPI, for replay, batch, training and tests.
#                                                          docker build --target workstation .
ARG ROS_IMAGE=ros:kilted-ros-base
ARG DEBIAN_IMAGE=debian:bookworm-slim

FROM ${DEBIAN_IMAGE} AS workstation
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# What scripts/setup.sh would install, in a layer of its own.
RUN apt-get update \
 && apt-get install -y --no-install-recommends \
    ca-certificates git libegl1 libgl1 libgomp1 libusb-1.0-0 libx11-6 make python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/robot_perception
# The wheels come before the code: they change less often.
COPY requirements.txt ./
RUN python3 -m venv .venv && .venv/bin/pip install --no-cache-dir -r requirements.txt
COPY . .
RUN .venv/bin/pip install --no-cache-dir --editable '.[ros,test]'
ENV PATH=/opt/robot_perception/.venv/bin:$PATH \
    FASTDDS_DEFAULT_PROFILES_FILE=/opt/robot_perception/config/fastdds.xml
ENTRYPOINT ["robot-perception"]
CMD ["doctor"]

FROM ${ROS_IMAGE} AS robot
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /ws
COPY package.xml requirements.txt src/robot_perception/
RUN apt-get update \
 && rosdep update --rosdistro "$ROS_DISTRO" \
 && rosdep install --from-paths src --ignore-src -y \
 && apt-get install -y --no-install-recommends python3-venv \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv --system-site-packages .venv \
 && .venv/bin/pip install --no-cache-dir -r src/robot_perception/requirements.txt \
    colcon-common-extensions
COPY . src/robot_perception
RUN . "/opt/ros/$ROS_DISTRO/setup.bash" && . .venv/bin/activate \
 && python -m colcon build --packages-select robot_perception
ENV FASTDDS_DEFAULT_PROFILES_FILE=/ws/install/robot_perception/share/robot_perception/config/fastdds.xml
COPY scripts/entrypoint.sh /entrypoint.sh
ENTRYPOINT ["/entrypoint.sh"]
CMD ["ros2", "launch", "robot_perception", "perception.launch.py"]
