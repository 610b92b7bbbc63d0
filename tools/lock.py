#!/usr/bin/env python3
"""Resolve requirements/*.in and *.txt into hashed locks that fit several Python versions.

    tools/lock.py python3.10 python3.11 python3.12 python3.13

`pip freeze` is not used: the ROS wheels list phantom names (`rclpy`, `sensor_msgs`) that are other
projects on the index.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements"
WITHOUT_DEPENDENCIES = ("torch_users", "ogbench", "lerobot", "orca")
Pins = dict[str, tuple[str, set[str]]]  # name -> version, sha256 digests


def resolve(
    python: str, files: list[str], constraints: Pins | None = None, *, dependencies: bool = True
) -> Pins:
    """Ask `pip install --dry-run` of one interpreter what it would install."""
    with tempfile.TemporaryDirectory() as folder:
        report, pins = Path(folder, "report.json"), Path(folder, "constraints.txt")
        pins.write_text("".join(f"{name}=={version}\n" for name, (version, _) in (constraints or {}).items()))
        command = [python, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--report", str(report), "-c", str(pins)]
        command += [] if dependencies else ["--no-deps"]
        for name in files:
            command += ["-r", str(REQUIREMENTS / name)]
        # The index alone: a local wheel folder may hold rebuilt files with other hashes.
        environment = {**os.environ, "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}
        subprocess.run(command, check=True, env=environment)
        found: Pins = {}
        for item in json.loads(report.read_text())["install"]:
            name = item["metadata"]["name"].lower().replace("_", "-")
            digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
            found[name] = (item["metadata"]["version"], {digest})
        return found


def merge(per_python: dict[str, Pins]) -> list[str]:
    """One line a (name, version), with the union of hashes and a marker where Pythons differ."""
    lines = []
    for name in sorted({name for pins in per_python.values() for name in pins}):
        versions: dict[str, tuple[list[str], set[str]]] = {}
        for python, pins in per_python.items():
            if name in pins:
                version, digests = pins[name]
                pythons, hashes = versions.setdefault(version, ([], set()))
                pythons.append(python)
                hashes |= digests
        for version, (pythons, hashes) in sorted(versions.items()):
            everywhere = len(pythons) == len(per_python)
            marker = "" if everywhere else "; " + " or ".join(f'python_version == "{p}"' for p in pythons)
            options = [f"--hash=sha256:{digest}" for digest in sorted(hashes)]
            lines.append(" \\\n    ".join([f"{name}=={version}{marker}", *options]))
    return lines


def main(interpreters: list[str]) -> int:
    """Write ros.lock, softflow.lock and the locks of the groups that are installed without dependencies."""
    tables: dict[str, dict[str, Pins]] = {name: {} for name in ("ros", "softflow", *WITHOUT_DEPENDENCIES)}
    for python in interpreters or [sys.executable]:
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        version = subprocess.check_output([python, "-c", code], text=True).strip()
        everything = resolve(python, ["ros.in", "softflow.txt", "dev.txt"])
        ros = resolve(python, ["ros.in"], everything)
        tables["ros"][version] = ros
        tables["softflow"][version] = {name: pin for name, pin in everything.items() if name not in ros}
        for name in WITHOUT_DEPENDENCIES:
            tables[name][version] = resolve(python, [f"{name}.txt"], dependencies=False)
        print(f"Python {version}: {' + '.join(str(len(t[version])) for t in tables.values())} packages")
    for name, table in tables.items():
        write(name, table)
    return 0


def write(name: str, table: dict[str, Pins]) -> None:
    """Python version -> pins, into NAME.lock."""
    text = ["# Written by tools/lock.py", "# Pythons: " + " ".join(table), *merge(table)]
    (REQUIREMENTS / f"{name}.lock").write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
