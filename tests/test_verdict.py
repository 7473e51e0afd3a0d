"""From measurements to a verdict: every rule, and what reversing it would do."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from midguard.attacks.membership.loss import Loss
from midguard.engine.errors import Exit, Location
from midguard.engine.measurement import Basis, Measurement, undetermined
from midguard.engine.measures.inversion.distance import Distance
from midguard.engine.measures.membership.advantage import Advantage
from midguard.engine.measures.membership.tpr import Tpr
from midguard.engine.measures.privacy.epsilon import Epsilon
from midguard.engine.measures.utility.accuracy import Accuracy
from midguard.engine.observation import Membership
from midguard.engine.plan import AccountOutcome, Assignment, ControlRun, Job, Obstacle, Outcome
from midguard.engine.policy import AttackChoice, Direction, Requirement, Severity
from midguard.engine.verdict import (
    AttackFinding,
    AttackStatus,
    Finding,
    Status,
    Verdict,
    _shows_nothing,
    compare,
    explain_protection,
    judge_account,
    judge_attacked,
    judge_measured,
    records_needed,
)


def measured(low: float, value: float, high: float, records: int = 100) -> Measurement:
    return Measurement(value, low, high, 0.95, records, Basis.ATTACKED)


def requirement(limit: float = 0.2, named: bool = False, **changes: object) -> Requirement:
    fields: dict[str, object] = {
        "id": "advantage", "title": "", "severity": Severity.HIGH, "measure_name": "membership.advantage",
        "measure": Advantage(), "direction": Direction.MAX, "limit": limit,
        "attacks": (AttackChoice("membership.loss", Loss()),) if named else None,
        "references": (), "place": Location("policy.yaml", 7, 1),
    }  # fmt: skip
    return Requirement(**(fields | changes))  # type: ignore[arg-type]


def observation(leak: float, seed: int = 0, n: int = 400) -> Membership:
    """Scores whose true advantage is 2Φ(leak/2) - 1."""
    members = np.arange(2 * n) < n
    scores = np.random.default_rng(seed).normal(size=2 * n) + leak * members
    return Membership(scores, members, np.zeros(2 * n, dtype=np.int64))


LEAKY, SOME, NOTHING = observation(4.0), observation(0.55, seed=3), observation(0.0, seed=1)
BROKEN = Membership(np.full(20, np.nan), np.arange(20) < 10, np.zeros(20, dtype=np.int64))


def outcome(
    subject: Membership | None, twin: Membership | None = LEAKY, null: Membership | None = NOTHING, name: str = "loss"
) -> Outcome:
    job = Job(f"membership.{name}", Loss(), 1, 10)
    return Outcome(
        job, subject, "" if subject else "boom", ControlRun(twin, "the twin"), ControlRun(null, "the null"), 0.1, 10
    )


def judged(
    *outcomes: Outcome, limit: float = 0.2, named: bool = False, obstacles: tuple[Obstacle, ...] = (), missing: str = ""
) -> Finding:
    """The finding over these outcomes; they are told apart by their position."""
    asked = {f"job {i}": o for i, o in enumerate(outcomes)}
    assignment = Assignment(requirement(limit, named), tuple(asked), obstacles, missing, 0.01)
    return judge_attacked(assignment, asked)


@pytest.mark.parametrize(
    ("interval", "direction", "expected"),
    [
        ((0.0, 0.1, 0.2), Direction.MAX, Status.PASS),  # the limit itself is allowed
        ((0.0, 0.1, 0.2000001), Direction.MAX, Status.INCONCLUSIVE),
        ((0.2, 0.3, 0.4), Direction.MAX, Status.INCONCLUSIVE),
        ((0.2000001, 0.3, 0.4), Direction.MAX, Status.FAIL),
        ((0.2, 0.3, 0.4), Direction.MIN, Status.PASS),
        ((0.1999999, 0.3, 0.4), Direction.MIN, Status.INCONCLUSIVE),
        ((0.0, 0.1, 0.2), Direction.MIN, Status.INCONCLUSIVE),
        ((0.0, 0.1, 0.1999999), Direction.MIN, Status.FAIL),
        ((-math.inf, 0.1, math.inf), Direction.MAX, Status.INCONCLUSIVE),
        ((math.inf, math.inf, math.inf), Direction.MAX, Status.FAIL),
        ((math.inf, math.inf, math.inf), Direction.MIN, Status.PASS),
    ],
)
def test_the_interval_is_judged_and_never_the_point(
    interval: tuple[float, float, float], direction: Direction, expected: Status
) -> None:
    assert compare(measured(*interval), direction, 0.2) is expected


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("limit", [0.2, math.nan, math.inf, -math.inf])
def test_nan_is_never_a_pass(direction: Direction, limit: float) -> None:
    assert compare(undetermined(0.95, 10, Basis.ATTACKED), direction, limit) is Status.INCONCLUSIVE
    if not math.isfinite(limit):
        assert compare(measured(0.1, 0.1, 0.1), direction, limit) is Status.INCONCLUSIVE


def test_a_leak_fails_and_its_absence_passes() -> None:
    assert judged(outcome(LEAKY)).status is Status.FAIL
    clean = judged(outcome(NOTHING))
    assert (clean.status, clean.by, clean.reason) == (Status.PASS, "membership.loss", "")


def test_the_worst_attack_counts() -> None:
    finding = judged(outcome(NOTHING, name="entropy"), outcome(LEAKY))
    assert (finding.status, finding.by) == (Status.FAIL, "membership.loss")
    passed = judged(outcome(observation(0.0, 5)), outcome(observation(0.1, 6), name="entropy"), limit=0.3)
    assert passed.status is Status.PASS
    highs = {a.name: a.measurement.high for a in passed.attacks if a.measurement}
    assert passed.by == max(highs, key=lambda name: highs[name])


def test_between_the_ends_it_is_inconclusive_and_says_how_many_records_decide() -> None:
    finding = judged(outcome(SOME))
    assert finding.status is Status.INCONCLUSIVE
    assert finding.records_needed is not None
    assert f"{finding.records_needed:,}" in finding.remedy
    assert "not shown" in finding.reason


def test_the_records_needed_shrink_the_interval_to_the_gap() -> None:
    """Half-width .1 around .15 with 100 records reaches .2 when it is half as wide: four times as many records."""
    assert records_needed(measured(0.05, 0.15, 0.25), 0.2) == pytest.approx(400, abs=1)
    assert records_needed(measured(0.2, 0.2, 0.3), 0.2) is None  # on the limit no number decides
    assert records_needed(measured(-math.inf, 0.1, math.inf), 0.2) is None


@pytest.mark.parametrize("twin", [NOTHING, BROKEN, None])
def test_a_blind_attack_shows_nothing(twin: Membership | None) -> None:
    assert judged(outcome(NOTHING, twin=twin)).status is Status.INCONCLUSIVE
    assert judged(outcome(NOTHING, twin=twin), named=True).status is Status.INCONCLUSIVE


def test_a_blind_attack_of_the_suite_does_not_count_and_a_named_one_does() -> None:
    pair = (outcome(NOTHING), outcome(NOTHING, twin=NOTHING, name="entropy"))
    assert judged(*pair).status is Status.PASS
    assert judged(*pair).by == "membership.loss"
    assert judged(*pair, named=True).status is Status.INCONCLUSIVE


def test_a_blind_attack_that_cannot_exclude_a_violation_keeps_it_open() -> None:
    assert judged(outcome(NOTHING), outcome(SOME, twin=NOTHING, name="entropy")).status is Status.INCONCLUSIVE


def test_a_violation_that_a_blind_attack_shows_is_a_violation() -> None:
    assert judged(outcome(LEAKY, twin=NOTHING)).status is Status.FAIL


@pytest.mark.parametrize("subject", [NOTHING, LEAKY])
def test_an_attack_that_finds_something_in_the_null_shows_nothing(subject: Membership) -> None:
    finding = judged(outcome(subject, null=LEAKY))
    assert finding.status is Status.INCONCLUSIVE
    assert "differ by themselves" in finding.reason


@pytest.mark.parametrize("null", [None, BROKEN])
@pytest.mark.parametrize("subject", [NOTHING, LEAKY])
def test_without_a_null_nothing_is_shown(subject: Membership, null: Membership | None) -> None:
    """Neither a pass nor a violation: members and nonmembers might differ by themselves."""
    assert judged(outcome(subject, null=null)).status is Status.INCONCLUSIVE


def test_a_null_that_is_reversed_is_no_null() -> None:
    """Nonmembers that look more like members than members do would hide a leak."""
    reversed_ = Membership(-LEAKY.scores, LEAKY.members, LEAKY.groups)
    finding = judged(outcome(NOTHING, null=reversed_))
    assert finding.status is Status.INCONCLUSIVE
    assert "differ by themselves" in finding.reason


def test_a_shift_is_seen_even_where_the_measure_is_blind_to_it() -> None:
    """TPR at .1 % of 400 nonmembers cannot tell anything; the scores of the null still tell the two apart."""
    at_small_fpr = requirement(0.5, measure=Tpr(fpr=0.001), measure_name="membership.tpr")
    shifted = outcome(NOTHING, null=LEAKY)
    finding = judge_attacked(Assignment(at_small_fpr, ("job",), (), "", 0.01), {"job": shifted})
    assert finding.attacks[0].negative is not None
    assert not finding.attacks[0].negative.ok


def test_a_measure_that_breaks_leaves_its_requirement_in_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Advantage, observation: object, alpha: float) -> Measurement:
        raise MemoryError("no room")

    monkeypatch.setattr(Advantage, "measure", broken)
    finding = judged(outcome(LEAKY))
    assert finding.status is Status.ERROR
    assert "no room" in finding.reason


def test_a_crash_is_an_error_unless_a_violation_is_shown() -> None:
    assert judged(outcome(None)).status is Status.ERROR
    assert judged(outcome(NOTHING), outcome(None, name="entropy")).status is Status.ERROR
    assert judged(outcome(LEAKY), outcome(None, name="entropy")).status is Status.FAIL


def test_what_the_policy_names_is_never_dropped() -> None:
    left = (Obstacle("inversion.gradient", "it needs the weights", named=True),)
    assert judged(outcome(NOTHING), obstacles=left).status is Status.NOT_RUN
    assert judged(outcome(LEAKY), obstacles=left).status is Status.FAIL
    unasked = (Obstacle("inversion.gradient", "it needs the weights", named=False),)
    assert judged(outcome(NOTHING), obstacles=unasked).status is Status.PASS


def test_without_an_attack_or_records_it_is_not_run() -> None:
    assert judged().status is Status.NOT_RUN
    finding = judged(outcome(NOTHING), missing="the subject names no spec.data.members")
    assert (finding.status, finding.reason) == (Status.NOT_RUN, "the subject names no spec.data.members")


def test_scores_that_are_no_numbers_are_inconclusive() -> None:
    finding = judged(outcome(BROKEN))
    assert finding.status is Status.INCONCLUSIVE
    assert "not numbers" in finding.reason


def test_an_account_is_judged_missing_or_broken() -> None:
    budget = requirement(8.0, measure=Epsilon(delta=1e-5), measure_name="privacy.epsilon")
    proved = Measurement(3.0, 2.9, 3.0, 1.0, 600, Basis.PROVED)
    assert judge_account(budget, AccountOutcome(proved)).status is Status.PASS
    beyond = Measurement(9.0, 8.9, 9.0, 1.0, 600, Basis.PROVED)
    assert judge_account(budget, AccountOutcome(beyond)).status is Status.FAIL
    assert judge_account(budget, AccountOutcome(missing="no ledger")).status is Status.NOT_RUN
    assert judge_account(budget, AccountOutcome(failed="they disagree")).status is Status.ERROR


@pytest.mark.parametrize("fields", [{}, {"missing": "a", "failed": "b"}])
def test_an_account_outcome_is_exactly_one_thing(fields: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="an account outcome"):
        AccountOutcome(**fields)


def test_a_plain_measurement_is_judged_from_below() -> None:
    floor = requirement(0.5, measure=Accuracy(), measure_name="utility.accuracy", direction=Direction.MIN)
    assert judge_measured(floor, measured(0.6, 0.7, 0.8), "predictions").status is Status.PASS
    failed = judge_measured(floor, measured(0.2, 0.3, 0.4), "predictions")
    assert failed.status is Status.FAIL
    assert "at most 0.4" in failed.reason


ORDER = [Status.FAIL, Status.ERROR, Status.NOT_RUN, Status.INCONCLUSIVE, Status.WAIVED, Status.PASS]
EXITS = [Exit.FAIL, Exit.CRASHED, Exit.UNDECIDED, Exit.UNDECIDED, Exit.PASS, Exit.PASS]


@pytest.mark.parametrize(("worse", "better"), itertools.combinations(range(len(ORDER)), 2))
def test_the_verdict_is_the_worst_finding(worse: int, better: int) -> None:
    for pair in ((worse, better), (better, worse)):
        verdict = Verdict(tuple(Finding(requirement(), ORDER[i], None, "") for i in pair))
        assert verdict.status is ORDER[worse]
        assert verdict.exit_code is EXITS[worse]


def test_a_refuted_claim_fails_whatever_else_passes() -> None:
    passed, refuted = (Finding(requirement(), status, None, "") for status in (Status.PASS, Status.FAIL))
    assert Verdict((passed,), (refuted,)).exit_code is Exit.FAIL


def test_an_empty_verdict_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="at least one finding"):
        Verdict(())


def test_every_finding_that_is_no_pass_says_why_and_what_to_do() -> None:
    findings = [
        judged(outcome(LEAKY)), judged(outcome(SOME)), judged(outcome(NOTHING, twin=NOTHING)), judged(outcome(None)),
        judged(outcome(NOTHING, null=LEAKY)), judged(), judged(outcome(BROKEN)),
        judged(outcome(NOTHING), obstacles=(Obstacle("inversion.gradient", "it needs the weights", named=True),)),
    ]  # fmt: skip
    for finding in findings:
        assert finding.reason
        assert finding.remedy
        assert "\n" not in finding.reason + finding.remedy
    assert Path("policy.yaml").name == findings[0].requirement.place.file


@pytest.mark.parametrize(
    ("opened", "said"),
    [(NOTHING, "the training keeps it"), (LEAKY, "the interface keeps it"), (SOME, "was not shown to keep it")],
)
def test_it_is_said_which_defense_closes_the_gap(opened: Membership, said: str) -> None:
    explained = explain_protection(judged(outcome(NOTHING)), {"membership.loss": opened}, 0.01)
    assert said in explained.protection
    assert explained.status is Status.PASS


def test_the_worst_attack_behind_the_open_interface_counts() -> None:
    opened = {"membership.entropy": NOTHING, "membership.loss": LEAKY}
    assert "membership.loss" in explain_protection(judged(outcome(NOTHING)), opened, 0.01).protection


def test_nothing_is_said_of_protection_where_nothing_is_known_or_nothing_holds() -> None:
    assert explain_protection(judged(outcome(NOTHING)), {}, 0.01).protection == ""
    assert explain_protection(judged(outcome(LEAKY)), {"membership.loss": LEAKY}, 0.01).protection == ""


def test_what_the_subject_does_not_give_is_not_run_and_no_crash() -> None:
    """By itself the requirement is unmeasured; beside an attack that ran, it is shown and the other decides."""
    lacking = replace(outcome(None, name="entropy"), unmeasurable=True)
    assert judged(lacking).status is Status.NOT_RUN
    assert judged(lacking, named=True).status is Status.NOT_RUN
    assert judged(outcome(NOTHING), lacking).status is Status.PASS
    assert judged(outcome(NOTHING), lacking, named=True).status is Status.NOT_RUN
    assert judged(outcome(LEAKY), lacking).status is Status.FAIL


@pytest.mark.parametrize(
    ("value", "low", "nothing"),
    [(1.0, 0.0, True), (2.7, 0.0, True), (0.999, 0.0, False), (0.9, 0.8, True), (math.nan, math.nan, False)],
)
def test_a_blind_inversion_shows_nothing_where_it_is_no_closer_than_a_guess(
    value: float, low: float, nothing: bool
) -> None:
    """The interval has no end; the guess itself (1) or a limit that holds (0.75) speaks for it. NaN never does."""
    distance = requirement(0.75, measure_name="inversion.distance", measure=Distance(), direction=Direction.MIN)
    found = AttackFinding("inversion.boundary", AttackStatus.RAN, "", False, measured(low, value, math.inf))
    assert _shows_nothing(found, distance) is nothing


def test_a_blind_membership_attack_must_exclude_a_violation_whatever_its_point() -> None:
    found = AttackFinding("membership.loss", AttackStatus.RAN, "", False, measured(-0.3, -0.1, 0.3))
    assert not _shows_nothing(found, requirement(0.2))
    assert _shows_nothing(found, requirement(0.3))
