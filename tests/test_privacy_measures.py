"""Measures of what a ledger proves: known numbers, what they refuse, and that nothing but a proof is one."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from midguard.engine import registry
from midguard.engine.errors import AccountingError, NotMeasurable
from midguard.engine.ledger import (
    ENGINE_SAMPLER,
    Account,
    Claim,
    Ledger,
    NonPrivate,
    Repetitions,
    SampledGaussian,
    Sampler,
    Tuned,
    Unit,
)
from midguard.engine.measure import Informed, Measure, Reads
from midguard.engine.measurement import Basis, Measurement
from midguard.engine.measures.privacy.advantage import Advantage
from midguard.engine.measures.privacy.attribute_advantage import AttributeAdvantage
from midguard.engine.measures.privacy.auc import Auc
from midguard.engine.measures.privacy.distributional import Distributional
from midguard.engine.measures.privacy.epsilon import Epsilon
from midguard.engine.measures.privacy.mu import Mu
from midguard.engine.measures.privacy.ppv import Ppv
from midguard.engine.measures.privacy.reconstruction import Reconstruction
from midguard.engine.measures.privacy.tpr import Tpr
from midguard.engine.policy import Direction
from midguard.engine.verdict import Status, compare

STANDARD = SampledGaussian(256 / 60_000, 1.1, 14_062, 1.0, Sampler.POISSON, ENGINE_SAMPLER)
#: One sum over all records: everything about it has a closed form. μ = 0.5.
PLAIN = SampledGaussian(1.0, 2.0, 1, 1.0)
MEASURES: tuple[Any, ...] = (
    Advantage(),
    Tpr(),
    Auc(),
    Ppv(prior=0.1),
    AttributeAdvantage(baseline=0.5),
    Mu(),
    Distributional(),
    Reconstruction(kappa=0.01),
)
NAMED = [type(measure).__name__ for measure in MEASURES]


def ledger(*events: Any, **changes: Any) -> Ledger:
    fields = {"records": 60_000, "data": "0" * 64, "model": "1" * 64, "written_by": "midguard 0.1.0"}
    return Ledger(events=events, **(fields | changes))  # type: ignore[arg-type]


def measured(measure: Any, *events: Any, **changes: Any) -> Measurement:
    found: Measurement = measure.measure(Account(ledger(*events, **changes), None), 0.0)
    return found


def test_every_measure_of_the_account_is_tried_here() -> None:
    found = {n for n in registry.names("measures") if registry.load("measures", n).reads is Reads.ACCOUNT}  # type: ignore[attr-defined]
    tried = {f"privacy.{type(m).__module__.rsplit('.', 1)[1]}" for m in MEASURES}
    assert found - tried == {"privacy.epsilon", "privacy.cumulative_epsilon"}  # these have tests of their own


@pytest.mark.parametrize(
    ("measure", "value"),
    [
        (Advantage(), 0.2245),
        (Tpr(fpr=1e-4), 0.00086),
        (Auc(), 0.657),
        (Ppv(prior=0.01, fpr=0.01), 0.039),
        (Reconstruction(kappa=0.01), 0.0402),
        (AttributeAdvantage(baseline=0.1), 0.2396 - 0.1),
        (Mu(), 0.594),
        (Distributional(over="record"), 0.2245),
        (Distributional(over="all"), 1.0),
    ],
)
def test_the_standard_training_has_its_published_numbers(measure: Any, value: float) -> None:
    found = measured(measure, STANDARD)
    assert found.value == found.high == pytest.approx(value, rel=5e-3)
    assert found.low == found.high
    assert (found.basis, found.confidence, found.records) == (Basis.PROVED, 1.0, 60_000)
    assert {q.name: q.value for q in found.details}["ε at δ = 1e-05"] == pytest.approx(2.3817, abs=1e-3)


@pytest.mark.parametrize(
    ("measure", "value"),
    [
        (Advantage(), 2 * norm.cdf(0.25) - 1),
        (Tpr(fpr=0.01), norm.cdf(norm.ppf(0.01) + 0.5)),
        (Auc(), norm.cdf(0.5 / math.sqrt(2))),
        (Mu(), 0.5),
        (Reconstruction(kappa=0.2), norm.cdf(norm.ppf(0.2) + 0.5)),
        (AttributeAdvantage(baseline=0.2), norm.cdf(norm.ppf(0.2) + 0.5) - 0.2),
        (Distributional(over="all"), 2 * norm.cdf(0.25 * 40) - 1),
    ],
)
def test_a_plain_mechanism_has_its_closed_form(measure: Any, value: float) -> None:
    assert measured(measure, PLAIN, records=40).value == pytest.approx(value, abs=1e-9)


def test_replacing_a_record_and_counting_persons_cost_more() -> None:
    plain = measured(Advantage(), PLAIN, largest_group=3).value
    assert measured(Advantage(adjacency="replace-one"), PLAIN).value == pytest.approx(2 * norm.cdf(0.5) - 1)
    person = measured(Advantage(unit="person"), PLAIN, largest_group=3)
    assert person.value == pytest.approx(2 * norm.cdf(0.75) - 1)
    assert plain == pytest.approx(2 * norm.cdf(0.25) - 1)
    both = measured(Advantage(unit="person", adjacency="replace-one"), PLAIN, unit=Unit.PERSON, largest_group=3)
    assert both.value == pytest.approx(2 * norm.cdf(1.5) - 1)


@pytest.mark.parametrize(
    "measure", [Advantage(unit="person"), Epsilon(1e-6, unit="person"), Distributional(over="person")]
)
def test_who_asks_for_persons_needs_a_ledger_that_counts_them(measure: Any) -> None:
    with pytest.raises(NotMeasurable, match="how many of them are of one person"):
        measured(measure, PLAIN)
    assert measured(measure, PLAIN, unit=Unit.PERSON).basis is Basis.PROVED


@pytest.mark.parametrize("measure", MEASURES, ids=NAMED)
def test_plain_training_is_violated_whatever_the_limit(measure: Any) -> None:
    found = measured(measure, STANDARD, NonPrivate("looked"))
    worst = measure.worst()
    assert found.low == found.value == worst or found.value == pytest.approx(0.1 / (0.1 + 0.9 * 0.01))
    limit = 1e9 if math.isinf(worst) else measure.no_leak() + 0.9 * (found.value - measure.no_leak())
    assert compare(found, Direction.MAX, limit) is Status.FAIL


@pytest.mark.parametrize("measure", MEASURES, ids=NAMED)
def test_nothing_but_midguards_own_ledger_is_a_proof(measure: Any) -> None:
    foreign = ledger(PLAIN, written_by="opacus 1.6")
    for account in (Account(None, None), Account(None, Claim(0.1, 1e-9)), Account(foreign, None)):
        with pytest.raises(NotMeasurable, match="midguard train"):
            measure.measure(account, 0.0)
    declared = dataclasses.replace(measure, basis="declared")
    assert declared.measure(Account(foreign, None), 0.0).basis is Basis.DECLARED
    assert declared.measure(Account(ledger(PLAIN), None), 0.0).basis is Basis.PROVED
    with pytest.raises(NotMeasurable, match=r"no ledger|only a claim"):
        declared.measure(Account(None, Claim(0.1, 1e-9)), 0.0)


@pytest.mark.parametrize("measure", MEASURES, ids=NAMED)
def test_a_ledger_on_which_the_accountants_disagree_proves_nothing(
    measure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from midguard.engine import accountants

    def disagree(*_: object, **__: object) -> Any:
        raise AccountingError("the accountants disagree")

    monkeypatch.setattr(accountants, "account", disagree)
    with pytest.raises(AccountingError, match="disagree"):
        measured(measure, PLAIN)


@pytest.mark.parametrize("measure", MEASURES, ids=NAMED)
def test_the_best_of_many_runs_is_not_called_violated(measure: Any) -> None:
    """Its curve is an upper one alone: beyond the limit it decides nothing."""
    step = SampledGaussian(0.05, 2.0, 20, 1.0, Sampler.POISSON, ENGINE_SAMPLER)
    tuned = Tuned(step, Repetitions.TRUNCATED_NEGATIVE_BINOMIAL, eta=0.0, gamma=0.2)
    found = measured(measure, tuned, records=5)
    assert found.low <= measure.no_leak() < found.high
    if math.isfinite(found.high):
        assert compare(found, Direction.MAX, (measure.no_leak() + found.high) / 2) is Status.INCONCLUSIVE
        assert compare(found, Direction.MAX, found.high) is Status.PASS


@pytest.mark.parametrize("measure", MEASURES, ids=NAMED)
def test_a_mechanism_that_gives_nothing_away_has_the_value_of_no_leak(measure: Any) -> None:
    """Noise a million times the clipping norm; bounded by what a limit may be."""
    found = measured(measure, SampledGaussian(1.0, 1e6, 1, 1.0), records=2)
    assert found.value == pytest.approx(measure.no_leak(), abs=1e-4)
    assert measure.no_leak() <= found.value < measure.worst()
    assert isinstance(measure, Measure)


def test_the_distributional_bound_says_where_it_says_nothing() -> None:
    found = measured(Distributional(), STANDARD, largest_group=4)
    said = {q.name: q.value for q in found.details}
    assert said["bound for one record"] == pytest.approx(0.2245, abs=1e-3)
    assert 0.2245 < said["bound for the 4 records of one person"] < 1
    assert said["bound for all 60000 records (vacuous)"] == 1.0
    assert measured(Distributional(over="person"), STANDARD, largest_group=4).value == pytest.approx(
        said["bound for the 4 records of one person"]
    )


# --- reconstruction by a distance ------------------------------------------------------------------------------------


def test_the_rate_of_guesses_is_estimated_from_the_auxiliary_records() -> None:
    """Records uniform on a line: within a squared error of 0.0025 a guess catches a tenth of them."""
    auxiliary = np.random.default_rng(2).random((4000, 1)).astype(np.float32)
    informed = Reconstruction(within=0.0025).with_auxiliary(auxiliary)
    assert informed.kappa is not None
    assert 0.1 < informed.kappa < 0.17
    nearer = Reconstruction(within=0.0001).with_auxiliary(auxiliary)
    assert nearer.kappa is not None
    assert nearer.kappa < informed.kappa
    found = measured(informed, STANDARD)
    assert informed.kappa < found.value < informed.kappa + 0.2245
    assert {q.name: q.value for q in found.details}["κ"] == informed.kappa


@pytest.mark.parametrize("auxiliary", [None, np.zeros((39, 2), np.float32)])
def test_without_auxiliary_records_no_rate_is_made_up(auxiliary: Any) -> None:
    with pytest.raises(NotMeasurable, match="auxiliary"):
        Reconstruction(within=0.1).with_auxiliary(auxiliary)
    for measure in (Reconstruction(within=0.1), Reconstruction()):
        with pytest.raises(NotMeasurable, match="kappa"):
            measured(measure, PLAIN)
    stated = Reconstruction(kappa=0.1)
    assert stated.with_auxiliary(auxiliary) == stated
    assert isinstance(stated, Informed)


# --- ε ---------------------------------------------------------------------------------------------------------------


def test_epsilon_says_what_it_counts() -> None:
    replaced = measured(Epsilon(1e-5, adjacency="replace-one"), STANDARD)
    assert replaced.value == pytest.approx(4.2215, abs=2e-3)
    shuffled = measured(Epsilon(1e-5), dataclasses.replace(STANDARD, sampler=Sampler.SHUFFLED))
    assert shuffled.value == pytest.approx(54.05, abs=0.01)
    said = {q.name: q.value for q in shuffled.details}
    assert said["passes over the records, none of them counted as sampled: nothing shows it"] == 60
    tuned = measured(Epsilon(1e-5), Tuned(STANDARD, Repetitions.POISSON, mean=3.0))
    assert {q.name: q.value for q in tuned.details}["expected number of runs of which the best was kept"] == 3.0
    assert tuned.low == 0.0
    person = measured(Epsilon(1e-6, unit="person"), PLAIN, largest_group=2)
    assert {q.name: q.value for q in person.details}["most records of one person"] == 2


def test_a_delta_that_protects_nobody_needs_the_policys_word() -> None:
    with pytest.raises(NotMeasurable, match="at random would satisfy"):
        measured(Epsilon(0.01), PLAIN, records=100)
    assert measured(Epsilon(0.01, delta_above_one_in_n=True), PLAIN, records=100).basis is Basis.PROVED


@pytest.mark.parametrize("terms", [{"unit": "person"}, {"adjacency": "replace-one"}])
def test_a_claim_says_nothing_of_other_neighbours(terms: dict[str, Any]) -> None:
    """A claim without a word on its neighbours is taken for that of one record added or removed."""
    found = Epsilon(1e-5, basis="declared", **terms).measure(Account(None, Claim(1.0, 1e-6)), 0.0)
    assert not found.finite


@pytest.mark.parametrize(
    ("measure", "wrong"),
    [
        (Advantage, {"unit": "user"}),
        (Advantage, {"adjacency": "swap"}),
        (Advantage, {"basis": "felt"}),
        (Tpr, {"fpr": 0.0}),
        (Tpr, {"fpr": 1.0}),
        (Ppv, {"prior": 0.0}),
        (Ppv, {"prior": 0.5, "fpr": math.nan}),
        (Mu, {"fpr": 0.5}),
        (AttributeAdvantage, {"baseline": 1.0}),
        (Reconstruction, {"kappa": 0.0}),
        (Reconstruction, {"kappa": 0.1, "within": 0.1}),
        (Reconstruction, {"within": -1.0}),
        (Distributional, {"over": "some"}),
        (Epsilon, {"delta": 1e-5, "adjacency": "swap"}),
    ],
)
def test_impossible_parameters_are_refused(measure: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected|unknown|not both"):
        measure(**wrong)
