"""Prints the diagnostics of all nodes as a line of JSON a second; it runs where the nodes are, on another host say."""

from __future__ import annotations

import json
import sys
import time

import rclpy
from rclpy.context import Context
from rclpy.signals import SignalHandlerOptions

from softflow_bringup.bench.node import DiagnosticsProbe
from softflow_node.signals import StopFlag


def main() -> int:
    """Print until a signal comes."""
    stop = StopFlag.install()
    context = Context()
    rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
    probe = DiagnosticsProbe(context)
    while not stop.is_set():
        probe.spin(1.0)
        print(json.dumps({"time": time.monotonic(), "nodes": probe.values}), flush=True)
        probe.values.clear()
    probe.close()
    rclpy.shutdown(context=context)
    return 0


if __name__ == "__main__":
    sys.exit(main())
