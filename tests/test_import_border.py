"""Who may import what: ROS only in node.py and messages.py, no torch on the robot side, learner -> policy only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[1] / "src"
PACKAGES = sorted(p.parent.name for p in SOURCES.glob("*/setup.py")) + ["softflow_bringup"]
ROS_FILES = {"node", "messages"}
ROBOT_SIDE = (
    "hand_driver",
    "softflow_perception",
    "softflow_recorder",
    "softflow_tasks",
    "softflow_sim",
    "softflow_teleop",
)


def modules(package: str) -> list[str]:
    """Dotted names of all modules of a package."""
    root = SOURCES / package
    files = sorted((root / package).rglob("*.py"))
    names = [".".join(f.relative_to(root).with_suffix("").parts) for f in files]
    return [name.removesuffix(".__init__") for name in names]


PLAIN = [m for package in PACKAGES for m in modules(package) if m.rsplit(".", 1)[-1] not in ROS_FILES]

BLOCKED = """
import importlib, sys
PREFIXES = ("rclpy", "rcl_interfaces", "builtin_interfaces", "rosgraph_msgs", "rosidl", "rpyutils", "launch")
class Border:
    def find_spec(self, name, path=None, target=None):
        root = name.split(".")[0]
        if root.startswith(PREFIXES) or root.endswith(("_msgs", "_interfaces", "_srvs")):
            raise ImportError("ROS module behind the border: " + name)
sys.meta_path.insert(0, Border())
failures = []
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError as error:
        failures.append(f"{name}: {error}")
print("\\n".join(failures))
"""

LOADED = """
import importlib, sys
forbidden = sys.argv[1]
for name in sys.argv[2:]:
    importlib.import_module(name)
    if forbidden in sys.modules:
        sys.exit(f"{name} imports {forbidden}")
"""


def python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)


def test_all_packages_are_seen() -> None:
    assert len(PACKAGES) >= 9 and all(modules(package) for package in PACKAGES)
    assert {"softflow_recorder.cli", "hand_driver.backends.sim", "softflow_learner.session"} <= set(PLAIN)


def test_without_ros_every_module_but_nodes_and_messages_can_be_imported() -> None:
    # Launch actions are made only where launch_ros is installed.
    plain = [m for m in PLAIN if m != "softflow_bringup.ros_launch"]
    done = python(BLOCKED, *plain)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def test_the_border_stops_a_module_that_needs_ros() -> None:
    done = python(BLOCKED, "softflow_node.messages", "hand_driver.node", "softflow_tasks.task")
    lines = done.stdout.strip().splitlines()
    assert [line.split(":")[0] for line in lines] == ["softflow_node.messages", "hand_driver.node"], (
        done.stderr
    )


@pytest.mark.parametrize("package", ROBOT_SIDE)
def test_the_robot_side_never_imports_torch(package: str) -> None:
    names = modules(package)
    assert {f"{package}.node"} <= set(names)
    done = python(LOADED, "torch", *names)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("package", ROBOT_SIDE)
def test_the_robot_side_needs_no_exchange_of_formats(package: str) -> None:
    done = python(LOADED, "softflow_exchange", *modules(package))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "forbidden", ["softflow_learner", "softflow_recorder", "softflow_sim", "hand_driver"]
)
def test_the_policy_imports_neither_the_learner_nor_the_robot(forbidden: str) -> None:
    done = python(LOADED, forbidden, *modules("softflow_policy"))
    assert done.returncode == 0, done.stderr


def test_an_import_over_the_border_is_noticed() -> None:
    done = python(LOADED, "softflow_policy", "softflow_tasks.task", "softflow_learner.agent")
    assert done.returncode == 1 and "softflow_learner.agent imports softflow_policy" in done.stderr
