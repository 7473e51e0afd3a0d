"""Privacy loss of the training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from ...errors import NotMeasurable
from ...ledger import Adjacency, SampledGaussian, Tuned, Unit
from ...measure import Reads
from ...measurement import Basis, Measurement, Quantity, undetermined
from ...observation import Goal
from ...registry import names
from ._proof import Terms, account_of, ledger_of

if TYPE_CHECKING:
    from ...ledger import Account, AuditResult, Claim, Ledger
    from ...observation import Observation


@dataclass(frozen=True, slots=True)
class Epsilon:
    """How much one record, or one person's records, can change what training gives away: ε at this δ.

    Attributes:
        delta: Probability with which ε may be exceeded; below one over the number of records.
        unit: Whose privacy is counted; a person is all records of one person together.
        basis: `proved` from a ledger that midguard wrote; `declared` also accepts somebody's claim.
        adjacency: Which data sets count as neighbours.
        delta_above_one_in_n: Accept a δ that publishing one of the records at random would satisfy.
        evidence: `ledger`: what training wrote down is enough; `audited`: evidence tests must have watched it, each of
            which could have found a break, and none did.
    """

    reads: ClassVar[Reads] = Reads.ACCOUNT
    goals: ClassVar[frozenset[Goal]] = frozenset()
    higher_is_safer: ClassVar[bool] = False
    suffix: ClassVar[str] = ""
    source: ClassVar[str] = (
        "Doroshenko et al. 2022, arXiv 2207.04380 (of record); Gopi et al. 2021, arXiv 2106.02848, and Mironov et al. "
        "2019, arXiv 1908.10530 (which it has to agree with)"
    )

    delta: float
    unit: Literal["record", "person"] = "record"
    basis: Literal["proved", "declared"] = "proved"
    adjacency: Literal["add-or-remove-one", "replace-one"] = "add-or-remove-one"
    delta_above_one_in_n: bool = False
    evidence: Literal["ledger", "audited"] = "ledger"

    def __post_init__(self) -> None:
        if not 0 < self.delta < 1:
            raise ValueError(f"expected 0 < delta={self.delta} < 1")
        if self.evidence not in ("ledger", "audited"):
            raise ValueError(f"unknown evidence '{self.evidence}', expected ledger or audited")
        self._terms()

    def measure(self, observation: Observation | Account, alpha: float) -> Measurement:
        """The number of record, which the other accountants agree with; `alpha` is not spent, a proof holds always.

        The interval reaches down to where the smaller bound's stated error ends: only a limit below that is
        violated for sure. A ledger counts before a claim.

        Raises:
            NotMeasurable: There is no ledger (or claim) that this requirement accepts, or no audit that it asks for.
            AccountingError: An accountant failed, or they disagree.
        """
        account = account_of(observation)
        if self.evidence == "audited":
            _refuse_unaudited(account.audit)
        if account.ledger is None and account.claim is not None and self.basis == "declared":
            return self._claimed(account.claim)
        return self._accounted(ledger_of(account, self._terms()))

    def _terms(self) -> Terms:
        return Terms(self.unit, self.adjacency, self.basis)

    def _accounted(self, ledger: Ledger) -> Measurement:
        """What the accountants say of a ledger."""
        from ...accountants import account

        if self.delta * ledger.records >= 1 and not self.delta_above_one_in_n:
            raise NotMeasurable(
                f"δ = {self.delta:g} is not below 1/{ledger.records}: publishing one of the {ledger.records} records "
                f"at random would satisfy any ε; ask for delta: {0.01 / ledger.records:.1g} or less"
            )
        found = account(ledger, self.delta, curve=False)
        details = (
            *(Quantity(f"ε by {b.name}", b.epsilon) for b in found.bounds),
            Quantity("δ", self.delta),
            *_remarks(ledger),
        )
        basis = Basis.PROVED if ledger.proves else Basis.DECLARED
        return Measurement(found.epsilon, found.low, found.epsilon, 1.0, ledger.records, basis, details)

    def _claimed(self, claim: Claim) -> Measurement:
        """What somebody says of one record added or removed; a claim at a larger δ says nothing about this one."""
        meant = (self.unit, self.adjacency) == (Unit.RECORD, Adjacency.ADD_REMOVE)
        if claim.delta > self.delta or not math.isfinite(claim.epsilon) or not meant:
            return undetermined(1.0, 0, Basis.DECLARED)
        details = (Quantity("δ of the claim", claim.delta),)
        return Measurement(claim.epsilon, claim.epsilon, claim.epsilon, 1.0, 0, Basis.DECLARED, details)

    def no_leak(self) -> float:
        """0: nothing that training gives away depends on any one record."""
        return 0.0

    def worst(self) -> float:
        """Infinite: training without a mechanism has no bound."""
        return math.inf


def _refuse_unaudited(audit: AuditResult | None) -> None:
    """Refuse what no audit, or not every test of one, stands behind.

    Raises:
        NotMeasurable: There was no audit; a test of it is missing, was refuted or could have found nothing.
    """
    if audit is None:
        raise NotMeasurable("the training was not audited: train with `midguard train --audit`")
    held = {test.name for test in audit.tests if test.conclusive and not test.refuted}
    told = {test.name: "was refuted" if test.refuted else "was inconclusive" for test in audit.tests}
    open_tests = [name for name in {*names("audits"), *told} if name not in held]
    if open_tests:
        why = ", ".join(f"audit.{name} {told.get(name, 'did not run')}" for name in sorted(open_tests))
        raise NotMeasurable(f"the training's audit does not stand behind its ledger: {why}")


def _remarks(ledger: Ledger) -> tuple[Quantity, ...]:
    """What a reader has to know of how the number came about."""
    sums = [event for event in ledger.events if isinstance(event, SampledGaussian)]
    tuned = [event for event in ledger.events if isinstance(event, Tuned)]
    plain = [event for event in (*sums, *(event.event for event in tuned)) if not event.amplified]
    said = [Quantity("expected number of runs of which the best was kept", event.expected_runs) for event in tuned]
    if any(event.sampling_probability < 1 for event in plain):
        passes = sum(event.uses for event in plain)
        said.append(Quantity("passes over the records, none of them counted as sampled: nothing shows it", passes))
    if ledger.unit is Unit.PERSON:
        said.append(Quantity("most records of one person", ledger.largest_group))
    return tuple(said)
