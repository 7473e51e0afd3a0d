"""Lower bounds on ε from canaries: against published numbers, second implementations, nulls and known truths.

False alarms: a bound at 95 % may exceed the truth in 5 % of all runs; a test over n runs allows that and three standard
errors, which chance exceeds once in 700 times. The short versions run with fixed seeds, so that they do not flicker.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import integrate, special, stats

from midguard.engine.statistics import (
    SHARES,
    Count,
    Guesses,
    claim_test,
    counted_epsilon,
    curve_inverse,
    gaussian_delta,
    gaussian_epsilon,
    gaussian_fit,
    gaussian_mu,
    gaussian_trade_off_epsilon,
    guesses,
    one_run_ceiling,
    one_run_epsilon,
    one_run_p,
    ordered_epsilon,
    ordered_p,
    signed_mu,
    trade_off_p,
    trade_off_refuted,
)
from midguard.engine.statistics.one_run import _wrong_by_rank, gaussian_inverse

if TYPE_CHECKING:
    from numpy import bool_, float64
    from numpy.typing import NDArray

DELTA, ALPHA, CANARIES = 1e-5, 0.05, 1000


# Gaussian differential privacy


@pytest.mark.parametrize(("epsilon", "mu"), [(0.5, 0.3), (1.0, 1.0), (4.0, 0.9), (12.0, 2.5)])
def test_delta_is_the_hockey_stick_of_two_normals(epsilon: float, mu: float) -> None:
    """Against the integral that defines it."""
    start = epsilon / mu + mu / 2  # where the ratio of the densities is e^ε
    over = lambda x: stats.norm.pdf(x, mu) - math.exp(epsilon) * stats.norm.pdf(x)  # noqa: E731
    expected, _ = integrate.quad(over, start, start + 40, epsabs=1e-14)
    assert gaussian_delta(epsilon, mu) == pytest.approx(expected, rel=1e-7, abs=1e-13)


@pytest.mark.parametrize("mu", [0.05, 0.3, 1.0, 3.0, 10.0])
def test_epsilon_is_that_of_a_second_implementation(mu: float) -> None:
    from dp_accounting.gaussian_mechanism import get_epsilon_gaussian

    assert gaussian_epsilon(mu, DELTA) == pytest.approx(get_epsilon_gaussian(1 / mu, DELTA), rel=1e-6, abs=1e-9)


def test_mu_and_epsilon_are_inverse_to_each_other_and_nothing_is_nothing() -> None:
    for epsilon in (0.1, 1.0, 4.0, 20.0):
        assert gaussian_epsilon(gaussian_mu(epsilon, DELTA), DELTA) == pytest.approx(epsilon, rel=1e-9)
    assert gaussian_epsilon(0.0, DELTA) == gaussian_epsilon(-3.0, DELTA) == gaussian_epsilon(-math.inf, DELTA) == 0.0
    assert math.isfinite(gaussian_epsilon(1e6, DELTA))


# Steinke, Nasr & Jagielski


def test_one_run_gives_the_published_bound_and_ceilings() -> None:
    assert one_run_epsilon(Guesses(1000, 600, 600), DELTA, ALPHA) == pytest.approx(5.2704, abs=5e-5)
    expected = {50: 2.78, 100: 3.49, 500: 5.11, 1000: 5.81, 5000: 7.42, 10_000: 8.11}
    assert {r: round(one_run_ceiling(r, ALPHA), 2) for r in expected} == expected
    for r in (50, 1000):
        found = one_run_epsilon(Guesses(r, r, r), 0.0, ALPHA)
        assert found == pytest.approx(one_run_ceiling(r, ALPHA), rel=1e-9)


@pytest.mark.parametrize(("made", "right", "epsilon"), [(100, 80, 0.0), (100, 80, 1.0), (300, 290, 2.0), (40, 20, 0.5)])
def test_one_run_p_is_that_of_the_papers_loop(made: int, right: int, epsilon: float) -> None:
    """A second implementation, term by term over the binomial's mass."""
    q = 1 / (1 + math.exp(-epsilon))
    mass = [math.comb(made, k) * q**k * (1 - q) ** (made - k) for k in range(made + 1)]
    beta = sum(mass[right:])
    below, worst = 0.0, 0.0
    for i in range(1, right + 1):
        below += mass[right - i]
        worst = max(worst, below / i)
    expected = min(1.0, beta + 2 * CANARIES * DELTA * worst)
    assert one_run_p(Guesses(CANARIES, made, right), epsilon, DELTA) == pytest.approx(expected, rel=1e-9)


def test_delta_weakens_the_bound_and_half_right_shows_nothing() -> None:
    found = [one_run_epsilon(Guesses(1000, 200, 190), delta, ALPHA) for delta in (0.0, 1e-6, 1e-4, 1e-2)]
    assert found == sorted(found, reverse=True)
    assert found[0] > found[-1]
    assert one_run_epsilon(Guesses(1000, 200, 100), DELTA, ALPHA) == 0.0
    assert one_run_epsilon(Guesses(1000, 0, 0), DELTA, ALPHA) == 0.0


# Mahloujifar, Melis & Chaudhuri


def recursion(m: int, made: int, right: int, inverse: Callable[[float], float], alpha: float) -> bool:
    """The paper's recursion over its two arrays, k = 2."""
    r, h = {right: alpha * right / m}, {right: alpha * (made - right) / m}
    for i in reversed(range(right)):
        h[i] = max(h[i + 1], inverse(min(1.0, r[i + 1])))
        r[i] = r[i + 1] + i / (made - i) * (h[i] - h[i + 1])
    return r[0] + h[0] > made / m


@pytest.mark.parametrize("mu", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("right", [100, 120, 150, 190, 200])
def test_a_curve_is_refuted_as_by_the_papers_recursion(mu: float, right: int) -> None:
    found, inverse = Guesses(CANARIES, 200, right), gaussian_inverse(mu)
    assert trade_off_refuted(found, inverse, ALPHA) == recursion(CANARIES, 200, right, inverse, ALPHA)


def test_the_smallest_error_that_refutes_is_the_p() -> None:
    found, inverse = Guesses(CANARIES, 200, 170), gaussian_inverse(0.5)
    p = trade_off_p(found, inverse)
    assert 1e-12 < p < 1
    assert trade_off_refuted(found, inverse, p * 1.01)
    assert not trade_off_refuted(found, inverse, p * 0.99)
    assert trade_off_p(Guesses(CANARIES, 0, 0), inverse) == 1.0
    assert trade_off_p(Guesses(CANARIES, 200, 60), inverse) == 1.0


def gaussian_curve(mu: float) -> Callable[[NDArray[float64]], NDArray[float64]]:
    return lambda fpr: np.asarray(special.ndtr(special.ndtri(fpr) + mu))


@pytest.mark.parametrize("y", [1e-6, 0.01, 0.3, 0.9, 0.999])
def test_a_curve_read_backwards_never_lies_above_the_true_one(y: float) -> None:
    exact, found = gaussian_inverse(1.0)(y), curve_inverse(gaussian_curve(1.0))(y)
    assert found <= exact <= found * 1.01 + 1e-9


# Xiang et al.


def test_wrong_guesses_by_rank_are_those_of_a_simulation() -> None:
    """Of 4,000 draws of 50 canaries; within four standard errors at every rank, which chance exceeds in 0.3 %."""
    mu, m, chance = 0.9, 50, np.random.default_rng(7)
    y = chance.normal(size=(4000, m)) + mu * (chance.random((4000, m)) < 0.5)
    wrong = special.expit(-np.sort(np.abs(mu * mu / 2 - mu * y), axis=1)[:, ::-1])
    error = wrong.std(axis=0) / math.sqrt(len(wrong))
    assert (np.abs(_wrong_by_rank(mu, m, m) - wrong.mean(axis=0)) < 4 * error + 1e-4).all()


def test_ordered_p_is_above_the_binomial_tail_that_it_bounds() -> None:
    """With μ = 0 every guess is a coin's, and Chernoff's bound lies above the exact tail."""
    for right in (300, 330, 400):
        exact = stats.binom.sf(right - 1, 600, 0.5)
        assert exact <= ordered_p(Guesses(CANARIES, 600, right), 0.0) <= min(1.0, 30 * exact)
    found = [ordered_p(Guesses(CANARIES, 600, 450), mu) for mu in (0.0, 0.5, 1.0, 2.0)]
    assert found == sorted(found)


# Counts, signs, fits


def test_mu_keeps_its_sign() -> None:
    """An abs() would certify a leak wherever the two sets of scores are the same."""
    assert signed_mu(Count(50, 100), Count(50, 100), ALPHA) < 0
    assert signed_mu(Count(90, 100), Count(90, 100), ALPHA) < -2
    assert signed_mu(Count(100, 100), Count(0, 100), ALPHA) == -math.inf
    above = stats.binomtest(5, 100, alternative="less").proportion_ci(1 - ALPHA / 2).high
    below = stats.binomtest(20, 100, alternative="less").proportion_ci(1 - ALPHA / 2).high
    expected = stats.norm.ppf(1 - above) - stats.norm.ppf(below)
    assert signed_mu(Count(5, 100), Count(20, 100), ALPHA) == pytest.approx(expected, rel=1e-9)
    ratio = max((1 - below - DELTA) / above, (1 - above - DELTA) / below)
    assert counted_epsilon(Count(5, 100), Count(20, 100), DELTA, ALPHA) == pytest.approx(math.log(ratio), rel=1e-9)
    assert counted_epsilon(Count(50, 100), Count(50, 100), DELTA, ALPHA) == 0.0


def test_the_fit_is_students_pooled_difference() -> None:
    chance = np.random.default_rng(3)
    inside, outside = chance.normal(1.5, 2.0, 80), chance.normal(0.0, 2.0, 60)
    fit = gaussian_fit(np.concatenate([inside, outside]), np.arange(140) < 80)
    t = stats.ttest_ind(inside, outside).statistic
    assert fit.mu == pytest.approx(t * math.sqrt(1 / 80 + 1 / 60), rel=1e-9)
    assert fit.error > math.sqrt(1 / 80 + 1 / 60)


# Guesses


def test_guesses_go_to_both_ends_and_ties_are_not_broken_by_the_order_given() -> None:
    scores, members = np.arange(20.0), np.arange(20) >= 10
    assert guesses(scores, members, 0.5) == Guesses(20, 10, 10)
    assert guesses(-scores, members, 0.5) == Guesses(20, 10, 0)
    tied = guesses(np.zeros(1000), np.arange(1000) >= 500, 0.5)
    assert 200 < tied.right < 300
    with pytest.raises(ValueError, match="NaN"):
        guesses(np.array([0.0, math.nan]), np.array([True, False]), 1.0)


@pytest.mark.parametrize("numbers", [(10, 11, 5), (10, 5, 6), (10, 5, -1)])
def test_impossible_guesses_are_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="expected 0 <= right"):
        Guesses(*numbers)


# The claim test


@dataclass(frozen=True)
class Canaries:
    scores: NDArray[float64]
    members: NDArray[bool_]


def canaries(mu: float, seed: int, m: int = CANARIES) -> Canaries:
    """Of a mechanism that is exactly μ-GDP."""
    chance = np.random.default_rng(seed)
    members = chance.random(m) < 0.5
    return Canaries(chance.normal(size=m) + mu * members, members)


def test_a_claim_that_holds_exactly_is_refuted_no_more_often_than_said() -> None:
    """At 5 %, with upper ends that are missed in 0.1 %: at most 5 % and three standard errors of 400 runs."""
    found = [claim_test(*_parts(canaries(1.0, seed)), gaussian_curve(1.0), 0.001).refutes(0.05) for seed in range(400)]
    assert sum(found) / 400 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


def _parts(drawn: Canaries) -> tuple[NDArray[float64], NDArray[bool_]]:
    return drawn.scores, drawn.members


def test_twice_the_claimed_mu_is_refuted_and_a_stronger_claim_is_harder_to_refute() -> None:
    drawn = canaries(3.0, 1)
    p = [claim_test(*_parts(drawn), gaussian_curve(mu), 1e-5).p for mu in (0.5, 1.0, 1.5, 2.0, 4.0)]
    assert p == sorted(p)
    assert p[2] < 1e-6
    assert p[4] == 1.0


def test_the_claims_p_is_the_binomial_tail_at_the_upper_end() -> None:
    """500 out with none above the cut that is set by the other half, all of 200 in above it."""
    scores = np.concatenate([np.linspace(-1, 0, 500), np.full(200, 9.0)])
    test = claim_test(scores, np.arange(700) >= 500, gaussian_curve(0.5), 0.001)
    rates = {stats.binomtest(k, 250, alternative="less").proportion_ci(0.999).high for k in range(60)}
    assert min(abs(test.rate - rate) for rate in rates) < 1e-9
    assert (test.hits, test.inside) == (200, 200)
    assert test.p == pytest.approx(3 * float(gaussian_curve(0.5)(np.array([test.rate]))[0]) ** 200, rel=1e-6)
    assert test.spent == pytest.approx(0.003)


def test_scores_that_are_not_numbers_or_too_few_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        claim_test(np.array([math.nan, 0, 0, 0]), np.array([True, False, False, False]), gaussian_curve(1.0), 0.001)
    with pytest.raises(ValueError, match="at least two out"):
        claim_test(np.zeros(3), np.array([True, True, False]), gaussian_curve(1.0), 0.001)


# Every lower bound: false claims, and how much of the truth it finds

BOUNDS: dict[str, Callable[[Canaries, float], float]] = {
    "one-run": lambda c, mu: one_run_epsilon(guesses(*_parts(c), SHARES["one-run"]), DELTA, ALPHA),
    "f-DP": lambda c, mu: gaussian_trade_off_epsilon(guesses(*_parts(c), SHARES["f-DP"]), DELTA, ALPHA),
    "order statistics": lambda c, mu: ordered_epsilon(guesses(*_parts(c), SHARES["order statistics"]), DELTA, ALPHA),
    "Clopper-Pearson": lambda c, mu: counted_epsilon(*_errors(c, mu + 0.6), DELTA, ALPHA),
    "Clopper-Pearson, signed mu": lambda c, mu: gaussian_epsilon(signed_mu(*_errors(c, mu / 2), ALPHA), DELTA),
}
#: The least share of ε = 4 that each must find with 1,000 canaries.
FOUND = {"one-run": 0.35, "f-DP": 0.49, "order statistics": 0.75}


def _errors(drawn: Canaries, cut: float) -> tuple[Count, Count]:
    """False positives and false negatives at a threshold that was fixed beforehand."""
    outside, inside = drawn.scores[~drawn.members], drawn.scores[drawn.members]
    return Count(int((outside > cut).sum()), len(outside)), Count(int((inside <= cut).sum()), len(inside))


def false_claims(name: str, epsilon: float, runs: int) -> float:
    mu = gaussian_mu(epsilon, DELTA) if epsilon else 0.0
    return sum(BOUNDS[name](canaries(mu, seed), mu) > epsilon + 1e-9 for seed in range(runs)) / runs


def found_share(name: str, runs: int) -> float:
    mu = gaussian_mu(4.0, DELTA)
    return sum(BOUNDS[name](canaries(mu, 10_000 + seed), mu) for seed in range(runs)) / runs / 4.0


@pytest.mark.parametrize("name", BOUNDS)
def test_a_lower_bound_is_seldom_above_the_truth(name: str) -> None:
    assert false_claims(name, 4.0, 20) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 20)


GUESSED: dict[str, Callable[[Guesses], float]] = {
    "one-run": lambda found: one_run_epsilon(found, DELTA, ALPHA),
    "f-DP": lambda found: gaussian_trade_off_epsilon(found, DELTA, ALPHA),
    "order statistics": lambda found: ordered_epsilon(found, DELTA, ALPHA),
}


@pytest.mark.parametrize("name", GUESSED)
def test_where_nothing_leaks_a_bound_is_above_nothing_in_at_most_5_percent_exactly(name: str) -> None:
    """Every guess is then a fair coin's: the false claims are a binomial tail, and need no simulation."""
    made = guesses(np.zeros(CANARIES), np.zeros(CANARIES, dtype=bool), SHARES[name]).made
    first = next(right for right in range(made // 2, made + 1) if GUESSED[name](Guesses(CANARIES, made, right)) > 0)
    assert stats.binom.sf(first - 1, made, 0.5) <= ALPHA
    assert stats.binom.sf(first - 1, made, 0.5) > 0.001  # and it is not so careful that it finds nothing


@pytest.mark.parametrize("name", FOUND)
def test_a_lower_bound_finds_much_of_the_truth(name: str) -> None:
    assert found_share(name, 20) >= FOUND[name] - 0.05


@pytest.mark.calibrate
@pytest.mark.parametrize("epsilon", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("name", BOUNDS)
def test_false_claims_of_a_lower_bound(name: str, epsilon: float) -> None:
    share = false_claims(name, epsilon, 200)
    sys.stdout.write(f"\n{name} at ε = {epsilon:g}: {share:.1%} false claims in 200 runs")
    assert share <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)


@pytest.mark.calibrate
@pytest.mark.parametrize("name", BOUNDS)
def test_share_of_the_truth_that_a_lower_bound_finds(name: str) -> None:
    share = found_share(name, 200)
    sys.stdout.write(f"\n{name}: {share:.1%} of ε = 4 with 1,000 canaries, mean of 200 runs")
    assert share >= FOUND.get(name, 0.0)
