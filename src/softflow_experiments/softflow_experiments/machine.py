"""What a figure was measured with: the machine, and the software down to its bytes."""

from __future__ import annotations

import hashlib
import importlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("softflow_experiments", "softflow_learner", "softflow_policy", "softflow_sim", "softflow_tasks")
"""Ours whose code a result depends on."""
LIBRARIES = ("mujoco", "numpy", "torch")


def machine() -> str:
    """Number and kind of processors."""
    kind = platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        kind = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{os.cpu_count()} x {kind}"


def software() -> dict[str, str]:
    """Versions by name; that of our own packages is a hash over their sources, so it needs no git."""
    digest = hashlib.sha256()
    for name in PACKAGES:
        root = Path(importlib.import_module(name).__file__ or "").parent
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{name}/{path.relative_to(root)}\n".encode() + path.read_bytes())
    found = {"sources": digest.hexdigest()[:12], "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found
