"""The scheduling of a process whose control loop comes before everything else on the machine."""

from __future__ import annotations

import os
from pathlib import Path

LOOP, OTHERS = 20, 10
"""SCHED_FIFO priorities of the control loop, and of the threads that it may have to wait for."""


def make_urgent() -> str:
    """Run this process under SCHED_FIFO, the calling thread before its others; says why not, empty where it does.

    All threads, not the loop alone: one that holds the interpreter's lock or one of the middleware's, and has to wait
    for a processor behind other programs, keeps the loop waiting, too. Threads that they start are alike.
    """
    if not hasattr(os, "sched_setscheduler"):
        return "this system has no SCHED_FIFO"
    try:
        for thread in Path("/proc/self/task").iterdir():
            _set(int(thread.name), OTHERS)
        _set(0, LOOP)
    except OSError as error:
        return f"SCHED_FIFO: {error.strerror} (rtprio in limits.conf, or CAP_SYS_NICE)"
    return ""


def _set(thread: int, priority: int) -> None:
    try:
        os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(priority))
    except ProcessLookupError:
        return  # it has just ended
