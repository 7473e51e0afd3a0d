"""The chain: entries that each name the one before by its hash. Pure values; knows no database."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum

import rfc8785

from ..errors import InputError
from ..ledger import Ledger, parse_ledger

SCHEMA = "https://midguard.dev/schema/budget-entry-v1.json"
#: A planned ledger names no model: there is none yet.
NO_MODEL = "0" * 64

_SHA256 = re.compile(r"[0-9a-f]{64}")
_RESTORE = "restore the store from a copy whose head was written down; nothing that rests on it can be shown until then"


class BrokenChainError(InputError):
    """Entries of the store were edited, taken away, put in or moved; nothing that it says counts."""


class Kind(StrEnum):
    """What an entry says."""

    ADDED = "added"  # a release that was trained without this store
    RESERVED = "reserved"  # what a training is going to do at most; counts in full until it is settled
    SETTLED = "settled"  # what a training that was reserved for did


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the store.

    Attributes:
        sequence: Counted from 1, without gaps.
        kind: What it says.
        data: SHA-256 of the training records' content, as the ledger says.
        model: SHA-256 of the model's file, as the ledger says; zeros where there is none yet.
        dataset: Declared name of the data set; empty where nobody declared one.
        ledger: The ledger file's text.
        settles: Sequence number of the reservation that it takes the place of; 0 for none. A reservation may take the
            place of an earlier one.
        time: When it was written, UTC, `2026-11-22T01:02:03Z`, by the writer's clock.
        previous: Hash of the entry before; of the first one, the store's own mark.
        hash: SHA-256 over the canonical JSON (RFC 8785) of everything above.
    """

    sequence: int
    kind: Kind
    data: str
    model: str
    dataset: str
    ledger: str
    settles: int
    time: str
    previous: str
    hash: str

    def __post_init__(self) -> None:
        kinds = {"sequence": int, "settles": int, "kind": Kind}
        for field in fields(self):
            expected, found = kinds.get(field.name, str), getattr(self, field.name)
            if type(found) is not expected:
                raise TypeError(f"expected {field.name} to be {expected.__name__}, found {found!r}")

    @property
    def released(self) -> Ledger:
        """The ledger itself.

        Raises:
            BrokenChainError: It is none, or another one than the entry says.
        """
        try:
            found = parse_ledger(self.ledger.encode(), f"entry {self.sequence}")
        except InputError as error:
            raise BrokenChainError.of(str(error), "read the store with the version that wrote it") from error
        if (found.data, found.model) != (self.data, self.model):
            raise BrokenChainError.of(f"entry {self.sequence}: its ledger is that of other data or another model")
        return found

    @property
    def ledger_digest(self) -> str:
        """SHA-256 of the ledger's text."""
        return hashlib.sha256(self.ledger.encode()).hexdigest()


def sealed(
    sequence: int, kind: Kind, ledger: Ledger, dataset: str, settles: int, time: str, previous: str
) -> Entry:  # fmt: skip
    """An entry with its hash."""
    text = ledger.to_json()
    bare = Entry(sequence, kind, ledger.data, ledger.model, dataset, text, settles, time, previous, "")
    return Entry(**{**asdict(bare), "hash": content_hash(bare)})


def content_hash(entry: Entry) -> str:
    """SHA-256 over the canonical encoding of everything in an entry but its own hash."""
    content = {name: value for name, value in asdict(entry).items() if name != "hash"}
    return hashlib.sha256(rfc8785.dumps({"$schema": SCHEMA, **content, "kind": str(entry.kind)})).hexdigest()


@dataclass(frozen=True, slots=True)
class Head:
    """Where a chain ends. Written down elsewhere, it shows later that nothing up to there was taken away.

    Attributes:
        entries: How many there are.
        hash: Of the last one; of an empty store, its own mark.
    """

    entries: int
    hash: str


@dataclass(frozen=True, slots=True)
class Chain:
    """A whole store that holds together; no other can be made.

    Attributes:
        mark: 64 random hexadecimal digits of this store, which the first entry follows.
        head: What the store itself says of its end.
        entries: All of them, in order.
    """

    mark: str
    head: Head
    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        previous = self.mark
        for place, entry in enumerate(self.entries, start=1):
            _check_link(entry, place, previous)
            previous = entry.hash
        if self.head != Head(len(self.entries), previous):
            found = f"{len(self.entries)} entries, the last with hash {previous}"
            raise _broken(
                f"its head says {self.head.entries} entries, the last with hash {self.head.hash}; found {found}"
            )
        _check_settlements(self.entries)

    def holds(self, head: str) -> bool:
        """Whether this was its head once, or is. Args: the hash that was written down."""
        return head == self.mark or any(entry.hash == head for entry in self.entries)

    def refuse_without(self, head: str) -> None:
        """Refuse a store that has lost what it held before.

        Args:
            head: The hash that was written down.

        Raises:
            InputError: It is no hash.
            BrokenChainError: No entry has it.
        """
        if not _SHA256.fullmatch(head):
            raise InputError.of(f"expected a head of 64 hexadecimal digits, found {head!r}")
        if not self.holds(head):
            raise _broken(f"no entry has the hash {head} that was written down: the store was cut back or replaced")


def _check_link(entry: Entry, place: int, previous: str) -> None:
    """One entry is where it was put, as it was written."""
    if entry.sequence != place:
        raise _broken(f"expected entry {place}, found entry {entry.sequence}: one was taken away, put in or moved")
    if entry.previous != previous:
        raise _broken(f"entry {place} does not follow the one before it: one of the two was edited, or one was moved")
    if content_hash(entry) != entry.hash:
        raise _broken(f"entry {place} was edited: its content does not have its hash")


def _check_settlements(entries: Sequence[Entry]) -> None:
    """A reservation is settled once, later, on the same data; anything else would take cost away."""
    open_ones: dict[int, Entry] = {}
    for entry in entries:
        expected = {Kind.ADDED: (False,), Kind.SETTLED: (True,), Kind.RESERVED: (False, True)}[entry.kind]
        reserved = open_ones.pop(entry.settles, None)
        if (entry.settles != 0) not in expected:
            raise _broken(f"entry {entry.sequence} is {entry.kind} and settles {entry.settles}")
        if entry.settles and (reserved is None or reserved.data != entry.data):
            what = f"entry {entry.sequence} settles {entry.settles}"
            raise _broken(f"{what}, which is no open reservation on its data")
        if entry.kind is Kind.RESERVED:
            open_ones[entry.sequence] = entry


def _broken(what: str) -> InputError:
    return BrokenChainError.of(f"the budget store is broken: {what}", _RESTORE)
