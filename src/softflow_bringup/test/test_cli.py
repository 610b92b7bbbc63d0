"""The command line: one clear line and exit code 2 for what is wrong; commands are loaded when used."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest

from softflow_bringup import cli

PACKAGE_ROOT = Path(cli.__file__).parents[1]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["up", "online_r"], "did you mean 'online_rl'"),
        (["up", "online_rl", "speed=2"], "'speed=2': must have the form name:=value"),
        (["up", "online_rl", "speed:=1", "speed:=2"], "'speed' is given twice"),
        (["up", "online_rl", "sped:=2"], "did you mean 'speed'"),
        (["up", "no/such.yaml"], "no/such.yaml: no such file"),
        (
            ["up", "robot", "classifier:=c"],
            "argument 'pictures' is '', must name the cameras of the classifier 'c'",
        ),
        (["eval", "--weights", __file__, "--classifier", "no/such"], "classifier: 'no/such' is not a file"),
    ],
)
def test_errors_are_one_line_and_code_2(
    arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert part in error
    assert error.startswith(("softflow: ", "softflow eval: ")) and error.count("\n") == 1


def test_show_prints_nodes_and_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["up", "robot", "episodes:=3", "--show"]) == 0
    output = capsys.readouterr().out
    assert "/hand0/episode_manager: softflow_tasks episode_node" in output
    assert "    episodes: 3" in output


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_commands_get_all_that_follows(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def main(argv: list[str]) -> int:
        seen.append(argv)
        return 5

    name, _ = cli.COMMANDS[command]
    monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(main=main))  # type: ignore[arg-type]
    assert cli.main([command, "--help", "x"]) == 5
    assert seen == [["--help", "x"]]


def test_a_missing_module_is_said_not_thrown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(cli.COMMANDS, "demo", ("softflow_nowhere.demo", ""))
    assert cli.main(["demo"]) == 2
    assert "'softflow_nowhere' is missing" in capsys.readouterr().err


def test_help_and_pure_modules_need_no_ros() -> None:
    program = (
        "import sys\n"
        f"sys.path.insert(0, {str(PACKAGE_ROOT)!r})\n"
        "for name in ('rclpy', 'launch', 'launch_ros', 'torch', 'numpy'): sys.modules[name] = None\n"
        "import softflow_bringup.supervisor, softflow_bringup.cli\n"
        "softflow_bringup.cli.main(['up', '--help'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "record_demos:" in done.stdout and "episodes:=0" in done.stdout
