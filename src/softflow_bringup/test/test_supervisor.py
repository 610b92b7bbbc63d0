"""The supervisor with real processes: small Python programs in the place of nodes."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import softflow_bringup
from softflow_bringup.graph import GraphDescription, NodeDescription
from softflow_bringup.log_file import LogFile
from softflow_bringup.respawn import Fate, RespawnLimits, RespawnPolicy
from softflow_bringup.stopping import StopPlan
from softflow_bringup.supervisor import Printer, Supervisor

FAST = RespawnLimits(longest_delay=0.02, quick_failures=4)
WAIT = "import time\nprint('ready', flush=True)\ntime.sleep(600)"
STUBBORN = "import signal\nfor s in (2, 15): signal.signal(s, signal.SIG_IGN)\n" + WAIT
WITH_CHILD = (
    "import subprocess, sys\n"
    "c = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "print('grandchild', c.pid, flush=True)\n"
)


class Log:
    """Collects what the supervisor says."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def __call__(self, name: str, line: str) -> None:
        self.lines.append((name, line))

    def of(self, name: str) -> list[str]:
        return [line for who, line in self.lines if who == name]

    def count(self, name: str, part: str) -> int:
        return sum(part in line for line in self.of(name))

    def numbers(self, name: str, word: str) -> list[int]:
        return [int(line.split()[1]) for line in self.of(name) if line.startswith(word)]


def node(name: str, **fields: object) -> NodeDescription:
    return NodeDescription(package="p", executable="e", name=name, respawn_delay=0.01, **fields)  # type: ignore[arg-type]


def graph(*nodes: NodeDescription) -> GraphDescription:
    return GraphDescription("test", Path("test.yaml"), "", (), {}, nodes)


def make(programs: dict[str, str], *nodes: NodeDescription, **options: object) -> tuple[Supervisor, Log]:
    log = Log()
    options = {"limits": FAST, "grace": 3.0, **options}
    supervisor = Supervisor(
        graph(*nodes),
        log=log,
        command_for=lambda n: [sys.executable, "-c", programs[n.name]],
        **options,  # type: ignore[arg-type]
    )
    return supervisor, log


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def test_a_node_gets_name_namespace_remappings_and_parameters() -> None:
    program = "import sys\nprint(sys.argv[1:-1])\nprint(open(sys.argv[-1]).read())"
    described = node("a", namespace="/ns", remappings=(("x", "/y"),), parameters={"speed": "1e3", "n": 1})
    supervisor, log = make({"a": program}, described)
    assert supervisor.run() == 0
    wanted = ["--ros-args", "-r", "__ns:=/ns", "-r", "__node:=a", "-r", "x:=/y", "--params-file"]
    assert log.of("a")[0] == str(wanted)
    assert '    "speed": "1e3"' in log.of("a")
    assert '    "n": 1' in log.of("a")


def test_environment_niceness_and_log_file(tmp_path: Path) -> None:
    program = "import os, sys\nprint(os.environ['COLOUR'], os.nice(0))\nprint('oops', file=sys.stderr)"
    described = node("a", environment={"COLOUR": "blue"}, nice=10)
    supervisor, log = make({"a": program}, described, log_directory=tmp_path / "logs")
    before = os.nice(0)
    assert supervisor.run() == 0
    assert log.of("a") == [f"blue {min(before + 10, 19)}", "oops"]
    assert (tmp_path / "logs" / "a.log").read_text() == f"blue {min(before + 10, 19)}\noops\n"


def test_a_full_disk_holds_up_no_node(tmp_path: Path) -> None:
    """It writes far more than a pipe holds: whoever read it no longer would stop it there."""
    (tmp_path / "a.log").symlink_to("/dev/full")
    supervisor, log = make({"a": "for i in range(5000): print('x' * 70)"}, node("a"), log_directory=tmp_path)
    assert supervisor.run() == 0
    assert log.of("a") == ["x" * 70] * 5000


def test_lines_that_found_no_room_are_counted_in_the_log(tmp_path: Path) -> None:
    file = LogFile(Path("/dev/full"))
    file.write("first")
    file.write("second")
    assert file.lost == 2
    with (tmp_path / "log").open("ab") as roomy:
        os.dup2(roomy.fileno(), file.fileno())
    file.write("third")
    file.write("fourth")
    file.close()
    wanted = "(2 lines are missing here: No space left on device)\nthird\nfourth\n"
    assert (tmp_path / "log").read_text() == wanted


def test_respawn_until_given_up_and_a_required_death_is_a_failure() -> None:
    supervisor, log = make(
        {"a": "raise SystemExit(3)", "b": WAIT}, node("a", respawn=True, required=True), node("b")
    )
    assert supervisor.run() == 1
    assert log.count("softflow", "a started") == FAST.quick_failures
    assert log.count("softflow", "a died (exit code 3); starting it again") == FAST.quick_failures - 1
    assert log.count("softflow", "for good; it is required: stopping the graph") == 1
    assert supervisor.status() == {"a": "given up", "b": "finished"}


def test_a_killed_node_is_started_again() -> None:
    supervisor, log = make(
        {"a": "import os\nprint('pid', os.getpid(), flush=True)\n" + WAIT}, node("a", respawn=True)
    )
    with supervisor:
        assert eventually(lambda: len(log.numbers("a", "pid")) == 1)
        os.kill(log.numbers("a", "pid")[0], signal.SIGKILL)
        assert eventually(lambda: len(log.numbers("a", "pid")) == 2)
    assert log.count("softflow", "a died (signal SIGKILL)") == 1
    assert supervisor.exit_code == 0
    assert not any(alive(pid) for pid in log.numbers("a", "pid"))


def test_parameters_refused_at_the_start_end_the_graph() -> None:
    supervisor, log = make({"a": "raise SystemExit(2)", "b": WAIT}, node("a", respawn=True), node("b"))
    assert supervisor.run() == 1
    assert log.count("softflow", "a started") == 1
    assert log.count("softflow", "refuses its parameters") == 1
    assert supervisor.status() == {"a": "refused", "b": "finished"}


def test_a_node_that_is_not_required_is_given_up_and_the_rest_goes_on() -> None:
    programs = {"a": "raise SystemExit(1)", "b": "import time; time.sleep(1.5)"}
    supervisor, log = make(programs, node("a", respawn=True), node("b", ends_graph=True))
    assert supervisor.run() == 0
    assert log.count("softflow", "going on without it") == 1
    assert log.count("softflow", "b is done") == 1


def test_the_end_of_the_episodes_is_the_end_of_the_graph() -> None:
    programs = {"a": WAIT, "b": "pass"}
    supervisor, log = make(
        programs, node("a", required=True, respawn=True), node("b", ends_graph=True, required=True)
    )
    assert supervisor.run() == 0
    assert log.count("softflow", "b is done; stopping the graph") == 1


def test_a_command_that_does_not_exist_says_so() -> None:
    log = Log()
    supervisor = Supervisor(
        graph(node("a", required=True)), log=log, command_for=lambda _: ["no_such_command"], limits=FAST
    )
    assert supervisor.run() == 1
    assert "cannot run no_such_command" in log.of("a")[0]


def test_stop_order_and_what_a_node_says_while_it_stops() -> None:
    program = (
        "import signal, sys, time\n"
        "def end(*_): time.sleep(0.2); print('bye', flush=True); sys.exit(0)\n"
        "signal.signal(2, end)\n" + WAIT
    )
    nodes = [node("last", stop_order=9), node("second", stop_order=5), node("first")]
    supervisor, log = make({n.name: program for n in nodes}, *nodes)
    with supervisor:
        assert eventually(lambda: sum(line == "ready" for _, line in log.lines) == 3)
    assert [name for name, line in log.lines if line == "bye"] == ["first", "second", "last"]


def test_a_stubborn_node_is_killed_and_its_child_with_it() -> None:
    supervisor, log = make({"a": WITH_CHILD + STUBBORN}, node("a"), grace=0.6)
    with supervisor:
        assert eventually(lambda: log.count("a", "ready") == 1)
    grandchild = log.numbers("a", "grandchild")[0]
    assert eventually(lambda: not alive(grandchild), 2.0)
    assert log.count("softflow", "sending SIGKILL") == 1


def test_a_dead_node_leaves_no_child_behind() -> None:
    supervisor, log = make({"a": WITH_CHILD + "raise SystemExit(1)", "b": WAIT}, node("a"), node("b"))
    with supervisor:
        assert eventually(lambda: supervisor.status()["a"] == "given up")
        assert eventually(lambda: not alive(log.numbers("a", "grandchild")[0]), 2.0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_supervisor(number: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "up.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(Path(softflow_bringup.__file__).parents[1])!r})\n"
        "from pathlib import Path\n"
        "from softflow_bringup.graph import GraphDescription, NodeDescription\n"
        "from softflow_bringup.supervisor import Supervisor\n"
        "nodes = tuple(NodeDescription('p', 'e', name, respawn=True) for name in 'abc')\n"
        "graph = GraphDescription('g', Path(), '', (), {}, nodes)\n"
        "program = 'import os, time; print(\"pid\", os.getpid(), flush=True); time.sleep(600)'\n"
        "sys.exit(Supervisor(graph, command_for=lambda n: [sys.executable, '-c', program]).run())\n"
    )
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pids: list[int] = []
    while len(pids) < 3:
        line = process.stdout.readline()
        assert line, "the supervisor ended early"
        if "] pid " in line:
            pids.append(int(line.split()[-1]))
    process.send_signal(number)
    code = process.wait(timeout=30)
    assert eventually(lambda: not any(alive(pid) for pid in pids), 5.0)
    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 0)
    process.stdout.close()


def test_a_node_that_ignores_the_end_of_a_killed_supervisor_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "up.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(Path(softflow_bringup.__file__).parents[1])!r})\n"
        "from pathlib import Path\n"
        "from softflow_bringup.graph import GraphDescription, NodeDescription\n"
        "from softflow_bringup.supervisor import Supervisor\n"
        "graph = GraphDescription('g', Path(), '', (), {}, (NodeDescription('p', 'e', 'a'),))\n"
        f"program = 'import os; print(\"pid\", os.getpid(), flush=True)\\n' + {WITH_CHILD + STUBBORN!r}\n"
        "Supervisor(graph, grace=0.5, command_for=lambda n: [sys.executable, '-c', program]).run()\n"
    )
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    numbers: dict[str, int] = {}
    for line in process.stdout:
        words = line.split()
        if words[1] in ("pid", "grandchild"):
            numbers[words[1]] = int(words[-1])
        if words[1] == "ready":
            break
    process.kill()
    process.wait(timeout=30)
    assert set(numbers) == {"pid", "grandchild"}
    assert eventually(lambda: not any(alive(pid) for pid in numbers.values()), 10.0)
    process.stdout.close()


def test_with_several_robots_the_last_end_is_the_end_of_the_graph() -> None:
    programs = {"a": WAIT, "b": "pass", "c": "import time; time.sleep(1.0)"}
    ends = {"ends_graph": True, "required": True}
    supervisor, log = make(programs, node("a", required=True), node("b", **ends), node("c", **ends))
    assert supervisor.run() == 0
    assert log.count("softflow", "b is done; waiting for c") == 1
    assert log.count("softflow", "c is done; stopping the graph") == 1


def test_a_run_has_an_identity_that_its_nodes_keep_over_restarts() -> None:
    program = "import os\nprint('run', int(os.environ['SOFTFLOW_RUN_ID'], 16))\nraise SystemExit(1)"
    supervisor, log = make({"a": program}, node("a", respawn=True))
    supervisor.run()
    first = log.numbers("a", "run")
    supervisor, log = make({"a": program}, node("a"))
    supervisor.run()
    assert len(first) > 1 and len(set(first)) == 1
    assert log.numbers("a", "run")[0] != first[0]


def test_a_second_request_hastens_the_end() -> None:
    supervisor, log = make({"a": STUBBORN}, node("a"), grace=600.0)
    with supervisor:
        assert eventually(lambda: log.count("a", "ready") == 1)
        for _ in range(2):
            supervisor.request_stop()
    assert log.count("softflow", "sending SIGKILL") == 1


def test_nothing_runs_after_a_failed_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    supervisor, log = make({"a": WAIT}, node("a"), log_directory=tmp_path / "file")
    with pytest.raises(OSError):
        supervisor.run()
    assert log.lines == []


def test_prefix_and_colour() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    plain, colourful = io.StringIO(), Terminal()
    Printer(["a"], plain)("a", "hello")
    Printer(["a"], colourful)("a", "hello")
    assert plain.getvalue() == "[a] hello\n"
    assert colourful.getvalue() == "\033[32m[a]\033[0m hello\n"


def test_signals_become_harder_and_sooner_when_hurried() -> None:
    now = [0.0]
    calm, hurried, pressed = (StopPlan(15.0, lambda: now[0]) for _ in range(3))
    assert [calm.due(1), calm.due(1)] == [signal.SIGINT, None]
    assert [hurried.due(2) for _ in range(3)] == [signal.SIGINT, signal.SIGTERM, None]
    assert [pressed.due(3) for _ in range(3)] == [signal.SIGINT, signal.SIGTERM, signal.SIGKILL]
    now[0] = 2.0
    assert [calm.due(1), hurried.due(2), pressed.due(3)] == [None, signal.SIGKILL, None]
    now[0] = 10.0
    assert [calm.due(1), calm.due(1)] == [signal.SIGTERM, None]
    now[0] = 15.0
    assert [calm.due(1), calm.due(1)] == [signal.SIGKILL, None]


def test_back_off_doubles_is_bounded_and_starts_anew_after_a_healthy_time() -> None:
    policy = RespawnPolicy(respawn=True)
    assert [policy.on_exit(1, 0.5)[1] for _ in range(7)] == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert policy.on_exit(-9, 61.0) == (Fate.RESPAWN, 1.0)
    for _ in range(6):
        assert policy.on_exit(1, 0.0)[0] is Fate.RESPAWN
    assert policy.on_exit(1, 0.0)[0] is Fate.GIVEN_UP
    assert RespawnPolicy(respawn=True).on_exit(0, 0.0)[0] is Fate.FINISHED
    refusing = RespawnPolicy(respawn=True)
    assert [refusing.on_exit(code, 1.0)[0] for code in (2, 2)] == [Fate.REFUSED, Fate.RESPAWN]
    assert RespawnPolicy(respawn=False).on_exit(1, 0.0)[0] is Fate.GIVEN_UP
