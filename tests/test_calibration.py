"""How often a verdict is wrong where the truth is known: long simulations, run by `make calibrate`.

Every setting is simulated 1,000 times, the risk of single records 200 times. A rate whose true value is the nominal 5 %
exceeds 5 % + 3 standard errors in 2 of 1,000 settings; an interval spends half of its error on either side, so that a
sound one stays far below. The tables go to the error stream, which pytest-xdist passes on under `-s`.
`test_pipeline_calibration.py` does the same with models that are trained and attacked.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize, stats

from midguard.attacks.membership.entropy import Entropy
from midguard.attacks.membership.label import Label
from midguard.attacks.membership.loss import Loss
from midguard.engine import statistics as st
from midguard.engine.check import check, judge
from midguard.engine.demo import CASES, Case, lay_out, model_of, recipe_of
from midguard.engine.errors import Location
from midguard.engine.ledger import Account, Claim
from midguard.engine.measure import Measure
from midguard.engine.measures.inversion.distance import Distance
from midguard.engine.measures.inversion.identification import Identification
from midguard.engine.measures.membership.advantage import Advantage
from midguard.engine.measures.membership.auc import Auc
from midguard.engine.measures.membership.epsilon import Epsilon
from midguard.engine.measures.membership.exposed_records import ExposedRecords
from midguard.engine.measures.membership.record_risk import RecordRisk
from midguard.engine.measures.membership.tpr import Tpr
from midguard.engine.measures.membership.worst_group import WorstGroup
from midguard.engine.observation import Goal, Membership, Observation, Reconstruction, Separation
from midguard.engine.plan import ControlRun, Job, Outcome, Sizes, derive, make_plan
from midguard.engine.policy import AttackChoice, Direction, Policy, Requirement, Severity
from midguard.engine.run import Bench
from midguard.engine.store import Store
from midguard.engine.subject import DataFile, ModelFile, Subject, SubjectRecords, Task
from midguard.engine.target import Access, Exposure, Release
from midguard.engine.training import train
from midguard.engine.verdict import Finding, Status, Verdict, compare

pytestmark = pytest.mark.calibrate

RUNS = 1000
ALPHA = 0.05
#: Of the risk of single records, which takes fifty times as long.
FEWER_RUNS = 200


def most(runs: int) -> float:
    """The largest rate that luck allows a sound interval: 5 % and three standard errors of the simulation."""
    return ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / runs)


MOST = most(RUNS)

Rng = np.random.Generator
Draw = Callable[[Rng], Observation]


def tell(*cells: object) -> None:
    """One line of a table, written at once: several processes share the stream."""
    sys.stderr.write("  ".join(str(cell) for cell in cells) + "\n")
    sys.stderr.flush()


@dataclass(frozen=True)
class Rates:
    """How often a limit was said to hold and to be violated."""

    passed: float
    failed: float


def rates(name: str, measure: Measure, limit: float, draw: Draw, runs: int = RUNS) -> Rates:
    """Simulate, measure and hold against the limit so many times; prints its line."""
    rng, found = np.random.default_rng(derive(1, name)), []
    direction = Direction.MIN if measure.higher_is_safer else Direction.MAX
    for _ in range(runs):
        found.append(compare(measure.measure(draw(rng), ALPHA), direction, limit))
    result = Rates(found.count(Status.PASS) / runs, found.count(Status.FAIL) / runs)
    tell(f"{name:<74}", f"limit {limit:6.4f}", f"pass {result.passed:6.1%}", f"fail {result.failed:6.1%}")
    return result


# --- membership: scores whose leak is known in closed form -----------------------------------------------------------


def seen(scores: np.ndarray, rng: Rng) -> Membership:
    """The first half are members; ten classes, at random."""
    return Membership(scores, np.arange(len(scores)) < len(scores) // 2, rng.integers(0, 10, len(scores)))


def gaussian(n: int, shift: float = 0.0) -> Draw:
    """`n` of each kind, the members shifted by `shift`: advantage 2Φ(d/2) - 1, AUC Φ(d/√2)."""
    return lambda rng: seen(rng.normal(size=2 * n) + shift * (np.arange(2 * n) < n), rng)


def binary(n: int, tpr: float, fpr: float) -> Draw:
    """The label attack: right or wrong, and nothing else."""
    return lambda rng: seen((rng.random(2 * n) < np.repeat([tpr, fpr], n)).astype(float), rng)


def rounded(n: int) -> Draw:
    """Half a dozen different scores, as a release of one decimal leaves them."""
    return lambda rng: seen(np.round(rng.normal(size=2 * n)), rng)


def shift_of(advantage: float) -> float:
    return float(2 * stats.norm.ppf((1 + advantage) / 2))


def gaussian_tpr(shift: float, fpr: float) -> float:
    return float(stats.norm.sf(stats.norm.isf(fpr) - shift))


NULLS: dict[str, Callable[[int], Draw]] = {
    "continuous": gaussian,
    "label, right on 90 % of all": lambda n: binary(n, 0.9, 0.9),
    "rounded": rounded,
}
MEASURES = (
    Advantage(),
    Tpr(fpr=0.01),
    Tpr(fpr=0.1),
    Auc(),
    Epsilon(),
    ExposedRecords(),
    WorstGroup(),
    WorstGroup(of="tpr", fpr=0.1),
)


@pytest.mark.parametrize("n", [150, 600])
@pytest.mark.parametrize("measure", MEASURES, ids=str)
@pytest.mark.parametrize("scores", NULLS)
def test_a_null_is_not_called_a_leak(scores: str, measure: Measure, n: int) -> None:
    name = f"null: {measure} of {scores} scores, n = {n}"
    assert rates(name, measure, measure.no_leak(), NULLS[scores](n)).failed <= MOST


@pytest.mark.parametrize("n", [150, 600, 2000])
@pytest.mark.parametrize("limit", [0.05, 0.1, 0.2, 0.4])
@pytest.mark.parametrize("scores", ["continuous", "label"])
def test_an_advantage_on_the_limit_is_neither_passed_nor_failed(scores: str, limit: float, n: int) -> None:
    draw = gaussian(n, shift_of(limit)) if scores == "continuous" else binary(n, 0.9, 0.9 - limit)
    found = rates(f"on the limit: {Advantage()} of {scores} scores, n = {n}", Advantage(), limit, draw)
    assert max(found.passed, found.failed) <= MOST


@pytest.mark.parametrize("n", [150, 600, 2000])
@pytest.mark.parametrize("fpr", [0.01, 0.1])
@pytest.mark.parametrize("scores", ["continuous", "label"])
def test_a_tpr_on_the_limit_is_neither_passed_nor_failed(scores: str, fpr: float, n: int) -> None:
    limit = gaussian_tpr(1.0, fpr) if scores == "continuous" else 0.3
    draw = gaussian(n, 1.0) if scores == "continuous" else binary(n, limit, fpr)
    found = rates(f"on the limit: {Tpr(fpr=fpr)} of {scores} scores, n = {n}", Tpr(fpr=fpr), limit, draw)
    assert max(found.passed, found.failed) <= MOST


@pytest.mark.parametrize("n", [150, 600, 2000])
@pytest.mark.parametrize("limit", [0.55, 0.7, 0.95])
@pytest.mark.parametrize("scores", ["continuous", "label"])
def test_an_auc_on_the_limit_is_neither_passed_nor_failed(scores: str, limit: float, n: int) -> None:
    gap = 2 * limit - 1  # of a binary score the area is (1 + TPR - FPR) / 2
    shift = math.sqrt(2) * float(stats.norm.ppf(limit))
    draw = gaussian(n, shift) if scores == "continuous" else binary(n, 0.95, 0.95 - gap)
    found = rates(f"on the limit: {Auc()} of {scores} scores, n = {n}", Auc(), limit, draw)
    assert max(found.passed, found.failed) <= MOST


# --- membership: what averages hide ----------------------------------------------------------------------------------


def exposed_share(shift: float, odds: float) -> float:
    """Where the ROC of a Gaussian leak, which is concave, crosses TPR = odds FPR: no rule names more so surely."""
    cut = optimize.brentq(lambda t: stats.norm.logsf(t - shift) - stats.norm.logsf(t) - math.log(odds), -9, 30)
    return float(stats.norm.sf(cut - shift))


def exposed_by_label(tpr: float, fpr: float, odds: float) -> float:
    """The same of two scores, TPR > odds FPR: all of the higher, and by a coin as many of the lower as may be."""
    coin = (tpr - odds * fpr) / (odds * (1 - fpr) - (1 - tpr))
    return tpr + coin * (1 - tpr)


@pytest.mark.parametrize("n", [150, 600, 2000])
@pytest.mark.parametrize("scores", ["continuous", "label", "label, the precision itself on its edge"])
def test_exposed_records_on_the_limit_are_neither_passed_nor_failed(scores: str, n: int) -> None:
    """Nine of ten are named rightly, hence odds of nine."""
    share, tpr, fpr = exposed_share(2.0, 9.0), 0.3, 0.3 / 9 if "edge" in scores else 0.01
    limit = share if scores == "continuous" else exposed_by_label(tpr, fpr, 9.0)
    draw = gaussian(n, 2.0) if scores == "continuous" else binary(n, tpr, fpr)
    found = rates(f"on the limit: exposed records of {scores} scores, n = {n}", ExposedRecords(), limit, draw)
    assert max(found.passed, found.failed) <= MOST


def leaking(n: int, shift: float, classes: int) -> Draw:
    """`n` of each kind in five classes, of which the first few leak as a Gaussian shift does."""

    def draw(rng: Rng) -> Membership:
        groups, members = rng.integers(0, 5, 2 * n), np.arange(2 * n) < n
        return Membership(rng.normal(size=2 * n) + shift * (members & (groups < classes)), members, groups)

    return draw


@pytest.mark.parametrize("n", [150, 600])
@pytest.mark.parametrize("classes", [1, 5])
@pytest.mark.parametrize("of", ["advantage", "tpr"])
def test_a_worst_group_on_the_limit_is_neither_passed_nor_failed(of: str, classes: int, n: int) -> None:
    """One class leaks and could be overlooked; or all of them do, and any of them can raise a false alarm."""
    measure = WorstGroup(of=of, fpr=0.1)  # type: ignore[arg-type]
    limit = 0.4 if of == "advantage" else gaussian_tpr(shift_of(0.4), 0.1)
    name = f"on the limit: worst group by {of}, {classes} of 5 classes leak, n = {n}"
    found = rates(name, measure, limit, leaking(n, shift_of(0.4), classes))
    assert max(found.passed, found.failed) <= MOST


def models(n: int, apart: float, uneven: bool = False) -> Draw:
    """16 models, n members and n others; how far apart they lie with and without a record is gamma distributed."""

    def draw(rng: Rng) -> Separation:
        half = rng.random((8, 2 * n)) < 0.5
        inside = np.stack([half, ~half], axis=1).reshape(16, 2 * n)
        spread = np.exp(0.4 * rng.normal(size=2 * n)) if uneven else np.ones(2 * n)
        signals = spread * rng.normal(size=(16, 2 * n)) + inside * apart * rng.gamma(2.0, 0.5, 2 * n)
        signals += rng.normal(size=(16, 1)) + 2 * rng.normal(size=2 * n)
        return Separation(signals, inside, np.arange(2 * n) < n, rng.integers(0, 5, 2 * n))

    return draw


@pytest.mark.parametrize("n", [150, 600])
@pytest.mark.parametrize("quantile", [0.9, 0.99])
@pytest.mark.parametrize("uneven", [False, True])
def test_models_that_do_not_tell_a_record_put_none_at_risk(uneven: bool, quantile: float, n: int) -> None:
    name = f"null: risk of the {quantile:.0%} quantile{', uneven noise' if uneven else ''}, n = {n}"
    measure = RecordRisk(quantile)
    found = rates(name, measure, measure.no_leak(), models(n, 0.0, uneven), FEWER_RUNS)
    assert found.failed <= most(FEWER_RUNS)


@pytest.mark.parametrize("n", [150, 600])
@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.99])
def test_a_record_risk_on_the_limit_is_neither_passed_nor_failed(quantile: float, n: int) -> None:
    limit = float(2 * stats.norm.cdf(1.5 * stats.gamma.ppf(quantile, 2.0, scale=0.5) / 2) - 1)
    name = f"on the limit: risk of the {quantile:.0%} quantile, n = {n}"
    found = rates(name, RecordRisk(quantile), limit, models(n, 1.5), FEWER_RUNS)
    assert max(found.passed, found.failed) <= most(FEWER_RUNS)


def rare(n: int, share: float) -> Draw:
    """So few records are told for all but certain that n members may hold none of them."""

    def draw(rng: Rng) -> Separation:
        seen = models(n, 0.0)(rng)
        assert isinstance(seen, Separation)
        return replace(seen, signals=seen.signals + 6.0 * seen.inside * (rng.random(2 * n) < share))

    return draw


@pytest.mark.parametrize(("n", "share"), [(60, 0.015), (150, 0.012), (600, 0.012)])
def test_a_tail_of_which_the_members_hold_no_record_is_not_passed(n: int, share: float) -> None:
    """Sixty draws of one in seventy hold none in two of five runs, and say nothing of the one in a hundred."""
    name = f"above the limit: risk of the 99 % quantile, {share:.1%} of records told, n = {n}"
    found = rates(name, RecordRisk(), 0.95, rare(n, share), FEWER_RUNS)
    assert found.passed <= most(FEWER_RUNS)


# --- ε ---------------------------------------------------------------------------------------------------------------


def randomised_response(n: int, epsilon: float) -> Draw:
    """Tells the truth with odds e^ε: exactly ε-DP, and no mechanism of this ε leaks more."""
    truth = 1 / (1 + math.exp(-epsilon))
    return binary(n, truth, 1 - truth)


def laplace(n: int, epsilon: float) -> Draw:
    """Membership behind Laplace noise: exactly ε-DP, with continuous scores (pure noise at ε = 0)."""
    scale = max(epsilon, 1e-9)
    return lambda rng: seen(scale * (np.arange(2 * n) < n) + rng.laplace(size=2 * n), rng)


MECHANISMS = {"randomised response": randomised_response, "Laplace": laplace}


@pytest.mark.parametrize(
    ("mechanism", "epsilon"),
    [*(("randomised response", epsilon) for epsilon in (0.0, 1.0, 3.0)), ("Laplace", 0.0), ("Laplace", 1.0)],
)
def test_the_lower_bound_on_epsilon_stays_below_the_truth(mechanism: str, epsilon: float) -> None:
    name = f"ε lower bound: {mechanism}, ε = {epsilon:g}, n = 500"
    rng, draw = np.random.default_rng(derive(1, name)), MECHANISMS[mechanism](500, epsilon)
    bounds = []
    for _ in range(RUNS):
        seen_here = draw(rng)
        assert isinstance(seen_here, Membership)
        bounds.append(st.epsilon_lower_bound(seen_here.scores, seen_here.members, 0.0, ALPHA))
    above = float(np.mean(np.array(bounds) > epsilon))
    tell(f"{name:<74}", f"median bound {np.median(bounds):6.3f}", f"above the truth {above:6.1%}")
    assert above <= MOST


def gaussian_epsilon(shift: float, fpr: float) -> float:
    """At δ = 0: the likelihood ratio grows with the threshold, so that the rarest error that counts shows most."""
    return math.log(gaussian_tpr(shift, fpr) / fpr)


@pytest.mark.parametrize("n", [150, 600, 2000])
@pytest.mark.parametrize("scores", ["Gaussian", *MECHANISMS])
def test_an_epsilon_on_the_limit_is_neither_passed_nor_failed(scores: str, n: int) -> None:
    """Behind a mechanism all rules show the same; of a Gaussian leak the one at the smallest error rate shows most."""
    measure = Epsilon(delta=0.0, fpr=0.05)
    limit = gaussian_epsilon(1.0, 0.05) if scores == "Gaussian" else 1.0
    draw = gaussian(n, 1.0) if scores == "Gaussian" else MECHANISMS[scores](n, 1.0)
    found = rates(f"on the limit: ε of {scores} scores, n = {n}", measure, limit, draw)
    assert max(found.passed, found.failed) <= MOST


# --- the whole policy ------------------------------------------------------------------------------------------------

#: Records of each kind, and the shift of a leak that every attack finds in the twin.
POLICY_RECORDS, TWIN_SHIFT = 600, 4.0
ATTACKS = tuple(
    AttackChoice(f"membership.{type(attack).__name__.lower()}", attack) for attack in (Loss(), Entropy(), Label())
)
LEAK = 0.2
POLICY_LIMITS: tuple[tuple[Measure, float], ...] = (
    (Advantage(), LEAK),
    (Tpr(fpr=0.1), gaussian_tpr(shift_of(LEAK), 0.1)),
    (Auc(), float(stats.norm.cdf(shift_of(LEAK) / math.sqrt(2)))),
    (Epsilon(delta=0.0, fpr=0.05), gaussian_epsilon(shift_of(LEAK), 0.05)),
    # Right about six of ten: odds of 1.5, which the label has too.
    (ExposedRecords(precision=0.6), exposed_share(shift_of(LEAK), 1.5)),
    (WorstGroup(of="tpr", fpr=0.1), gaussian_tpr(shift_of(LEAK), 0.1)),
)
NO_LEAK = tuple((measure, measure.no_leak()) for measure, _ in POLICY_LIMITS)


def scores_of(shifts: Iterable[float], rng: Rng) -> list[Membership]:
    """What the three attacks say of the same records: two correlated Gaussian scores, and a label right or wrong."""
    n, members = POLICY_RECORDS, np.arange(2 * POLICY_RECORDS) < POLICY_RECORDS
    shared, groups = rng.normal(size=2 * n), rng.integers(0, 10, 2 * n)
    by_loss, by_entropy, by_label = shifts
    found = [
        0.8 * shared + 0.6 * rng.normal(size=2 * n) + by_loss * members,
        0.8 * shared + 0.6 * rng.normal(size=2 * n) + by_entropy * members,
        # Right where the margin is positive; with this cut TPR - FPR is the Gaussian's own advantage.
        (0.8 * shared + 0.6 * rng.normal(size=2 * n) + by_label * members > by_label / 2).astype(float),
    ]
    return [Membership(scores, members, groups) for scores in found]


def attacks_on(measure: Measure) -> tuple[AttackChoice, ...]:
    """All of them; a label alone has no threshold of a low FPR, and its TPR there is never known."""
    return ATTACKS[:2] if isinstance(measure, Tpr | WorstGroup) else ATTACKS


def requirement(measure: Measure, limit: float) -> Requirement:
    return Requirement(
        id=type(measure).__name__.lower(),
        title="",
        severity=Severity.HIGH,
        measure_name=f"membership.{type(measure).__name__.lower()}",
        measure=measure,
        direction=Direction.MAX,
        limit=limit,
        attacks=attacks_on(measure),
        references=(),
        place=Location("policy.yaml", 1, 1),
    )


def bench(limits: Iterable[tuple[Measure, float]], claim: Claim | None, store: Path) -> Bench:
    """A policy and a subject, of which only the plan reads anything: no model, no records."""
    data, here = DataFile(None, "simulated", "0" * 64), Path("model.yaml")
    policy = Policy(
        Path("policy.yaml"), "simulated", "1", "", Access.RELEASE, 1 - ALPHA,
        tuple(requirement(measure, limit) for measure, limit in limits), "0" * 64, "",
    )  # fmt: skip
    subject = Subject(
        here, "simulated", "1", "0" * 64, ModelFile(Path("model.pt"), "0" * 64, "state_dict", None, "simulated:model"),
        Task("classification", 10, (1,), (0.0, 1.0)), data, data, None, Release(Exposure.PROBABILITIES), None,
        Account(None, claim), "",
    )  # fmt: skip
    return Bench(
        subject, SubjectRecords(None, None, None), make_plan(policy, subject, 1, Sizes(600, 600, 0)), Store(store)
    )


def outcomes(jobs: tuple[Job, ...], shifts: Iterable[float], rng: Rng) -> dict[str, Outcome]:
    """Every attack on a subject with these leaks, on a leaky twin and on a null."""
    subject, twin, null = (scores_of(each, rng) for each in (shifts, (TWIN_SHIFT,) * 3, (0.0,) * 3))
    return {
        job.identity: Outcome(job, subject[i], "", ControlRun(twin[i], "twin"), ControlRun(null[i], "null"), 0.0, 0)
        for i, job in enumerate(jobs)
    }


def fooled(finding: Finding) -> bool:
    """Whether the finding is inconclusive because an attack found a leak on the null."""
    return finding.status is Status.INCONCLUSIVE and any(not attack.fair for attack in finding.attacks)


def verdicts(name: str, at: Bench, shifts: tuple[float, float, float]) -> list[Verdict]:
    rng = np.random.default_rng(derive(1, name))
    assert len(at.plan.jobs) == len(ATTACKS)
    return [judge(at, outcomes(at.plan.jobs, shifts, rng)) for _ in range(RUNS)]


def share(found: Iterable[bool]) -> float:
    return float(np.mean(list(found)))


def describe(name: str, found: list[Verdict]) -> tuple[float, float, float]:
    """Shares of runs with any requirement failed, any passed, and any left open by the null alone; prints its line."""
    failed = share(v.status is Status.FAIL for v in found)
    passed = share(any(f.status is Status.PASS for f in v.findings) for v in found)
    unfair = share(any(fooled(f) for f in v.findings) for v in found)
    tell(f"{name:<74}", f"any pass {passed:6.1%}", f"any fail {failed:6.1%}", f"null not clean {unfair:6.1%}")
    return failed, passed, unfair


def test_a_policy_does_not_fail_a_model_that_leaks_nothing(tmp_path: Path) -> None:
    """Limits at no leak, and a claim of ε = 0 besides, which is true: a failure of any of them is a false alarm."""
    name = "policy: null, limits at no leak, claim of ε = 0"
    found = verdicts(name, bench(NO_LEAK, Claim(0.0, 1e-5), tmp_path), (0.0, 0.0, 0.0))
    failed, _, unfair = describe(name, found)
    tell("", f"of these, the claim refuted {share(bool(v.refutations) for v in found):6.1%}")
    assert failed <= MOST
    assert unfair <= MOST


def test_a_clean_null_leaves_a_safe_model_its_pass(tmp_path: Path) -> None:
    """Limits far above the (absent) leak: only a null that looks like a leak can keep the policy from passing."""
    name = "policy: null, limits far away"
    limits = ((Advantage(), 0.4), (Tpr(fpr=0.1), 0.4), (Auc(), 0.75))
    found = verdicts(name, bench(limits, None, tmp_path), (0.0, 0.0, 0.0))
    _, _, unfair = describe(name, found)
    assert unfair <= MOST
    assert share(v.status is Status.PASS for v in found) >= 1 - MOST


@pytest.mark.parametrize("leaking", ["every attack", "one attack"])
def test_a_policy_with_every_leak_on_its_limit_is_neither_passed_nor_failed(leaking: str, tmp_path: Path) -> None:
    """False alarms have most chances where every attack is on the limit, false passes where only one sees the leak."""
    name, shift = f"policy: {leaking} on the limit", shift_of(LEAK)
    shifts = (shift, shift, shift) if leaking == "every attack" else (shift, 0.0, 0.0)
    failed, passed, unfair = describe(name, verdicts(name, bench(POLICY_LIMITS, None, tmp_path), shifts))
    assert failed <= MOST
    assert passed <= MOST
    assert unfair <= MOST


# --- inversion -------------------------------------------------------------------------------------------------------


def drawn(mse: np.ndarray, baselines: np.ndarray, votes: np.ndarray, false_votes: np.ndarray) -> Reconstruction:
    """An outcome with these distances `(n,)`, `(b, n)` and majorities `(n,)`, `(m,)`."""
    n, evaluators = len(mse), ("nearest neighbour", "LDA", "network")
    unanimous, wrong = np.repeat(votes[:, None], 3, axis=1), np.repeat(false_votes[:, None], 3, axis=1)
    return Reconstruction(
        Goal.RECORD, np.arange(n), np.zeros(n, dtype=np.int64), mse, np.full(n, np.nan),
        tuple(f"guess {i}" for i in range(len(baselines))), baselines, np.full(baselines.shape, np.nan),
        evaluators, unanimous, wrong, np.ones(3),
    )  # fmt: skip


NOBODY = np.zeros(1, dtype=bool)


def distances(n: int, ratio: float, together: float, guesses: int = 1) -> Draw:
    """Log-normal distances of an attack and of `guesses` equally good guesses; `together` is their correlation."""

    def draw(rng: Rng) -> Reconstruction:
        record, own = rng.normal(size=n), rng.normal(size=(1 + guesses, n))
        attack, *baselines = np.exp(0.5 * (math.sqrt(together) * record + math.sqrt(1 - together) * own))
        return drawn(ratio * attack, np.stack(baselines), np.zeros(n, dtype=bool), NOBODY)

    return draw


#: n, quantile, correlation, limit. The longest take one limit only: the interval scales with the attack's distances.
DISTANCES = [
    *((600, q, 0.0, 0.75) for q in (0.05, 0.25, 0.5)),
    *((n, q, 0.0, limit) for n in (200, 60) for q in (0.05, 0.25, 0.5) for limit in (1.0, 0.75)),
    *((200, q, 0.8, 0.75) for q in (0.05, 0.25, 0.5)),
]


@pytest.mark.parametrize(("n", "quantile", "together", "limit"), DISTANCES)
def test_a_distance_on_the_limit_is_neither_passed_nor_failed(
    n: int, quantile: float, together: float, limit: float
) -> None:
    """A limit of 1 is the null: the attack is a reconstruction of its own, as good as the guess without the model."""
    measure = Distance(quantile=quantile)
    name = f"on the limit {limit:g}: {measure}, correlation {together:g}, n = {n}"
    found = rates(name, measure, limit, distances(n, limit, together))
    assert max(found.passed, found.failed) <= MOST


@pytest.mark.parametrize("together", [0.0, 0.9])
def test_the_choice_of_the_best_guess_does_not_pass_an_attack_on_the_limit(together: float) -> None:
    """Four guesses that are equally good: the one that looks best is chosen on the records that it is judged by."""
    measure = Distance(quantile=0.25)
    name = f"on the limit: {measure}, 4 guesses, correlation {together:g}, n = 200"
    found = rates(name, measure, 0.75, distances(200, 0.75, together, guesses=4))
    assert max(found.passed, found.failed) <= MOST


def identified(n: int, true: float, false: float) -> Draw:
    """Majorities that name a target, and the same where nothing can be named."""
    return lambda rng: drawn(np.ones(n), np.ones((1, n)), rng.random(n) < true, rng.random(n) < false)


@pytest.mark.parametrize("n", [10, 40, 200])
@pytest.mark.parametrize("false", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("limit", [0.0, 0.3])
def test_an_identification_on_the_limit_is_neither_passed_nor_failed(limit: float, false: float, n: int) -> None:
    name = f"on the limit: {Identification()}, false positives {false:g}, n = {n}"
    found = rates(name, Identification(), limit, identified(n, limit + false, false))
    assert max(found.passed, found.failed) <= MOST


# --- the simulations themselves --------------------------------------------------------------------------------------


def test_the_simulated_leaks_are_those_of_the_closed_forms() -> None:
    """A truth that were wrong would make every rate above mean nothing: 400,000 records, four standard errors."""
    n = 200_000
    draws = gaussian(n, shift_of(0.2)), binary(n, 0.9, 0.7)
    for observation in (draw(np.random.default_rng(5)) for draw in draws):
        assert isinstance(observation, Membership)
        inside, outside = observation.scores[observation.members], observation.scores[~observation.members]
        grid = np.linspace(-1, 2, 31)
        gaps = [(inside > t).mean() - (outside > t).mean() for t in grid]
        assert max(gaps) == pytest.approx(0.2, abs=4 * math.sqrt(0.5 / n))
    tail = scores_of((shift_of(LEAK), 0.0, shift_of(LEAK)), np.random.default_rng(6))
    by_loss, by_label = tail[0], tail[2]
    assert st.auc(by_loss.scores, by_loss.members, ALPHA).value == pytest.approx(POLICY_LIMITS[2][1], abs=0.07)
    assert st.auc(by_label.scores, by_label.members, ALPHA).value == pytest.approx((1 + LEAK) / 2, abs=0.07)
    root = optimize.brentq(lambda d: 2 * stats.norm.cdf(d / 2) - 1 - LEAK, 0, 5)
    assert shift_of(LEAK) == pytest.approx(root)


@pytest.mark.parametrize("shift", [0.5, 2.0])
def test_the_closed_forms_of_the_rarer_measures_are_those_of_a_search_over_rules(shift: float) -> None:
    """Every threshold on a grid, and every coin between two of them."""
    grid = np.linspace(-8, 12, 200_001)
    tpr, fpr = stats.norm.sf(grid - shift), stats.norm.sf(grid)
    sure = tpr >= (odds := 3.0 if shift > 1 else 1.2) * fpr
    assert exposed_share(shift, odds) == pytest.approx(tpr[sure].max(), abs=1e-3)
    needed = np.maximum(np.log(tpr / np.maximum(fpr, 0.05)), np.log((1 - fpr) / np.maximum(1 - tpr, 0.05)))
    assert gaussian_epsilon(shift, 0.05) == pytest.approx(needed.max(), abs=1e-3)
    coins = np.linspace(0, 1, 100_001)
    right, wrong = 0.3 + 0.7 * coins, 0.01 + 0.99 * coins
    assert exposed_by_label(0.3, 0.01, 9.0) == pytest.approx(right[right >= 9 * wrong].max(), abs=1e-4)
    assert exposed_by_label(0.3, 0.3 / 9, 9.0) == pytest.approx(0.3)


# --- the demo --------------------------------------------------------------------------------------------------------


def say_case(seed: int, case: Case, verdict: Verdict) -> bool:
    """Every requirement's value and interval in one line."""
    as_expected = case.expects(verdict)
    cells = [
        f"{f.requirement.measure_name} {f.measurement.value:.3f} [{f.measurement.low:.3f}, {f.measurement.high:.3f}]"
        f" {f.status}"
        if f.measurement
        else f"{f.requirement.measure_name} {f.status} ({f.reason})"
        for f in (*verdict.findings, *verdict.refutations)
    ]
    tell(f"demo, seed {seed:>2}, {case.name:<8} {'as it must' if as_expected else 'NOT AS IT MUST'}:", *cells)
    return as_expected


@pytest.mark.parametrize("seed", range(1, 21))
def test_the_demo_gives_the_same_two_verdicts_for_every_seed(seed: int, tmp_path: Path) -> None:
    import torch

    torch.set_num_threads(1)
    lay_out(tmp_path, seed)
    for case in CASES:
        train(recipe_of(tmp_path, case), tmp_path / case.name)
        checked = check(tmp_path / "policy.yaml", model_of(tmp_path, case), seed=seed, store=tmp_path / ".midguard")
        assert say_case(seed, case, checked.verdict), f"{case.name}: {checked.verdict.status}"
