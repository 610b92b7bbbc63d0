"""`./softflow bench method`: tasks x methods x seeds in simulation, with intervals, curves and a table.

Cells run in worker processes of one thread each. Finished cells are kept, interrupted ones go on where they were.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from softflow_experiments.methods import METHODS
from softflow_experiments.report import write_report
from softflow_experiments.tasks import TASKS
from softflow_node.signals import StopFlag

QUICK = {
    "tasks": ["cube"],
    "methods": ["softflow", "gaussian", "per_step", "bc"],
    "seeds": [0],
    "minutes": 6.0,
}
DEFAULT_METHODS = [name for name in METHODS if name != "best_of_1"]


def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit code, 130 when interrupted."""
    options = _parser().parse_args(argv)
    if options.cell:
        return run_cell(options)
    if options.quick:
        options.tasks, options.methods, options.seeds = QUICK["tasks"], QUICK["methods"], QUICK["seeds"]
        options.minutes = QUICK["minutes"]
    if not options.report:
        code = run_cells(options)
        if code:
            return code
    print(write_report(options.out, options.document, options.images))
    return 0


def run_cells(options: argparse.Namespace) -> int:
    """All cells that have no result yet, `workers` at a time; 0, or the first exit code that is not."""
    cells = list(itertools.product(options.tasks, options.seeds, options.methods))
    waiting = [c for c in cells if not (options.out / _path(*c) / "result.json").exists()]
    print(f"{len(cells)} cells, {len(cells) - len(waiting)} of them finished before", flush=True)
    running: list[tuple[tuple[str, int, str], subprocess.Popen[bytes]]] = []
    stop, code = StopFlag.install(), 0
    while running or (waiting and not stop.is_set() and not code):
        while waiting and len(running) < options.workers and not stop.is_set() and not code:
            running.append((waiting[0], _start(options, *waiting.pop(0))))
        time.sleep(0.5)
        if stop.is_set() or code:
            for _, process in running:
                process.terminate()
        for cell, process in list(running):
            if process.poll() is not None:
                running.remove((cell, process))
                code = code or process.returncode
                print(
                    f"{'/'.join(map(str, cell))}: {'done' if not process.returncode else 'stopped'}",
                    flush=True,
                )
    return 130 if stop.is_set() else code


def run_cell(options: argparse.Namespace) -> int:
    """One cell in this process."""
    import torch

    from softflow_experiments.trial import Cell, InterruptedTrialError, Trial

    torch.set_num_threads(1)
    task, method, seed = options.cell.split("/")
    cell = Cell(task, method, int(seed), robot_minutes=options.minutes, evaluation_episodes=options.episodes)
    stop = StopFlag.install()
    trial = Trial(
        cell, options.out / cell.directory, stop=stop.is_set, log=lambda text: print(text, flush=True)
    )
    try:
        trial.run()
    except InterruptedTrialError:
        return 130
    return 0


def _start(options: argparse.Namespace, task: str, seed: int, method: str) -> subprocess.Popen[bytes]:
    directory = options.out / _path(task, seed, method)
    directory.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "softflow_experiments.method", "--cell", f"{task}/{method}/{seed}"]
    command += ["--out", str(options.out), "--episodes", str(options.episodes)]
    command += ["--minutes", str(options.minutes)] if options.minutes is not None else []
    with (directory / "log.txt").open("ab") as log:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        # In a session of its own: a Ctrl-C reaches this process, which ends the cells in order.
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)


def _path(task: str, seed: int, method: str) -> Path:
    return Path(task) / method / str(seed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="softflow bench method",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"{name:16} {method.help}" for name, method in METHODS.items()),
    )
    parser.add_argument("--tasks", nargs="+", choices=sorted(TASKS), default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=DEFAULT_METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each")
    parser.add_argument(
        "--minutes", type=_positive, help="[min] online, robot time, instead of the tasks' own"
    )
    parser.add_argument("--episodes", type=int, default=20, help="of the evaluation after the last stage")
    parser.add_argument("--out", type=Path, default=Path("runs/method"), help="results, one folder a cell")
    parser.add_argument("--quick", action="store_true", help=f"about ten minutes: {QUICK}")
    parser.add_argument("--report", action="store_true", help="only make the table and the curves anew")
    parser.add_argument("--document", type=Path, help="Markdown file with the markers for the table")
    parser.add_argument("--images", type=Path, help="folder of the curves; default: OUT")
    parser.add_argument("--cell", metavar="TASK/METHOD/SEED", help="one cell, in this process")
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0.0:
        raise argparse.ArgumentTypeError(f"is {text}, must be > 0")
    return value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
