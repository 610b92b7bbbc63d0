"""`softflow teleop`: the keyboard node in this terminal, for a robot whose graph runs with teleoperation."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Entry point; the node takes this process over, and its terminal with it."""
    parser = argparse.ArgumentParser(prog="softflow teleop", description="Take the hand by the keyboard.")
    parser.add_argument("--namespace", default="/hand0", help="of the robot")
    parser.add_argument("--devices", default="", help="name in config/teleop, or a YAML file; the hand's own")
    options = parser.parse_args(argv)
    os.execv(sys.executable, [sys.executable, *node_arguments(options.namespace, options.devices)])


def node_arguments(namespace: str, devices: str) -> list[str]:
    """Of the interpreter, for the keyboard node."""
    arguments = ["-m", "softflow_teleop.keyboard.node", "--ros-args", "-r", f"__ns:={namespace}"]
    return arguments + (["-p", f"devices:={devices}"] if devices else [])
