"""What a ledger proves of every attack: held against closed forms, published numbers and exact arithmetic."""

from __future__ import annotations

import math
from decimal import Decimal, getcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate
from scipy.stats import binom, norm

from midguard.engine import bounds
from midguard.engine.accountants import _losses
from midguard.engine.bounds import TradeOff, advantage_bound, distributional, guess_rate, tpr_bound
from midguard.engine.errors import AccountingError, NotMeasurable
from midguard.engine.ledger import (
    ENGINE_SAMPLER,
    Adjacency,
    Event,
    Ledger,
    NonPrivate,
    Repetitions,
    SampledGaussian,
    Sampler,
    Tuned,
    Unit,
)

FPR = np.array([1e-4, 1e-3, 1e-2, 5e-2, 1e-1])
RATES = np.array([0.0, 1e-9, 1e-6, 1e-4, 1e-2, 0.1, 0.5, 0.9, 1 - 1e-6, 1.0])


def sampled(q: float, noise: float, steps: int) -> SampledGaussian:
    return SampledGaussian(q, noise, steps, 1.0, Sampler.POISSON, ENGINE_SAMPLER)


#: 60 epochs over 60,000 records in Poisson batches of 256 at noise 1.1.
STANDARD = sampled(256 / 60_000, 1.1, 14_062)
#: A training whose curve is computed in a moment.
SMALL = sampled(0.05, 1.0, 50)


def ledger(*events: Event, **changes: Any) -> Ledger:
    return Ledger(events, 60_000, "0" * 64, "1" * 64, written_by="midguard 0.1.0", **changes)


# --- the whole curve of a sampled training ---------------------------------------------------------------------------


def test_the_standard_training_has_its_known_curve() -> None:
    """Published; a library that pairs separately rounded distributions says .00029 at the first of them."""
    found = tpr_bound(ledger(STANDARD), FPR)
    assert found == pytest.approx([0.00086, 0.00605, 0.0402, 0.142, 0.2396], rel=5e-3)
    assert advantage_bound(ledger(STANDARD)) == pytest.approx(0.2245, abs=1e-4)
    curve = TradeOff.of_ledger(ledger(STANDARD))
    assert curve.auc() == pytest.approx(0.657, abs=1e-3)
    assert curve.ppv(0.01, 0.01) == pytest.approx(0.039, abs=1e-3)
    assert curve.success(0.01) == pytest.approx(0.0402, abs=1e-4)
    assert curve.smallest_mu(1e-10) == pytest.approx(0.594, abs=2e-3)
    assert curve.delta(2.38169) == pytest.approx(1e-5, rel=2e-3)


def test_the_whole_curve_says_far_less_than_one_point_of_it() -> None:
    """(2.382, 1e-5) alone would allow an advantage of 0.831."""
    point = TradeOff.of_guarantee(2.382, 1e-5)
    assert point.advantage() == pytest.approx(0.8309, abs=1e-4)
    assert point.tpr(FPR) == pytest.approx([0.0011, 0.0108, 0.108, 0.541, 0.917], rel=1e-2)


def one_step(q: float, noise: float, group: int, epsilon: float, replaced: bool) -> float:
    """δ of one step by brute force: the larger integral of the two densities' difference."""
    shifts = np.arange(group + 1)
    weights = binom.pmf(shifts, group, q)
    x = np.linspace(-20 * noise - group, 20 * noise + group, 400_001)
    inside = (weights * norm.pdf(x[:, None], shifts, noise)).sum(axis=1)
    outside = (weights * norm.pdf(x[:, None], -shifts, noise)).sum(axis=1) if replaced else norm.pdf(x, 0, noise)
    pairs = ((inside, outside), (outside, inside))
    return max(float(np.trapezoid(np.maximum(0, p - math.exp(epsilon) * o), x)) for p, o in pairs)


@pytest.mark.parametrize(
    ("changes", "group", "replaced"),
    [
        ({}, 1, False),
        ({"adjacency": Adjacency.REPLACE}, 1, True),
        ({"unit": Unit.PERSON, "largest_group": 3}, 3, False),
    ],
    ids=["record", "replaced", "three of a person"],
)
def test_one_step_is_the_integral_of_its_densities(changes: dict[str, Any], group: int, replaced: bool) -> None:
    curve = TradeOff.of_ledger(ledger(sampled(0.2, 1.2, 1), **changes))
    for epsilon in (0.0, 0.1, 0.5):
        exact = one_step(0.2, 1.2, group, epsilon, replaced)
        assert exact - 1e-8 <= curve.delta(epsilon) <= exact + 2e-4
    assert curve.advantage() == pytest.approx(one_step(0.2, 1.2, group, 0.0, replaced), abs=1e-5)


def test_a_person_with_one_record_is_a_record() -> None:
    alone = TradeOff.of_ledger(ledger(SMALL, unit=Unit.PERSON, largest_group=1))
    assert alone == TradeOff.of_ledger(ledger(SMALL))
    assert TradeOff.of_ledger(ledger(SMALL, unit=Unit.RECORD, largest_group=9)) == alone


def test_a_sampled_mechanism_with_a_rate_of_nearly_one_is_the_gaussian() -> None:
    """Through the discretised distribution, held against the closed form that unsampled mechanisms take."""
    curve, exact = (TradeOff.of_ledger(ledger(sampled(q, 1.5, 4))) for q in (1 - 1e-9, 1.0))
    assert (curve.mu, exact.mu) == (None, pytest.approx(2 / 1.5))
    assert curve.tpr(FPR) == pytest.approx(exact.tpr(FPR), rel=1e-3)
    assert (curve.tpr(FPR) >= exact.tpr(FPR) - 1e-9).all()
    assert curve.advantage() == pytest.approx(exact.advantage(), abs=1e-4)
    assert curve.auc() == pytest.approx(exact.auc(), abs=1e-4)


def test_the_bound_lies_between_guessing_and_one_and_rises() -> None:
    rates = np.linspace(0, 1, 101)
    found = tpr_bound(ledger(SMALL), rates)
    assert found is not None
    assert (found >= rates - 1e-12).all()
    assert (found <= 1).all()
    assert (np.diff(found) >= 0).all()
    assert (np.diff(found, 2) <= 1e-9).all(), "not concave"


def test_without_evidence_of_its_sampler_a_training_proves_less() -> None:
    """50 steps at 5 %: three passes, each a plain Gaussian mechanism."""
    bare = SampledGaussian(0.05, 1.0, 50, 1.0, Sampler.POISSON)
    assert TradeOff.of_ledger(ledger(bare)).mu == pytest.approx(math.sqrt(3))


def test_what_happened_without_a_mechanism_proves_nothing() -> None:
    spoiled = ledger(SMALL, NonPrivate("the learning rate was chosen on these records"))
    assert tpr_bound(spoiled, FPR) is None
    assert advantage_bound(spoiled) is None
    curve = TradeOff.of_ledger(spoiled)
    assert (curve.at(0.0), curve.at(0.5), curve.advantage(), curve.auc(), curve.ppv(0.1, 0.1)) == pytest.approx(
        (1.0, 1.0, 1.0, 1.0, 0.1 / (0.1 + 0.09))
    )
    assert (curve.delta(100.0), curve.success(0.1), curve.smallest_mu(1e-9)) == (1.0, 1.0, math.inf)


def test_the_best_of_many_runs_is_bounded_from_above_alone() -> None:
    once = TradeOff.of_ledger(ledger(SMALL))
    best = TradeOff.of_ledger(ledger(Tuned(SMALL, Repetitions.TRUNCATED_NEGATIVE_BINOMIAL, eta=1.0, gamma=0.1)))
    assert once.tight
    assert not best.tight
    assert (best.tpr(FPR) > once.tpr(FPR)).all()
    assert once.advantage() < best.advantage() <= 1


@pytest.mark.parametrize("broken", [math.nan, -0.1, 1.1])
def test_a_computation_that_breaks_is_no_bound(monkeypatch: pytest.MonkeyPatch, broken: float) -> None:
    class Losses:
        def get_epsilon_for_delta(self, delta: float) -> float:
            return 3.0

        def get_delta_for_epsilon(self, epsilon: float) -> float:
            return broken

    monkeypatch.setattr(bounds, "distribution", lambda *_: Losses())
    bounds._of_ledger.cache_clear()
    with pytest.raises(AccountingError, match="no trade-off curve"):
        tpr_bound(ledger(sampled(0.5, 3.0, 2)), FPR)
    bounds._of_ledger.cache_clear()


def test_a_rising_curve_is_no_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "_computed", lambda _: TradeOff(None, (0.0, 1.0), (0.1, 0.2)))
    bounds._of_ledger.cache_clear()
    with pytest.raises(AccountingError, match="falling"):
        TradeOff.of_ledger(ledger(sampled(0.5, 3.0, 2)))
    bounds._of_ledger.cache_clear()


def test_sampled_records_of_a_person_are_not_replaced() -> None:
    both = ledger(SMALL, unit=Unit.PERSON, largest_group=2, adjacency=Adjacency.REPLACE)
    with pytest.raises(NotMeasurable, match="add-or-remove-one"):
        TradeOff.of_ledger(both)
    assert _losses.distribution.cache_info().maxsize == 8


# --- closed forms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mu", [1e-9, 0.1, 1.0, 4.0])
def test_a_gaussian_mechanism_has_its_closed_form(mu: float) -> None:
    """Dong et al. 2019, eq. 6 and corollary 2.13; the area by numerical integration."""
    curve = TradeOff.of_ledger(ledger(SampledGaussian(1.0, 1 / mu, 1, 1.0)))
    assert curve.mu == pytest.approx(mu, rel=1e-12)
    assert curve.tpr(RATES) == pytest.approx(norm.cdf(norm.ppf(RATES) + mu), abs=1e-9)
    assert curve.advantage() == pytest.approx(2 * norm.cdf(mu / 2) - 1, abs=1e-9)
    area = integrate.quad(lambda x: norm.cdf(x + mu) * norm.pdf(x), -12, 12, epsabs=1e-12)[0]
    assert curve.auc() == pytest.approx(area, abs=1e-9)
    for epsilon in (0.0, 0.3, 2.0):
        exact = norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)
        assert curve.delta(epsilon) == pytest.approx(exact, abs=1e-9)
    assert curve.group(3).mu == pytest.approx(3 * mu)
    assert curve.distributional(5) == pytest.approx(2 * norm.cdf(2.5 * mu) - 1, abs=1e-9)


def test_plain_mechanisms_compose_in_closed_form() -> None:
    parts = [SampledGaussian(1.0, 6.0, 4, 1.0), SampledGaussian(1.0, 3.0, 5, 1.0)]
    assert TradeOff.of_ledger(ledger(*parts)).mu == pytest.approx(math.sqrt(4 / 36 + 5 / 9), rel=1e-12)
    assert TradeOff.of_ledger(ledger(*parts, adjacency=Adjacency.REPLACE)).mu == pytest.approx(
        2 * math.sqrt(4 / 36 + 5 / 9), rel=1e-12
    )
    of_three = ledger(*parts, unit=Unit.PERSON, largest_group=3)
    assert TradeOff.of_ledger(of_three).mu == pytest.approx(3 * math.sqrt(4 / 36 + 5 / 9), rel=1e-12)


@pytest.mark.parametrize("delta", [0.0, 1e-12, 1e-5, 0.3])
@pytest.mark.parametrize("epsilon", [0.0, 1e-12, 1e-3, 0.7, 3.0, 50.0])
def test_one_guarantee_has_its_closed_form(epsilon: float, delta: float) -> None:
    """Dong et al. 2019, eq. 3; advantage: Humphries et al. 2020, arXiv 2010.12112 (tight form)."""
    curve, e = TradeOff.of_guarantee(epsilon, delta), math.exp(epsilon)
    exact = np.minimum(1, np.minimum(delta + e * RATES, 1 - (1 - delta - RATES) / e))
    assert curve.tpr(RATES) == pytest.approx(exact, abs=1e-9)
    assert curve.advantage() == pytest.approx((math.expm1(epsilon) + 2 * delta) / (e + 1), abs=1e-9)
    assert curve.delta(epsilon) == pytest.approx(delta, abs=1e-9)
    # Two triangles and two strips: the area under two lines, their corner at FPR (1-δ)/(e^ε+1).
    corner = (1 - delta) / (e + 1)
    below = corner * (delta + 1 - corner) / 2 + (1 - delta - corner) * (2 - corner) / 2 + delta
    assert curve.auc() == pytest.approx(below, abs=1e-9)


def test_randomised_response_reaches_its_bound() -> None:
    """A mechanism that answers truly with probability e^ε/(1+e^ε): its one interesting test lies on the corner."""
    epsilon = 1.3
    truth = math.exp(epsilon) / (1 + math.exp(epsilon))
    assert TradeOff.of_guarantee(epsilon, 0.0).at(1 - truth) == pytest.approx(truth, abs=1e-12)


def test_every_point_of_a_curve_counts() -> None:
    """The curve of several guarantees is the lowest of theirs; one that says nothing new changes nothing."""
    points = ((0.5, 0.1), (1.0, 0.03), (1.1, 0.0299), (2.0, 0.001))
    together = TradeOff(None, *(tuple(values) for values in zip(*points, strict=True)))
    rates = np.linspace(0, 1, 2001)
    lowest = np.min([TradeOff.of_guarantee(*point).tpr(rates) for point in points], axis=0)
    assert together.tpr(rates) == pytest.approx(lowest, abs=1e-12)
    assert together.auc() == pytest.approx(np.trapezoid(lowest, rates), abs=1e-6)
    assert together.advantage() == pytest.approx((lowest - rates).max(), abs=1e-3)


def test_precision_is_bayes_rule() -> None:
    curve = TradeOff.of_guarantee(1.0, 0.0)
    assert curve.ppv(0.01, 0.2) == pytest.approx(0.2 * math.e * 0.01 / (0.2 * math.e * 0.01 + 0.8 * 0.01))
    assert TradeOff(mu=0.0).ppv(0.01, 0.2) == pytest.approx(0.2)
    assert curve.ppv(0.0, 0.2) == 1.0


def test_a_guess_gains_no_more_than_the_advantage() -> None:
    curve = TradeOff.of_ledger(ledger(SMALL))
    for baseline in (0.01, 0.1, 0.5, 0.9):
        assert baseline <= curve.success(baseline) <= baseline + curve.advantage() + 1e-12


def test_the_smallest_mu_leaves_everything_possible_and_no_smaller_one_does() -> None:
    curve, rates = TradeOff.of_ledger(ledger(SMALL)), np.geomspace(1e-6, 0.999, 500)
    mu = curve.smallest_mu(1e-6)
    assert (TradeOff(mu=mu).tpr(rates) >= curve.tpr(rates) - 1e-9).all()
    assert (TradeOff(mu=mu * 0.99).tpr(rates) < curve.tpr(rates)).any()


def test_a_group_has_the_known_guarantee() -> None:
    found = TradeOff.of_guarantee(0.5, 1e-6).group(4)
    assert found.epsilons == (2.0,)
    assert found.deltas == (pytest.approx(1e-6 * math.expm1(2.0) / math.expm1(0.5)),)
    assert TradeOff.of_guarantee(0.0, 0.01).group(7).deltas == (pytest.approx(0.07),)
    assert TradeOff.of_guarantee(0.5, 1e-6).group(10**9).deltas == (1.0,)
    with pytest.raises(ValueError, match="k=0"):
        TradeOff(mu=1.0).group(0)


# --- populations -----------------------------------------------------------------------------------------------------


def exactly(epsilon: float, delta: float, n: int) -> float:
    """(e^nε - 1)/(e^nε + 1) + 2(e^nε - 1)δ/((e^nε + 1)(e^ε - 1)) as its authors write it, in 80 digits."""
    getcontext().prec, getcontext().Emax = 80, 10**9
    one, many = Decimal(epsilon).exp(), (Decimal(epsilon) * n).exp()
    share = (many - 1) / (many + 1)
    return float(min(Decimal(1), share + 2 * share * Decimal(delta) / (one - 1)))


@pytest.mark.parametrize("n", [1, 2, 37, 60_000])
@pytest.mark.parametrize("delta", [0.0, 1e-9, 1e-5, 0.2])
@pytest.mark.parametrize("epsilon", [1e-12, 1e-6, 0.01, 1.0, 8.0, 50.0])
def test_the_distributional_bound_is_its_authors_formula(epsilon: float, delta: float, n: int) -> None:
    assert distributional(epsilon, delta, n) == pytest.approx(exactly(epsilon, delta, n), abs=1e-9, rel=1e-9)


def test_it_is_the_advantage_against_a_group() -> None:
    """The identity behind it: for one record that of membership, for n that of the guarantee which n records have."""
    for epsilon, delta, n in ((0.3, 1e-5, 1), (0.1, 1e-6, 5), (1.0, 0.0, 3)):
        group = TradeOff.of_guarantee(epsilon, delta).group(n)
        assert distributional(epsilon, delta, n) == pytest.approx(group.advantage(), abs=1e-9)


def test_the_best_point_of_the_curve_counts_and_all_records_are_vacuous() -> None:
    curve = TradeOff.of_ledger(ledger(STANDARD))
    assert curve.distributional(1) == pytest.approx(curve.advantage(), abs=1e-9)
    assert curve.distributional(1) < distributional(2.382, 1e-5, 1)
    assert curve.distributional(60_000) == 1.0


finite = {"allow_nan": False, "allow_infinity": False}


@given(
    st.floats(1e-12, 50.0, **finite),
    st.floats(0.0, 1.0, **finite),
    st.integers(1, 10**9),
    st.floats(1.0, 3.0, **finite),
)
@settings(max_examples=300, deadline=None)
def test_bounds_are_finite_and_monotone(epsilon: float, delta: float, n: int, more: float) -> None:
    """At ε from 1e-12 to 50 and up to 10⁹ records: in [0, 1], never smaller for less privacy or more records."""
    strong, weak = TradeOff.of_guarantee(epsilon, delta), TradeOff.of_guarantee(epsilon * more, min(1.0, delta * more))
    for value in (TradeOff.advantage, TradeOff.auc, lambda c: c.at(1e-6), lambda c: c.success(0.1)):
        assert 0 <= value(strong) <= value(weak) + 1e-12
        assert value(weak) <= 1
    found = strong.distributional(n)
    assert 0 <= found <= 1
    assert found <= strong.distributional(math.ceil(n * more)) + 1e-12
    assert found <= distributional(epsilon, min(1.0, delta * more), n) + 1e-12
    assert math.isfinite(TradeOff(mu=epsilon).distributional(n))


# --- how often a guess succeeds --------------------------------------------------------------------------------------


def test_the_rate_of_the_best_guess_is_above_the_true_one() -> None:
    """Records on a line, guesses among them: the true rate of 0.5 ± 0.05 is 0.1, and the bound misses it rarely.

    400 draws at an error of 5 %: more than 35 misses would come by chance once in a thousand.
    """
    rng = np.random.default_rng(5)
    guesses = np.array([0.2, 0.5, 0.9])
    missed = 0
    for _ in range(400):
        records = rng.random(300)
        rate = guess_rate(np.abs(guesses[:, None] - records), 0.05, 0.05)
        missed += rate < 0.1
    assert missed <= 35
    assert rate < 0.25


@pytest.mark.parametrize(
    "distances", [np.empty((0, 3)), np.empty((2, 0)), np.array([[math.nan]]), np.array([[math.inf]])]
)
def test_without_distances_there_is_no_rate(distances: Any) -> None:
    with pytest.raises(ValueError, match="distance"):
        guess_rate(distances, 0.1, 0.05)


def test_a_guess_that_never_succeeds_still_has_a_rate() -> None:
    """300 misses: no more than 1 - 0.05^(1/300) is excluded (Clopper & Pearson); of four guesses, by 0.0125 each."""
    assert guess_rate(np.ones((1, 300)), 0.5, 0.05) == pytest.approx(1 - 0.05 ** (1 / 300), rel=1e-9)
    assert guess_rate(np.ones((4, 300)), 0.5, 0.05) == pytest.approx(1 - 0.0125 ** (1 / 300), rel=1e-9)


@pytest.mark.parametrize(
    "wrong",
    [
        {}, {"mu": 1.0, "epsilons": (1.0,), "deltas": (0.1,)}, {"mu": -1.0}, {"mu": math.nan}, {"epsilons": (1.0,)},
        {"epsilons": (-1.0,), "deltas": (0.1,)}, {"epsilons": (1.0,), "deltas": (1.5,)},
        {"epsilons": (math.nan,), "deltas": (0.1,)}, {"epsilons": (1.0,), "deltas": (math.nan,)},
        {"epsilons": (1.0, 1.0), "deltas": (0.2, 0.1)},
    ],
)  # fmt: skip
def test_an_impossible_curve_cannot_be_built(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected|needs"):
        TradeOff(**wrong)


@pytest.mark.parametrize("fpr", [-0.1, 1.1, math.nan])
def test_an_impossible_rate_is_refused(fpr: float) -> None:
    with pytest.raises(ValueError, match="FPR"):
        TradeOff(mu=1.0).tpr(fpr)
