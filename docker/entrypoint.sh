#!/usr/bin/env bash
# Runs the container's command with the distribution's ROS 2, softflow's packages and its venv.
set -eo pipefail # not -u: ROS 2's setup.bash reads unset variables
source /opt/ros/jazzy/setup.bash
exec /softflow/softflow shell "$@"
