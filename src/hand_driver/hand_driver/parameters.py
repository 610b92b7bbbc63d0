"""Parameters of the driver node. Plain Python."""

from __future__ import annotations

from dataclasses import dataclass

from hand_driver.backends import backend_names
from softflow_node.parameters import bounded
from softflow_tasks import task_ids


@dataclass(frozen=True)
class DriverParameters:
    """Parameters of the driver node."""

    hand: str = bounded("", doc="name in config/hands or path of a YAML file; empty: the task's hand")
    backend: str = bounded("", choices=("", *backend_names()), doc="empty: the one of the hand's file")
    task: str = bounded(
        "CubeRotation-v0",
        choices=("", *task_ids()),
        doc="maps actions to joint targets; empty: none, an action in [-1, 1] a joint",
    )
    calibration: str = bounded("", doc="file; empty: next to the hand's file, with the suffix .calibration")
    autostart: bool = bounded(True, doc="configure and activate at once, without a lifecycle manager")
    speed: str = bounded("1", doc="simulated clock against wall clock: a number or 'max'")
    lock_step: str = bounded(
        "auto", choices=("auto", "true", "false"), doc="the world waits for the policy; auto: at max"
    )
    clock_topic: str = bounded("clock", doc="where the robot clock goes; empty = nowhere")
