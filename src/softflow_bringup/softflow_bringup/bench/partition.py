"""The link between robot and learner is cut, then bad, then well again: the hand does not notice, nothing is lost."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen

from softflow_bringup.bench.hosts import Host, Network, why_not
from softflow_bringup.bench.ledger import Audit, audit, journal_items
from softflow_bringup.bench.system import (
    ONLINE,
    closed_bags,
    message_definitions,
    prepare_learner,
    spool_items,
    until,
)
from softflow_bringup.episodes import GraphFailedError

LOSS, DELAY = 0.3, 0.2
"""Of the bad link, each way; [s]"""
START_LIMIT, DRAIN_LIMIT = 120.0, 180.0
"""[s]"""
DRIVER = "/hand0/hand_driver"


@dataclass(frozen=True)
class Phase:
    """A part of the measurement; lateness of the driver's control steps in [us]."""

    name: str
    p50: int
    p99: int
    worst: int
    steps: int
    bags: int
    """Closed meanwhile."""
    stored: int
    """Items that the learner stored meanwhile."""
    frames: tuple[int, int]
    """(forwarded, lost) by the switch meanwhile."""


@dataclass
class Outcome:
    """What became of a partition."""

    phases: list[Phase] = field(default_factory=list)
    most_waiting: int = 0
    """Items in the spool at the end of the bad link."""
    back: float = float("nan")
    """[s] from the end of the bad link until the learner stored an item again; NaN = never."""
    drain: float = float("nan")
    """[s] until the spool was empty; NaN = never."""
    audit: Audit = field(default_factory=Audit)


class Robot:
    """The robot's side on its host: started as a user would, observed from outside."""

    def __init__(self, host: Host, run: Path, arguments: Mapping[str, str]) -> None:
        self._host, self._run, self._arguments = host, run, arguments
        self._output = run / "robot.log"
        self._diagnostics = run / "diagnostics.jsonl"
        self.graph = self._up("robot.log")
        host.start([sys.executable, "-m", "softflow_bringup.bench.node"], self._diagnostics)

    def _up(self, log: str, *options: str) -> Popen[bytes]:
        return up(self._host, "robot", self._arguments, self._run / log, *options)

    @property
    def directory(self) -> Path:
        """With bags/ and spool/."""
        return Path(self._arguments["run"])

    def restart_driver(self) -> None:
        """Kill the driver; its figures begin anew with the next one. Raises GraphFailedError if none comes."""
        found = re.findall(r"hand_driver started \(process (\d+)\)", self._output.read_text())
        since = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(found[-1]), signal.SIGKILL)
        if not until(lambda: self.driver(since + 2.0).get("control_steps", "0") != "0", START_LIMIT):
            raise GraphFailedError(f"no control step within {START_LIMIT:.0f} s; logs: {self._run}")

    def driver(self, since: float) -> dict[str, str]:
        """The newest figures of the driver after a moment; empty when there are none."""
        lines = self._diagnostics.read_text().splitlines() if self._diagnostics.exists() else []
        for line in reversed(lines):
            with contextlib.suppress(ValueError):  # the last line may be half written
                said = json.loads(line)
                if said["time"] < since:
                    break
                if DRIVER in said["nodes"]:
                    return dict(said["nodes"][DRIVER])
        return {}

    def finish(self) -> float:
        """Stop the robot, let its recorder alone hand over the rest; [s] that took, NaN if it did not end."""
        end(self.graph)
        recorder = self._up("recorder.log", "--only", "recorder")
        began = time.monotonic()
        # Before it has looked through the bags, an empty spool says nothing.
        time.sleep(5.0)
        drained = until(lambda: spool_items(self.directory) == 0, DRAIN_LIMIT)
        spent = time.monotonic() - began
        time.sleep(1.0)
        end(recorder)
        return spent if drained and spool_items(self.directory) == 0 else float("nan")


def up(host: Host, graph: str, arguments: Mapping[str, str], output: Path, *options: str) -> Popen[bytes]:
    """`softflow up` on a host."""
    pairs = [f"{name}:={value}" for name, value in arguments.items()]
    command = [sys.executable, "-m", "softflow_bringup.cli", "up", graph, *pairs, *options]
    return host.start(command, output, {"ROS_DOMAIN_ID": "0"})


def end(process: Popen[bytes]) -> None:
    """Stop a graph and wait for its end."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    process.wait(timeout=60.0)


def stored_items(learner: Path) -> int:
    """In the journal of a learner's run directory."""
    return sum(bool(item.payload) for item in journal_items(learner / "experience"))


def partition(run: Path, seconds: float, seed: int = 0, speed: str = "1") -> Outcome:
    """Run robot and learner on hosts of their own through a good, a cut, a bad and a good link.

    Args:
        run: directory for everything.
        seconds: of each part.
        seed: of the losses.
        speed: of the simulation.

    Raises:
        GraphFailedError: the graphs do not work in the first place.
        RuntimeError: no network can be made.
    """
    outcome = Outcome()
    weights = prepare_learner(run / "learner", seed)
    with Network(["robot", "learner"], seed) as network:
        hosts = network.hosts
        far = {"run": f"{run}/learner", "settings": ONLINE, "peers": hosts["robot"].address}
        up(hosts["learner"], "learner", far, run / "learner.log")
        near = {"run": f"{run}/robot", "weights": str(weights), "peers": hosts["learner"].address}
        robot = Robot(hosts["robot"], run, {**near, "speed": speed, "lock_step": "false"})
        if not until(lambda: stored_items(run / "learner") > 0, START_LIMIT):
            raise GraphFailedError(f"nothing was handed over within {START_LIMIT:.0f} s; logs: {run}")
        for name, loss, delay in (
            ("before", 0.0, 0.0),
            ("cut", 1.0, 0.0),
            (f"{LOSS:.0%} loss, {DELAY * 1e3:.0f} ms", LOSS, DELAY),
            ("after", 0.0, 0.0),
        ):
            outcome.most_waiting = max(outcome.most_waiting, spool_items(robot.directory))
            frames = network.impair(loss, delay)
            if name == "after":
                outcome.back = _time_until_more(run / "learner")
            outcome.phases.append(_measure(name, robot, run / "learner", network, frames, seconds))
        outcome.drain = robot.finish()
    outcome.audit = audit([run / "robot"], run / "learner" / "experience", message_definitions())
    return outcome


def _time_until_more(learner: Path) -> float:
    """[s] until one more item is stored; NaN where none is in time."""
    began, stored = time.monotonic(), stored_items(learner)
    came = until(lambda: stored_items(learner) > stored, DRAIN_LIMIT)
    return time.monotonic() - began if came else float("nan")


def _measure(
    name: str, robot: Robot, learner: Path, network: Network, frames: tuple[int, int], seconds: float
) -> Phase:
    bags, stored = closed_bags(robot.directory), stored_items(learner)
    robot.restart_driver()
    time.sleep(seconds)
    said = robot.driver(time.monotonic() - 3.0)
    p50, p99, worst = (int(said.get(f"late_{key}_us", "0")) for key in ("p50", "p99", "max"))
    now = network.frames()
    return Phase(
        name,
        p50,
        p99,
        worst,
        steps=int(said.get("control_steps", "0")),
        bags=closed_bags(robot.directory) - bags,
        stored=stored_items(learner) - stored,
        frames=(now[0] - frames[0], now[1] - frames[1]),
    )


def report(outcome: Outcome) -> str:
    """What `softflow bench partition` prints."""
    lines = [
        f"{'link':<22}{'p50 ms':>8}{'p99 ms':>8}{'max ms':>8}{'steps':>8}{'bags':>6}{'stored':>8}{'frames lost':>16}"
    ]
    for p in outcome.phases:
        late = "".join(f"{1e-3 * value:>8.2f}" for value in (p.p50, p.p99, p.worst))
        lost = f"{p.frames[1]} of {sum(p.frames)}"
        lines.append(f"{p.name:<22}{late}{p.steps:>8}{p.bags:>6}{p.stored:>8}{lost:>16}")
    a = outcome.audit
    lines += [
        f"first item stored {outcome.back:.1f} s after the link was well again",
        f"most items in the spool {outcome.most_waiting}; the last ones were handed over in {outcome.drain:.1f} s, "
        f"{a.waiting} wait",
        f"episodes in closed bags {a.episodes}, stored items {a.items}, transitions {a.transitions}",
        f"losses {len(a.lost)}, duplicates {len(a.doubled)}, different {len(a.different)}, "
        f"foreign {len(a.foreign)}, faults of numbering {len(a.numbering)}",
        *(f"FAULT {fault}" for fault in a.faults[:20]),
    ]
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit code, 1 when anything was lost or doubled, or did not drain."""
    parser = argparse.ArgumentParser(prog="softflow bench partition", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each part")
    parser.add_argument("--seed", type=int, default=0, help="of the losses")
    parser.add_argument("--speed", default="1", help="simulated seconds per second")
    options = parser.parse_args(argv)
    if reason := why_not():
        print(f"softflow bench partition: {reason}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="softflow_bench_") as scratch:
        try:
            outcome = partition(Path(scratch), options.seconds, options.seed, options.speed)
        except (GraphFailedError, RuntimeError) as error:
            print(f"softflow bench partition: {error}", file=sys.stderr)
            return 1
    print(report(outcome))
    return 1 if outcome.audit.faults or outcome.audit.waiting else 0
