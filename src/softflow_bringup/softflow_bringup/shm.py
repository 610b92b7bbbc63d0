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
A node that is killed right after it has made its segment was not seen with it. In the place of 1, for a segment, it
therefore counts that it is this user's, that it appeared while a node of ours lived that was killed, and that nobody
has it mapped. It may have been another dead process's then, to which it is of no use either.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from contextlib import ExitStack, suppress
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
    names, here = set(), {}
    for file in shm.glob("fastrtps_*"):
        with suppress(OSError):
            status = file.stat()
            device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
            here[file.name] = f"{device} {status.st_ino}"
    for process in proc.iterdir():
        if not process.name.isdigit():
            continue
        try:
            for line in (process / "maps").read_text(errors="replace").splitlines():
                path = line.partition("/")[2]
                if path.startswith(f"{shm}/fastrtps_"[1:]):
                    name, (device, inode) = path.rpartition("/")[2], line.split(None, 5)[3:5]
                    # Another container's /dev/shm has the same path, and is another device.
                    if here.get(name) == f"{device} {inode}":
                        names.add(name)
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
        self._lives: list[tuple[float, float]] = []
        """[s] Unix time; of nodes that were killed."""

    def observe(self, pid: int) -> None:
        """Note what a living node owns now."""
        self._names |= owned_names(pid, shm=self._shm)

    def killed(self, alive: float) -> None:
        """Note that a node was killed just now, after so many seconds."""
        now = time.time()
        self._lives.append((now - alive, now))

    def _unseen(self) -> set[str]:
        """Segments that nobody uses and that a killed node may have made before it was seen with them."""
        mapped = mapped_names(shm=self._shm)
        found = set()
        for path in self._shm.glob("fastrtps_*_el"):
            match = _LOCK.match(path.name)
            try:
                about = path.stat()
            except OSError:
                continue
            appeared = any(start <= about.st_mtime <= end for start, end in self._lives)
            if match and appeared and about.st_uid == os.getuid() and "_port" not in path.name:
                found.add(match.group(1))
        return found - mapped

    def clean(self, *, ports: bool) -> set[str]:
        """Remove what belonged to dead nodes; returns the names.

        With the ports, at the end, also goes what killed nodes were not seen with. Leave the ports while nodes may be
        started again: a new node takes over the port which its dead predecessor left, and so do those that send to
        it.
        """
        if ports and self._lives:
            self._names |= self._unseen()
        removed = remove_dead(self._names, ports=ports, shm=self._shm)
        self._names -= removed
        return removed
