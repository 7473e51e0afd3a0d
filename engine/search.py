"""The search for a learning rate and a clipping norm, whose cost is paid.

Whoever trains several models on the same records and releases the best of them has released more than one of them did.
Here the number of runs is drawn from the operating system and told to nobody, each run tries a candidate at random, and
only the best comes out: that costs little more than one run (Papernot & Steinke 2022, arXiv 2110.03620). What a number
of runs that is known costs is all of them.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

from .accountants import account
from .errors import InputError
from .ledger import Event, Ledger, Repetitions, SampledGaussian, Tuned

#: Less noise is not looked for; beyond this much nothing is learnt.
_LEAST_NOISE, _MAX_NOISE = 0.5, 1000.0
#: The noise is found to this share, and rounded up.
_PRECISION = 0.002
_DECIMALS = 4
#: More runs than this are never begun: a distribution that asks for more is refused.
_MAX_MEAN = 500.0
_LONGEST = 1_000_000


@dataclass(frozen=True, slots=True)
class Candidate:
    """One setting that is tried. Attributes: `None` for what is not searched."""

    learning_rate: float | None
    clipping_norm: float | None

    def __str__(self) -> str:
        parts = (("learning rate", self.learning_rate), ("clipping norm", self.clipping_norm))
        return ", ".join(f"{name} {value:g}" for name, value in parts if value is not None)


@dataclass(frozen=True, slots=True)
class Search:
    """Tries settings from a grid that is fixed beforehand, and keeps the best model.

    Attributes:
        learning_rates: Candidates for optimizer.lr; empty to leave it.
        clipping_norms: Candidates for defense.clipping_norm; empty to leave it.
        distribution: Of the number of runs: `truncated-negative-binomial`, `poisson`, or `fixed`, where everybody may
            know the number and every run is paid in full.
        eta: Shape of the truncated negative binomial, > -1: 0 is logarithmic, 1 geometric.
        gamma: Its parameter, in (0, 1): the smaller, the more runs.
        mean: Mean of the Poisson distribution.
        runs: How many for `fixed`; each takes the next candidate of the grid.
        scored_on: `public`: accuracy on public records, which costs nothing.
    """

    learning_rates: tuple[float, ...] = ()
    clipping_norms: tuple[float, ...] = ()
    distribution: Literal["truncated-negative-binomial", "poisson", "fixed"] = "truncated-negative-binomial"
    eta: float | None = None
    gamma: float | None = None
    mean: float | None = None
    runs: int | None = None
    scored_on: Literal["public"] = "public"

    def __post_init__(self) -> None:
        self._check_grid()
        self._check_distribution()
        if self.scored_on != "public":
            raise ValueError(
                f"scored_on '{self.scored_on}' is not offered: a score on private records is a release of its own, for "
                "each run; name data.public and score on that"
            )

    def _check_grid(self) -> None:
        for name in ("learning_rates", "clipping_norms"):
            values = getattr(self, name)
            if not all(0 < value < math.inf for value in values):
                raise ValueError(f"expected {name} > 0, found {list(values)}")
            if len(set(values)) < len(values):
                raise ValueError(f"a value stands twice in {name}: {list(values)}")
        if len(self.candidates) < 2:
            raise ValueError("a search needs at least two candidates: give learning_rates, clipping_norms or both")

    def _check_distribution(self) -> None:
        own = {"truncated-negative-binomial": ("eta", "gamma"), "poisson": ("mean",), "fixed": ("runs",)}
        if self.distribution not in own:
            raise ValueError(f"unknown distribution '{self.distribution}', expected one of {', '.join(own)}")
        foreign = [
            name
            for name in ("eta", "gamma", "mean", "runs")
            if name not in own[self.distribution] and getattr(self, name) is not None
        ]
        if foreign:
            raise ValueError(f"{foreign[0]} says nothing of distribution {self.distribution}: leave it out")
        missing = [name for name in own[self.distribution] if name != "eta" and getattr(self, name) is None]
        if missing:
            raise ValueError(f"distribution {self.distribution} needs {missing[0]}")
        if self.distribution == "fixed" and not 1 <= (self.runs or 0) <= _MAX_MEAN:
            raise ValueError(f"expected 1 <= runs={self.runs} <= {_MAX_MEAN:g}")
        if self.distribution != "fixed" and not self.tuned(_ANY).expected_runs <= _MAX_MEAN:
            raise ValueError(f"more than {_MAX_MEAN:g} runs are expected: choose other parameters")

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The grid."""
        return tuple(
            Candidate(*pair) for pair in product(self.learning_rates or (None,), self.clipping_norms or (None,))
        )

    def tuned(self, run: SampledGaussian) -> Tuned:
        """What a random number of runs amounts to. Args: what one run does at most."""
        if self.distribution == "poisson":
            return Tuned(run, Repetitions.POISSON, mean=self.mean)
        return Tuned(run, Repetitions.TRUNCATED_NEGATIVE_BINOMIAL, eta=self.eta or 0.0, gamma=self.gamma)

    def events(self, run: SampledGaussian) -> tuple[Event, ...]:
        """What the whole search does to the records. Args: what one run does at most."""
        if self.distribution == "fixed":
            return (replace(run, steps=run.steps * (self.runs or 1)),)
        return (self.tuned(run),)

    def plan(self) -> Iterator[Candidate]:
        """The candidate of each run. Where their number is a secret, whoever counts them must not tell."""
        if self.distribution == "fixed":
            for number in range(self.runs or 1):
                yield self.candidates[number % len(self.candidates)]
            return
        for _ in range(draw(self.tuned(_ANY))):
            yield secrets.choice(self.candidates)


#: Stands where it does not matter what one run does.
_ANY = SampledGaussian(1.0, 1.0, 1, 1.0)


def draw(tuned: Tuned, uniform: Callable[[], float] | None = None) -> int:
    """The number of runs, from the operating system's randomness (Papernot & Steinke 2022, definitions 1 and 3).

    Args:
        tuned: Its distribution.
        uniform: Draws from [0, 1) instead, for a test.
    """
    left = (uniform or _uniform)()
    for number, probability in enumerate(_probabilities(tuned)):
        left -= probability
        if left < 0:
            return number
    raise InputError.of("the number of runs has no end", "choose a larger gamma")


def _uniform() -> float:
    """53 bits of the operating system."""
    return secrets.randbits(53) * 2.0**-53


def _probabilities(tuned: Tuned) -> Iterator[float]:
    """P(K = 0), P(K = 1), and so on."""
    if tuned.distribution is Repetitions.POISSON:
        mean = float(tuned.mean or 0.0)
        probability = math.exp(-mean)
        for number in range(1, _LONGEST):
            yield probability
            probability *= mean / number
        return
    eta, gamma = float(tuned.eta or 0.0), float(tuned.gamma or 0.0)
    yield 0.0
    # The product of eq. 1 over (gamma^-eta - 1); its limit at eta = 0 is the logarithmic distribution (eq. 2).
    scale = 1 / -math.log(gamma) if eta == 0 else eta / math.expm1(-eta * math.log(gamma))
    probability = scale * (1 - gamma)
    for number in range(1, _LONGEST):
        yield probability
        probability *= (1 - gamma) * (number + eta) / (number + 1)


def noise_of_search(search: Search, run: Callable[[float], SampledGaussian], epsilon: float, delta: float) -> float:
    """The smallest noise multiplier (to 0.2 %) with which the whole search is within ε by the number of record.

    Args:
        search: What is tried.
        run: What one run does at most, by its noise multiplier.
        epsilon: The target.
        delta: At which ε is counted.

    Raises:
        InputError: No amount of noise up to 1000 is enough.
        AccountingError: An accountant failed.
    """

    def within(noise: float) -> bool:
        return cost(search.events(run(noise)), delta) <= epsilon

    low, high = _LEAST_NOISE, _LEAST_NOISE
    while not within(high):
        low, high = high, 2 * high
        if high > _MAX_NOISE:
            raise InputError.of(
                f"no noise multiplier up to {_MAX_NOISE:g} keeps the search within ε = {epsilon:g} at δ = {delta:g}",
                "expect fewer runs, train fewer epochs, or allow a larger target_epsilon",
            )
    while high - low > _PRECISION * high:
        middle = math.ceil(math.sqrt(low * high) * 10**_DECIMALS) / 10**_DECIMALS
        low, high = (low, middle) if within(middle) else (middle, high)
    return high


def cost(events: tuple[Event, ...], delta: float) -> float:
    """ε of what happened, by the number of record.

    Raises:
        AccountingError: An accountant failed.
    """
    return account(Ledger(events=events, records=1, data="", model=""), delta, curve=False).epsilon
