"""The processes that share updates: those of torchrun where it has started this one, else children of this one.

torchrun's store listens on all interfaces. The leader's own children meet by a file and talk over loopback, so that
no port is open to others.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
import torch.distributed as dist

from softflow_learner.distributed import Child, Leader, ProcessLostError, Worker
from softflow_learner.parallel import Alone, find_device
from softflow_node.parameters import ParameterError

MEETING = "SOFTFLOW_MEETING"
"""Environment of a leader's child: the file by which they find each other."""
END_LIMIT = 10.0
"""[s] for a child to end once it may."""


@contextmanager
def gathered(processes: int = 1, device: str = "cpu") -> Iterator[Alone]:
    """The processes of an update, for an `Agent` to join: torchrun's, or children of this one, or this one alone.

    Raises:
        ParameterError: no such device, too few of them, another number of processes than torchrun's.
        ProcessLostError: not all came; later from an update, when one is gone.
    """
    if _launched():
        size = int(os.environ["WORLD_SIZE"])
        if processes not in (1, size):
            raise ParameterError(f"processes is {processes}, torchrun has started {size}")
        with _led(Leader(size, _own_device(device))) as leader:
            yield leader
        return
    if processes < 1:
        raise ParameterError(f"processes is {processes}, must be at least 1")
    found = find_device(device)
    find_device(device, processes - 1)
    if processes == 1:
        yield Alone(found)
        return
    _stay_on_this_machine()
    with (
        tempfile.TemporaryDirectory(prefix="softflow_") as directory,
        _children(processes, device, Path(directory) / "meeting") as children,
        _led(Leader(processes, found, Path(directory) / "meeting", children)) as leader,
    ):
        yield leader


def is_worker() -> bool:
    """Whether torchrun, or a leader, has started this process to serve."""
    return _launched() and int(os.environ["RANK"]) > 0


def _launched() -> bool:
    return {"RANK", "WORLD_SIZE"} <= os.environ.keys()


def serve(device: str) -> int:
    """A worker's whole life; returns the process's exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # The leader ends when told to, and its workers with it.
    rank, size, meeting = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), os.environ.get(MEETING)
    try:
        Worker(rank, size, _own_device(device), Path(meeting) if meeting else None).serve()
    except (ParameterError, ProcessLostError) as error:
        print(f"softflow learner: {error}", file=sys.stderr, flush=True)
        return 1
    dist.destroy_process_group()
    return 0


def _own_device(device: str) -> torch.device:
    """This rank's."""
    if os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]:
        _stay_on_this_machine()
    found = find_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if found.type == "cuda":
        torch.cuda.set_device(found)
    return found


def _stay_on_this_machine() -> None:
    """Talk over loopback, unless told otherwise."""
    for engine in ("GLOO", "NCCL"):
        os.environ.setdefault(f"{engine}_SOCKET_IFNAME", "lo")


@contextmanager
def _led(leader: Leader) -> Iterator[Leader]:
    good = False
    try:
        yield leader
        leader.end()
        good = not leader.lost
    finally:
        if good or leader.device.type == "cpu":  # NCCL would wait for those that are lost.
            dist.destroy_process_group()


@contextmanager
def _children(processes: int, device: str, meeting: Path) -> Iterator[list[Child]]:
    """Ranks 1 and up. They go with the leader; after an error, or if they do not, they are killed."""
    threads = str(torch.get_num_threads())
    command = [sys.executable, "-m", "softflow_learner.processes", "--device", device, "--threads", threads]
    children: list[Child] = []
    try:
        for rank in map(str, range(1, processes)):
            own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": str(processes), MEETING: str(meeting)}
            # A session of its own: Ctrl-C is for the leader.
            children.append(subprocess.Popen(command, env={**os.environ, **own}, start_new_session=True))
        yield children
        for child in children:
            with suppress(subprocess.TimeoutExpired):
                child.wait(END_LIMIT)
    finally:
        for child in children:
            child.kill()
            child.wait()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of a leader's child; returns the exit code."""
    parser = argparse.ArgumentParser(prog="softflow learner process", description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    return serve(options.device)


if __name__ == "__main__":
    sys.exit(main())
