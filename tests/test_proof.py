"""A requirement met by proof: only where the attacks alone decide nothing, and only by midguard's own ledger."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from midguard.attacks.membership.loss import Loss
from midguard.engine import check, run
from midguard.engine.architectures.mlp import Mlp
from midguard.engine.errors import Location
from midguard.engine.ledger import (
    ENGINE_SAMPLER,
    Account,
    Adjacency,
    AuditResult,
    Claim,
    EvidenceResult,
    Ledger,
    NonPrivate,
    SampledGaussian,
    Sampler,
    Unit,
)
from midguard.engine.measure import Provable
from midguard.engine.measurement import Basis, Measurement
from midguard.engine.measures.inversion.distance import Distance
from midguard.engine.measures.membership.advantage import Advantage
from midguard.engine.measures.membership.auc import Auc
from midguard.engine.measures.membership.tpr import Tpr
from midguard.engine.measures.privacy.epsilon import Epsilon
from midguard.engine.measures.privacy.reconstruction import Reconstruction
from midguard.engine.plan import Sizes, make_plan
from midguard.engine.policy import AttackChoice, Direction, Policy, Requirement, Severity
from midguard.engine.run import Bench
from midguard.engine.store import Store
from midguard.engine.subject import DataFile, ModelFile, Subject, SubjectRecords, Task
from midguard.engine.target import Access, Exposure, Records, Release
from midguard.engine.verdict import Finding, Status, judge_proved

QUIET = SampledGaussian(0.01, 2.0, 500, 1.0, Sampler.POISSON, ENGINE_SAMPLER)
OWN = Ledger((QUIET,), 30, "0" * 64, "1" * 64, written_by="midguard 0.1.0")


def requirement(limit: float = 0.2, measure: Any = None) -> Requirement:
    found = measure or Advantage()
    return Requirement(
        id="a", title="", severity=Severity.HIGH, measure_name=f"membership.{type(found).__name__.lower()}",
        measure=found, direction=Direction.MAX, limit=limit, attacks=(AttackChoice("membership.loss", Loss()),),
        references=(), place=Location("policy.yaml", 1, 1),
    )  # fmt: skip


def proved(high: float, basis: Basis = Basis.PROVED, low: float | None = None) -> Measurement:
    return Measurement(high, high if low is None else low, high, 1.0, 30, basis)


def finding(status: Status, limit: float = 0.2) -> Finding:
    attacked = Measurement(0.15, 0.05, 0.3, 0.95, 60, Basis.ATTACKED)
    return Finding(requirement(limit), status, attacked, "membership.loss", "not shown", "more records")


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.INCONCLUSIVE])
def test_a_proof_changes_nothing_but_what_the_attacks_leave_open(status: Status) -> None:
    """Above all no violation: what an attack shows to be broken is broken, whatever a ledger says."""
    assert judge_proved(finding(status), proved(0.01)) == finding(status)


def test_a_proof_within_the_limit_meets_it_and_says_so() -> None:
    met = judge_proved(finding(Status.INCONCLUSIVE), proved(0.2))
    assert (met.status, met.by) == (Status.PASS, "ledger")
    assert met.measurement == proved(0.2)
    assert "met by proof" in met.protection


@pytest.mark.parametrize(
    "weak",
    [None, proved(0.2000001), proved(0.01, Basis.DECLARED), proved(0.01, Basis.ATTACKED), proved(float("inf"))],
)
def test_nothing_weaker_meets_it(weak: Measurement | None) -> None:
    assert judge_proved(finding(Status.INCONCLUSIVE), weak) == finding(Status.INCONCLUSIVE)


@pytest.mark.parametrize("measure", [Advantage(), Tpr(fpr=0.01), Auc()], ids=["advantage", "tpr", "auc"])
def test_membership_is_provable(measure: Any) -> None:
    assert isinstance(measure, Provable)
    found = measure.proved(OWN)
    assert found.basis is Basis.PROVED
    assert measure.no_leak() < found.high < measure.worst()
    assert measure.proved(dataclasses.replace(OWN, written_by="me")).basis is Basis.DECLARED
    assert not isinstance(Distance(), Provable)


def bench(account: Account, tmp_path: Path, persons: bool = False, limit: float = 0.2) -> Bench:
    files = [DataFile(None, name, name * 64) for name in "123"]
    subject = Subject(
        Path("model.yaml"), "a", "1", "0" * 64, ModelFile(Path("model.pt"), "0" * 64, "state_dict", Mlp((4,)), None),
        Task("classification", 10, (1,), (0.0, 1.0)), *files, Release(Exposure.PROBABILITIES), None, account, "",
    )  # fmt: skip
    policy = Policy(Path("policy.yaml"), "a", "1", "", Access.RELEASE, 0.95, (requirement(limit),), "0" * 64, "")
    of = np.arange(30) // 3 if persons else None
    records = Records(np.zeros((30, 1), np.float32), np.arange(30) % 10, of)
    plan = make_plan(policy, subject, 1, Sizes(30, 30, 30))
    return Bench(subject, SubjectRecords(records, records, records), plan, Store(tmp_path))


def audit(refuted: bool) -> AuditResult:
    return AuditResult((EvidenceResult("noise_meter", refuted, True, 9.0, 1e-9, "less noise than the ledger says"),))


OF_PERSONS = dataclasses.replace(OWN, unit=Unit.PERSON, largest_group=3)


@pytest.mark.parametrize(
    ("account", "persons", "status"),
    [
        (Account(OWN, None), False, Status.PASS),
        (Account(OWN, None, audit=audit(refuted=False)), False, Status.PASS),
        (Account(OWN, None, audit=audit(refuted=True)), False, Status.INCONCLUSIVE),
        (Account(None, None), False, Status.INCONCLUSIVE),
        (Account(None, Claim(0.01, 1e-9)), False, Status.INCONCLUSIVE),
        (Account(dataclasses.replace(OWN, written_by="opacus 1.6"), None), False, Status.INCONCLUSIVE),
        (Account(dataclasses.replace(OWN, events=(QUIET, NonPrivate("looked"))), None), False, Status.INCONCLUSIVE),
        (Account(OWN, None), True, Status.INCONCLUSIVE),  # the ledger is of records, the attack told persons apart
        (Account(OF_PERSONS, None), True, Status.PASS),
        (Account(dataclasses.replace(OF_PERSONS, unit=Unit.RECORD), None), True, Status.PASS),
    ],
    ids=[
        "own",
        "audited",
        "refuted",
        "none",
        "claim",
        "declared",
        "not private",
        "records of persons",
        "persons",
        "persons known",
    ],
)
def test_only_a_ledger_of_midguards_own_counts(account: Account, persons: bool, status: Status, tmp_path: Path) -> None:
    at = bench(account, tmp_path, persons, limit=0.5)
    for _ in range(2):  # computed, then from the store
        assert check._proved_instead(at, finding(Status.INCONCLUSIVE, 0.5)).status is status


def test_an_accountant_that_fails_proves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Measurement:
        raise ArithmeticError("no number")

    monkeypatch.setattr(Advantage, "proved", broken)
    at = bench(Account(OWN, None), tmp_path)
    assert run.proof(at, at.plan.assignments[0].requirement) is None


# --- what needs the auxiliary records as well ------------------------------------------------------------------------


def test_a_reconstruction_bound_is_told_the_auxiliary_records(tmp_path: Path) -> None:
    at, wanted = bench(Account(OWN, None), tmp_path), requirement(measure=Reconstruction(within=0.01))
    assert "auxiliary" in run.account(at, wanted).missing  # 30 are too few
    spread = np.random.default_rng(0).random((500, 1)).astype(np.float32)
    known = Records(spread, np.zeros(500, np.int64))
    at.records = dataclasses.replace(at.records, auxiliary=known)
    found = run.account(at, wanted).measurement
    assert found is not None
    rate = next(quantity.value for quantity in found.details if quantity.name == "κ")
    assert 0.2 < rate < 0.5  # a fifth of them are within 0.1 of the best guess
    assert rate < found.value < 1
    assert run.account(at, wanted).measurement == found  # from the store
    other = dataclasses.replace(at.subject, auxiliary=DataFile(None, "other", "9" * 64))
    at.subject, at.records = other, dataclasses.replace(at.records, auxiliary=None)
    assert "auxiliary" in run.account(at, wanted).missing  # other records are never taken for these


def test_what_no_accountant_has_a_theory_for_leaves_the_report_without_a_figure_and_no_crash(tmp_path: Path) -> None:
    """Sampled records of one person that are replaced together, by the ledger's own word."""
    odd = dataclasses.replace(OF_PERSONS, adjacency=Adjacency.REPLACE)
    at = bench(Account(odd, None), tmp_path)
    asked = dataclasses.replace(at.plan.policy.requirements[0], measure=Epsilon(1e-5))
    at.plan = dataclasses.replace(at.plan, policy=dataclasses.replace(at.plan.policy, requirements=(asked,)))
    assert check._accounting(at) is None
    assert check._proved(at) is None
    assert run.proof(at, requirement()) is None
    assert run.account(at, asked).measurement is not None  # one record added or removed has a number
    refused = run.account(at, dataclasses.replace(asked, measure=Epsilon(1e-5, "person", adjacency="replace-one")))
    assert "add-or-remove-one" in refused.missing
