"""Tasks: observation layout, reward, success, termination and metric, without ROS and without a simulator."""

from softflow_tasks.cube_rotation import CubeRotation
from softflow_tasks.task import HandSample, Layout, Objects, ObjectSample, Outcome, Task, make_task, task_ids
from softflow_tasks.tool_cut import ToolCut

__all__ = [
    "CubeRotation",
    "HandSample",
    "Layout",
    "ObjectSample",
    "Objects",
    "Outcome",
    "Task",
    "ToolCut",
    "make_task",
    "task_ids",
]
