"""The node graph of softflow, described once, and the two ways to run it: as processes and by launch_ros."""
