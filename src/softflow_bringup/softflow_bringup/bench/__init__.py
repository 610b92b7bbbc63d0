"""`softflow bench NAME`: measurements of the running system. Results belong into docs/benchmarks.md."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from contextlib import nullcontext

from softflow_bringup.domain import private_domain

BENCHMARKS = {
    "control": "softflow_bringup.bench.control",
    "experience": "softflow_bringup.bench.experience",
    "eyes": "softflow_bringup.bench.eyes.command",
    "faults": "softflow_bringup.bench.faults",
    "handover": "softflow_bringup.bench.handover",
    "latency": "softflow_bringup.bench.latency",
    "learner": "softflow_experiments.learner_speed",
    "method": "softflow_experiments.method",
    "partition": "softflow_bringup.bench.partition",
    "ogbench": "softflow_experiments.ogbench.command",
    "soak": "softflow_bringup.bench.soak",
}
WITHOUT_ROS = {"experience", "learner", "method", "ogbench"}


def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="softflow bench", description=__doc__, add_help=False)
    parser.add_argument("name", choices=sorted(BENCHMARKS))
    if not argv or argv[0] in ("-h", "--help"):
        parser.print_help()
        return 0 if argv else 2
    name = parser.parse_args(argv[:1]).name
    with nullcontext() if name in WITHOUT_ROS else private_domain():
        return int(importlib.import_module(BENCHMARKS[name]).main(argv[1:]))
