"""Jitter of the control loop in the running system, missed ticks, and what each process takes of the machine."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from hand_driver.hand_file import hands_directory
from softflow_bringup.bench.loop_figures import LoopFigures
from softflow_bringup.bench.processes import Usage, machine_busy, usages
from softflow_bringup.bench.system import prepare_learner
from softflow_bringup.episodes import GraphFailedError
from softflow_bringup.graph import GraphDescription, NodeDescription, load_graph
from softflow_bringup.supervisor import Supervisor
from softflow_tasks import make_task

if TYPE_CHECKING:
    from softflow_bringup.bench.node import DiagnosticsProbe

TASK = "ToolCut-v0"
"""Its episodes last, whatever an untrained policy does: nothing can be dropped."""
START_LIMIT = 120.0
"""[s] until every node works."""
SETTLE = 5.0
"""[s] from then on until the measurement begins."""
BUSY = (
    "update_to_data=100,online_min_steps=1,online_critic_only_steps=1,offline_fraction=0.0,regulariser=none"
)
"""The learner never runs out of due updates, and has no demonstrations."""
ROBOT, BENCH = "/hand0", "/bench"
"""Namespaces of the whole graph, and of a driver that a chunk source commands."""


@dataclass(frozen=True)
class Measured:
    """Of one run."""

    seconds: float
    figures: LoopFigures
    cpu: dict[str, float]
    """Share of one core, by process; `others`: what does not belong to the run."""
    updates: str
    """Per second, of the learner; empty where none was asked for."""


def whole_graph(run: Path, rate: float, learner: bool) -> GraphDescription:
    """Hand in simulation, perception, policy, episodes, recorder, and a learner that always trains.

    The task's clock is made faster, so that the control rate is `rate` [Hz] of wall time.
    """
    weights = prepare_learner(run / "learner", task_id=TASK, sizes={})
    arguments = {
        "task": TASK,
        "run": str(run / "robot"),
        "learner_run": str(run / "learner"),
        "weights": str(weights),
        "settings": BUSY,
        "speed": f"{rate / make_task(TASK).control_hz:g}",
        "lock_step": "false",
    }
    graph = load_graph("online_rl", arguments)
    return graph if learner else graph.only([n.label for n in graph.nodes if n.name != "learner"])


def mock_driver(run: Path, rate: float) -> NodeDescription:
    """A driver with a hand in memory, whose file says another rate [Hz]."""
    hand = yaml.safe_load((hands_directory() / "mock.yaml").read_text())
    path = run / "mock.yaml"
    path.write_text(yaml.safe_dump({**hand, "control_rate": rate}, sort_keys=False))
    node = load_graph("online_rl", {"run": str(run / "robot"), "namespace": BENCH}).node("hand_driver")
    parameters = {**node.parameters, "task": "", "hand": str(path), "backend": "mock"}
    return dataclasses.replace(node.unrecorded(), name="mock_driver", parameters=parameters)


def graph_of(run: Path, rate: float, backend: str, learner: bool) -> GraphDescription:
    """What is run; a `mock` driver with a learner has a whole robot beside it, for which the learner trains."""
    if backend == "sim":
        return whole_graph(run, rate, learner)
    driver = mock_driver(run, rate)
    if not learner:
        graph = load_graph("online_rl", {"run": str(run / "robot")})
        return dataclasses.replace(graph, nodes=(driver,))
    graph = whole_graph(run, make_task(TASK).control_hz, learner)
    return dataclasses.replace(graph, nodes=(driver, *graph.nodes))


def driver_name(backend: str) -> str:
    """Of the driver that is looked at."""
    return f"{BENCH}/mock_driver" if backend == "mock" else f"{ROBOT}/hand_driver"


@contextmanager
def probing(backend: str) -> Iterator[DiagnosticsProbe]:
    """Listens to /diagnostics; sends chunks where there is no policy."""
    import rclpy
    from rclpy.context import Context
    from rclpy.signals import SignalHandlerOptions

    from softflow_bringup.bench.node import DiagnosticsProbe
    from softflow_bringup.bench.source.node import ChunkSource

    context = Context()
    rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
    probe = ChunkSource(context, BENCH) if backend == "mock" else DiagnosticsProbe(context)
    try:
        yield probe
    finally:
        probe.close()
        rclpy.shutdown(context=context)


class Observer:
    """Looks at a driver from outside."""

    def __init__(self, supervisor: Supervisor, probe: DiagnosticsProbe, driver: str, logs: Path) -> None:
        self._supervisor, self._probe, self._driver, self._logs = supervisor, probe, driver, logs

    def wait(self, seconds: float) -> None:
        """Let time pass. Raises GraphFailedError when the graph ends meanwhile."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0.0:
            if self._supervisor.finished:
                raise GraphFailedError(f"the graph ended before the measurement did; logs: {self._logs}")
            self._probe.spin(min(left, 1.0))

    def said(self, node: str) -> dict[str, str]:
        """The newest key values of a node; empty where it has said nothing."""
        return self._probe.values.get(node, {})

    def figures(self) -> LoopFigures:
        """Of the driver, up to now. Raises GraphFailedError when it says nothing."""
        self._probe.values.clear()
        for _ in range(100):
            self._probe.spin(0.1)
            if self.said(self._driver):
                return LoopFigures.of(self.said(self._driver))
        raise GraphFailedError(f"{self._driver} says nothing on /diagnostics")

    def usages(self) -> dict[str, Usage]:
        """Of every process of the run, this one included."""
        return usages({**self._supervisor.processes(), "bench": os.getpid()})

    def wait_for_work(self, learner: bool) -> None:
        """Until chunks are played and, where there is one, the learner trains. Raises GraphFailedError."""
        until = time.monotonic() + START_LIMIT
        while time.monotonic() < until:
            self.wait(0.5)
            driver = self.said(self._driver)
            plays = int(driver.get("control_steps", "0")) > int(driver.get("starved_steps", "0"))
            trains = int(self.said("/learner").get("updates_per_second", "0")) > 0
            if plays and (trains or not learner):
                return self.wait(SETTLE)
        raise GraphFailedError(f"not every node works after {START_LIMIT:.0f} s; logs: {self._logs}")


def measure(run: Path, seconds: float, rate: float, backend: str, learner: bool) -> Measured:
    """Run a graph and look at its driver for a while. Raises GraphFailedError."""
    graph, logs = graph_of(run, rate, backend, learner), run / "log"
    with (
        Supervisor(graph, log=lambda *_: None, log_directory=logs) as supervisor,
        probing(backend) as probe,
    ):
        observer = Observer(supervisor, probe, driver_name(backend), logs)
        observer.wait_for_work(learner)
        before, used, busy, began = observer.figures(), observer.usages(), machine_busy(), time.monotonic()
        observer.wait(seconds)
        updates = observer.said("/learner").get("updates_per_second", "?") if learner else ""
        after, now, busy = observer.figures(), observer.usages(), machine_busy() - busy
        spent = time.monotonic() - began
    cpu = {name: (now[name].cpu - used[name].cpu) / spent for name in now if name in used}
    cpu["others"] = busy / spent - sum(cpu.values())
    try:
        return Measured(spent, after.since(before), cpu, updates)
    except ValueError as error:
        raise GraphFailedError(f"{driver_name(backend)} was started again: {error}") from error


def report(measured: Measured, rate: float) -> str:
    """What `softflow bench control` prints."""
    f = measured.figures
    late = f.times["late"].longest * rate
    lines = [
        *f.table(),
        f"ticks {f.steps}, {measured.seconds * rate:.0f} expected; missed {f.missed}; the latest was late by "
        f"{late:.2f} periods; {f.starved} without a chunk",
    ]
    if measured.updates:
        lines.append(f"learner meanwhile {measured.updates} updates/s")
    lines.append(f"{'process':<26}{'CPU %':>10}")
    lines += [f"{name:<26}{100.0 * share:>10.1f}" for name, share in sorted(measured.cpu.items())]
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit code, 1 when the system did not run."""
    parser = argparse.ArgumentParser(prog="softflow bench control", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--rate", type=float, default=100.0, help="control steps per second of wall time")
    parser.add_argument(
        "--backend",
        choices=("sim", "mock"),
        default="sim",
        help="sim: the whole graph; mock: a driver alone, commanded by a source of chunks",
    )
    parser.add_argument(
        "--learner", action="store_true", help="a learner trains beside it (mock: and a whole robot runs)"
    )
    options = parser.parse_args(argv)
    if not (options.seconds > 0.0 and 1.0 <= options.rate <= 1000.0):
        print(
            f"softflow bench control: seconds is {options.seconds}, must be above 0; rate is {options.rate}, "
            "must be in [1, 1000] Hz",
            file=sys.stderr,
        )
        return 2
    with tempfile.TemporaryDirectory(prefix="softflow_bench_") as scratch:
        try:
            found = measure(Path(scratch), options.seconds, options.rate, options.backend, options.learner)
        except GraphFailedError as error:
            print(f"softflow bench control: {error}", file=sys.stderr)
            return 1
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(
        f"{options.backend} at {options.rate:g} Hz for {found.seconds:.0f} s, {os.cpu_count()} cores, load {load}"
    )
    print(report(found, options.rate), flush=True)
    return 0
