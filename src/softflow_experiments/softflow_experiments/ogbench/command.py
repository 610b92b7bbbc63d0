"""`./softflow bench ogbench`: one task of OGBench, one seed, beside the published figures.

The play data are regenerated with the oracles of OGBench's wheel where they are missing. A finished cell is kept, an
interrupted one goes on where it was, one with updates and online steps where the cell without online steps ended.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from softflow_experiments.matrix import INTERRUPTED
from softflow_experiments.method import OneLineParser
from softflow_experiments.ogbench.cell import MAX_SEED, Cell, CellRun
from softflow_experiments.ogbench.data import ensure
from softflow_experiments.ogbench.environment import FAMILIES, MAX_TASK, available
from softflow_experiments.ogbench.report import write_report
from softflow_experiments.trial import InterruptedTrialError, check_plan
from softflow_learner.agent import TrainingDivergedError
from softflow_learner.checkpoint import CheckpointError
from softflow_learner.session import parse_settings
from softflow_node.arguments import within
from softflow_node.files import lock_directory
from softflow_node.signals import StopFlag


def main(argv: Sequence[str]) -> int:
    """Entry point; 0 = done, 2 = wrong arguments or data, 130 = interrupted and resumable."""
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        if options.report:
            print(write_report(options.out, options.document))
            return 0
        if options.env is None:
            parser.error("argument --env is missing, allowed: " + ", ".join(FAMILIES))
        if not available():
            parser.error("the wheel `ogbench` is not installed; `./softflow bench ogbench` installs it")
        os.environ.setdefault("MUJOCO_GL", "disable")  # Nothing is drawn.
        return (
            _generate(options) if options.generate else run_cell(_cell(options), options.out, _data(options))
        )
    except (CheckpointError, TrainingDivergedError, ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2


def run_cell(cell: Cell, out: Path, data: Path) -> int:
    """One cell in this process; returns the exit code."""
    torch.set_num_threads(1)  # More than one would change the last bits, and take the other cells' cores.
    stop, directory = StopFlag.install(), out / cell.directory
    with lock_directory(directory):
        result = directory / "result.json"
        if result.exists():
            check_plan(directory, json.loads(result.read_text()), cell.plan())
            print(f"{directory}: finished before")
            return 0
        # Only where there are both parts: the offline part of another cell is that cell itself, or nothing.
        offline = out / cell.offline_part.directory if cell.updates and cell.online_steps else None
        try:
            done = CellRun(cell, directory, data, offline=offline, stop=stop.is_set, log=_say).run()
        except InterruptedTrialError:
            print("interrupted; the same command goes on")
            return INTERRUPTED
    success, deployed = (sum(done[name]) / len(done[name]) for name in ("success", "deployed"))
    print(
        f"{directory}: success {success:.2f} over {len(done['success'])} episodes, "
        f"{deployed:.2f} with less noise, as a robot acts; data {done['data']}"
    )
    return 0


def _generate(options: argparse.Namespace) -> int:
    stop = StopFlag.install().is_set
    ensure(_data(options), options.env, options.data_seed, options.transitions, _say, stop)
    return INTERRUPTED if stop() else 0


def _cell(options: argparse.Namespace) -> Cell:
    return Cell(
        options.env,
        options.task or FAMILIES[options.env].task,
        options.seed,
        updates=options.updates,
        online_steps=options.online_steps,
        transitions=options.transitions,
        data_seed=options.data_seed,
        evaluation_episodes=options.episodes,
        settings=tuple(parse_settings(options.set).items()),
    )


def _data(options: argparse.Namespace) -> Path:
    return options.data or options.out / "data"


def _say(text: str) -> None:
    print(text, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="softflow bench ogbench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    seed, count = within(int, 0, MAX_SEED), within(int, 0, 10**8)
    parser.add_argument("--env", choices=list(FAMILIES))
    parser.add_argument(
        "--task", type=within(int, 1, MAX_TASK), help="default: the one with published figures"
    )
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument("--updates", type=count, default=100_000, help="offline; default: 100000")
    parser.add_argument(
        "--online-steps", type=count, default=0, help="of the environment, after the updates; default: 0"
    )
    parser.add_argument(
        "--transitions", type=within(int, 1, 10**7), default=400_000, help="of play data; default: 400000"
    )
    parser.add_argument("--data-seed", type=seed, default=0, help="of the play data")
    parser.add_argument("--data", type=Path, help="folder of the play data; default: OUT/data")
    parser.add_argument("--out", type=Path, default=Path("runs/ogbench"), help="default: runs/ogbench")
    parser.add_argument(
        "--episodes",
        type=within(int, 1, 10_000),
        default=50,
        help="of each of the two last evaluations, with all of the noise and deployed",
    )
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", help="fields of PolicySpec and Config"
    )
    parser.add_argument("--generate", action="store_true", help="only make the play data")
    parser.add_argument("--report", action="store_true", help="only make the table anew")
    parser.add_argument("--document", type=Path, help="Markdown file with the markers for the table")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
