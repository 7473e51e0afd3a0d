"""The evidence as typed values: what every rendering reads, and the only place where it is read.

Evidence that is incomplete or contradicts itself is refused: a rendering never says more than the findings do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..engine.errors import InputError
from ..engine.verdict import Status
from . import audit, circumstances
from .wording import COUNTED, WORDS, WORST_FIRST, exact, interval, number, plain, signed, target_words

_INVERSION = "inversion."
_CUMULATIVE = "privacy.cumulative_epsilon"
_PASSING = (Status.PASS, Status.WAIVED)


@dataclass(frozen=True, slots=True)
class _Bounds:
    """A value between the ends of its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Row:
    """One requirement and what became of it.

    Attributes:
        id: The requirement's id.
        title: Its title.
        measure: The measure's name.
        at: The measure's parameters, `fpr = 0.001`.
        severity: critical, high, medium or low.
        status: What became of it.
        value: Measured value; NaN where there is none, infinite where there is no bound.
        low: Lower end of the interval.
        high: Upper end of the interval.
        limit: The policy's limit.
        margin: What is left to the limit; negative where it is missed, NaN where nothing is known.
        direction: `max` or `min`.
        unit: Printed behind the value.
        basis: proved, attacked, observed or declared; empty where there was no measurement.
        by: The attack or accountant that decided it.
        goal: What that attack is after; empty where it is not told apart from others of its kind.
        line: Line of the requirement in the policy, from 1.
        reason: Why it came out so.
        remedy: What to do about it.
    """

    id: str
    title: str
    measure: str
    at: str
    severity: str
    status: Status
    value: float
    low: float
    high: float
    limit: float
    margin: float
    direction: str
    unit: str
    basis: str
    by: str
    goal: str
    line: int
    reason: str
    remedy: str

    @property
    def measured(self) -> str:
        """The value as it is printed."""
        shown = number(self.value, self.limit)
        return f"{shown} {self.unit}" if self.unit and not math.isnan(self.value) else shown

    @property
    def interval(self) -> str:
        """The interval as it is printed."""
        return interval(self.low, self.high, self.limit)

    @property
    def bound(self) -> str:
        """The limit as it is printed."""
        return f"{'<=' if self.direction == 'max' else '>='} {exact(self.limit)}"

    @property
    def left(self) -> str:
        """The margin as it is printed."""
        return signed(self.margin)

    @property
    def why(self) -> str:
        """One line: why it came out so and what to do."""
        remedy = self.remedy[:1].upper() + self.remedy[1:]
        return " ".join(f"{part.rstrip('.')}." for part in (self.reason, remedy) if part) or "No reason was recorded."

    @property
    def origin(self) -> str:
        """`attacked by membership.loss`; empty where there was no measurement."""
        return " ".join(part for part in (self.basis, f"by {self.by}" if self.by else "") if part)

    @property
    def figures(self) -> str:
        """The whole row in one line of text."""
        settings = f" at {self.at}" if self.at else ""
        head = f"{self.measure}{settings}: {self.measured} {self.interval}, limit {self.bound}, margin {self.left}"
        return f"{head}, {self.origin}" if self.origin else head


@dataclass(frozen=True, slots=True)
class Gap:
    """Attacks that tell nothing here, and why.

    Attributes:
        attack: The attack's name; several are separated by commas.
        reason: Why it did not run or does not count.
    """

    attack: str
    reason: str

    def __str__(self) -> str:
        return f"{self.attack} ({self.reason})" if self.reason else self.attack


@dataclass(frozen=True, slots=True)
class Named:
    """A file that the evidence is about.

    Attributes:
        name: What its document calls it.
        version: Likewise.
        file: The file.
        sha256: Digest of its bytes, lower-case hex.
    """

    name: str
    version: str
    file: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}".strip()


@dataclass(frozen=True, slots=True)
class Closest:
    """The target that an inversion attack came closest to.

    Attributes:
        attack: The attack.
        goal: What it is after.
        target: The class or the record's rank, in words.
        metric: How distance is measured.
        distance: The attack's.
        baseline: That of the best guess without the model.
    """

    attack: str
    goal: str
    target: str
    metric: str
    distance: float
    baseline: float

    def __str__(self) -> str:
        far = f"{self.metric} {number(self.distance)} against {number(self.baseline)} without the model"
        return f"closest target of {self.attack} ({self.goal}): {self.target}, {far}"


@dataclass(frozen=True, slots=True)
class Result:
    """One run of the gate.

    Attributes:
        verdict: The worst status of all requirements.
        exit_code: What `midguard check` ended in.
        confidence: Of the whole policy.
        seed: The run's seed.
        created: When, ISO 8601 in UTC.
        seconds: How long it took.
        version: Version of midguard.
        policy: The policy.
        subject: The model.
        architecture: What the model is, and its number of parameters; empty where unknown.
        adversary: What the adversary holds, in words.
        rows: One for each requirement, in the policy's order; never empty.
        not_tested: Attacks that did not run.
        blind: Attacks that ran, but did not find the leak that was planted for them.
        warnings: What weakens every membership attack of the run, a sentence each.
        audit: What the evidence tests said of the training, in one line; empty where none watched it.
        closest: The worst protected target of each inversion attack; none where the evidence is older.
        signed: Whether the evidence was signed.
    """

    verdict: str
    exit_code: int
    confidence: float
    seed: str
    created: str
    seconds: float
    version: str
    policy: Named
    subject: Named
    architecture: str
    adversary: str
    rows: tuple[Row, ...]
    not_tested: tuple[Gap, ...]
    blind: tuple[Gap, ...]
    warnings: tuple[str, ...]
    audit: str
    closest: tuple[Closest, ...]
    signed: bool

    def count(self, status: Status) -> int:
        """How many requirements came out so."""
        return sum(row.status is status for row in self.rows)

    @property
    def word(self) -> str:
        """The verdict as it is printed."""
        return WORDS[Status(self.verdict)].upper()

    @property
    def counts(self) -> str:
        """`6 requirements: 2 passed, 1 failed`; the worst first, none left out."""
        found = [(COUNTED[s], self.count(s)) for s in WORST_FIRST]
        noun = "requirement" if len(self.rows) == 1 else "requirements"
        return f"{len(self.rows)} {noun}: " + ", ".join(f"{n} {word}" for word, n in found if n)


def read(evidence: Mapping[str, object]) -> Result:
    """The evidence as typed values.

    Raises:
        InputError: Something is missing, of the wrong type or unknown, or the verdict says more than the findings do.
    """
    policy, subject = mapping(evidence, "policy"), mapping(evidence, "subject")
    findings, goals = entries(evidence, "findings"), _goals(evidence)
    result = Result(
        verdict=_status(evidence, "verdict"),
        exit_code=integer(evidence, "exitCode"),
        confidence=_float(evidence, "confidence"),
        seed=text(evidence, "seed"),
        created=text(evidence, "created"),
        seconds=_float(evidence, "seconds"),
        version=text(mapping(evidence, "midguard"), "version"),
        policy=_named(policy),
        subject=_named(subject),
        architecture=_architecture(subject),
        adversary=_adversary(mapping(evidence, "adversary")),
        rows=tuple(_row(finding, goals) for finding in findings),
        not_tested=_grouped(Gap(text(e, "attack"), text(e, "reason")) for e in entries(evidence, "notTested")),
        blind=_grouped(gap for finding in findings for gap in _blind(finding)),
        warnings=_warnings(evidence),
        audit=_audit(evidence),
        closest=_closest(evidence),
        signed=evidence.get("signed") is True,
    )
    _refuse_contradiction(result)
    _refuse_uncounted(result, evidence)
    return result


def _warnings(evidence: Mapping[str, object]) -> tuple[str, ...]:
    try:
        return circumstances.warnings(evidence)
    except (KeyError, TypeError) as error:
        raise InputError.of(f"evidence: references or shift cannot be read: {error}") from error


def _audit(evidence: Mapping[str, object]) -> str:
    try:
        return audit.line(evidence)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError.of(f"evidence: the audit cannot be read: {error}", "run `midguard check` again") from error


def _refuse_contradiction(result: Result) -> None:
    """A verdict must be borne out by its findings, whoever wrote the file."""
    if not result.rows:
        raise InputError.of("evidence: no findings, so nothing was shown", "run `midguard check` again")
    claimed = result.verdict == Status.PASS or result.exit_code == 0
    open_rows = [row.id for row in result.rows if row.status not in _PASSING]
    if claimed and open_rows:
        raise InputError.of(
            f"evidence: the verdict is a pass, but {', '.join(open_rows)} did not pass", "run `midguard check` again"
        )


def _refuse_uncounted(result: Result, evidence: Mapping[str, object]) -> None:
    """What all releases cost together is not known of a store that was not read, or that held none."""
    rows = [row for row in result.rows if row.measure == _CUMULATIVE and not math.isnan(row.value)]
    budget = evidence.get("budget")
    counted = entries(budget, "releases") if isinstance(budget, Mapping) else []
    if rows and not (counted and integer(mapping(evidence, "budget"), "entries") >= len(counted)):
        raise InputError.of(
            f"evidence: {rows[0].id} was measured, but no releases were counted", "run `midguard check` with --budget"
        )


def _goals(evidence: Mapping[str, object]) -> Mapping[str, str]:
    """What each inversion attack is after; attacks of other kinds are after what their name says."""
    attacks = entries(evidence, "attacks") if "attacks" in evidence else []
    named = [attack for attack in attacks if text(attack, "name").startswith(_INVERSION)]
    return {text(attack, "name"): text(mapping(attack, "threat"), "goal") for attack in named}


def _closest(evidence: Mapping[str, object]) -> tuple[Closest, ...]:
    """Of each inversion attack the first of the worst targets, which is the closest."""
    figures = mapping(evidence, "figures") if "figures" in evidence else {}
    drawn = entries(figures, "distances") if "distances" in figures else []
    worst = [(entry, entries(entry, "worst")) for entry in drawn if "worst" in entry]
    return tuple(_nearest(entry, named[0]) for entry, named in worst if named)


def _nearest(entry: Mapping[str, object], worst: Mapping[str, object]) -> Closest:
    goal = text(entry, "goal")
    return Closest(
        attack=text(entry, "attack"),
        goal=goal,
        target=target_words(goal, worst.get("target")),
        metric=text(entry, "metric"),
        distance=optional(worst, "distance"),
        baseline=optional(worst, "baseline"),
    )


def _row(finding: Mapping[str, object], goals: Mapping[str, str]) -> Row:
    bounds, direction = _bounds(finding), text(finding, "direction")
    if direction not in ("max", "min"):
        raise InputError.of(f"evidence: direction is {direction!r}, expected 'max' or 'min'")
    return Row(
        id=text(finding, "id"),
        title=text(finding, "title"),
        measure=text(finding, "measure"),
        at=parameters(mapping(finding, "at")),
        severity=text(finding, "severity"),
        status=Status(_status(finding, "status")),
        value=bounds.value,
        low=bounds.low,
        high=bounds.high,
        limit=_float(finding, "limit"),
        margin=optional(finding, "margin"),
        direction=direction,
        unit=text(finding, "unit"),
        basis=text(finding, "basis"),
        by=text(finding, "by"),
        goal=goals.get(text(finding, "by"), ""),
        line=max(1, integer(finding, "line")),
        reason=text(finding, "reason"),
        remedy=text(finding, "remedy"),
    )


def _bounds(finding: Mapping[str, object]) -> _Bounds:
    """Value and interval; JSON has no infinity, so `null` stands for one where the value says that there is one.

    A `null` value beside `unbounded` is infinite; beside a value, an end that is `null` has no bound.
    """
    found = _Bounds(*(optional(finding, key) for key in ("value", "low", "high")))
    unbounded = math.isnan(found.value) and finding.get("unbounded") is True
    if math.isnan(found.value) and not unbounded:
        return found
    low = found.low if not math.isnan(found.low) else math.inf if unbounded else -math.inf
    high = math.inf if math.isnan(found.high) else found.high
    return _Bounds(math.inf if unbounded else found.value, low, high)


def _blind(finding: Mapping[str, object]) -> list[Gap]:
    """The finding's attacks whose positive control ran and found nothing."""
    gaps = []
    for attack in entries(finding, "attacks"):
        controls = attack.get("controls")
        positive = controls.get("positive") if isinstance(controls, Mapping) else None
        if isinstance(positive, Mapping) and positive.get("ok") is not True:
            gaps.append(Gap(f"{text(attack, 'name')} in {text(finding, 'id')}", text(positive, "reason")))
    return gaps


def _grouped(gaps: Iterable[Gap]) -> tuple[Gap, ...]:
    """Gaps of the same reason as one."""
    attacks: dict[str, list[str]] = {}
    for gap in gaps:
        attacks.setdefault(gap.reason, []).append(gap.attack)
    return tuple(Gap(", ".join(names), reason) for reason, names in attacks.items())


def _named(entry: Mapping[str, object]) -> Named:
    return Named(text(entry, "name"), text(entry, "version"), text(entry, "file"), text(entry, "sha256"))


def _architecture(subject: Mapping[str, object]) -> str:
    size = subject.get("parameters")
    parts = (text(subject, "architecture"), f"{size} parameters" if isinstance(size, int) else "")
    return ", ".join(part for part in parts if part)


def _adversary(entry: Mapping[str, object]) -> str:
    return ": ".join(part for part in (text(entry, "access"), text(entry, "description")) if part)


def parameters(settings: Mapping[str, object]) -> str:
    """Settings in words: `fpr = 0.001, quantile = 0.05`."""
    return ", ".join(f"{plain(str(name))} = {_parameter(value)}" for name, value in settings.items())


def _parameter(value: object) -> str:
    return exact(value) if isinstance(value, float) else plain(str(value))


def _status(entry: Mapping[str, object], key: str) -> str:
    """A status that this version knows; anything else is refused."""
    word = text(entry, key)
    if word not in tuple(Status):
        raise InputError.of(f"evidence: {key} is {word!r}, expected one of {', '.join(Status)}")
    return word


def mapping(entry: Mapping[str, object], key: str) -> Mapping[str, object]:
    """A field's mapping.

    Raises:
        InputError: It is missing or something else.
    """
    value = entry.get(key)
    if not isinstance(value, Mapping):
        raise _unexpected(key, "a mapping", value)
    return value


def entries(entry: Mapping[str, object], key: str) -> list[Mapping[str, object]]:
    """A field's list of mappings.

    Raises:
        InputError: It is missing or something else.
    """
    value = entry.get(key)
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise _unexpected(key, "a list of mappings", value)
    return value


def text(entry: Mapping[str, object], key: str) -> str:
    """A field's text on one line; null is the empty text.

    Raises:
        InputError: It is something else.
    """
    value = entry.get(key)
    if value is not None and not isinstance(value, str):
        raise _unexpected(key, "text", value)
    return plain(value or "")


def _float(entry: Mapping[str, object], key: str) -> float:
    value = optional(entry, key)
    if math.isnan(value):
        raise _unexpected(key, "a number", entry.get(key))
    return value


def optional(entry: Mapping[str, object], key: str) -> float:
    """A field's number; null is NaN.

    Raises:
        InputError: It is something else.
    """
    value = entry.get(key)
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _unexpected(key, "a number or null", value)
    return float(value)


def integer(entry: Mapping[str, object], key: str) -> int:
    """A field's whole number.

    Raises:
        InputError: It is missing or something else.
    """
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _unexpected(key, "a whole number", value)
    return value


def _unexpected(key: str, expected: str, found: object) -> InputError:
    return InputError.of(f"evidence: expected {key} to be {expected}, found {type(found).__name__}")
