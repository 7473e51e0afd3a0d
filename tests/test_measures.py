"""Measures over raw observations: what they refuse, and what they make of planted leaks and nulls."""

from __future__ import annotations

import math

import numpy as np
import pytest

from midguard.engine.ledger import Account
from midguard.engine.measurement import Basis, Measurement, undetermined
from midguard.engine.measures.inversion.distance import Distance
from midguard.engine.measures.inversion.identification import Identification
from midguard.engine.measures.membership.advantage import Advantage
from midguard.engine.measures.membership.auc import Auc
from midguard.engine.measures.membership.tpr import Tpr
from midguard.engine.measures.utility.accuracy import Accuracy
from midguard.engine.observation import Goal, Membership, Predictions, Reconstruction

MEMBERSHIP = (Advantage(), Tpr(fpr=0.1), Auc())


def membership(n: int = 500, leak: float = 0.0, seed: int = 0) -> Membership:
    members = np.arange(2 * n) < n
    scores = np.random.default_rng(seed).normal(size=2 * n) + leak * members
    return Membership(scores, members, np.zeros(2 * n, dtype=np.int64))


def reconstruction(
    n: int = 100, relative: float = 1.0, hits: int = 0, false: int = 0, evaluators: int = 3, seed: int = 0
) -> Reconstruction:
    base = np.random.default_rng(seed).random(n) + 0.5
    votes, nothing = np.zeros((n, evaluators), dtype=bool), np.zeros((n, evaluators), dtype=bool)
    votes[:hits, : evaluators // 2 + 1] = True
    nothing[:false, : evaluators // 2 + 1] = True
    names = ("nearest neighbour", "LDA", "network", "forest")[:evaluators]
    return Reconstruction(
        Goal.CLASS, np.arange(n), np.arange(n), relative * base, 1 - relative * base,
        ("global mean", "class mean"), np.stack([2 * base, base]), 1 - np.stack([2 * base, base]), names,
        votes, nothing, np.full(evaluators, 0.9),
    )  # fmt: skip


@pytest.mark.parametrize("measure", MEMBERSHIP)
def test_a_planted_leak_is_found_and_a_null_is_not(measure: Advantage | Tpr | Auc) -> None:
    leaky, null = measure.measure(membership(leak=3.0), 0.01), measure.measure(membership(), 0.01)
    assert leaky.low > measure.no_leak() + 0.3
    assert null.low <= measure.no_leak() <= null.high
    assert leaky.basis is Basis.ATTACKED
    assert leaky.records == 1000
    assert leaky.confidence == pytest.approx(0.99)


@pytest.mark.parametrize("measure", MEMBERSHIP)
@pytest.mark.parametrize("broken", ["one", "all"])
def test_nan_scores_say_nothing(measure: Advantage | Tpr | Auc, broken: str) -> None:
    seen = membership(leak=3.0)
    scores = seen.scores.copy()
    scores[: 1 if broken == "one" else None] = np.nan
    found = measure.measure(Membership(scores, seen.members, seen.groups), 0.05)
    assert math.isnan(found.value)
    assert not found.finite


@pytest.mark.parametrize("measure", MEMBERSHIP)
def test_one_sided_records_say_nothing(measure: Advantage | Tpr | Auc) -> None:
    everyone = Membership(np.ones(10), np.ones(10, dtype=bool), np.zeros(10, dtype=np.int64))
    assert math.isnan(measure.measure(everyone, 0.05).value)


@pytest.mark.parametrize("measure", MEMBERSHIP)
def test_infinite_scores_are_scores(measure: Advantage | Tpr | Auc) -> None:
    """A model that is sure of a member to the last bit gives +inf: that is the strongest answer, not a missing one."""
    members = np.arange(400) < 200
    scores = np.where(members, np.inf, 0.0)
    assert measure.measure(Membership(scores, members, members * 1), 0.05).value == 1.0


def test_tpr_reports_its_counts_and_what_they_can_decide() -> None:
    found = Tpr(fpr=0.01).measure(membership(n=1000, leak=1.0), 0.05)
    details = {d.name: d.value for d in found.details}
    assert details["nonmembers"] == 1000
    assert details["false positives"] <= 10
    assert details["realised FPR"] == details["false positives"] / 1000
    assert details["members found"] / details["members"] == pytest.approx(found.value)


@pytest.mark.parametrize("fpr", [0.0, 1.0, -0.1, math.nan])
def test_an_impossible_fpr_is_refused(fpr: float) -> None:
    with pytest.raises(ValueError, match="fpr"):
        Tpr(fpr=fpr)


@pytest.mark.parametrize("quantile", [0.0, 1.0, math.nan])
def test_an_impossible_quantile_is_refused(quantile: float) -> None:
    with pytest.raises(ValueError, match="quantile"):
        Distance(quantile=quantile)


@pytest.mark.parametrize("metric", ["mse", "ssim"])
def test_distance_is_relative_to_the_best_guess_without_the_model(metric: str) -> None:
    measure = Distance(metric=metric, quantile=0.5)  # type: ignore[arg-type]
    assert measure.measure(reconstruction(relative=0.5), 0.01).value == pytest.approx(0.5)
    assert measure.measure(reconstruction(relative=1.0), 0.01).value == pytest.approx(1.0)
    worse = measure.measure(reconstruction(relative=1.3), 0.01)
    assert worse.low > 1.2


def test_the_best_guess_is_the_best_at_the_quantile_that_is_asked() -> None:
    """A guess that is near to a few and far from most is the best in the tail and not in the middle."""
    import dataclasses

    seen = reconstruction()
    few = np.where(np.arange(100) < 10, 0.01, 9.0)
    seen = dataclasses.replace(seen, baseline_mse=np.stack([seen.baseline_mse[1], few]))
    assert Distance(quantile=0.05).best_guess(seen).name == "class mean"
    assert Distance(quantile=0.5).best_guess(seen).name == "global mean"


@pytest.mark.parametrize("column", ["mse", "baseline_mse"])
def test_a_distance_that_is_no_number_says_nothing(column: str) -> None:
    import dataclasses

    seen = reconstruction(relative=0.5)
    values = getattr(seen, column).copy()
    values[..., 3] = np.nan
    assert math.isnan(Distance(quantile=0.5).measure(dataclasses.replace(seen, **{column: values}), 0.05).value)


def test_ssim_of_records_that_are_no_images_says_nothing() -> None:
    import dataclasses

    seen = dataclasses.replace(reconstruction(), ssim=np.full(100, np.nan))
    assert math.isnan(Distance(metric="ssim", quantile=0.5).measure(seen, 0.05).value)


def test_identification_subtracts_the_evaluators_own_false_positives() -> None:
    found = Identification().measure(reconstruction(n=200, hits=120, false=40), 0.05)
    assert found.value == pytest.approx(0.6 - 0.2)
    assert found.low < 0.4 < found.high
    assert found.low > 0.25


@pytest.mark.parametrize("hits", [1, 4, 20])
def test_forty_people_are_few(hits: int) -> None:
    """A share of forty is uncertain by .06 to .16 (Wilson, by hand); a limit within that is neither met nor broken."""
    found = Identification().measure(reconstruction(n=40, hits=hits, false=0), 0.05)
    share = hits / 40
    centre, half = (
        (share + 1.92 / 40) / (1 + 3.84 / 40),
        1.96 * np.sqrt(share * (1 - share) / 40 + 0.96 / 40**2) / 1.096,
    )
    assert found.low <= centre - half + 0.02
    assert found.high >= centre + half - 0.02
    assert found.high - found.low > 0.1


def test_identification_needs_a_majority() -> None:
    """One of three evaluators naming everybody identifies nobody."""
    import dataclasses

    seen = reconstruction(n=50)
    votes = np.zeros((50, 3), dtype=bool)
    votes[:, 0] = True
    assert Identification().measure(dataclasses.replace(seen, votes=votes), 0.05).value == 0.0


def test_fewer_than_three_evaluators_identify_nothing() -> None:
    assert math.isnan(Identification().measure(reconstruction(hits=100, evaluators=2), 0.05).value)


def test_accuracy_is_the_share_with_exact_limits() -> None:
    labels = np.arange(100) % 10
    predicted = np.where(np.arange(100) < 80, labels, (labels + 1) % 10)
    found = Accuracy().measure(Predictions(labels, predicted), 0.05)
    assert found.value == pytest.approx(0.8)
    assert found.low == pytest.approx(0.7082, abs=1e-4)  # Clopper & Pearson for 80 of 100, from tables
    assert found.high == pytest.approx(0.8733, abs=1e-4)
    assert found.basis is Basis.OBSERVED


@pytest.mark.parametrize("measure", [*MEMBERSHIP, Distance(), Identification(), Accuracy()])
def test_an_observation_of_another_kind_is_refused(measure: Advantage) -> None:
    with pytest.raises(TypeError, match="expected"):
        measure.measure(Account(None, None), 0.05)


def test_a_measurement_is_impossible_to_build_wrong() -> None:
    with pytest.raises(ValueError, match="low <= value <= high"):
        Measurement(0.5, 0.6, 0.7, 0.95, 10, Basis.ATTACKED)
    with pytest.raises(ValueError, match="confidence"):
        Measurement(0.5, 0.4, 0.7, 0.0, 10, Basis.ATTACKED)
    assert not undetermined(0.95, 10, Basis.ATTACKED).finite
