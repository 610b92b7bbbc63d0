"""Names every missing tool at once, with the Debian package that brings it."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import sys
import sysconfig
from pathlib import Path

from .environment import ros_is_sourced
from .paths import ROOT
from .steps import SetupError

EXIT_MISSING = 2


def base_python() -> str:
    """The interpreter outside any virtual environment: a venv made from a venv would break with it."""
    if sys.prefix == sys.base_prefix:
        return sys.executable
    return str(getattr(sys, "_base_executable", sys.executable))


def missing_tools() -> list[tuple[str, str]]:
    """Pairs (what is missing, the Debian package that brings it)."""
    minor = f"python3.{sys.version_info.minor}"
    missing = []
    if importlib.util.find_spec("ensurepip") is None or importlib.util.find_spec("venv") is None:
        missing.append(("ensurepip and venv", f"python3-venv (or {minor}-venv)"))
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        missing.append(("the Python headers (Python.h)", f"python3-dev (or {minor}-dev)"))
    for tool, package in (("cc", "gcc"), ("c++", "g++"), ("cmake", "cmake"), ("make", "make")):
        if not shutil.which(tool):
            missing.append((tool, package))
    if ros_is_sourced() and importlib.util.find_spec("colcon_core") is None and not shutil.which("colcon"):
        missing.append(("colcon", "python3-colcon-common-extensions"))
    return missing


def require_tools() -> None:
    """Raise `SetupError` (exit code 2) unless everything that setup needs is there."""
    if any(letter.isspace() for letter in str(ROOT)):
        # The first line of a node's script names its interpreter, and the kernel ends the name at a space.
        raise SetupError(f"the folder is {str(ROOT)!r}, must be a path without white space", EXIT_MISSING)
    if not ros_is_sourced() and (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise SetupError(
            "ROS 2 wheels exist for Linux on x86_64 only, "
            f"this is {platform.system()} on {platform.machine()}.\n"
            "Install ROS 2 Jazzy from the distribution, source its setup.bash and run this again.",
            EXIT_MISSING,
        )
    missing = missing_tools()
    if missing:
        lines = [f"  {tool:32} Debian/Ubuntu package {package}" for tool, package in missing]
        raise SetupError("missing on this machine:\n" + "\n".join(lines), EXIT_MISSING)
