"""`softflow bench NAME`: measurements of the running system. Results belong into docs/benchmarks.md."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence

from softflow_bringup.domain import private_domain

BENCHMARKS = {"latency": "softflow_bringup.bench.latency"}


def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="softflow bench", description=__doc__)
    parser.add_argument("name", choices=sorted(BENCHMARKS))
    options, rest = parser.parse_known_args(argv)
    with private_domain():
        return int(importlib.import_module(BENCHMARKS[options.name]).main(rest))
