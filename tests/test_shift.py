"""The shift test finds what tells members without a model, names it, and is silent where nothing does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage, stats
from sklearn.datasets import load_digits

from midguard.engine.shift import FEWEST, Shift, shift_test
from midguard.engine.target import Records

Rng = np.random.Generator


def records(x: np.ndarray, y: np.ndarray | None = None, persons: np.ndarray | None = None) -> Records:
    y = np.zeros(len(x)) if y is None else y
    return Records(np.asarray(x, dtype=np.float32), np.asarray(y, dtype=np.int64), persons)


def digits() -> tuple[Records, Records]:
    """scikit-learn's digits, as images, dealt out at random."""
    data = load_digits()
    order = np.random.default_rng(2).permutation(len(data.target))
    both = records(data.images[:, None] / 16, data.target)
    return both.take(order[:898]), both.take(order[898:])


def table(n: int, columns: int, seed: int = 0) -> tuple[Records, Records]:
    """Standard normal columns and ten classes, which tell nothing."""
    rng = np.random.default_rng(seed)
    both = records(rng.normal(size=(2 * n, columns)), rng.integers(0, 10, 2 * n))
    return both.take(np.arange(n)), both.take(np.arange(n, 2 * n))


def changed(kept: Records, x: np.ndarray | None = None, y: np.ndarray | None = None) -> Records:
    return records(kept.x if x is None else x, kept.y if y is None else y, kept.persons)


def names(shift: Shift) -> list[str]:
    return [feature.name for feature in shift.features]


# -- it is silent where there is nothing


def mixed(rng: Rng, n: int) -> Records:
    """Columns of every kind: normal, rare, few-valued, mostly zero."""
    zeros = np.where(rng.random((n, 4)) < 0.9, 0, rng.exponential(size=(n, 4)))
    x = np.c_[rng.normal(size=(n, 4)), rng.random((n, 4)) < 0.03, rng.integers(0, 5, (n, 3)), zeros]
    return records(x, rng.integers(0, 4, n))


def heavy(rng: Rng, n: int) -> Records:
    return records(rng.standard_cauchy((n, 8)), rng.random(n) < 0.02)


def alike(rng: Rng, n: int) -> Records:
    """The class follows from the columns, many records are copies."""
    few = rng.normal(size=(max(2, n // 3), 5))
    x = few[rng.integers(0, len(few), n)]
    return records(x, x[:, 0] > 0)


def alarms(draw: Callable[[Rng, int], Records], members: int, nonmembers: int, alpha: float, runs: int) -> int:
    rng, count = np.random.default_rng(11), 0
    for run in range(runs):
        both = draw(rng, members + nonmembers)
        inside = np.arange(members), np.arange(members, members + nonmembers)
        count += shift_test(both.take(inside[0]), both.take(inside[1]), run, alpha).found
    return count


def test_records_of_one_source_rarely_alarm() -> None:
    # 60 runs at 10 %: a test that holds its error gives more than 14 once in 1,400 times; the seed is fixed.
    assert alarms(mixed, 50, 50, 0.1, 60) <= 14


@pytest.mark.calibrate
@pytest.mark.parametrize("alpha", [0.01, 0.1])
@pytest.mark.parametrize(("members", "nonmembers"), [(20, 20), (60, 60), (30, 900), (300, 300)])
@pytest.mark.parametrize("draw", [mixed, heavy, alike])
def test_the_error_is_what_it_says(
    draw: Callable[[Rng, int], Records], members: int, nonmembers: int, alpha: float
) -> None:
    runs = 1000
    found = alarms(draw, members, nonmembers, alpha, runs)
    assert found / runs <= alpha + 3 * np.sqrt(alpha * (1 - alpha) / runs)


@pytest.mark.calibrate
def test_what_it_says_is_detectable_is_found_four_times_out_of_five() -> None:
    found = 0
    for run in range(200):
        members, nonmembers = table(200, 30, run)
        step = shift_test(members, nonmembers, run).detectable
        x = members.x.copy()
        x[:, 3] += step
        found += shift_test(changed(members, x), nonmembers, run).found
    assert 0.70 <= found / 200 <= 0.95


# -- it finds what there is, and says what


def test_a_fair_split_of_images_is_fair() -> None:
    members, nonmembers = digits()
    shift = shift_test(members, nonmembers, 1)
    assert not shift.found
    assert not shift.untested
    assert shift.p > 0.01
    assert shift.features == ()
    assert shift.records == 2 * 898
    assert 0.45 < shift.auc < 0.55


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("step", [0.3, -0.3])
def test_one_column_of_446_a_third_of_a_deviation_off(step: float, seed: int) -> None:
    members, nonmembers = table(1000, 446, seed)
    x = members.x.copy()
    x[:, 7] += step
    shift = shift_test(changed(members, x), nonmembers, seed)
    assert shift.found
    assert names(shift) == ["column 7"]
    assert shift.detectable is not None
    assert 0.15 < shift.detectable < 0.3


def test_a_little_in_every_column_is_seen_by_the_classifier() -> None:
    members, nonmembers = table(1000, 446)
    shift = shift_test(changed(members, members.x + np.float32(0.05)), nonmembers, 0)
    assert shift.found
    assert shift.auc > 0.6
    assert shift.features == ()


def test_another_spread_is_seen() -> None:
    members, nonmembers = table(500, 10)
    x = members.x.copy()
    x[:, 4] *= 2
    assert names(shift_test(changed(members, x), nonmembers, 0)) == ["column 4"]


def test_what_only_goes_together_is_seen() -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(1600, 3))
    x[:800, 1] = np.abs(x[:800, 1]) * np.sign(x[:800, 0])
    shift = shift_test(records(x[:800]), records(x[800:]), 0)
    assert shift.found
    assert shift.features == ()
    assert shift.auc > 0.7


def test_other_shares_of_the_classes() -> None:
    members, nonmembers = digits()
    keep = (members.y != 3) | (np.arange(len(members)) % 3 == 0)
    shift = shift_test(members.take(np.flatnonzero(keep)), nonmembers, 0)
    assert shift.found
    assert shift.features[0].name == "class"


def test_labels_that_are_wrong_on_one_side_only() -> None:
    members, nonmembers = digits()
    rng = np.random.default_rng(0)
    # Every class loses and gains alike, so that only the class together with the image can tell.
    y = np.where(rng.random(len(members)) < 0.2, (members.y + rng.integers(1, 10, len(members))) % 10, members.y)
    shift = shift_test(changed(members, y=y), nonmembers, 0)
    assert names(shift) == ["class, given the rest"]


def test_images_a_little_brighter() -> None:
    members, nonmembers = digits()
    shift = shift_test(changed(members, np.clip(members.x * 1.03, 0, 1)), nonmembers, 0)
    assert shift.found
    assert shift.auc > 0.9
    assert shift.features
    assert all(name.startswith("pixel (0, ") for name in names(shift))


def test_images_a_little_turned() -> None:
    members, nonmembers = digits()
    turned = ndimage.rotate(members.x, 5, axes=(2, 3), reshape=False, order=1)
    shift = shift_test(changed(members, turned), nonmembers, 0)
    assert shift.found
    assert shift.auc > 0.9


def test_far_fewer_on_one_side() -> None:
    members, nonmembers = table(3000, 5)
    few = members.take(np.arange(60))
    assert not shift_test(few, nonmembers, 0).found
    x = few.x.copy()
    x[:, 2] += 1.5
    assert names(shift_test(changed(few, x), nonmembers, 0)) == ["column 2"]


def test_at_most_ten_are_named_the_clearest_first() -> None:
    members, nonmembers = table(300, 20)
    x = members.x + np.linspace(0, 2, 20, dtype=np.float32)
    shift = shift_test(changed(members, x), nonmembers, 0)
    assert set(names(shift)) == {f"column {i}" for i in range(10, 20)}
    assert [f.p for f in shift.features] == sorted(f.p for f in shift.features)


def test_places_in_images_and_in_other_shapes() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((400, 2, 60, 40)).astype(np.float32)
    x[:200, 1, 20:22, 10:12] += 2
    shift = shift_test(records(x[:200]), records(x[200:]), 0)
    assert names(shift)[0] == "pixels (1, 20-21, 10-11)"
    small = shift_test(records(x[:200, :, :24, :24]), records(x[200:, :, :24, :24]), 0)
    assert "pixel (1, 21, 11)" in names(small)
    signal = shift_test(records(x[:200, 1, :, :12]), records(x[200:, 1, :, :12]), 0)
    assert "value (20, 11)" in names(signal)


# -- its numbers are those of others


def test_p_of_a_shifted_column_is_that_of_mann_and_whitney() -> None:
    members, nonmembers = table(150, 1)
    x = np.round(members.x + 0.8, 1).astype(float), np.round(nonmembers.x, 1).astype(float)
    shift = shift_test(changed(members, x[0]), changed(nonmembers, x[1]), 0)
    theirs = stats.mannwhitneyu(x[0][:, 0], x[1][:, 0], method="asymptotic").pvalue
    smirnov = stats.kstwobign.sf(np.sqrt(75) * stats.ks_2samp(x[0][:, 0], x[1][:, 0]).statistic)
    assert theirs < smirnov
    # Two tests of the column; three values in all (class, class given the rest, column 0); two parts of the test.
    assert shift.features[0].p == pytest.approx(3 * 2 * theirs, rel=1e-6, abs=0)
    assert shift.p <= 2 * shift.features[0].p


def test_p_of_a_stretched_column_is_that_of_smirnov() -> None:
    members, nonmembers = table(400, 1)
    x = members.x.astype(float) * 4
    found = shift_test(changed(members, x), nonmembers, 0).features[0].p
    largest = stats.ks_2samp(x[:, 0], nonmembers.x[:, 0]).statistic
    assert found == pytest.approx(3 * 2 * stats.kstwobign.sf(np.sqrt(200) * largest), rel=1e-6, abs=0)


def test_p_of_the_class_is_that_of_chi_square() -> None:
    rng = np.random.default_rng(0)
    y = rng.choice(3, 300, p=[0.6, 0.3, 0.1]), rng.choice(3, 300, p=[0.3, 0.3, 0.4])
    x = np.zeros((300, 1))
    counts = np.array([np.bincount(side) for side in y])
    found = shift_test(records(x, y[0]), records(x, y[1]), 0).features
    assert [f.name for f in found] == ["class", "class, given the rest"]
    assert found[0].p == pytest.approx(3 * stats.chi2_contingency(counts, correction=False).pvalue, rel=1e-6, abs=0)


# -- what must not change it


@pytest.mark.parametrize("step", [0.0, 0.3])
def test_the_order_of_the_records_changes_nothing(step: float) -> None:
    members, nonmembers = table(300, 8)
    members = changed(members, members.x + np.float32(step) * (np.arange(8) == 2))
    nonmembers = nonmembers.take(np.r_[:300, :40])  # some of them twice
    persons = np.arange(300) // 2
    members = dataclasses.replace(members, persons=persons)
    nonmembers = dataclasses.replace(nonmembers, persons=1000 + np.arange(340))
    rng = np.random.default_rng(1)
    before = members.x.copy()
    first = shift_test(members, nonmembers, 4)
    assert first == shift_test(members, nonmembers, 4)
    assert first == shift_test(members.take(rng.permutation(300)), nonmembers.take(rng.permutation(340)), 4)
    assert first != shift_test(members, nonmembers, 5)
    assert np.array_equal(before, members.x)


# -- persons


def crowd(rng: Rng, persons: int, start: int) -> Records:
    """Twenty records of each person, each around a place of that person's own."""
    where = rng.normal(size=(persons, 6)).repeat(20, axis=0)
    return records(where + 0.1 * rng.normal(size=where.shape), persons=start + np.arange(persons).repeat(20))


def test_persons_are_looked_at_once_each() -> None:
    found = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        members, nonmembers = crowd(rng, 40, 0), crowd(rng, 30, 100)
        shift = shift_test(members, nonmembers, seed)
        assert shift.records == 60
        found.append(shift.found)
        # What would be found if twenty records of a person were twenty persons.
        naive = (dataclasses.replace(side, persons=None) for side in (members, nonmembers))
        assert shift_test(*naive, seed).found
    assert sum(found) <= 2
    rng = np.random.default_rng(0)
    apart = crowd(rng, 40, 0)
    assert shift_test(changed(apart, apart.x + 2), crowd(rng, 40, 100), 0).found


def test_records_of_persons_on_both_sides_were_dealt_out_one_by_one() -> None:
    rng = np.random.default_rng(0)
    both = crowd(rng, 10, 0)
    order = rng.permutation(200)
    assert shift_test(both.take(order[:100]), both.take(order[100:]), 0).records == 200


def test_too_few_persons_are_too_few() -> None:
    rng = np.random.default_rng(0)
    shift = shift_test(crowd(rng, FEWEST - 1, 0), crowd(rng, 40, 100), 0)
    assert not shift.found
    assert "19 independent records" in shift.untested


# -- what cannot be tested is not called fair


@pytest.mark.parametrize(("members", "nonmembers"), [(0, 100), (100, 0), (FEWEST - 1, 100), (100, FEWEST - 1)])
def test_too_few_records_are_not_called_fair(members: int, nonmembers: int) -> None:
    rng = np.random.default_rng(0)
    shift = shift_test(records(rng.random((members, 3))), records(9 + rng.random((nonmembers, 3))), 0)
    assert shift.untested
    assert shift.records == 0
    assert shift.detectable is None
    assert (shift.found, shift.p, shift.features) == (False, 1.0, ())


def test_the_fewest_that_are_enough() -> None:
    rng = np.random.default_rng(0)
    shift = shift_test(records(rng.random((FEWEST, 3))), records(9 + rng.random((FEWEST, 3))), 0)
    assert shift.found
    assert not shift.untested


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_what_is_not_finite_is_not_called_fair(wrong: float, side: int) -> None:
    sides = table(100, 3)
    x = sides[side].x.copy()
    x[5, 1] = wrong
    broken = [changed(each, x) if i == side else each for i, each in enumerate(sides)]
    assert "not finite" in shift_test(*broken, 0).untested


@pytest.mark.filterwarnings("error")
def test_constant_columns_and_a_single_class() -> None:
    flat = records(np.ones((50, 4)))
    shift = shift_test(flat, flat, 0)
    assert (shift.found, shift.p, shift.auc, shift.untested) == (False, 1.0, 0.5, "")
    assert shift_test(flat, changed(flat, flat.x * 2), 0).found
    assert shift_test(flat, changed(flat, y=np.ones(50)), 0).features[0].name == "class"
    rng = np.random.default_rng(0)
    x = rng.random((100, 1))
    every = shift_test(records(x[:50], np.arange(50)), records(x[50:], np.arange(50)), 0)
    assert not every.found
