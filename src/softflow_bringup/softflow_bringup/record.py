"""`softflow record`: demonstrations of the scripted teacher or of a human, through the nodes, into bags."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from softflow_bringup.cameras import add_pictures
from softflow_bringup.domain import private_domain
from softflow_bringup.episodes import GraphFailedError, run_episodes
from softflow_bringup.values import GraphError
from softflow_experiments.statistics import bootstrap
from softflow_node.arguments import within
from softflow_recorder.bag import Summary
from softflow_tasks import make_task, task_ids


def graph_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """A human has the time of the clock, and begins when the hand is taken: a simulated world waits until then."""
    human = options.source == "teleop"
    return {
        "task": options.task,
        "seed": options.seed,
        "source": options.source,
        "pictures": options.pictures,
        "speed": options.speed or ("1" if human else "max"),
        "lock_step": options.lock_step or ("true" if human else "auto"),
    }


def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="softflow record", description="Record demonstrations into bags.")
    parser.add_argument(
        "--run", type=Path, default=Path("runs/demos"), help="directory; an interrupted one goes on"
    )
    parser.add_argument("--episodes", type=within(int, 1, 10**6), default=60)
    parser.add_argument("--task", choices=task_ids(), default="CubeRotation-v0")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--source", choices=("teacher", "teleop"), default="teacher", help="who shows how")
    parser.add_argument("--speed", help="simulated against real time: a number or max; max, with teleop 1")
    parser.add_argument(
        "--lock-step",
        choices=("auto", "true", "false"),
        help="simulation waits for who shows how; auto, with teleop true. A real hand: false",
    )
    add_pictures(parser, "record those of these cameras, with + between them")
    options = parser.parse_args(argv)
    metric = make_task(options.task).metric
    shown = 0

    def show(summaries: list[Summary]) -> None:
        nonlocal shown
        for summary in summaries[shown:]:
            shown += 1
            print(
                f"episode {shown}/{options.episodes}: {metric} {summary.metrics[metric]:.2f}  {summary.path.name}"
            )

    try:
        arguments = graph_arguments(options)
        # Devices of a human are started elsewhere, in the domain of the shell.
        with nullcontext() if options.source == "teleop" else private_domain():
            summaries = run_episodes(
                "record_demos", arguments, options.run, options.episodes, show, time.sleep
            )
    except (GraphFailedError, GraphError, ValueError, OSError) as error:
        print(f"softflow record: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on")
        return 130
    print(f"{metric}: {bootstrap([s.metrics[metric] for s in summaries])}")
    print(f"bags: {options.run / 'bags'}")
    return 0
