"""`softflow train STAGE`: the stages from bags in this process; the online stage is a graph with a robot.

`teacher` and `distill` make a student in simulation, where the stages can go on from it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

SIMULATED = {
    "teacher": "softflow_experiments.teacher_ppo",
    "distill": "softflow_experiments.distill",
}
"""Command -> module with `main(argv) -> int`."""


def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit code."""
    if argv and argv[0] == "online":
        from softflow_bringup.cli import main as command

        return command(["up", "online_rl", *argv[1:]])
    if argv and argv[0] in SIMULATED:
        return simulated(argv[0], argv[1:])
    from softflow_learner.cli import main as train

    return train(argv)


def simulated(command: str, argv: Sequence[str]) -> int:
    """Run `teacher` or `distill`; 2 where a package that it needs is missing."""
    try:
        module = importlib.import_module(SIMULATED[command])
    except ModuleNotFoundError as error:
        print(f"softflow train {command}: the Python module {error.name!r} is missing", file=sys.stderr)
        return 2
    return int(module.main(argv))
