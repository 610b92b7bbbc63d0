"""Lifecycle states of the driver, as ROS 2 users know them."""
