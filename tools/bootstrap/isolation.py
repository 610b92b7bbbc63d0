"""A network and a /dev/shm for one command alone: no ROS node elsewhere is met, and none meets the command's."""

from __future__ import annotations

import os
import shutil
import subprocess

_SCRIPT = """set -e
ip link set lo up multicast on
ip route add 224.0.0.0/4 dev lo
mount -t tmpfs tmpfs /dev/shm
exec "$@"
"""
_TRIAL_LIMIT = 20.0


def alone() -> list[str]:
    """What to put before a command; empty where the system does not permit it (it takes root and iproute2)."""
    if os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("ip"):
        return []
    prefix = ["unshare", "--net", "--mount", "sh", "-c", _SCRIPT, "alone"]
    try:
        works = subprocess.run([*prefix, "true"], capture_output=True, timeout=_TRIAL_LIMIT).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return []
    return prefix if works else []
