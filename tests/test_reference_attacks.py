"""The attacks that compare the subject with reference models."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, logit
from sklearn.metrics import roc_auc_score

from midguard.attacks.membership._ratios import _unrelated, fitted
from midguard.attacks.membership._signals import Signals
from midguard.attacks.membership._views import views
from midguard.attacks.membership.rmia import surpassed
from midguard.engine import registry
from midguard.engine.attack import ANSWERS
from midguard.engine.errors import NotMeasurable
from midguard.engine.observation import Goal
from midguard.engine.target import Access, Exposure, Records, Reference, Release, Target

SCORING = ("lira", "bavaria", "rmia", "attack_r")
NAMES = (*SCORING, "separation")
LOGITS = Release(Exposure.LOGITS)
LABEL = Release(Exposure.LABEL)
ROUNDED = Release(Exposure.PROBABILITIES, decimals=1)


def made(name: str, **parameters: object) -> Any:
    return registry.load("attacks", f"membership.{name}")(**parameters)


def looked_up(table: np.ndarray, release: Release = LOGITS, auxiliary: Records | None = None) -> Target:
    """A model that looks each record up: record i holds the number i."""
    table = np.array(table, dtype=np.float64)
    table.setflags(write=False)

    def answer(x: np.ndarray) -> np.ndarray:
        return table[x[:, 0].astype(int)]

    def module() -> Any:
        raise AssertionError("the module must stay closed")

    return Target(release, Access.RELEASE, (1,), table.shape[1], (0.0, 1e9), auxiliary, answer, module)


def binary(phi: np.ndarray) -> np.ndarray:
    """Logits of two classes that give label 0 this log odds."""
    return np.stack([phi, np.zeros_like(phi)], axis=-1)


def numbered(first: int, last: int, labels: np.ndarray | None = None) -> Records:
    x = np.arange(first, last, dtype=np.float32)[:, None]
    y = np.zeros(last - first, dtype=np.int64) if labels is None else np.array(labels, dtype=np.int64)
    x.setflags(write=False)
    y.setflags(write=False)
    return Records(x, y)


def world(
    subject: np.ndarray, references: np.ndarray, inside: np.ndarray, release: Release = LOGITS, m: int = 0
) -> tuple[Target, Records]:
    """Two-class models that give these log odds; the last m records are the adversary's own."""
    n = len(subject) - m
    inside = np.array(inside, dtype=bool)
    inside.setflags(write=False)
    auxiliary = numbered(n, n + m) if m else None
    target = looked_up(binary(subject), release, auxiliary)
    target.references = tuple(
        Reference(looked_up(binary(phi), release), row) for phi, row in zip(references, inside, strict=True)
    )
    return target, numbered(0, n)


def score(name: str, of: tuple[Target, Records], seed: int = 0, **parameters: object) -> np.ndarray:
    done: list[float] = []
    once = {"label_views": 1} if of[0].shape == (1,) else {}  # who looks records up knows no other view of them
    found = made(name, **{"references": 1000, **once, **parameters}).score(*of, seed, done.append)
    assert done == sorted(done)
    assert done[-1] == 1.0
    assert found.shape == (len(of[1]),)
    assert found.dtype == np.float64
    return np.asarray(found)


def halves(k: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """Complementary random halves."""
    masks = np.zeros((k, n), dtype=bool)
    for i in range(0, k, 2):
        masks[i, rng.permutation(n)[: n // 2]] = True
        masks[i + 1 : i + 2] = ~masks[i]
    return masks


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """A world whose law is known: each record has two means and two variances."""

    subject: np.ndarray
    references: np.ndarray
    inside: np.ndarray
    members: np.ndarray
    best: np.ndarray  # the likelihood ratio that nobody can beat

    def of(self, k: int, release: Release = LOGITS) -> tuple[Target, Records]:
        return world(self.subject, self.references[:k], self.inside[:k], release)


def gaussian(n: int, k: int, seed: int, gap: float = 1.0, varied: bool = False) -> Gaussian:
    rng = np.random.default_rng(seed)
    out = rng.normal(0, 4, n)
    into = out + gap * rng.gamma(2.0, 0.6, n)
    scale = np.sqrt(1 / rng.gamma(2.5, 1 / 1.5, n)) if varied else np.ones(n)
    members = np.zeros(n, dtype=bool)
    members[rng.permutation(n)[: n // 2]] = True
    inside = halves(k, n, rng)
    narrower = 0.8 if gap else 1.0
    masks = np.vstack([members, inside])
    phi = np.where(
        masks, into + narrower * scale * rng.normal(size=masks.shape), out + scale * rng.normal(size=masks.shape)
    )
    best = stats.norm.logpdf(phi[0], into, narrower * scale) - stats.norm.logpdf(phi[0], out, scale)
    return Gaussian(phi[0], phi[1:], inside, members, best)


def ragged(n: int = 60, k: int = 7, seed: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Any mask: records without models on one side, records with a single one."""
    rng = np.random.default_rng(seed)
    inside = rng.random((k, n)) < rng.choice([0.0, 0.15, 0.5, 0.85, 1.0], n)
    inside[:, 0], inside[:, 1] = True, False
    return rng.normal(0, 2, n), rng.normal(0, 2, (k, n)) + 1.3 * inside, inside


# --- declarations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_declares_that_it_needs_references_and_how_many(name: str) -> None:
    attack = made(name)
    assert attack.threat.references
    assert not attack.threat.auxiliary
    assert attack.threat.access is Access.RELEASE
    assert attack.threat.exposures == ANSWERS
    assert attack.threat.goal is (Goal.RISK if name == "separation" else Goal.MEMBERSHIP)
    assert attack.references == (32 if name == "separation" else 16)
    assert attack.threat.obstacle(Access.RELEASE, Exposure.LABEL, False, "there is no recipe").startswith(
        "it needs ref"
    )


@pytest.mark.parametrize(
    ("name", "wrong"),
    [(name, {"references": 0}) for name in NAMES]
    + [(name, {field: 0}) for name in SCORING for field in ("views", "label_views")]
    + [("rmia", {"gamma": 0.9}), ("rmia", {"gamma": float("nan")}), ("rmia", {"a": 0.0}), ("rmia", {"a": 1.1})]
    + [("lira", {"variance": "fixed"})],
)
def test_refuses_parameters_that_mean_nothing(name: str, wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        made(name, **wrong)


@pytest.mark.parametrize("name", NAMES)
def test_without_references_or_their_answers_nothing_is_measured(name: str) -> None:
    attack, nothing = made(name), looked_up(np.zeros((3, 2)))
    ask = attack.signals if name == "separation" else attack.score
    with pytest.raises(NotMeasurable, match="no reference model"):
        ask(nothing, numbered(0, 3), 0, lambda _: None)
    if name != "separation":
        silent = world(np.zeros(3), np.full((2, 3), np.nan), np.eye(3, dtype=bool)[:2])
        with pytest.raises(NotMeasurable, match="finite"):
            ask(*silent, 0, lambda _: None)


@pytest.mark.parametrize("name", SCORING)
def test_asks_the_first_references_and_no_more(name: str) -> None:
    known = gaussian(40, 8, 0)
    target, candidates = known.of(8)
    found = score(name, (target, candidates), references=4)
    np.testing.assert_array_equal(found, score(name, known.of(4)))
    assert [r.target.queries for r in target.references] == [40] * 4 + [0] * 4
    assert target.queries == made(name).queries(40, 0) == 40


# --- LiRA: a second implementation, record by record ----------------------------------------------------------------


def lira_by_loops(
    subject: np.ndarray, references: np.ndarray, inside: np.ndarray, online: bool, own: bool
) -> np.ndarray:
    n = len(subject)
    sides = [[references[inside[:, i] == side, i] for i in range(n)] for side in (True, False)]
    gaps = [a.mean() - b.mean() for a, b in zip(*sides, strict=True) if len(a) and len(b)]
    pooled = []
    for side in sides:
        residuals = np.concatenate([values - values.mean() for values in side if len(values)])
        freedom = sum(len(values) - 1 for values in side if len(values))
        pooled.append((residuals**2).sum() / freedom)
    scores = []
    for i in range(n):
        a, b = sides[0][i], sides[1][i]
        mean_in = a.mean() if len(a) else b.mean() + np.mean(gaps)
        mean_out = b.mean() if len(b) else a.mean() - np.mean(gaps)
        var_in, var_out = pooled
        if own and len(a) > 1:
            var_in = max(np.var(a, ddof=1), 0.01 * pooled[0])
        if own and len(b) > 1:
            var_out = max(np.var(b, ddof=1), 0.01 * pooled[1])
        above = stats.norm.logpdf(subject[i], mean_in, np.sqrt(var_in))
        below = stats.norm.logpdf(subject[i], mean_out, np.sqrt(var_out))
        scores.append(above - below if online else (subject[i] - mean_out) / np.sqrt(var_out))
    return np.array(scores)


@pytest.mark.parametrize("online", [True, False])
@pytest.mark.parametrize("variance", ["pooled", "per-record"])
def test_lira_is_the_papers_formula_record_by_record(online: bool, variance: str) -> None:
    parts = ragged()
    theirs = lira_by_loops(*parts, online, variance == "per-record")
    np.testing.assert_allclose(score("lira", world(*parts), online=online, variance=variance), theirs, rtol=1e-8)


@pytest.mark.parametrize(("k", "same_as"), [(62, "pooled"), (64, "per-record")])
def test_lira_takes_each_records_own_variance_from_64_references_on(k: int, same_as: str) -> None:
    of = gaussian(50, k, 1, varied=True).of(k)
    other = {"pooled": "per-record", "per-record": "pooled"}[same_as]
    np.testing.assert_array_equal(score("lira", of), score("lira", of, variance=same_as))
    assert not np.allclose(score("lira", of), score("lira", of, variance=other))


def test_lira_takes_the_mean_of_the_references_by_hand() -> None:
    # Without the record 0, 0, 3: mean 1, median 0, variance 3. With it 2, 4: mean 3, variance 2.
    references = np.array([[0.0], [0.0], [3.0], [2.0], [4.0]])
    of = world(np.array([5.0]), references, np.array([[0], [0], [0], [1], [1]]))
    assert score("lira", of, online=False)[0] == pytest.approx(4 / 3**0.5)
    assert score("lira", of)[0] == pytest.approx(16 / 6 - 4 / 4 + np.log(3 / 2) / 2)


def test_lira_divides_by_the_residual_deviation_not_by_that_of_all_records() -> None:
    # Records lie 4 apart and models 1: the standard score of a non-member has variance 1 + 1/8.
    known = gaussian(4000, 16, 2)
    z = score("lira", known.of(16), online=False)[~known.members]
    assert z.std() == pytest.approx((1 + 1 / 8) ** 0.5, rel=0.05)
    assert abs(z.mean()) < 0.06


@pytest.mark.parametrize("name", SCORING)
def test_a_surer_subject_is_never_less_suspicious_offline(name: str) -> None:
    # A two-sided score, the density without the record, falls again on the left of the mean.
    parameters = {"online": False} if name in {"lira", "rmia"} else {}
    rng = np.random.default_rng(3)
    references = np.repeat(rng.normal(0, 1, (6, 1)), 41, axis=1)
    subject = np.linspace(-20, 20, 41)
    inside = np.zeros((6, 41), dtype=bool)
    found = score(name, world(subject, references, inside), **parameters)
    assert (np.diff(found) > 0).all()
    assert (np.diff(score(name, world(subject, references, ~inside), **parameters)) > 0).all()


def test_lira_comes_near_the_likelihood_ratio_that_nobody_beats() -> None:
    known = gaussian(4000, 60, 4)
    optimum = roc_auc_score(known.members, known.best)
    online, offline = score("lira", known.of(60)), score("lira", known.of(60), online=False)
    assert 0.7 < optimum < 0.85
    assert optimum - 0.01 < roc_auc_score(known.members, online) <= optimum + 0.002
    assert np.corrcoef(online, known.best)[0, 1] > 0.97
    assert 0.65 < roc_auc_score(known.members, offline) < optimum
    swapped = world(known.subject, known.references, ~known.inside)
    assert roc_auc_score(known.members, score("lira", swapped)) < 0.4


# --- BaVarIA ---------------------------------------------------------------------------------------------------------


def bavaria_by_loops(subject: np.ndarray, references: np.ndarray, inside: np.ndarray) -> np.ndarray:
    n = len(subject)
    sides = [[references[inside[:, i] == side, i] for i in range(n)] for side in (True, False)]
    shapes, pooled, posterior = [], [], []
    for side in sides:
        squares = [(((v - v.mean()) ** 2).sum(), len(v) - 1) for v in side if len(v) > 1]
        most = np.quantile([s / f for s, f in squares], 0.99)
        squares = [(s, f) for s, f in squares if s / f <= most]
        freedom = sum(f for _, f in squares)
        first = sum(s for s, _ in squares) / freedom
        # E[S^2] = f (f + 2) E[variance^2], each record weighted by its degrees of freedom
        second = sum(f * (s**2 / (f * (f + 2))) for s, f in squares) / freedom
        pooled.append(first)
        shapes.append(2 + first**2 / (second - first**2) if second > first**2 else 1e6)
    for side, s, a in zip(sides, pooled, shapes, strict=True):
        total = [((v - v.mean()) ** 2).sum() if len(v) else 0.0 for v in side]
        posterior.append([(a + max(len(v) - 1, 0) / 2, s * (a - 1) + t / 2) for v, t in zip(side, total, strict=True)])
    both = [i for i in range(n) if len(sides[0][i]) and len(sides[1][i])]
    means = np.array([[sides[side][i].mean() for i in both] for side in (0, 1)])
    noise = [np.mean([pooled[side] / len(sides[side][i]) for i in both]) for side in (0, 1)]
    covariance = np.cov(means, ddof=0) - np.diag(noise)
    centre = means.mean(axis=1)
    scores = []
    for i in range(n):
        noise_of = np.diag([len(sides[s][i]) * (posterior[s][i][0] - 1) / posterior[s][i][1] for s in (0, 1)])
        doubt = np.linalg.inv(np.linalg.inv(covariance) + noise_of)
        seen = np.array([sides[s][i].mean() if len(sides[s][i]) else 0.0 for s in (0, 1)])
        middle = centre + doubt @ noise_of @ (seen - centre)
        logs = []
        for s in (0, 1):
            shape, rate = posterior[s][i]
            scale = np.sqrt(rate / shape * (1 + doubt[s, s] * (shape - 1) / rate))
            logs.append(stats.t.logpdf(subject[i], 2 * shape, middle[s], scale))
        scores.append(logs[0] - logs[1])
    return np.array(scores)


def test_bavaria_is_its_posterior_predictive_record_by_record() -> None:
    known = gaussian(80, 9, 6, varied=True)
    rng = np.random.default_rng(6)
    inside = np.where(rng.random((9, 80)) < 0.1, ~known.inside, known.inside)
    inside[:, 0], inside[:, 1] = True, False
    parts = known.subject, known.references, inside
    np.testing.assert_allclose(score("bavaria", world(*parts)), bavaria_by_loops(*parts), rtol=1e-7)


def test_bavaria_finds_the_priors_that_the_world_was_drawn_from() -> None:
    # With the true priors and 200 references there is little left between its ratio and the best one.
    known = gaussian(1500, 200, 7, varied=True)
    found = score("bavaria", known.of(200))
    assert roc_auc_score(known.members, found) == pytest.approx(roc_auc_score(known.members, known.best), abs=0.01)
    assert stats.spearmanr(found, known.best).statistic > 0.98


@pytest.mark.parametrize("k", [1, 2, 4, 8])
def test_bavaria_gets_more_from_few_references_than_lira(k: int) -> None:
    known = gaussian(4000, 8, 8, gap=1.5, varied=True)
    shrunken, raw = (roc_auc_score(known.members, score(name, known.of(k))) for name in ("bavaria", "lira"))
    assert shrunken > raw + (0.0 if k == 1 else 0.005)
    assert shrunken > 0.6


# --- RMIA ------------------------------------------------------------------------------------------------------------


def rmia_by_loops(p: np.ndarray, references: np.ndarray, inside: np.ndarray, a: float, online: bool) -> np.ndarray:
    ratios = []
    for i in range(len(p)):
        with_it, without = references[inside[:, i], i], references[~inside[:, i], i]
        p_out = without.mean() if len(without) else max((with_it.mean() + a - 1) / a, 1e-6)
        average = ((1 + a) * p_out + (1 - a)) / 2
        if online and len(with_it):
            average = (with_it.mean() + p_out) / 2
        ratios.append(p[i] / average)
    return np.array(ratios)


@pytest.mark.parametrize("online", [True, False])
@pytest.mark.parametrize("a", [0.3, 1.0])
@pytest.mark.parametrize("m", [0, 25])
def test_rmia_is_the_papers_share_record_by_record(online: bool, a: float, m: int) -> None:
    subject, references, inside = ragged()
    known = inside.copy()
    known[:, 60 - m :] &= not m
    ratios = rmia_by_loops(expit(subject), expit(references), known, a, online)
    population = ratios[60 - m :] if m else ratios
    share = np.array([sum(r / z >= 2 for z in population) for r in ratios[: 60 - m]]) / len(population)
    target, candidates = world(subject, references, inside[:, : 60 - m], m=m)
    found = score("rmia", (target, candidates), a=a, online=online)
    size = len(population)
    np.testing.assert_array_equal(np.floor(found * (size + 1) + 1e-9), np.round(share * size))
    order = np.argsort(ratios[: 60 - m])
    assert (np.diff(found[order]) > 0).all()
    assert target.queries == 60


def test_rmia_online_is_the_mean_over_all_references_where_the_sides_are_even() -> None:
    rng = np.random.default_rng(10)
    subject, references = rng.normal(size=30), rng.normal(size=(4, 30))
    found = score("rmia", world(subject, references, halves(4, 30, rng)))
    ratios = expit(subject) / expit(references).mean(axis=0)
    np.testing.assert_array_equal(np.argsort(found), np.argsort(ratios))


def test_one_reference_with_the_record_is_followed_back_by_hand() -> None:
    # a = .5: p_in = .8 means p_out = (.8 + .5 - 1) / .5 = .6 and p = .7; p_out = .6 alone gives the same p.
    of = world(logit(np.array([0.7, 0.7])), logit(np.array([[0.8, 0.6]])), np.array([[1, 0]]))
    for online in (True, False):
        found = score("rmia", of, a=0.5, online=online)
        # Neither surpasses the other twice over, and log ratio 0 is the middle of the step: (0 + 1/2) / 3.
        np.testing.assert_allclose(found, 0.5 / 3, rtol=1e-12)


def test_the_share_counts_what_is_surpassed_by_the_factor_or_more() -> None:
    others = np.array([0.0, -1.0, np.nan, -2.0, -1.0])
    found = surpassed(np.array([0.0, -0.5, 5.0, -9.0, np.nan]), others, float(np.exp(1.0)))
    np.testing.assert_array_equal(np.floor(found[:4] * 5), [3, 1, 4, 0])
    assert np.isnan(found[4])
    # Beyond all others the order goes on.
    top = surpassed(np.linspace(5, 50, 1000), others, 2.0)
    assert (np.diff(top) > 0).all()
    assert top[-1] <= 1


@pytest.mark.parametrize("a", [0.3, 0.6, 0.9])
def test_a_is_found_from_one_reference_by_its_moments(a: float) -> None:
    rng = np.random.default_rng(11)
    p_out = rng.beta(2, 3, 20_000)
    inside = rng.random((1, 20_000)) < 0.5
    p = np.where(inside, a * p_out + 1 - a, p_out)
    signals = Signals.of(logit(p[0]), logit(p), inside)
    assert fitted(signals, online=False) == pytest.approx(a, abs=0.02)


def test_a_is_the_one_that_tells_the_references_records_best() -> None:
    known = gaussian(1500, 8, 12, gap=2.0)
    signals = Signals.of(known.subject, known.references, known.inside)
    best = fitted(signals, online=False)
    areas = {
        a: np.mean([pseudo_area(known, j, a) for j in range(4)])
        for a in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)
    }
    assert areas[best] == pytest.approx(max(areas.values()), abs=1e-9)
    assert len({round(area, 6) for area in areas.values()}) > 5


def pseudo_area(known: Gaussian, j: int, a: float) -> float:
    """How well reference j's records are told by the references outside its pair."""
    others = [i for i in range(8) if i // 2 != j // 2]
    ratios = rmia_by_loops(expit(known.references[j]), expit(known.references[others]), known.inside[others], a, False)
    return float(roc_auc_score(known.inside[j], ratios))


def test_the_complement_of_a_reference_does_not_give_its_records_away() -> None:
    known = gaussian(500, 6, 13)
    signals = Signals.of(known.subject, known.references, known.inside)
    assert [_unrelated(signals, j) for j in (0, 3)] == [[2, 3, 4, 5], [0, 1, 4, 5]]
    pair = Signals.of(known.subject, known.references[:2], known.inside[:2])
    assert _unrelated(pair, 0) == []


# --- attack R --------------------------------------------------------------------------------------------------------


def test_attack_r_is_the_smoothed_share_by_loops() -> None:
    subject, references, inside = ragged()
    sides = [[references[inside[:, i] == side, i] for i in range(60)] for side in (True, False)]
    gap = np.mean([a.mean() - b.mean() for a, b in zip(*sides, strict=True) if len(a) and len(b)])
    residuals = np.concatenate([v - v.mean() for v in sides[1] if len(v)])
    deviation = np.sqrt((residuals**2).sum() / sum(len(v) - 1 for v in sides[1] if len(v)))
    shares = []
    for i in range(60):
        compared = sides[1][i] if len(sides[1][i]) else sides[0][i] - gap
        shares.append(stats.norm.cdf((subject[i] - compared) / (1.06 * deviation * len(compared) ** -0.2)).mean())
    np.testing.assert_allclose(expit(score("attack_r", world(subject, references, inside))), shares, rtol=1e-8)


def test_attack_r_is_the_plain_share_where_the_subject_is_far_from_every_reference() -> None:
    rng = np.random.default_rng(14)
    references = np.repeat(np.array([[-60.0], [-30.0], [30.0], [60.0]]), 400, axis=1) + 0.1 * rng.normal(size=(4, 400))
    references[:, 1:] = np.array([0.0, 0.0, 0.0, 0.0])[:, None] + 0.1 * rng.normal(size=(4, 399))
    subject = np.zeros(400)
    found = score("attack_r", world(subject, references, np.zeros((4, 400))))
    assert expit(found[0]) == pytest.approx(0.5, abs=1e-9)


def test_attack_r_keeps_apart_what_is_surer_than_every_reference() -> None:
    subject = np.arange(5.0, 205.0)
    found = score("attack_r", world(subject, np.random.default_rng(0).normal(size=(8, 200)), np.zeros((8, 200))))
    assert stats.spearmanr(found, subject).statistic > 0.999
    assert len(np.unique(found)) == 200


# --- separation ------------------------------------------------------------------------------------------------------


def test_separation_is_the_log_odds_of_each_reference_and_never_asks_the_subject() -> None:
    rng = np.random.default_rng(15)
    tables, labels = rng.normal(0, 3, (5, 20, 4)), rng.integers(0, 4, 20)
    target = looked_up(np.zeros((20, 4)))
    target.references = tuple(Reference(looked_up(table), np.zeros(20, dtype=bool)) for table in tables)
    found = made("separation", references=3).signals(target, numbered(0, 20, labels), 0, lambda _: None)
    p = np.exp(tables) / np.exp(tables).sum(axis=2, keepdims=True)
    own = p[:3, np.arange(20), labels]
    np.testing.assert_allclose(found, logit(own), rtol=1e-9)
    assert target.queries == 0
    assert [r.target.queries for r in target.references] == [20, 20, 20, 0, 0]


# --- what every one of them keeps ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCORING)
@pytest.mark.parametrize("k", [1, 2, 3, 4, 16])
@pytest.mark.parametrize("release", [LOGITS, ROUNDED, LABEL], ids=lambda r: f"{r.exposes}")
def test_any_number_of_references_behind_any_release_finds_the_planted_leak(
    name: str, k: int, release: Release
) -> None:
    known = gaussian(3000, 16, 16, gap=3.0)
    found = score(name, known.of(k, release))
    assert np.isfinite(found).all()
    area = roc_auc_score(known.members, found)
    assert area > (0.53 if release is LABEL else 0.65)
    if release is not LOGITS:
        plain = made("label").score(*known.of(k, release), 0, lambda _: None)
        # A share of one or two references is too coarse to calibrate much.
        coarse = name == "attack_r" and k < 4
        assert area > roc_auc_score(known.members, plain) + (-0.02 if coarse else 0.005)


@pytest.mark.parametrize("name", SCORING)
@pytest.mark.parametrize("k", [1, 2, 16])
def test_a_null_is_found_innocent(name: str, k: int) -> None:
    # Three standard errors of an area over 1500 against 1500: false alarm of .3 %, for a fixed seed none.
    known = gaussian(3000, 16, 17, gap=0.0)
    assert abs(roc_auc_score(known.members, score(name, known.of(k))) - 0.5) < 3 * (3001 / (12 * 1500**2)) ** 0.5


@pytest.mark.parametrize("name", SCORING)
@pytest.mark.parametrize("release", [LOGITS, ROUNDED, LABEL], ids=lambda r: f"{r.exposes}")
@pytest.mark.parametrize("level", [0.0, 3.0, 900.0])
def test_constant_models_tell_nothing(name: str, release: Release, level: float) -> None:
    rng = np.random.default_rng(18)
    of = world(np.full(200, level), np.full((8, 200), level), halves(8, 200, rng), release)
    found = score(name, of)
    assert len(np.unique(found.round(6))) == 1
    assert np.isfinite(found).all()


@pytest.mark.parametrize("name", SCORING)
@pytest.mark.parametrize("mask", ["inside", "outside", "first half"])
def test_references_on_one_side_alone_still_find_it(name: str, mask: str) -> None:
    known = gaussian(2000, 16, 19, gap=3.0)
    # Draw all references from one side by taking, record by record, those that stand on it.
    into = np.stack([known.references[known.inside[:, i], i] for i in range(2000)], axis=1)
    out = np.stack([known.references[~known.inside[:, i], i] for i in range(2000)], axis=1)
    half = np.arange(2000) < 1000
    wanted = {"inside": np.ones(2000, bool), "outside": np.zeros(2000, bool), "first half": half}[mask]
    found = score(name, world(known.subject, np.where(wanted, into, out), np.tile(wanted, (8, 1))))
    assert np.isfinite(found).all()
    assert roc_auc_score(known.members, found) > 0.7


@pytest.mark.parametrize("name", SCORING)
def test_the_order_of_the_records_changes_nothing(name: str) -> None:
    known = gaussian(300, 8, 20)
    order = np.random.default_rng(20).permutation(300)
    shuffled = world(known.subject[order], known.references[:, order], known.inside[:, order])
    np.testing.assert_allclose(score(name, shuffled), score(name, known.of(8))[order], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["lira", "bavaria", "attack_r"])
def test_the_order_of_the_references_changes_nothing(name: str) -> None:
    known = gaussian(300, 8, 21)
    order = np.array([4, 1, 0, 7, 2, 6, 3, 5])
    shuffled = world(known.subject, known.references[order], known.inside[order])
    np.testing.assert_allclose(score(name, shuffled), score(name, known.of(8)), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", SCORING)
def test_who_has_no_answer_has_no_score_and_spoils_no_other(name: str) -> None:
    known = gaussian(400, 8, 22)
    subject, references = known.subject.copy(), known.references.copy()
    subject[3] = np.nan
    references[:, 5] = np.nan
    references[2, 7] = np.nan
    found = score(name, world(subject, references, known.inside))
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(found)), [3, 5])
    whole = score(name, known.of(8))
    rest = np.setdiff1d(np.arange(400), [3, 5, 7])
    assert stats.spearmanr(found[rest], whole[rest]).statistic > 0.99


@pytest.mark.parametrize("name", SCORING)
def test_a_reference_that_diverged_is_as_if_it_were_not_there(name: str) -> None:
    known = gaussian(400, 6, 23)
    broken = known.references.copy()
    broken[5] = np.nan
    found = score(name, world(known.subject, broken, known.inside))
    np.testing.assert_allclose(found, score(name, known.of(5)), rtol=1e-9)


@pytest.mark.parametrize("name", SCORING)
def test_one_record_that_explodes_does_not_blind_the_attack_to_the_others(name: str) -> None:
    known = gaussian(2000, 8, 24, gap=3.0)
    before = roc_auc_score(known.members, score(name, known.of(8)))
    references = known.references.copy()
    references[:, 0] = np.array([1e9, -1e9, 1e200, 1e30, -1e150, 1e12, 1e9, -1e9])
    found = score(name, world(known.subject, references, known.inside))
    assert np.isfinite(found).all()
    assert roc_auc_score(known.members[1:], found[1:]) > before - 0.03


@pytest.mark.parametrize("name", SCORING)
@pytest.mark.parametrize("release", [LOGITS, Release(Exposure.PROBABILITIES)], ids=lambda r: f"{r.exposes}")
def test_a_scale_that_hides_the_answers_is_undone_model_by_model(name: str, release: Release) -> None:
    known = gaussian(500, 8, 25, gap=3.0)
    factor = 1e-6 if release is not LOGITS else 1e-20
    hidden = world(known.subject * factor, known.references, known.inside, release)
    open_one = score(name, known.of(8, release))
    assert stats.spearmanr(score(name, hidden), open_one).statistic > 0.3
    everywhere = world(known.subject * factor, known.references * factor, known.inside, release)
    assert roc_auc_score(known.members, score(name, everywhere)) > roc_auc_score(known.members, open_one) - 0.1


def test_a_mask_over_other_records_is_refused() -> None:
    target, _ = gaussian(10, 2, 26).of(2)
    with pytest.raises(ValueError, match="expected 5 records"):
        made("lira").score(target, numbered(0, 5), 0, lambda _: None)


# --- views -----------------------------------------------------------------------------------------------------------


def test_an_image_is_shifted_by_a_pixel_and_mirrored() -> None:
    x = np.random.default_rng(27).uniform(0.1, 1, (3, 2, 5, 4)).astype(np.float32)
    x.setflags(write=False)
    found = list(views(x, 18, (0.0, 1.0), 0))
    np.testing.assert_array_equal(found[0], x)
    assert len({view.tobytes() for view in found}) == 18
    shifted = {(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)}
    theirs = set()
    for image in (x, x[..., ::-1]):
        for down, right in shifted:
            moved = np.zeros_like(x)
            rows, columns = slice(max(down, 0), 5 + min(down, 0)), slice(max(right, 0), 4 + min(right, 0))
            back = (slice(max(-down, 0), 5 + min(-down, 0)), slice(max(-right, 0), 4 + min(-right, 0)))
            moved[:, :, rows, columns] = image[:, :, back[0], back[1]]
            theirs.add(moved.tobytes())
    assert {view.tobytes() for view in found} == theirs


def test_other_records_get_the_same_little_noise_and_yes_or_no_stays_so() -> None:
    rng = np.random.default_rng(28)
    x = np.concatenate([rng.uniform(0.3, 0.6, (500, 3)), rng.integers(0, 2, (500, 40))], axis=1).astype(np.float32)
    x.setflags(write=False)
    first, second, third = views(x, 3, (0.0, 1.0), 7)
    np.testing.assert_array_equal(first, x)
    assert set(np.unique(second[:, 3:])) == {0.0, 1.0}
    turned = (second != x)[:, 3:]
    assert (turned == turned[0]).all()
    assert 0 < turned[0].sum() < 10
    moved = (second - x)[:, :3]
    np.testing.assert_allclose(moved, np.tile(moved[0], (500, 1)), atol=1e-6)
    assert 0 < np.abs(moved).max() < 0.1
    assert (second != third).any()
    np.testing.assert_array_equal(second, list(views(x, 2, (0.0, 1.0), 7))[1])
    assert (second != list(views(x, 2, (0.0, 1.0), 8))[1]).any()
    np.testing.assert_allclose(list(views(x[::-1], 2, (0.0, 1.0), 7))[1][::-1], second, atol=1e-6)


def test_where_only_labels_are_shown_an_image_gets_more_noise_and_no_shift() -> None:
    x = np.random.default_rng(31).uniform(0.4, 0.6, (200, 1, 8, 8)).astype(np.float32)
    first, second, third = views(x, 3, (0.0, 1.0), 7, labels=True)
    np.testing.assert_array_equal(first, x)
    for view in (second, third):
        moved = (view - x).reshape(200, -1)
        np.testing.assert_allclose(moved, np.tile(moved[0], (200, 1)), atol=1e-6)
        assert 0.4 < moved[0].std() / x.std() < 0.8


def watched(logits: Callable[[np.ndarray], np.ndarray], seen: list[bytes], release: Release) -> Target:
    def answer(x: np.ndarray) -> np.ndarray:
        seen.append(x.tobytes())
        return logits(x.reshape(len(x), -1).astype(np.float64))

    return Target(release, Access.RELEASE, (1, 4, 4), 3, (0.0, 1.0), None, answer, lambda: None)


@pytest.mark.parametrize("name", SCORING)
@pytest.mark.parametrize("release", [LOGITS, LABEL], ids=lambda r: f"{r.exposes}")
def test_subject_and_references_are_asked_about_the_same_views(name: str, release: Release) -> None:
    rng = np.random.default_rng(29)
    weights = rng.normal(0, 2, (5, 16, 3))
    seen: list[list[bytes]] = [[] for _ in range(5)]
    subject, *others = (watched(lambda x, w=w: x @ w, s, release) for w, s in zip(weights, seen, strict=True))
    subject.references = tuple(Reference(target, row) for target, row in zip(others, halves(4, 60, rng), strict=True))
    x = rng.random((60, 1, 4, 4)).astype(np.float32)
    x.setflags(write=False)
    candidates = Records(x, rng.integers(0, 3, 60))
    parameters = {"views": 5, "label_views": 1}
    found = score(name, (subject, candidates), **parameters)
    assert all(one == seen[0] for one in seen)
    assert len(set(seen[0])) == 5
    assert subject.queries == made(name, **parameters).queries(60, 0)
    np.testing.assert_array_equal(found, score(name, (subject, candidates), **parameters))


def test_views_average_the_log_likelihood_ratio_of_each() -> None:
    # Two models of each side whose answers depend on the view: the score is the mean of the two views' scores.
    rng = np.random.default_rng(30)
    weights = rng.normal(0, 3, (7, 16, 2))
    inside = halves(6, 40, rng)
    x = rng.random((40, 1, 4, 4)).astype(np.float32)
    candidates = Records(x, np.zeros(40, dtype=np.int64))
    targets = [
        watched(lambda x, w=w: np.pad(x @ w, ((0, 0), (0, 1)), constant_values=-50), [], LOGITS) for w in weights
    ]
    targets[0].references = tuple(Reference(t, row) for t, row in zip(targets[1:], inside, strict=True))
    theirs = []
    for view in views(x, 3, (0.0, 1.0), 0):
        logits = view.reshape(40, -1).astype(np.float64) @ weights
        theirs.append(
            lira_by_loops(logits[0, :, 0] - logits[0, :, 1], (logits[..., 0] - logits[..., 1])[1:], inside, True, False)
        )
    np.testing.assert_allclose(score("lira", (targets[0], candidates), views=3), np.mean(theirs, axis=0), rtol=1e-5)


def test_labels_alone_are_read_as_the_smoothed_share_of_right_answers() -> None:
    # Right on one view of one: log((1 + 1/2) / (0 + 1/2)) = log 3.
    target = looked_up(np.zeros((2, 2)))
    target.references = (Reference(looked_up(binary(np.array([4.0, -4.0])), LABEL), np.array([True, False])),)
    found = made("separation").signals(target, numbered(0, 2), 0, lambda _: None)
    np.testing.assert_allclose(found, [[np.log(3), -np.log(3)]], rtol=1e-12)


# --- a trained model -------------------------------------------------------------------------------------------------


def test_on_trained_models_the_references_find_what_the_loss_does_not(arena: Any) -> None:
    """Digits with 20 % label noise. Naive LiRA finds .737 on this recipe online, .706 offline, the loss .599."""
    areas = {name: roc_auc_score(arena.members, score(name, (arena.target, arena.candidates))) for name in SCORING}
    offline = roc_auc_score(arena.members, score("lira", (arena.target, arena.candidates), online=False))
    loss = roc_auc_score(arena.members, made("loss").score(arena.target, arena.candidates, 0, lambda _: None))
    assert areas["lira"] > 0.70
    assert areas["bavaria"] > areas["lira"] - 0.01
    assert areas["rmia"] > 0.69
    assert min(offline, areas["attack_r"]) > loss + 0.06


@pytest.mark.parametrize("release", [LABEL, ROUNDED], ids=lambda r: f"{r.exposes}")
def test_on_trained_models_a_release_that_hides_is_read_further_than_the_gap_attack(
    arena: Any, release: Release
) -> None:
    def behind(target: Target) -> Target:
        return dataclasses.replace(target, release=release, queries=0)

    references = tuple(Reference(behind(r.target), r.inside) for r in arena.target.references)
    target = dataclasses.replace(behind(arena.target), references=references)
    plain = roc_auc_score(arena.members, made("label").score(target, arena.candidates, 0, lambda _: None))
    for name in SCORING:
        area = roc_auc_score(arena.members, score(name, (target, arena.candidates)))
        assert area > plain + (0.005 if release is LABEL else 0.1), name
