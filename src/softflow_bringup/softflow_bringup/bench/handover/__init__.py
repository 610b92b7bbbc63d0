"""Experience through the real recorder and learner nodes, over DDS: how much faster than the robot makes it.

A player publishes what a robot publishes, as fast as the recorder takes it: bag with fsync, spool with fsync,
PushExperience, the learner's journal with fsync, replay. The learner trains nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from softflow_bringup.bench.experience import CAMERAS, HZ, STEPS
from softflow_bringup.episodes import GraphFailedError
from softflow_bringup.graph import GraphDescription, NodeDescription, load_graph
from softflow_bringup.supervisor import Supervisor, find_executable

WANTED, WANTED_WITH_IMAGES = 50.0, 5.0
"""Times real time."""
WARM = 1
"""Episodes that are not counted: nodes find each other, files and caches come to be."""
PATIENCE = 60.0
"""[s] for the nodes to be there, and for the last episode to arrive."""
STORED, HANDLED = "stored", "handled"
"""Words that begin the lines of the stand-in for the learner."""


@dataclass
class Heard:
    """What the learner has said."""

    stored: dict[str, float] = field(default_factory=dict)
    """Episode -> when it was acknowledged [s, monotonic clock of the machine]."""
    handled: list[float] = field(default_factory=list)
    """[s] that the calls took it."""

    def listen(self, node: str, line: str) -> None:
        """Take in a line of a node's output."""
        words = line.split()
        if node == "learner" and words[:1] == [STORED]:
            self.stored[words[1]] = float(words[2])
        elif node == "learner" and words[:1] == [HANDLED]:
            self.handled.append(float(words[1]))


def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit code, 1 where it is slower than it must be or anything is lost."""
    parser = argparse.ArgumentParser(prog="softflow bench handover", description=__doc__)
    parser.add_argument("--images", action="store_true", help="two 96 x 96 JPEG images a step too")
    parser.add_argument("--episodes", type=int, default=20, help=f"of {STEPS} steps at {HZ:.0f} Hz")
    options = parser.parse_args(argv)
    cameras = CAMERAS if options.images else ()
    with tempfile.TemporaryDirectory(prefix="softflow_bench_") as scratch:
        try:
            return measure(Path(scratch), options.episodes, cameras)
        except GraphFailedError as error:
            print(f"softflow bench handover: {error}", file=sys.stderr)
            return 1


def measure(run: Path, episodes: int, cameras: Sequence[str]) -> int:
    """Play episodes to the nodes and print what came of it; returns the exit code. Raises GraphFailedError."""
    from softflow_bringup.bench.handover.node import Player

    heard = Heard()
    graph = two_nodes(run, cameras)
    with Supervisor(
        graph,
        log=heard.listen,
        log_directory=run / "log",
        command_for=lambda node: command(node, cameras),
    ) as supervisor:
        player = Player(cameras)
        try:
            if not player.wait_for_recorder(PATIENCE):
                raise GraphFailedError(f"no recorder within {PATIENCE:.0f} s: {tail(run / 'log')}")
            messages = {f"{seed:032x}": player.prepare(seed) for seed in range(WARM + episodes)}
            names = list(messages)
            for name in names[:WARM]:
                player.play(messages[name])
            wait_for(heard, WARM, supervisor)
            before = {name: processor_time(pid) for name, pid in supervisor.processes().items()}
            began = time.monotonic()
            ended = {name: player.play(messages[name]) for name in names[WARM:]}
            wait_for(heard, len(names), supervisor)
            spent = {n: processor_time(pid) - before[n] for n, pid in supervisor.processes().items()}
        finally:
            player.close()
    took = max(heard.stored.values(), default=began) - began
    if not any(episode in heard.stored for episode in ended):
        raise GraphFailedError(f"nothing arrived: {tail(run / 'log')}")
    return report(heard, ended, took, spent, cameras)


def two_nodes(run: Path, cameras: Sequence[str]) -> GraphDescription:
    """Recorder and learner of the online graph."""
    graph = load_graph("online_rl", {"run": str(run / "robot"), "learner_run": str(run / "learner")})
    topics = ",".join(f"/hand0/{camera}/compressed" for camera in cameras)
    graph = graph.only(("recorder", "learner"))
    nodes = tuple(
        dataclasses.replace(n, nice=0, parameters={**n.parameters, **extra})
        for n, extra in ((n, {"image_topics": topics} if n.name == "recorder" else {}) for n in graph.nodes)
    )
    return dataclasses.replace(graph, nodes=nodes)


def command(node: NodeDescription, cameras: Sequence[str]) -> list[str]:
    """The recorder as it is; for the learner one with a task of as many values as are played."""
    if node.name != "learner":
        return find_executable(node)
    return [sys.executable, "-m", "softflow_bringup.bench.handover.node", *cameras]


def wait_for(heard: Heard, count: int, supervisor: Supervisor) -> None:
    """Until so many episodes are stored, or nothing has come for too long."""
    seen, since = 0, time.monotonic()
    while len(heard.stored) < count and time.monotonic() - since < PATIENCE and not supervisor.finished:
        if len(heard.stored) > seen:
            seen, since = len(heard.stored), time.monotonic()
        time.sleep(0.01)


def processor_time(pid: int) -> float:
    """[s] that a process has used."""
    values = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")


def tail(logs: Path) -> str:
    """The last words of the nodes."""
    return "; ".join(f"{path.stem}: {path.read_text()[-300:]}" for path in sorted(logs.glob("*.log")))


def report(
    heard: Heard, ended: dict[str, float], took: float, spent: dict[str, float], cameras: Sequence[str]
) -> int:
    """Print the figures; returns the exit code."""
    arrived = [heard.stored[episode] - end for episode, end in ended.items() if episode in heard.stored]
    lost = len(ended) - len(arrived)
    seconds = len(arrived) * STEPS / HZ
    rate, wanted = seconds / took, WANTED_WITH_IMAGES if cameras else WANTED
    print(
        f"{len(ended)} episodes of {STEPS} steps at {HZ:.0f} Hz, {len(cameras)} cameras; {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    verdict = "pass" if rate >= wanted and not lost else "MISS"
    print(f"real time x {rate:.1f}, must be {wanted:.0f}: {verdict}; {lost} episodes did not arrive")
    for what, values in (("episode's end -> acknowledged", arrived), ("call in the learner", heard.handled)):
        p50, p99 = 1e3 * np.percentile(values or [np.nan], (50, 99), method="higher")
        print(f"{what:<32} [ms]: p50 {p50:.1f}, p99 {p99:.1f}")
    for name, used in spent.items():
        share = f"{1e3 * used / seconds:.1f} ms for a second of the robot"
        print(f"processor of the {name:<14}: {share}, x {seconds / used:.0f} on one core")
    return 0 if verdict == "pass" else 1
