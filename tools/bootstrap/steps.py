"""Steps that survive being killed: a stamp is written last, a marker tells of an interruption."""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

from .paths import LOCK_FILE, ROOT, SETUP_LOG, STAMPS

TAIL_LINES = 30


class SetupError(Exception):
    """Setup cannot go on; the text is for the person in front of it."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class CommandError(SetupError):
    """A tool that setup ran came back with an error."""


def say(text: str, end: str = "\n") -> None:
    """Tell the person; stdout stays free for the command's own output."""
    print(text, end=end, file=sys.stderr, flush=True)


def fingerprint(*parts: object) -> str:
    """A hash of everything a step depends on; a `Path` stands for the content of that file."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.read_bytes() if isinstance(part, Path) else str(part).encode()
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()


class Runner:
    """Runs tools with their output in the log file and the setup lock in their hands."""

    def __init__(self, log: IO[bytes], lock_fd: int) -> None:
        self._log = log
        self._lock_fd = lock_fd

    def note(self, text: str) -> None:
        """Write a line to the log only."""
        self._log.write(text.encode() + b"\n")
        self._log.flush()

    def __call__(self, command: Sequence[str], env: Mapping[str, str], cwd: Path = ROOT) -> None:
        """Run to the end; `CommandError` if it fails, and nothing left running if interrupted."""
        self.note("\n$ " + " ".join(command))
        # The child keeps the lock: should this process be killed, a second setup waits for the orphan.
        # Its own session: an interruption ends the whole tree, not just the child.
        child = subprocess.Popen(
            command,
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            pass_fds=[self._lock_fd],
            start_new_session=True,
        )
        try:
            code = child.wait()
        except BaseException:
            _end(child)
            raise
        if code != 0:
            raise CommandError(f"`{Path(command[0]).name} {' '.join(command[1:3])} ...` failed ({code})")


def _end(child: subprocess.Popen[bytes]) -> None:
    for number, patience in ((signal.SIGTERM, 3.0), (signal.SIGKILL, None)):
        try:
            os.killpg(child.pid, number)
        except ProcessLookupError:
            break
        try:
            child.wait(patience)
        except subprocess.TimeoutExpired:
            continue


@dataclass(frozen=True)
class Step:
    """One unit of setup.

    `inputs` is read before the action: an edit made meanwhile leaves the step stale.
    `action(run, interrupted)`: `interrupted` tells that an earlier attempt was killed half-way.
    """

    name: str
    title: str
    inputs: Callable[[], str]
    action: Callable[[Runner, bool], None]
    intact: Callable[[], bool] = lambda: True  # whether what it made is still there

    @property
    def stamp(self) -> Path:
        return STAMPS / self.name

    @property
    def marker(self) -> Path:
        return STAMPS / f"{self.name}.running"

    def fresh(self) -> bool:
        """Whether the last complete run had the same inputs."""
        try:
            return self.stamp.read_text() == self.inputs() and not self.marker.exists() and self.intact()
        except OSError:
            return False

    def run(self, run: Runner) -> None:
        """Do it, and record it as done at the very end."""
        say(f"softflow: {self.title} ... ", end="")
        started = time.monotonic()
        interrupted = self.marker.exists()
        if STAMPS.parent.exists():
            STAMPS.mkdir(exist_ok=True)
            self.stamp.unlink(missing_ok=True)
            self.marker.touch()
        before = self.inputs()
        try:
            self.action(run, interrupted)
        except SetupError:
            # The tool ended by itself, so what it left is consistent and can be continued.
            self.marker.unlink(missing_ok=True)
            raise
        STAMPS.mkdir(exist_ok=True)
        draft = self.stamp.with_suffix(".new")
        draft.write_text(before)
        draft.replace(self.stamp)
        self.marker.unlink(missing_ok=True)
        say(f"{time.monotonic() - started:.1f} s")


def _interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt(number)


@contextmanager
def exclusive() -> Iterator[Runner]:
    """Hold the setup lock, with a log file open; SIGTERM behaves like Ctrl-C inside.

    Raises `SetupError` in a tree that this user cannot write.
    """
    try:
        descriptor = os.open(LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        owner = "its owner has to run this command once"
        raise SetupError(f"cannot set up {ROOT}: {LOCK_FILE.name}: {error.strerror}; {owner}") from error
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            say(f"softflow: waiting for the setup that process {holder} started")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        SETUP_LOG.parent.mkdir(exist_ok=True)
        with SETUP_LOG.open("wb") as log:
            yield Runner(log, descriptor)
    finally:
        signal.signal(signal.SIGTERM, previous)
        os.close(descriptor)


def log_tail() -> str:
    """The end of the log, for the person whose step failed."""
    lines = SETUP_LOG.read_text(errors="replace").rpartition("\n$ ")[2].splitlines()
    return "\n".join("    " + line for line in lines[-TAIL_LINES:])
