"""Where things are."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMPS = VENV / ".softflow"
LOCK_FILE = ROOT / ".softflow.lock"  # outside .venv, which setup may have to remove
REQUIREMENTS = ROOT / "requirements"
SOURCES = ROOT / "src"
BUILD = ROOT / "build"
INSTALL = ROOT / "install"  # only used on top of a sourced ROS 2
LOG = ROOT / "log"
SETUP_LOG = LOG / "setup.log"


def site_packages() -> Path:
    """The virtual environment's site-packages folder, without starting its interpreter."""
    return next(iter(sorted(VENV.glob("lib/python3.*/site-packages"))), VENV / "lib" / "site-packages")


def venv_version() -> str:
    """The `major.minor` of the virtual environment's Python."""
    return site_packages().parent.name.removeprefix("python")
