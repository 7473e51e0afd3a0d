"""YAML documents whose every value knows where it stands, and what a JSON Schema forbids in them, in words."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from . import registry
from .composer import MAX_PROBLEMS, NUMBER, Node, compose, in_order
from .errors import InputError, Location, Problem

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

#: A place inside a document: keys and positions from the root.
PathTo = tuple[str | int, ...]

MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Document:
    """A loaded YAML file: plain values (dict, list, str, int, float, bool, None) and their places.

    Attributes:
        file: The file as the user named it.
        data: The file's bytes.
        root: The plain value.
        places: Where each value starts, by its path; keys under `(*path, key)` give the value's place.
        keys: Where each mapping key stands, by the path of its value.
    """

    file: Path
    data: bytes
    root: object
    places: Mapping[PathTo, Location]
    keys: Mapping[PathTo, Location]

    @property
    def sha256(self) -> str:
        """Digest of the file's bytes, lower-case hex."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def text(self) -> str:
        """The file as text, without a byte order mark."""
        return self.data.decode("utf-8-sig")

    def place(self, path: PathTo) -> Location:
        """Where the value stands, or the nearest mapping around it if it is missing."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places[path]

    def value(self, path: PathTo) -> object:
        """The plain value at a path.

        Raises:
            KeyError: There is none.
        """
        value = self.root
        for step in path:
            value = cast("dict[str | int, object]", value)[step]
        return value


def read(path: Path) -> Document:
    """Read one YAML document.

    Raises:
        InputError: Missing, empty, too large, not UTF-8, not YAML, tabs, duplicate keys, aliases that explode,
            NaN or infinity, with every place that is wrong.
    """
    data = _bytes(path)
    flat = _Flat()
    root = flat.add(compose(path, _text(path, data)), ())
    return Document(path, data, root, flat.places, flat.keys)


def _bytes(path: Path) -> bytes:
    """The file's bytes, never more than the limit of them."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
            size = path.stat().st_size
    except FileNotFoundError as error:
        raise InputError.of(f"{path}: there is no such file", "check the path") from error
    except IsADirectoryError as error:
        raise InputError.of(f"{path}: this is a folder", "name the file inside it") from error
    except OSError as error:
        raise InputError.of(f"{path}: it cannot be read ({error.strerror})", "check its permissions") from error
    if len(data) > MAX_BYTES:
        found = f"{max(size, len(data)) / (1 << 20):.1f} MiB"
        raise InputError.of(f"{path}: the file is larger than 1 MiB ({found})", "is this the right file?")
    return data


def _text(path: Path, data: bytes) -> str:
    """The file's text, without a byte order mark."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        offset = error.start + len(data) - len(error.object)
        where = Location(str(path), data.count(b"\n", 0, offset) + 1, 1)
        message = f"not UTF-8: byte 0x{data[offset]:02x} at offset {offset}"
        raise InputError.of(message, "save the file as UTF-8", where) from error


@dataclass(slots=True)
class _Flat:
    """Plain values and places, built out of nodes (aliases are written out; the composer has bounded them)."""

    places: dict[PathTo, Location] = field(default_factory=dict)
    keys: dict[PathTo, Location] = field(default_factory=dict)

    def add(self, node: Node, path: PathTo) -> object:
        self.places[path] = node.where
        if node.items is not None:
            return [self.add(item, (*path, position)) for position, item in enumerate(node.items)]
        if node.entries is not None:
            for key, _ in node.entries:
                self.keys[(*path, key.name)] = key.where
            return {key.name: self.add(child, (*path, key.name)) for key, child in node.entries}
        return node.value


def violations(document: Document, schema: Mapping[str, object], at: PathTo = ()) -> list[Problem]:
    """Everything in (a part of) the document that a JSON Schema (Draft 2020-12) forbids, in the order of the file.

    Args:
        document: The document.
        schema: The schema; `patternErrorMessage` beside a `pattern` says in words what the pattern wants.
        at: The part of the document that the schema is for.

    Raises:
        KeyError: The document has no value at `at`.
    """
    from jsonschema import Draft202012Validator

    errors = islice(Draft202012Validator(schema).iter_errors(document.value(at)), 2 * MAX_PROBLEMS)
    found = [problem for error in errors for problem in _explained(_Fault(document, at, error))]
    return list(in_order(found))


@dataclass(frozen=True, slots=True)
class _Fault:
    """One error of the validator, seen in the document."""

    document: Document
    at: PathTo
    error: ValidationError

    @property
    def rule(self) -> str:
        """The schema's keyword that was broken; empty for the schema `false`."""
        return str(self.error.validator or "")

    @property
    def wanted(self) -> Any:
        """What that keyword says."""
        return self.error.validator_value

    @property
    def choices(self) -> list[object]:
        """For `enum` and `const`: what may stand here."""
        return list(self.wanted) if self.rule == "enum" else [self.wanted]

    @property
    def forms(self) -> list[str]:
        """For `type`, `enum` and `const`: what may stand here, in words."""
        if self.rule in _LABELS:
            return [str(value) for value in self.choices]
        return [_TYPES[name] for name in ([self.wanted] if isinstance(self.wanted, str) else self.wanted)]

    @property
    def found(self) -> Any:
        """The plain value that broke it."""
        return self.error.instance

    @property
    def path(self) -> PathTo:
        return (*self.at, *self.error.absolute_path)

    @property
    def place(self) -> Location:
        return self.document.place(self.path)

    @property
    def written(self) -> str:
        """The value as it stands in the file, where it stands on one line."""
        where = self.place
        return where.text[where.column - 1 : where.column - 1 + where.width]

    def says(self, keyword: str, otherwise: Any) -> Any:
        """Another keyword of the same schema."""
        return self.error.schema.get(keyword, otherwise) if isinstance(self.error.schema, Mapping) else otherwise

    def key(self, name: str) -> Location:
        """Where a field of this mapping is named."""
        return self.document.keys[(*self.path, name)]

    def mistypes(self, whole: _Fault) -> bool:
        """Whether it says that the value as a whole is of another type than this form."""
        if self.path != whole.path:
            return False
        return self.rule == "type" or (self.rule in _LABELS and isinstance(self.found, list | dict))

    @property
    def is_mapping(self) -> bool:
        return isinstance(self.found, dict)

    def branches(self) -> list[list[_Fault]]:
        """For `anyOf` and `oneOf`: what is wrong with each form that was possible."""
        forms: dict[object, list[_Fault]] = {}
        for error in self.error.context or ():
            forms.setdefault(error.relative_schema_path[0], []).append(_Fault(self.document, self.at, error))
        return list(forms.values())


def _explained(fault: _Fault) -> Iterator[Problem]:
    """The problems behind one fault."""
    explain = _EXPLAIN.get(fault.rule)
    if explain is None:
        yield Problem(f"not acceptable: {fault.error.message[:80]}", fault.place)
    else:
        yield from explain(fault)


def _unknown_fields(fault: _Fault) -> Iterator[Problem]:
    known = tuple(fault.says("properties", {}))
    for name in islice(_unknown(fault, known), MAX_PROBLEMS + 1):
        yield Problem(f"unknown field {quoted(name)}", fault.key(name), suggest(name, known) or _choices(known))


def _unknown(fault: _Fault, known: tuple[str, ...]) -> Iterator[str]:
    patterns = tuple(fault.says("patternProperties", ()))
    return (n for n in fault.found if n not in known and not any(re.search(p, n) for p in patterns))


def _missing_field(fault: _Fault) -> Iterator[Problem]:
    misspelt = _misspelt(fault)
    for name in fault.wanted:
        if name not in fault.found and name not in misspelt:
            yield Problem(f"the field '{name}' is missing", fault.place)


def _misspelt(fault: _Fault) -> set[str]:
    """The known fields that an unknown one was probably meant to be; reported there already."""
    known = tuple(fault.says("properties", ()))
    unknown = islice(_unknown(fault, known), MAX_PROBLEMS) if fault.says("additionalProperties", True) is False else ()
    suggestions = {suggest(name, known) for name in unknown}
    return {name for name in known if suggest(name, (name,)) in suggestions}


def _choice(fault: _Fault) -> Iterator[Problem]:
    yield _not_among(fault, fault.choices)


def _not_among(fault: _Fault, wanted: list[object]) -> Problem:
    known, found = tuple(str(value) for value in wanted), fault.found
    if isinstance(found, str):
        return Problem(f"unknown value {quoted(found)}", fault.place, suggest(found, known) or _choices(known))
    return Problem(f"{_choices(known)}, found {_described(fault)}", fault.place)


def _type(fault: _Fault) -> Iterator[Problem]:
    yield Problem(f"{_choices(fault.forms)}, found {_described(fault)}", fault.place, _way_out(fault))


def _way_out(fault: _Fault) -> str:
    """What to write instead, where it can be guessed."""
    wanted = [fault.wanted] if isinstance(fault.wanted, str) else fault.wanted
    found, written = fault.found, fault.written
    if found is None:
        return "write a value or take the field out"
    if "string" in wanted and isinstance(found, bool | int | float):
        return f'put it in quotes: "{written}"'
    if {"number", "integer"} & {*wanted} and isinstance(found, str):
        quoted = NUMBER.fullmatch(found) is not None
        return f"write it without quotes: {found}" if quoted else "write a plain decimal number, such as 0.05 or 1e-5"
    if "array" in wanted and isinstance(found, str | int | float) and written:
        return f"write a list: [{written}]"
    return ""


def _described(fault: _Fault) -> str:
    """What was found, in words."""
    if isinstance(fault.found, str):
        return f"the text {quoted(fault.found)}"
    return "nothing" if fault.found is None else quoted(fault.found)


def _limit(fault: _Fault) -> Iterator[Problem]:
    yield Problem(f"expected a value {_LIMITS[fault.rule]} {fault.wanted}, found {quoted(fault.found)}", fault.place)


def _length(fault: _Fault) -> Iterator[Problem]:
    if not fault.found:
        way_out = "write something" if isinstance(fault.found, str) else "at least one entry is needed"
        yield Problem(f"this {_COLLECTIONS[fault.rule[3:]]} is empty", fault.place, way_out)
        return
    bound = "at least" if fault.rule.startswith("min") else "at most"
    things = {"Length": "characters", "Items": "entries", "Properties": "fields"}[fault.rule[3:]]
    yield Problem(f"expected {bound} {fault.wanted} {things}, found {len(fault.found)}", fault.place)


def _pattern(fault: _Fault) -> Iterator[Problem]:
    wanted = fault.says("patternErrorMessage", f"expected text that matches {fault.wanted}")
    yield Problem(f"{quoted(fault.found)} is not acceptable", fault.place, str(wanted))


def _twice(fault: _Fault) -> Iterator[Problem]:
    for position, entry in enumerate(fault.found):
        if entry in fault.found[:position]:
            yield Problem("this entry is given twice", fault.document.place((*fault.path, position)), "keep one")


def _misplaced(fault: _Fault) -> Iterator[Problem]:
    where = fault.document.keys.get(fault.path, fault.place)
    yield Problem("this does not belong here", where, "take it out")


def _one_form(fault: _Fault) -> Iterator[Problem]:
    """For `anyOf` and `oneOf`: what is wrong with the form that was probably meant."""
    branches = fault.branches()
    forms = fault.wanted
    if all({*form} == {"required"} for form in forms):
        yield from _alternatives(fault, [n for form in forms for n in form["required"]] if fault.is_mapping else [])
    elif not branches:
        yield Problem("this can be read in more than one way", fault.place)
    else:
        yield from _closest(fault, branches)


def _alternatives(fault: _Fault, names: list[str]) -> Iterator[Problem]:
    given = [name for name in names if name in fault.found]
    if not names:
        return
    if given:
        where = max((fault.key(name) for name in given), key=lambda place: (place.line, place.column))
        yield Problem(f"{' and '.join(map(repr, given))} cannot both stand here", where, "keep one of them")
    elif not {*names} & _misspelt(fault):
        yield Problem(f"one of the fields {' or '.join(map(repr, names))} is missing", fault.place)


def _closest(fault: _Fault, branches: list[list[_Fault]]) -> Iterator[Problem]:
    fitting = [branch for branch in branches if not any(part.mistypes(fault) for part in branch)]
    if not fitting:
        whole = [part for branch in branches for part in branch if part.mistypes(fault)]
        words = [word for part in whole for word in part.forms]
        yield Problem(f"{_choices(dict.fromkeys(words))}, found {_described(fault)}", fault.place)
        return
    labels = [[part for part in branch if part.rule in _LABELS] for branch in fitting]
    if all(labels) and len({label[0].path for label in labels}) == 1:
        yield _not_among(labels[0][0], [v for label in labels for v in label[0].choices])
        return
    for part in min(fitting, key=lambda b: (sum(part.rule in _LABELS for part in b), len(b))):
        yield from _explained(part)


def suggest(word: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?`; a word as long as a page is nobody's slip of the pen, and costs too much to compare."""
    return registry.suggest(word, tuple(known)) if len(word) <= 100 else ""


def _choices(known: Iterable[str]) -> str:
    return f"expected {' or '.join(known)}" if known else "expected no field here"


def quoted(value: object) -> str:
    """A value as a message can quote it."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a mapping"
    text = repr(value) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:76]}...{text[-1]}"


_TYPES = {
    "string": "text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "null": "nothing",
    "array": "a list",
    "object": "a mapping",
}
_LABELS = frozenset({"const", "enum"})
_COLLECTIONS = {"Length": "text", "Items": "list", "Properties": "mapping"}
_LIMITS = {"minimum": ">=", "maximum": "<=", "exclusiveMinimum": ">", "exclusiveMaximum": "<"}
_EXPLAIN: dict[str, Callable[[_Fault], Iterator[Problem]]] = {
    "": _misplaced,
    "additionalProperties": _unknown_fields,
    "anyOf": _one_form,
    "const": _choice,
    "enum": _choice,
    "not": _misplaced,
    "oneOf": _one_form,
    "pattern": _pattern,
    "required": _missing_field,
    "type": _type,
    "uniqueItems": _twice,
    **dict.fromkeys(_LIMITS, _limit),
    **dict.fromkeys([bound + name for bound in ("min", "max") for name in _COLLECTIONS], _length),
}
