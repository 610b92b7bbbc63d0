"""The `softflow` command: setup when needed, then the command itself."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from . import wheels, workspace
from .checks import require_tools
from .environment import Environment, ros_is_sourced, run_environment
from .isolation import alone
from .paths import BUILD, INSTALL, LOG, PYTHON, ROOT, SETUP_LOG, SOURCES, VENV, venv_version
from .steps import Runner, SetupError, Step, exclusive, log_tail, say
from .torch import CHOICES, Torch, users_step

COMPUTING = (
    *("src/softflow_experiments", "src/softflow_learner", "src/softflow_policy"),
    *("src/softflow_exchange", "src/softflow_perception", "src/softflow_sim", "src/softflow_tasks"),
    *("src/hand_driver/test/test_streams.py", "tests/test_import_border.py"),
)
"""Tests that are not in a hurry, none of running nodes."""
HERE = {
    "setup": "make the virtual environment and build the packages (every command does so when needed)",
    "test": "ruff, mypy and pytest; further arguments go to pytest",
    "shell": "run a program (default: bash) in the environment that nodes run in",
    "clean": "remove the virtual environment, the build and the logs",
}
ELSEWHERE = {
    "demo": "a simulated hand learning, start to end, in one go",
    "up": "start a node graph",
    "record": "record episodes",
    "train": "train a policy from recorded episodes",
    "eval": "evaluate a policy",
    "bench": "measure rates, latencies and learning curves",
    "policy": "versions of the weights: list, promote, roll back",
    "teleop": "take the hand by the keys of this terminal",
    "key": "make the key that robots and learner share; keystore: keys of DDS-Security",
    "bags": "list, show, check, repair, label, export and import bags",
    "classifier": "success from pictures: train it, let it judge bags",
    "camera": "calibrate a camera: board to print, intrinsics, place",
}


ON_DEMAND = {
    ("bench", "ogbench"): ("ogbench",),
    ("bags", "to-lerobot"): ("lerobot",),
    ("bags", "from-lerobot"): ("lerobot",),
    ("test",): ("ogbench", "lerobot", "orca"),
}
"""Start of a command line -> groups of packages that not every command needs."""


def steps(torch: Torch, command: tuple[str, ...] = ()) -> list[Step]:
    """Everything setup does for a command, in order."""
    all_steps = [Step("venv", "virtual environment", wheels.venv_inputs, wheels.make_venv, wheels.venv_works)]
    if not ros_is_sourced():
        all_steps.append(Step("ros", "ROS 2 wheels", wheels.ros_inputs, wheels.install_ros))
    requirements = wheels.requirements_inputs
    all_steps += [
        Step("requirements", "requirements", requirements, wheels.install_requirements),
        Step("torch", "PyTorch", torch.inputs, torch.install),
        users_step(torch, "torch_users", "packages that need PyTorch"),
        *(
            _group(name, torch)
            for start, names in ON_DEMAND.items()
            if command[: len(start)] == start
            for name in names
        ),
        Step("build", "packages", workspace.inputs, workspace.build, workspace.intact),
    ]
    return all_steps


def _group(name: str, torch: Torch) -> Step:
    if name == "ogbench":
        return users_step(torch, "ogbench", "OGBench")
    titles = {"lerobot": "packages for LeRobot's data sets", "orca": "ORCA hand"}
    return wheels.group_step(name, titles[name])


def setup(torch: Torch, command: tuple[str, ...] = ()) -> bool:
    """Bring everything that a command needs up to date; True if there was anything to do."""
    if all(step.fresh() for step in steps(torch, command)):
        return False
    require_tools()
    with exclusive() as run:
        try:
            _run_stale(steps(torch, command), run)
        except SetupError as error:
            say(f"failed\n{log_tail()}\n\nThe whole output: {SETUP_LOG.relative_to(ROOT)}")
            raise error
        except KeyboardInterrupt:
            say("interrupted; the next call goes on from here")
            raise
    return True


def _run_stale(planned: list[Step], run: Runner) -> None:
    for step in planned:
        if not step.fresh():  # asked again under the lock: another setup may just have done it
            step.run(run)
        if step.name == "venv" and not ros_is_sourced() and not wheels.locks_fit():
            say(f"softflow: no hashed lock for Python {venv_version()}: installing pinned versions unchecked")


def help_text() -> str:
    """Every command, one line each."""
    lines = ["usage: ./softflow COMMAND [ARGUMENTS]", ""]
    lines += [f"  {name:10} {text}" for name, text in {**ELSEWHERE, **HERE}.items()]
    lines += ["", "`./softflow COMMAND --help` tells more. Choices and defaults live in config/*.yaml."]
    return "\n".join(lines)


def _setup_command(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="./softflow setup", description=HERE["setup"])
    parser.add_argument(
        "--torch",
        choices=CHOICES,
        help="auto: the machine's own if there is one, else a small CPU build if pip can find one and there "
        "is no NVIDIA GPU, else the default build; installed: only the machine's own; none: leave it out, "
        "for a machine that runs no policy. Also SOFTFLOW_TORCH.",
    )
    parser.add_argument("--torch-index", metavar="URL", help="where torch is. Also SOFTFLOW_TORCH_INDEX.")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    worked = setup(Torch(options.torch, options.torch_index))
    say(f"softflow: {'ready' if worked else 'nothing to do'} ({time.monotonic() - started:.1f} s)")
    return 0


def _test_command(arguments: list[str]) -> int:
    """mypy, and without arguments the tests of `COMPUTING`, run beside the other tests, which wait much."""
    env: Environment = {"ROS_PYTHON_CHECK_FIELDS": "1", **run_environment()}
    apart = alone()
    first = [Check(["ruff", "check", "."]), Check(["ruff", "format", "--check", "."])]
    tests, beside = Check(["pytest", *arguments], apart), [Check(["mypy"])]
    if not arguments:
        tests = Check(["pytest", *(f"--ignore={path}" for path in COMPUTING)], apart)
        beside.append(Check(["pytest", *COMPUTING, "-o", "cache_dir=.pytest_cache/computing"], apart))
    codes = [check.run(env) for check in first]
    with _beside(beside, env, codes):
        codes.append(tests.run(env))
    return next((code for code in codes if code), 0)


@dataclass(frozen=True)
class Check:
    """A program of the virtual environment that has something to say of this tree."""

    command: list[str]
    prefix: Sequence[str] = ()

    def line(self) -> list[str]:
        return [*self.prefix, str(PYTHON), "-m", *self.command]

    def run(self, env: Environment) -> int:
        self.announce()
        return subprocess.run(self.line(), cwd=ROOT, env=env).returncode

    def announce(self) -> None:
        where = " (in a network of its own)" if self.prefix else ""
        print(f"\n$ {shlex.join(self.command)}{where}", flush=True)


@contextlib.contextmanager
def _beside(checks: list[Check], env: Environment, codes: list[int]) -> Iterator[None]:
    """Runs meanwhile, when a core is idle; what they say comes at the end, their exit codes into `codes`."""
    idle = ["chrt", "--idle", "0"]
    with ThreadPoolExecutor(max_workers=1) as pool:
        pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
        run = partial(subprocess.run, cwd=ROOT, env=env, **pipe)
        running = [pool.submit(run, [*idle, *check.line()]) for check in checks]
        try:
            yield
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        for check, future in zip(checks, running, strict=True):
            done = future.result()
            codes.append(done.returncode)
            check.announce()
            print(done.stdout, end="", flush=True)


def _clean_command(arguments: list[str]) -> int:
    argparse.ArgumentParser(prog="./softflow clean", description=HERE["clean"]).parse_args(arguments)
    with exclusive():
        for folder in (VENV, BUILD, INSTALL, LOG):
            shutil.rmtree(folder, ignore_errors=True)
        # A linked package has its compiled part beside its sources.
        for compiled in SOURCES.glob("*/*/*.so"):
            compiled.unlink()
    return 0


def _dispatch(command: str, arguments: list[str]) -> int:
    if command in ("-h", "--help", "help"):
        print(help_text())
        return 0
    if command == "clean":
        return _clean_command(arguments)
    if command == "setup":
        return _setup_command(arguments)
    setup(Torch(), (command, *arguments))
    if command == "test":
        return _test_command(arguments)
    env = run_environment()
    program = [str(PYTHON), "-m", "softflow_bringup.cli", command, *arguments]
    if command == "shell":
        program = arguments or ["bash"]
    try:
        os.execvpe(program[0], program, env)
    except OSError as error:
        raise SetupError(f"cannot run {program[0]}: {error.strerror}", 127) from error


def main(argv: list[str]) -> int:
    """Exit codes: 1 a step failed, 2 wrong usage or something missing, 130 interrupted."""
    if not argv:
        print(help_text(), file=sys.stderr)
        return 2
    try:
        return _dispatch(argv[0], argv[1:])
    except SetupError as error:
        say(f"softflow: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
