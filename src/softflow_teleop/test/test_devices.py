"""Mapping files, gamepad and keys."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest

from softflow_tasks import make_task
from softflow_teleop.device_file import DeviceFileError, DeviceMap, device_directory, load_device_map
from softflow_teleop.gamepad import Gamepad
from softflow_teleop.joints import HandLimits, Jog, TargetError
from softflow_teleop.keyboard.keys import DOWN, NEXT, PREVIOUS, UP, Command, Keys, split_keys

LIMITS = HandLimits(("a", "b"), np.array([-1.0, 0.0]), np.array([1.0, 4.0]), np.ones(2))
TEXT = """
synergies: {grasp: {a: 1.0, b: 2.0}}
keyboard: {step: 0.1}
gamepad:
  deadman: 2
  deadzone: 0.2
  axes:
    - {axis: 0, joint: b, rate: 0.5}
    - {axis: 1, synergy: grasp, rate: -1.0}
  buttons: {estop: 0, reward: 1}
"""


def load(folder: Path, text: str = TEXT) -> DeviceMap:
    path = folder / "mine.yaml"
    path.write_text(text)
    return load_device_map(str(path))


@pytest.mark.parametrize("task", ["CubeRotation-v0", "ToolCut-v0"])
def test_the_maps_that_come_along_fit_their_hands(task: str) -> None:
    hand = make_task(task).hand
    found = load_device_map(hand.name)
    limits = HandLimits(hand.joint_names, hand.lower, hand.upper, hand.max_velocity)
    jog = Jog(limits, found.synergies, (hand.lower + hand.upper) / 2)
    for synergy in found.synergies:
        jog.synergy(synergy, 0.1)
    assert found.gamepad is not None
    for axis in found.gamepad.axes:
        assert axis.synergy in found.synergies or limits.index(axis.joint) >= 0
    assert {p.stem for p in device_directory().glob("*.yaml")} == {make_task(t).hand.name for t in TASK_IDS}


TASK_IDS = ("CubeRotation-v0", "ToolCut-v0")


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ("deadman: 2", "deadman: -1", "'deadman' is -1, must be in [0, 63]"),
        ("  deadman: 2\n", "", "gamepad.deadman is missing"),
        ("axis: 0,", "axes: 0,", "gamepad.axes[0]: parameter 'axes'"),
        ("joint: b, ", "", "gamepad.axes[0]: must name a joint or a synergy"),
        ("synergy: grasp", "synergy: grsp", "gamepad.axes[1].synergy is 'grsp', known: grasp"),
        ("rate: 0.5", "rate: fast", "'rate' is 'fast'"),
        ("estop: 0", "stop: 0", "'stop' is unknown; known: estop, reward"),
        ("estop: 0", "estop: x", "gamepad.buttons.estop is 'x'"),
        ("a: 1.0", "a: far", "synergies.grasp.a is 'far', must be a number"),
        ("keyboard:", "keybord:", "'keybord' is unknown; known: synergies, keyboard, gamepad"),
        ("step: 0.1", "step: 2", "'step' is 2.0, must be in [0.001, 0.5]"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, before: str, after: str, named: str) -> None:
    assert before in TEXT
    with pytest.raises(DeviceFileError) as error:
        load(tmp_path, TEXT.replace(before, after))
    assert named in str(error.value) and "mine.yaml" in str(error.value)


def test_without_a_file() -> None:
    with pytest.raises(DeviceFileError, match=r"nobody.yaml: No such file"):
        load_device_map("nobody")


def test_sticks_move_the_pose_while_the_button_is_held(tmp_path: Path) -> None:
    mapping = load(tmp_path)
    assert mapping.gamepad is not None
    pad, jog = Gamepad(mapping.gamepad), Jog(LIMITS, mapping.synergies, np.zeros(2))
    state = pad.read([1.0, 0.1], [0, 0, 0])
    assert not state.held
    pad.move(jog, 1.0)
    np.testing.assert_array_equal(jog.pose, [0.0, 0.0])
    state = pad.read([1.0, 0.1], [1, 0, 1])
    assert state.held and state.pressed == ()
    pad.move(jog, 0.5)
    np.testing.assert_allclose(jog.pose, [0.0, 1.0])
    assert pad.read([0.0, -1.0], [1, 1, 1]).pressed == ("reward",)
    pad.move(jog, 0.5)
    np.testing.assert_allclose(jog.pose, [0.5, 2.0])


@pytest.mark.parametrize(
    ("axes", "buttons", "text"),
    [
        ([0.0], [0, 0, 1], "axes has 1 values, the mapping reads axes[1]"),
        ([0.0, 0.0], [0, 0], "buttons has 2 values, the mapping reads buttons[2]"),
        ([float("nan"), 0.0], [0, 0, 1], "axes[0] is nan, must be finite"),
    ],
)
def test_after_a_message_of_another_gamepad_nothing_is_held(
    tmp_path: Path, axes: list[float], buttons: list[int], text: str
) -> None:
    mapping = load(tmp_path)
    assert mapping.gamepad is not None
    pad = Gamepad(mapping.gamepad)
    assert pad.read([0.0, 0.0], [0, 0, 1]).held
    with pytest.raises(TargetError) as error:
        pad.read(axes, buttons)
    assert text in str(error.value) and not pad.state.held


def test_the_emergency_stop_is_one_of_any_message_and_comes_once_a_press(tmp_path: Path) -> None:
    mapping = load(tmp_path, TEXT.replace("estop: 0", "estop: 1").replace("reward: 1", "reward: 0"))
    assert mapping.gamepad is not None
    pad, stops = Gamepad(mapping.gamepad), []
    for axes, buttons in [
        ([], [0, 0, 0]), ([], [0, 1, 0]), ([float("nan")], [0, 1]), ([0.0, 0.0], [0, 1, 1]),
        ([0.0, 0.0], [0, 0, 1]), ([0.0], [0]), ([0.0, 0.0], [0, 1, 1]),
    ]:  # fmt: skip
        stops.append(pad.stops(buttons))
        with contextlib.suppress(TargetError):
            pad.read(axes, buttons)
    assert stops == [False, True, False, False, False, False, True]
    without = load(tmp_path, TEXT.replace("estop: 0, ", "")).gamepad
    assert without is not None and not Gamepad(without).stops([1, 1, 1])


def test_keys() -> None:
    keys, jog = (
        Keys(("a", "b"), ("grasp", "turn"), 0.1),
        Jog(LIMITS, {"grasp": {"a": 1.0}, "turn": {"b": 1.0}}, np.zeros(2)),
    )
    assert keys.press(UP, jog) is Command.NONE
    np.testing.assert_allclose(jog.pose, [0.2, 0.0])
    for key in (NEXT, UP, UP, DOWN):
        keys.press(key, jog)
    np.testing.assert_allclose(jog.pose, [0.2, 0.4])
    for key in ("c", "c", "o", "s", "c"):
        keys.press(key, jog)
    np.testing.assert_allclose(jog.pose, [0.3, 0.5])
    keys.press(PREVIOUS, jog)
    assert "joint a at +0.300, synergy turn" in keys.line(jog)
    assert [keys.press(key, None) for key in " tgrq"] == [
        Command.ESTOP, Command.TAKE, Command.GIVE, Command.REWARD, Command.QUIT,
    ]  # fmt: skip
    assert [keys.press(key, None) for key in "ynYN"] == [
        Command.SUCCESS, Command.FAILURE, Command.SUCCESS_BEFORE, Command.FAILURE_BEFORE,
    ]  # fmt: skip
    keys.press(UP, None)
    assert "not yours" in keys.line(None)


def test_what_a_terminal_sends_at_once() -> None:
    assert split_keys(f"t{UP}{DOWN}c ") == ["t", UP, DOWN, "c", " "]
    assert split_keys("\x1bx") == ["\x1b", "x"] and split_keys("") == []


def test_a_terminal_gives_keys_at_once_and_is_left_as_it_was() -> None:
    program = (
        "import sys, time\n"
        "from softflow_teleop.keyboard.terminal import Terminal\n"
        "with Terminal() as terminal:\n"
        "    print('ready', flush=True)\n"
        "    text = ''\n"
        "    while len(text) < 2: text += terminal.read(); time.sleep(0.01)\n"
        "print('got', text, flush=True)\n"
    )
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=theirs, stdout=subprocess.PIPE, text=True
    )
    before = termios.tcgetattr(theirs)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    assert termios.tcgetattr(theirs) != before
    os.write(ours, b"t ")  # no line end
    assert process.stdout.readline() == "got t \n" and process.wait(timeout=10) == 0
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)


def test_without_a_terminal_the_keyboard_says_so() -> None:
    program = "from softflow_teleop.keyboard.terminal import Terminal; Terminal()"
    done = subprocess.run(
        [sys.executable, "-c", program], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert "standard input is not a terminal" in done.stderr
