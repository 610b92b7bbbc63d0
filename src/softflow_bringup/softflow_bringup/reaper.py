"""Outlives the supervisor by a moment: kills what a supervisor that was killed itself has left running.

A node whose supervisor dies gets SIGTERM (see exec_guarded.py), so that it can bring the hand to rest and close its
bag. One that hangs would stay for ever; this process ends it after a time.

Run by path, `python -I -S reaper.py GRACE`; standard library only. Lines on standard input: `+PID`, a process group
was started; `-PID`, it has ended. The end of the input is the end of the supervisor.
"""

import contextlib
import os
import signal
import sys
import time

_POLL = 0.2


def started(pid: int) -> str:
    """When the process began [clock ticks since boot]; empty when it is gone, or is a zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def main(grace: float) -> None:
    """Follow the supervisor's notes; after its end wait `grace` seconds at most, then kill."""
    groups: dict[int, str] = {}
    for line in sys.stdin:
        pid = int(line[1:])
        if line.startswith("+"):
            groups[pid] = started(pid)
        else:
            groups.pop(pid, None)
    until = time.monotonic() + grace
    # A number may have been given to another process by now: the time of its start tells.
    while groups and time.monotonic() < until:
        time.sleep(_POLL)
        groups = {pid: since for pid, since in groups.items() if since and started(pid) == since}
    for pid in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    main(float(sys.argv[1]))
