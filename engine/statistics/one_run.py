"""What a single training shows of its ε: lower bounds from canaries that were each in or out by a fair coin.

Each bound is valid for canaries whose coins nobody but the auditor knew, and for a number of guesses that was fixed
before the scores were seen (`SHARES`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import optimize, special, stats

from .counts import SEED, Bools, Count, Floats, upper
from .gaussian import gaussian_epsilon

#: Share of the canaries that each method guesses on, half of them as in and half as out. Fixed here, before any score
#: is seen: near the best for a Gaussian mechanism of ε = 4 and 1,000 canaries.
SHARES = {"one-run": 0.1, "f-DP": 0.2, "order statistics": 0.6}

_LARGEST_EPSILON, _LARGEST_MU = 60.0, 30.0
_HALVINGS = 40
#: Each order statistic's distribution is replaced by so many equally likely values.
_QUANTILES = 16
_DENSITY = 20_001


@dataclass(frozen=True, slots=True)
class Guesses:
    """What was guessed of canaries that were each in or out by a fair coin.

    Attributes:
        canaries: How many there were, m.
        made: How many were guessed on, r <= m.
        right: How many guesses were right, v <= r.
    """

    canaries: int
    made: int
    right: int

    def __post_init__(self) -> None:
        if not 0 <= self.right <= self.made <= self.canaries:
            raise ValueError(f"expected 0 <= right={self.right} <= made={self.made} <= canaries={self.canaries}")


def guesses(scores: Floats, members: Bools, share: float) -> Guesses:
    """Guess "in" of the highest scores and "out" of the lowest, as many of each.

    Args:
        scores: `(m,)`, higher means in; no NaN.
        members: `(m,)`, what the coins said.
        share: Of the canaries that are guessed on, fixed before the scores were seen.
    """
    if np.isnan(scores).any():
        raise ValueError("a score is NaN, so nothing can be guessed of its canary")
    side = int(share * len(scores)) // 2
    mixed = np.random.default_rng(SEED).permutation(len(scores))  # so that ties are not broken by the order given
    order = mixed[np.argsort(scores[mixed], kind="stable")]
    right = int(members[order[len(order) - side :]].sum()) + int((~members[order[:side]]).sum())
    return Guesses(len(scores), 2 * side, right)


# --- Steinke, Nasr & Jagielski 2023: any (ε, δ)-DP training ----------------------------------------------------------


def one_run_p(found: Guesses, epsilon: float, delta: float) -> float:
    """How likely so many right guesses are at most under (ε, δ)-DP (Steinke et al. 2023, arXiv 2305.08846).

    β = P[Bin(r, q) >= v] with q = 1/(1 + e^-ε); α = max over i of (P[Bin(r, q) >= v - i] - β)/i; p = β + 2 m δ α.
    """
    r, v = found.made, found.right
    if r == 0 or v == 0:
        return 1.0
    chance = stats.binom(r, special.expit(epsilon))
    beta = float(chance.sf(v - 1))
    steps = np.arange(1, v + 1)
    alpha = max(0.0, float(np.max((chance.sf(v - steps - 1) - beta) / steps)))
    return min(1.0, beta + 2 * found.canaries * delta * alpha)


def one_run_epsilon(found: Guesses, delta: float, alpha: float) -> float:
    """The smallest ε that these guesses leave possible with confidence 1 - alpha; 0 where they refute nothing."""
    return _largest_refuted(lambda epsilon: one_run_p(found, epsilon, delta) < alpha, _LARGEST_EPSILON)


def one_run_ceiling(made: int, alpha: float) -> float:
    """What `one_run_epsilon` comes to at most, all guesses right and δ = 0: log(a/(1 - a)), a = alpha^(1/r)."""
    return float(special.logit(alpha ** (1 / made)))


def _largest_refuted(refuted: Callable[[float], bool], most: float) -> float:
    """The largest value that is refuted, by halving; 0 where not even 0 is."""
    if not refuted(0.0):
        return 0.0
    low, high = 0.0, most
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


# --- Mahloujifar, Melis & Chaudhuri 2024: any trade-off curve --------------------------------------------------------


def trade_off_refuted(found: Guesses, inverse: Callable[[float], float], alpha: float) -> bool:
    """Whether so many right guesses are rarer than alpha under a trade-off curve f (arXiv 2410.22235).

    Args:
        found: The guesses.
        inverse: At which false-positive rate f allows this true-positive rate at the soonest: x for 1 - f(x) = y.
        alpha: The error.
    """
    m, r_guesses, v = found.canaries, found.made, found.right
    limit = r_guesses / m
    right, wrong = alpha * v / m, alpha * (r_guesses - v) / m
    for i in range(v - 1, -1, -1):
        before, wrong = wrong, max(wrong, inverse(min(1.0, right)))
        right += i / (r_guesses - i) * (wrong - before)
        if right + wrong > limit:
            return True
    return right + wrong > limit


def trade_off_p(found: Guesses, inverse: Callable[[float], float]) -> float:
    """The smallest error at which `trade_off_refuted` still refutes the curve, 1e-12 at least; 1 where at none."""
    if found.made == 0 or not trade_off_refuted(found, inverse, 1.0):
        return 1.0
    low, high = math.log(1e-12), 0.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if trade_off_refuted(found, inverse, math.exp(middle)) else (middle, high)
    return math.exp(high)


def gaussian_inverse(mu: float) -> Callable[[float], float]:
    """The `inverse` of the curve of a μ-GDP training: Φ(Φ⁻¹(y) - μ)."""
    return lambda y: float(special.ndtr(special.ndtri(y) - mu))


def gaussian_trade_off_epsilon(found: Guesses, delta: float, alpha: float) -> float:
    """The smallest ε at δ that these guesses leave a Gaussian mechanism, with confidence 1 - alpha.

    Says nothing of other mechanisms: randomised response can show more than its own ε by it.
    """
    mu = _largest_refuted(lambda mu: trade_off_refuted(found, gaussian_inverse(mu), alpha), _LARGEST_MU)
    return gaussian_epsilon(mu, delta)


# --- Xiang et al. 2025: order statistics -----------------------------------------------------------------------------


def ordered_p(found: Guesses, mu: float) -> float:
    """How likely so few wrong guesses are of the most confident ones under μ-GDP (arXiv 2509.08704).

    Of a canary seen as Y, the likelier guess is wrong with probability σ(-|L(Y)|), L the log-likelihood ratio. With
    v_k its mean at the k-th most confident of m: p = min over λ >= 0 of exp(λ w + Σ_k log(1 + v_k (e^-λ - 1))), w the
    number of wrong guesses. Valid for Gaussian mechanisms.
    """
    if found.made == 0:
        return 1.0
    wrong = found.made - found.right
    chances = _wrong_by_rank(mu, found.canaries, found.made)

    def exponent(slope: float) -> float:
        return float(slope * wrong + np.log1p(chances * math.expm1(-slope)).sum())

    return math.exp(min(0.0, float(optimize.minimize_scalar(exponent, bounds=(0.0, 40.0), method="bounded").fun)))


def ordered_epsilon(found: Guesses, delta: float, alpha: float) -> float:
    """The smallest ε at δ that these guesses leave a Gaussian mechanism, with confidence 1 - alpha."""
    return gaussian_epsilon(_largest_refuted(lambda mu: ordered_p(found, mu) < alpha, _LARGEST_MU), delta)


def _wrong_by_rank(mu: float, m: int, r: int) -> Floats:
    """`(r,)` probability that the guess of the k-th most confident of m canaries is wrong."""
    if mu <= 0:
        return np.full(r, 0.5)
    confidence = np.linspace(0.0, mu * mu / 2 + 10 * mu, _DENSITY)
    # |L| is the absolute value of a normal of mean μ²/2 and deviation μ, whether the canary is in or out.
    above = special.ndtr(mu / 2 - confidence / mu) + special.ndtr(-mu / 2 - confidence / mu)
    found = np.interp(-_upper_shares(m, r), -above, confidence)
    return np.asarray(special.expit(-found).mean(axis=1))


@lru_cache(maxsize=8)
def _upper_shares(m: int, r: int) -> Floats:
    """`(r, q)` quantiles of the share of the distribution above the k-th largest of m: Beta(k, m - k + 1)."""
    k = np.arange(1, r + 1)[:, None]
    return np.asarray(special.betaincinv(k, m - k + 1, (np.arange(_QUANTILES) + 0.5) / _QUANTILES))


# --- independent trainings, or canaries taken as independent ---------------------------------------------------------


def signed_mu(false_positives: Count, false_negatives: Count, alpha: float) -> float:
    """Lower bound on μ from error rates: Φ⁻¹(1 - FPR+) - Φ⁻¹(FNR+), with its sign (Nasr et al. 2023, arXiv 2302.07956).

    The upper ends are those of Clopper & Pearson 1934, half of alpha each. Below 0 nothing is shown; the absolute value
    of the difference would find a leak in every null.
    """
    above, below = (float(upper(c.k, c.n, alpha / 2)) for c in (false_positives, false_negatives))
    if above >= 1 or below >= 1:
        return -math.inf
    return float(-special.ndtri(above) - special.ndtri(below))


def counted_epsilon(false_positives: Count, false_negatives: Count, delta: float, alpha: float) -> float:
    """Lower bound on ε from the error rates of a rule that was fixed beforehand (Kairouz et al. 2015, thm. 2.1).

    log of (1 - FNR+ - δ)/FPR+ or (1 - FPR+ - δ)/FNR+, whichever is larger; upper ends as in `signed_mu`; at least 0.
    """
    above, below = (float(upper(c.k, c.n, alpha / 2)) for c in (false_positives, false_negatives))
    ratios = [(1 - below - delta) / above, (1 - above - delta) / below]
    return max(0.0, *(math.log(ratio) if ratio > 0 else 0.0 for ratio in ratios))


@dataclass(frozen=True, slots=True)
class GaussianFit:
    """An estimate, no bound: canary scores taken as normal, in and out (Andrew et al. 2024, arXiv 2302.03098).

    Attributes:
        mu: (mean in - mean out) / deviation.
        error: Its standard error.
    """

    mu: float
    error: float


def gaussian_fit(scores: Floats, members: Bools) -> GaussianFit:
    """μ^ and its standard error, the root of 1/n_in + 1/n_out + μ^²/(2 (n_in + n_out)). At least two on either side."""
    inside, outside = scores[members], scores[~members]
    if min(len(inside), len(outside)) < 2:
        raise ValueError(f"expected at least two canaries in and out, found {len(inside)} and {len(outside)}")
    n, m = len(inside), len(outside)
    within = np.sum((inside - inside.mean()) ** 2) + np.sum((outside - outside.mean()) ** 2)
    deviation = math.sqrt(float(within) / (n + m - 2))
    mu = float(inside.mean() - outside.mean()) / deviation if deviation > 0 else math.nan
    return GaussianFit(mu, math.sqrt(1 / n + 1 / m + mu * mu / (2 * (n + m))))
