"""Removes the Fast DDS shared memory that our own dead nodes left in /dev/shm, and no other.

A process which is killed leaves its segment (0.5 MB, or 17 MB with a profile for cameras) and its ports;
even one that ends well leaves its ports (52 kB each). With Fast DDS 2.14 the owner of a segment, or of a port
which it reads, holds an flock on `<name>_el` (`<name>_sl` for a shared port) for as long as it lives.

The rule for removing a file:
1. a node of ours was seen with `<name>_el` or `<name>_sl` open (/proc/<pid>/fd), so it was its owner, and
2. nobody holds the flock now, and
3. for a port, whose name others may use again: no living process has it mapped. A process that still sends
   to a removed port would not be heard by the next owner of that name. A segment's name is random and never
   comes again, so a peer's mapping of it does not matter.
"""

from __future__ import annotations

import fcntl
import os
import re
from contextlib import ExitStack
from pathlib import Path

SHM = Path("/dev/shm")
_LOCK = re.compile(r"^(fastrtps_(?:[0-9a-f]{16}|port\d+))_[es]l$")


def owned_names(pid: int, proc: Path = Path("/proc"), shm: Path = SHM) -> set[str]:
    """Names of the segments and ports which a living process owns; empty where it cannot be looked at."""
    names = set()
    try:
        for entry in os.scandir(proc / str(pid) / "fd"):
            try:
                target = Path(os.readlink(entry.path))
            except OSError:
                continue  # closed in the meantime
            match = _LOCK.match(target.name)
            if match and target.parent == shm:
                names.add(match.group(1))
    except OSError:
        pass
    return names


def mapped_names(proc: Path = Path("/proc"), shm: Path = SHM) -> set[str]:
    """Names of shared memory files which any process we may look at has mapped."""
    names = set()
    for process in proc.iterdir():
        if not process.name.isdigit():
            continue
        try:
            for line in (process / "maps").read_text(errors="replace").splitlines():
                path = line.partition("/")[2]
                if path.startswith(f"{shm}/fastrtps_"[1:]):
                    names.add(path.rpartition("/")[2])
        except OSError:
            continue  # ended, or another user's, who cannot map our files for writing
    return names


def remove_dead(names: set[str], *, ports: bool, shm: Path = SHM) -> set[str]:
    """Remove those of `names` that the rule allows; returns what is gone now. Ports only if asked for."""
    candidates = {name for name in names if ports or "_port" not in name}
    mapped = mapped_names(shm=shm) if any("_port" in name for name in candidates) else set()
    return {name for name in candidates if not ("_port" in name and name in mapped) and _remove(name, shm)}


def _remove(name: str, shm: Path) -> bool:
    """Remove one segment or port, unless its owner lives; the locks are held meanwhile. Never raises."""
    locks = [shm / f"{name}_el", shm / f"{name}_sl"]
    with ExitStack() as held:
        for lock in locks:
            try:
                file = held.enter_context(open(lock, "rb"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except FileNotFoundError:
                continue  # an owner that ended well removes its lock itself
            except OSError:
                return False
        for path in (shm / name, shm / f"sem.{name}_mutex", *locks):
            try:
                path.unlink(missing_ok=True)
            except OSError:
                return False
    return True


class SegmentLedger:
    """Remembers which shared memory our nodes own, so that it can be removed after their death."""

    def __init__(self, shm: Path = SHM) -> None:
        self._shm = shm
        self._names: set[str] = set()

    def observe(self, pid: int) -> None:
        """Note what a living node owns now."""
        self._names |= owned_names(pid, shm=self._shm)

    def clean(self, *, ports: bool) -> set[str]:
        """Remove what belonged to dead nodes; returns the names.

        Leave the ports while nodes may be started again: a new node takes over the port which its dead
        predecessor left, and so do those that send to it.
        """
        removed = remove_dead(self._names, ports=ports, shm=self._shm)
        self._names -= removed
        return removed
