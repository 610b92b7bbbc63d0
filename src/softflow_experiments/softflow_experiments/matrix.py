"""The cells of a comparison, run by worker processes of one thread each."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from softflow_experiments.trial import STAGES, Cell, check_plan

INTERRUPTED = 130


@dataclass(frozen=True)
class Matrix:
    """Tasks x methods x seeds."""

    tasks: Sequence[str]
    methods: Sequence[str]
    seeds: Sequence[int]
    out: Path
    robot_minutes: float | None = None
    """[min] online; None = the tasks' own."""
    evaluation_episodes: int = 20

    def cells(self) -> list[Cell]:
        """In the order in which they run: the first seed of all methods comes first."""
        grid = itertools.product(
            dict.fromkeys(self.tasks), dict.fromkeys(self.seeds), dict.fromkeys(self.methods)
        )
        minutes, episodes = self.robot_minutes, self.evaluation_episodes
        return [Cell(t, m, s, robot_minutes=minutes, evaluation_episodes=episodes) for t, s, m in grid]

    def unfinished(self) -> list[Cell]:
        """Cells without a result. Raises OtherPlanError if there is one of another plan."""
        return [cell for cell in self.cells() if not finished(self.out, cell)]


def finished(out: Path, cell: Cell) -> bool:
    """Whether the cell has its result, of all stages. Raises OtherPlanError if that is of another plan."""
    path = out / cell.directory / "result.json"
    if not path.exists():
        return False
    result = json.loads(path.read_text())
    check_plan(path.parent, result, cell.plan())
    return set(STAGES) <= set(result["stages"])  # An earlier release's may lack one.


def run(matrix: Matrix, workers: int, stop: Callable[[], bool], say: Callable[[str], None]) -> list[Cell]:
    """Run what has no result yet, `workers` cells at a time; returns those that failed.

    `stop` ends the running cells, which save what they have. One that fails does not end the others: what it said
    is in its log.txt.
    """
    waiting = matrix.unfinished()
    failed: list[Cell] = []
    total = len(matrix.cells())
    say(f"{total} cells, {total - len(waiting)} of them finished before")
    running: dict[Cell, subprocess.Popen[bytes]] = {}
    told = False
    while running or (waiting and not stop()):
        while waiting and len(running) < workers and not stop():
            cell = waiting.pop(0)
            running[cell] = _start(matrix, cell)
        time.sleep(0.2)
        if stop() and not told:
            told = True  # Once: a second signal would kill a worker that is about to exit by itself.
            for process in running.values():
                process.terminate()
        for cell, process in list(running.items()):
            code = process.poll()
            if code is None:
                continue
            del running[cell]
            said = "done" if code == 0 else "interrupted" if told or code == INTERRUPTED else ""
            if not said:
                failed.append(cell)
            say(f"{cell.directory}: {said or f'failed, see {_log(matrix, cell)}'}")
    return failed


def _start(matrix: Matrix, cell: Cell) -> subprocess.Popen[bytes]:
    log = _log(matrix, cell)
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "softflow_experiments.method", "--cell", cell.directory.as_posix()]
    command += ["--out", str(matrix.out), "--episodes", str(cell.evaluation_episodes)]
    command += ["--minutes", str(cell.robot_minutes)] if cell.robot_minutes is not None else []
    with log.open("ab") as file:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        # In a session of its own: a Ctrl-C reaches this process, which ends the cells in order.
        return subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)


def _log(matrix: Matrix, cell: Cell) -> Path:
    return matrix.out / cell.directory / "log.txt"
