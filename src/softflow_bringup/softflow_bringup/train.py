"""`softflow train STAGE`: the stages from bags in this process; the online stage is a graph with a robot."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit code."""
    if argv and argv[0] == "online":
        from softflow_bringup.cli import main as command

        return command(["up", "online_rl", *argv[1:]])
    from softflow_learner.cli import main as train

    return train(argv)
