"""A hand file is taken as it is, or refused with file, field, value and bound."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hand_driver.hand_file import HandFileError, hand_names, hands_directory, load_hand, parse_hand

EXAMPLE: dict[str, Any] = {
    "name": "two",
    "backend": "dynamixel",
    "control_rate": 100,
    "joint_defaults": {
        "lower": -0.5,
        "upper": 1.5,
        "max_velocity": 4,
        "max_acceleration": 80.0,
        "soft_current": 0.4,
        "max_current": 0.6,
        "soft_temperature": 60.0,
        "max_temperature": 70.0,
    },
    "joints": {"mcp": {"neutral": 0.1}, "pip": {"upper": 1.8}},
    "pairs": [{"joints": {"mcp": 1.0, "pip": 0.5}, "bound": 2.0}],
    "safety": {"max_jump": 0.4},
    "motors": [
        {"id": 1, "joint": "mcp", "ratio": -1.0, "offset": 3.0},
        {"id": 2, "coupling": {"mcp": 0.5, "pip": 1.2}},
    ],
}


def changed(*path: Any, to: Any) -> dict[str, Any]:
    """The example with one value set, or removed when it is None."""
    values = copy.deepcopy(EXAMPLE)
    inner = values
    for key in path[:-1]:
        inner = inner[key]
    if to is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = to
    return values


def test_all_files_of_the_project_can_be_loaded() -> None:
    assert {"palmdown4", "gantry4", "orca_v2", "leap_like", "mock"} <= set(hand_names())
    for name in hand_names():
        spec = load_hand(name)
        assert spec.name == name and len(set(spec.joint_names)) == len(spec.joints)
    assert len(load_hand("orca_v2").joints) == 17 and len(load_hand("leap_like").motors) == 16


def test_a_path_is_a_hand_too_and_an_unknown_name_lists_the_known(tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump(EXAMPLE))
    assert load_hand(str(path)).joint_names == ("mcp", "pip")
    with pytest.raises(
        HandFileError, match=r"hand 'three': three\.yaml: No such file.*known hands: .*palmdown4"
    ):
        load_hand("three")
    path.write_text("joints: [")
    with pytest.raises(HandFileError, match=r"two\.yaml: not YAML"):
        load_hand(str(path))


def test_defaults_are_joined_and_matrices_follow_the_order_of_joints() -> None:
    spec = parse_hand(EXAMPLE, "two.yaml")
    np.testing.assert_array_equal(spec.values("upper"), [1.5, 1.8])
    np.testing.assert_array_equal(spec.values("neutral"), [0.1, 0.0])
    coupling, offsets = spec.motor_matrix
    np.testing.assert_array_equal(coupling, [[-1.0, 0.0], [0.5, 1.2]])
    np.testing.assert_array_equal(offsets, [3.0, 0.0])
    rows, bounds = spec.pair_matrix
    np.testing.assert_array_equal(rows, [[1.0, 0.5]])
    assert bounds.tolist() == [2.0] and spec.period == 0.01 and spec.safety.max_jump == 0.4


def test_the_digest_changes_with_every_value() -> None:
    digests = {
        parse_hand(values, "two.yaml").digest()
        for values in (
            EXAMPLE,
            changed("joints", "pip", "upper", to=1.81),
            changed("safety", "max_jump", to=0.41),
            changed("motors", 0, "offset", to=3.1),
            changed("pairs", 0, "bound", to=2.1),
        )
    }
    assert len(digests) == 5
    assert parse_hand(EXAMPLE, "two.yaml").digest() == parse_hand(EXAMPLE, "renamed.yaml").digest()


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        (("control_rate",), 0, r"control_rate is 0, must be in \[1, 1000\] Hz"),
        (("control_rate",), "fast", r"control_rate is 'fast', must be in"),
        (("backend",), "ros", r"backend is 'ros', allowed: dynamixel, mock, orca, sim"),
        (("name",), None, "name is missing"),
        (("colour",), "red", r"'colour' \(value 'red'\) is unknown; known: name"),
        (("joints",), {}, "joints is empty"),
        (("joints",), [1], r"joints is \[1\], must be a mapping"),
        (("joint_defaults", "max_velocity"), None, r"joints\.mcp: max_velocity is missing"),
        (("joints", "pip", "upper"), -0.5, r"joints\.pip: upper is -0\.5, must be above -0\.5"),
        (("joints", "pip", "upper"), math.nan, r"joints\.pip: parameter 'upper' is nan, must be finite"),
        (("joints", "pip", "upper"), "1", r"joints\.pip: parameter 'upper' is '1' \(str\), must be float"),
        (("joints", "pip", "max_velocity"), -1.0, r"'max_velocity' is -1\.0, must be in \[0\.001, .* rad/s"),
        (
            ("joints", "pip", "max_velocty"),
            1.0,
            r"'max_velocty' \(value 1\.0\) is unknown; did you mean 'max_velocity'",
        ),
        (("joints", "mcp", "neutral"), 1.6, r"joints\.mcp: neutral is 1\.6, must be in \[-0\.5, 1\.5\]"),
        (("joints", "mcp", "max_current"), 0.1, r"joints\.mcp: max_current is 0\.1, must be above 0\.4"),
        (("joints", "mcp", "max_temperature"), 50.0, r"max_temperature is 50\.0, must be above 60\.0"),
        (
            ("safety", "max_reading_speed"),
            1.0,
            r"safety\.max_reading_speed is 1\.0, must be above \d\.\d, joints\.mcp\.max_velocity",
        ),
        (("pairs", 0, "bound"), math.inf, r"pairs\[0\]\.bound is inf, must be a finite number"),
        (("pairs", 0, "joints", "tip"), 1.0, r"pairs\[0\]\.joints: joint 'tip' is unknown"),
        (
            ("pairs", 0, "joints", "mcp"),
            0.0,
            r"pairs\[0\]\.joints\.mcp is 0\.0, must be in \[-100, 100\] and not 0",
        ),
        (("pairs", 0, "bound"), 0.05, r"pairs\[0\] is violated by the neutral pose, by 0\.05"),
        (("pairs", 0, "bound"), None, r"pairs\[0\] has joints, must have joints and bound"),
        (("safety", "starve_relax"), -1.0, r"safety: parameter 'starve_relax' is -1\.0, must be in .* s"),
        (("safety", "jump"), 1.0, r"safety: parameter 'jump' .* is unknown"),
        (("motors", 0, "id"), 253, r"motors\[0\]: parameter 'id' is 253, must be in \[0, 252\]"),
        (("motors", 0, "id"), 2, r"motors: id 2 comes twice"),
        (("motors", 0, "joint"), "tip", r"motors\[0\]: joint 'tip' is unknown"),
        (("motors", 0, "coupling"), {"pip": 1.0}, r"motors\[0\] must have one of joint and coupling"),
        (("motors", 1, "coupling"), {"mcp": 1.0}, r"coupling cannot be inverted"),
        (("motors", 1), None, r"motors has 1 entries, must have 2, as joints"),
        (("bus",), {"watchdog": 10.0}, r"bus: parameter 'watchdog' is 10\.0, must be in \[0\.02, 2\.54\] s"),
    ],
)
def test_a_wrong_file_is_refused_and_says_what_is_wrong(path: tuple[Any, ...], value: Any, text: str) -> None:
    with pytest.raises(HandFileError, match=r"^two\.yaml: .*" + text):
        parse_hand(changed(*path, to=value), "two.yaml")


def test_hands_lie_in_the_configuration() -> None:
    assert (hands_directory() / "palmdown4.yaml").is_file()
