# The robot side: camera, perception, policy, hand driver, recorder. Build from the repository's top:
#   docker build -f docker/robot.Dockerfile -t softflow-robot .
FROM ros:jazzy-ros-base

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1

# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3-venv python3-dev python3-colcon-common-extensions \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /softflow
COPY . .

# Dependencies named in the package.xml files that the distribution has; the rest comes from requirements/.
RUN apt-get update \
 && rosdep update --rosdistro jazzy \
 && rosdep install --from-paths src --ignore-src -r -y --rosdistro jazzy \
 && rm -rf /var/lib/apt/lists/*

# TORCH: cpu or cuda; TORCH_INDEX: an index that has the CPU build, see PyTorch's installation page.
ARG TORCH=auto
ARG TORCH_INDEX=
# Sourced, so softflow builds on the distribution's ROS 2 into install/ (see tools/bootstrap).
RUN . /opt/ros/jazzy/setup.bash \
 && SOFTFLOW_TORCH="${TORCH}" SOFTFLOW_TORCH_INDEX="${TORCH_INDEX}" ./softflow setup

ENTRYPOINT ["/softflow/docker/entrypoint.sh"]
CMD ["ros2", "launch", "softflow_bringup", "robot.launch.py"]
