"""Builds the packages of src/ with colcon, linked rather than copied, so an edit needs no new build."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from .environment import ros_environment, ros_is_sourced
from .paths import BUILD, INSTALL, LOG, PYTHON, ROOT, SOURCES, STAMPS, VENV, site_packages
from .steps import Runner, fingerprint

_BUILD_FILES = ("package.xml", "CMakeLists.txt", "setup.py", "setup.cfg")
_BUILD_SUFFIXES = (".msg", ".srv", ".action", ".cmake", ".in", ".c", ".cpp", ".h", ".hpp")
_PTH = "softflow_workspace.pth"
_NAME = re.compile(r"<name>\s*([A-Za-z0-9_]+)\s*</name>")


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        for name in sorted(names):
            if not name.startswith(".") and not name.endswith(".pyc"):
                yield Path(parent, name)


def packages() -> dict[str, str]:
    """Package names under src/, with the text of their package.xml."""
    found = {}
    for manifest in sorted(SOURCES.glob("*/package.xml")):
        text = manifest.read_text()
        match = _NAME.search(text)
        if match:
            found[match.group(1)] = text
    return found


def _is_linked(manifest: str) -> bool:
    return "<build_type>ament_python</build_type>" in manifest


def inputs() -> str:
    """Contents of what is compiled or generated, and the names of what is linked file by file."""
    stamp = STAMPS / "ros"
    mode = "sourced" if ros_is_sourced() else "bare"
    parts: list[object] = [mode, stamp.read_text() if stamp.exists() else ""]
    # A Python package is one link to its folder, so nothing inside it but C asks for a new build.
    linked = {f"{name}/{name}" for name, manifest in packages().items() if _is_linked(manifest)}
    for folder in (SOURCES, ROOT / "launch", ROOT / "config"):
        for path in _files(folder):
            inside = path.relative_to(folder).parts
            if "test" in inside[1:2] or ("/".join(inside[:2]) in linked and path.suffix != ".c"):
                continue
            parts.append(str(path.relative_to(ROOT)))
            if path.name in _BUILD_FILES or path.suffix in _BUILD_SUFFIXES:
                parts.append(path)
    return fingerprint(*parts)


def intact() -> bool:
    """Whether the build folders that the links point into are still there."""
    return all((BUILD / name).is_dir() for name in packages())


def build(run: Runner, interrupted: bool) -> None:
    """colcon build, then what it leaves to do."""
    if interrupted and BUILD.exists():
        # A compiler that was killed may have left half an object file that looks up to date.
        shutil.rmtree(BUILD)
    BUILD.mkdir(exist_ok=True)
    names = packages()
    for folder in BUILD.iterdir():
        if folder.is_dir() and folder.name not in names:
            shutil.rmtree(folder)
    base, options = ["--merge-install", "--install-base", str(VENV)], ["-DSOFTFLOW_MSGS_CPP=OFF"]
    if ros_is_sourced():
        base, options = ["--install-base", str(INSTALL)], []
    # Through the environment's interpreter, whose path the installed node scripts then start with.
    command = [str(PYTHON), "-m", "colcon", "--log-base", str(LOG / "colcon"), "build", *base]
    command += ["--base-paths", str(SOURCES), "--build-base", str(BUILD), "--symlink-install"]
    command += ["--event-handlers", "console_direct+", "parallel_status-"]
    command += ["--cmake-args", f"-DPython3_EXECUTABLE={PYTHON}", "-DBUILD_TESTING=OFF", *options]
    env = ros_environment()
    env["PYTHONDONTWRITEBYTECODE"] = "1"
    run(command, env)
    if not ros_is_sourced():
        _link_python_packages(names)
        _remove_dangling(names)


def _link_python_packages(names: dict[str, str]) -> None:
    """Put the linked Python packages on the path.

    colcon leaves that to a hook in setup.sh, which nobody sources here. The build folder of a package
    holds a link to its sources and the metadata of its entry points.
    """
    linked = [name for name, manifest in names.items() if _is_linked(manifest)]
    draft = site_packages() / (_PTH + ".new")
    draft.write_text("".join(f"{BUILD / name}\n" for name in linked))
    draft.replace(site_packages() / _PTH)


def _remove_dangling(names: dict[str, str]) -> None:
    """Links to files that are gone: CMake installs, and never removes."""
    folders = [VENV / "share", VENV / "include", VENV / "lib"]
    for parent, children, files in (entry for folder in folders for entry in os.walk(folder)):
        if Path(parent) == VENV / "lib":
            # Of the many packages here only ours hold links into the build folder.
            children[:] = [child for child in children if child in names]
        _unlink_dangling(Path(parent), [*files, *children])
    ours = [folder for name in names for folder in site_packages().glob(f"{name}*") if folder.is_dir()]
    for parent, children, files in (entry for folder in ours for entry in os.walk(folder)):
        _unlink_dangling(Path(parent), [*files, *children])


def _unlink_dangling(folder: Path, entries: list[str]) -> None:
    for entry in entries:
        path = folder / entry
        if path.is_symlink() and not path.exists() and Path(os.readlink(path)).is_relative_to(ROOT):
            path.unlink()
