"""Parameters: every refusal names field, value and bound; a real node process ends with a clear line."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from softflow_node.parameters import ParameterError, bounded, from_mapping


@dataclass(frozen=True)
class Example:
    """One field of each kind."""

    rate: float = bounded(20.0, low=1.0, high=100.0, unit="Hz")
    count: int = bounded(3, low=0)
    mode: str = bounded("train", choices=("train", "eval"))
    ship: bool = bounded(False)
    names: tuple[str, ...] = bounded(())


def refusal(**values: object) -> str:
    with pytest.raises(ParameterError) as caught:
        from_mapping(Example, values, "recorder")
    return str(caught.value)


def test_what_is_not_named_keeps_its_default() -> None:
    assert from_mapping(Example, {}, "x") == Example()
    assert from_mapping(Example, {"count": 7}, "x") == Example(count=7)


def test_unknown_name_suggests_the_nearest() -> None:
    text = refusal(raet=5.0)
    assert "'raet'" in text and "5.0" in text and "did you mean 'rate'?" in text and "recorder" in text


def test_unknown_name_far_from_all_lists_the_known_ones() -> None:
    text = refusal(zzzzzz=5)
    assert "known: count, mode, names, rate, ship" in text


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("rate", "fast", "float"),
        ("rate", True, "float"),
        ("rate", None, "float"),
        ("count", 1.5, "int"),
        ("count", True, "int"),
        ("mode", 3, "str"),
        ("ship", 1, "bool"),
        ("ship", "true", "bool"),
        ("names", "one", "tuple"),
    ],
)
def test_wrong_type_is_named(field: str, value: object, wanted: str) -> None:
    text = refusal(**{field: value})
    assert repr(field) in text and repr(value) in text and f"must be {wanted}" in text


def test_an_int_is_taken_for_a_float() -> None:
    rate = from_mapping(Example, {"rate": 30}, "x").rate
    assert rate == 30.0 and isinstance(rate, float)


def test_a_list_is_taken_for_a_tuple() -> None:
    assert from_mapping(Example, {"names": ["a", "b"]}, "x").names == ("a", "b")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_not_finite_is_refused(value: float) -> None:
    text = refusal(rate=value)
    assert "'rate'" in text and repr(value) in text and "finite" in text


def test_bounds_are_named_with_the_unit() -> None:
    assert all(part in refusal(rate=100.5) for part in ("'rate'", "100.5", "[1.0, 100.0]", "Hz"))
    assert all(part in refusal(count=-1) for part in ("'count'", "-1", "[0, inf]"))


def test_choices_are_listed() -> None:
    assert all(part in refusal(mode="trian") for part in ("'mode'", "'trian'", "allowed: train, eval"))


@example(1.0)
@example(100.0)
@given(st.floats(allow_nan=False) | st.integers())
def test_a_value_is_taken_exactly_when_it_is_inside_the_bounds(value: float) -> None:
    if 1.0 <= value <= 100.0:
        assert from_mapping(Example, {"rate": value}, "x").rate == value
    else:
        with pytest.raises(ParameterError):
            from_mapping(Example, {"rate": value}, "x")


def ros_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF"}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.mark.ros
@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ("max_skwe:=0.1", ("'max_skwe'", "0.1", "did you mean 'max_skew'?")),
        ("max_skew:=5.0", ("'max_skew'", "5.0", "[0.0001, 1.0] s")),
        ("max_skew:=wide", ("'max_skew'", "'wide'", "must be float")),
    ],
)
def test_a_node_with_a_wrong_parameter_says_one_line_and_exits_with_2(
    setting: str, parts: tuple[str, ...]
) -> None:
    done = ros_process("-m", "softflow_perception.node", "--ros-args", "-p", setting)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1 and lines[0].startswith("error: perception:"), done.stderr
    assert all(part in lines[0] for part in parts)


ONCE = """
import sys
from softflow_node.node import run_node
from softflow_perception.node import PerceptionNode
class Once(PerceptionNode):
    def poll(self):
        print("skew", repr(self.params.max_skew), repr(self.get_parameter("task").value))
        self.finished = True
        return 0.0
sys.exit(run_node(Once))
"""


@pytest.mark.ros
def test_a_node_takes_an_int_for_a_double_and_declares_its_defaults() -> None:
    done = ros_process("-c", ONCE, "--ros-args", "-p", "max_skew:=1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["skew", "1.0", "'CubeRotation-v0'"]
