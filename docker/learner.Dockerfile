# The learner, on a machine with an NVIDIA GPU (the host needs the NVIDIA container toolkit, not CUDA):
#   docker build -f docker/learner.Dockerfile -t softflow-learner .
# ROS 2 from the distribution, torch with its own CUDA libraries in a venv that sees the system's packages.
FROM ros:jazzy-ros-base

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3-venv python3-dev python3-colcon-common-extensions \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /softflow
COPY . .

RUN apt-get update \
 && rosdep update --rosdistro jazzy \
 && rosdep install --from-paths src --ignore-src -r -y --rosdistro jazzy \
 && rm -rf /var/lib/apt/lists/*

RUN . /opt/ros/jazzy/setup.bash \
 && ./softflow setup --torch cuda

ENTRYPOINT ["/softflow/docker/entrypoint.sh"]
CMD ["ros2", "launch", "softflow_bringup", "learner.launch.py"]
