"""What figures are drawn from: counted here a second time, and never about one person."""

from __future__ import annotations

import dataclasses
import itertools
import json
from typing import Any

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, norm

from midguard.engine import evidence, summaries
from midguard.engine.attack import ThreatModel
from midguard.engine.ledger import Ledger, NonPrivate, SampledGaussian
from midguard.engine.observation import Goal, Membership, Predictions
from midguard.engine.plan import Assignment, ControlRun, Job, Obstacle, Outcome, Plan, ReferenceStory
from midguard.engine.shift import Feature, Shift
from midguard.engine.target import Access, Exposure


def observed(strength: float, n: int = 400, seed: int = 0, classes: int = 4) -> Membership:
    rng = np.random.default_rng(seed)
    members = rng.random(n) < 0.5
    scores = rng.normal(size=n) + strength * members
    return Membership(scores, members, rng.integers(0, classes, n))


@dataclasses.dataclass(frozen=True, slots=True)
class Pretended:
    references: int = 16
    source = "nobody 2026"
    threat = ThreatModel(Access.RELEASE, frozenset({Exposure.LOGITS}), (), Goal.MEMBERSHIP, references=True)


def outcome(seen: Any, name: str = "membership.pretended", references: int = 0, **changes: Any) -> Outcome:
    job = Job(name, Pretended(), 1, 10, references)  # type: ignore[arg-type]
    nothing = ControlRun(None, "")
    return Outcome(job, seen, "", nothing, nothing, 1.0, 10, **changes)


# --- histogram -------------------------------------------------------------------------------------------------------


def recounted(drawn: dict[str, Any], scores: np.ndarray) -> list[int]:
    """How many scores lie between the printed edges; the outer bins go on."""
    cuts = [-np.inf, *drawn["edges"][1:-1], np.inf]
    return [int(((scores >= a) & (scores < b)).sum()) for a, b in itertools.pairwise(cuts)]


@pytest.mark.parametrize("tail", ["normal", "cauchy", "infinite"])
def test_every_record_is_counted_once_where_its_score_lies(tail: str) -> None:
    seen = observed(1.0, 5000)
    scores = {"normal": seen.scores, "cauchy": np.tan(seen.scores), "infinite": seen.scores.copy()}[tail]
    if tail == "infinite":
        scores[:40], scores[40:60] = np.inf, -np.inf
    drawn: Any = summaries.histogram("a", dataclasses.replace(seen, scores=scores))
    assert sum(drawn["members"]) == seen.members.sum()
    assert sum(drawn["nonmembers"]) == (~seen.members).sum()
    assert len(drawn["edges"]) == len(drawn["members"]) + 1
    assert len(drawn["edges"]) > 15
    for kind, here in (("members", seen.members), ("nonmembers", ~seen.members)):
        # An edge is rounded to a hundredth of the span, so a few records may lie on its other side.
        assert np.abs(np.array(drawn[kind]) - recounted(drawn, scores[here])).max() <= 0.25 * max(drawn[kind])


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("strength", [0.0, 2.0, 20.0])
def test_a_bin_shows_nobody_or_a_handful(seed: int, strength: float) -> None:
    drawn: Any = summaries.histogram("a", observed(strength, 120, seed))
    assert all(n == 0 or n >= 5 for kind in ("members", "nonmembers") for n in drawn[kind])
    assert len(drawn["members"]) >= 3


def test_a_handful_is_of_people_and_not_of_their_records() -> None:
    seen = observed(0.0, 400)
    everybody: Any = summaries.histogram("a", seen)
    order = np.argsort(seen.scores)
    persons = np.empty(400, dtype=np.int64)
    persons[order] = np.arange(400) // 40  # ten people, each with forty records that score alike
    few: Any = summaries.histogram("a", dataclasses.replace(seen, persons=persons))
    assert len(few["members"]) <= 3 < len(everybody["members"])


def test_scores_that_are_all_the_same_are_one_bin() -> None:
    seen = observed(0.0, 100)
    drawn: Any = summaries.histogram("a", dataclasses.replace(seen, scores=np.full(100, 3.0)))
    assert (drawn["edges"], drawn["members"]) == ([3.0, 3.0], [int(seen.members.sum())])


# --- classes ---------------------------------------------------------------------------------------------------------


def test_the_class_that_is_told_apart_comes_first_and_the_others_hold_zero() -> None:
    seen = observed(0.0, 4000)
    exposed = np.where((seen.groups == 2) & seen.members, 50.0, seen.scores)
    found: Any = summaries.class_risks("a", dataclasses.replace(seen, scores=exposed), 1)
    first, *others = found["classes"]
    here = seen.groups == 2
    assert (first["class"], first["members"]) == (2, int((here & seen.members).sum()))
    assert first["value"] > 0.98
    assert first["low"] > 0.9
    assert all(row["low"] <= 0 <= row["high"] for row in others)


def test_classes_and_attacks_are_paid_for() -> None:
    seen = observed(1.0, 2000, classes=1)
    widths = []
    for attacks, groups in ((1, seen.groups), (14, seen.groups)):
        (row,) = summaries.class_risks("a", dataclasses.replace(seen, groups=groups), attacks)["classes"]  # type: ignore[attr-defined]
        widths.append(row["high"] - row["low"])
    assert widths[1] > 1.2 * widths[0]
    more = np.where(np.arange(2000) < 1960, seen.groups, 1)
    crowd: Any = summaries.class_risks("a", dataclasses.replace(seen, groups=more), 1)
    assert crowd["classes"][0]["high"] - crowd["classes"][0]["low"] > widths[0]


def test_a_class_of_too_few_people_is_not_shown() -> None:
    seen = observed(1.0, 400)
    rare = np.flatnonzero(seen.members)[:4]
    seen.groups[rare] = 99
    found: Any = summaries.class_risks("a", seen, 1)
    assert 99 not in [row["class"] for row in found["classes"]]
    assert found["tooFew"] == 1


# --- reference models ------------------------------------------------------------------------------------------------


def test_the_change_of_the_auc_is_the_difference_of_both_and_covers_it() -> None:
    """Against scipy's statistic, and by simulation against the normal model's known AUCs."""
    truth = norm.cdf(1.0 / np.sqrt(2)) - norm.cdf(0.6 / np.sqrt(2))
    missed = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        members = np.arange(300) < 150
        shared = rng.normal(size=300)
        before = 0.8 * shared + 0.6 * rng.normal(size=300) + 0.6 * members
        after = 0.8 * shared + 0.6 * rng.normal(size=300) + 1.0 * members
        value, low, high = summaries.auc_change(before, after, members)
        areas = [mannwhitneyu(s[members], s[~members]).statistic / 150**2 for s in (before, after)]
        assert value == pytest.approx(areas[1] - areas[0], abs=1e-12)
        missed += not low <= truth <= high
    assert 3 <= missed <= 30  # 15 are due


def test_records_of_one_person_count_as_one() -> None:
    seen, later = observed(0.5, 200), observed(0.9, 200, seed=1)
    alone = summaries.auc_change(seen.scores, later.scores, seen.members)
    four = [np.repeat(part, 4) for part in (seen.scores, later.scores, seen.members, np.arange(200))]
    together = summaries.auc_change(*four)
    assert together == pytest.approx(alone, rel=1e-9)
    assert summaries.auc_change(*four[:3])[2] < together[2]


def budgeted(*strengths: float) -> Any:
    rng = np.random.default_rng(3)
    members, noise = np.arange(2000) < 1000, rng.normal(size=2000)
    runs = [
        Membership(noise + s * members + 0.1 * rng.normal(size=2000), members, np.zeros(2000, dtype=np.int64))
        for s in strengths
    ]
    budgets = dict(zip((4, 8), runs, strict=False))
    return summaries.power(outcome(runs[-1], references=16, budgets=budgets), runs[-1], 0.05)


def test_power_is_read_by_the_number_of_reference_models() -> None:
    found = budgeted(0.2, 0.5, 1.0)
    assert [point["references"] for point in found["points"]] == [4, 8, 16]
    areas = [point["auc"] for point in found["points"]]
    for area, strength in zip(areas, (0.2, 0.5, 1.0), strict=True):
        assert area["low"] < norm.cdf(strength / np.sqrt(2)) < area["high"]
    assert found["points"][2]["tpr"]["fpr"] == 0.05
    assert found["points"][2]["tpr"]["value"] == pytest.approx(norm.sf(norm.isf(0.05) - 1), abs=0.05)


@pytest.mark.parametrize(
    ("strengths", "says"),
    [((0.2, 0.5, 1.0), "expected to find more"), ((0.2, 0.5, 0.5), "within noise"), ((0.2, 0.9, 0.5), "did not help")],
)
def test_what_doubling_would_change_follows_the_interval(strengths: tuple[float, ...], says: str) -> None:
    assert says in budgeted(*strengths)["doubling"]


def test_without_two_numbers_of_models_there_is_no_power() -> None:
    assert summaries.power(outcome(observed(1.0), references=16), observed(1.0), 0.01) is None
    assert summaries.power(outcome(observed(1.0)), observed(1.0), 0.01) is None


# --- which attacks ---------------------------------------------------------------------------------------------------


def test_the_strongest_comes_first_and_what_has_no_answer_is_left_out() -> None:
    holes = observed(5.0)
    holes.scores[3] = np.nan
    found = summaries.usable(
        [
            outcome(observed(0.1), "membership.weak"),
            outcome(observed(2.0), "membership.strong"),
            outcome(holes, "membership.holes"),
            outcome(None, "membership.crashed"),
            outcome(Predictions(np.zeros(2, np.int64), np.zeros(2, np.int64)), "other"),
        ]
    )
    assert [o.job.name for o, _ in found] == ["membership.strong", "membership.weak"]


# --- the evidence ----------------------------------------------------------------------------------------------------


def plan(*obstacles: Obstacle, no_references: str = "", exposure: Exposure = Exposure.LOGITS) -> Plan:
    assignment: Any = Assignment(None, (), obstacles, "", 0.01)  # type: ignore[arg-type]
    return Plan(None, 1, Access.RELEASE, exposure, (assignment,), (), 0.01, {}, no_references)  # type: ignore[arg-type]


STORY = ReferenceStory(16, "stacked, 2 processes", 8, 12.3456, 600, 0.99, 0.81, 0.98, 0.8)


def test_a_story_is_told_with_its_numbers() -> None:
    assert evidence._references(plan(), STORY) == {
        "count": 16,
        "method": "stacked, 2 processes",
        "reused": 8,
        "seconds": 12.346,
        "recordsEach": 600,
        "accuracyInside": 0.99,
        "accuracyOutside": 0.81,
        "subjectInside": 0.98,
        "subjectOutside": 0.8,
    }


def test_only_what_lacks_nothing_but_models_would_be_added(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = dataclasses.replace(Pretended.threat, references=False)
    threats = {
        "membership.added": Pretended.threat,
        "membership.weights": Pretended.threat,
        "membership.plain": plain,
        "membership.left": dataclasses.replace(Pretended.threat, unasked=frozenset({Exposure.LABEL})),
        "membership.named": dataclasses.replace(Pretended.threat, unasked=frozenset({Exposure.LABEL})),
    }
    loaded = {name: type("A", (), {"threat": threat}) for name, threat in threats.items()}
    monkeypatch.setattr(evidence.registry, "load", lambda kind, name: loaded[name])
    why = "the subject names no recipe (spec.training.recipe)"
    lacking = f"it needs reference models, and {why}"
    obstacles = [
        Obstacle("membership.added", lacking, False),
        Obstacle("membership.weights", "it needs the weights, which this adversary does not hold", False),
        Obstacle("membership.plain", lacking, False),
        Obstacle("membership.left", lacking, False),
        Obstacle("membership.named", lacking, True),
    ]
    found = evidence._references(plan(*obstacles, no_references=why), None)
    assert found == {"missing": why, "adds": ["membership.added", "membership.named"]}
    assert evidence._references(plan(obstacles[1], no_references=why), None) is None


def test_models_that_were_asked_for_and_never_came_are_missed() -> None:
    asked = dataclasses.replace(plan(), jobs=(Job("membership.x", Pretended(), 1, 1, 16),))  # type: ignore[arg-type]
    assert evidence._references(asked, None) == {"missing": "they were asked for, and none was trained", "adds": []}


def test_a_shift_is_told_with_its_features() -> None:
    shift = Shift(True, 1e-9, 0.01, 0.87, 1200, (Feature("column 7", 1e-6),))
    found: Any = evidence._shift(shift)
    assert found["features"] == [{"name": "column 7", "p": 1e-6}]
    assert (found["found"], found["p"], found["auc"], found["records"]) == (True, 1e-9, 0.87, 1200)
    assert evidence._shift(None) is None
    assert found["detectable"] is None
    told: Any = evidence._shift(dataclasses.replace(shift, detectable=0.2681234567))
    assert told["detectable"] == 0.268123


def test_what_a_ledger_leaves_possible_is_a_curve_with_its_basis() -> None:
    ledger = Ledger((SampledGaussian(1.0, 2.0, 1, 1.0),), 10, "0" * 64, "1" * 64, written_by="midguard 0.1.0")
    found: Any = summaries.proved_curve(ledger)
    assert found["basis"] == "proved"
    exact = norm.cdf(norm.ppf(np.array(found["fpr"])) + 0.5)
    assert found["tpr"] == pytest.approx(exact, rel=2e-3)
    assert found["advantage"] == pytest.approx(2 * norm.cdf(0.25) - 1, abs=1e-3)
    assert summaries.proved_curve(dataclasses.replace(ledger, written_by="")) == found | {"basis": "declared"}
    assert summaries.proved_curve(None) is None
    assert summaries.proved_curve(dataclasses.replace(ledger, events=(NonPrivate("plain"),))) is None


def test_no_score_of_anybody_is_in_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = type("P", (), {"requirements": ()})()
    outcomes = {str(s): outcome(observed(s, seed=s), f"membership.a{s}", 16, budgets={8: observed(s)}) for s in (1, 2)}
    drawn = evidence._figures(dataclasses.replace(plan(), policy=policy), outcomes)
    assert len(drawn["budget"]) == len(drawn["scores"]) == 2  # type: ignore[arg-type]
    numbers = {
        float(text)
        for text in json.dumps(drawn).replace("[", " ").replace(",", " ").replace("]", " ").split()
        if text.replace(".", "").replace("-", "").replace("e", "").isdigit()
    }
    for seen in outcomes.values():
        assert not numbers & {float(f"{score:.6g}") for score in seen.observation.scores}  # type: ignore[union-attr]
