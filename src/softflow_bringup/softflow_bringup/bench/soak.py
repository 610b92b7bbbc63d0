"""A driver for a long time: memory, descriptors, threads and latency, each minute and as slopes."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from softflow_bringup.bench.control import Observer, driver_name, graph_of, probing
from softflow_bringup.bench.loop_figures import LoopFigures
from softflow_bringup.bench.processes import usage
from softflow_bringup.episodes import GraphFailedError
from softflow_bringup.supervisor import Supervisor

COLUMNS: dict[str, str] = {
    "minute": "6.1f",
    "RSS MB": "9.2f",
    "descriptors": "13.0f",
    "threads": "9.0f",
    "late p50 us": "13.0f",
    "late p99 us": "13.0f",
    "action p50 ms": "15.2f",
    "action p99 ms": "15.2f",
    "missed": "8.0f",
}
"""What is measured, and how it is printed."""


@dataclass(frozen=True)
class Sample:
    """Values in the order of `COLUMNS`; times are of the part since the sample before."""

    values: tuple[float, ...]

    def row(self) -> str:
        """A line of the table."""
        return "".join(f"{v:{form}}" for v, form in zip(self.values, COLUMNS.values(), strict=True))


def sample(pid: int, minute: float, part: LoopFigures) -> Sample:
    """Of a driver's process, and what it did since the sample before. Raises OSError."""
    used, late, action = usage(pid), part.times["late"], part.times["action_delay"]
    return Sample(
        (
            minute,
            used.rss / 1e6,
            used.descriptors,
            used.threads,
            1e6 * late.quantile(0.5),
            1e6 * late.quantile(0.99),
            1e3 * action.quantile(0.5),
            1e3 * action.quantile(0.99),
            part.missed,
        )
    )


def slope(minutes: Sequence[float], values: Sequence[float]) -> float:
    """By which the values rise in an hour: least squares; NaN for fewer than two."""
    if len(values) < 2:
        return float("nan")
    return float(np.polyfit(np.asarray(minutes) / 60.0, np.asarray(values), 1)[0])


def summary(samples: Sequence[Sample]) -> str:
    """First and last value of each column, and the slope."""
    table = np.array([s.values for s in samples])
    lines = [f"{'':<16}{'first':>12}{'last':>12}{'per hour':>12}"]
    for name, column in list(zip(COLUMNS, table.T, strict=True))[1:]:
        rise = slope(table[:, 0].tolist(), column.tolist())
        lines.append(f"{name:<16}{column[0]:>12.2f}{column[-1]:>12.2f}{rise:>+12.2f}")
    return "\n".join(lines)


def soak(
    run: Path, minutes: float, every: float, rate: float, backend: str, say: Callable[[str], None]
) -> list[Sample]:
    """Run a driver and look at it every so often [s]. Raises GraphFailedError."""
    driver, logs = driver_name(backend), run / "log"
    with (
        Supervisor(
            graph_of(run, rate, backend, False), log=lambda *_: None, log_directory=logs
        ) as supervisor,
        probing(backend) as probe,
    ):
        observer = Observer(supervisor, probe, driver, logs)
        observer.wait_for_work(learner=False)
        samples: list[Sample] = []
        before, began = observer.figures(), time.monotonic()
        say("".join(f"{name:>{int(form.split('.')[0])}}" for name, form in COLUMNS.items()))
        for number in range(1, max(1, round(60.0 * minutes / every)) + 1):
            observer.wait(max(0.0, began + number * every - time.monotonic()))
            now = observer.figures()
            try:
                pid = supervisor.processes()[driver.rpartition("/")[2]]
                samples.append(sample(pid, (time.monotonic() - began) / 60.0, now.since(before)))
            except (KeyError, OSError, ValueError) as error:
                raise GraphFailedError(f"{driver} was started again: {error}") from error
            before = now
            say(samples[-1].row())
    return samples


def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit code, 1 when the driver did not run through."""
    parser = argparse.ArgumentParser(prog="softflow bench soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=60.0, help="seconds between two lines")
    parser.add_argument("--rate", type=float, default=100.0, help="control steps per second")
    parser.add_argument(
        "--backend",
        choices=("mock", "sim"),
        default="mock",
        help="mock: a driver and a source of chunks; sim: the whole graph but the learner",
    )
    options = parser.parse_args(argv)
    if not (options.minutes > 0.0 and options.every >= 1.0 and 1.0 <= options.rate <= 1000.0):
        print(
            f"softflow bench soak: minutes is {options.minutes}, must be above 0; every is {options.every}, must be "
            f"at least 1; rate is {options.rate}, must be in [1, 1000] Hz",
            file=sys.stderr,
        )
        return 2
    with tempfile.TemporaryDirectory(prefix="softflow_bench_") as scratch:
        try:
            found = soak(
                Path(scratch),
                options.minutes,
                options.every,
                options.rate,
                options.backend,
                lambda line: print(line, flush=True),
            )
        except GraphFailedError as error:
            print(f"softflow bench soak: {error}", file=sys.stderr)
            return 1
    print(summary(found), flush=True)
    return 0
