"""A wrong mapping file is refused with file, field, value and what is allowed; nothing is written."""

from __future__ import annotations

import copy
import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from softflow_exchange.cli import main
from softflow_exchange.fields import FieldError, FieldPath
from softflow_exchange.mapping import Episodes, Input, MappingError, ObjectSource, Reward, Success
from softflow_exchange.mapping_file import load_mapping
from softflow_exchange.units import UNITS

sys.path.insert(0, str(Path(__file__).parent))

from exchange_toy import MAPPING, write_mapping

WRONG: list[tuple[tuple[str, ...], Any, str]] = [
    (("task",), "Juggling-v0", "task is 'Juggling-v0', allowed: CubeRotation-v0, ToolCut-v0"),
    (("time",), "clock", "time is 'clock', allowed: header, receive"),
    (("time",), "frames", "time is 'frames', allowed for inputs with a topic: header, receive"),
    (("source",), "me", "source is 'me', allowed: teleop, teacher, policy"),
    (("terminated",), "maybe", "terminated is 'maybe', allowed: task, success, never, always"),
    (("colour",), "red", "has 'colour' (value 'red'), allowed: task,"),
    (("inputs",), None, "inputs is None, must be names with values"),
    (("inputs", "joints", "unit"), "grad", "inputs.joints.unit is 'grad', allowed: 1, percent, rad"),
    (("inputs", "joints", "resample"), "cubic", "'resample' is 'cubic', allowed: nearest, linear, hold, rotation"),
    (("inputs", "joints", "max_age"), -1.0, "'max_age' is -1.0, must be in [0.0, 1000000000.0] s"),
    (("inputs", "joints", "topik"), "x", "'topik' (value 'x') is unknown; did you mean 'topic'?"),
    (("inputs", "joints", "field"), "a..b", "inputs.joints.field 'a..b' is no path of fields"),
    (("inputs", "joints", "field"), [], "inputs.joints.field is missing"),
    (("inputs", "joints", "topic"), "", "needs either topic (of a bag) or feature"),
    (("inputs", "joints", "names"), "", "names (where the message has the names) and order (those wanted) go"),
    (("inputs", "joints", "scale"), ["x"], "inputs.joints.scale holds 'x', must be finite numbers"),
    (("inputs", "joints", "offset"), [float("nan")], "inputs.joints.offset holds nan, must be finite"),
    (("inputs", "last_action"), {"topic": "/x", "field": "data"}, "last_action is a name of its own"),
    (("state",), {"vector": "joints", "blocks": {}}, "state has blocks, vector, must have one of"),
    (("state",), {"vector": {"a": 1}}, "state.vector is {'a': 1}, which is no input; inputs: cube_position"),
    (("state",), {"blocks": {"yaw": "joints"}}, "state.blocks has 'yaw' (value 'joints'), allowed: joint_position"),
    (("state",), {"blocks": {"yaw4": "joints"}}, "state.blocks lacks 'joint_position'"),
    (("state", "sensors", "position"), "elbow", "state.sensors.position is 'elbow', which is no input"),
    (("state", "sensors", "objects"), {}, "state.sensors.objects.cube is missing"),
    (("state", "sensors", "objects", "cube", "rotation"), [0, 0, 0, 2], "rotation is [0, 0, 0, 2], its norm"),
    (("state", "sensors", "objects", "cube", "quaternion"), "", "needs position and quaternion"),
    (("action",), {"velocity": "targets"}, "action has 'velocity' (value 'targets'), allowed: normalised, joints"),
    (("action",), {"joints": "nothing"}, "action is 'nothing', which is no input"),
    (("reward",), {"by": "input"}, "reward.input is missing: reward.by is 'input'"),
    (("reward",), {"by": "luck"}, "'by' is 'luck', allowed: task, input, sparse"),
    (("episodes",), {"by": "event", "input": "done"}, "episodes.start is missing"),
    (("episodes",), {"min_steps": 0}, "'min_steps' is 0, must be in [1, 1000000] steps"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "value", "text"), WRONG, ids=[".".join(p) for p, _, _ in WRONG])
def test_the_error_names_file_field_value_and_what_is_allowed(
    tmp_path: Path, place: tuple[str, ...], value: Any, text: str
) -> None:
    content = copy.deepcopy(MAPPING)
    section = content
    for name in place[:-1]:
        section = section[name]
    section[place[-1]] = value
    path = tmp_path / "mapping.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(MappingError) as raised:
        load_mapping(path)
    assert text in str(raised.value) and str(raised.value).startswith(str(path))


@pytest.mark.parametrize("content", ["", "- a", "a: [", "\x00", "3"])
def test_what_is_no_mapping_is_refused(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mapping.yaml"
    path.write_text(content)
    command = ["import", "--mapping", str(path), "--out", str(tmp_path / "out"), str(tmp_path / "bag")]
    assert main(command) == 2
    assert "mapping.yaml" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_the_hash_is_of_the_file(tmp_path: Path) -> None:
    first = load_mapping(write_mapping(tmp_path / "a.yaml"))
    second = load_mapping(write_mapping(tmp_path / "b.yaml"))
    changed = load_mapping(write_mapping(tmp_path / "c.yaml", source="teacher"))
    assert first.sha256 == second.sha256 != changed.sha256


@pytest.mark.parametrize("path", ["", ".", "a.", "1a", "a[b]", "a[-1]", "a b"])
def test_paths_that_are_none(path: str) -> None:
    with pytest.raises(FieldError, match="is no path of fields"):
        FieldPath.parse(path)


def test_a_path_spreads_arrays_and_names_what_a_message_lacks() -> None:
    class Finger:
        __dataclass_fields__ = {"angle": 0}  # noqa: RUF012

        def __init__(self, *angle: float) -> None:
            self.angle = list(angle)

    class Hand:
        fingers = (Finger(1.0, 2.0), Finger(3.0, 4.0))

    assert FieldPath.parse("fingers[].angle").of(Hand()) == [1.0, 2.0, 3.0, 4.0]
    assert FieldPath.parse("fingers[1].angle[0]").of(Hand()) == [3.0]
    with pytest.raises(FieldError, match="there is no field 'force'; fields here: angle"):
        FieldPath.parse("fingers[0].force").of(Hand())
    with pytest.raises(FieldError, match="index is 2, the array has 2 elements"):
        FieldPath.parse("fingers[2]").of(Hand())


def test_the_examples_of_the_documentation_are_right(tmp_path: Path) -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "exchange.md").read_text()
    examples = re.findall(r"```yaml\n(# mapping.*?)```", text, flags=re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        (tmp_path / "mapping.yaml").write_text(example)
        assert load_mapping(tmp_path / "mapping.yaml").gridded()


def test_the_documentation_names_every_unit_and_key() -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "exchange.md").read_text()
    names = [field.name for cls in (Input, Episodes, Reward, Success, ObjectSource) for field in fields(cls)]
    missing = [name for name in [*names, *UNITS] if f"`{name}`" not in text]
    assert missing == []
