"""Tasks: observation layout, reward, success, termination and metric, without ROS and without a simulator."""

from softflow_tasks.cube_rotation import CubeRotation
from softflow_tasks.task import HandSample, Layout, ObjectSample, Outcome, Task, make_task, task_ids

__all__ = ["CubeRotation", "HandSample", "Layout", "ObjectSample", "Outcome", "Task", "make_task", "task_ids"]
