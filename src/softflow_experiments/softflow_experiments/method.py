"""`./softflow bench method`: tasks x methods x seeds in simulation, with intervals, curves and a table.

Cells run in worker processes of one thread each. Finished cells are kept, interrupted ones go on where they were.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import torch

from softflow_experiments.matrix import INTERRUPTED, Matrix, finished, run
from softflow_experiments.methods import METHODS
from softflow_experiments.report import write_report
from softflow_experiments.tasks import TASKS
from softflow_experiments.trial import MAX_SEED, Cell, InterruptedTrialError, Trial
from softflow_learner.agent import TrainingDivergedError
from softflow_learner.checkpoint import CheckpointError
from softflow_node.arguments import within
from softflow_node.files import lock_directory
from softflow_node.signals import StopFlag

QUICK_METHODS = ("softflow", "gaussian", "per_step", "bc")
QUICK_MINUTES, QUICK_EPISODES = 6.0, 10
DEFAULT_METHODS = [name for name in METHODS if name != "best_of_1"]


def main(argv: Sequence[str]) -> int:
    """Entry point; 0 = done, 1 = a cell failed, 2 = wrong arguments, 130 = interrupted and resumable."""
    options = _parser().parse_args(argv)
    try:
        if options.cell:
            return run_cell(options.cell, options)
        code = 0 if options.report else run_matrix(_matrix(options), options.workers)
        if code != INTERRUPTED:
            print(write_report(_out(options), options.document, options.images))
        return code
    except (CheckpointError, TrainingDivergedError, ValueError, OSError) as error:
        print(f"softflow bench method: {error}", file=sys.stderr)
        return 2


def run_matrix(matrix: Matrix, workers: int) -> int:
    """Run the cells and say so; returns the exit code."""
    stop = StopFlag.install()
    failed = run(matrix, workers, stop.is_set, lambda text: print(text, flush=True))
    if stop.is_set():
        print("interrupted; the same command goes on")
        return INTERRUPTED
    return 1 if failed else 0


def run_cell(cell: tuple[str, str, int], options: argparse.Namespace) -> int:
    """One cell in this process; returns the exit code."""
    torch.set_num_threads(1)  # More than one would change the last bits, and take the other cells' cores.
    planned = Cell(*cell, robot_minutes=options.minutes, evaluation_episodes=options.episodes)
    stop, directory = StopFlag.install(), _out(options) / planned.directory
    with lock_directory(directory):
        if finished(_out(options), planned):
            print(f"{directory}: finished before")
            return 0
        try:
            Trial(planned, directory, stop=stop.is_set, log=lambda text: print(text, flush=True)).run()
        except InterruptedTrialError:
            print("interrupted; the same command goes on")
            return INTERRUPTED
    return 0


def _matrix(options: argparse.Namespace) -> Matrix:
    out = _out(options)
    if options.quick:
        return Matrix(["cube"], QUICK_METHODS, [0], out, QUICK_MINUTES, QUICK_EPISODES)
    return Matrix(options.tasks, options.methods, options.seeds, out, options.minutes, options.episodes)


def _out(options: argparse.Namespace) -> Path:
    return options.out or Path("runs/method-quick" if options.quick else "runs/method")


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong without repeating every option."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="softflow bench method",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"{name:16} {method.help}" for name, method in METHODS.items()),
    )
    seed, count = within(int, 0, MAX_SEED), within(int, 1, 10_000)
    parser.add_argument("--tasks", nargs="+", metavar="NAME", choices=list(TASKS), default=list(TASKS))
    parser.add_argument(
        "--methods",
        nargs="+",
        metavar="NAME",
        choices=list(METHODS),
        default=DEFAULT_METHODS,
        help="see below",
    )
    parser.add_argument("--seeds", nargs="+", type=seed, metavar="SEED", default=[0, 1, 2])
    parser.add_argument("--workers", type=within(int, 1, 256), default=2, help="processes, one thread each")
    parser.add_argument(
        "--minutes",
        type=within(float, 0, 10_000),
        help="[min] online, robot time, instead of the tasks' own",
    )
    parser.add_argument("--episodes", type=count, default=20, help="of the evaluation after each stage")
    parser.add_argument("--out", type=Path, help="results, a folder for each cell; default: runs/method")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"about ten minutes: cube, seed 0, {', '.join(QUICK_METHODS)}, {QUICK_MINUTES:.0f} robot minutes, "
        "into runs/method-quick",
    )
    parser.add_argument("--report", action="store_true", help="only make the table and the curves anew")
    parser.add_argument("--document", type=Path, help="Markdown file with the markers for the table")
    parser.add_argument("--images", type=Path, help="folder of the curves; default: OUT")
    parser.add_argument("--cell", type=_cell, metavar="TASK/METHOD/SEED", help="one cell, in this process")
    return parser


def _cell(text: str) -> tuple[str, str, int]:
    task, method, seed = text.split("/") if text.count("/") == 2 else (text, "", "")
    for name, value, known in (("task", task, TASKS), ("method", method, METHODS)):
        if value not in known:
            raise argparse.ArgumentTypeError(f"is {text!r}: {name} {value!r}, allowed: {', '.join(known)}")
    return task, method, within(int, 0, MAX_SEED)(seed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
