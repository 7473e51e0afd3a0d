"""What every measure over a proved curve asks of an account first."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import NotMeasurable
from ...ledger import Account, Adjacency, Unit
from ...measurement import Basis, Measurement, Quantity

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...bounds import TradeOff
    from ...ledger import Claim, Ledger
    from ...observation import Observation

#: The accountants have to agree about the ledger at this δ before anything is read off its curve.
CHECKED_AT = 1e-5


@dataclass(frozen=True, slots=True)
class Terms:
    """On whose behalf, against whom and on whose word something is bounded; as a policy writes them.

    Attributes:
        unit: `record` or `person`.
        adjacency: `add-or-remove-one` or `replace-one`.
        basis: `proved` or `declared`.
    """

    unit: str
    adjacency: str
    basis: str

    def __post_init__(self) -> None:
        for name, word, known in (
            ("unit", self.unit, tuple(Unit)),
            ("adjacency", self.adjacency, tuple(Adjacency)),
            ("basis", self.basis, (Basis.PROVED, Basis.DECLARED)),
        ):
            if word not in known:
                raise ValueError(f"unknown {name} '{word}', expected {' or '.join(known)}")


def account_of(observation: Observation | Account) -> Account:
    """The observation, if it is an account.

    Raises:
        TypeError: It is of another kind.
    """
    if not isinstance(observation, Account):
        raise TypeError(f"expected an account, found {type(observation).__name__}")
    return observation


def ledger_of(account: Account, terms: Terms) -> Ledger:
    """The account's ledger, read for these terms.

    Raises:
        NotMeasurable: There is none that they accept, or it does not say how many records a person has.
    """
    ledger = account.ledger
    if ledger is None or (not ledger.proves and terms.basis == Basis.PROVED):
        raise NotMeasurable(missing(ledger, account.claim))
    if terms.unit == Unit.PERSON and not ledger.knows_persons:
        raise NotMeasurable(
            "the ledger counts single records and does not say how many of them are of one person: train on records "
            "that say whose they are (`person`), or ask for unit: record"
        )
    return dataclasses.replace(ledger, unit=Unit(terms.unit), adjacency=Adjacency(terms.adjacency))


def bounded(
    observation: Observation | Account, terms: Terms, nothing: float, value: Callable[[TradeOff], float]
) -> Measurement:
    """What the ledger's curve proves of every attack.

    The number is the bound itself; where the curve is only an upper one (the best of many runs), the interval reaches
    down to what no leak gives, so that a limit below the bound is not called violated.

    Args:
        observation: The account.
        terms: What is asked.
        nothing: The value of a model that gives nothing away.
        value: Reads the number off the curve.

    Raises:
        NotMeasurable: There is no ledger that the terms accept.
        AccountingError: An accountant failed, or they disagree about the ledger.
    """
    account = account_of(observation)
    return proof_of(ledger_of(account, terms), nothing, value)


def proof_of(ledger: Ledger, nothing: float, value: Callable[[TradeOff], float]) -> Measurement:
    """As `bounded`, of a ledger as it is."""
    from ...accountants import account as accounting
    from ...bounds import TradeOff

    epsilon = accounting(ledger, CHECKED_AT, curve=False).epsilon
    curve = TradeOff.of_ledger(ledger)
    found = float(value(curve))
    basis = Basis.PROVED if ledger.proves else Basis.DECLARED
    details = (Quantity(f"ε at δ = {CHECKED_AT:g}", epsilon),)
    return Measurement(found, found if curve.tight else min(nothing, found), found, 1.0, ledger.records, basis, details)


def missing(ledger: Ledger | None, claim: Claim | None) -> str:
    """Why nothing can be said, and what to do."""
    way = "train with `midguard train` and name its ledger in model.yaml (spec.ledger)"
    if ledger is not None:
        writer = f"'{ledger.written_by}'" if ledger.written_by else "nobody named"
        return f"the ledger was written by {writer}, not by midguard, and proves nothing: {way}"
    if claim is not None:
        return f"there is only a claim (ε = {claim.epsilon:g}), and this requirement asks for a proof: {way}"
    return f"there is no ledger of the training: {way}"
