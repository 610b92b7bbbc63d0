"""Becomes a node's process: ties it to the supervisor's life, sets its priority, then execs the command.

Run by path, `python -I -S exec_guarded.py SUPERVISOR_PID NICE COMMAND...`; standard library only. A process
of its own does this, because Python code between fork and exec (`preexec_fn`) can dead-lock when the
supervisor has threads.
"""

import contextlib
import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
EXIT_NOT_FOUND = 127


def main(argv: list[str]) -> None:
    """Replace this process by the command; ends with 127 where that fails."""
    supervisor, nice, command = int(argv[0]), int(argv[1]), argv[2:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != supervisor:
        sys.exit("the supervisor died before its node began")
    if nice:
        # Only a privileged user may raise a priority; the node runs without it elsewhere.
        with contextlib.suppress(PermissionError):
            os.nice(nice)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"cannot run {command[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(EXIT_NOT_FOUND)


if __name__ == "__main__":
    main(sys.argv[1:])
