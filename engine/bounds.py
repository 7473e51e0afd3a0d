"""What a ledger proves about every attack, whatever it is: the trade-off curve of its mechanisms and what follows."""

from __future__ import annotations

import dataclasses
import math
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from .accountants._losses import INTERVAL, distribution, width
from .accountants._pairs import steps_of
from .errors import AccountingError, NotMeasurable
from .statistics import Count, proportion

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

    from .ledger import Ledger

#: Every ε gives a valid bound, so a grid loses a little tightness and nothing of the proof.
_GRID = 401
#: The grid ends where δ is this small, or at the first of the others that is reached at all.
_ENDS = (1e-14, 1e-12, 1e-10, 1e-8, 1e-6)
#: Above this e^ε is no finite number any more.
_LARGEST = 700.0


@dataclass(frozen=True, slots=True)
class TradeOff:
    """How well any test can tell whether one unit's records were there: the highest TPR at every FPR, 1 - f(FPR).

    Either that of a Gaussian mechanism (`mu`), or all that points (ε, δ) of a guarantee leave possible: for each of
    them TPR <= δ + e^ε FPR and TPR <= 1 - e^-ε (1 - δ - FPR) (Dong et al. 2019, arXiv 1905.02383, eq. 3, and prop.
    2.12: over all ε this is the whole curve). What follows from the whole curve is much less than from one point of it.

    Attributes:
        mu: μ of a Gaussian mechanism, infinite where nothing is guaranteed; `None` where points are given.
        epsilons: Rising, >= 0.
        deltas: As many, in [0, 1].
        tight: Whether the best test reaches the curve, up to rounding; else it may lie above every test.
    """

    mu: float | None = None
    epsilons: tuple[float, ...] = ()
    deltas: tuple[float, ...] = ()
    tight: bool = True

    def __post_init__(self) -> None:
        if (self.mu is None) != bool(self.epsilons) or len(self.epsilons) != len(self.deltas):
            raise ValueError("a trade-off curve needs either mu or as many values of δ as of ε")
        if self.mu is not None and not self.mu >= 0:
            raise ValueError(f"expected mu={self.mu} >= 0")
        if not all(a >= 0 for a in self.epsilons) or not all(0 <= d <= 1 for d in self.deltas):
            raise ValueError("expected every ε >= 0 and every δ in [0, 1]")
        if any(b <= a for a, b in zip(self.epsilons, self.epsilons[1:], strict=False)):
            raise ValueError("expected every ε once, in rising order")

    @classmethod
    def of_guarantee(cls, epsilon: float, delta: float) -> TradeOff:
        """What an (ε, δ) guarantee alone leaves possible."""
        return cls(epsilons=(float(epsilon),), deltas=(float(delta),))

    @classmethod
    def of_ledger(cls, ledger: Ledger) -> TradeOff:
        """What a ledger leaves possible against one of its units, for its adjacency.

        Plain Gaussian mechanisms have a closed form; sampled ones the curve of their privacy loss distribution, the
        larger δ of both directions; the best of many runs what its Rényi divergences imply.

        Raises:
            AccountingError: It could not be computed.
            NotMeasurable: No accountant has a theory for what happened.
        """
        if not ledger.private:
            return cls(mu=math.inf)
        bare = dataclasses.replace(ledger, records=ledger.largest_group, data="", model="", written_by="", resumed=0)
        return _of_ledger(bare)

    def tpr(self, fpr: NDArray[float64] | float) -> NDArray[float64]:
        """The highest TPR at these FPRs. Args: fpr `(n,)` in [0, 1]. Returns: `(n,)` in [0, 1]."""
        from scipy.special import ndtr, ndtri

        rates = np.atleast_1d(np.asarray(fpr, dtype=np.float64))
        if not ((rates >= 0) & (rates <= 1)).all():
            raise ValueError("expected every FPR in [0, 1]")
        if self.mu is None:
            corners = _corners(self.epsilons, self.deltas)
            return np.asarray(np.interp(rates, corners.fpr, corners.tpr))
        if math.isinf(self.mu):
            return np.ones(len(rates))
        return np.asarray(ndtr(ndtri(rates) + self.mu))

    def at(self, fpr: float) -> float:
        """The highest TPR at one FPR."""
        return float(self.tpr(fpr)[0])

    def delta(self, epsilon: float) -> float:
        """The smallest δ at this ε >= 0 (same source, prop. 2.12; Gaussian: corollary 2.13)."""
        from scipy.special import log_ndtr, ndtr

        if self.mu is None:
            corners = _corners(self.epsilons, self.deltas)
            with np.errstate(divide="ignore"):
                scaled = np.exp(np.minimum(epsilon + np.log(corners.fpr), _LARGEST))
            return float(np.clip((corners.tpr - scaled).max(), 0.0, 1.0))
        if self.mu == 0 or math.isinf(self.mu):
            return float(self.mu > 0)
        first = float(ndtr(self.mu / 2 - epsilon / self.mu))
        return max(0.0, first - math.exp(min(0.0, epsilon + float(log_ndtr(-self.mu / 2 - epsilon / self.mu)))))

    def advantage(self) -> float:
        """The highest TPR less FPR: δ(0), the total variation. Gaussian: 2Φ(μ/2) - 1 (same source, sec. 2.2)."""
        if self.mu is None:
            corners = _corners(self.epsilons, self.deltas)
            return float(np.clip((corners.tpr - corners.fpr).max(), 0.0, 1.0))
        return math.erf(self.mu / math.sqrt(8))

    def auc(self) -> float:
        """The largest area under a ROC curve: the integral of 1 - f. Gaussian: Φ(μ/√2)."""
        if self.mu is None:
            corners = _corners(self.epsilons, self.deltas)
            return float(np.clip(np.trapezoid(corners.tpr, corners.fpr), 0.5, 1.0))
        return (1 + math.erf(self.mu / 2)) / 2

    def ppv(self, fpr: float, prior: float) -> float:
        """The largest share of those called members that are, where a share `prior` of all are (Bayes' rule)."""
        hits, alarms = prior * self.at(fpr), (1 - prior) * fpr
        return 1.0 if alarms == 0 else hits / (hits + alarms)

    def success(self, baseline: float) -> float:
        """The highest probability of any guess about the unit's records that succeeds with `baseline` without them.

        Reconstruction within a distance (Hayes et al. 2023, arXiv 2302.07225, theorem 2: 1 - f(κ)), the value of an
        attribute, re-identification (Kulynych et al. 2025, arXiv 2507.06969). The baseline is the best guess of who
        sees a model that was trained without them.
        """
        return max(baseline, self.at(baseline))

    def smallest_mu(self, fpr: float) -> float:
        """The smallest μ of a Gaussian mechanism that leaves at least as much possible at every FPR and FNR >= `fpr`.

        Below, the tails of sampled Gaussians are heavier than those of any one Gaussian mechanism.
        """
        from scipy.special import ndtri

        if self.mu is not None:
            return self.mu
        corners = _corners(self.epsilons, self.deltas)
        rates = np.concatenate([[fpr], corners.fpr[(corners.fpr > fpr) & (corners.tpr < 1 - fpr)]])
        return float(max(0.0, (ndtri(self.tpr(rates)) - ndtri(rates)).max()))

    def group(self, k: int) -> TradeOff:
        """What is left possible against k units at once (Dong et al. 2019, theorem 2.14 and its corollary).

        Gaussian: kμ. A point (ε, δ): (kε, δ (e^kε - 1)/(e^ε - 1)).
        """
        if k < 1:
            raise ValueError(f"expected k={k} >= 1")
        if self.mu is not None:
            return TradeOff(mu=k * self.mu)
        deltas = [min(1.0, d * _grown(e, k)) for e, d in zip(self.epsilons, self.deltas, strict=True)]
        return TradeOff(None, tuple(k * epsilon for epsilon in self.epsilons), tuple(deltas), tight=False)

    def distributional(self, n: int) -> float:
        """How far apart models trained on two populations' samples of n records can be: the advantage against n.

        For (ε, δ): tanh(nε/2) (1 + 2δ/(e^ε - 1)), a stable form of Wang, Zhang & Jia 2020, arXiv 2009.05241 (theorem on
        the inversion privacy of differentially private models); the best point of the curve counts. 1 says nothing.
        """
        if self.mu is not None:
            return self.group(n).advantage()
        points = zip(self.epsilons, self.deltas, strict=True)
        return min(1.0, *(distributional(epsilon, delta, n) for epsilon, delta in points))


def distributional(epsilon: float, delta: float, n: int) -> float:
    """tanh(nε/2) (1 + 2δ/(e^ε - 1)), at most 1; nδ where ε = 0. See `TradeOff.distributional`."""
    if epsilon == 0:
        return min(1.0, n * delta)
    spread = 2 * delta / math.expm1(epsilon) if epsilon < _LARGEST else 0.0
    return min(1.0, math.tanh(n * epsilon / 2) * (1 + spread))


def _grown(epsilon: float, k: int) -> float:
    """(e^kε - 1)/(e^ε - 1): how much δ grows in a group of k."""
    if epsilon == 0:
        return float(k)
    return math.inf if k * epsilon > _LARGEST else math.expm1(k * epsilon) / math.expm1(epsilon)


def tpr_bound(ledger: Ledger, fpr: NDArray[float64]) -> NDArray[float64] | None:
    """No attack on one unit has a higher true-positive rate at these false-positive rates.

    Args:
        ledger: What happened.
        fpr: `(n,)` in [0, 1].

    Returns:
        `(n,)` in [0, 1]; `None` where something happened without a mechanism.

    Raises:
        AccountingError: It could not be computed.
    """
    return TradeOff.of_ledger(ledger).tpr(fpr) if ledger.private else None


def advantage_bound(ledger: Ledger) -> float | None:
    """No attack on one unit has a higher TPR less FPR; `None` where something happened without a mechanism."""
    return TradeOff.of_ledger(ledger).advantage() if ledger.private else None


def guess_rate(distances: NDArray[float64], within: float, alpha: float) -> float:
    """How often the best constant guess comes within a distance of a record, at most: κ of a reconstruction bound.

    κ(η) = sup over guesses z of P[ρ(Z, z) <= η] (Balle et al. 2022, arXiv 2201.04845, def. 2), for the best of a set of
    guesses that were chosen without these records; one-sided Clopper-Pearson, the error split over the guesses.

    Args:
        distances: `(guesses, records)` from every guess to every one of independent records, not those trained on.
        within: η, in the same unit.
        alpha: The error that the bound may spend.
    """
    guesses, records = distances.shape
    if not guesses or not records or not np.isfinite(distances).all():
        raise ValueError("expected a finite distance from at least one guess to at least one record")
    hits = int((distances <= within).sum(axis=1).max())
    return proportion(Count(hits, records), min(1.0, 2 * alpha / guesses)).high


@dataclass(frozen=True, slots=True)
class _Corners:
    """Corners of a concave curve of straight pieces. Attributes: fpr, tpr: `(corners,)`, from 0 to 1."""

    fpr: NDArray[float64]
    tpr: NDArray[float64]


@lru_cache(maxsize=32)
def _corners(epsilons: tuple[float, ...], deltas: tuple[float, ...]) -> _Corners:
    """Where the curve below all lines δ + e^ε FPR bends, up to the diagonal TPR = 1 - FPR, and its mirror image."""
    lines = [(math.exp(e), d) for e, d in zip(epsilons, deltas, strict=True) if e <= _LARGEST]
    hull: list[tuple[float, float]] = []
    for line in reversed(lines):  # the steepest is the lowest at an FPR of 0
        while hull and (hull[-1][1] >= line[1] or (len(hull) > 1 and _hidden(hull[-2], hull[-1], line))):
            hull.pop()
        hull.append(line)
    return _mirrored(hull)


def _hidden(before: tuple[float, float], line: tuple[float, float], after: tuple[float, float]) -> bool:
    """Whether a line lies nowhere below both its neighbours."""
    return _meeting(before, line) >= _meeting(line, after)


def _meeting(steep: tuple[float, float], flat: tuple[float, float]) -> float:
    """The FPR where two lines cross."""
    return (flat[1] - steep[1]) / (steep[0] - flat[0])


def _mirrored(hull: list[tuple[float, float]]) -> _Corners:
    """The corners of the lower hull of lines, cut off at the diagonal and continued by reflection in it."""
    if not hull:
        return _Corners(np.asarray([0.0, 1.0]), np.asarray([1.0, 1.0]))
    fpr, tpr = [0.0], [hull[0][1]]
    for line, following in zip(hull, [*hull[1:], None], strict=True):
        diagonal = (1 - line[1]) / (1 + line[0])
        meeting = diagonal if following is None else _meeting(line, following)
        fpr.append(min(diagonal, meeting))
        tpr.append(1 - diagonal if diagonal <= meeting else line[1] + line[0] * meeting)
        if diagonal <= meeting:
            break
    x, y = np.asarray(fpr), np.minimum(1.0, np.asarray(tpr))
    # The last corner lies on the diagonal and is its own image: 1 less a share below 1e-16 would move it.
    return _Corners(np.concatenate([x, 1 - y[-2::-1], [1.0]]), np.concatenate([y, 1 - x[-2::-1], [1.0]]))


@lru_cache(maxsize=16)
def _of_ledger(ledger: Ledger) -> TradeOff:
    try:
        with warnings.catch_warnings(action="ignore"):  # numeric warnings of the library; the result is checked below
            found = _computed(ledger)
    except NotMeasurable:
        raise
    except Exception as failure:
        raise AccountingError(f"no trade-off curve for this ledger ({type(failure).__name__}: {failure})") from failure
    if any(b > a + 1e-9 for a, b in zip(found.deltas, found.deltas[1:], strict=False)):
        raise AccountingError("no trade-off curve for this ledger: the computation gave no falling curve")
    return found


def _computed(ledger: Ledger) -> TradeOff:
    steps = steps_of(ledger)
    if steps is not None and all(entry.plain for entry in steps):
        return TradeOff(mu=math.hypot(*(entry.mu for entry in steps)))
    if steps is None:
        return _of_divergences(ledger)
    losses = distribution(steps, width(steps, INTERVAL))
    ends = (float(losses.get_epsilon_for_delta(delta)) for delta in _ENDS)
    epsilons = _epsilons(next(end for end in ends if math.isfinite(end)))
    return TradeOff(None, epsilons, tuple(float(losses.get_delta_for_epsilon(epsilon)) for epsilon in epsilons))


def _of_divergences(ledger: Ledger) -> TradeOff:
    """From Rényi divergences, which bound δ at every ε (Canonne et al. 2020, arXiv 2004.00010, prop. 12)."""
    from dp_accounting.rdp.rdp_privacy_accountant import compute_delta

    from .accountants._renyi import ORDERS, epsilon_at
    from .accountants._selection import divergences_of

    renyi = divergences_of(ledger)
    epsilons = _epsilons(epsilon_at(renyi, _ENDS[0]))
    deltas = tuple(float(compute_delta(ORDERS, renyi, epsilon)[0]) for epsilon in epsilons)
    return TradeOff(None, epsilons, deltas, tight=False)


def _epsilons(end: float) -> tuple[float, ...]:
    return tuple(float(epsilon) for epsilon in np.linspace(0.0, min(max(end, 1e-3), _LARGEST), _GRID))
