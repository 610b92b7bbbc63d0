"""Runs a node graph as processes: starts them, starts them again, and stops them without leaving anything."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO

from softflow_bringup.child import Child, Reaper
from softflow_bringup.graph import GraphDescription, NodeDescription
from softflow_bringup.log_file import LogFile
from softflow_bringup.parameters import write_parameter_file
from softflow_bringup.respawn import Fate, RespawnLimits, RespawnPolicy
from softflow_bringup.shm import SegmentLedger
from softflow_bringup.stopping import StopPlan

CommandFor = Callable[[NodeDescription], Sequence[str]]
_POLL_PERIOD = 0.1
# A node's segments appear in its first seconds; later looks are only for nodes that make a second context.
_LEDGER_EARLY, _LEDGER_PERIOD = 10.0, 5.0
RUN_ID = "SOFTFLOW_RUN_ID"
"""Environment variable: the same for every start of a node within one run of a graph, and for no other."""


def find_executable(node: NodeDescription) -> list[str]:
    """`<prefix>/lib/<package>/<executable>` through the ament index, else `python -m <package>.node`."""
    from_source = [sys.executable, "-m", f"{node.package}.node"]
    try:
        from ament_index_python.packages import PackageNotFoundError, get_package_prefix
    except ImportError:
        return from_source
    try:
        path = Path(get_package_prefix(node.package)) / "lib" / node.package / node.executable
    except PackageNotFoundError:
        return from_source
    return [str(path)] if path.is_file() else from_source


def ros_arguments(node: NodeDescription, parameter_file: Path) -> list[str]:
    """The node's name, namespace, remappings and parameters as ROS arguments."""
    arguments = ["--ros-args", "-r", f"__ns:={node.namespace}", "-r", f"__node:={node.name}"]
    for source, target in node.remappings:
        arguments += ["-r", f"{source}:={target}"]
    if node.enclave:
        arguments += ["--enclave", node.enclave]
    return [*arguments, "--params-file", str(parameter_file)]


@dataclass
class _Slot:
    """A node and what has become of it."""

    node: NodeDescription
    policy: RespawnPolicy
    command: list[str]
    child: Child | None = None
    due: float | None = None
    fate: Fate | None = None
    looked: float = -_LEDGER_PERIOD
    log_file: LogFile | None = None

    @property
    def name(self) -> str:
        return self.node.label


class Supervisor:
    """Runs a graph. `run()` in the main thread, or as a context manager around a background thread.

    `log(node, line)` gets every line of output, and the supervisor's own under the name `softflow`; it is
    called from several threads, one call at a time, and must not raise. `exit_code` is 0, or 1 when a
    required node has gone or any refused its parameters.
    """

    def __init__(
        self,
        graph: GraphDescription,
        *,
        environment: Mapping[str, str] | None = None,
        log: Callable[[str, str], None] | None = None,
        log_directory: Path | None = None,
        command_for: CommandFor = find_executable,
        limits: RespawnLimits | None = None,
        grace: float = 15.0,
    ) -> None:
        self.graph = graph
        self.exit_code = 0
        self.finished = False
        self._environment = dict(os.environ if environment is None else environment)
        self._environment[RUN_ID] = uuid.uuid4().hex
        self._log = log or Printer([node.label for node in graph.nodes])
        self._log_directory = log_directory
        self._command_for = command_for
        self._limits = limits or RespawnLimits()
        self._grace = grace
        self._slots: list[_Slot] = []
        # A plain number, not an Event: a signal handler sets it, and an Event's lock could be held just then.
        self._stop_requests = 0
        self._log_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ledger = SegmentLedger()
        # Children live no longer than the thread that starts them (see Child), so one thread starts them all.
        self._starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="softflow starter")
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._reaper: Reaper | None = None

    def start(self) -> None:
        """Start all nodes. Raises OSError where files or processes cannot be made; nothing runs then."""
        self._temporary = tempfile.TemporaryDirectory(prefix="softflow_")
        try:
            if self._log_directory is not None:
                self._log_directory.mkdir(parents=True, exist_ok=True)
            self._reaper = Reaper(self._grace)
            for node in self.graph.nodes:
                self._slots.append(self._make_slot(node))
            for slot in self._slots:
                self._start_slot(slot)
        except BaseException:
            self.stop()
            raise

    def poll(self) -> bool:
        """Look after the nodes once; True while the graph should go on running."""
        for slot in self._slots:
            self._watch(slot)
            if slot.due is not None and time.monotonic() >= slot.due and not self.finished:
                self._start_slot(slot)
        if not self.finished and all(slot.fate is not None for slot in self._slots):
            self.finished = True
            self.exit_code = int(any(slot.fate is Fate.GIVEN_UP for slot in self._slots))
        return not self.finished

    def stop(self) -> None:
        """Stop all nodes in their order and clean up after them; may be called again."""
        self.finished = True
        for slot in self._slots:
            slot.due = None
        for order in sorted({slot.node.stop_order for slot in self._slots}):
            self._stop_slots([s for s in self._slots if s.node.stop_order == order and s.child is not None])
        self._ledger.clean(ports=True)
        self._starter.shutdown()
        if self._reaper is not None:
            self._reaper.close()
            self._reaper = None
        with self._log_lock:
            for slot in self._slots:
                if slot.log_file is not None:
                    slot.log_file.close()
                    slot.log_file = None
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None

    def run(self) -> int:
        """Start, look after the nodes until the graph ends or `request_stop`, stop; returns the exit code.

        In the main thread SIGINT and SIGTERM request the stop; a second one hastens it.
        """
        with _Signals(self.request_stop):
            self.start()
            self._look_after()
        return self.exit_code

    def request_stop(self) -> None:
        """End `run` soon; called again, it hastens the end. Safe in signal handlers and from any thread."""
        self._stop_requests += 1

    def status(self) -> dict[str, str]:
        """Per node: `running`, `waiting` for its next start, `finished`, `given up` or `refused`."""
        states = {}
        for slot in self._slots:
            states[slot.name] = slot.fate.value if slot.fate else "running" if slot.child else "waiting"
        return states

    def processes(self) -> dict[str, int]:
        """Process ids of the nodes that run now."""
        return {slot.name: slot.child.pid for slot in self._slots if slot.child is not None}

    def __enter__(self) -> Supervisor:
        """Start the nodes and look after them in a thread. Raises what `start` raises."""
        self.start()
        self._thread = threading.Thread(target=self._look_after, name="softflow supervisor", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.request_stop()
        assert self._thread is not None
        self._thread.join()
        self.stop()

    def _look_after(self) -> None:
        try:
            while self._stop_requests == 0 and self.poll():
                time.sleep(_POLL_PERIOD)
        except BaseException:
            self.exit_code = 1
            raise
        finally:
            self.stop()

    def _make_slot(self, node: NodeDescription) -> _Slot:
        assert self._temporary is not None
        parameter_file = Path(self._temporary.name) / f"{node.label}.yaml"
        write_parameter_file(parameter_file, node.parameters)
        policy = RespawnPolicy(node.respawn, node.respawn_delay, self._limits)
        slot = _Slot(node, policy, [*self._command_for(node), *ros_arguments(node, parameter_file)])
        if self._log_directory is not None:
            slot.log_file = LogFile(self._log_directory / f"{node.label}.log")
        return slot

    def _start_slot(self, slot: _Slot) -> None:
        environment = {**self._environment, "PYTHONUNBUFFERED": "1", **slot.node.environment}

        def on_line(line: str) -> None:
            self._emit(slot, line)

        def start() -> Child:
            return Child(slot.command, environment, on_line, slot.node.nice)

        slot.child = self._starter.submit(start).result()
        slot.due = None
        if self._reaper is not None:
            self._reaper.note(f"+{slot.child.pid}")
        self._say(f"{slot.name} started (process {slot.child.pid})")

    def _watch(self, slot: _Slot) -> None:
        """Reap the node if it has exited, and decide its fate."""
        child = slot.child
        if child is None:
            return
        self._observe(slot, child)
        code = child.poll()
        if code is None:
            return
        slot.child = None
        if self._reaper is not None:
            self._reaper.note(f"-{child.pid}")
        if code < 0:
            self._ledger.killed(child.alive_seconds)
        self._ledger.clean(ports=False)
        if self.finished:
            slot.fate = Fate.FINISHED
            return
        slot.fate, delay = slot.policy.on_exit(code, child.alive_seconds)
        if slot.fate is Fate.RESPAWN:
            slot.fate = None
            slot.due = time.monotonic() + delay
            self._say(f"{slot.name} died ({describe(code)}); starting it again in {delay:g} s")
        else:
            self._has_gone(slot, code)

    def _observe(self, slot: _Slot, child: Child) -> None:
        now = time.monotonic()
        if child.alive_seconds < _LEDGER_EARLY or now - slot.looked >= _LEDGER_PERIOD:
            slot.looked = now
            self._ledger.observe(child.pid)

    def _has_gone(self, slot: _Slot, code: int) -> None:
        """A node will not be started again: say why, and end the graph where that follows."""
        node = slot.node
        if slot.fate is Fate.FINISHED and node.ends_graph:
            others = [s.name for s in self._slots if s.node.ends_graph and s.fate is not Fate.FINISHED]
            self.finished = not others
            then = f"waiting for {', '.join(others)}" if others else "stopping the graph"
            self._say(f"{slot.name} is done; {then}")
            return
        why = "finished" if slot.fate is Fate.FINISHED else f"died ({describe(code)}) for good"
        if slot.fate is Fate.REFUSED:
            consequence = "it refuses its parameters, see above: stopping the graph"
        elif node.required:
            consequence = "it is required: stopping the graph"
        else:
            self._say(f"{slot.name} {why}; going on without it")
            return
        self._say(f"{slot.name} {why}; {consequence}")
        self.exit_code = 1
        self.finished = True

    def _stop_slots(self, slots: list[_Slot]) -> None:
        plan = StopPlan(self._grace)
        while any(slot.child is not None for slot in slots):
            number = plan.due(self._stop_requests)
            for slot in slots:
                if number is not None and slot.child is not None:
                    slot.child.signal(number)
                    if number is not signal.SIGINT:
                        self._say(f"{slot.name} does not end; sending {number.name}")
                self._watch(slot)
            time.sleep(0.02)

    def _say(self, line: str) -> None:
        with self._log_lock:
            self._log("softflow", line)

    def _emit(self, slot: _Slot, line: str) -> None:
        with self._log_lock:
            if slot.log_file is not None:
                slot.log_file.write(line)
            self._log(slot.name, line)


def describe(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


class Printer:
    """Prints `[node] line`, each node in its colour where the output is a terminal."""

    def __init__(self, names: Sequence[str], stream: IO[str] | None = None) -> None:
        self._stream = stream or sys.stdout
        self._colours: dict[str, int] = {}
        if self._stream.isatty():
            self._colours = {name: 31 + (index + 1) % 6 for index, name in enumerate(names)}

    def __call__(self, name: str, line: str) -> None:
        """Print one line. A reader that has gone away (`| head`), or a full disk, does not stop the robot."""
        prefix = f"\033[{self._colours[name]}m[{name}]\033[0m" if name in self._colours else f"[{name}]"
        with contextlib.suppress(OSError, ValueError):
            print(f"{prefix} {line}", file=self._stream, flush=True)


class _Signals:
    """While entered, in the main thread: SIGINT and SIGTERM call a function."""

    def __init__(self, on_signal: Callable[[], None]) -> None:
        self._on_signal = on_signal
        self._previous: dict[int, object] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._handle)

    def __exit__(self, *_: object) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._on_signal()
