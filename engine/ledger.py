"""The ledger: what training did to the data. Mechanisms, never conclusions; it knows no accountant."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from .errors import InputError

SCHEMA = "https://midguard.dev/schema/ledger-v1.json"
#: A ledger that midguard wrote says so by this and its version.
WRITER = "midguard "

_MAX_BYTES = 1 << 20
#: More events or steps than any training has would keep an accountant busy for ever.
_MAX_EVENTS, _MAX_STEPS = 1000, 10_000_000
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Adjacency(StrEnum):
    """Which data sets count as neighbours."""

    ADD_REMOVE = "add-or-remove-one"


class Unit(StrEnum):
    """Whose privacy is protected."""

    RECORD = "record"


@dataclass(frozen=True, slots=True)
class SampledGaussian:
    """`steps` noisy sums of clipped per-record gradients, each over a Poisson sample.

    Attributes:
        sampling_probability: Probability that a record enters a step, in (0, 1].
        noise_multiplier: Standard deviation of the noise over the clipping norm, > 0.
        steps: How many such sums were released, >= 1.
        clipping_norm: Bound on one record's contribution, > 0.
    """

    sampling_probability: float
    noise_multiplier: float
    steps: int
    clipping_norm: float

    def __post_init__(self) -> None:
        for name in ("sampling_probability", "noise_multiplier", "clipping_norm"):
            if not _is_number(getattr(self, name)) or not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"expected a number {name}={getattr(self, name)!r} > 0")
        if self.sampling_probability > 1:
            raise ValueError(f"expected sampling_probability={self.sampling_probability} <= 1")
        if not _is_count(self.steps) or self.steps > _MAX_STEPS:
            raise ValueError(f"expected a whole number 1 <= steps={self.steps!r} <= {_MAX_STEPS}")


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


Event = SampledGaussian | NonPrivate
_EVENTS: dict[str, type[SampledGaussian] | type[NonPrivate]] = {
    "sampled-gaussian": SampledGaussian,
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
    """

    events: tuple[Event, ...]
    records: int
    data: str
    model: str
    unit: Unit = Unit.RECORD
    adjacency: Adjacency = Adjacency.ADD_REMOVE
    written_by: str = ""

    def __post_init__(self) -> None:
        if not self.events:
            raise ValueError("a ledger without events proves nothing")
        if len(self.events) > _MAX_EVENTS:
            raise ValueError(f"{len(self.events)} events, expected at most {_MAX_EVENTS}")
        if not _is_count(self.records):
            raise ValueError(f"expected a whole number records={self.records!r} >= 1")
        if not isinstance(self.written_by, str):
            raise TypeError(f"expected a name in written_by, found {self.written_by!r}")

    @property
    def private(self) -> bool:
        """Whether every event is a mechanism."""
        return all(isinstance(event, SampledGaussian) for event in self.events)

    @property
    def proves(self) -> bool:
        """Whether midguard wrote it; any other ledger is somebody's claim, however detailed."""
        return self.written_by.startswith(WRITER)

    def to_json(self) -> str:
        """The ledger file's text."""
        kind = {cls: name for name, cls in _EVENTS.items()}
        document = asdict(self) | {
            "$schema": SCHEMA,
            "events": [{"kind": kind[type(event)], **asdict(event)} for event in self.events],
        }
        return json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n"


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
class Account:
    """What is known of a subject's privacy loss: its ledger, a claim, both or neither."""

    ledger: Ledger | None
    claim: Claim | None


def read_ledger(path: Path) -> Ledger:
    """Read a ledger file.

    Raises:
        InputError: Not a ledger, an unknown event, a missing, additional, repeated or impossible value.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        return _ledger(data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else str(error)
        message = f"{path}: not a ledger that midguard can read: {what}"
        raise InputError.of(message, "give the ledger.json that was written when the model was trained") from error


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
    return _EVENTS[kind](**fields)
