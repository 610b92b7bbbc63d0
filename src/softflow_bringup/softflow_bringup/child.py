"""One node as a process group of its own: start, output by lines, signals, an end without leftovers."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

_GUARD = str(Path(__file__).with_name("exec_guarded.py"))
_REAPER = str(Path(__file__).with_name("reaper.py"))


class Child:
    """A running process with its group; `poll` reaps it.

    A child that is started by a thread gets SIGTERM when that thread ends (PR_SET_PDEATHSIG works so); start
    children from a thread that lives as long as they may.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        on_line: Callable[[str], None],
        nice: int = 0,
    ) -> None:
        """Start the command. Raises OSError where no process can be made."""
        guard = [sys.executable, "-I", "-S", _GUARD, str(os.getpid()), str(nice)]
        self._process = subprocess.Popen(
            [*guard, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
        )
        self.pid = self._process.pid
        self.started = time.monotonic()
        assert self._process.stdout is not None
        output = self._process.stdout
        self._reader = threading.Thread(target=_read_lines, args=(output, on_line), daemon=True)
        self._reader.start()

    @property
    def alive_seconds(self) -> float:
        """Time since the start [s]."""
        return time.monotonic() - self.started

    def poll(self) -> int | None:
        """None while it runs, else the exit code (negative: the signal). Its group is gone then, too."""
        if self._process.returncode is not None:
            return self._process.returncode
        # Not reaped yet, the process keeps its id, so the group's id cannot be somebody else's by now.
        if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
        self._signal_group(signal.SIGKILL)
        code = self._process.wait()
        self._reader.join(timeout=1.0)
        return code

    def signal(self, number: int) -> None:
        """Signal the whole group; does nothing where it has ended."""
        if self._process.returncode is None:
            self._signal_group(number)

    def _signal_group(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)


class Reaper:
    """The process that kills what is left if this one is killed (reaper.py)."""

    def __init__(self, grace: float) -> None:
        """Start it. Raises OSError."""
        command = [sys.executable, "-I", "-S", _REAPER, str(grace)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    def note(self, line: str) -> None:
        """Tell it of a start (`+PID`) or an end (`-PID`)."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()

    def close(self) -> None:
        """Everything was stopped."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()


def _read_lines(stream: IO[bytes], on_line: Callable[[str], None]) -> None:
    with stream:
        for line in stream:
            on_line(line.decode("utf-8", errors="replace").rstrip("\r\n"))
