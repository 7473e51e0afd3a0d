"""Each evidence test by itself, on steps that are made up: what it must find, what it must leave alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from midguard.engine import registry
from midguard.engine.audit import LEVEL, Claimed, Found, Planned, Training
from midguard.engine.defenses import StepSeen
from midguard.engine.ledger import SampledGaussian

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy import float64, int64
    from numpy.typing import NDArray

    from midguard.engine.audit import Observer

N, Q, STEPS, SIGMA, NORM = 1000, 0.05, 200, 1.3, 0.7
SIZES = (120, 180)
TOTAL = sum(SIZES)
EVENT = SampledGaussian(Q, SIGMA, STEPS, NORM)


def claimed(event: SampledGaussian = EVENT, records: int = N) -> Claimed:
    return Claimed(event, records, 1e-5, lambda fpr: np.minimum(1.0, 3 * fpr + 0.1))


def observer(name: str, **settings: Any) -> Observer:
    plugin: Any = registry.load("audits", name)
    planned = Planned((3,), 2, (0.0, 1.0), N, b"a key")
    return plugin(**settings).plan(planned)  # type: ignore[no-any-return]


def training(event: SampledGaussian = EVENT) -> Training:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    return Training(module, module, tuple(torch.nn.Parameter(torch.zeros(size)) for size in SIZES), event)


@dataclass
class Steps:
    """Made-up steps; each part can be broken."""

    chance: np.random.Generator = field(default_factory=lambda: np.random.default_rng(5))
    noise: Callable[[int, NDArray[float64]], NDArray[float64]] = lambda step, noise: noise
    samples: Callable[[int], NDArray[int64]] | None = None

    def __iter__(self) -> Iterator[StepSeen]:
        for step in range(STEPS):
            sums = torch.from_numpy(self.chance.normal(size=TOTAL) * 5)
            noise = self.noise(step, self.chance.normal(size=TOTAL))
            noised = sums + torch.from_numpy(noise) * SIGMA * NORM
            sample = np.flatnonzero(self.chance.random(N) < Q) if self.samples is None else self.samples(step)
            yield StepSeen(step, sample, sums.split(SIZES), noised.split(SIZES), NORM, SIGMA)


def outcome(name: str, steps: Steps, claim: Claimed | None = None) -> Found:
    watching = observer(name)
    watching.begins(training())
    for seen in steps:
        watching.saw(seen, None)
    return watching.found(claim or claimed(), torch.nn.Linear(3, 2))


@pytest.mark.parametrize("name", ["noise_meter", "whiteness", "batch_sizes"])
def test_what_is_as_the_ledger_says_is_left_alone(name: str) -> None:
    found = outcome(name, Steps())
    assert found.p > LEVEL
    assert found.conclusive


# The noise meter

NOISES: dict[str, Callable[[int, NDArray[float64]], NDArray[float64]]] = {
    "a tenth less noise": lambda step, noise: noise * 0.9,
    "no noise in one step of 200": lambda step, noise: noise * (step != 17),
    "no noise on one parameter of two": lambda step, noise: np.where(np.arange(TOTAL) < SIZES[0], 0.0, noise),
}


@pytest.mark.parametrize("name", NOISES)
def test_the_noise_meter_finds(name: str) -> None:
    assert outcome("noise_meter", Steps(noise=NOISES[name])).p <= LEVEL


def test_more_noise_than_was_said_is_no_breach_and_is_remarked_upon() -> None:
    found = outcome("noise_meter", Steps(noise=lambda step, noise: noise * 2))
    assert found.p > LEVEL
    assert "more than was said" in found.detail
    assert found.statistic > 100


def test_the_noise_meter_gives_the_z_of_the_variance() -> None:
    """Noise of exactly half the deviation: z = (1/4 - 1)/sqrt(2/dof), by hand."""
    halves = Steps(noise=lambda step, noise: np.full(TOTAL, 0.5))
    assert outcome("noise_meter", halves).statistic == pytest.approx(-0.75 / math.sqrt(2 / (STEPS * TOTAL)), rel=1e-6)


def test_a_meter_that_saw_next_to_nothing_is_inconclusive() -> None:
    watching = observer("noise_meter")
    one = torch.tensor([1.0])
    watching.saw(StepSeen(0, np.arange(3), (one,), (one + 0.4,), 1.0, 1.0), None)
    assert not watching.found(claimed(), torch.nn.Linear(1, 1)).conclusive


# Whiteness


def repeating(period: int) -> Callable[[int, NDArray[float64]], NDArray[float64]]:
    kept: dict[int, NDArray[float64]] = {}
    return lambda step, noise: kept.setdefault(step % period, noise)


def turned(period: int) -> Callable[[int, NDArray[float64]], NDArray[float64]]:
    kept = repeating(period)
    return lambda step, noise: -0.5 * kept(step, noise) if step >= period else kept(step, noise)


COLOURS: dict[str, Callable[[int, NDArray[float64]], NDArray[float64]]] = {
    "the same noise every step": repeating(1),
    "a generator that is seeded anew each epoch": repeating(20),
    "the same noise once more, halved and turned": turned(150),
    "one number for all coordinates": lambda step, noise: np.full(TOTAL, noise[0]),
    "the second half repeats the first": lambda step, noise: np.tile(noise[: TOTAL // 2], 2),
    "no noise at all": lambda step, noise: noise * 0,
}


@pytest.mark.parametrize("name", COLOURS)
def test_whiteness_finds(name: str) -> None:
    assert outcome("whiteness", Steps(noise=COLOURS[name])).p <= LEVEL


def test_whiteness_finds_noise_that_carries_a_part_of_the_last_step_over() -> None:
    last = np.zeros(TOTAL)

    def carried(step: int, noise: NDArray[float64]) -> NDArray[float64]:
        nonlocal last
        last = noise + 0.15 * last
        return last

    assert outcome("whiteness", Steps(noise=carried)).p <= LEVEL


def test_less_noise_is_not_less_white() -> None:
    assert outcome("whiteness", Steps(noise=lambda step, noise: noise * 0.1)).p > LEVEL


# Batch sizes


def shuffled(step: int) -> NDArray[int64]:
    """Once an epoch of 20 steps, in random order."""
    order = np.random.default_rng(step // 20).permutation(N)
    return np.sort(order.reshape(20, -1)[step % 20])


def of_fixed_size(step: int) -> NDArray[int64]:
    """Drawn without replacement: the size tells."""
    return np.sort(np.random.default_rng(step).permutation(N)[: round(N * Q)])


def the_same_batches(step: int) -> NDArray[int64]:
    """Poisson samples that come back every epoch."""
    return np.flatnonzero(np.random.default_rng(step % 20).random(N) < Q)


def more_often(step: int) -> NDArray[int64]:
    return np.flatnonzero(np.random.default_rng(step).random(N) < 1.1 * Q)


def some_more_than_others(step: int) -> NDArray[int64]:
    """A weighted sampler: right on average, and not for anybody."""
    weights = np.where(np.arange(N) < N // 10, 3 * Q, 0.7 / 0.9 * Q)
    return np.flatnonzero(np.random.default_rng(step).random(N) < weights)


@pytest.mark.parametrize("samples", [shuffled, of_fixed_size, the_same_batches, more_often, some_more_than_others])
def test_batch_sizes_finds(samples: Callable[[int], NDArray[int64]]) -> None:
    assert outcome("batch_sizes", Steps(samples=samples)).p <= LEVEL


def test_more_steps_than_the_ledger_says_are_a_breach() -> None:
    fewer = claimed(SampledGaussian(Q, SIGMA, STEPS - 1, NORM))
    assert outcome("batch_sizes", Steps(), fewer).p == 0.0


def test_a_handful_of_steps_is_inconclusive() -> None:
    watching = observer("batch_sizes")
    for seen in list(Steps())[:3]:
        watching.saw(seen, None)
    assert not watching.found(claimed(), torch.nn.Linear(1, 1)).conclusive


@pytest.mark.calibrate
@pytest.mark.parametrize("name", ["noise_meter", "whiteness", "batch_sizes"])
def test_p_is_small_no_more_often_than_it_says(name: str) -> None:
    """At 5 % over 400 runs, and three standard errors; at the level that is used, at most three alarms."""
    p = np.array([outcome(name, Steps(np.random.default_rng(seed))).p for seed in range(400)])
    assert (p <= 0.05).mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)
    assert (p <= LEVEL).sum() <= 3


# Canaries


def test_no_step_leaves_every_test_without_a_number() -> None:
    for name in ("noise_meter", "whiteness", "batch_sizes", "clip_probe"):
        watching = observer(name)
        watching.begins(training())
        found = watching.found(claimed(), torch.nn.Linear(3, 2))
        assert math.isnan(found.p)
        assert not found.conclusive


def test_gradient_canaries_stay_within_the_clipping_norm_and_on_coordinates_of_their_own() -> None:
    watching = observer("gradient_canaries")
    watching.begins(training())
    seen = np.zeros(TOTAL)
    for step in range(400):
        parts = watching.contribute(step, NORM)
        assert parts is not None
        flat = torch.cat([part.flatten() for part in parts]).double().numpy()
        np.testing.assert_allclose(np.abs(flat[flat != 0]), NORM, rtol=1e-6)
        seen += flat != 0
    assert watching.planted.gradients == TOTAL // 10
    assert 0 < (seen > 0).sum() <= TOTAL // 10
    # Each that is in enters with probability q: within five standard deviations of 400 coins, for thirty canaries.
    rates = seen[seen > 0] / 400
    assert (np.abs(rates - Q) < 5 * math.sqrt(Q * (1 - Q) / 400)).all()


def test_the_scores_of_gradient_canaries_are_log_likelihood_ratios() -> None:
    """Against scipy's densities, step by step."""
    from scipy import stats

    watching: Any = observer("gradient_canaries")
    watching.begins(training())
    expected = np.zeros(TOTAL // 10)
    for seen in list(Steps())[:20]:
        watching.contribute(seen.step, NORM)
        watching.saw(seen, None)
        where = watching._offsets + np.repeat([0, SIZES[0]], np.diff(watching._ends))
        noise = (torch.cat(list(seen.noised)) - torch.cat(list(seen.sums))).numpy()[where]
        u = watching._signs * noise / NORM + watching._drawn
        inside = (1 - Q) * stats.norm.pdf(u, 0, SIGMA) + Q * stats.norm.pdf(u, 1, SIGMA)
        expected += np.log(inside / stats.norm.pdf(u, 0, SIGMA))
    np.testing.assert_allclose(watching._scores, expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("records", "expected"), [(100, 50), (800, 400), (2000, 500), (20_000, 1000), (60_000, 2000), (10**7, 2000)]
)
def test_the_number_of_input_canaries_follows_the_stated_rule(records: int, expected: int) -> None:
    plugin: Any = registry.load("audits", "input_canaries")
    watching = plugin().plan(Planned((5,), 4, (-1.0, 2.0), records, b"key"))
    assert watching.planted.records == expected
    planted = watching.canaries()
    assert len(planted) == watching.planted.records_in
    assert abs(len(planted) - expected / 2) < 5 * math.sqrt(expected) / 2  # coins
    assert set(np.unique(planted.x)) == {-1.0, 2.0}
    assert set(np.unique(planted.y)) == {0, 1, 2, 3}


def test_other_keys_give_other_canaries_and_other_coins() -> None:
    keys = (b"one", b"two")
    first, second = (Planned((5,), 4, (0.0, 1.0), 2000, key) for key in keys)
    coins = [planned.coins(4000) for planned in (first, second)]
    # Half of the coins agree, within five standard deviations.
    assert abs((coins[0] == coins[1]).mean() - 0.5) < 5 * 0.5 / math.sqrt(4000)
    assert all(abs(c.mean() - 0.5) < 5 * 0.5 / math.sqrt(4000) for c in coins)
    assert not np.array_equal(first.chance().random(5), second.chance().random(5))
