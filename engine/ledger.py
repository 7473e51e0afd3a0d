"""The ledger: what training did to the data. Mechanisms, never conclusions; it knows no accountant."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from .errors import InputError

SCHEMA = "https://midguard.dev/schema/ledger-v1.json"
#: A ledger that midguard wrote says so by this and its version.
WRITER = "midguard "
#: What shows the sampler of a training that midguard did itself.
ENGINE_SAMPLER = "drawn by midguard from the operating system"

_MAX_BYTES = 1 << 20
#: More events or steps than any training has would keep an accountant busy for ever.
_MAX_EVENTS, _MAX_STEPS = 1000, 10_000_000
#: Floating-point share by which steps times probability may lie above a whole number of passes.
_ROUNDING = 1e-12
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Adjacency(StrEnum):
    """Which data sets count as neighbours."""

    ADD_REMOVE = "add-or-remove-one"
    REPLACE = "replace-one"


class Unit(StrEnum):
    """Whose privacy is protected."""

    RECORD = "record"
    PERSON = "person"


class Sampler(StrEnum):
    """How the records of a step were chosen."""

    POISSON = "poisson"
    SHUFFLED = "shuffled"
    UNKNOWN = "unknown"


class Repetitions(StrEnum):
    """From which distribution the number of tuning runs was drawn."""

    TRUNCATED_NEGATIVE_BINOMIAL = "truncated-negative-binomial"
    POISSON = "poisson"


@dataclass(frozen=True, slots=True)
class SampledGaussian:
    """`steps` noisy sums of clipped per-record gradients, each over a sample of the records.

    Attributes:
        sampling_probability: Probability that a record enters a step, in (0, 1].
        noise_multiplier: Standard deviation of the noise over the clipping norm, > 0.
        steps: How many such sums were released, >= 1.
        clipping_norm: Bound on one record's contribution, > 0.
        sampler: How the records of a step were chosen.
        evidence: What shows that it was so; empty where nothing does.
        count_noise_multiplier: Adaptive clipping only: standard deviation of the noise on the count of unclipped
            records over that count's sensitivity of 1/2 (Andrew et al. 2021, arXiv 1905.03871, sec. 2.2).
    """

    sampling_probability: float
    noise_multiplier: float
    steps: int
    clipping_norm: float
    sampler: Sampler = Sampler.UNKNOWN
    evidence: str = ""
    count_noise_multiplier: float | None = None

    def __post_init__(self) -> None:
        for name in ("sampling_probability", "noise_multiplier", "clipping_norm"):
            _check_positive(name, getattr(self, name))
        if self.sampling_probability > 1:
            raise ValueError(f"expected sampling_probability={self.sampling_probability} <= 1")
        if not _is_count(self.steps) or self.steps > _MAX_STEPS:
            raise ValueError(f"expected a whole number 1 <= steps={self.steps!r} <= {_MAX_STEPS}")
        if self.count_noise_multiplier is not None:
            _check_positive("count_noise_multiplier", self.count_noise_multiplier)
        if not isinstance(self.sampler, Sampler):
            raise TypeError(f"expected a Sampler, found {self.sampler!r}")
        if not isinstance(self.evidence, str):
            raise TypeError(f"expected evidence in words, found {self.evidence!r}")

    @property
    def amplified(self) -> bool:
        """Whether sampling may be counted in its favour: Poisson samples, with something that shows it."""
        return self.sampler is Sampler.POISSON and bool(self.evidence.strip())

    @property
    def effective_noise_multiplier(self) -> float:
        """The noise of one Gaussian that costs as much as the sum and the count together: (σ⁻² + σ_count⁻²)^(-1/2)."""
        if self.count_noise_multiplier is None:
            return self.noise_multiplier
        return 1 / math.hypot(1 / self.noise_multiplier, 1 / self.count_noise_multiplier)

    @property
    def uses(self) -> int:
        """In how many steps one record takes part at most, if no pass over the records uses it twice."""
        return max(1, math.ceil(self.steps * self.sampling_probability * (1 - _ROUNDING)))


@dataclass(frozen=True, slots=True)
class Tuned:
    """A random number of runs that each cost at most `event`; only the best was released.

    The number was drawn and kept secret by whoever ran them, the candidates were fixed beforehand, and the best was
    chosen without private data beyond what each run's event says (Papernot & Steinke 2022, arXiv 2110.03620).

    Attributes:
        event: What one run did, at most.
        distribution: Of the number of runs.
        eta: Shape of the truncated negative binomial, >= 0: 1 is geometric, 0 logarithmic. `None` for Poisson.
        gamma: Its parameter, in (0, 1): the smaller, the more runs. `None` for Poisson.
        mean: Mean of the Poisson distribution, >= 1. `None` otherwise.
    """

    event: SampledGaussian
    distribution: Repetitions
    eta: float | None = None
    gamma: float | None = None
    mean: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.event, SampledGaussian):
            raise TypeError(f"expected a SampledGaussian as the event of one run, found {self.event!r}")
        if not isinstance(self.distribution, Repetitions):
            raise TypeError(f"expected Repetitions, found {self.distribution!r}")
        if self.distribution is Repetitions.POISSON:
            self._check_absent("eta", "gamma")
            if not _is_number(self.mean) or not 1 <= self.mean < math.inf:  # type: ignore[operator]
                raise ValueError(f"expected a number mean={self.mean!r} >= 1")
            return
        self._check_absent("mean")
        if not _is_number(self.eta) or not 0 <= self.eta < math.inf:  # type: ignore[operator]
            raise ValueError(f"expected a number eta={self.eta!r} >= 0")
        _check_positive("gamma", self.gamma)
        if not self.gamma < 1:  # type: ignore[operator]
            raise ValueError(f"expected gamma={self.gamma} < 1")

    def _check_absent(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) is not None:
                raise ValueError(f"{name}={getattr(self, name)!r} says nothing of a {self.distribution} number of runs")

    @property
    def expected_runs(self) -> float:
        """E[K] (same source, definition 1)."""
        if self.distribution is Repetitions.POISSON:
            return float(self.mean)  # type: ignore[arg-type]
        eta, gamma = float(self.eta), float(self.gamma)  # type: ignore[arg-type]
        if eta < _ROUNDING:
            return (1 / gamma - 1) / -math.log(gamma)
        return eta * (1 - gamma) / (gamma * -math.expm1(eta * math.log(gamma)))


@dataclass(frozen=True, slots=True)
class NonPrivate:
    """The data was used without any mechanism: its cost is infinite."""

    reason: str

    def __post_init__(self) -> None:
        if not isinstance(self.reason, str):
            raise TypeError(f"expected a reason in words, found {self.reason!r}")


def _is_number(value: object) -> bool:
    """Whether it is a number; `True` is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    """Whether it is a whole number of at least 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _check_positive(name: str, value: object) -> None:
    if not _is_number(value) or not 0 < value < math.inf:  # type: ignore[operator]
        raise ValueError(f"expected a number {name}={value!r} > 0")


Event = SampledGaussian | Tuned | NonPrivate
_EVENTS: dict[str, type[SampledGaussian] | type[Tuned] | type[NonPrivate]] = {
    "sampled-gaussian": SampledGaussian,
    "tuned": Tuned,
    "non-private": NonPrivate,
}


@dataclass(frozen=True, slots=True)
class Ledger:
    """Everything that touched the records.

    Attributes:
        events: In order, at least one: an empty ledger would prove that nothing happened.
        records: How many records were trained on.
        data: SHA-256 of the training records' content.
        model: SHA-256 of the model file that came out.
        unit: Whose privacy is counted.
        adjacency: Which data sets count as neighbours.
        written_by: `midguard <version>` where midguard trained; anything else is somebody's claim.
        largest_group: The most records of one person; counts where the unit is a person.
        resumed: How often the training was interrupted and went on; the events hold all of its steps.
    """

    events: tuple[Event, ...]
    records: int
    data: str
    model: str
    unit: Unit = Unit.RECORD
    adjacency: Adjacency = Adjacency.ADD_REMOVE
    written_by: str = ""
    largest_group: int = 1
    resumed: int = 0

    def __post_init__(self) -> None:
        if not self.events:
            raise ValueError("a ledger without events proves nothing")
        if len(self.events) > _MAX_EVENTS:
            raise ValueError(f"{len(self.events)} events, expected at most {_MAX_EVENTS}")
        if not _is_count(self.records):
            raise ValueError(f"expected a whole number records={self.records!r} >= 1")
        if not isinstance(self.written_by, str):
            raise TypeError(f"expected a name in written_by, found {self.written_by!r}")
        if not _is_count(self.largest_group) or self.largest_group > self.records:
            raise ValueError(f"expected a whole number 1 <= largest_group={self.largest_group!r} <= {self.records}")
        if not (_is_count(self.resumed) or (type(self.resumed) is int and self.resumed == 0)):
            raise ValueError(f"expected a whole number resumed={self.resumed!r} >= 0")

    @property
    def private(self) -> bool:
        """Whether every event is a mechanism."""
        return not any(isinstance(event, NonPrivate) for event in self.events)

    @property
    def knows_persons(self) -> bool:
        """Whether it says how many records a person has at most."""
        return self.unit is Unit.PERSON or self.largest_group > 1

    @property
    def proves(self) -> bool:
        """Whether midguard wrote it; any other ledger is somebody's claim, however detailed."""
        return self.written_by.startswith(WRITER)

    def to_json(self) -> str:
        """The ledger file's text."""
        document = asdict(self) | {"$schema": SCHEMA, "events": [_written(event) for event in self.events]}
        return json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n"


def _written(event: Event) -> dict[str, Any]:
    """One event as it stands in the file."""
    kind = next(name for name, cls in _EVENTS.items() if cls is type(event))
    inner = {"event": _written(event.event)} if isinstance(event, Tuned) else {}
    return {"kind": kind, **asdict(event), **inner}


@dataclass(frozen=True, slots=True)
class Claim:
    """What somebody says the training cost."""

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        if not self.epsilon >= 0:
            raise ValueError(f"expected epsilon={self.epsilon} >= 0")
        if not 0 <= self.delta < 1:
            raise ValueError(f"expected 0 <= delta={self.delta} < 1")


@dataclass(frozen=True, slots=True)
class AuditBound:
    """What canaries show of ε.

    Attributes:
        name: The method.
        epsilon: The smallest ε that they leave possible; or the ε that they look like.
        confidence: Of a bound; `None` for an estimate, which bounds nothing.
        guesses: On how many canaries it rests.
        right: How many of the guesses were right; `None` for a method that guesses nothing.
    """

    name: str
    epsilon: float
    confidence: float | None
    guesses: int
    right: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"expected a method's name, found {self.name!r}")
        if not _is_number(self.epsilon) or not 0 <= self.epsilon < math.inf:
            raise ValueError(f"expected a number epsilon={self.epsilon!r} >= 0")
        if self.confidence is not None and not (_is_number(self.confidence) and 0 < self.confidence < 1):
            raise ValueError(f"expected a number 0 < confidence={self.confidence!r} < 1")
        if not _is_count(self.guesses) or (self.right is not None and type(self.right) is not int):
            raise ValueError(f"expected whole numbers, found {self.right!r} of {self.guesses!r}")


@dataclass(frozen=True, slots=True)
class EvidenceResult:
    """What one evidence test says of a training.

    Attributes:
        name: The test.
        refuted: Whether what happened is not what the ledger or the claim says.
        conclusive: Whether it could have said so here; a test that could not shows nothing.
        statistic: What it looked at; NaN where there is none.
        p: Its p-value; NaN where there is none.
        detail: In words.
        bounds: What its canaries show of ε; empty where it has none.
        key: SHA-256 of the key that everything it kept secret was drawn from.
    """

    name: str
    refuted: bool
    conclusive: bool
    statistic: float
    p: float
    detail: str
    bounds: tuple[AuditBound, ...] = ()
    key: str = ""

    def __post_init__(self) -> None:
        for name, kind in (("name", str), ("refuted", bool), ("conclusive", bool), ("detail", str), ("key", str)):
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"expected {name} to be a {kind.__name__}, found {getattr(self, name)!r}")
        if (self.refuted or self.conclusive) and not 0 <= self.p <= 1:
            raise ValueError(f"{self.name} says something, but its p is {self.p!r}")


@dataclass(frozen=True, slots=True)
class Planted:
    """What an audit put into a training.

    Attributes:
        records: Canary records that could be trained on, each by a coin of its own.
        records_in: How many of them were.
        gradients: Canaries that could be added to the gradients, likewise.
        probes: Steps in which a probe stood in a record's place.
    """

    records: int = 0
    records_in: int = 0
    gradients: int = 0
    probes: int = 0

    def __post_init__(self) -> None:
        for name in ("records", "records_in", "gradients", "probes"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 0:
                raise ValueError(f"expected a whole number {name}={getattr(self, name)!r} >= 0")

    def __add__(self, other: Planted) -> Planted:
        return Planted(
            self.records + other.records,
            self.records_in + other.records_in,
            self.gradients + other.gradients,
            self.probes + other.probes,
        )


@dataclass(frozen=True, slots=True)
class AuditResult:
    """What the evidence tests of a training came to.

    Attributes:
        tests: At least one, each name once.
        planted: What they put into the training; the model carries it.
        delta: At which δ their bounds on ε are.
        level: The error that each test may spend.
    """

    tests: tuple[EvidenceResult, ...]
    planted: Planted = Planted()
    delta: float = 1e-5
    level: float = 1e-3

    def __post_init__(self) -> None:
        if not self.tests:
            raise ValueError("an audit without tests shows nothing")
        if len({test.name for test in self.tests}) < len(self.tests):
            raise ValueError(f"a test stands twice among {', '.join(test.name for test in self.tests)}")
        for name in ("delta", "level"):
            if not _is_number(getattr(self, name)) or not 0 < getattr(self, name) < 1:
                raise ValueError(f"expected a number 0 < {name}={getattr(self, name)!r} < 1")

    @property
    def refuted(self) -> tuple[EvidenceResult, ...]:
        """The tests that the training failed."""
        return tuple(test for test in self.tests if test.refuted)

    @property
    def inconclusive(self) -> tuple[EvidenceResult, ...]:
        """The tests that could have found nothing here."""
        return tuple(test for test in self.tests if not test.conclusive)


@dataclass(frozen=True, slots=True)
class Account:
    """What is known of a subject's privacy loss.

    Attributes:
        ledger: What training did, if anybody wrote it down.
        claim: What somebody says it cost.
        releases: Ledgers of every earlier release on the same records and of this one, from the budget of that data
            set; `None` where no budget was given.
        audit: What the evidence tests found; `None` where there were none.
    """

    ledger: Ledger | None
    claim: Claim | None
    releases: tuple[Ledger, ...] | None = None
    audit: AuditResult | None = None


def read_ledger(path: Path) -> Ledger:
    """Read a ledger file.

    Raises:
        InputError: Not a ledger, an unknown event, a missing, additional, repeated or impossible value.
    """
    hint = "give the ledger.json that was written when the model was trained"
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise InputError.of(f"{path}: not a ledger that midguard can read: {error}", hint) from error
    return parse_ledger(data, str(path), hint)


def parse_ledger(data: bytes, where: str, hint: str = "") -> Ledger:
    """A ledger from its file's bytes. Args: where they stand and what to do if they are none, for the message.

    Raises:
        InputError: Not a ledger, an unknown event, a missing, additional, repeated or impossible value.
    """
    try:
        return _ledger(data)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else str(error)
        raise InputError.of(f"{where}: not a ledger that midguard can read: {what}", hint) from error


def _ledger(data: bytes) -> Ledger:
    """A ledger from its file's bytes; every value is of the type that was written, nothing is converted."""
    if len(data) > _MAX_BYTES:
        raise ValueError("the file is larger than 1 MiB")
    document = json.loads(data.decode("utf-8"), object_pairs_hook=_distinct, parse_constant=_refuse_constant)
    if not isinstance(document, dict):
        raise TypeError(f"expected a mapping, found {type(document).__name__}")
    if document.pop("$schema") != SCHEMA:
        raise ValueError(f"expected $schema {SCHEMA}")
    for name in ("data", "model"):
        if not isinstance(document[name], str) or not _SHA256.fullmatch(document[name]):
            raise ValueError(f"expected 64 hexadecimal digits in {name}, found {document[name]!r}")
    events = tuple(_event(entry) for entry in document.pop("events"))
    unit, adjacency = Unit(document.pop("unit")), Adjacency(document.pop("adjacency"))
    return Ledger(events=events, unit=unit, adjacency=adjacency, **document)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping whose keys stand there once: of two, a reader could see the other."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"a name stands twice among {[name for name, _ in pairs]}")
    return found


def _refuse_constant(name: str) -> float:
    """NaN and infinities are no JSON and no measurement."""
    raise ValueError(f"{name} is not a number")


def _event(entry: dict[str, Any]) -> Event:
    """One event; unknown kinds are refused, never skipped."""
    fields = dict(entry)
    kind = fields.pop("kind")
    if kind not in _EVENTS:
        raise ValueError(f"unknown event {kind!r}, expected one of {', '.join(_EVENTS)}")
    for name, meaning in _MEANINGS[kind].items():
        if name in fields:
            fields[name] = meaning(fields[name])
    return _EVENTS[kind](**fields)


#: What a word in a file stands for; a word that stands for nothing is refused.
_MEANINGS: dict[str, dict[str, Callable[[Any], Any]]] = {
    "sampled-gaussian": {"sampler": Sampler},
    "tuned": {"distribution": Repetitions, "event": _event},
    "non-private": {},
}
