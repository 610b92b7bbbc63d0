"""`ros2 launch softflow_bringup robot.launch.py`: the graph of config/graphs/robot.yaml."""

from launch import LaunchDescription

from softflow_bringup.ros_launch import to_launch_description


def generate_launch_description() -> LaunchDescription:
    """Arguments and nodes of the graph."""
    return to_launch_description("robot")
