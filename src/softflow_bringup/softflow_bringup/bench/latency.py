"""Observation in -> ActionChunk out, and the jitter of the control loop, while the learner trains."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from softflow_bringup.episodes import GraphFailedError
from softflow_bringup.graph import load_graph
from softflow_bringup.supervisor import Supervisor
from softflow_recorder.bag import episode_bags, read_episode
from softflow_tasks import make_task

RATES = (20.0, 100.0)
"""[Hz]"""
BUSY = "update_to_data=100,online_min_steps=1,online_critic_only_steps=1"
"""The learner never runs out of due updates."""


def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="softflow bench latency", description=__doc__)
    parser.add_argument(
        "--run", type=Path, default=None, help="folder of a finished demo; default: the newest"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="for each rate")
    options = parser.parse_args(argv)
    run = options.run or newest_demo()
    if run is None or not (run / "learner" / "policies" / "online.safetensors").is_file():
        print("softflow bench latency: a finished demo is needed; ./softflow demo makes one", file=sys.stderr)
        return 2
    print(f"policy and data of {run}; {os.cpu_count()} cores; {options.seconds:.0f} s for each line")
    print(f"{'what':<46}{'p50 ms':>9}{'p99 ms':>9}{'max ms':>9}{'n':>8}")
    for rate in RATES:
        line(f"observation -> chunk at {rate:.0f} Hz", policy_latencies(run, rate, options.seconds))
    for rate in RATES:
        jitter(run, rate, options.seconds)
    return 0


def newest_demo() -> Path | None:
    """Folder of the demo that finished last."""
    found = sorted(Path("runs").glob("*/report.json"), key=lambda p: p.stat().st_mtime)
    return found[-1].parent if found else None


def line(what: str, seconds: Sequence[float]) -> None:
    """Print percentiles in milliseconds."""
    p50, p99 = 1e3 * np.percentile(seconds, (50, 99), method="higher")
    print(f"{what:<46}{p50:>9.2f}{p99:>9.2f}{1e3 * max(seconds):>9.2f}{len(seconds):>8}", flush=True)


@contextmanager
def busy_graph(run: Path, nodes: Sequence[str] | None, **arguments: str) -> Iterator[None]:
    """The online graph (or some nodes of it) on a copy of the run, with a learner that always trains."""
    with tempfile.TemporaryDirectory(prefix="softflow_bench_") as scratch:
        copy = Path(scratch)
        for part in ("checkpoints", "experience"):
            shutil.copytree(run / "learner" / part, copy / "learner" / part)
        graph = load_graph(
            "online_rl",
            {
                "run": str(copy / "online"),
                "learner_run": str(copy / "learner"),
                "demos": str((run / "demonstrations" / "bags").resolve()),
                "weights": str((run / "learner" / "policies" / "online.safetensors").resolve()),
                "settings": BUSY,
                **arguments,
            },
        )
        running = graph if nodes is None else graph.only(nodes)
        with Supervisor(running, log=lambda *_: None, log_directory=copy / "log") as supervisor:
            yield
            if supervisor.finished:
                learner = (copy / "log" / "learner.log").read_text()
                raise GraphFailedError(
                    f"the graph ended before the measurement did; learner: {learner[-500:]}"
                )


@contextmanager
def urgent() -> Iterator[None]:
    """Make this thread as urgent as what it measures, where that is permitted; nodes started before are not touched."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, before - 10)
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, before)


def policy_latencies(run: Path, rate: float, seconds: float) -> list[float]:
    """[s] from the publication of an observation to the arrival of its chunk in the same process."""
    import rclpy
    from rclpy.context import Context

    from softflow_bringup.bench.node import LatencyProbe

    episode = read_episode(episode_bags(run / "online" / "bags")[0])
    states = list(episode.states)
    with busy_graph(run, ("policy", "learner"), task=episode.task):
        context = Context()
        rclpy.init(context=context)
        probe = LatencyProbe(context, "/hand0", make_task(episode.task))
        try:
            if not probe.wait_for_answers(states[0], timeout=30.0):
                raise RuntimeError("the policy node did not answer within 30 s")
            # The learner's start is not what is measured.
            probe.measure(states, rate, 8.0)
            with urgent():
                return probe.measure(states, rate, seconds)
        finally:
            probe.close()
            rclpy.shutdown(context=context)


def jitter(run: Path, rate: float, seconds: float) -> None:
    """Print how late the driver's control steps are against their grid."""
    import rclpy
    from rclpy.context import Context

    from softflow_bringup.bench.node import DiagnosticsProbe

    task = make_task(read_episode(episode_bags(run / "online" / "bags")[0]).task)
    speed = rate / task.control_hz
    with busy_graph(run, None, task=task.id, speed=f"{speed:g}", lock_step="false"):
        context = Context()
        rclpy.init(context=context)
        probe = DiagnosticsProbe(context)
        try:
            probe.spin(seconds + 10.0)
            driver = probe.values.get("/hand0/hand_driver", {})
            learner = probe.values.get("/learner", {})
        finally:
            probe.close()
            rclpy.shutdown(context=context)
    what = f"control step late at {rate:.0f} Hz"
    p50, p99, worst = (int(driver.get(f"late_{k}_us", 0)) / 1e3 for k in ("p50", "p99", "max"))
    steps, starved = driver.get("control_steps", "0"), driver.get("starved_steps", "0")
    print(f"{what:<46}{p50:>9.2f}{p99:>9.2f}{worst:>9.2f}{steps:>8}  starved steps {starved}", flush=True)
    print(f"{'  learner meanwhile':<46}{learner.get('updates_per_second', '?')} updates/s", flush=True)
