"""How well the machine keeps time, which tests of nodes that wait for each other depend on.

A virtual machine whose host gives its processors to others stands still for a while, as does a container that has
used up its share: nothing in a test can make up for that, and what fails meanwhile tells nothing.
"""

from __future__ import annotations

import subprocess
import sys
import time

STALL = 0.05
"""Seconds: longer than a driver's period, shorter than what a bus waits for an answer."""
_QUIET = 3.0
_PATIENCE = 60.0
_TOTAL_PATIENCE = 600.0
_WATCHER = """
import os, sys, threading, time

worst = {}
cpus = os.sched_getaffinity(0)
watching = threading.Barrier(len(cpus) + 1)

def watch(cpu):
    try:
        os.sched_setaffinity(0, {cpu})
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except OSError:
        pass  # not permitted: then the tests' own load counts too
    before = time.monotonic()
    watching.wait()
    while True:
        time.sleep(0.01)
        now = time.monotonic()  # From the last look to this one: nothing goes unseen in between.
        worst[cpu] = max(worst.get(cpu, 0.0), now - before - 0.01)
        before = now

for cpu in cpus:
    threading.Thread(target=watch, args=(cpu,), daemon=True).start()
watching.wait()
for _ in sys.stdin:
    # Taken before it is told: what is seen once the reader goes on counts for what the reader does next.
    print(max([worst.pop(cpu, 0.0) for cpu in cpus]), flush=True)
"""


class Stalls:
    """A process of the highest priority that sleeps, and tells how much too long it slept."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", _WATCHER]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self._patience = _TOTAL_PATIENCE

    def longest(self) -> float:
        """The longest time that a processor stood still since this was asked last [s]."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def wait(self) -> None:
        """Until the machine has kept time for a while, or patience is at its end."""
        began = time.monotonic()
        end = began + min(_PATIENCE, self._patience)
        self.longest()
        while time.monotonic() < end:
            time.sleep(min(_QUIET, end - time.monotonic()))
            if self.longest() < STALL:
                break
        self._patience -= time.monotonic() - began

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
