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
    # half as wide as Hoeffding's, which knows nothing of the scores
    assert found.high - found.value < 0.6 * math.sqrt(math.log(40) / 1000)


def test_auc_of_independent_normal_scores_has_the_width_of_its_known_variance() -> None:
    """Of scores that do not differ, the variance is that of Mann & Whitney's statistic: (m + n + 1) / (12 m n)."""
    scores, members = scores_of(1000, 0.0, 2)
    found, deviation = st.auc(scores, members, 0.05), math.sqrt(2001 / 12) / 1000
    assert (found.high - found.low) / (2 * 1.96 * deviation) == pytest.approx(1.0, abs=0.05)


def test_auc_of_perfect_separation_is_doubted_as_few_records_deserve() -> None:
    """Were members below everybody with chance q, 50 of them would show none with (1 - q)^50: q = 1 - .025^(1/50)."""
    members = np.arange(100) < 50
    found = st.auc(members.astype(float), members, 0.05)
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low <= 0.025 ** (1 / 50)
    assert found.low > 0.9
    reverse = st.auc(-members.astype(float), members, 0.05)
    assert reverse.high == pytest.approx(1 - found.low)


def test_auc_of_constant_scores_is_a_half_with_width() -> None:
    """Of one score in 20 that differs, 50 members may show none: an area that moves by 1/40 must not be excluded."""
    members = np.arange(100) < 50
    found = st.auc(np.zeros(100), members, 0.05)
    assert found.value == 0.5
    assert found.low < 0.5 - 1 / 40
    assert found.high > 0.5 + 1 / 40


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


# --- several statements at once --------------------------------------------------------------------------------------


def test_holm_and_bonferroni_are_those_of_the_worked_example() -> None:
    """Four p-values by hand: the smallest times 4, the next times 3 (never below the one before), and so on."""
    assert st.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert st.bonferroni([0.01, 0.04, 0.3, 0.005]) == pytest.approx([0.04, 0.16, 1.0, 0.02])
    assert len(st.holm([])) == 0


def test_holm_is_never_larger_than_bonferroni_nor_smaller_than_the_p_value() -> None:
    p = np.random.default_rng(4).random(50) ** 3
    assert (st.holm(p) <= st.bonferroni(p) + 1e-15).all()
    assert (st.holm(p) >= p).all()
    assert (np.argsort(st.holm(p)[np.argsort(p)], kind="stable") == np.arange(50)).all()


def test_a_p_value_that_is_no_number_shows_nothing() -> None:
    assert st.holm([math.nan, 0.01]) == pytest.approx([1.0, 0.02])
    assert st.bonferroni([math.nan, 0.01]) == pytest.approx([1.0, 0.02])


def test_dkw_is_massarts_constant_and_a_little_wider_than_the_exact_kolmogorov_quantile() -> None:
    assert st.dkw(100, 0.05) == pytest.approx(math.sqrt(math.log(40) / 200))
    exact = float(stats.kstwo.isf(0.05, 100))
    assert exact <= st.dkw(100, 0.05) <= 1.05 * exact


def test_the_simultaneous_band_holds_the_whole_roc() -> None:
    """200 ROCs of two unit Gaussians: fewer than 5 % (1e-4 to fail by luck) leave their band anywhere."""
    left = 0
    for seed in range(200):
        scores, members = scores_of(150, 1.0, seed)
        band = st.dkw_band(scores, members, 0.05, points=400)
        truth = stats.norm.sf(stats.norm.isf(band[:, 0]) - 1.0)
        left += bool(((truth < band[:, 2] - 1e-9) | (truth > band[:, 3] + 1e-9)).any())
    assert left <= stats.binom.ppf(1 - 1e-4, 200, 0.05)
    pointwise = st.roc(scores, members, 0.05, points=400)
    assert (band[1:-1, 3] - band[1:-1, 2]).mean() > (pointwise[1:-1, 3] - pointwise[1:-1, 2]).mean()


# --- records of one person -------------------------------------------------------------------------------------------


def of_persons(persons: int, each: int, shift: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every record of a person has nearly the same score: `each` records tell what one does."""
    rng, whose = np.random.default_rng(seed), np.repeat(np.arange(2 * persons), each)
    members = whose < persons
    return rng.normal(size=2 * persons)[whose] + 1e-6 * rng.normal(size=len(whose)) + shift * members, members, whose


def width(found: Interval) -> float:
    return found.high - found.low


@pytest.mark.parametrize("what", ["advantage", "auc", "tpr", "exposed", "epsilon"])
def test_ten_copies_of_a_record_tell_what_one_of_them_does(what: str) -> None:
    """Copies must not narrow an interval, nor make it twice as wide; taken for independent they would narrow it."""

    def interval(scores: np.ndarray, members: np.ndarray, persons: np.ndarray | None) -> Interval:
        nothing = members * 0
        if what == "advantage":
            return st.advantage(scores, members, nothing, 0.05, persons).interval
        if what == "tpr":
            return st.tpr_at_fpr(scores, members, 0.1, 0.05, persons).tpr
        if what == "exposed":
            return st.exposed(scores, members, nothing, 9.0, 0.05, persons).interval
        if what == "epsilon":
            return st.epsilon(scores, members, 0.0, 0.05, 0.05, persons)
        return st.auc(scores, members, 0.05, persons)

    scores, members, persons = of_persons(300, 10, 2.5, 1)
    once, copied = interval(scores[::10], members[::10], None), interval(scores, members, persons)
    # the halves are other ones, and with them the threshold that was chosen
    assert 0.7 * width(once) <= width(copied) <= 2 * width(once)
    assert copied.high >= once.high - 0.05 * width(once)
    assert width(interval(scores, members, None)) < 0.7 * width(once)


def test_persons_with_one_record_each_change_nothing() -> None:
    scores, members = scores_of(200, 1.0, 3)
    persons = np.random.default_rng(0).permutation(400) * 7 - 100
    assert st.advantage(scores, members, members * 0, 0.05, persons) == st.advantage(scores, members, members * 0, 0.05)
    assert st.tpr_at_fpr(scores, members, 0.1, 0.05, persons) == st.tpr_at_fpr(scores, members, 0.1, 0.05)
    assert st.auc(scores, members, 0.05, persons) == st.auc(scores, members, 0.05)
    assert st.epsilon(scores, members, 0.0, 0.01, 0.05, persons) == st.epsilon(scores, members, 0.0, 0.01, 0.05)


def test_the_design_effect_is_that_of_resampling_persons() -> None:
    """A second implementation: 4,000 resamples of whole persons of unequal size, and the variance of the share."""
    from midguard.engine.statistics.persons import design_effect

    rng = np.random.default_rng(8)
    persons = np.repeat(np.arange(200), rng.integers(1, 12, 200))
    chance = rng.beta(0.4, 0.6, 200)
    called = (rng.random(len(persons)) < chance[persons]).astype(float)
    hits, sizes = np.bincount(persons, called), np.bincount(persons)
    picks = rng.integers(0, 200, (4000, 200))
    shares = hits[picks].sum(axis=1) / sizes[picks].sum(axis=1)
    share, n = called.mean(), len(called)
    assert design_effect(called, persons) == pytest.approx(shares.var() / (share * (1 - share) / n), rel=0.1)


def test_a_persons_records_stay_in_one_half() -> None:
    _, members, persons = of_persons(40, 5, 0.0, 2)
    half = st.halves(members, members * 0, persons)
    assert all(len(set(half[persons == person])) == 1 for person in range(80))
    assert half[members].sum() == half[~members].sum() == 100


def test_no_false_positive_among_few_persons_says_little() -> None:
    """1,000 records of 20 persons, none called: 20 persons, not 1,000 records, bound the share."""
    from midguard.engine.statistics.persons import tail

    side = tail(np.zeros(1000), np.repeat(np.arange(20), 50))
    worth = 1000 / side.effects[0]
    assert 5 < worth <= 21
    assert tail(np.zeros(1000), None).effects[0] == 1


# --- ε, down to a rate -----------------------------------------------------------------------------------------------


def test_epsilon_of_randomised_response_lies_in_its_interval() -> None:
    """ε = 2 exactly, from either rule: error rates of 1/(1+e²) = .119 are above the floor."""
    rng, members = np.random.default_rng(0), np.arange(8000) < 4000
    truth = rng.random(8000) < math.exp(2) / (1 + math.exp(2))
    found = st.epsilon(np.where(truth, members, ~members).astype(float), members, 0.0, 0.01, 0.01)
    assert found.low <= 2.0 <= found.high
    assert width(found) < 0.6


def test_epsilon_never_exceeds_what_the_smallest_rate_allows_and_a_full_leak_reaches_it() -> None:
    members = np.arange(4000) < 2000
    found = st.epsilon(members.astype(float), members, 0.0, 0.01, 0.05)
    assert found.high == pytest.approx(math.log(100))
    assert found.low > math.log(100) - 0.05


def test_epsilon_of_leaking_only_who_is_no_member_is_seen_by_the_complement() -> None:
    """Half of the others are known for certain; nobody is known to be a member: log(.5/.01) at most."""
    members = np.arange(8000) < 4000
    scores = np.where(members, 1.0, np.arange(8000) % 2).astype(float)
    found = st.epsilon(scores, members, 0.0, 0.01, 0.05)
    assert found.low > math.log(0.45 / 0.01) - 0.1
    assert found.high <= math.log(0.55 / 0.01)


def test_a_larger_delta_forgives_more() -> None:
    scores, members = scores_of(1000, 1.0, 5)
    bounds = [st.epsilon_lower_bound(scores, members, delta, 0.05) for delta in (0.0, 0.1, 0.9)]
    assert bounds[0] > bounds[1] > bounds[2] == 0.0


# --- members that can be named ---------------------------------------------------------------------------------------


def test_members_that_stand_out_are_exposed_and_others_are_not() -> None:
    """100 of 1,000 members stand out: of all named then, .1 / (.1 + FPR) are members; the rest look like the others."""
    rng, members = np.random.default_rng(1), np.arange(2000) < 1000
    scores = rng.normal(size=2000) + 8.0 * (np.arange(2000) < 100)
    found = st.exposed(scores, members, members * 0, 9.0, 0.05).interval
    assert 0.03 < found.low <= 0.1 <= found.high < 0.2
    null = st.exposed(rng.normal(size=2000), members, members * 0, 9.0, 0.05).interval
    assert null.low == 0.0
    assert null.high < 0.05


def test_nobody_is_exposed_where_the_precision_is_not_reached() -> None:
    """TPR .4 at FPR .1 is right in 80 %: enough for odds of 3, not for 9."""
    members = np.arange(20_000) < 10_000
    scores = np.where(members, np.arange(20_000) % 10 < 4, np.arange(20_000) % 10 < 1).astype(float)
    assert st.exposed(scores, members, members * 0, 9.0, 0.05).interval.high < 0.01
    found = st.exposed(scores, members, members * 0, 3.0, 0.05).interval
    # a coin between calling these and calling everybody: l (.4 - .3) = (1 - l) (3 - 1), so l = 20/21
    most = 0.4 * 20 / 21 + 1 / 21
    assert found.low == pytest.approx(0.4, abs=0.02)
    assert most < found.high < most + 0.03


# --- the risk of single records --------------------------------------------------------------------------------------


def models_of(k: int, n: int, apart: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Signals of k models in complementary pairs, unit noise; a record is `apart` higher where it was trained on."""
    rng = np.random.default_rng(seed)
    half = rng.random((k // 2, n)) < 0.5
    inside = np.stack([half, ~half], axis=1).reshape(k, n)
    return rng.normal(size=(k, n)) + inside * apart + rng.normal(size=n) * 3 + rng.normal(size=(k, 1)), inside


def test_the_risk_of_nothing_is_nothing_where_the_naive_quantile_is_large() -> None:
    signals, inside = models_of(32, 1000, np.zeros(1000), 0)
    apart = st.separations(signals, inside, np.zeros(1000, dtype=np.int64))
    naive = np.quantile(2 * stats.norm.cdf(np.abs(apart.found) / 2) - 1, 0.99)
    found = st.record_risk(apart.found, apart.noise, 0.99, 0.05)
    assert naive > 0.3
    assert found.low == 0.0
    assert found.value < 0.15


def test_the_noise_has_the_spread_that_chance_gives() -> None:
    """Over its own deviation a difference of means is Student's t with k - 2 degrees of freedom, about 4/k wide."""
    for spread in (0.0, 3.0):
        signals, inside = models_of(32, 4000, np.random.default_rng(1).normal(size=4000) * spread, 2)
        apart = st.separations(signals, inside, np.zeros(4000, dtype=np.int64))
        counted = (1 / inside.sum(axis=0) + 1 / (~inside).sum(axis=0)).mean()
        assert apart.noise.var() == pytest.approx(counted * 30 / 28, rel=0.02)
        assert apart.found.std() == pytest.approx(apart.noise.std(), rel=0.05) or spread


def test_the_risk_of_a_known_tail_is_found() -> None:
    """One record in 20 lies 2 apart: the 99th percentile is 2Φ(1) - 1 = .683, the 90th is nothing."""
    truth = float(2 * stats.norm.cdf(1.0) - 1)
    signals, inside = models_of(64, 4000, 2.0 * (np.arange(4000) % 20 == 0), 3)
    apart = st.separations(signals, inside, np.zeros(4000, dtype=np.int64))
    found = st.record_risk(apart.found, apart.noise, 0.99, 0.05)
    assert found.low <= truth <= found.high
    assert found.low > 0.5
    assert found.value == pytest.approx(truth, abs=0.06)
    assert st.record_risk(apart.found, apart.noise, 0.9, 0.05).low == 0.0


def test_models_that_answer_alike_leave_no_risk_and_certain_ones_leave_all() -> None:
    inside = np.arange(32)[:, None] % 2 == np.zeros(500, dtype=int)[None, :]
    nothing = st.separations(np.ones((32, 500)), inside, np.zeros(500, dtype=np.int64))
    assert st.record_risk(nothing.found, nothing.noise, 0.9, 0.05) == Interval(0.0, 0.0, 0.0)
    each = np.random.default_rng(0).permuted(inside, axis=0)
    certain = st.separations(each * 5.0, each, np.zeros(500, dtype=np.int64))
    assert st.record_risk(certain.found, certain.noise, 0.9, 0.05).low > 0.99


def test_a_class_of_few_records_does_not_hide_its_risk() -> None:
    """Taking out a class's mean would take out all that a record that is its class's only one shows."""
    signals, inside = models_of(32, 400, 5.0 * (np.arange(400) < 20), 4)
    alone = np.where(np.arange(400) < 20, np.arange(400), 400)
    together = st.separations(signals, inside, np.zeros(400, dtype=np.int64)).found
    np.testing.assert_allclose(st.separations(signals, inside, alone).found[:20], together[:20], rtol=0.05)


def test_a_model_that_answers_higher_everywhere_says_nothing_of_a_record() -> None:
    signals, inside = models_of(32, 1000, np.zeros(1000), 5)
    groups = np.arange(1000) % 5
    shared = signals + 4.0 * np.random.default_rng(6).normal(size=(32, 5))[:, groups]
    noisy, clean = (st.separations(each, inside, groups) for each in (shared, signals))
    np.testing.assert_allclose(noisy.found, clean.found, atol=1e-9)
