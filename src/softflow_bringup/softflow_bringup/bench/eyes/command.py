"""From camera to observation: added latency, pictures lost, and what each process takes of the machine.

A recorded video at 640x480 stands in for the device, and this process for the hand: it says clock and state.
A picture is stamped when it comes from the source: then come encoding, transport, decoding, tags, filter.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from softflow_bringup.bench.eyes.video import TASK, scene, write_video
from softflow_bringup.bench.processes import usages
from softflow_bringup.episodes import GraphFailedError
from softflow_bringup.graph import GraphDescription, load_graph
from softflow_bringup.supervisor import Supervisor
from softflow_tasks import make_task

ROBOT = "/hand0"
NODES = "camera_front", "pose", "perception"
START_LIMIT = 60.0
"""[s] until pictures come through."""
SETTLE = 3.0
"""[s] from then on until the measurement begins."""
DIFFERENT = 60
"""Pictures of the video, again and again."""


@dataclass(frozen=True)
class Measured:
    """Of one run; times [s]."""

    seconds: float
    seen: list[float]
    observed: list[float]
    pictures: int
    """What the camera published meanwhile."""
    cpu: dict[str, float]
    """Share of one core, by process."""


def graph_of(run: Path, rate: float, length: float) -> GraphDescription:
    """Camera, pose and perception on a video of `length` [s]. Raises OSError."""
    pictures, model = scene(DIFFERENT)
    model.save(run / "camera.yaml")
    write_video(run / "video.avi", itertools.islice(itertools.cycle(pictures), round(rate * length)), rate)
    graph = load_graph("online_rl", {"run": str(run / "robot"), "task": TASK, "eyes": "camera"}).only(NODES)
    device = {
        "source": "device",
        "device": str(run / "video.avi"),
        "calibration": str(run / "camera.yaml"),
        "rate": rate,
    }
    nodes = tuple(
        dataclasses.replace(
            node.unrecorded(),
            parameters={**node.parameters, **(device if node.name == "camera_front" else {})},
        )
        for node in graph.nodes
    )
    return dataclasses.replace(graph, nodes=nodes)


def measure(run: Path, seconds: float, rate: float, states: float) -> Measured:
    """Run the eyes for a while. Raises GraphFailedError when nothing comes through them."""
    import rclpy
    from rclpy.context import Context
    from rclpy.signals import SignalHandlerOptions

    from softflow_bringup.bench.eyes.node import EyesProbe

    graph, logs = graph_of(run, rate, seconds + START_LIMIT), run / "log"
    context = Context()
    rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
    probe = EyesProbe(context, ROBOT, make_task(TASK))
    try:
        with Supervisor(graph, log=lambda *_: None, log_directory=logs) as supervisor:
            until = time.monotonic() + START_LIMIT
            while not probe.observed:
                if time.monotonic() > until:
                    raise GraphFailedError(f"no observation after {START_LIMIT:.0f} s; logs: {logs}")
                probe.run(0.2, states)
            probe.run(SETTLE, states)
            processes = {**supervisor.processes(), "bench": os.getpid()}
            probe.clear()
            used, before, began = usages(processes), said(probe.values), time.monotonic()
            probe.run(seconds, states)
            spent, now, after = time.monotonic() - began, usages(processes), said(probe.values)
            cpu = {name: (now[name].cpu - used[name].cpu) / spent for name in now if name in used}
            return Measured(spent, list(probe.seen), list(probe.observed), after - before, cpu)
    finally:
        probe.close()
        rclpy.shutdown(context=context)


def said(values: dict[str, dict[str, str]]) -> int:
    """Pictures of the camera so far, by its newest word on /diagnostics: up to a second old."""
    return int(values.get(f"{ROBOT}/camera_front", {}).get("pictures", "0"))


def report(found: Measured, rate: float) -> str:
    """What is printed."""
    lines = [f"{'':<42}{'p50 ms':>9}{'p99 ms':>9}{'max ms':>9}{'n':>7}{'per s':>8}"]
    for words, times in (
        ("picture -> pose of the cube", found.seen),
        ("picture -> first observation made of it", found.observed),
    ):
        figures = np.array(times if times else [np.nan])
        p50, p99 = 1e3 * np.percentile(figures, (50, 99), method="higher")
        lines.append(
            f"{words:<42}{p50:>9.1f}{p99:>9.1f}{1e3 * figures.max():>9.1f}{len(times):>7}"
            f"{len(times) / found.seconds:>8.2f}"
        )
    expected = round(rate * found.seconds)
    lines.append(
        f"of {expected} pictures that were due, {max(0, expected - len(found.seen))} gave no pose and "
        f"{max(0, expected - len(found.observed))} no observation; the camera published {found.pictures} (to a second)"
    )
    lines.append(f"{'process':<42}{'CPU %':>9}")
    lines += [f"{name:<42}{100.0 * share:>9.1f}" for name, share in sorted(found.cpu.items())]
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit code, 1 when nothing came through."""
    parser = argparse.ArgumentParser(prog="softflow bench eyes", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=30.0, help="pictures per second")
    parser.add_argument("--states", type=float, default=100.0, help="hand states per second")
    options = parser.parse_args(argv)
    limits = {"seconds": (0.1, 3600.0), "rate": (1.0, 200.0), "states": (1.0, 1000.0)}
    for name, (low, high) in limits.items():
        value = getattr(options, name)
        if not low <= value <= high:
            print(f"softflow bench eyes: {name} is {value}, must be in [{low}, {high}]", file=sys.stderr)
            return 2
    with tempfile.TemporaryDirectory(prefix="softflow_bench_") as scratch:
        try:
            found = measure(Path(scratch), options.seconds, options.rate, options.states)
        except (GraphFailedError, OSError) as error:
            print(f"softflow bench eyes: {error}", file=sys.stderr)
            return 1
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(
        f"{options.rate:g} pictures/s at 640x480, {options.states:g} states/s, {found.seconds:.0f} s, "
        f"{os.cpu_count()} cores, load {load}"
    )
    print(report(found, options.rate), flush=True)
    return 0
