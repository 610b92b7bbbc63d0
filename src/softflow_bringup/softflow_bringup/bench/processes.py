"""What processes take of the machine, from /proc."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Usage:
    """Of one process."""

    cpu: float
    """[s] of all its threads, since its start"""
    rss: int
    """[bytes]"""
    threads: int
    descriptors: int


def usage(pid: int) -> Usage:
    """Of a process that lives. Raises OSError."""
    folder = Path("/proc") / str(pid)
    # The name before the last parenthesis may hold blanks.
    fields = (folder / "stat").read_text().rpartition(")")[2].split()
    return Usage(
        cpu=(int(fields[11]) + int(fields[12])) / TICKS,
        rss=int(fields[21]) * PAGE,
        threads=int(fields[17]),
        descriptors=len(os.listdir(folder / "fd")),
    )


def usages(processes: Mapping[str, int]) -> dict[str, Usage]:
    """Of all that live, by name."""
    found = {}
    for name, pid in processes.items():
        try:
            found[name] = usage(pid)
        except OSError:
            continue  # it has just ended
    return found


def machine_busy() -> float:
    """[s] that all processors together were busy since the machine's start."""
    user, nice, system, _, _, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) / TICKS
