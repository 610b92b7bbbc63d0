"""Reading YAML with errors that name file, field and value; `$(arg name)` substitution. Pure Python."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

_ARG = re.compile(r"\$\(arg\s+([A-Za-z_]\w*)\s*\)")
_TYPE_NAMES = {str: "text", bool: "true or false", int: "a whole number", float: "a number", list: "a list"}


class GraphError(ValueError):
    """A node graph, an argument or a parameter file that cannot be used.

    The text names the file, the field, the value, and what is allowed.
    """


def suggest(name: object, known: Collection[str]) -> str:
    """The end of an error text about an unknown name: the nearest known one, or all of them."""
    near = difflib.get_close_matches(str(name), list(known), n=1)
    allowed = ", ".join(sorted(known)) or "none"
    return f"did you mean {near[0]!r}? Allowed: {allowed}" if near else f"allowed: {allowed}"


class _UniqueKeyLoader(yaml.SafeLoader):
    """A safe loader which refuses a repeated key; PyYAML would silently keep the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key_node.value!r} is given twice", key_node.start_mark
                )
            seen.add(str(key_node.value))
        return super().construct_mapping(node, deep)


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        GraphError: no such file, unreadable, not YAML, a repeated key, or not a mapping.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except FileNotFoundError:
        raise GraphError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise GraphError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise GraphError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise GraphError(f"{path}: must be a mapping, is {type(content).__name__}")
    check_kind(str(path), content, dict)
    return content


def check_keys(where: str, given: Mapping[str, Any], known: Collection[str]) -> None:
    """Raises GraphError at the first key that is not known."""
    for key in given:
        if key not in known:
            raise GraphError(f"{where}: unknown key {key!r} (value {given[key]!r}); {suggest(key, known)}")


def check_kind(where: str, value: Any, kind: type) -> Any:
    """`value`, if it is of the kind; a whole number is accepted for a number.

    Raises:
        GraphError: wrong type.
    """
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind in (int, float) and isinstance(value, bool)):
        wanted = _TYPE_NAMES.get(kind, "a mapping")
        raise GraphError(f"{where}: is {value!r} ({type(value).__name__}), must be {wanted}")
    if isinstance(value, dict):
        for key in value:
            # YAML reads a plain `on` or `no` as true or false, and 1 as a number.
            if not isinstance(key, str):
                raise GraphError(f"{where}: key {key!r} ({type(key).__name__}) must be text; quote it")
    return value


def typed_argument(where: str, value: Any, default: Any, choices: Sequence[Any]) -> Any:
    """A given argument as the type of its default; text from a command line is read as YAML for that.

    Raises:
        GraphError: the value is not of the default's type, or none of the choices.
    """
    kind = type(default)
    if kind is str and isinstance(value, (int, float, os.PathLike)) and not isinstance(value, bool):
        value = str(value)
    elif kind is not str and isinstance(value, str):
        # What is not YAML stays text, which the next check refuses.
        with contextlib.suppress(yaml.YAMLError):
            value = yaml.safe_load(value)
    value = check_kind(where, value, kind)
    if choices and value not in choices:
        raise GraphError(f"{where}: is {value!r}; allowed: {', '.join(map(str, choices))}")
    return value


def substitute(where: str, value: Any, arguments: Mapping[str, Any]) -> Any:
    """`value` with every `$(arg name)` replaced; one that is the whole value keeps the argument's type.

    Raises:
        GraphError: an argument that the graph does not declare.
    """
    if isinstance(value, dict):
        return {key: substitute(f"{where}.{key}", item, arguments) for key, item in value.items()}
    if isinstance(value, list):
        return [substitute(f"{where}[{i}]", item, arguments) for i, item in enumerate(value)]
    if not isinstance(value, str):
        return value
    for name in _ARG.findall(value):
        if name not in arguments:
            what = f"{value!r} names the unknown argument {name!r}"
            raise GraphError(f"{where}: {what}; {suggest(name, arguments)}")
    whole = _ARG.fullmatch(value)
    if whole:
        return arguments[whole.group(1)]
    replaced = _ARG.sub(lambda match: str(arguments[match.group(1)]), value)
    if "$(" in replaced:
        raise GraphError(f"{where}: {value!r} holds a substitution that is not of the form $(arg name)")
    return replaced
