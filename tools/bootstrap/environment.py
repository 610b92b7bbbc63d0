"""The environment variables under which ROS works, bare or on top of a sourced distribution."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from .paths import INSTALL, LOG, ROOT, VENV, site_packages

Environment = dict[str, str]
# Anything that would send pip elsewhere than into the virtual environment, or mix in another Python.
_UNWANTED = ("PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_USER", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")


def _entries(name: str) -> list[str]:
    return [entry for entry in os.environ.get(name, "").split(os.pathsep) if entry]


def _inside(entry: str, folder: str | Path) -> bool:
    return Path(entry).resolve().is_relative_to(Path(folder).resolve())


def ros_is_sourced() -> bool:
    """Whether the caller's shell has a ROS 2 Jazzy of its own."""
    if os.environ.get("ROS_DISTRO") != "jazzy":
        return False
    foreign = [entry for entry in _entries("AMENT_PREFIX_PATH") if not _inside(entry, ROOT)]
    return any(Path(entry, "share", "rclpy", "package.xml").exists() for entry in foreign)


def _cleaned() -> Environment:
    env = {name: value for name, value in os.environ.items() if name not in _UNWANTED}
    # The wheels' .pth file would otherwise re-execute every interpreter.
    env["_ROS_WHEELS_BOOTSTRAP_COMPLETE"] = "1"
    env.setdefault("HOME", str(LOG))  # rcl refuses to start without
    return env


def pip_environment() -> Environment:
    """For pip: no leftovers of other Pythons."""
    env = _cleaned()
    if not ros_is_sourced():
        env.pop("PYTHONPATH", None)
    env.update(PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1")
    return env


def _prepend(env: Environment, name: str, entries: list[str], without: list[str]) -> None:
    kept = [entry for entry in _entries(name) if not any(_inside(entry, folder) for folder in without)]
    env[name] = os.pathsep.join(dict.fromkeys(entries + kept))


def bare_environment() -> Environment:
    """ROS from the wheels in the virtual environment; another sourced distribution is left out."""
    env = _cleaned()
    foreign = [entry for entry in _entries("AMENT_PREFIX_PATH") if not _inside(entry, ROOT)]
    libraries = [str(VENV / "lib"), *map(str, sorted(site_packages().glob("ros_*.libs")))]
    _prepend(env, "PATH", [str(VENV / "bin")], without=foreign)
    _prepend(env, "LD_LIBRARY_PATH", libraries, without=foreign)
    _prepend(env, "PYTHONPATH", [], without=foreign)
    if not env["PYTHONPATH"]:
        del env["PYTHONPATH"]
    env.update(AMENT_PREFIX_PATH=str(VENV), CMAKE_PREFIX_PATH=str(VENV), VIRTUAL_ENV=str(VENV))
    return env


def sourced_environment() -> Environment:
    """The distribution's ROS plus `install/`, as `source install/setup.bash` gives it."""
    env = _cleaned()
    script = INSTALL / "setup.bash"
    if script.exists():
        command = ["bash", "-c", 'source "$0" >/dev/null && env -0', str(script)]
        output = subprocess.run(command, env=env, check=True, capture_output=True).stdout
        env = dict(item.split("=", 1) for item in os.fsdecode(output).split("\0") if "=" in item)
    env["PATH"] = os.pathsep.join([str(VENV / "bin"), env.get("PATH", os.defpath)])
    env["VIRTUAL_ENV"] = str(VENV)
    return env


def ros_environment() -> Environment:
    """What builds and imports ROS packages."""
    return sourced_environment() if ros_is_sourced() else bare_environment()


def run_environment() -> Environment:
    """What a node needs: `ros_environment` and defaults that the caller's own settings override."""
    env = ros_environment()
    defaults = {
        "OMP_NUM_THREADS": "1",
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "RMW_IMPLEMENTATION": "rmw_fastrtps_cpp",
        "FASTRTPS_DEFAULT_PROFILES_FILE": str(ROOT / "config" / "fastdds_robot.xml"),
        "MUJOCO_GL": "egl",
        "PYTHONUNBUFFERED": "1",
    }
    if _writable(LOG / "ros"):  # else ROS's own default, in the user's home
        defaults["ROS_LOG_DIR"] = str(LOG / "ros")
    for name, value in defaults.items():
        env.setdefault(name, value)
    return env


def _writable(folder: Path) -> bool:
    """Whether this user can put files there; another one may have set the tree up."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)
