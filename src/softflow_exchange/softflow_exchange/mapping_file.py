"""Reads a mapping file; every error names file, field, value and what is allowed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping as MappingOf
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml

from softflow_exchange.fields import FieldError, FieldPath
from softflow_exchange.mapping import (
    FRAMES,
    HEADER,
    LAST_ACTION,
    OBJECT_PARTS,
    RECEIVE,
    SOURCES,
    Episodes,
    Input,
    Mapping,
    MappingError,
    ObjectSource,
    Reward,
    Sensors,
    Success,
)
from softflow_exchange.units import UNITS
from softflow_node.parameters import ParameterError, from_mapping
from softflow_tasks.task import Task, make_task, task_ids

T = TypeVar("T")

_TOP = ("task", "source", "time", "inputs", "state", "action", "reward", "success", "terminated", "episodes")


def load_mapping(path: Path) -> Mapping:
    """Read and check a mapping file. Raises MappingError."""
    try:
        data = path.read_bytes()
        content = yaml.safe_load(data)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise MappingError(f"{path}: cannot be read: {error}") from error
    return parse_mapping(content, path, hashlib.sha256(data).hexdigest())


def parse_mapping(content: Any, path: Path, sha256: str) -> Mapping:
    """Check the content of a mapping file. Raises MappingError."""
    try:
        return _Parser(path).parse(content, sha256)
    except ParameterError as error:
        raise MappingError(str(error)) from error


class _Parser:
    """Every error begins with the file and the field."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def parse(self, content: Any, sha256: str) -> Mapping:
        top = self.section("the file", content)
        self.known("the file", top, _TOP)
        task = make_task(self.choice("task", top.get("task"), task_ids()))
        raw = self.section("inputs", top.get("inputs"))
        inputs = {str(name): self.input(f"inputs.{name}", values) for name, values in raw.items()}
        state = self.section("state", top.get("state"))
        self.known("state", state, ("vector", "blocks", "sensors"))
        if len(state) != 1:
            self.fail(
                "state", f"has {', '.join(state) or 'nothing'}, must have one of vector, blocks, sensors"
            )
        action = self.section("action", top.get("action"))
        self.known("action", action, ("normalised", "joints"))
        if len(action) != 1:
            self.fail("action", f"has {', '.join(action) or 'nothing'}, must have one of normalised, joints")
        ((action_is, action_input),) = action.items()
        mapping = Mapping(
            path=self.path,
            sha256=sha256,
            task=task,
            source=self.choice("source", top.get("source", "teleop"), SOURCES),
            time=self.choice("time", top.get("time"), (HEADER, RECEIVE, FRAMES)),
            inputs=inputs,
            vector=state.get("vector", ""),
            blocks=self.blocks(state["blocks"], task) if "blocks" in state else {},
            sensors=self.sensors(state["sensors"], task) if "sensors" in state else None,
            action=action_input,
            action_is=action_is,
            reward=self.one(Reward, "reward", top.get("reward", {})),
            success=self.one(Success, "success", top.get("success", {})),
            terminated=self.choice(
                "terminated", top.get("terminated", "task"), ("task", "success", "never", "always")
            ),
            episodes=self.one(Episodes, "episodes", top.get("episodes", {})),
        )
        self.check(mapping)
        return mapping

    def input(self, where: str, values: Any) -> Input:
        values = dict(self.section(where, values))
        for key in ("field", "unit", "scale", "offset", "order"):
            if key in values and not isinstance(values[key], list):
                values[key] = [values[key]]
        # `unit: 1` and a joint that is called 3 are read as numbers.
        for key in ("field", "unit", "order"):
            values[key] = [str(text) for text in values.get(key, ())]
        result = from_mapping(Input, values, f"{self.path}: {where}")
        if bool(result.topic) == bool(result.feature):
            self.fail(where, "needs either topic (of a bag) or feature (of a LeRobot dataset)")
        if result.feature and (result.field or result.names or result.time):
            self.fail(
                where, "field, names and time belong to a topic; a feature has its names in the data set"
            )
        if result.topic and not result.field:
            self.fail(f"{where}.field", "is missing: which field of the message")
        if result.topic and bool(result.names) != bool(result.order):
            self.fail(where, "names (where the message has the names) and order (those wanted) go together")
        for text in (*result.field, *([result.names] if result.names else [])):
            try:
                FieldPath.parse(text)
            except FieldError as error:
                self.fail(f"{where}.field", str(error))
        for unit in result.unit:
            self.choice(f"{where}.unit", unit, tuple(UNITS))
        for key in ("scale", "offset"):
            for value in getattr(result, key):
                self.number(f"{where}.{key}", value)
        return result

    def blocks(self, values: Any, task: Task) -> dict[str, str]:
        blocks = self.section("state.blocks", values)
        names = tuple(name for name, _, _ in task.layout.blocks)
        self.known("state.blocks", blocks, names)
        for name in names:
            if name not in blocks:
                self.fail("state.blocks", f"lacks {name!r}, a block of {task.id}'s layout")
        return blocks

    def sensors(self, values: Any, task: Task) -> Sensors:
        sensors = self.section("state.sensors", values)
        self.known("state.sensors", sensors, ("position", "velocity", "command", "objects"))
        if "position" not in sensors:
            self.fail("state.sensors.position", "is missing: the input with the joints' positions")
        objects = self.section("state.sensors.objects", sensors.get("objects", {}))
        self.known("state.sensors.objects", objects, task.objects)
        made = {}
        for name in task.objects:
            where = f"state.sensors.objects.{name}"
            if name not in objects:
                self.fail(where, f"is missing: {task.id} observes {', '.join(task.objects)}")
            made[name] = source = self.one(ObjectSource, where, objects[name])
            if not (source.position and source.quaternion):
                self.fail(where, "needs position and quaternion")
            if len(source.translation) != 3 or len(source.rotation) != 4:
                self.fail(where, "translation needs 3 numbers, rotation 4 (xyzw)")
            for value in (*source.translation, *source.rotation):
                self.number(where, value)
            if abs(math.hypot(*source.rotation) - 1.0) > 1e-3:
                self.fail(f"{where}.rotation", f"is {list(source.rotation)}, its norm must be 1")
        return Sensors(sensors["position"], sensors.get("velocity", ""), sensors.get("command", ""), made)

    def check(self, mapping: Mapping) -> None:
        """Names that must be inputs, and choices that do not go together."""
        needed = {"action": mapping.action, "state.vector": mapping.vector}
        needed |= {f"state.blocks.{b}": n for b, n in mapping.blocks.items() if n != LAST_ACTION}
        if mapping.sensors is not None:
            hand = {"position": mapping.sensors.position, "velocity": mapping.sensors.velocity}
            needed |= {
                f"state.sensors.{k}": v for k, v in {**hand, "command": mapping.sensors.command}.items()
            }
            for name, source in mapping.sensors.objects.items():
                where = f"state.sensors.objects.{name}"
                needed |= {f"{where}.{part}": getattr(source, part) for part in OBJECT_PARTS}
        for section in ("reward", "success", "episodes"):
            part = getattr(mapping, section)
            needed[f"{section}.input"] = part.input
            if part.by in ("input", "flag", "event") and not part.input:
                self.fail(f"{section}.input", f"is missing: {section}.by is {part.by!r}")
        for where, name in needed.items():
            if name != "" and (not isinstance(name, str) or name not in mapping.inputs):
                self.fail(where, f"is {name!r}, which is no input; inputs: {', '.join(mapping.inputs)}")
        if LAST_ACTION in mapping.inputs:
            self.fail(f"inputs.{LAST_ACTION}", "is a name of its own: the action before")
        if mapping.episodes.by == "event" and not mapping.episodes.start:
            self.fail("episodes.start", "is missing: the value that begins an episode")
        kinds = {"topic" if i.topic else "feature" for i in mapping.inputs.values()}
        if len(kinds) > 1:
            self.fail("inputs", "mix topics (of bags) and features (of a LeRobot dataset)")
        if ("feature" in kinds) != (mapping.time == FRAMES):
            allowed = FRAMES if "feature" in kinds else f"{HEADER}, {RECEIVE}"
            self.fail("time", f"is {mapping.time!r}, allowed for inputs with a {kinds.pop()}: {allowed}")

    def one(self, cls: type[T], where: str, values: Any) -> T:
        values = self.section(where, values)
        # YAML 1.1 reads `on`, `true` and numbers where a word is meant: values of a topic are compared as text.
        words = {f.name for f in fields(cls) if f.name in ("start", "stop")}  # type: ignore[arg-type]
        values = {key: str(value) if key in words else value for key, value in values.items()}
        return from_mapping(cls, values, f"{self.path}: {where}")

    def section(self, where: str, values: Any) -> dict[str, Any]:
        if not isinstance(values, MappingOf):
            self.fail(where, f"is {values!r}, must be names with values")
        return {str(key): value for key, value in values.items()}

    def known(self, where: str, values: MappingOf[str, Any], names: tuple[str, ...]) -> None:
        for key, value in values.items():
            if key not in names:
                self.fail(where, f"has {key!r} (value {value!r}), allowed: {', '.join(names)}")

    def choice(self, where: str, value: Any, allowed: tuple[str, ...]) -> str:
        if value not in allowed:
            self.fail(where, f"is {value!r}, allowed: {', '.join(allowed)}")
        return str(value)

    def number(self, where: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            self.fail(where, f"holds {value!r}, must be finite numbers")

    def fail(self, where: str, text: str) -> NoReturn:
        raise MappingError(f"{self.path}: {where} {text}")
