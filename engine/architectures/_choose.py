"""From what a user wrote to an architecture, and back to words."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, get_origin, get_type_hints, runtime_checkable

from ..document import Document, PathTo, violations
from ..errors import InputError, Problem
from ..registry import load, names, suggest, summary

if TYPE_CHECKING:
    import torch

_KIND = "architectures"


@runtime_checkable
class Architecture(Protocol):
    """A family of networks; its fields are the parameters that a user may set."""

    def build(self, shape: tuple[int, ...], classes: int) -> torch.nn.Module:
        """The network, initialised from torch's global generator: seed that around the call (`torch.random.fork_rng`).

        Args:
            shape: Shape of one record.
            classes: How many logits it returns.

        Raises:
            ValueError: It cannot read records of that shape.
        """
        ...


def choose_architecture(document: Document, at: PathTo) -> Architecture:
    """The architecture that a document names at a place, as in `{name: cnn, channels: [16, 32]}`.

    Raises:
        InputError: An unknown name or parameter, or an impossible value, each with its place.
    """
    written = _written(document, at)
    plugin = _plugin(document, at, written.get("name"))
    problems = violations(document, _schema_of(str(written["name"])), at)
    if problems:
        raise InputError(tuple(problems))
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in written.items() if key != "name"}
    try:
        architecture: Architecture = plugin(**values)
    except ValueError as error:
        raise InputError.of(str(error), where=document.place(at)) from error
    return architecture


def describe(architecture: Architecture) -> str:
    """The architecture in one line, every parameter spelt out: `mlp(hidden=[128], activation=relu, dropout=0.0)`."""
    values: list[str] = []
    for field in dataclasses.fields(architecture):  # type: ignore[arg-type]  # every plugin is a dataclass
        value = getattr(architecture, field.name)
        values.append(f"{field.name}={list(value) if isinstance(value, tuple) else value}")
    return f"{type(architecture).__module__.rpartition('.')[2]}({', '.join(values)})"


def architecture_schema() -> dict[str, object]:
    """JSON Schema (Draft 2020-12) of what a user may write for an architecture."""
    return {"oneOf": [_schema_of(name) for name in names(_KIND)]}


def _written(document: Document, at: PathTo) -> dict[str, object]:
    """The mapping at a place of the document."""
    value: Any = document.root
    for step in at:
        value = value[step]
    if not isinstance(value, dict):
        message = f"expected an architecture such as {{name: mlp, hidden: [128]}}, found {value!r}"
        raise InputError.of(message, where=document.place(at))
    return value


def _plugin(document: Document, at: PathTo, name: object) -> type:
    """The architecture's class by the name that the user wrote."""
    if name is None:
        known = f"one of {', '.join(names(_KIND))}"
        raise InputError.of(f"an architecture needs a 'name': {known}", where=document.place(at))
    if name not in names(_KIND):
        hint = suggest(str(name), names(_KIND)) or f"known are {', '.join(names(_KIND))}"
        problem = Problem(f"unknown architecture {name!r}", document.place((*at, "name")), hint)
        raise InputError((problem,))
    return load(_KIND, str(name))


def _schema_of(name: str) -> dict[str, object]:
    """JSON Schema of one architecture with its parameters."""
    plugin = load(_KIND, name)
    hints = get_type_hints(plugin)
    own = {field.name: _schema_of_type(hints[field.name]) for field in dataclasses.fields(plugin)}
    return {
        "type": "object",
        "description": summary(plugin),
        "properties": {"name": {"const": name}, **own},
        "required": ["name"],
        "additionalProperties": False,
    }


def _schema_of_type(hint: Any) -> dict[str, object]:
    """JSON Schema of one parameter's type.

    Raises:
        TypeError: An architecture has a parameter of a type that no user could write.
    """
    if get_origin(hint) is Literal:
        return {"enum": list(get_args(hint))}
    if get_origin(hint) is tuple:
        return {"type": "array", "items": _schema_of_type(get_args(hint)[0])}
    simple = {int: "integer", float: "number", bool: "boolean", str: "string"}
    if hint not in simple:
        raise TypeError(f"a parameter of type {hint} cannot be written in YAML")
    return {"type": simple[hint]}
