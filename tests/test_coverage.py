"""How often every interval misses a truth that is known, and how wide it is beside the exact alternative.

Run by `make calibrate`. A miss rate may exceed its nominal level by three standard errors of the simulation. Widths are
set beside what an oracle would need: the exact interval at a threshold that is known beforehand, or the normal one with
the true variance. The table goes to the error stream.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy import stats

from midguard.engine import statistics as st
from midguard.engine.measure import Measure
from midguard.engine.measures.membership.advantage import Advantage
from midguard.engine.measures.membership.auc import Auc
from midguard.engine.measures.membership.epsilon import Epsilon
from midguard.engine.measures.membership.exposed_records import ExposedRecords
from midguard.engine.measures.membership.record_risk import RecordRisk
from midguard.engine.measures.membership.tpr import Tpr
from midguard.engine.measures.membership.worst_group import WorstGroup
from midguard.engine.observation import Membership, Separation
from midguard.engine.statistics import Count

pytestmark = pytest.mark.calibrate

ALPHA = 0.05
Rng = np.random.Generator
Sides = Callable[[Rng, int, int], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Covered:
    """What many intervals did: how often either side missed, and their mean width."""

    low: float
    high: float
    width: float
    runs: int

    @property
    def most(self) -> float:
        """The largest miss rate that luck allows a sound interval."""
        return ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / self.runs)


def held(name: str, truth: float, found: list[tuple[float, float]], oracle: float | None = None) -> Covered:
    """Prints a line of the table and holds the interval to its level."""
    low, high = np.array(found).T
    got = Covered(
        float((low > truth + 1e-9).mean()), float((high < truth - 1e-9).mean()), float((high - low).mean()), len(low)
    )
    beside = "" if oracle is None else f"width / exact {got.width / oracle:5.2f}"
    sys.stderr.write(
        f"{name:<66} truth {truth:6.3f}  misses {got.low:6.1%} {got.high:6.1%}  width {got.width:6.3f}  {beside}\n"
    )
    assert got.low + got.high <= got.most, name
    return got


def seed_of(name: str) -> int:
    return sum(ord(c) * 31**i for i, c in enumerate(name[:40])) % 2**32


# --- shares and differences at thresholds that are known beforehand --------------------------------------------------


@pytest.mark.parametrize(("n", "p"), [(20, 0.1), (200, 0.01), (200, 0.5), (2000, 0.001), (2000, 0.3)])
def test_a_share_at_a_known_threshold_is_exact(n: int, p: float) -> None:
    name = f"share of {n}, p = {p}"
    counts = np.random.default_rng(seed_of(name)).binomial(n, p, 2000)
    exact = [stats.binomtest(int(k), n).proportion_ci(1 - ALPHA, "exact") for k in np.unique(counts)]
    widths = dict(zip(np.unique(counts).tolist(), [e.high - e.low for e in exact], strict=True))
    found = [st.proportion(Count(int(k), n), ALPHA) for k in counts]
    got = held(name, p, [(f.low, f.high) for f in found], float(np.mean([widths[int(k)] for k in counts])))
    assert got.width == pytest.approx(np.mean([widths[int(k)] for k in counts]))


def newcombe(a: Count, b: Count) -> tuple[float, float]:
    """Newcombe's method 10 (1998) from Wilson's limits: a second implementation, and close to exact."""
    one, other = (stats.binomtest(c.k, c.n).proportion_ci(1 - ALPHA, "wilson") for c in (a, b))
    gap = a.share - b.share
    low = gap - math.hypot(a.share - one.low, other.high - b.share)
    return low, gap + math.hypot(one.high - a.share, b.share - other.low)


@pytest.mark.parametrize(("n", "p", "q"), [(50, 0.6, 0.4), (300, 0.5, 0.5), (300, 0.9, 0.7), (1000, 0.1, 0.02)])
def test_a_difference_at_a_known_threshold_is_nearly_exact(n: int, p: float, q: float) -> None:
    name = f"TPR - FPR at a known threshold, {p} - {q}, n = {n}"
    rng = np.random.default_rng(seed_of(name))
    pairs = [(Count(int(rng.binomial(n, p)), n), Count(int(rng.binomial(n, q)), n)) for _ in range(500)]
    found = [st.difference(a, b, ALPHA) for a, b in pairs]
    beside = float(np.mean([high - low for low, high in (newcombe(a, b) for a, b in pairs)]))
    got = held(name, p - q, [(f.low, f.high) for f in found], beside)
    assert got.width <= 1.15 * beside


# --- the area under the ROC ------------------------------------------------------------------------------------------


def binormal(shift: float, spread: float = 1.0) -> Sides:
    return lambda rng, m, n: (rng.normal(size=m) * spread + shift, rng.normal(size=n))


def yes_or_no(p: float, q: float) -> Sides:
    return lambda rng, m, n: ((rng.random(m) < p) * 1.0, (rng.random(n) < q) * 1.0)


def heavy(shift: float) -> Sides:
    return lambda rng, m, n: (rng.standard_t(2, m) + shift, rng.standard_t(2, n))


def split(p: float) -> Sides:
    """Members rank above or below everybody: the largest variance that an area can have."""
    return lambda rng, m, n: (np.where(rng.random(m) < p, 1.0, -1.0), np.zeros(n))


def few(share: float, shift: float) -> Sides:
    return lambda rng, m, n: (rng.normal(size=m) + shift * (rng.random(m) < share), rng.normal(size=n))


def rounded(shift: float) -> Sides:
    return lambda rng, m, n: (np.round(rng.normal(size=m) + shift), np.round(rng.normal(size=n)))


AREAS: dict[str, Sides] = {
    "null": binormal(0.0),
    "binormal 1": binormal(1.0),
    "binormal 2": binormal(2.0),
    "binormal 4": binormal(4.0),
    "unequal spreads": binormal(0.5, 3.0),
    "yes or no .9 .5": yes_or_no(0.9, 0.5),
    "yes or no .99 .01": yes_or_no(0.99, 0.01),
    "yes or no .9 0": yes_or_no(0.9, 0.0),
    "heavy tails": heavy(1.0),
    "all or nothing .5": split(0.5),
    "all or nothing .97": split(0.97),
    "one in ten": few(0.1, 5.0),
    "rounded": rounded(0.0),
    "separated": binormal(40.0),
}


@functools.cache
def area_of(name: str) -> float:
    """From 400,000 records of each kind."""
    inside, outside = AREAS[name](np.random.default_rng(99), 400_000, 400_000)
    return float(stats.mannwhitneyu(inside, outside).statistic) / 400_000**2


@pytest.mark.parametrize("scores", AREAS)
@pytest.mark.parametrize(("m", "n"), [(20, 20), (20, 400), (400, 20), (150, 150), (1000, 1000)])
def test_an_area_is_covered(scores: str, m: int, n: int) -> None:
    name, runs = f"AUC, {scores}, {m} + {n}", 1000
    rng, members, found, values = np.random.default_rng(seed_of(name)), np.arange(m + n) < m, [], []
    for _ in range(runs):
        got = st.auc(np.concatenate(AREAS[scores](rng, m, n)), members, ALPHA)
        found.append((got.low, got.high))
        values.append(got.value)
    oracle = 2 * 1.96 * float(np.std(values))
    covered = held(name, area_of(scores), found, oracle or None)
    # not of fewer records, where Student's t is paid, nor beside areas so near 1 that hardly any is out of order:
    # there even an exact share is wider than a normal one
    if min(m, n) >= 100 and min(m, n) * (1 - area_of(scores)) > 20:
        assert covered.width <= 1.15 * oracle


# --- membership: thresholds that are chosen --------------------------------------------------------------------------


def gaussian(n: int, shift: float, share: float = 1.0) -> Callable[[Rng], Membership]:
    members = np.arange(2 * n) < n
    groups = np.arange(2 * n) % 5

    def draw(rng: Rng) -> Membership:
        return Membership(rng.normal(size=2 * n) + shift * (members & (rng.random(2 * n) < share)), members, groups)

    return draw


def by_person(persons: int, each: int, together: float, shift: float) -> Callable[[Rng], Membership]:
    """Records of one person share a part of their score."""
    whose = np.repeat(np.arange(2 * persons), each)
    members = whose < persons

    def draw(rng: Rng) -> Membership:
        shared = math.sqrt(together) * rng.normal(size=2 * persons)[whose]
        scores = shared + math.sqrt(1 - together) * rng.normal(size=len(whose)) + shift * members
        return Membership(scores, members, np.zeros(len(whose), dtype=np.int64), whose)

    return draw


def rates(shift: float, share: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """FPR and TPR along the true ROC."""
    t = np.linspace(-6.0, 12.0, 36_001)
    return stats.norm.sf(t), (1 - share) * stats.norm.sf(t) + share * stats.norm.sf(t - shift)


def truth(measure: Measure, shift: float, share: float = 1.0) -> float:
    fpr, tpr = rates(shift, share)
    if isinstance(measure, Tpr):
        return float(np.interp(-measure.fpr, -fpr, tpr))
    if isinstance(measure, Auc):
        return 0.5 + share * (float(stats.norm.cdf(shift / math.sqrt(2))) - 0.5)
    if isinstance(measure, ExposedRecords):
        sure = tpr >= measure.precision / (1 - measure.precision) * fpr
        return float(tpr[sure & (fpr > 1e-12)].max(initial=0.0)) if shift else 0.0
    if isinstance(measure, Epsilon):
        named, cleared = (np.log(np.maximum(a - measure.delta, 1e-12) / np.maximum(b, measure.fpr)) for a, b in
                          ((tpr, fpr), (1 - fpr, 1 - tpr)))  # fmt: skip
        return max(0.0, float(named.max()), float(cleared.max()))
    return float((tpr - fpr).max())


def measured(measure: Measure, draw: Callable[[Rng], Membership], runs: int, name: str) -> list[tuple[float, float]]:
    rng = np.random.default_rng(seed_of(name))
    found = [measure.measure(draw(rng), ALPHA) for _ in range(runs)]
    return [(f.low, f.high) for f in found]


CHOSEN = (Advantage(), Tpr(fpr=0.1), Auc(), ExposedRecords(), Epsilon())


@pytest.mark.parametrize("measure", CHOSEN, ids=str)
@pytest.mark.parametrize(("n", "shift", "share"), [(150, 0.0, 1.0), (150, 1.5, 1.0), (600, 1.0, 1.0), (600, 5.0, 0.1)])
def test_a_leak_of_known_size_is_covered(measure: Measure, n: int, shift: float, share: float) -> None:
    name = f"{measure}, n = {n}, shift {shift:g} of {share:.0%}"
    found = measured(measure, gaussian(n, shift, share), 300, name)
    held(name, truth(measure, shift, share), found, known_threshold(measure, n, shift, share))


def known_threshold(measure: Measure, n: int, shift: float, share: float) -> float | None:
    """The width of the exact interval of an adversary who knew the best threshold beforehand."""
    fpr, tpr = rates(shift, share)
    if isinstance(measure, Tpr):
        k = round(n * truth(measure, shift, share))
        found = st.proportion(Count(k, n), ALPHA)
    elif isinstance(measure, Advantage):
        best = int((tpr - fpr).argmax())
        found = st.difference(Count(round(n * tpr[best]), n), Count(round(n * fpr[best]), n), ALPHA)
    else:
        return None
    return found.high - found.low


@pytest.mark.parametrize("measure", [*CHOSEN[:4], Epsilon(fpr=0.05)], ids=str)
@pytest.mark.parametrize(("persons", "each"), [(30, 10), (200, 4)])
@pytest.mark.parametrize("together", [0.0, 0.9])
def test_records_of_one_person_are_covered(measure: Measure, persons: int, each: int, together: float) -> None:
    name = f"{measure}, {persons} persons with {each} records, correlation {together}"
    held(name, truth(measure, 1.0), measured(measure, by_person(persons, each, together, 1.0), 250, name))


def test_taken_for_independent_the_same_records_are_not_covered() -> None:
    """The simulation would notice: without the persons, the same intervals miss far more often than 5 %."""
    draw, rng, missed = by_person(30, 10, 0.9, 1.0), np.random.default_rng(1), 0
    for _ in range(200):
        found = Auc().measure(replace(draw(rng), persons=None), ALPHA)
        missed += not found.low <= truth(Auc(), 1.0) <= found.high
    assert missed > 60


@pytest.mark.parametrize("of", ["advantage", "tpr"])
@pytest.mark.parametrize("leaking", [0, 1, 5])
def test_the_worst_of_five_groups_is_covered(of: str, leaking: int) -> None:
    """None leaks, one does, or all alike, where looking at several costs most."""
    measure = WorstGroup(of=of, fpr=0.1)  # type: ignore[arg-type]
    within: Measure = Advantage() if of == "advantage" else Tpr(fpr=0.1)

    def draw(rng: Rng) -> Membership:
        seen = gaussian(500, 0.0)(rng)
        return replace(seen, scores=seen.scores + 1.5 * (seen.members & (seen.groups < leaking)))

    name = f"{measure}, {leaking} of 5 groups leak"
    held(name[-66:], truth(within, 1.5 if leaking else 0.0), measured(measure, draw, 120, name))


# --- single records --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tail:
    """How far apart records lie: nothing, a share of them, or all by a gamma law; with noise alike or not."""

    share: float
    apart: float
    gamma: bool = False
    uneven: bool = False

    def draw(self, rng: Rng, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Separations in standard deviations of one signal, and the deviations."""
        spread = np.exp(0.4 * rng.normal(size=n)) if self.uneven else np.ones(n)
        apart = rng.gamma(2.0, self.apart / 2, n) if self.gamma else self.apart * (rng.random(n) < self.share)
        return apart * spread, spread

    def truth(self, quantile: float) -> float:
        apart, spread = self.draw(np.random.default_rng(5), 400_000)
        return float(np.quantile(2 * stats.norm.cdf(apart / math.sqrt((spread**2).mean()) / 2) - 1, quantile))


TAILS = {
    "nothing": Tail(0.0, 0.0),
    "nothing, uneven noise": Tail(0.0, 0.0, uneven=True),
    "2 % at 2": Tail(0.02, 2.0),
    "5 % at 1.5": Tail(0.05, 1.5),
    "gamma": Tail(1.0, 1.0, gamma=True),
    "gamma, uneven noise": Tail(1.0, 1.0, gamma=True, uneven=True),
}


@pytest.mark.parametrize(("models", "n"), [(16, 800), (32, 1500)])
@pytest.mark.parametrize("tail", TAILS)
def test_the_risk_of_single_records_is_covered(tail: str, models: int, n: int) -> None:
    name, law, found = f"record risk, {tail}, {models} models, {n} records", TAILS[tail], []
    rng, naive = np.random.default_rng(seed_of(name)), []
    for _ in range(40):
        half = rng.random((models // 2, n)) < 0.5
        inside = np.stack([half, ~half], axis=1).reshape(models, n)
        apart, spread = law.draw(rng, n)
        signals = (
            rng.normal(size=(models, n)) * spread + inside * apart + rng.normal(size=(models, 1)) + rng.normal(size=n)
        )
        seen = Separation(signals, inside, np.arange(n) % 2 == 0, np.arange(n) % 5)
        got = RecordRisk().measure(seen, ALPHA)
        found.append((got.low, got.high, got.value))
        raw = st.separations(seen.signals, seen.inside, seen.groups).found[seen.members]
        naive.append(float(np.quantile(2 * stats.norm.cdf(np.abs(raw) / 2) - 1, 0.99)))
    values, known = np.array([value for _, _, value in found]), law.truth(0.99)
    sys.stderr.write(f"{'':<66} value {values.mean():.3f}, naive quantile {np.mean(naive):.3f}\n")
    held(name, known, [(low, high) for low, high, _ in found])
    if known == 0:
        assert np.mean([low > 0 for low, _, _ in found]) <= 0.025 + 3 * math.sqrt(0.025 * 0.975 / 40)
        assert values.mean() < 0.5 * np.mean(naive)
    else:
        assert abs(values.mean() - known) < 0.12
