"""From YAML text to values that know where they stand, at a bounded cost.

The text is parsed by PyYAML into events and composed here, so that a hostile file is given up at the first sign
(depth, number of values, aliases that explode) and nothing of YAML 1.1 remains: plain values follow the YAML 1.2 core
schema, with decimal numbers only. `no` and `2026-11-22` are text, `1e-5` is a number; `017`, `0o17` and `1:30` are not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Protocol, cast

import yaml

from .errors import InputError, Location, Problem

MAX_NODES = 10_000
MAX_DEPTH = 64
MAX_DIGITS = 40
#: Text counts as one node more for every so many characters, so that aliases cannot multiply it unseen.
TEXT_PER_NODE = 1000
MAX_PROBLEMS = 20
MAX_EXCERPT = 200

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
NUMBER = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_LINE_END = re.compile("\r\n|[\r\n]")
# Control characters could redraw a terminal; characters that turn the direction of writing let a line read as another;
# editors and YAML 1.1 disagree on whether U+0085, U+2028 and U+2029 end a line.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]"
)
_FORBIDDEN = re.compile(f"\t|{_INVISIBLE.pattern}")


def compose(file: Path, text: str) -> Node:
    """The root of the one document in a text.

    Raises:
        InputError: A tab or an invisible character, not YAML, empty, more than one document, a duplicate key, a tag,
            NaN, infinity, too deep, too many values; with every place that is wrong.
    """
    lines = _LINE_END.split(text)
    found = (
        _forbidden(locate(file, lines, number, match.start()), match.group())
        for number, line in enumerate(lines)
        for match in islice(_FORBIDDEN.finditer(line), 1)
    )
    if problems := _first(found):
        raise InputError(problems)
    return _Composer(file, lines).root(text)


def _forbidden(where: Location, character: str) -> Problem:
    """A tab, or a character that nobody can see."""
    if character == "\t":
        return Problem("a tab", where, "use spaces (inside double quotes, write \\t)")
    return Problem(f"the invisible character U+{ord(character):04X}", where, "delete it")


def locate(file: Path, lines: list[str], line: int, column: int, width: int = 1) -> Location:
    """A place, from counts that start at 0; very long lines are not quoted."""
    text = lines[line] if line < len(lines) else ""
    width = max(1, min(width, len(text) - column))
    return Location(str(file), line + 1, column + 1, text if len(text) <= MAX_EXCERPT else "", width)


def in_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Problems in the order of the file, each once; where there are very many, the first of them."""
    return _first(dict.fromkeys(sorted(problems, key=_position)))


def _first(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """The first of them, and a word that there are more."""
    found = tuple(islice(problems, MAX_PROBLEMS + 1))
    if len(found) > MAX_PROBLEMS:
        return (*found[:MAX_PROBLEMS], Problem(f"there are more than these {MAX_PROBLEMS} problems; mend these first"))
    return found


@dataclass(frozen=True, slots=True)
class Key:
    """A mapping's key and where it stands."""

    name: str
    where: Location


@dataclass(frozen=True, slots=True)
class Node:
    """One composed value.

    Attributes:
        where: Where it starts.
        value: The plain value of a scalar; `None` for a collection.
        items: What a sequence holds.
        entries: What a mapping holds.
        size: Values and keys in it, aliases counted as often as they are used and long text by its length.
        height: Levels in it, 1 for a scalar.
    """

    where: Location
    value: object = None
    items: tuple[Node, ...] | None = None
    entries: tuple[tuple[Key, Node], ...] | None = None
    size: int = 1
    height: int = 1


@dataclass(slots=True)
class _Composer:
    """Composes events into nodes and collects what is wrong; gives up at once where going on could cost too much."""

    file: Path
    lines: list[str]
    problems: list[Problem] = field(default_factory=list)
    anchors: dict[str, Node | None] = field(default_factory=dict)
    nodes: int = 0

    def root(self, text: str) -> Node:
        """The document's root.

        Raises:
            InputError: Anything was wrong.
        """
        events = yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        root = None
        try:
            root = self._document(events)
        except yaml.YAMLError as error:
            self.problems.append(self._syntax(error))
        if self.problems:
            raise InputError(in_order(self.problems))
        if root is None or (root.items is None and root.entries is None and root.value is None):
            raise InputError.of(f"{self.file}: the file is empty", "nothing was asked for, so nothing could be shown")
        return root

    def _document(self, events: Iterator[yaml.Event]) -> Node | None:
        """The first document; a second one is a problem."""
        next(events)
        if isinstance(next(events), yaml.StreamEndEvent):
            return None
        root = self._node(events, next(events), 1)
        next(events)
        after = next(events)
        if not isinstance(after, yaml.StreamEndEvent):
            self._report("a second document starts here", self._at(after), "keep one document in a file")
        return root

    def _node(self, events: Iterator[yaml.Event], event: yaml.Event, depth: int) -> Node:
        """The value that starts with this event."""
        self.nodes += 1
        self._bound(event, self.nodes, depth)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, depth)
        event = cast("yaml.NodeEvent", event)
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        if getattr(event, "tag", None) is not None:
            hint = "write the value without it (text goes in quotes)"
            self._report(f"the tag {_tag(event)[:80]} is not understood here", self._at(event), hint)
        node = self._value(events, event, depth)
        self._bound(event, node.size, depth)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def _value(self, events: Iterator[yaml.Event], event: yaml.NodeEvent, depth: int) -> Node:
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(events, event, depth)
        return self._mapping(events, event, depth)

    def _scalar(self, event: yaml.ScalarEvent) -> Node:
        where, text = self._at(event), event.value
        if found := _INVISIBLE.search(text):
            self._report(f"the text holds the invisible character U+{ord(found.group()):04X}", where, "delete it")
        size = 1 + len(text) // TEXT_PER_NODE
        try:
            return Node(where, _plain(text) if event.implicit[0] else text, size=size)
        except ValueError as error:
            self._report(str(error), where, "write a finite decimal number")
            return Node(where, text, size=size)

    def _sequence(self, events: Iterator[yaml.Event], event: yaml.Event, depth: int) -> Node:
        items: list[Node] = []
        while not isinstance(after := next(events), yaml.SequenceEndEvent):
            items.append(self._node(events, after, depth + 1))
        size, height = _extent(items)
        return Node(self._at(event), items=tuple(items), size=size, height=height)

    def _mapping(self, events: Iterator[yaml.Event], event: yaml.Event, depth: int) -> Node:
        nodes: list[Node] = []
        entries: list[tuple[Key, Node]] = []
        seen: dict[str, Location] = {}
        while not isinstance(after := next(events), yaml.MappingEndEvent):
            name, child = self._node(events, after, depth + 1), self._node(events, next(events), depth + 1)
            nodes += [name, child]
            if key := self._key(name, seen):
                seen[key.name] = key.where
                entries.append((key, child))
        size, height = _extent(nodes)
        return Node(self._at(event), entries=tuple(entries), size=size, height=height)

    def _key(self, node: Node, seen: Mapping[str, Location]) -> Key | None:
        """The key, unless it is no text or stands there already."""
        if not isinstance(node.value, str):
            self._report("this field's name is not text", node.where, "put it in quotes")
        elif node.value in seen:
            before = f"it already stands in line {seen[node.value].line}; keep one of the two"
            self._report(f"the field {node.value[:80]!r} is given twice", node.where, before)
        elif node.value == "<<":
            self._report("merge keys (<<) are not part of YAML 1.2", node.where, "write the fields out")
        else:
            return Key(node.value, node.where)
        return None

    def _alias(self, event: yaml.AliasEvent, depth: int) -> Node:
        anchor = str(event.anchor)
        node = self.anchors.get(anchor)
        if node is None:
            inside = anchor in self.anchors
            message = f"the alias *{anchor} " + ("stands inside itself" if inside else "has no anchor before it")
            self._report(message, self._at(event), "write the value out")
            return Node(self._at(event))
        self._bound(event, node.size, depth + node.height - 1)
        return node

    def _bound(self, event: yaml.Event, size: int, depth: int) -> None:
        """Give up on what is too large or too deep."""
        if size > MAX_NODES:
            message = f"more than {MAX_NODES:,} values, aliases written out"
            self._give_up(Problem(message, self._at(event), "no file of this kind needs that many"))
        if depth > MAX_DEPTH:
            message = f"nested more than {MAX_DEPTH} levels deep"
            self._give_up(Problem(message, self._at(event), "no file of this kind needs that"))

    def _give_up(self, problem: Problem) -> None:
        raise InputError((*_first(self.problems), problem))

    def _report(self, message: str, where: Location, hint: str) -> None:
        self.problems.append(Problem(message, where, hint))

    def _at(self, event: yaml.Event) -> Location:
        """Where an event starts; scalars on one line are underlined as a whole."""
        start, end = cast("_Mark", event.start_mark), cast("_Mark", event.end_mark)
        width = end.column - start.column if isinstance(event, yaml.ScalarEvent) and end.line == start.line else 1
        return locate(self.file, self.lines, start.line, start.column, width)

    def _syntax(self, error: yaml.YAMLError) -> Problem:
        """A parser's error in the words of this house."""
        if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
            return Problem(f"{self.file}: not valid YAML: {error}", None, _CHECK)
        mark, context = cast("_Mark", error.problem_mark), cast("_Mark | None", error.context_mark)
        begun = f"{error.context} that starts in line {context.line + 1}: " if context else ""
        problem = error.problem or "it cannot be parsed"
        hint = next((h for words, h in _HINTS.items() if words in problem), _CHECK)
        where = locate(self.file, self.lines, mark.line, mark.column)
        return Problem(f"not valid YAML: {begun}{problem}", where, hint)


class _Mark(Protocol):
    """A place as the parser gives it, counted from 0."""

    line: int
    column: int


_CHECK = "check indentation, quotes and brackets"
_HINTS = {
    "mapping values are not allowed": "fields of one mapping start in the same column; text with ': ' goes in quotes",
    "cannot start any token": "put the value in quotes",
    "unexpected end of stream": "a quote is not closed",
    "could not find expected ':'": "a field is written as 'name: value'",
}


def _tag(event: yaml.Event) -> str:
    return str(getattr(event, "tag", "")).replace("tag:yaml.org,2002:", "!!")


def _extent(children: list[Node]) -> tuple[int, int]:
    """Size and height of a collection of these."""
    return 1 + sum(c.size for c in children), 1 + max((c.height for c in children), default=0)


def _position(problem: Problem) -> tuple[int, int]:
    """The order of the file."""
    return (problem.where.line, problem.where.column) if problem.where else (1 << 30, 0)


def _plain(text: str) -> object:
    """The value of an unquoted scalar by the YAML 1.2 core schema, decimal numbers only.

    Raises:
        ValueError: NaN, infinity, or a number of absurd length or size.
    """
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"{text} is not a number that anything could be held against")
    if not NUMBER.fullmatch(text):
        return text
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number of more than {MAX_DIGITS} characters")
    number = int(text) if _INT.fullmatch(text) else float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{text} is too large")
    return number
