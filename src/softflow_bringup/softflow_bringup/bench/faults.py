"""SIGKILL at random moments: nothing acknowledged is lost or stored twice, and the hand moves as it may."""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from softflow_bringup.bench.ledger import Audit, audit
from softflow_bringup.bench.system import (
    ONLINE,
    PATIENT,
    closed_bags,
    impatient,
    message_definitions,
    prepare_learner,
    spool_items,
    until,
)
from softflow_bringup.episodes import GraphFailedError
from softflow_bringup.graph import GraphDescription, load_graph
from softflow_bringup.shm import SHM, owned_names
from softflow_bringup.supervisor import Supervisor

if TYPE_CHECKING:
    from softflow_bringup.bench.node import Tap

LOOK = 0.05
"""[s] between two looks at the processes; also the resolution of a recovery time."""
SAY_EVERY = 20
"""Kills between two lines of progress."""
START_LIMIT, RECOVERY_LIMIT, DRAIN_LIMIT = 120.0, 90.0, 120.0
"""[s] of patience, after which a campaign has failed."""


@dataclass
class Outcome:
    """What a campaign found."""

    kills: Counter[str] = field(default_factory=Counter)
    recoveries: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """[s] from a kill until the node did its work again."""
    not_recovered: list[str] = field(default_factory=list)
    died: list[str] = field(default_factory=list)
    """Nodes that died by themselves."""
    audit: Audit = field(default_factory=Audit)
    violations: list[str] = field(default_factory=list)
    states: int = 0
    held: int = 0
    largest_step: float = 0.0
    drained: bool = False
    left_in_memory: list[str] = field(default_factory=list)
    """Shared memory of dead nodes that was not cleaned up."""
    seconds: float = 0.0

    @property
    def faults(self) -> list[str]:
        """Everything that must not be."""
        waiting = [] if self.drained else [f"{self.audit.waiting} items wait in the spool after the drain"]
        memory = [f"/dev/shm: {name} is left" for name in self.left_in_memory]
        return [*self.audit.faults, *self.violations, *self.not_recovered, *self.died, *waiting, *memory]

    def on_line(self, name: str, line: str) -> None:
        """A line of the supervisor's log."""
        if name == "softflow" and " died (" in line and "SIGKILL" not in line:
            self.died.append(line)


class Campaign:
    """Kills nodes of one running graph, and watches each until it works again."""

    def __init__(self, supervisor: Supervisor, tap: Tap, robot: Path, outcome: Outcome, seed: int) -> None:
        self._supervisor, self._tap, self._robot, self._outcome = supervisor, tap, robot, outcome
        self._random = random.Random(seed)
        self._killed: dict[str, tuple[float, int]] = {}
        """Label -> (when, process) of a kill from which the node has not recovered."""
        self._since: dict[str, float] = {}
        """Label -> when its new process was first seen."""
        self._owned: set[str] = set()

    def watch(self, seconds: float) -> None:
        """Let time pass. Raises GraphFailedError when the graph has ended."""
        end = time.monotonic() + seconds
        while True:
            self._tap.spin(LOOK)
            if self._supervisor.finished:
                raise GraphFailedError(f"the graph ended by itself; logs are below {self._robot}")
            processes = self._supervisor.processes()
            for pid in processes.values():
                self._owned |= owned_names(pid)
            for label in list(self._killed):
                self._look_at(label, processes.get(label))
            if time.monotonic() >= end:
                return

    def _look_at(self, label: str, pid: int | None) -> None:
        when, dead = self._killed[label]
        if pid is None or pid == dead:
            return
        since = self._since.setdefault(label, time.monotonic())
        sign = self._sign(label)
        if sign > since:
            self._outcome.recoveries[label].append(sign - when)
            del self._killed[label], self._since[label]

    def _sign(self, label: str) -> float:
        """When the node was last seen at its work (of the recorder: a bag that it began)."""
        if label != "recorder":
            return self._tap.signs.get(label, 0.0)
        newest = max(map(_modified, (self._robot / "bags").glob("*/")), default=0.0)
        return time.monotonic() - (time.time() - newest)

    def working(self) -> bool:
        """Whether every node has recovered, and all have been seen at work."""
        labels = [label for label in self._supervisor.status() if label != "recorder"]
        return not self._killed and all(label in self._tap.signs for label in labels)

    def kill(self) -> None:
        """Kill one of the nodes that run."""
        processes = self._supervisor.processes()
        label = self._random.choice(sorted(processes))
        pid = processes[label]
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return  # it died of an earlier kill and was not reaped yet
        if label in self._killed and self._killed[label][1] == pid:
            return
        when = self._killed[label][0] if label in self._killed else time.monotonic()
        self._killed[label] = (when, pid)
        self._since.pop(label, None)
        self._outcome.kills[label] += 1

    def pause(self, mean: float) -> float:
        """[s] until the next kill: anything from none to twice the mean."""
        return self._random.uniform(0.0, 2.0 * mean)

    def finish(self) -> None:
        """Wait until everything works again and one more episode is complete."""
        if not until(self.working, RECOVERY_LIMIT, self.watch):
            self._outcome.not_recovered += [f"{label} has not recovered" for label in self._killed]
        bags = closed_bags(self._robot)
        if not until(lambda: closed_bags(self._robot) > bags, RECOVERY_LIMIT, self.watch):
            self._outcome.not_recovered.append(f"no episode was completed within {RECOVERY_LIMIT:.0f} s")

    def left_in_memory(self) -> list[str]:
        """Shared memory of the nodes that is still there; to be asked after their end."""
        return sorted(name for name in self._owned if (SHM / name).exists() and "_port" not in name)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def campaign(run: Path, kills: int, pause: float, seed: int, speed: str, seconds: float) -> Outcome:
    """Kill nodes of the online graph in a fresh run directory, then let it drain and compare.

    Args:
        run: directory for everything.
        kills: how many.
        pause: mean between two kills [s].
        seed: of moments and nodes.
        speed: of the simulation.
        seconds: the kills end after so long at the latest.

    Raises:
        GraphFailedError: a node was given up, or the graph does not even begin.
    """
    from softflow_bringup.bench.node import tapping

    outcome = Outcome()
    robot, learner = run / "robot", run / "learner"
    weights = prepare_learner(learner, seed)
    arguments = {
        "run": str(robot),
        "learner_run": str(learner),
        "weights": str(weights),
        "settings": ONLINE,
        "speed": speed,
        "lock_step": "false",
        "seed": str(seed),
    }
    graph = impatient(load_graph("online_rl", arguments))
    began = time.monotonic()
    with tapping({"": "/hand0"}) as tap:
        _kill_and_watch(graph, tap, run, outcome, (kills, pause, seed, seconds))
        outcome.drained = _drain(graph, tap, run, outcome)
    outcome.audit = audit([robot], learner / "experience", message_definitions())
    motion = tap.motion[""]
    outcome.violations, outcome.states, outcome.held = motion.violations, motion.states, motion.held
    outcome.largest_step, outcome.seconds = motion.largest, time.monotonic() - began
    return outcome


def _kill_and_watch(
    graph: GraphDescription, tap: Tap, run: Path, outcome: Outcome, plan: tuple[int, float, int, float]
) -> None:
    kills, pause, seed, seconds = plan
    with Supervisor(graph, log=outcome.on_line, log_directory=run / "log", limits=PATIENT) as supervisor:
        work = Campaign(supervisor, tap, run / "robot", outcome, seed)
        if not until(work.working, START_LIMIT, work.watch):
            raise GraphFailedError(f"not every node works after {START_LIMIT:.0f} s; logs: {run / 'log'}")
        end = time.monotonic() + seconds
        while outcome.kills.total() < kills and time.monotonic() < end:
            work.watch(work.pause(pause))
            work.kill()
            if outcome.kills.total() % SAY_EVERY == 0:
                bags = closed_bags(run / "robot")
                print(f"{outcome.kills.total()} of {kills} kills, {bags} closed bags", flush=True)
        work.finish()
    outcome.left_in_memory = work.left_in_memory()


def _drain(graph: GraphDescription, tap: Tap, run: Path, outcome: Outcome) -> bool:
    """Let recorder and learner alone hand over what waits; whether nothing does in the end."""
    tap.diagnostics.clear()
    part, robot = graph.only(("recorder", "learner")), run / "robot"
    with Supervisor(part, log=outcome.on_line, log_directory=run / "log", limits=PATIENT):
        # A recorder looks for what was left undone before it says anything.
        there = until(lambda: "/hand0/recorder" in tap.diagnostics, DRAIN_LIMIT, tap.spin)
        empty = until(lambda: spool_items(robot) == 0, DRAIN_LIMIT, tap.spin)
        tap.spin(2.0)
        return there and empty and spool_items(robot) == 0


def report(outcome: Outcome) -> str:
    """What `softflow bench faults` prints."""
    lines = [f"{'node':<18}{'kills':>6}{'recovered':>11}{'p50 s':>8}{'p99 s':>8}{'max s':>8}"]
    every = [seconds for found in outcome.recoveries.values() for seconds in found]
    for label, found in [*sorted(outcome.recoveries.items()), ("all", every)]:
        count = outcome.kills.total() if label == "all" else outcome.kills[label]
        p50, p99 = np.percentile(found, (50, 99), method="higher") if found else (np.nan, np.nan)
        worst = max(found, default=np.nan)
        lines.append(f"{label:<18}{count:>6}{len(found):>11}{p50:>8.2f}{p99:>8.2f}{worst:>8.2f}")
    a = outcome.audit
    lines += [
        f"{outcome.seconds:.0f} s; episodes in closed bags {a.episodes}, bags left open {a.left_open}",
        f"stored items {a.items}, transitions {a.transitions}, still in the spool {a.waiting}",
        f"losses {len(a.lost)}, duplicates {len(a.doubled)}, different {len(a.different)}, "
        f"foreign {len(a.foreign)}, faults of numbering {len(a.numbering)}",
        f"hand: {outcome.states} states, {outcome.held} held steps, largest step of a target "
        f"{100 * outcome.largest_step:.0f} % of the limit, violations {len(outcome.violations)}",
        f"shared memory left behind: {len(outcome.left_in_memory)} segments; nodes that died by themselves "
        f"{len(outcome.died)}",
        *(f"FAULT {fault}" for fault in outcome.faults[:20]),
    ]
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit code, 1 when anything was lost, doubled, or moved as it may not."""
    parser = argparse.ArgumentParser(prog="softflow bench faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of moments and nodes")
    parser.add_argument("--pause", type=float, default=3.0, help="mean seconds between two kills")
    parser.add_argument(
        "--minutes", type=float, default=60.0, help="the kills end after so long at the latest"
    )
    parser.add_argument("--speed", default="2", help="simulated seconds per second")
    parser.add_argument(
        "--run", type=Path, default=None, help="a new directory to keep; default: none is kept"
    )
    options = parser.parse_args(argv)
    if options.run is not None and options.run.exists():
        print(f"softflow bench faults: run: {str(options.run)!r} exists already", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="softflow_bench_") as scratch:
        run = options.run or Path(scratch)
        try:
            outcome = campaign(
                run, options.kills, options.pause, options.seed, options.speed, 60.0 * options.minutes
            )
        except GraphFailedError as error:
            print(f"softflow bench faults: {error}", file=sys.stderr)
            return 1
    print(report(outcome))
    return 1 if outcome.faults else 0
