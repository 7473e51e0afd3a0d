"""Which entries count against one data set, and all of them as one ledger."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..errors import AccountingError
from ..ledger import Adjacency, Event, Ledger, SampledGaussian, Unit
from ._chain import Entry, Head, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ._chain import Chain

#: Steps of one event, well below the largest number that a ledger takes.
_MOST = 1_000_000


@dataclass(frozen=True, slots=True)
class Spending:
    """What was released on one data set.

    Attributes:
        data: SHA-256 of its records' content.
        head: Of the chain that was read.
        counted: The entries that count, in order; a reservation among them is of a training that has not ended.
    """

    data: str
    head: Head
    counted: tuple[Entry, ...]

    @property
    def ledgers(self) -> tuple[Ledger, ...]:
        """The ledgers that count.

        Raises:
            BrokenChainError: An entry holds no ledger that can be read.
        """
        return tuple(entry.released for entry in self.counted)


def spending(chain: Chain, data: str) -> Spending:
    """Everything in the chain that was released on one data set, or on one that was declared to belong to it.

    Args:
        chain: The store.
        data: SHA-256 of the records' content.
    """
    settled = {entry.settles for entry in chain.entries}
    together = _together(chain.entries, data)
    counted, known = [], {e.ledger_digest for e in chain.entries if e.kind is Kind.SETTLED}
    for entry in (e for e in chain.entries if e.data in together):
        if entry.kind is Kind.RESERVED and entry.sequence in settled:
            continue
        if entry.kind is Kind.ADDED and entry.ledger_digest in known:
            continue  # the same ledger of the same model is the same release; two trainings are never
        known.add(entry.ledger_digest)
        counted.append(entry)
    return Spending(data, chain.head, tuple(counted))


def _together(entries: Sequence[Entry], data: str) -> set[str]:
    """Digests of all data sets that were declared under one name with this one, directly or through others."""
    digests, found = {data}, 0
    while found < len(digests):
        found = len(digests)
        names = {entry.dataset for entry in entries if entry.dataset and entry.data in digests}
        digests |= {entry.data for entry in entries if entry.dataset in names}
    return digests


def composed(ledgers: Sequence[Ledger]) -> Ledger:
    """All releases as one ledger, whose cost is that of all of them together.

    It composes what each release did to one record (or one person), so that it holds whatever records the data sets
    have in common. Steps that are alike are counted as one event: the order of mechanisms does not matter. Where the
    ledgers differ in what neighbours are, all are counted for those that cost the most; all of them have to know whose
    the records are, or none does.

    Args:
        ledgers: At least one; what only the last one says (data, model) stays its own. It proves something if they
            all do.

    Raises:
        AccountingError: They have more different events than a ledger may have.
    """
    last, doubtful = ledgers[-1], [ledger for ledger in ledgers if not ledger.proves]
    persons = all(ledger.knows_persons for ledger in ledgers)
    replaced = any(ledger.adjacency is Adjacency.REPLACE for ledger in ledgers)
    try:
        return replace(
            last,
            events=_merged(event for ledger in ledgers for event in ledger.events),
            records=max(ledger.records for ledger in ledgers),
            largest_group=max(ledger.largest_group for ledger in ledgers) if persons else 1,
            unit=Unit.PERSON if persons else Unit.RECORD,
            adjacency=Adjacency.REPLACE if replaced else Adjacency.ADD_REMOVE,
            written_by=(doubtful or [last])[0].written_by,
        )
    except ValueError as error:
        raise AccountingError(f"the {len(ledgers)} releases cannot be accounted together: {error}") from error


def _merged(events: Iterable[Event]) -> tuple[Event, ...]:
    """Events of which those that are alike in everything but their number of steps are one, or a few."""
    steps: dict[SampledGaussian, int] = {}
    others: list[Event] = []
    for event in events:
        # Without amplification a run is accounted in whole passes, and half a pass twice is one pass: not to be merged.
        if isinstance(event, SampledGaussian) and event.amplified:
            alike = replace(event, steps=1)
            steps[alike] = steps.get(alike, 0) + event.steps
        else:
            others.append(event)
    merged = [replace(event, steps=part) for event, count in steps.items() for part in _parts(count)]
    return (*merged, *others)


def _parts(count: int) -> list[int]:
    """A number of steps in numbers that one event may have."""
    whole, rest = divmod(count, _MOST)
    return [_MOST] * whole + ([rest] if rest else [])
