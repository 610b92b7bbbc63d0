"""The virtual environment: Python itself, the ROS wheels, softflow's requirements."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from .checks import base_python
from .environment import pip_environment, ros_is_sourced
from .paths import BUILD, PYTHON, REQUIREMENTS, ROOT, STAMPS, VENV, site_packages, venv_version
from .steps import Runner, Step, fingerprint

# The wheels carry the paths of the machine that built them.
_BUILD_INCLUDE = re.compile(r"/opt/python/cp3\d+-cp3\d+/include/python3\.\d+")
_BUILD_PURELIB = re.compile(r"/opt/python/cp3\d+-cp3\d+/lib/python3\.\d+/site-packages")
# With a sourced ROS these stay the distribution's: its message packages are compiled against them.
_DISTRIBUTION_OWN = ("numpy", "PyYAML", "pytest", "setuptools")
# Their metadata ask for numpy 2; built against it, they run with the distribution's numpy 1 as well.
_ASKS_TOO_MUCH = ("opencv-python-headless",)


def pip(run: Runner, *arguments: str) -> None:
    """Run the virtual environment's pip."""
    run([str(PYTHON), "-m", "pip", "install", *arguments], pip_environment())


# --- the virtual environment itself


def venv_fault() -> str | None:
    """Why the environment has to be made again, if it has to.

    A package that pip was killed in looks installed, and overwriting it mixes two versions: only a new
    environment is surely whole. PyTorch, the large one, mends itself.
    """
    if not (VENV / "pyvenv.cfg").exists():
        return "there was none"
    for step in ("ros", "requirements"):
        if (STAMPS / f"{step}.running").exists():
            return f"the {step} step was cut short"
    try:
        answer = subprocess.run([PYTHON, "-ISc", "import encodings"], capture_output=True, timeout=20)
    except subprocess.TimeoutExpired:
        return None  # a machine that busy proves nothing, and others may be using the environment
    except OSError as error:
        return f"its interpreter is gone ({error.strerror})"  # as after an upgrade of the system
    return f"its interpreter ends with {answer.returncode}" if answer.returncode else None


def venv_works() -> bool:
    """Whether the virtual environment can be built upon."""
    return venv_fault() is None


def venv_inputs() -> str:
    """The virtual environment holds absolute paths, so it belongs to one place."""
    return fingerprint(str(ROOT), "sourced" if ros_is_sourced() else "bare")


def make_venv(run: Runner, _interrupted: bool) -> None:
    """Start from nothing; the build folder goes too, as CMake remembers the old interpreter."""
    run.note(f"a new virtual environment: {venv_fault() or 'no stamp, or made for another place or ROS'}")
    for folder in (VENV, BUILD):
        if folder.exists():
            shutil.rmtree(folder)
    options = ["--system-site-packages"] if ros_is_sourced() else []
    run([base_python(), "-m", "venv", *options, str(VENV)], pip_environment())


# --- requirements


def _lock_fits(lock: Path) -> bool:
    with lock.open() as lines:
        return any(line.startswith("# Pythons:") and venv_version() in line.split() for line in lines)


def install_locked(run: Runner, lock: str, fallback: list[str], *options: str) -> None:
    """The lock if it was made for this Python, else the pinned versions of the `fallback` files."""
    path = REQUIREMENTS / lock
    if _lock_fits(path):
        # An extra local index must not decide: the hashes do.
        pip(run, *options, "--no-deps", "--require-hashes", "-r", str(path))
        return
    run.note(f"{lock} was not made for Python {venv_version()}: pinned versions without hashes instead")
    files = [item for name in fallback for item in ("-r", str(REQUIREMENTS / name))]
    pip(run, *options, *files)


def locks_fit() -> bool:
    """Whether the hashed locks cover the virtual environment's Python."""
    return _lock_fits(REQUIREMENTS / "ros.lock")


def ros_inputs() -> str:
    return fingerprint(REQUIREMENTS / "ros.lock", REQUIREMENTS / "ros.in")


def install_ros(run: Runner, _interrupted: bool) -> None:
    """The ROS wheels, then their CMake files."""
    install_locked(run, "ros.lock", ["ros.in"])
    mended = mend_cmake_files()
    run.note(f"mended {len(mended)} CMake files")


def _include_folder() -> str:
    code = "import sysconfig; print(sysconfig.get_path('include'))"
    return subprocess.run([PYTHON, "-ISc", code], capture_output=True, text=True, check=True).stdout.strip()


def mend_cmake_files() -> list[Path]:
    """Replace the build machine's Python paths in the wheels' CMake files by this machine's."""
    include, purelib = _include_folder(), str(site_packages())
    mended = []
    for path in sorted((VENV / "share").rglob("*.cmake")):
        if path.is_symlink():
            continue  # one of our own packages
        text = path.read_text(errors="surrogateescape")
        # Functions, not strings: a backslash in a path is no group reference.
        better = _BUILD_PURELIB.sub(lambda _: purelib, _BUILD_INCLUDE.sub(lambda _: include, text))
        if better != text:
            path.write_text(better, errors="surrogateescape")
            mended.append(path)
    return mended


def requirements_inputs() -> str:
    return fingerprint(*(REQUIREMENTS / name for name in ("softflow.lock", "softflow.txt", "dev.txt")))


def install_requirements(run: Runner, _interrupted: bool) -> None:
    """What softflow imports, and the tools that check it."""
    if ros_is_sourced():
        _install_beside_distribution(run)
    else:
        install_locked(run, "softflow.lock", ["softflow.txt", "dev.txt"])


def group_step(group: str, title: str) -> Step:
    """Packages that not every command needs and that need no PyTorch, requirements/GROUP.lock."""
    files = (REQUIREMENTS / f"{group}.lock", REQUIREMENTS / f"{group}.txt")

    def install(run: Runner, interrupted: bool) -> None:
        # After a kill a half-written package looks installed to pip.
        mend = ["--force-reinstall"] if interrupted else []
        install_locked(run, f"{group}.lock", [f"{group}.txt"], "--no-deps", *mend)

    return Step(group, title, lambda: fingerprint(*files), install)


def _distribution_versions(names: Iterable[str]) -> dict[str, str]:
    """Versions the distribution's Python brings, seen by an interpreter outside `.venv`."""
    code = (
        "import sys, importlib.metadata as m\n"
        "for name in sys.argv[1:]:\n"
        "    try: print(name, m.version(name))\n"
        "    except m.PackageNotFoundError: pass\n"
    )
    command = [base_python(), "-c", code, *names]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = (line.partition(" ") for line in answer.stdout.splitlines())
    return {name: version for name, _, version in lines}


def _install_beside_distribution(run: Runner) -> None:
    own = _distribution_versions(_DISTRIBUTION_OWN)
    wanted: list[str] = []
    alone: list[str] = []
    for name in ("softflow.txt", "dev.txt"):
        for line in (REQUIREMENTS / name).read_text().splitlines():
            package = re.split(r"[=<>;\s]", line, maxsplit=1)[0]
            if package and not package.startswith("#") and package not in own:
                (alone if package in _ASKS_TOO_MUCH else wanted).append(line)
    requirements, constraints = VENV / "requirements.txt", VENV / "constraints.txt"
    requirements.write_text("\n".join(wanted) + "\n")
    constraints.write_text("".join(f"{name}=={version}\n" for name, version in own.items()))
    pip(run, "-r", str(requirements), "-c", str(constraints))
    pip(run, "--no-deps", *alone)
