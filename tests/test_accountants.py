"""Accounting, held against closed forms, a third accountant and published numbers; and how it fails."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import opacus
import pytest
from opacus.accountants.analysis.rdp import compute_rdp
from scipy.optimize import brentq
from scipy.stats import norm

from midguard.engine import registry
from midguard.engine.accountants import Bound, Run, account, epsilon_so_far, noise_for
from midguard.engine.accountants import _account as agreement
from midguard.engine.accountants._pairs import Steps, merged
from midguard.engine.accountants._renyi import _by_quadrature
from midguard.engine.accountants._variables import epsilon_of as variables
from midguard.engine.accountants.pld import Pld
from midguard.engine.accountants.prv import Prv
from midguard.engine.accountants.rdp import Rdp
from midguard.engine.accountants.selection import Selection
from midguard.engine.errors import AccountingError, Exit, InputError, NotMeasurable
from midguard.engine.ledger import (
    ENGINE_SAMPLER,
    Account,
    Adjacency,
    Claim,
    Event,
    Ledger,
    NonPrivate,
    Repetitions,
    SampledGaussian,
    Sampler,
    Tuned,
    Unit,
    read_ledger,
)
from midguard.engine.measure import Measure, Reads
from midguard.engine.measurement import Basis
from midguard.engine.measures.privacy.advantage import Advantage
from midguard.engine.measures.privacy.epsilon import Epsilon
from midguard.engine.measures.privacy.tpr import Tpr
from midguard.engine.training import train

DELTA = 1e-5


def gaussian(noise: float, q: float = 1.0, steps: int = 1) -> SampledGaussian:
    return SampledGaussian(q, noise, steps, 1.0, Sampler.POISSON, ENGINE_SAMPLER)


def ledger(*events: Event, records: int = 600, written_by: str = "midguard 0.1.0") -> Ledger:
    return Ledger(events=events, records=records, data="", model="", written_by=written_by)


#: n = 60,000, batches of 256, 60 epochs, noise 1.1.
STANDARD = ledger(gaussian(1.1, 256 / 60000, 14062), records=60000)


def analytic_epsilon(noise: float, steps: int, delta: float) -> float:
    """ε of composed plain Gaussians: Balle & Wang 2018, arXiv 1805.06530, theorem 8."""
    mu = math.sqrt(steps) / noise

    def excess(epsilon: float) -> float:
        return float(norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu) - delta)

    return float(brentq(excess, 0, 500, xtol=1e-10)) if excess(0) > 0 else 0.0


def test_accountants_say_nothing_of_what_they_have_no_theory_for() -> None:
    best = ledger(poisson(3.0))
    assert (Pld().epsilon(best, DELTA), Prv().epsilon(best, DELTA)) == (None, None)
    assert Selection().epsilon(STANDARD, DELTA) is None


def renyi_epsilon(event: SampledGaussian, delta: float) -> float:
    """An older, looser bound, by Rényi divergences."""
    from opacus.accountants import RDPAccountant

    rdp = RDPAccountant()
    rdp.history = [(event.noise_multiplier, event.sampling_probability, event.steps)]
    return float(rdp.get_epsilon(delta))


def test_the_standard_setting() -> None:
    """The published numbers, measured with other programs at this setting."""
    accounting = account(STANDARD, DELTA)
    bounds = {bound.name: bound for bound in accounting.bounds}
    assert set(bounds) == {"pld", "prv", "rdp"}
    assert bounds["pld"].epsilon == pytest.approx(2.3818, abs=2e-4)
    assert bounds["prv"].epsilon == pytest.approx(2.3918, abs=2e-4)
    assert bounds["rdp"].epsilon == pytest.approx(2.5967, abs=2e-3)
    assert accounting.epsilon == bounds["pld"].epsilon
    # Microsoft's accountant certifies 2.3715 as the lower end.
    assert accounting.low == pytest.approx(2.3715, abs=1e-3)


@pytest.mark.parametrize(("noise", "steps"), [(1.0, 1), (5.0, 1), (5.0, 50), (0.7, 3), (50.0, 10), (5.0, 5000)])
def test_plain_gaussians_have_a_closed_form(noise: float, steps: int) -> None:
    exact = analytic_epsilon(noise, steps, DELTA)
    for accountant in (Pld(), Prv()):
        bound = accountant.epsilon(ledger(gaussian(noise, 1.0, steps)), DELTA)
        assert exact <= bound.epsilon + 1e-9, f"{bound.name} is below the true value"
        assert bound.epsilon <= exact + 1.2 * bound.error + 2e-3


@pytest.mark.parametrize("noise", [0.8, 1.5, 4.0])
@pytest.mark.parametrize(("q", "steps"), [(0.01, 500), (0.1, 100), (0.5, 20)])
def test_pld_is_never_above_renyi(noise: float, q: float, steps: int) -> None:
    event = gaussian(noise, q, steps)
    assert Pld().epsilon(ledger(event), DELTA).epsilon <= renyi_epsilon(event, DELTA)


def test_more_noise_costs_less_and_more_of_anything_else_costs_more() -> None:
    def cost(noise: float = 1.5, q: float = 0.1, steps: int = 100, delta: float = DELTA) -> float:
        return account(ledger(gaussian(noise, q, steps)), delta, curve=False).epsilon

    assert cost(noise=1.0) > cost() > cost(noise=2.0)
    assert cost(q=0.05) < cost() < cost(q=0.2)
    assert cost(steps=50) < cost() < cost(steps=200)
    assert cost(delta=1e-6) > cost() > cost(delta=1e-4)


def test_events_compose() -> None:
    """Two runs cost more than either, less than the sum; cut in two, a run costs what it cost."""
    one, other = gaussian(1.5, 0.1, 100), gaussian(3.0, 0.2, 50)
    first, second = (account(ledger(event), DELTA, curve=False).epsilon for event in (one, other))
    both = account(ledger(one, other), DELTA, curve=False).epsilon
    assert max(first, second) < both < first + second
    halves = account(ledger(gaussian(1.5, 0.1, 40), gaussian(1.5, 0.1, 60)), DELTA, curve=False).epsilon
    assert halves == pytest.approx(first, abs=2e-3)


def test_equal_steps_are_counted_together_and_plain_ones_are_one() -> None:
    sampled, other = Steps(1.5, 0.1, 40, 1, replaced=False), Steps(1.5, 0.1, 60, 1, replaced=False)
    plain = [Steps(3.0, 1.0, 4, 1, replaced=False), Steps(6.0, 1.0, 5, 1, replaced=False)]
    both = merged([sampled, plain[0], other, plain[1]])
    assert both[0] == dataclasses.replace(sampled, count=100)
    assert (len(both), both[1].count) == (2, 1)
    assert both[1].mu == pytest.approx(math.sqrt(4 / 9 + 5 / 36))


def test_without_a_mechanism_the_cost_is_infinite() -> None:
    accounting = account(ledger(gaussian(1000.0), NonPrivate("trained without a mechanism")), DELTA)
    assert math.isinf(accounting.epsilon)
    assert math.isinf(accounting.low)
    assert accounting.curve == ()


def test_the_curve_rises_to_the_number_that_counts() -> None:
    accounting = account(ledger(gaussian(1.5, 0.1, 250), gaussian(2.0, 0.1, 50)), DELTA)
    steps, values = [p.step for p in accounting.curve], [p.epsilon for p in accounting.curve]
    assert len(steps) == 20
    assert steps[-1] == 300
    assert values[-1] == accounting.epsilon
    assert all(a < b for a, b in pairwise(steps))
    assert all(a <= b for a, b in pairwise(values))
    at = {p.step: p.epsilon for p in accounting.curve}
    assert at[150] == pytest.approx(Pld().epsilon(ledger(gaussian(1.5, 0.1, 150)), DELTA).epsilon, abs=0.02)


def test_a_single_step_has_a_curve_of_one_point() -> None:
    assert [p.step for p in account(ledger(gaussian(2.0)), DELTA).curve] == [1]


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan])
def test_an_impossible_delta_is_an_error(delta: float) -> None:
    for accountant in (Pld(), Prv(), Rdp()):
        with pytest.raises(AccountingError, match="delta"):
            accountant.epsilon(ledger(gaussian(1.0)), delta)
    with pytest.raises(AccountingError, match="delta"):
        Selection().epsilon(ledger(poisson(3.0)), delta)


def test_noise_that_is_too_small_for_one_accountant_is_left_to_the_others() -> None:
    """Ten steps of next to no noise at a rate of 1/10: a record takes part in some step as good as surely."""
    hardly = ledger(gaussian(0.05, 0.1, 10))
    assert Prv().epsilon(hardly, DELTA) is None
    found = account(hardly, DELTA, curve=False)
    mu = math.sqrt(10) / 0.05
    assert 200 < found.epsilon <= mu**2 / 2 + mu * norm.isf(DELTA)


# --- other samplers, neighbours and units ----------------------------------------------------------------------------


def bare(event: SampledGaussian, sampler: Sampler = Sampler.SHUFFLED) -> SampledGaussian:
    """The same steps, and nothing that shows how records were chosen."""
    return dataclasses.replace(event, sampler=sampler, evidence="")


def shuffled_at_least(noise: float, steps: int, delta: float) -> float:
    """A lower bound on ε of one shuffled epoch (Chua et al. 2024, arXiv 2403.17673): some batch has a sum above C."""
    c = np.linspace(-2, 12, 4001)
    log_others = (steps - 1) * norm.logcdf(c / noise)
    with_it = -np.expm1(log_others + norm.logcdf((c - 2) / noise))
    without = -np.expm1(log_others + norm.logcdf((c - 1) / noise))
    seen = (with_it > delta) & (without > 0)
    return float(np.log((with_it[seen] - delta) / without[seen]).max())


@pytest.mark.parametrize(
    ("noise", "steps", "poisson", "at_least", "at_most"),
    [
        (0.5, 1000, 3.24, 10.0, 10.0),
        (0.7, 1000, 0.609, 6.53, 6.65),
        (0.8, 234, 0.890, 5.55, 5.68),
        (1.1, 234, 0.307, 2.98, 3.92),
        (2.0, 234, 0.115, 0.247, 1.99),
    ],
)
def test_shuffled_batches_cost_what_no_sampling_costs(
    noise: float, steps: int, poisson: float, at_least: float, at_most: float
) -> None:
    """One epoch: the number for Poisson samples lies below what an attack on shuffled batches reaches."""
    event = gaussian(noise, 1 / steps, steps)
    assert account(ledger(event), DELTA, curve=False).epsilon == pytest.approx(poisson, rel=6e-3)
    assert shuffled_at_least(noise, steps, DELTA) == pytest.approx(at_least, rel=5e-3)
    for sampler in (Sampler.SHUFFLED, Sampler.UNKNOWN, Sampler.POISSON):
        found = account(ledger(bare(event, sampler)), DELTA, curve=False).epsilon
        assert found == pytest.approx(analytic_epsilon(noise, 1, DELTA), abs=1e-3)
        assert found == pytest.approx(at_most, rel=5e-3)
        assert found >= shuffled_at_least(noise, steps, DELTA)


def test_the_standard_setting_shuffled_and_with_a_record_replaced() -> None:
    shuffled = account(ledger(bare(STANDARD.events[0])), DELTA, curve=False)  # type: ignore[arg-type]
    assert shuffled.epsilon == pytest.approx(54.05, abs=0.01)
    assert shuffled.epsilon == pytest.approx(analytic_epsilon(1.1, 60, DELTA), abs=2e-3)
    replaced = account(dataclasses.replace(STANDARD, adjacency=Adjacency.REPLACE), DELTA, curve=False)
    said = {bound.name: bound for bound in replaced.bounds}
    assert replaced.epsilon == pytest.approx(4.2215, abs=2e-3)
    assert said["prv"].epsilon - said["prv"].error <= replaced.epsilon <= said["prv"].epsilon
    assert replaced.epsilon < said["rdp"].epsilon < 5


@pytest.mark.parametrize(
    ("changes", "factor"),
    [
        ({"adjacency": Adjacency.REPLACE}, 2),
        ({"unit": Unit.PERSON, "largest_group": 3}, 3),
        ({"unit": Unit.PERSON, "largest_group": 3, "adjacency": Adjacency.REPLACE}, 6),
        ({"unit": Unit.RECORD, "largest_group": 3}, 1),
    ],
)
def test_plain_gaussians_have_a_closed_form_for_every_neighbour(changes: dict[str, Any], factor: int) -> None:
    """A sum moves by as many clipping norms as the unit has records, twice that where they are replaced."""
    found = account(dataclasses.replace(ledger(gaussian(9.0, 1.0, 4)), **changes), DELTA, curve=False)
    assert found.epsilon == pytest.approx(analytic_epsilon(9.0 / factor, 4, DELTA), abs=2e-3)


def test_more_records_of_a_person_cost_more_and_never_more_than_all_at_once() -> None:
    def of(k: int) -> float:
        person = dataclasses.replace(ledger(gaussian(4.0, 0.1, 20)), unit=Unit.PERSON, largest_group=k)
        return account(person, DELTA, curve=False).epsilon

    one, two = of(1), of(2)
    assert one == account(ledger(gaussian(4.0, 0.1, 20)), DELTA, curve=False).epsilon
    # Two records that are sampled by themselves are never worse than two that both take part as soon as one does.
    alike = account(ledger(gaussian(4.0 / 2, 1 - 0.9**2, 20)), DELTA, curve=False).epsilon
    assert one < two <= alike


def test_sampled_records_of_a_person_that_are_replaced_are_refused() -> None:
    both = dataclasses.replace(
        ledger(gaussian(1.5, 0.1, 40)), unit=Unit.PERSON, largest_group=2, adjacency=Adjacency.REPLACE
    )
    with pytest.raises(NotMeasurable, match="add-or-remove-one"):
        account(both, DELTA)


def test_the_variable_that_is_written_out_here_is_opacus_own_where_that_has_one() -> None:
    steps = (Steps(1.2, 0.05, 100, 1, replaced=False),)
    accountant = opacus.accountants.PRVAccountant()
    accountant.history = [(1.2, 0.05, 100)]
    assert variables(steps, DELTA, 0.01) == pytest.approx(accountant.get_epsilon(DELTA), abs=1e-4)


@pytest.mark.parametrize("order", [1.5, 2.0, 8.0, 63.0])
@pytest.mark.parametrize(("noise", "q"), [(0.6, 0.01), (1.1, 0.2), (4.0, 0.5)])
def test_divergences_by_quadrature_are_those_of_the_known_formula(noise: float, q: float, order: float) -> None:
    """Mironov et al. 2019, as Opacus computes it, for one record added or removed; and q = 1 in closed form."""
    steps = Steps(noise, q, 1, 1, replaced=False)
    found = max(_by_quadrature(steps, order, removed) for removed in (True, False))
    assert found == pytest.approx(float(compute_rdp(q=q, noise_multiplier=noise, steps=1, orders=order)), rel=1e-6)
    whole = Steps(noise, 1.0, 1, 3, replaced=True)
    assert _by_quadrature(whole, order, removed=True) == pytest.approx(order * 36 / (2 * noise**2), rel=1e-9)


@pytest.mark.parametrize("count_noise", [0.5, 5.0, 100.0])
def test_adaptive_clipping_pays_for_its_count(count_noise: float) -> None:
    """Without sampling two Gaussian mechanisms side by side are one, in closed form."""
    event = dataclasses.replace(gaussian(2.0, 1.0, 3), count_noise_multiplier=count_noise)
    both = math.sqrt(3 / 4 + 3 / count_noise**2)
    found = account(ledger(event), DELTA, curve=False).epsilon
    assert found == pytest.approx(analytic_epsilon(1 / both, 1, DELTA), abs=2e-3)
    assert found > account(ledger(gaussian(2.0, 1.0, 3)), DELTA, curve=False).epsilon


@pytest.mark.calibrate
@pytest.mark.parametrize(
    ("delta", "adjacency"), [(1e-5, Adjacency.ADD_REMOVE), (1e-8, Adjacency.ADD_REMOVE), (1e-5, Adjacency.REPLACE)]
)
def test_the_accountants_agree_on_every_training_there_is(delta: float, adjacency: Adjacency) -> None:
    """No noise, rate and number of steps between a whisper and a shout makes an error of a disagreement."""
    for noise in (0.5, 0.7, 1.0, 2.0, 8.0, 50.0):
        costs = [
            [account(dataclasses.replace(ledger(gaussian(noise, q, steps)), adjacency=adjacency), delta, curve=False)
             for steps in (1, 100, 5000)]
            for q in (1e-4, 1e-2, 0.2, 1.0)
        ]  # fmt: skip
        assert all(a.epsilon <= b.epsilon for row in costs for a, b in pairwise(row))
        assert all(a.epsilon <= b.epsilon for column in zip(*costs, strict=True) for a, b in pairwise(column))
        assert all({"pld", "rdp"} <= {bound.name for bound in cost.bounds} for row in costs for cost in row)


def test_where_epsilon_is_in_the_hundreds_two_accountants_are_left() -> None:
    """A double ends at e^709: Opacus' answers beyond are noise, and such an ε fails every policy all the same."""
    found = account(ledger(gaussian(1.0, 1.0, 5000)), DELTA, curve=False)
    assert [bound.name for bound in found.bounds] == ["pld", "rdp"]
    assert found.epsilon == pytest.approx(2801.6, abs=1)
    assert Prv().epsilon(ledger(gaussian(1.0, 1.0, 5000)), DELTA) is None


@pytest.mark.parametrize("delta", [1e-16, 1e-18])
def test_a_delta_that_floating_point_cannot_tell_from_nothing_is_an_error(delta: float) -> None:
    with pytest.raises(AccountingError, match="no bound"):
        account(ledger(gaussian(1.1, 0.01, 100)), delta, curve=False)


# --- several trainings, and the best of many -------------------------------------------------------------------------


@pytest.mark.parametrize(("runs", "epsilon"), [(2, 3.50), (10, 8.92)])
def test_trainings_on_the_same_data_compose(runs: int, epsilon: float) -> None:
    together = dataclasses.replace(STANDARD, events=STANDARD.events * runs)
    assert account(together, DELTA, curve=False).epsilon == pytest.approx(epsilon, abs=5e-3)


@pytest.mark.calibrate
@pytest.mark.parametrize(("runs", "epsilon"), [(50, 24.8), (100, 40.1)])
def test_many_trainings_compose(runs: int, epsilon: float) -> None:
    together = dataclasses.replace(STANDARD, events=STANDARD.events * runs)
    assert account(together, DELTA, curve=False).epsilon == pytest.approx(epsilon, abs=0.06)


def negative_binomial(eta: float, gamma: float) -> Tuned:
    return Tuned(STANDARD.events[0], Repetitions.TRUNCATED_NEGATIVE_BINOMIAL, eta=eta, gamma=gamma)  # type: ignore[arg-type]


def poisson(mean: float) -> Tuned:
    return Tuned(STANDARD.events[0], Repetitions.POISSON, mean=mean)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("event", "mean", "epsilon"),
    [
        (negative_binomial(0.0, 0.1), 3.9, 3.86),
        (negative_binomial(0.0, 0.01), 21.5, 4.59),
        (negative_binomial(1.0, 0.1), 10.0, 5.05),
        (negative_binomial(1.0, 0.01), 100.0, 6.37),
        (poisson(3.0), 3.0, 3.28),
        (poisson(10.0), 10.0, 4.68),
        (poisson(50.0), 50.0, 11.4),
    ],
)
def test_the_best_of_many_runs_costs_the_published_numbers(event: Tuned, mean: float, epsilon: float) -> None:
    found = account(ledger(event, records=60000), DELTA)
    said = {bound.name: bound.epsilon for bound in found.bounds}
    assert event.expected_runs == pytest.approx(mean, rel=0.01)
    assert found.record.name == "rdp"
    assert found.epsilon == pytest.approx(epsilon, rel=3e-3)
    assert said["rdp"] <= said["selection"] + 1e-6
    assert (found.low, found.curve) == (0.0, ())


def test_a_number_of_runs_that_is_nearly_logarithmic_costs_what_the_logarithmic_one_does() -> None:
    """The two formulas of its mean meet at η = 0."""
    near, at = negative_binomial(1e-7, 0.05), negative_binomial(0.0, 0.05)
    assert near.expected_runs == pytest.approx(at.expected_runs, rel=1e-5)
    costs = [account(ledger(event), DELTA).epsilon for event in (near, at)]
    assert costs[0] == pytest.approx(costs[1], rel=1e-5)


def test_the_best_of_many_runs_composes_with_other_events() -> None:
    alone = account(ledger(poisson(3.0)), DELTA).epsilon
    both = account(ledger(poisson(3.0), STANDARD.events[0]), DELTA).epsilon
    assert alone < both < alone + 2.6
    assert math.isinf(account(ledger(poisson(3.0), NonPrivate("looked")), DELTA).epsilon)
    shuffled = dataclasses.replace(poisson(3.0), event=bare(STANDARD.events[0]))  # type: ignore[arg-type]
    assert account(ledger(shuffled), DELTA).epsilon > 54


def test_much_noise_costs_next_to_nothing() -> None:
    assert account(ledger(gaussian(1000.0, 0.1, 10)), DELTA).epsilon <= 0.011


@pytest.mark.parametrize("answer", [math.nan, math.inf, -0.1, OverflowError("too large"), None])
def test_accountants_fail_closed(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    """Whatever a library answers that is no bound becomes an error, never a small number."""
    from opacus.accountants import PRVAccountant

    def get_epsilon(*_: object, **__: object) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(PRVAccountant, "get_epsilon", get_epsilon)
    with pytest.raises(AccountingError, match="prv: no bound") as failed:
        Prv().epsilon(ledger(gaussian(1.0)), DELTA)
    assert failed.value.exit_code is Exit.CRASHED


class _Says:
    def __init__(self, bound: Bound) -> None:
        self._bound = bound

    def epsilon(self, ledger: Ledger, delta: float) -> Bound:
        return self._bound


@pytest.fixture
def accountants(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Lets a test put accountants in the place of the real ones."""

    def put(*bounds: Bound) -> None:
        by_name = {bound.name: _Says(bound) for bound in sorted(bounds, key=lambda bound: bound.name)}
        monkeypatch.setattr(agreement, "names", lambda _: tuple(by_name))
        monkeypatch.setattr(agreement, "_accountant", by_name.__getitem__)
        agreement._bounds.cache_clear()

    yield put
    agreement._bounds.cache_clear()


@pytest.mark.parametrize(
    ("other", "agrees"),
    [(2.0, True), (2.06, True), (2.062, False), (1.941, True), (1.939, False), (0.0, False), (math.inf, False)],
)
def test_disagreement_beyond_the_stated_errors_is_an_error(accountants: Any, other: float, agrees: bool) -> None:
    accountants(Bound("prv", 2.0, 0.02), Bound("pld", other, 0.001))
    if agrees:
        assert account(ledger(gaussian(1.0)), DELTA, curve=False).epsilon == other
        return
    with pytest.raises(AccountingError, match="disagree"):
        account(ledger(gaussian(1.0)), DELTA, curve=False)


@pytest.mark.parametrize(("epsilon", "agrees"), [(2.0, True), (2.0029, True), (2.0041, False), (math.inf, False)])
def test_the_number_of_record_is_never_above_a_looser_bound(accountants: Any, epsilon: float, agrees: bool) -> None:
    accountants(Bound("pld", epsilon, 0.0), Bound("prv", epsilon, 0.02), Bound("rdp", 2.0, 0.0, one_sided=True))
    if agrees:
        assert account(ledger(gaussian(1.0)), DELTA, curve=False).epsilon == epsilon
        return
    with pytest.raises(AccountingError, match="rdp says"):
        account(ledger(gaussian(1.0)), DELTA, curve=False)


def test_a_looser_bound_may_lie_above(accountants: Any) -> None:
    accountants(Bound("pld", 2.0, 1e-4), Bound("prv", 2.01, 0.02), Bound("rdp", 9.0, 0.0, one_sided=True))
    found = account(ledger(gaussian(1.0)), DELTA, curve=False)
    assert (found.epsilon, found.low) == (2.0, pytest.approx(1.99))
    assert [bound.name for bound in found.bounds] == ["pld", "prv", "rdp"]


def test_only_the_accountants_of_record_give_the_number(accountants: Any) -> None:
    accountants(Bound("prv", 2.0, 0.02), Bound("selection", 2.0, 0.0, one_sided=True))
    with pytest.raises(AccountingError, match="no other number counts"):
        account(ledger(gaussian(1.0)), DELTA, curve=False)


def test_one_accountant_is_not_enough(accountants: Any) -> None:
    accountants(Bound("pld", 2.0, 0.02))
    with pytest.raises(AccountingError, match="two independent"):
        account(ledger(gaussian(1.0)), DELTA, curve=False)


@pytest.mark.parametrize(("epsilon", "error"), [(math.nan, 0.0), (-1.0, 0.0), (1.0, -0.1), (1.0, math.inf)])
def test_impossible_bounds_cannot_be_built(epsilon: float, error: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        Bound("a", epsilon, error)


def test_the_fast_bound_is_a_bound() -> None:
    planned = gaussian(1.7, 0.105, 570)
    fast = epsilon_so_far(planned, 570, DELTA)
    exact = Pld().epsilon(ledger(planned), DELTA).epsilon
    assert exact <= fast <= exact + 0.02
    assert epsilon_so_far(planned, 57, DELTA) < fast


# --- how much noise --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [0.5, 2.0, 8.0])
def test_the_noise_meets_the_target_by_the_number_of_record(target: float) -> None:
    run = Run(0.1, 300, 1.0)
    noise = noise_for(run, target, DELTA)
    accounting = account(ledger(run.with_noise(noise)), DELTA, curve=False)
    assert 0.99 * target <= accounting.epsilon <= target
    assert noise == round(noise, 4)


def test_a_target_that_no_noise_meets_is_refused() -> None:
    with pytest.raises(InputError, match="no noise multiplier up to 1000"):
        noise_for(Run(1.0, 10000, 1.0), 0.01, DELTA)
    with pytest.raises(InputError, match="no noise multiplier"):
        noise_for(Run(0.1, 10, 1.0), 1e-9, DELTA)


# --- the measure -----------------------------------------------------------------------------------------------------


def test_a_ledger_of_midguards_own_is_a_proof() -> None:
    measured = Epsilon(DELTA).measure(Account(STANDARD, None), 0.05)
    assert measured.basis is Basis.PROVED
    assert measured.value == measured.high == pytest.approx(2.3818, abs=2e-4)
    assert 2.36 < measured.low < 2.3818
    assert measured.confidence == 1.0
    assert measured.records == 60000
    assert {q.name: q.value for q in measured.details}["ε by pld"] == pytest.approx(2.3818, abs=2e-4)


def test_a_ledger_counts_before_a_claim() -> None:
    measured = Epsilon(DELTA, basis="declared").measure(Account(STANDARD, Claim(0.1, DELTA)), 0.05)
    assert measured.basis is Basis.PROVED
    assert measured.value > 2


def test_plain_training_is_infinitely_above_every_limit() -> None:
    account_of = Account(ledger(NonPrivate("trained without a mechanism")), Claim(1.0, DELTA))
    measured = Epsilon(DELTA).measure(account_of, 0.05)
    assert measured.basis is Basis.PROVED
    assert (measured.low, measured.value, measured.high) == (math.inf, math.inf, math.inf)


@pytest.mark.parametrize(
    "known",
    [
        Account(None, None),
        Account(None, Claim(1.0, DELTA)),
        Account(ledger(gaussian(9.0), written_by="me"), None),
        Account(ledger(gaussian(9.0), written_by=""), Claim(1.0, DELTA)),
    ],
)
def test_nothing_but_a_proof_is_accepted_as_one(known: Account) -> None:
    with pytest.raises(NotMeasurable, match="midguard train") as missing:
        Epsilon(DELTA).measure(known, 0.05)
    assert missing.value.exit_code is Exit.UNDECIDED


def test_without_a_claim_nothing_is_declared() -> None:
    with pytest.raises(NotMeasurable, match="no ledger"):
        Epsilon(DELTA, basis="declared").measure(Account(None, None), 0.05)


@pytest.mark.parametrize(("delta", "counts"), [(1e-6, True), (1e-5, True), (1.1e-5, False), (1e-4, False)])
def test_a_claim_counts_at_a_smaller_delta_alone(delta: float, counts: bool) -> None:
    measured = Epsilon(DELTA, basis="declared").measure(Account(None, Claim(3.0, delta)), 0.05)
    assert measured.basis is Basis.DECLARED
    assert measured.finite is counts
    if counts:
        assert (measured.low, measured.value, measured.high) == (3.0, 3.0, 3.0)


def test_an_infinite_claim_says_nothing() -> None:
    measured = Epsilon(DELTA, basis="declared").measure(Account(None, Claim(math.inf, 0.0)), 0.05)
    assert math.isnan(measured.high)


def test_somebody_elses_ledger_is_a_declaration() -> None:
    foreign = ledger(gaussian(1.1, 256 / 60000, 14063), records=60000, written_by="opacus 1.6")
    measured = Epsilon(DELTA, basis="declared").measure(Account(foreign, Claim(0.1, DELTA)), 0.05)
    assert measured.basis is Basis.DECLARED
    assert measured.value == pytest.approx(2.3818, abs=2e-4)


def test_a_delta_that_protects_nobody_is_not_measured() -> None:
    with pytest.raises(NotMeasurable, match="at random would satisfy"):
        Epsilon(0.01).measure(Account(ledger(gaussian(9.0), records=100), None), 0.05)


def test_an_accountant_that_fails_stops_the_measure() -> None:
    with pytest.raises(AccountingError):
        Epsilon(1e-16).measure(Account(ledger(gaussian(1.1, 0.01, 100)), None), 0.05)


@pytest.mark.parametrize(
    "wrong", [{"delta": 0.0}, {"delta": 1.0}, {"delta": DELTA, "unit": "user"}, {"delta": DELTA, "basis": "felt"}]
)
def test_impossible_parameters_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected|unknown"):
        Epsilon(**wrong)


def test_it_is_found_by_its_path() -> None:
    assert registry.load("measures", "privacy.epsilon") is Epsilon
    assert isinstance(Epsilon(DELTA), Measure)
    assert Epsilon.reads is Reads.ACCOUNT
    assert not Epsilon.higher_is_safer
    assert Epsilon(DELTA).no_leak() == 0
    with pytest.raises(TypeError, match="account"):
        Epsilon(DELTA).measure(None, 0.05)  # type: ignore[arg-type]


# --- a training that happened ----------------------------------------------------------------------------------------

RECIPE = """
apiVersion: midguard.dev/v1
kind: Recipe
metadata: {name: line, version: '1'}
spec:
  architecture: {name: linear}
  task: {kind: classification, classes: 2, input: [1], range: [0, 1]}
  data: {members: {file: members.npz}}
  defense: {name: dp_sgd, noise_multiplier: 1.1, delta: 1.0e-5, clipping_norm: 1.0}
  optimizer: {name: sgd, lr: 0.1}
  epochs: 60
  batch_size: 256
  release: {exposes: probabilities}
"""


@pytest.mark.calibrate
def test_a_real_training_writes_the_ledger_of_the_standard_setting(tmp_path: Path) -> None:
    """60,000 records of one value, 14,062 real steps: every published number from the file that training wrote."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 60000)
    x = np.clip(0.5 + 0.2 * (y - 0.5) + 0.1 * rng.normal(size=60000), 0, 1).astype(np.float32)[:, None]
    np.savez(tmp_path / "members.npz", x=x, y=y)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    train(tmp_path / "recipe.yaml", tmp_path / "out")
    written = read_ledger(tmp_path / "out" / "ledger.json")
    assert written.events == STANDARD.events
    known = Account(written, None)
    assert Epsilon(DELTA).measure(known, 0.0).value == pytest.approx(2.382, abs=2e-3)
    assert Epsilon(DELTA, adjacency="replace-one").measure(known, 0.0).value == pytest.approx(4.22, abs=5e-3)
    assert Advantage().measure(known, 0.0).value == pytest.approx(0.2245, abs=5e-4)
    assert Tpr(fpr=1e-4).measure(known, 0.0).value == pytest.approx(0.00086, abs=5e-6)
    shuffled = dataclasses.replace(written, events=(bare(written.events[0]),))  # type: ignore[arg-type]
    assert Epsilon(DELTA).measure(Account(shuffled, None), 0.0).value == pytest.approx(54.05, abs=0.01)
