"""The policy: what a model must be shown to guarantee, against whom, and how sure one must be.

A policy names measures and attacks by their plugin names and sets their parameters. The loader imports only what a
policy names; the JSON Schema, which is for editors, is generated from every plugin there is, out of the same parts.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

from . import parameters, registry
from .attack import Attack, profile_of
from .composer import MAX_PROBLEMS, in_order
from .document import Document, PathTo, quoted, read, suggest, violations
from .errors import InputError, Location, Problem
from .measure import Measure, Reads
from .target import Access, Exposure

API_VERSION = "midguard.dev/v1"
KIND = "PrivacyPolicy"
SCHEMA_ID = "https://midguard.dev/schema/policy-v1.json"
CONFIDENCE = 0.95
#: More would leave none of them a share of the error that records could decide.
MAX_REQUIREMENTS = 200
MAX_ATTACKS = 50

#: What an attack can be tried for; the other measures are read off the account or the predictions.
_ATTACKED = frozenset({Reads.MEMBERSHIP, Reads.INVERSION})
# `$` alone would let a line end follow.
_ID = r"^[a-z][a-z0-9-]{1,63}$(?!\n)"


class Severity(StrEnum):
    """How much a violated requirement matters to whoever wrote the policy."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


class Direction(StrEnum):
    """Which side a limit bounds."""

    MAX = "max"
    MIN = "min"


@dataclass(frozen=True, slots=True)
class AttackChoice:
    """An attack that a requirement names.

    Attributes:
        name: The plugin's name.
        attack: The plugin with the policy's parameters.
    """

    name: str
    attack: Attack


@dataclass(frozen=True, slots=True)
class Requirement:
    """One line of the policy: a measure, a limit, and how it is attacked.

    Attributes:
        id: Unique in the policy.
        title: For people.
        severity: How much it matters.
        measure_name: The measure's plugin name.
        measure: The measure with the parameters of `at`.
        direction: Whether `limit` bounds from above or from below.
        limit: The bound, finite.
        attacks: What to try; `None` for every attack of the kind that the adversary can mount.
        references: Law, standards, taxonomies.
        place: Where it stands in the policy.
    """

    id: str
    title: str
    severity: Severity
    measure_name: str
    measure: Measure
    direction: Direction
    limit: float
    attacks: tuple[AttackChoice, ...] | None
    references: tuple[str, ...]
    place: Location

    def __post_init__(self) -> None:
        if not math.isfinite(self.limit):
            raise ValueError(f"expected a finite limit, found {self.limit}")
        if (self.direction is Direction.MIN) is not self.measure.higher_is_safer:
            raise ValueError(f"{self.direction} bounds the wrong side of {self.measure_name}")
        if self.attacks == ():
            raise ValueError("an empty list of attacks would show nothing")


@dataclass(frozen=True, slots=True)
class Policy:
    """What a model must be shown to guarantee.

    Attributes:
        file: The file as the user named it.
        name: The policy's name.
        version: The policy's version.
        owner: Who answers for it.
        access: What the adversary holds.
        confidence: Of the whole policy, in (0.5, 1).
        requirements: At least one: an empty policy would be met by every model.
        sha256: Digest of the file's bytes.
        text: The whole file.
    """

    file: Path
    name: str
    version: str
    owner: str
    access: Access
    confidence: float
    requirements: tuple[Requirement, ...]
    sha256: str
    text: str

    def __post_init__(self) -> None:
        if not self.requirements:
            raise ValueError("a policy without requirements would be met by every model")
        if not 0.5 < self.confidence < 1:
            raise ValueError(f"expected 0.5 < confidence={self.confidence} < 1")


def ids_and_lines(policy: Policy) -> dict[str, int]:
    """The line in which each requirement starts."""
    return {requirement.id: requirement.place.line for requirement in policy.requirements}


def load_policy(path: Path) -> Policy:
    """Read a policy.

    Raises:
        InputError: The file cannot be read, or anything in it is wrong; with every problem that was found.
    """
    document = read(path)
    _same_kind(document)
    loader = _Loader(document, violations(document, _frame(_REQUIREMENT)))
    requirements = loader.requirements()
    metadata, spec = cast("dict[str, str]", document.value(("metadata",))), loader.spec
    return Policy(
        file=path,
        name=metadata["name"],
        version=metadata["version"],
        owner=metadata["owner"],
        access=Access(spec["adversary"]["access"]),
        confidence=float(spec.get("confidence", CONFIDENCE)),
        requirements=requirements,
        sha256=document.sha256,
        text=document.text,
    )


def _same_kind(document: Document) -> None:
    """Say so at once where the file is a midguard file of another kind: the rest would be noise.

    Raises:
        InputError: It is.
    """
    kind = document.root.get("kind", KIND) if isinstance(document.root, dict) else KIND
    if isinstance(kind, str) and kind != KIND and not suggest(kind, (KIND,)):
        place = document.place(("kind",))
        raise InputError.of(f"this file is a {quoted(kind)}, not a policy", f"expected kind: {KIND}", place)


@dataclass(slots=True)
class _Loader:
    """Turns a document into requirements and collects everything that is wrong with it."""

    document: Document
    problems: list[Problem]
    ids: dict[str, Location] = field(default_factory=dict)

    @property
    def spec(self) -> dict[str, Any]:
        """The policy's body, as far as there is one."""
        root = self.document.root
        spec = root.get("spec") if isinstance(root, dict) else None
        return spec if isinstance(spec, dict) else {}

    def requirements(self) -> tuple[Requirement, ...]:
        """Every requirement of the policy.

        Raises:
            InputError: Anything in the document is wrong.
        """
        entries = self.spec.get("requirements")
        found: list[Requirement | None] = []
        for position, entry in enumerate(entries if isinstance(entries, list) else ()):
            if isinstance(entry, dict) and len(self.problems) <= MAX_PROBLEMS:
                found.append(self._requirement(_Entry(self.document, ("spec", "requirements", position), entry)))
        if self.problems:
            raise InputError(in_order(self.problems))
        built = tuple(requirement for requirement in found if requirement)
        if len(built) != len(found):
            raise RuntimeError("a requirement was dropped without a problem")
        return built

    def _requirement(self, entry: _Entry) -> Requirement | None:
        """One requirement; every part is looked at, even where another one is wrong."""
        self._unique(entry)
        plugin = self._plugin("measures", entry.value.get("measure"), entry.place("measure"))
        if plugin is None:
            return None
        measure = self._measure(entry, plugin)
        direction = self._direction(entry, plugin)
        attacks = self._attacks(entry, plugin) if "attacks" in entry.value else None
        if measure and direction:
            self._reachable(entry, measure, direction)
        if measure is None or direction is None or self.problems:
            return None
        return Requirement(
            id=entry.value["id"],
            title=entry.value.get("title", _title(plugin)),
            severity=Severity(entry.value["severity"]),
            measure_name=entry.value["measure"],
            measure=measure,
            direction=direction,
            limit=float(entry.value[direction]),
            attacks=attacks,
            references=tuple(entry.value.get("references", ())),
            place=self.document.place(entry.path),
        )

    def _unique(self, entry: _Entry) -> None:
        name, where = entry.value.get("id"), entry.place("id")
        if isinstance(name, str) and name in self.ids:
            hint = f"it already stands in line {self.ids[name].line}"
            self.problems.append(Problem(f"the id {quoted(name)} is given twice", where, hint))
        elif isinstance(name, str):
            self.ids[name] = where

    def _plugin(self, kind: str, name: object, where: Location) -> type | None:
        """The class of that name; a value that is no name has been reported already."""
        if not isinstance(name, str):
            return None
        if name in registry.names(kind):
            return registry.load(kind, name)
        hint = suggest(name, registry.names(kind)) or f"`midguard list {kind}` names them all"
        self.problems.append(Problem(f"unknown {kind[:-1]} {quoted(name)}", where, hint))
        return None

    def _measure(self, entry: _Entry, plugin: type) -> Measure | None:
        """The measure with its parameters."""
        if "at" not in entry.value and (needed := parameters.needed(plugin)):
            self._needs(entry.value["measure"], needed, entry.place("measure"), f"add at: {_filled(needed)}")
            return None
        values, path = entry.value.get("at", {}), (*entry.path, "at")
        if not isinstance(values, dict):
            return None
        found = violations(self.document, parameters.mapping_schema(plugin), path) if "at" in entry.value else []
        return cast("Measure | None", self._instance(plugin, values, path, found))

    def _needs(self, name: str, needed: list[str], where: Location, hint: str) -> None:
        self.problems.append(Problem(f"{name} needs {' and '.join(map(repr, needed))}", where, hint))

    def _instance(
        self, plugin: type, values: Mapping[str, object], path: PathTo, found: list[Problem]
    ) -> object | None:
        """A plugin with these parameters, if the schema found nothing and the plugin itself accepts them."""
        self.problems += found
        if found:
            return None
        try:
            return parameters.build(plugin, values)
        except ValueError as error:
            named = [name for name in values if re.search(rf"\b{re.escape(name)}\b", str(error))]
            self.problems.append(Problem(str(error), self.document.place((*path, *named[:1]))))
            return None

    def _direction(self, entry: _Entry, plugin: type) -> Direction | None:
        """The side that the limit bounds, if it is the side of danger."""
        safe, wrong = Direction.MAX, Direction.MIN
        if cast("type[Measure]", plugin).higher_is_safer:
            safe, wrong = wrong, safe
        if wrong in entry.value and safe not in entry.value:
            side = "higher" if safe is Direction.MIN else "lower"
            message = f"'{wrong}' bounds the wrong side: {entry.value['measure']} is safer the {side} it is"
            where = self.document.keys[(*entry.path, wrong)]
            self.problems.append(Problem(message, where, f"write '{safe}'"))
        return safe if safe in entry.value else None

    def _reachable(self, entry: _Entry, measure: Measure, direction: Direction) -> None:
        """A limit that even a model which leaks nothing breaks asks too much, one that no model breaks asks nothing."""
        limit, nothing = entry.value[direction], measure.no_leak()
        if not isinstance(limit, int | float):
            return
        if limit < nothing if direction is Direction.MAX else limit > nothing:
            message = f"no model can meet this limit: one that leaks nothing has {entry.value['measure']} {nothing:g}"
            self.problems.append(Problem(message, entry.place(direction), "write a limit on the other side of it"))
        worst = measure.worst()
        if math.isfinite(worst) and (limit >= worst if direction is Direction.MAX else limit <= worst):
            message = f"no model can violate this limit: the worst {entry.value['measure']} is {worst:g}"
            self.problems.append(
                Problem(message, entry.place(direction), "a share is written from 0 to 1, not in percent")
            )

    def _attacks(self, entry: _Entry, plugin: type) -> tuple[AttackChoice, ...] | None:
        """The attacks that a requirement names."""
        measure = cast("type[Measure]", plugin)
        if measure.reads not in _ATTACKED:
            where = self.document.keys[(*entry.path, "attacks")]
            message = f"{entry.value['measure']} is not measured by attacks"
            self.problems.append(Problem(message, where, "take 'attacks' out"))
            return None
        listed = entry.value["attacks"]
        choices: list[AttackChoice] = []
        for position, value in enumerate(listed[:MAX_ATTACKS] if isinstance(listed, list) else ()):
            path = (*entry.path, "attacks", position)
            bare = not isinstance(value, dict)
            choice = self._attack(_Entry(self.document, path, {"name": value} if bare else value), bare)
            if choice is not None and self._judged(entry, measure, choice, path) and self._new(choice, choices, path):
                choices.append(choice)
        return tuple(choices)

    def _attack(self, entry: _Entry, bare: bool) -> AttackChoice | None:
        """One attack with its parameters."""
        name = entry.value.get("name")
        plugin = self._plugin("attacks", name, entry.place("name"))
        if plugin is None:
            return None
        if bare and (needed := parameters.needed(plugin)):
            self._needs(str(name), needed, entry.place("name"), f"write {_filled(['name', *needed])}")
            return None
        values = {key: value for key, value in entry.value.items() if key != "name"}
        found = [] if bare else violations(self.document, _attack_schema(str(name), plugin), entry.path)
        attack = self._instance(plugin, values, entry.path, found)
        return AttackChoice(str(name), cast("Attack", attack)) if attack is not None else None

    def _judged(self, entry: _Entry, measure: type[Measure], choice: AttackChoice, path: PathTo) -> bool:
        """Whether the measure can judge this attack."""
        if _fits(measure, choice.name, type(choice.attack)):
            return True
        where, goals = self.document.place((*path, "name")), " or ".join(sorted(measure.goals))
        message = f"{choice.name} is after {choice.attack.threat.goal}, {entry.value['measure']} judges {goals}"
        self.problems.append(Problem(message, where, "take it out"))
        return False

    def _new(self, choice: AttackChoice, before: list[AttackChoice], path: PathTo) -> bool:
        """Whether the same attack with the same parameters does not stand there yet."""
        if choice not in before:
            return True
        message = f"{choice.name} is given twice with the same parameters"
        self.problems.append(Problem(message, self.document.place((*path, "name")), "keep one of them"))
        return False


@dataclass(frozen=True, slots=True)
class _Entry:
    """A mapping in the document, as far as it is one."""

    document: Document
    path: PathTo
    value: dict[str, Any]

    def place(self, name: str) -> Location:
        return self.document.place((*self.path, name))


def _filled(names: list[str]) -> str:
    """How a mapping of these fields is written."""
    return f"{{{', '.join(f'{name}: ...' for name in names)}}}"


def _title(plugin: type) -> str:
    """What a measure says of itself, as a title."""
    return registry.summary(plugin).rstrip(".")


def _fits(measure: type[Measure], name: str, attack: type) -> bool:
    """Whether a measure can judge an attack: its kind is what the measure reads, and its goal is one it knows."""
    return name.split(".", maxsplit=1)[0] == measure.reads and cast("type[Attack]", attack).threat.goal in measure.goals


def _attack_schema(name: str, plugin: type) -> dict[str, object]:
    """The schema of one attack with parameters in a requirement."""
    described = {"title": name, "description": registry.summary(plugin)}
    return described | parameters.mapping_schema(plugin, {"name": {"const": name}})


# ---------------------------------------------------------------------------------------------------------------------
# The schema, as a whole.

_TEXT = {"type": "string", "minLength": 1, "maxLength": 200}
_NAMED = {"type": "object", "properties": {"name": _TEXT}, "required": ["name"]}
_REQUIREMENT: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["id", "severity", "measure"],
    "oneOf": [{"required": ["max"]}, {"required": ["min"]}],
    "properties": {
        "id": {
            "type": "string",
            "pattern": _ID,
            "patternErrorMessage": "expected 2 to 64 lower-case letters, digits and hyphens, a letter first",
            "description": "Unique in the policy; stands in every report.",
        },
        "title": _TEXT | {"description": "For people; left out: what the measure says of itself."},
        "severity": {"enum": [s.value for s in Severity], "description": "How much a violation matters."},
        "measure": {"type": "string", "description": "What is measured."},
        "at": {"type": "object", "description": "Parameters of the measure."},
        "max": {"type": "number", "description": "Limit from above, for measures that are safer the lower they are."},
        "min": {"type": "number", "description": "Limit from below, for measures that are safer the higher they are."},
        "attacks": {
            "type": "array",
            "minItems": 1,
            "maxItems": MAX_ATTACKS,
            "items": {"anyOf": [{"type": "string"}, _NAMED]},
            "description": "What to try; left out: every attack of the kind that the adversary can mount.",
        },
        "references": {
            "type": "array",
            "minItems": 1,
            "uniqueItems": True,
            "items": _TEXT,
            "description": "Law, standards, taxonomies.",
        },
    },
}


def _frame(requirement: Mapping[str, object]) -> dict[str, Any]:
    """The schema of a policy, around the schema of its requirements."""
    confidence = {"type": "number", "exclusiveMinimum": 0.5, "exclusiveMaximum": 1, "default": CONFIDENCE}
    return _mapping(
        {
            "apiVersion": {"const": API_VERSION, "description": "Version of the policy language."},
            "kind": {"const": KIND, "description": "What this file is."},
            "metadata": _mapping(
                {
                    "name": _TEXT | {"description": "The policy's name."},
                    "version": _TEXT | {"description": "The policy's version, in quotes."},
                    "owner": _TEXT | {"description": "Who answers for the policy."},
                },
            ),
            "spec": _mapping(
                {
                    "adversary": _mapping({"access": {"enum": [a.value for a in Access], "description": _ACCESS}}),
                    "confidence": confidence | {"description": "Of the whole policy, shared by its requirements."},
                    "requirements": {
                        "type": "array",
                        "minItems": 1,
                        "maxItems": MAX_REQUIREMENTS,
                        "items": requirement,
                    },
                },
                optional=("confidence",),
            ),
        },
    )


_NOTHING: dict[str, object] = {"not": {}}
_ACCESS = "weights: the adversary holds the model file; release: only what the deployed model answers."


def _mapping(properties: Mapping[str, object], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """The schema of a mapping with these fields and no others."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "additionalProperties": False, "properties": properties, "required": required}


def schema() -> dict[str, object]:
    """The JSON Schema (Draft 2020-12) of a policy, generated from every measure and attack there is."""
    measures = {name: registry.load("measures", name) for name in registry.names("measures")}
    attacks = {name: registry.load("attacks", name) for name in registry.names("attacks")}
    named = [{"const": name, "description": registry.summary(plugin)} for name, plugin in measures.items()]
    requirement = _REQUIREMENT | {
        "properties": _REQUIREMENT["properties"] | {"measure": {"type": "string", "oneOf": named}},
        "allOf": [_when(name, plugin, attacks) for name, plugin in measures.items()],
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": "midguard privacy policy",
        "description": "What a machine-learning model must be shown to guarantee before it may leave.",
        **_frame({"$ref": "#/$defs/requirement"}),
        "$defs": {
            "requirement": requirement,
            **{f"attack.{name}": _attack_schema(name, plugin) for name, plugin in attacks.items()},
        },
    }


def _when(name: str, plugin: type, attacks: Mapping[str, type]) -> dict[str, object]:
    """What else holds for a requirement on one measure."""
    measure, at = cast("type[Measure]", plugin), parameters.mapping_schema(plugin)
    safe, wrong = ("min", "max") if measure.higher_is_safer else ("max", "min")
    fitting = {a: attack for a, attack in attacks.items() if _fits(measure, a, attack)}
    then: dict[str, object] = {
        "properties": {
            "at": at | {"description": registry.summary(plugin)},
            wrong: _NOTHING,
            "attacks": {"uniqueItems": True, "items": _one_of(fitting)} if fitting else _NOTHING,
        },
        "required": [safe, *(["at"] if at["required"] else [])],
    }
    return {"if": {"properties": {"measure": {"const": name}}, "required": ["measure"]}, "then": then}


def _one_of(attacks: Mapping[str, type]) -> dict[str, object]:
    """The schema of one attack in a list: a name, or a mapping of its name and parameters."""
    bare = [name for name, plugin in attacks.items() if not parameters.needed(plugin)]
    return {"anyOf": [{"enum": bare}, *({"$ref": f"#/$defs/attack.{name}"} for name in attacks)]}


# ---------------------------------------------------------------------------------------------------------------------
# In plain words.


def explain(policy: Policy) -> str:
    """The policy in plain words, requirement by requirement."""
    number, risk = len(policy.requirements), f"{1 - policy.confidence:.2g}"
    lines = [
        f"Policy {policy.name} {policy.version}, of {policy.owner}",
        "",
        *_row("Adversary", _ADVERSARY[policy.access]),
        *_row("Confidence", _CONFIDENCE.format(policy.confidence, number, "" if number == 1 else "s", risk)),
        *_row("Verdict", "The model passes where every requirement was shown to hold."),
        *_row("", "What was not measured is never a pass."),
    ]
    return "\n".join([*lines, *(line for n, r in enumerate(policy.requirements, 1) for line in _told(n, r, policy))])


_CONFIDENCE = (
    "{0:g} of the policy as a whole, {1} requirement{2} together: the chance that a model which breaks one of them is "
    "passed, or one that keeps them all is failed, is at most {3}."
)
_ADVERSARY = {
    Access.WEIGHTS: "Holds the model file itself and computes with it whatever he likes.",
    Access.RELEASE: "Can only ask the deployed model and sees no more than what its release exposes.",
}


def _told(number: int, requirement: Requirement, policy: Policy) -> Iterator[str]:
    """One requirement in plain words."""
    measure, limit = requirement.measure, f"{requirement.limit:g}"
    most = requirement.direction is Direction.MAX
    inside, outside = ("at or below", "above") if most else ("at or above", "below")
    yield ""
    yield f"{number}. {requirement.title} [{requirement.id}, {requirement.severity}, line {requirement.place.line}]"
    yield from _row("Demands", f"{_named(requirement)} {'at most' if most else 'at least'} {limit}")
    if requirement.title != _title(type(measure)):
        yield from _row("In words", registry.summary(type(measure)))
    for name, words in parameters.described(type(measure)).items():
        yield from _row("", f"{name} = {_written(getattr(measure, name))}: {words}")
    yield from _row("Pass", f"the whole interval lies {inside} {limit}")
    yield from _row("Fail", f"the whole interval lies {outside} {limit}")
    yield from _row("Inconclusive", f"the interval reaches both sides of {limit}, or nothing was measured: no pass")
    for label, words in _tried(requirement, policy.access):
        yield from _row(label, words)
    yield from _row("Source", measure.source)
    if requirement.references:
        yield from _row("References", ", ".join(requirement.references))


def _row(label: str, words: str) -> list[str]:
    """A label and what belongs to it, within 110 columns."""
    return textwrap.wrap(words, 110, initial_indent=f"   {label:<17}", subsequent_indent=" " * 20)


def _named(requirement: Requirement) -> str:
    """The measure with the parameters that this policy sets."""
    names = [parameter.name for parameter in registry.parameters(type(requirement.measure))]
    settings = ", ".join(f"{name} {_written(getattr(requirement.measure, name))}" for name in names)
    return f"{requirement.measure_name} ({settings})" if settings else requirement.measure_name


def _written(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(parameters.plain(value))


_UNATTACKED = {
    Reads.ACCOUNT: "no attack: it is computed from what training did to the records",
    Reads.PREDICTIONS: "no attack: it is counted on records that the model never saw",
}


def _tried(requirement: Requirement, access: Access) -> Iterator[tuple[str, str]]:
    """Every attack that counts for a requirement: a label, and the attack with what it needs."""
    measure = requirement.measure
    if measure.reads in _UNATTACKED:
        yield "Tried", _UNATTACKED[measure.reads]
    elif requirement.attacks is not None:
        yield from (_chance(choice.name, type(choice.attack), access, named=True) for choice in requirement.attacks)
    else:
        names = [name for name in registry.names("attacks") if name.split(".", maxsplit=1)[0] == measure.reads]
        plugins = {name: registry.load("attacks", name) for name in names}
        fitting = {name: plugin for name, plugin in plugins.items() if _fits(type(measure), name, plugin)}
        yield from (_chance(name, plugin, access, named=False) for name, plugin in fitting.items())


def _chance(name: str, plugin: type, access: Access, named: bool) -> tuple[str, str]:
    """Whether this adversary can try an attack, as far as the policy alone can tell."""
    threat = cast("type[Attack]", plugin).threat
    if not named and profile_of(plugin) != "standard":
        return "Only if named", f"{name}: or under --profile {profile_of(plugin)}, since it is costly"
    if access is Access.WEIGHTS and (left := threat.left_to_others(Exposure.LOGITS)) and not named:
        return "Only if named", f"{name}: {left}"
    released = min(threat.watches or threat.exposures)
    if obstacle := threat.obstacle(access, min(threat.exposures), True, "", released, previous=True):
        return "Cannot be tried", f"{name}: {obstacle}"
    exposures = threat.exposures if named or threat.unasked is None else threat.unasked
    answered = threat.watches or (exposures if access is Access.RELEASE else frozenset())
    needs = [f"a release of {' or '.join(sorted(answered))}"] if answered else []
    needs += ["the model's previous version"] if threat.previous else []
    needs += ["auxiliary records"] if threat.auxiliary else []
    needs += ["the recipe of the training"] if threat.references else []
    given = f" (given {' and '.join(needs)})" if needs else ""
    return "Tried", f"{name}{given}: {registry.summary(plugin)}"
