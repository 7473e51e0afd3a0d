"""The attacks on membership that learn from more than the model's own answers: what they find, what they must not."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logit
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn.functional import cross_entropy

from midguard.attacks.membership import _sides
from midguard.attacks.membership.boundary import Boundary
from midguard.attacks.membership.gradient_norm import GradientNorm
from midguard.attacks.membership.label import Label
from midguard.attacks.membership.loss import Loss
from midguard.attacks.membership.population import Population
from midguard.attacks.membership.quantile import Quantile
from midguard.attacks.membership.shadow import Shadow
from midguard.engine.attack import ANSWERS, SCORES, MembershipAttack
from midguard.engine.errors import AccessError, AttackError
from midguard.engine.observation import Goal
from midguard.engine.target import Access, Exposure, Records, Reference, Release, Target

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Arena

LOGITS = Release(Exposure.LOGITS)
LABEL = Release(Exposure.LABEL)
RELEASES = (
    LOGITS,
    Release(Exposure.PROBABILITIES),
    Release(Exposure.PROBABILITIES, top=2),
    Release(Exposure.PROBABILITIES, decimals=2),
)
ATTACKS = (Shadow(), Quantile(), Population(), GradientNorm(), Boundary(100))
NAMES = [type(attack).__name__ for attack in ATTACKS]
every = pytest.mark.parametrize("attack", ATTACKS, ids=NAMES)
#: Members and nonmembers of the planted worlds; the AUC of a null has standard deviation .0236 at most (Mann-Whitney),
#: and leaves a band of four of them with probability 6e-5 per attack.
COUNT = 150
BAND = 4 * np.sqrt((2 * COUNT + 1) / (12 * COUNT**2))
CLASSES, VALUES = 10, 6


def quiet(share: float) -> None:
    """Progress that nobody watches."""


def frozen(x: np.ndarray, y: np.ndarray) -> Records:
    """Records that cannot be written to."""
    x, y = np.array(x, dtype=np.float32), np.array(y, dtype=np.int64)
    x.setflags(write=False)
    y.setflags(write=False)
    return Records(x, y)


class Memory(nn.Module):
    """Sure of the labels of the records that it remembers, next to them too; guesses at all others.

    The logits of a class are the sharpened similarity to the nearest remembered record of it, and a faint random line.
    """

    def __init__(self, records: Records, classes: int, sure: float, reach: float, seed: int) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        self.known = nn.Parameter(torch.tensor(records.x.reshape(len(records), -1)))
        labels = torch.tensor(records.y)
        self.of_class = [torch.nonzero(labels == k)[:, 0] for k in range(classes)]
        width = self.known.shape[1]
        self.line = nn.Parameter(torch.tensor(rng.normal(size=(width, classes)), dtype=torch.float32))
        self.sure, self.reach = sure, reach

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(1)
        squared = (flat**2).sum(1, keepdim=True) + (self.known**2).sum(1) - 2 * flat @ self.known.T
        similar = torch.exp(-squared / self.reach**2)
        best = [similar[:, here].amax(1) if len(here) else similar[:, 0] * 0 for here in self.of_class]
        return self.sure * torch.stack(best, dim=1) + (flat - 0.5) @ self.line


def target_of(
    module: nn.Module,
    release: Release = LOGITS,
    access: Access = Access.RELEASE,
    auxiliary: Records | None = None,
    shape: tuple[int, ...] = (VALUES,),
    classes: int = CLASSES,
) -> Target:
    module.eval().requires_grad_(False)

    def answer(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return module(torch.tensor(x)).double().numpy()

    return Target(release, access, shape, classes, (0.0, 1.0), auxiliary, answer, lambda: module)


def world(sure: float, release: Release = LOGITS, seed: int = 0) -> tuple[Target, Records, np.ndarray]:
    """A model that remembers its members, or nobody (`sure=0`), with all that any adversary may have.

    Returns: the target, the candidates, who is a member.
    """
    rng = np.random.default_rng(seed)
    x = rng.random((3 * COUNT, VALUES))
    everybody = frozen(x, rng.integers(0, CLASSES, 3 * COUNT))
    candidates, auxiliary = everybody.take(np.arange(2 * COUNT)), everybody.take(np.arange(2 * COUNT, 3 * COUNT))
    members = rng.permutation(2 * COUNT) < COUNT

    def model(inside: np.ndarray, number: int) -> nn.Module:
        return Memory(candidates.take(np.flatnonzero(inside)), CLASSES, sure, 0.1, number)

    target = target_of(model(members, 99), release, auxiliary=auxiliary)
    references = []
    for number in range(4):
        inside = rng.permutation(2 * COUNT) < COUNT
        references.append(Reference(target_of(model(inside, number), release), inside))
    target.references = tuple(references)
    return target, candidates, members


def seen_by(attack: MembershipAttack, target: Target) -> Target:
    """The target as this attack's adversary sees it."""
    access = attack.threat.access
    release = LABEL if isinstance(attack, Boundary) else target.release
    return dataclasses.replace(target, access=access, release=release, queries=0)


# --- what they declare


@every
def test_declares_what_it_needs(attack: MembershipAttack) -> None:
    threat = attack.threat
    assert isinstance(attack, MembershipAttack)
    assert threat.goal is Goal.MEMBERSHIP
    assert threat.references == isinstance(attack, Shadow)
    assert threat.auxiliary == isinstance(attack, Quantile | Population)
    assert threat.access is (Access.WEIGHTS if isinstance(attack, GradientNorm) else Access.RELEASE)
    expected = {Boundary: ANSWERS, GradientNorm: frozenset(Exposure)}.get(type(attack), SCORES)
    assert threat.exposures == expected
    assert threat.unasked == (frozenset({Exposure.LABEL}) if isinstance(attack, Boundary) else None)
    assert "its recorded label" in threat.knowledge


@pytest.mark.parametrize(
    "attack", [Shadow(), Quantile(), Population(), Boundary(), Boundary(83), Boundary(101)], ids=str
)
def test_the_cost_is_exact(attack: MembershipAttack) -> None:
    target, candidates, _ = world(8.0)
    target.references = tuple(Reference(r.target, r.inside[:31]) for r in target.references)
    asked = seen_by(attack, target)
    attack.score(asked, candidates.take(np.arange(31)), 3, quiet)
    assert asked.queries == attack.queries(31, COUNT)


def test_gradients_cost_two_passes_a_record() -> None:
    rows = []
    target, candidates, _ = world(8.0)
    held = seen_by(GradientNorm(), target)
    held.module().register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    attack = GradientNorm()
    attack.score(held, candidates.take(np.arange(7)), 0, quiet)
    # vmap shows the module one record where it works on a batch
    assert rows[0] == 7
    assert attack.queries(7, 0) == 14


@pytest.mark.parametrize(
    ("attack", "wrong"),
    [
        (Shadow, {"references": 0}),
        (Shadow, {"enough": 0}),
        (Quantile, {"folds": 1}),
        (Quantile, {"folds": 21}),
        (Quantile, {"trees": 0}),
        (Population, {"enough": 0}),
        (GradientNorm, {"norm": "l3"}),
        (Boundary, {"budget": 81}),
    ],
)
def test_impossible_parameters_are_refused(attack: type, wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        attack(**wrong)


@pytest.mark.parametrize("attack", [Quantile(), Population()])
def test_without_auxiliary_records_it_stops(attack: MembershipAttack) -> None:
    target, candidates, _ = world(8.0)
    target.auxiliary = None
    with pytest.raises(AttackError, match="auxiliary"):
        attack.score(target, candidates, 0, quiet)


def test_without_the_weights_there_is_no_gradient() -> None:
    target, candidates, _ = world(8.0)
    with pytest.raises(AccessError, match="weights"):
        GradientNorm().score(target, candidates, 0, quiet)


# --- planted leaks and nulls


@every
def test_finds_a_memory(attack: MembershipAttack) -> None:
    target, candidates, members = world(12.0)
    scores = attack.score(seen_by(attack, target), candidates, 1, quiet)
    assert scores.shape == (2 * COUNT,)
    assert scores.dtype == np.float64
    assert roc_auc_score(members, scores) > 0.95


@every
def test_finds_nothing_in_a_model_that_never_learnt(attack: MembershipAttack) -> None:
    target, candidates, members = world(0.0)
    scores = attack.score(seen_by(attack, target), candidates, 1, quiet)
    assert abs(roc_auc_score(members, scores) - 0.5) < BAND


@pytest.mark.parametrize("release", RELEASES, ids=str)
@pytest.mark.parametrize("attack", [Shadow(), Quantile(), Population()], ids=["Shadow", "Quantile", "Population"])
def test_finds_it_behind_a_reduced_release(attack: MembershipAttack, release: Release) -> None:
    target, candidates, members = world(12.0, release)
    scores = attack.score(target, candidates, 1, quiet)
    assert np.isfinite(scores).all()
    assert roc_auc_score(members, scores) > 0.9


class Constant(nn.Module):
    """Answers the same to everybody."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.linspace(0.3, -0.2, CLASSES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.offset.expand(len(x), -1)


@every
def test_a_constant_model_ties_all_records_of_a_class(attack: MembershipAttack) -> None:
    target, candidates, _ = world(1.0)
    target = dataclasses.replace(
        target_of(Constant(), auxiliary=target.auxiliary),
        references=tuple(Reference(target_of(Constant()), r.inside) for r in target.references),
    )
    scores = attack.score(seen_by(attack, target), candidates, 1, quiet)
    if isinstance(attack, Quantile):  # it expects something of each record, the model tells nothing
        assert np.isfinite(scores).all()
        return
    for label in range(CLASSES):
        of_class = scores[candidates.y == label]
        np.testing.assert_allclose(of_class, of_class[0], rtol=1e-9)
    if isinstance(attack, Boundary):
        np.testing.assert_array_equal(scores, 0.0)


# --- order, seeds, missing answers


@every
def test_the_order_of_the_candidates_does_not_matter(attack: MembershipAttack) -> None:
    target, candidates, _ = world(3.0)
    order = np.random.default_rng(5).permutation(len(candidates))
    expected = attack.score(seen_by(attack, target), candidates, 7, quiet)[order]
    target.references = tuple(Reference(r.target, r.inside[order]) for r in target.references)
    found = attack.score(seen_by(attack, target), candidates.take(order), 7, quiet)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@every
def test_the_same_seed_gives_the_same_scores_and_changes_no_input(attack: MembershipAttack) -> None:
    target, candidates, _ = world(3.0)
    target = seen_by(attack, target)
    before = [v.clone() for v in target._module().state_dict().values()]
    state = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    done: list[float] = []
    first = attack.score(target, candidates, 2**63 - 1, done.append)
    np.testing.assert_array_equal(first, attack.score(target, candidates, 2**63 - 1, quiet))
    assert done == sorted(done)
    assert done[-1] == 1.0
    assert all(torch.equal(a, b) for a, b in zip(before, target._module().state_dict().values(), strict=True))
    assert torch.equal(state[0], torch.random.get_rng_state())
    np.testing.assert_array_equal(state[1], np.random.get_state()[1])
    assert all(p.grad is None and not p.requires_grad for p in target._module().parameters())


class Silent(nn.Module):
    """Has no finite answer where the first value is small."""

    def __init__(self, inner: nn.Module, below: float) -> None:
        super().__init__()
        self.inner, self.below = inner, below

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x[:, :1] < self.below, torch.nan, self.inner(x))


@every
@pytest.mark.parametrize("below", [0.3, 2.0])
def test_a_record_without_an_answer_has_no_score(attack: MembershipAttack, below: float) -> None:
    target, candidates, _ = world(3.0)

    def silent(of: Target) -> Target:
        return target_of(Silent(of._module(), below), auxiliary=of.auxiliary)

    references = tuple(Reference(silent(r.target), r.inside) for r in target.references)
    target = dataclasses.replace(silent(target), references=references)
    scores = attack.score(seen_by(attack, target), candidates, 1, quiet)
    np.testing.assert_array_equal(np.isnan(scores), candidates.x[:, 0] < below)


# --- shadow


def looked_up(logits: np.ndarray, auxiliary: Records | None = None) -> Target:
    """A model that looks each record up: record i is the number i."""
    table = np.array(logits, dtype=np.float64)

    def answer(x: np.ndarray) -> np.ndarray:
        return table[x[:, 0].astype(int)]

    def module() -> nn.Module:
        raise AssertionError("a score attack must not open the model")

    return Target(LOGITS, Access.RELEASE, (1,), table.shape[1], (0.0, 1.0), auxiliary, answer, module)


def numbered(labels: np.ndarray) -> Records:
    return frozen(np.arange(len(labels))[:, None], labels)


def test_shadow_comes_close_to_the_best_that_any_classifier_can() -> None:
    """The log-odds of a label are N(1, 1) inside and N(-1, 1) outside: the log-odds of membership are twice them."""
    rng = np.random.default_rng(0)
    n = 1500
    labels = rng.integers(0, 2, n)

    def model(inside: np.ndarray) -> np.ndarray:
        logits = np.zeros((n, 2))
        logits[np.arange(n), labels] = np.where(inside, 1.0, -1.0) + rng.normal(size=n)
        return logits

    masks = [rng.random(n) < 0.5 for _ in range(5)]
    target = looked_up(answers := model(masks[0]))
    target.references = tuple(Reference(looked_up(model(mask)), mask) for mask in masks[1:])
    scores = Shadow().score(target, numbered(labels), 0, quiet)
    ideal = 2 * answers[np.arange(n), labels]
    assert stats.spearmanr(scores, ideal).statistic > 0.98
    middle = np.abs(ideal) < 4
    assert np.abs(scores[middle] - ideal[middle]).mean() < 0.4
    assert roc_auc_score(masks[0], scores) > stats.norm.cdf(np.sqrt(2)) - 0.03


def test_shadow_gives_a_class_with_enough_rows_a_classifier_of_its_own() -> None:
    """In class 0 members are surer, in class 1 they are less sure: one classifier for both cannot tell."""
    rng = np.random.default_rng(1)
    n = 600
    labels = np.arange(n) % 2

    def model(inside: np.ndarray) -> np.ndarray:
        logits = np.zeros((n, 3))
        logits[np.arange(n), labels] = 2 + rng.normal(size=n) + np.where(labels == 0, 1, -1) * np.where(inside, 1, -1)
        return logits

    masks = [rng.random(n) < 0.5 for _ in range(5)]
    target = looked_up(model(masks[0]))
    target.references = tuple(Reference(looked_up(model(mask)), mask) for mask in masks[1:])
    of_its_own = Shadow(enough=1200).score(target, numbered(labels), 0, quiet)
    shared = Shadow(enough=1201).score(target, numbered(labels), 0, quiet)
    assert roc_auc_score(masks[0], of_its_own) > 0.85
    assert roc_auc_score(masks[0], shared) < 0.6


def test_shadow_learns_from_the_references_and_not_from_the_target() -> None:
    """References that were surer of what they did not see: the attack believes them and is wrong."""
    target, candidates, members = world(12.0)
    target.references = tuple(Reference(r.target, ~r.inside) for r in target.references)
    assert roc_auc_score(members, Shadow().score(target, candidates, 0, quiet)) < 0.1


@pytest.mark.parametrize("inside", [True, False])
def test_shadow_without_both_kinds_of_rows_has_no_answer(inside: bool) -> None:
    target, candidates, _ = world(3.0)
    target.references = tuple(Reference(r.target, np.full(2 * COUNT, inside)) for r in target.references)
    assert np.isnan(Shadow().score(target, candidates, 0, quiet)).all()
    target.references = ()
    assert np.isnan(Shadow().score(target, candidates, 0, quiet)).all()


def test_shadow_keeps_its_rows_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    from midguard.attacks.membership import shadow

    monkeypatch.setattr(shadow, "_MOST", 400)
    target, candidates, members = world(12.0)
    scores = Shadow().score(target, candidates, 0, quiet)
    assert roc_auc_score(members, scores) > 0.95
    order = np.random.default_rng(0).permutation(len(candidates))
    target.references = tuple(Reference(r.target, r.inside[order]) for r in target.references)
    np.testing.assert_allclose(Shadow().score(target, candidates.take(order), 0, quiet), scores[order], rtol=1e-9)


# --- population


def pair(values: np.ndarray) -> np.ndarray:
    """Logits of two classes whose log-odds for class 0 are these."""
    return np.column_stack([values, np.zeros(len(values))])


def standing(values: list[float], population: list[float], enough: int = 30) -> np.ndarray:
    """What the population attack says of these log-odds against those of auxiliary records, all of class 0."""
    every_value = np.array([*values, *population], dtype=float)
    everybody = numbered(np.zeros(len(every_value)))
    target = looked_up(pair(every_value), everybody.take(np.arange(len(values), len(every_value))))
    return Population(enough).score(target, everybody.take(np.arange(len(values))), 0, quiet)


def test_population_is_the_logit_of_the_mid_rank() -> None:
    rng = np.random.default_rng(2)
    population = rng.integers(-5, 6, 200).astype(float)
    values = np.unique(population)
    theirs = [stats.percentileofscore(population, value, kind="mean") / 100 for value in values]
    np.testing.assert_allclose(standing(values.tolist(), population.tolist()), logit(theirs), rtol=1e-9)


def test_population_is_straight_between_and_an_exponential_tail_beyond() -> None:
    # Heights are logit(.05), logit(.15), ...: the five largest exceed the sixth, 5, by 1 + 2 + 3 + 4 + 15 over 5;
    # the five smallest fall short of 6 by 5 + 4 + 3 + 2 + 1 over 5.
    population = [1.0, 2, 3, 4, 5, 6, 7, 8, 9, 20]
    found = standing([2.5, 20.0, 25.0, 30.0, 0.0, -2.0], population)
    top = logit(0.95)
    expected = [(logit(0.15) + logit(0.25)) / 2, top, top + 1, top + 2, -top - 1 / 3, -top - 1]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_population_never_reverses_the_order_within_a_class() -> None:
    rng = np.random.default_rng(3)
    values = np.sort(rng.normal(size=300) * 4)
    found = standing(values.tolist(), rng.normal(size=50).tolist())
    assert (np.diff(found) > 0).all()


def test_population_holds_a_class_against_its_own_where_it_has_enough() -> None:
    """Class 1 is far easier than class 0; its members stand out only among their own."""
    rng = np.random.default_rng(4)
    n = 900
    labels, members = np.arange(n) % 2, np.arange(n) < 300
    own = rng.normal(size=n) + 1.5 * members + 6 * labels
    logits = np.zeros((n, 2))
    logits[np.arange(n), labels] = own
    everybody = numbered(labels)
    target = looked_up(logits, everybody.take(np.arange(600, n)))
    pool = everybody.take(np.arange(600))
    by_class = Population(enough=150).score(target, pool, 0, quiet)
    together = Population(enough=151).score(target, pool, 0, quiet)
    assert roc_auc_score(members[:600], by_class) > 0.83
    assert roc_auc_score(members[:600], together) < 0.7


def test_population_p_values_are_uniform_under_the_null() -> None:
    rng = np.random.default_rng(5)
    found = standing(rng.normal(size=2000).tolist(), rng.normal(size=4000).tolist())
    # The population is a sample too: the two-sample Kolmogorov-Smirnov bound at 1e-4.
    p = 1 / (1 + np.exp(-found))
    assert stats.kstest(p, "uniform").statistic < np.sqrt(-np.log(1e-4 / 2) / 2 * (1 / 2000 + 1 / 4000))


@pytest.mark.parametrize("attack", [Population(), Quantile()])
def test_the_scale_of_the_logits_changes_nothing(attack: MembershipAttack) -> None:
    """`w / 1e20` is the same model."""
    rng = np.random.default_rng(6)
    labels, logits = rng.integers(0, 3, 300), rng.normal(size=(300, 3)) * 3
    everybody = numbered(labels)
    found = []
    for scale in (2.0**-66, 2.0**-33):  # powers of two, so that no rounding moves a split
        target = looked_up(scale * logits, everybody.take(np.arange(150, 300)))
        found.append(attack.score(target, everybody.take(np.arange(150)), 0, quiet))
    assert len(np.unique(found[0])) > 100
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6, atol=1e-9)


# --- quantile


def test_quantile_never_sees_a_candidate_when_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.ensemble import ExtraTreesRegressor

    from midguard.attacks.membership import quantile

    rows: list[int] = []
    seen: list[np.ndarray] = []
    fit, at = ExtraTreesRegressor.fit, quantile._Look.at

    def spy(self: object, x: np.ndarray, y: np.ndarray) -> object:
        rows.append(len(x))
        return fit(self, x, y)

    def spy_look(records: Records, seed: int) -> object:
        seen.append(records.x)
        return at(records, seed)

    monkeypatch.setattr(ExtraTreesRegressor, "fit", spy)
    monkeypatch.setattr(quantile._Look, "at", spy_look)
    target, candidates, _ = world(3.0)
    Quantile().score(target, candidates, 0, quiet)
    assert rows == [COUNT * 4 // 5] * 5 + [COUNT]  # each fold's rest, then the spread
    owned = {row.tobytes() for row in target.auxiliary.x}  # type: ignore[union-attr]
    assert all(row.tobytes() in owned for part in seen for row in part)


def test_a_candidates_score_does_not_depend_on_the_other_candidates() -> None:
    target, candidates, _ = world(3.0)
    together = Quantile().score(target, candidates, 0, quiet)
    alone = Quantile().score(target, candidates.take(np.arange(10)), 0, quiet)
    np.testing.assert_allclose(alone, together[:10], rtol=1e-6)


def difficulty(n: int, spread: Callable[[np.ndarray], np.ndarray], gain: float) -> tuple[Target, Records, np.ndarray]:
    """Two classes; log-odds are 6 times the record's first value, noise of this spread, and a gain for members."""
    rng = np.random.default_rng(7)
    x, labels, members = rng.random((3 * n, 2)), rng.integers(0, 2, 3 * n), np.arange(3 * n) < n
    own = 6 * x[:, 0] + spread(x[:, 1]) * (rng.normal(size=3 * n) + gain * members)
    logits = np.zeros((3 * n, 2))
    logits[np.arange(3 * n), labels] = own
    known = {row.tobytes(): answer for row, answer in zip(x.astype(np.float32), logits, strict=True)}
    everybody = frozen(x, labels)

    def answer(asked: np.ndarray) -> np.ndarray:
        return np.stack([known[row.tobytes()] for row in asked])

    auxiliary = everybody.take(np.arange(2 * n, 3 * n))
    target = Target(LOGITS, Access.RELEASE, (2,), 2, (0.0, 1.0), auxiliary, answer, Constant)
    return target, everybody.take(np.arange(2 * n)), members[: 2 * n]


def test_quantile_takes_out_what_the_record_itself_explains() -> None:
    """The loss attack drowns in the records' difficulty; who knows it exactly reaches Phi(gain / sqrt 2)."""
    target, candidates, members = difficulty(700, lambda u: np.full(len(u), 0.4), gain=2.0)
    best = stats.norm.cdf(2 / np.sqrt(2))
    found = roc_auc_score(members, Quantile().score(target, candidates, 0, quiet))
    assert roc_auc_score(members, Loss().score(target, candidates, 0, quiet)) < 0.7
    assert best - 0.05 < found < best + 0.02


def test_quantile_divides_by_the_spread_of_such_records() -> None:
    """Half of the records are ten times noisier: judged by residual alone they would fill the top of the list."""
    target, candidates, members = difficulty(1000, lambda u: np.where(u < 0.5, 0.4, 4.0), gain=2.0)
    scores = Quantile().score(target, candidates, 0, quiet)
    calm = candidates.x[:, 1] < 0.5
    nonmembers = scores[~members]
    noisy_share = (~calm[~members][nonmembers > np.quantile(nonmembers, 0.9)]).mean()
    assert 0.25 < noisy_share < 0.85  # without the division nearly 1
    ratio = scores[~members & ~calm].std() / scores[~members & calm].std()
    assert 0.4 < ratio < 2.5  # without the division about 7


def test_quantile_with_too_few_auxiliary_records_has_no_answer() -> None:
    target, candidates, _ = world(3.0)
    assert target.auxiliary is not None
    target.auxiliary = target.auxiliary.take(np.arange(19))
    assert np.isnan(Quantile().score(target, candidates, 0, quiet)).all()


def test_quantile_reduces_images_and_copes_with_a_class_it_never_saw() -> None:
    rng = np.random.default_rng(8)
    x, y = rng.random((90, 1, 6, 6)), rng.integers(0, 2, 90)
    y[0] = 2
    everybody = frozen(x, y)
    module = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    target = target_of(module, shape=(1, 6, 6), classes=3, auxiliary=everybody.take(np.arange(40, 90)))
    assert np.isfinite(Quantile().score(target, everybody.take(np.arange(40)), 0, quiet)).all()


# --- gradient norm


def small(kind: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        if kind == "cnn":
            return nn.Sequential(
                nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 4)
            )
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, 4))


def backward(module: nn.Module, records: Records) -> list[torch.Tensor]:
    """Every record's gradient by plain backpropagation in float64, flat."""
    module = module.double().requires_grad_(True)
    found = []
    for x, y in zip(torch.tensor(records.x).double(), torch.tensor(records.y), strict=True):
        loss = cross_entropy(module(x[None]), y[None])
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(module.parameters()))]))
    return found


def images(n: int) -> Records:
    rng = np.random.default_rng(9)
    return frozen(rng.random((n, 1, 6, 6)), rng.integers(0, 4, n))


@pytest.mark.parametrize(("norm", "order"), [("l2", 2), ("l1", 1), ("max", float("inf"))])
@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_gradients_are_those_of_plain_backpropagation(kind: str, norm: str, order: float) -> None:
    records, module = images(20), small(kind)
    target = target_of(module, access=Access.WEIGHTS, shape=(1, 6, 6))
    found = GradientNorm(norm).score(target, records, 0, quiet)
    theirs = [-float(torch.linalg.vector_norm(g, order).log()) for g in backward(module, records)]
    np.testing.assert_allclose(found, theirs, rtol=1e-4, atol=1e-5)


class Branching(nn.Module):
    """Looks at a value before it decides: no batch can be made of it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = small("mlp")
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 1:
            return torch.cat([self(row) for row in x.split(1)])
        return self.inner(x) * (2.0 if float(x.sum()) > 18 else 1.0)


def test_a_module_that_cannot_be_batched_is_taken_record_by_record() -> None:
    records, module = images(12), Branching()
    target = target_of(module, access=Access.WEIGHTS, shape=(1, 6, 6))
    found = GradientNorm().score(target, records, 0, quiet)
    module = module.double().requires_grad_(True)
    for x, y, score in zip(torch.tensor(records.x).double(), torch.tensor(records.y), found, strict=True):
        loss = cross_entropy(module(x[None]), y[None])
        gradients = torch.autograd.grad(loss, list(module.inner.parameters()))
        norm = torch.sqrt(sum((g**2).sum() for g in gradients))
        assert score == pytest.approx(-float(norm.log()), rel=1e-4)


def test_batches_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from midguard.attacks.membership import gradient_norm

    records, target = images(11), target_of(small("cnn"), access=Access.WEIGHTS, shape=(1, 6, 6))
    whole = GradientNorm().score(target, records, 0, quiet)
    monkeypatch.setattr(gradient_norm, "_NUMBERS", 1)
    monkeypatch.setattr(gradient_norm, "_ASKED", 4)
    np.testing.assert_allclose(GradientNorm().score(target, records, 0, quiet), whole, rtol=1e-5)


class Sure(nn.Module):
    """Two classes; the first value, times the weight, is the lead of class 0."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([weight]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        lead = x[:, :1] * self.weight
        return torch.cat([lead, torch.zeros_like(lead)], dim=1)


def test_a_loss_that_rounds_to_nothing_still_has_an_order() -> None:
    """d loss / d weight = -x (1 - p), 1 - p = 1 / (1 + exp(w x)): far below what float32 tells from 0."""
    x = np.array([[0.2], [0.5], [0.9]])
    records = frozen(x, np.zeros(3))
    target = target_of(Sure(400.0), access=Access.WEIGHTS, shape=(1,), classes=2)
    found = GradientNorm().score(target, records, 0, quiet)
    np.testing.assert_allclose(found, -np.log(x[:, 0]) + 400 * x[:, 0], rtol=1e-6)


def test_the_scale_of_the_weights_hides_nothing() -> None:
    records = frozen(np.linspace(0.1, 0.9, 9)[:, None], np.zeros(9))
    found = [
        GradientNorm().score(target_of(Sure(w), access=Access.WEIGHTS, shape=(1,), classes=2), records, 0, quiet)
        for w in (1e-20, 1e-12)
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4)


def test_a_model_without_parameters_ties_nobody_to_infinity() -> None:
    class Fixed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x, 1 - x], dim=1)

    records = frozen(np.linspace(0, 1, 5)[:, None], np.zeros(5))
    target = target_of(Fixed(), access=Access.WEIGHTS, shape=(1,), classes=2)
    assert np.isfinite(GradientNorm().score(target, records, 0, quiet)).all()


# --- boundary


class Plane(nn.Module):
    """Class 1 on one side of a plane."""

    def __init__(self, normal: np.ndarray, offset: float) -> None:
        super().__init__()
        self.normal = nn.Parameter(torch.tensor(normal, dtype=torch.float32))
        self.offset = offset

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        side = x.flatten(1) @ self.normal - self.offset
        return torch.stack([-side, side], dim=1)


def plane() -> tuple[Target, Records, np.ndarray]:
    """Records on both sides of a plane, some with the wrong label. Returns: the signed distances besides."""
    rng = np.random.default_rng(10)
    normal = rng.normal(size=10)
    normal /= np.linalg.norm(normal)
    x = 0.5 + 0.2 * rng.uniform(-1, 1, size=(80, 10))
    side = (x - 0.5) @ normal
    wrong = rng.random(80) < 0.3
    labels = (side > 0) ^ wrong
    target = target_of(Plane(normal, float(0.5 * normal.sum())), LABEL, shape=(10,), classes=2)
    return target, frozen(x, labels), np.where(wrong, -1, 1) * np.abs(side)


def test_the_distance_from_a_plane_is_found() -> None:
    target, records, truth = plane()
    found = Boundary(2000).score(target, records, 0, quiet)
    np.testing.assert_array_equal(np.sign(found), np.sign(truth))
    ratio = found / truth
    assert (ratio > 1 - 1e-4).all()  # what is found lies beyond: never nearer than the plane
    assert np.median(ratio) < 1.1
    cheap = Boundary(100).score(target, records, 0, quiet)
    assert np.median(cheap / truth) > np.median(ratio)
    assert stats.spearmanr(Boundary().score(target, records, 0, quiet), truth).statistic > 0.95


def test_what_the_model_gets_wrong_comes_last() -> None:
    target, candidates, _ = world(3.0)
    asked = seen_by(Boundary(), target)
    scores, right = Boundary().score(asked, candidates, 0, quiet), Label().score(asked, candidates, 0, quiet) == 1
    assert 0 < right.mean() < 1
    assert scores[right].min() > scores[~right].max()


def test_every_point_asked_lies_within_the_bounds() -> None:
    target, candidates, _ = world(3.0)
    asked = seen_by(Boundary(), target)
    inner, extremes = asked._logits, []

    def watched(x: np.ndarray) -> np.ndarray:
        extremes.append((x.min(), x.max()))
        assert x.dtype == np.float32
        return inner(x)

    Boundary(120).score(dataclasses.replace(asked, _logits=watched), candidates, 0, quiet)
    assert min(low for low, _ in extremes) >= 0
    assert max(high for _, high in extremes) <= 1


def test_only_the_label_is_read() -> None:
    """A release of scores and one of labels alone give the same."""
    target, candidates, _ = world(3.0)
    found = [
        Boundary(100).score(dataclasses.replace(target, release=release), candidates, 4, quiet)
        for release in (LABEL, LOGITS)
    ]
    np.testing.assert_array_equal(*found)


def test_blocks_of_records_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    target, candidates, _ = world(3.0)
    asked = seen_by(Boundary(), target)
    whole = Boundary(120).score(asked, candidates, 4, quiet)
    monkeypatch.setattr(_sides, "_NUMBERS", 47 * VALUES)
    monkeypatch.setattr(_sides, "_PAIRS", 2000)
    np.testing.assert_allclose(Boundary(120).score(asked, candidates, 4, quiet), whole, rtol=1e-4, atol=1e-5)


def test_equal_records_are_equally_far() -> None:
    target, candidates, _ = world(3.0)
    twice = candidates.take(np.concatenate([np.arange(40), np.arange(40)]))
    scores = Boundary(120).score(seen_by(Boundary(), target), twice, 4, quiet)
    np.testing.assert_allclose(scores[:40], scores[40:], rtol=1e-4, atol=1e-5)


def test_the_nearest_record_beyond_is_that_of_brute_force() -> None:
    target, candidates, _ = world(3.0)
    sides = _sides.Sides.ask(seen_by(Boundary(), target), candidates)
    ends = sides.nearest_beyond(sides)
    for i in range(len(candidates)):
        beyond = (sides.predicted == sides.y[i]) != sides.right[i]
        distances = np.where(beyond, np.linalg.norm(sides.x - sides.x[i], axis=1), np.inf)
        assert ends.found[i] == beyond.any()
        assert np.linalg.norm(ends.points[i] - sides.x[i]) == pytest.approx(distances.min(), rel=1e-5)


def test_a_start_is_found_in_noise_where_no_candidate_lies_beyond() -> None:
    target, records, truth = plane()
    one_side = np.flatnonzero((truth > 0) & (records.y == 1))
    scores = Boundary(1000).score(target, records.take(one_side), 0, quiet)
    assert stats.spearmanr(scores, truth[one_side]).statistic > 0.9


def test_no_round_and_no_start_leads_further_away() -> None:
    target, records, _ = plane()
    sides = _sides.Sides.ask(target, records)
    ends, before = sides.nearest_beyond(sides), np.full(len(records), np.inf)
    for rounds in range(1, 12):
        walk = _sides.Walk(2, 10, (2.0, 1.0, 0.5), (3,) * rounds)
        found = _sides.distances(sides, ends, walk, 3, lambda: None)
        assert (found <= before + 1e-9).all()
        before = found
    started = _sides._with_noise(sides, ends, 20, np.random.default_rng(0))
    far = [np.linalg.norm(points - sides.x, axis=1) for points in (ends.points, started.points)]
    assert (far[1] <= far[0]).all()
    assert (far[1] < far[0]).any()


def test_the_least_budget_is_what_the_walk_needs() -> None:
    assert _sides.Walk.within(81).queries == 81
    with pytest.raises(ValueError, match="81"):
        _sides.Walk.within(80)
    assert all(_sides.Walk.within(n).queries == n for n in range(81, 400))


class Bits(nn.Module):
    """Remembers bit strings: says the label of one that differs in fewer than so many bits, else class 0."""

    def __init__(self, known: Records, reach: np.ndarray) -> None:
        super().__init__()
        self.known, self.labels, self.reach = torch.tensor(known.x), torch.tensor(known.y), torch.tensor(reach)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        differ = (x[:, None] != self.known).sum(-1)
        nearest = differ.argmin(1)
        label = torch.where(differ.amin(1) < self.reach[nearest], self.labels[nearest], 0)
        return nn.functional.one_hot(label, 2).float()


def test_bits_are_flipped_and_never_blended() -> None:
    """Every record is right; members stay so under more flips, which the gap attack cannot see."""
    rng = np.random.default_rng(11)
    records = frozen(rng.integers(0, 2, (120, 40)), np.ones(120))
    members = np.arange(120) < 60
    target = target_of(Bits(records, np.where(members, 6, 2)), LABEL, shape=(40,), classes=2)
    inner = target._logits

    def watched(x: np.ndarray) -> np.ndarray:
        assert np.isin(x, (0, 1)).all()
        return inner(x)

    target = dataclasses.replace(target, _logits=watched)
    assert roc_auc_score(members, Label().score(target, records, 0, quiet)) == 0.5
    assert roc_auc_score(members, Boundary().score(target, records, 0, quiet)) == 1.0
    assert target.queries == 120 + Boundary().queries(120, 0)


def test_agreement_under_flips_is_exact_where_it_is_known() -> None:
    """One bit decides. Of f flipped bits out of d, it is spared with probability 1 - f / d."""
    d, n = 16, 16
    x = np.random.default_rng(12).integers(0, 2, (n, d))
    x[:, 0] = np.arange(n) % 2
    records = frozen(x, x[:, 0])
    target = target_of(Plane(np.eye(d)[0], 0.5), LABEL, shape=(d,), classes=2)
    queries = 8000
    sides = _sides.Sides.ask(target, records)
    found = _sides.agreement(sides, queries, 3)
    np.testing.assert_array_equal(found, found[0])  # the same flips for everybody
    amounts = np.unique(np.geomspace(1, 8, 8).round())
    expected = ((1 - amounts / d) / amounts).sum() / (1 / amounts).sum()  # a query weighs by what it flips
    assert found[0] == pytest.approx(expected, abs=0.02)


def test_wrong_bits_come_last() -> None:
    rng = np.random.default_rng(13)
    records = frozen(rng.integers(0, 2, (60, 12)), rng.integers(0, 2, 60))
    target = target_of(Plane(rng.normal(size=12), 0.0), LABEL, shape=(12,), classes=2)
    scores, right = Boundary().score(target, records, 0, quiet), Label().score(target, records, 0, quiet) == 1
    assert scores[right].min() > scores[~right].max()


# --- on a model as people train them


def with_auxiliary(arena: Arena) -> tuple[Target, Records, np.ndarray]:
    """Half of the arena's nonmembers as the adversary's own records."""
    outside = np.random.default_rng(14).permutation(np.flatnonzero(~arena.members))
    pool = np.sort(np.concatenate([np.flatnonzero(arena.members), outside[450:]]))
    target = dataclasses.replace(arena.target, auxiliary=arena.candidates.take(outside[:450]))
    return target, arena.candidates.take(pool), arena.members[pool]


def test_in_the_arena_references_and_auxiliary_records_beat_the_loss(arena: Arena) -> None:
    plain = roc_auc_score(arena.members, Loss().score(arena.target, arena.candidates, 0, quiet))
    shadow = roc_auc_score(arena.members, Shadow().score(arena.target, arena.candidates, 0, quiet))
    assert shadow > plain + 0.03
    target, candidates, members = with_auxiliary(arena)
    plain = roc_auc_score(members, Loss().score(target, candidates, 0, quiet))
    assert roc_auc_score(members, Quantile().score(target, candidates, 0, quiet)) > plain + 0.05
    assert abs(roc_auc_score(members, Population().score(target, candidates, 0, quiet)) - plain) < 0.02


def test_in_the_arena_the_gradient_tells_what_the_loss_tells(arena: Arena) -> None:
    held = dataclasses.replace(arena.target, access=Access.WEIGHTS)
    plain = roc_auc_score(arena.members, Loss().score(arena.target, arena.candidates, 0, quiet))
    found = roc_auc_score(arena.members, GradientNorm().score(held, arena.candidates, 0, quiet))
    assert abs(found - plain) < 0.02


def test_in_the_arena_the_boundary_beats_the_label(arena: Arena) -> None:
    target = dataclasses.replace(arena.target, release=LABEL)
    gap = roc_auc_score(arena.members, Label().score(target, arena.candidates, 0, quiet))
    found = roc_auc_score(arena.members, Boundary().score(target, arena.candidates, 0, quiet))
    assert found > gap + 0.03
