"""The ledger: what training did to the data. Mechanisms, never conclusions; it knows no accountant."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from .errors import InputError

SCHEMA = "https://midguard.dev/schema/ledger-v1.json"


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
        if not 0 < self.sampling_probability <= 1:
            raise ValueError(f"expected 0 < sampling_probability={self.sampling_probability} <= 1")
        if not 0 < self.noise_multiplier < float("inf"):
            raise ValueError(f"expected noise_multiplier={self.noise_multiplier} > 0")
        if self.steps < 1:
            raise ValueError(f"expected steps={self.steps} >= 1")
        if not 0 < self.clipping_norm < float("inf"):
            raise ValueError(f"expected clipping_norm={self.clipping_norm} > 0")


@dataclass(frozen=True, slots=True)
class NonPrivate:
    """The data was used without any mechanism: its cost is infinite."""

    reason: str


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
        if self.records < 1:
            raise ValueError(f"expected records={self.records} >= 1")

    @property
    def private(self) -> bool:
        """Whether every event is a mechanism."""
        return all(isinstance(event, SampledGaussian) for event in self.events)

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
        InputError: Not a ledger, an unknown event, a missing, additional or impossible value.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        document.pop("$schema", None)
        events = tuple(_event(entry) for entry in document.pop("events"))
        unit, adjacency = Unit(document.pop("unit")), Adjacency(document.pop("adjacency"))
        return Ledger(events=events, unit=unit, adjacency=adjacency, **document)
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError.of(f"{path}: not a ledger that midguard can read: {error}") from error


def _event(entry: dict[str, object]) -> Event:
    """One event; unknown kinds are refused, never skipped."""
    fields = dict(entry)
    kind = fields.pop("kind")
    if kind not in _EVENTS:
        raise ValueError(f"unknown event {kind!r}")
    return _EVENTS[str(kind)](**fields)  # type: ignore[arg-type]
