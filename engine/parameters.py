"""The parameters of a plugin: from its fields to a JSON Schema, and from plain values back to an instance.

A plugin is a frozen dataclass: its fields are what a user's file may set, and the `Attributes` of its docstring say
what they mean.
"""

from __future__ import annotations

import enum
import inspect
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING
from functools import cache
from typing import Any, Literal

from .registry import parameters


def build(plugin: type, values: Mapping[str, object]) -> object:
    """The plugin with these parameters, which `mapping_schema` has accepted.

    Raises:
        ValueError: The plugin itself refuses them.
    """
    hints = _hints(plugin)
    instance: object = plugin(**{name: _converted(hints[name], value) for name, value in values.items()})
    return instance


def mapping_schema(plugin: type, own: Mapping[str, object] | None = None) -> dict[str, Any]:
    """The JSON Schema of a mapping that sets a plugin's parameters.

    Args:
        plugin: The plugin's class.
        own: Required fields of the mapping itself that stand beside the parameters, with their schemas.

    Raises:
        TypeError: A parameter is of a type that a file cannot write.
    """
    own = own or {}
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {**own, **_properties(plugin)},
        "required": [*own, *needed(plugin)],
    }


def needed(plugin: type) -> list[str]:
    """The parameters that have no default."""
    return [p.name for p in parameters(plugin) if p.default is MISSING and p.default_factory is MISSING]


def described(plugin: type) -> dict[str, str]:
    """What the plugin's docstring says of each of its parameters."""
    section = re.search(r"^Attributes:\n((?:[ ]{4}.*(?:\n|$))+)", inspect.getdoc(plugin) or "", re.MULTILINE)
    found = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", section.group(1) if section else "", re.MULTILINE)
    return {name: " ".join(words.split()) for name, words in found if name in {p.name for p in parameters(plugin)}}


def plain(value: object) -> object:
    """A parameter's value as a file writes it."""
    if isinstance(value, enum.Enum):
        return plain(value.value)
    return [plain(item) for item in value] if isinstance(value, tuple) else value


@cache
def _properties(plugin: type) -> dict[str, object]:
    """The schema of each parameter."""
    hints, words = _hints(plugin), described(plugin)
    properties: dict[str, object] = {}
    for parameter in parameters(plugin):
        schema = _type_schema(hints[parameter.name])
        if parameter.name in words:
            schema["description"] = words[parameter.name]
        if parameter.default is not MISSING:
            schema["default"] = plain(parameter.default)
        properties[parameter.name] = schema
    return properties


@cache
def _hints(plugin: type) -> dict[str, Any]:
    """The types of a plugin's parameters; its other annotations may need imports that never happen at run time."""
    annotations = {p.name: p.type for p in parameters(plugin)}
    bare = type(plugin.__name__, (), {"__annotations__": annotations, "__module__": plugin.__module__})
    return typing.get_type_hints(bare)


def _type_schema(hint: Any) -> dict[str, object]:
    """The schema of one parameter's values.

    Raises:
        TypeError: A file cannot write values of this type.
    """
    simple = {bool: "boolean", int: "integer", float: "number", str: "string"}
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in simple:
        return {"type": simple[hint]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if inspect.isclass(hint) and issubclass(hint, enum.Enum):
        return {"enum": [member.value for member in hint]}
    if origin is tuple and arguments[1:] == (...,):
        return {"type": "array", "items": _type_schema(arguments[0]), "minItems": 1}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [{"type": "null"} if part is types.NoneType else _type_schema(part) for part in arguments]}
    raise TypeError(f"a file cannot set a parameter of type {hint}")


def _converted(hint: Any, value: Any) -> object:
    """A plain value that the schema has accepted, as the plugin wants it."""
    arguments = typing.get_args(hint)
    if hint in (int, float):
        return hint(value)
    if inspect.isclass(hint) and issubclass(hint, enum.Enum):
        return hint(value)
    if typing.get_origin(hint) is tuple:
        return tuple(_converted(arguments[0], item) for item in value)
    if types.NoneType in arguments and value is not None:
        return _converted(next(part for part in arguments if part is not types.NoneType), value)
    return value
