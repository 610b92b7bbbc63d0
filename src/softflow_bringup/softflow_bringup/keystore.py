"""`softflow keystore DIR`: DDS-Security keys and permissions, by `ros2 security` from config/security/policies."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree import ElementTree

from softflow_bringup.graph import config_directory
from softflow_bringup.values import GraphError

ROBOT = "/hand0"
"""Robot that the policy files are written for; for another one its namespace takes this one's place."""
CAMERA = "front"
"""Camera that they are written for. Each other one has the same rights, and so has who sees it."""
EXIT_USAGE = 2
Run = Callable[[Sequence[str]], None]


class KeystoreError(RuntimeError):
    """The keystore cannot be made. The text says which step failed, or what is missing."""


def policy_files() -> list[Path]:
    """The policies, one enclave a file. Raises GraphError where there is no configuration."""
    return sorted((config_directory() / "security" / "policies").glob("*.xml"))


def enclave_of(text: str) -> str:
    """Path of the one enclave of a policy."""
    enclaves = ElementTree.fromstring(text).findall("enclaves/enclave")
    if len(enclaves) != 1:
        raise KeystoreError(f"a policy has {len(enclaves)} enclaves, must have 1")
    return enclaves[0].attrib["path"]


def policies_for(robots: Sequence[str], cameras: Sequence[str] = (CAMERA,)) -> dict[str, str]:
    """Enclave -> text of its policy; that of the learner, which is no robot's, once."""
    for camera in cameras:
        if not camera.isidentifier():
            raise KeystoreError(f"camera is {camera!r}, must be a name such as {CAMERA!r}")
    policies = {}
    for robot in robots:
        if not robot.startswith("/") or robot.endswith("/"):
            raise KeystoreError(f"robot is {robot!r}, must be a namespace such as {ROBOT!r}")
        for path in policy_files():
            text = path.read_text(encoding="utf-8").replace(ROBOT, robot)
            policies.update({enclave_of(each): each for each in _for_cameras(text, cameras)})
    return policies


def _for_cameras(text: str, cameras: Sequence[str]) -> list[str]:
    """The policy of each camera's own node; another's, with the rights of each camera's topics."""
    if enclave_of(text).endswith(f"/camera_{CAMERA}"):
        return [text.replace(CAMERA, camera) for camera in cameras]
    lines = []
    for line in text.splitlines(keepends=True):
        of_camera = f"camera/{CAMERA}/" in line
        lines += [line.replace(CAMERA, camera) for camera in cameras] if of_camera else [line]
    return ["".join(lines)]


def make_keystore(
    directory: Path, robots: Sequence[str], run: Run, cameras: Sequence[str] = (CAMERA,)
) -> list[str]:
    """Make the keystore, or add to it what is missing; permissions are always written anew. Returns the enclaves.

    Raises:
        KeystoreError: a step failed. An enclave without its permissions cannot be used by any node.
    """
    policies = policies_for(robots, cameras)
    if not (directory / "enclaves" / "governance.p7s").is_file():
        run(["create_keystore", str(directory)])
    with tempfile.TemporaryDirectory(prefix="softflow_") as temporary:
        for enclave, text in policies.items():
            keys = directory / "enclaves" / enclave.lstrip("/")
            if not (keys / "key.pem").is_file():
                run(["create_enclave", str(directory), enclave])
            # These would allow everything.
            (keys / "permissions.p7s").unlink(missing_ok=True)
            policy = Path(temporary) / "policy.xml"
            policy.write_text(text, encoding="utf-8")
            run(["create_permission", str(directory), enclave, str(policy)])
    return list(policies)


def ros2_security(tool: str, domain: int) -> Run:
    """Runs `ros2 security ...` for a domain; what it makes is for its owner only."""

    def run(arguments: Sequence[str]) -> None:
        command = [tool, "security", *arguments]
        environment = {**os.environ, "ROS_DOMAIN_ID": str(domain)}
        done = subprocess.run(command, env=environment, umask=0o077, capture_output=True, text=True)
        if done.returncode != 0:
            lines = (done.stderr or done.stdout).strip().splitlines()
            raise KeystoreError(f"{' '.join(command)}: {lines[-1] if lines else 'failed'}")

    return run


def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="softflow keystore",
        description="Make keys and permissions of every node for DDS-Security. See docs/security.md.",
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="keystore; an existing one is completed")
    parser.add_argument(
        "--robot", action="append", metavar="NAMESPACE", help=f"may be repeated; {ROBOT} if none"
    )
    parser.add_argument(
        "--camera", action="append", metavar="NAME", help=f"may be repeated; {CAMERA} if none"
    )
    domain = int(os.environ.get("ROS_DOMAIN_ID") or 0)
    parser.add_argument("--domain", type=int, default=domain, help="ROS domain that the keys are valid for")
    options = parser.parse_args(argv)
    tool = shutil.which("ros2")
    if tool is None:
        print(
            "softflow keystore: the command `ros2` is missing; a keystore is made by `ros2 security`, "
            "of the Debian package ros-jazzy-sros2 in a sourced ROS 2",
            file=sys.stderr,
        )
        return EXIT_USAGE
    try:
        run = ros2_security(tool, options.domain)
        enclaves = make_keystore(options.directory, options.robot or [ROBOT], run, options.camera or [CAMERA])
    except (KeystoreError, GraphError, OSError) as error:
        print(f"softflow keystore: {error}", file=sys.stderr)
        return EXIT_USAGE
    print(f"{options.directory}: keys for {', '.join(enclaves)}; domain {options.domain}")
    return 0
