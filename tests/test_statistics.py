"""Intervals against closed forms, second implementations and simulations with a stated false-alarm rate."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve

from midguard.engine import statistics as st
from midguard.engine.statistics import Count, Interval


def scores_of(n: int, shift: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit Gaussians, members shifted: advantage 2Φ(shift/2) - 1, AUC Φ(shift/√2), in closed form."""
    rng = np.random.default_rng(seed)
    members = np.arange(2 * n) < n
    return rng.normal(size=2 * n) + shift * members, members


def test_proportion_has_the_textbook_limits() -> None:
    """Rule of three's exact form at k = 0, and the beta quantiles elsewhere."""
    none = st.proportion(Count(0, 100), 0.05)
    assert none.low == 0
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 100))
    some = st.proportion(Count(7, 50), 0.1)
    assert some.low == pytest.approx(stats.beta.ppf(0.05, 7, 44))
    assert some.high == pytest.approx(stats.beta.ppf(0.95, 8, 43))
    assert some.low < some.value < some.high


@pytest.mark.parametrize(("k", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_impossible_counts_are_refused(k: int, n: int) -> None:
    with pytest.raises(ValueError, match="expected 0 <= k"):
        Count(k, n)


def test_difference_covers_and_keeps_its_sides() -> None:
    """Of 2,000 simulated differences at least 95 % are covered (false alarm of this test < 1e-4)."""
    rng, missed_low, missed_high = np.random.default_rng(5), 0, 0
    for _ in range(2000):
        a, b = Count(int(rng.binomial(80, 0.6)), 80), Count(int(rng.binomial(60, 0.35)), 60)
        found = st.difference(a, b, 0.05)
        missed_low += found.low > 0.25
        missed_high += found.high < 0.25
    limit = stats.binom.ppf(1 - 1e-4, 2000, 0.025)
    assert missed_low <= limit
    assert missed_high <= limit


def test_best_threshold_is_the_largest_vertical_gap_of_the_roc() -> None:
    scores, members = scores_of(300, 0.7, 1)
    threshold = st.best_threshold(scores, members)
    fpr, tpr, _ = roc_curve(members, scores, drop_intermediate=False)
    called = scores > threshold
    assert called[members].mean() - called[~members].mean() == pytest.approx((tpr - fpr).max())


def test_no_threshold_is_chosen_where_nothing_can_be_gained() -> None:
    members = np.arange(10) < 5
    assert st.best_threshold(np.zeros(10), members) == math.inf
    assert st.best_threshold(np.where(members, 0.0, 1.0), members) == math.inf


def test_halves_are_fair_and_balanced() -> None:
    members, groups = np.arange(400) < 200, np.arange(400) % 4
    half = st.halves(members, groups)
    for member in (True, False):
        for group in range(4):
            assert half[(members == member) & (groups == group)].sum() == 25
    assert not np.array_equal(half, np.arange(400) % 2 == 1)


@pytest.mark.parametrize("shift", [0.0, 0.5, 1.5, 4.0])
def test_advantage_finds_the_closed_form(shift: float) -> None:
    scores, members = scores_of(4000, shift, 3)
    found = st.advantage(scores, members, members * 0, 1e-4).interval
    truth = 2 * stats.norm.cdf(shift / 2) - 1
    assert found.low <= truth <= found.high
    assert found.value == pytest.approx(truth, abs=0.05)


def test_advantage_judges_no_record_by_a_threshold_that_it_helped_to_choose() -> None:
    """Pure noise: the best threshold on the same records looks like a leak, the cross-fitted one does not."""
    values, selected = [], []
    for seed in range(40):
        scores, members = scores_of(50, 0.0, seed)
        called = scores > st.best_threshold(scores, members)
        selected.append(called[members].mean() - called[~members].mean())
        values.append(st.advantage(scores, members, members * 0, 0.05).interval.value)
    assert np.mean(selected) > 0.1
    assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(40)


def test_advantage_of_constant_scores_is_nothing_with_its_doubt() -> None:
    members = np.arange(200) < 100
    found = st.advantage(np.ones(200), members, members * 0, 0.05).interval
    assert found.value == 0
    assert found.low < 0 < found.high


def test_advantage_of_perfect_separation_is_one() -> None:
    members = np.arange(200) < 100
    found = st.advantage(members.astype(float), members, members * 0, 0.05).interval
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low > 0.9


def test_advantage_does_not_depend_on_the_order_of_values_within_a_side() -> None:
    scores, members = scores_of(200, 0.5, 8)
    before = scores.copy()
    st.advantage(scores, members, members * 0, 0.05)
    assert np.array_equal(scores, before)


@pytest.mark.parametrize("fpr", [0.01, 0.1, 0.5])
def test_tpr_at_fpr_finds_the_closed_form(fpr: float) -> None:
    scores, members = scores_of(20_000, 1.0, 4)
    found = st.tpr_at_fpr(scores, members, fpr, 1e-4)
    truth = stats.norm.sf(stats.norm.isf(fpr) - 1.0)
    assert found.tpr.low <= truth <= found.tpr.high
    assert found.tpr.value == pytest.approx(truth, abs=0.03)
    assert found.realised.share <= fpr


def test_tpr_says_when_the_records_are_too_few_to_decide() -> None:
    """With 100 nonmembers nothing is sure at a FPR of .001: no lower end above 0, even for a perfect leak."""
    members = np.arange(200) < 100
    found = st.tpr_at_fpr(members.astype(float), members, 0.001, 0.05)
    assert found.tpr.value == 1.0
    assert found.tpr.low == 0.0
    assert found.smallest_fpr > 0.001
    enough = np.arange(20_000) < 10_000
    assert st.tpr_at_fpr(enough.astype(float), enough, 0.001, 0.05).tpr.low > 0.99


def test_tpr_under_ties_is_that_of_accusing_some_of_those_that_look_alike() -> None:
    """Constant scores name as many members as others; a yes-or-no answer gives the straight line through its point."""
    members = np.arange(20_000) < 10_000
    nothing = st.tpr_at_fpr(np.zeros(20_000), members, 0.1, 1e-4).tpr
    assert nothing.low <= 0.1 <= nothing.high
    assert nothing.high < 0.15
    # 90 % of members and 30 % of the others answer yes: at a FPR of .1, a third of them are accused
    yes = np.where(members, np.arange(20_000) % 10 < 9, np.arange(20_000) % 10 < 3).astype(float)
    answer = st.tpr_at_fpr(yes, members, 0.1, 1e-4).tpr
    assert answer.low <= 0.3 <= answer.high
    assert answer.value == pytest.approx(0.3, abs=0.02)


def test_auc_is_that_of_scikit_learn_and_covers() -> None:
    scores, members = scores_of(500, 0.8, 6)
    found = st.auc(np.round(scores, 1), members, 0.05)
    assert found.value == pytest.approx(roc_auc_score(members, np.round(scores, 1)))
    assert found.low <= stats.norm.cdf(0.8 / math.sqrt(2)) <= found.high
    assert found.high - found.value == pytest.approx(math.sqrt(math.log(40) / 1000))


def test_auc_of_constant_scores_is_a_half_with_width() -> None:
    members = np.arange(100) < 50
    found = st.auc(np.zeros(100), members, 0.05)
    assert found.value == 0.5
    assert found.low < 0.4
    assert found.high > 0.6


def test_epsilon_lower_bound_holds_for_randomised_response() -> None:
    """Randomised response with ε = 2 answers the truth with e²/(1+e²): the bound stays below 2 and comes near it."""
    rng, epsilon = np.random.default_rng(0), 2.0
    members = np.arange(20_000) < 10_000
    truth = rng.random(20_000) < math.exp(epsilon) / (1 + math.exp(epsilon))
    scores = np.where(truth, members, ~members).astype(float)
    found = st.epsilon_lower_bound(scores, members, 0.0, 0.01)
    assert 1.7 < found <= epsilon


def test_epsilon_lower_bound_of_noise_is_nothing_and_of_a_full_leak_is_large() -> None:
    members = np.arange(2000) < 1000
    noise = np.random.default_rng(2).normal(size=2000)
    assert st.epsilon_lower_bound(noise, members, 1e-5, 0.01) < 0.2
    # 500 of 500 against 0 of 500 at 1 %: log((beta quantile) / (rule of three)), in closed form
    assert st.epsilon_lower_bound(members * 1.0, members, 0.0, 0.04) == pytest.approx(
        math.log(0.01 ** (1 / 500) / (1 - 0.01 ** (1 / 500))), rel=1e-6
    )


def test_quantile_ratio_of_a_multiple_is_that_multiple() -> None:
    values = np.random.default_rng(1).random(500) + 0.5
    found = st.quantile_ratio(0.8 * values, values, 0.5, 0.01)
    assert found.low == pytest.approx(0.8)
    assert found.high == pytest.approx(0.8)


def test_quantile_ratio_covers() -> None:
    """Log-normal pairs, true ratio e^-0.1 at the median: 300 intervals at 90 %, 1e-4 to fail by luck."""
    rng, missed = np.random.default_rng(3), 0
    for _ in range(300):
        base = rng.normal(size=200)
        top = np.exp(base * 0.5 + rng.normal(size=200) * 0.2 - 0.1)
        bottom = np.exp(base * 0.5 + rng.normal(size=200) * 0.2)
        found = st.quantile_ratio(top, bottom, 0.5, 0.1)
        missed += not found.low <= math.exp(-0.1) <= found.high
    assert missed <= stats.binom.ppf(1 - 1e-4, 300, 0.1)


def test_quantile_ratio_with_few_records_is_distribution_free() -> None:
    """With 20 records nothing bounds the 5 % quantile from below; the median's limits are its order statistics."""
    top, bottom = np.arange(1.0, 21), np.full(20, 2.0)
    tail = st.quantile_ratio(top, bottom, 0.05, 0.05)
    assert tail.low == 0.0
    middle = st.quantile_ratio(top[:15], bottom[:15], 0.5, 0.05)
    # 15 records, 98.75 % on each side: positions 4 and 12 by the binomial table
    k = int(stats.binom.ppf(0.0125, 15, 0.5)) - 1
    assert middle.low == pytest.approx(top[k] / 2)
    assert middle.high == pytest.approx(top[int(stats.binom.ppf(0.9875, 15, 0.5))] / 2)


def test_a_ratio_over_nothing_is_no_leak_and_over_zero_is_unbounded() -> None:
    zeros, ones = np.zeros(50), np.ones(50)
    assert st.quantile_ratio(zeros, zeros, 0.5, 0.05) == Interval(1.0, 1.0, math.inf)
    assert st.quantile_ratio(zeros, ones, 0.5, 0.05).high == 0.0
    assert st.quantile_ratio(ones, zeros, 0.5, 0.05).value == math.inf


def test_roc_is_that_of_scikit_learn_with_a_band_around_it() -> None:
    scores, members = scores_of(100, 1.0, 9)
    points = st.roc(scores, members, 0.05, points=10_000)
    fpr, tpr, _ = roc_curve(members, scores, drop_intermediate=False)
    for x, y in zip(points[:, 0], points[:, 1], strict=True):
        assert y == pytest.approx(np.max(tpr[fpr <= x + 1e-12])) or y == pytest.approx(np.min(tpr[fpr >= x - 1e-12]))
    assert (points[:, 2] <= points[:, 1]).all()
    assert (points[:, 3] >= points[:, 1]).all()
    assert tuple(points[0, :2]) == (0.0, 0.0) or points[0, 0] == 0.0
    assert tuple(points[-1, :2]) == (1.0, 1.0)


def test_roc_is_thinned_without_losing_its_ends() -> None:
    scores, members = scores_of(5000, 1.0, 9)
    points = st.roc(scores, members, 0.05, points=100)
    assert len(points) <= 102
    assert points[0, 0] == 0.0
    assert points[-1, 0] == 1.0
