"""What a ledger proves of every attack: held against closed forms and published numbers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from midguard.engine import bounds
from midguard.engine.bounds import advantage_bound, tpr_bound
from midguard.engine.errors import AccountingError
from midguard.engine.ledger import ENGINE_SAMPLER, Ledger, NonPrivate, SampledGaussian, Sampler

FPR = np.array([1e-4, 1e-3, 1e-2, 5e-2, 1e-1])
#: 60 epochs over 60,000 records in Poisson batches of 256 at noise 1.1.
STANDARD = SampledGaussian(256 / 60_000, 1.1, 14_062, 1.0, Sampler.POISSON, ENGINE_SAMPLER)


def ledger(*events: SampledGaussian | NonPrivate) -> Ledger:
    return Ledger(events, records=60_000, data="0" * 64, model="1" * 64, written_by="midguard 0.1.0")


def test_the_standard_training_has_its_known_curve() -> None:
    found = tpr_bound(ledger(STANDARD), FPR)
    assert found == pytest.approx([0.00086, 0.00605, 0.0402, 0.142, 0.2396], rel=5e-3)
    assert advantage_bound(ledger(STANDARD)) == pytest.approx(0.2245, abs=1e-4)


@pytest.mark.parametrize("noise", [0.5, 1.0, 4.0])
def test_one_gaussian_sum_has_the_curve_of_two_normal_distributions(noise: float) -> None:
    rates = np.array([1e-6, 1e-4, 1e-2, 0.1, 0.5, 0.9])
    found = tpr_bound(ledger(SampledGaussian(1.0, noise, 1, 1.0)), rates)
    exact = norm.cdf(norm.ppf(rates) + 1 / noise)
    assert found == pytest.approx(exact, rel=2e-3)
    assert (found >= exact - 1e-9).all()
    assert advantage_bound(ledger(SampledGaussian(1.0, noise, 1, 1.0))) == pytest.approx(
        2 * norm.cdf(0.5 / noise) - 1, abs=1e-3
    )


def test_many_sums_are_one_with_less_noise_and_events_compose() -> None:
    whole = tpr_bound(ledger(SampledGaussian(1.0, 6.0, 9, 1.0)), FPR)
    parts = tpr_bound(ledger(SampledGaussian(1.0, 6.0, 4, 1.0), SampledGaussian(1.0, 6.0, 5, 1.0)), FPR)
    assert whole == pytest.approx(norm.cdf(norm.ppf(FPR) + 3 / 6.0), rel=2e-3)
    assert parts == pytest.approx(whole, rel=1e-3)


def test_the_bound_lies_between_guessing_and_one_and_rises() -> None:
    rates = np.linspace(0, 1, 101)
    found = tpr_bound(ledger(STANDARD), rates)
    assert found is not None
    assert (found >= rates - 1e-12).all()
    assert (found <= 1).all()
    assert (np.diff(found) >= 0).all()


def test_what_happened_without_a_mechanism_proves_nothing() -> None:
    spoiled = ledger(STANDARD, NonPrivate("the learning rate was chosen on these records"))
    assert tpr_bound(spoiled, FPR) is None
    assert advantage_bound(spoiled) is None


def test_a_computation_that_breaks_is_no_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    event = SampledGaussian(0.5, 3.0, 2, 1.0)
    for broken in (np.array([np.nan]), np.array([0.1, 0.2]), np.array([-0.1])):
        bounds._divergences.cache_clear()
        monkeypatch.setattr(bounds, "_composed", lambda _, found=broken: found)
        with pytest.raises(AccountingError, match="no trade-off curve"):
            tpr_bound(ledger(event), FPR)
    bounds._divergences.cache_clear()
