"""Bugs that were found in other privacy tools: each of them, planted here, is noticed.

Most are noticed by the tests of the module that would have them. Here stand those that nothing else notices.
"""

from __future__ import annotations

import ast
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from midguard.attacks.membership.loss import Loss
from midguard.engine import check, evidence, run, shift
from midguard.engine import statistics as st
from midguard.engine.architectures.mlp import Mlp
from midguard.engine.errors import InputError, Location
from midguard.engine.ledger import Account, Claim
from midguard.engine.measures.membership.advantage import Advantage
from midguard.engine.measures.membership.auc import Auc
from midguard.engine.measures.membership.tpr import Tpr
from midguard.engine.measures.membership.worst_group import WorstGroup
from midguard.engine.measures.privacy.epsilon import Epsilon
from midguard.engine.measures.utility.accuracy import Accuracy
from midguard.engine.observation import Membership
from midguard.engine.plan import Job, Sizes, make_plan
from midguard.engine.policy import AttackChoice, Direction, Policy, Requirement, Severity, load_policy
from midguard.engine.store import Store
from midguard.engine.subject import DataFile, ModelFile, Subject, SubjectRecords, Task
from midguard.engine.target import Access, Exposure, Records, Release, Target
from midguard.reports.html import render_html

from .test_report import sample_evidence


def scores_of(n: int, shift_by: float, seed: int) -> Membership:
    """Unit Gaussians, members shifted: advantage 2Φ(shift/2) - 1."""
    members = np.arange(2 * n) < n
    scores = np.random.default_rng(seed).normal(size=2 * n) + shift_by * members
    return Membership(scores, members, np.zeros(2 * n, dtype=np.int64))


def details(found: Any) -> dict[str, float]:
    return {quantity.name: quantity.value for quantity in found.details}


# A rule that is chosen where it is judged finds a leak in noise (Privacy Meter, opake, TensorFlow Privacy)


def best_of_all_rules(scores: np.ndarray, members: np.ndarray, error: float) -> float:
    """The largest lower bound on ε over all thresholds and their complements, as if each were the only one."""
    cuts = np.sort(scores)[:, None]
    hits, false = ((scores[side] > cuts).sum(axis=1) for side in (members, ~members))
    m, n = int(members.sum()), int((~members).sum())
    found = 0.0
    for right, of, wrong, total in ((hits, m, false, n), (n - false, n, m - hits, m)):
        low = np.where(right > 0, stats.beta.ppf(error, np.maximum(right, 1), of - right + 1), 0.0)
        high = np.where(wrong < total, stats.beta.ppf(1 - error, wrong + 1, np.maximum(total - wrong, 1)), 1.0)
        found = max(found, float(np.log(np.maximum(low, 1e-300) / high).max()))
    return found


def test_a_rule_is_judged_on_other_records_than_it_was_chosen_on() -> None:
    """Of 150 nulls the best of all rules finds a leak in half, one that was chosen elsewhere in next to none."""
    alpha, rng, members = 0.5, np.random.default_rng(0), np.arange(120) < 60
    half = (np.arange(120) % 60) < 30
    naive, found = 0, 0
    for _ in range(150):
        scores = rng.normal(size=120)
        naive += any(best_of_all_rules(scores[w], members[w], alpha / 4) > 0 for w in (half, ~half))
        found += st.epsilon_lower_bound(scores, members, 1e-5, alpha) > 0
    assert naive > 45
    assert 4 * found < naive


# ε: a value and no bound, and never below 0 (PrivacyGuard)


def test_epsilon_is_never_negative_and_its_ends_stand_around_it() -> None:
    for seed in range(40):
        seen = scores_of(60, 0.0, seed)
        found = st.epsilon(seen.scores, seen.members, 1e-5, 0.01, 0.05)
        assert 0 <= found.low <= found.value <= found.high


def test_epsilon_is_an_estimate_and_not_its_own_upper_bound() -> None:
    """Randomised response at ε = log 3: who is a member answers 1 with probability 3/4, who is none with 1/4."""
    members, values = np.arange(1000) < 500, []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        scores = (rng.random(1000) < np.where(members, 0.75, 0.25)).astype(np.float64)
        found = st.epsilon(scores, members, 0.0, 1e-3, 0.05)
        assert found.low < found.value < found.high
        values.append(found.value)
    assert np.mean(values) == pytest.approx(math.log(3), abs=0.05)


# A TPR is that of a threshold which keeps to the FPR, with everything that one needs to know of it (SACRO, LeakPro)


@pytest.mark.parametrize(("fpr", "n"), [(0.001, 100), (0.01, 150), (0.05, 130), (0.3, 7)])
def test_the_false_positive_rate_that_is_asked_for_is_kept_and_the_realised_one_reported(fpr: float, n: int) -> None:
    for seed in range(20):
        seen = scores_of(n, 1.0, seed)
        found = details(Tpr(fpr=fpr).measure(seen, 0.05))
        allowed = math.floor(fpr * n)
        cut = np.sort(seen.scores[~seen.members])[::-1][allowed]
        assert found["false positives"] == allowed
        assert found["realised FPR"] == allowed / n
        assert found["nonmembers"] == found["members"] == n
        assert found["members found"] == (seen.scores[seen.members] > cut).sum()


def test_a_tpr_says_which_fpr_its_records_can_decide() -> None:
    """The exact form of the rule of three, at a quarter of the error: no false positive among n."""
    found = details(Tpr(fpr=0.01).measure(scores_of(500, 1.0, 0), 0.05))
    assert found["smallest FPR these records can decide"] == pytest.approx(1 - (0.05 / 4) ** (1 / 500))
    assert found["nonmembers needed at this FPR"] == 1000


def test_what_belongs_to_a_number_reaches_the_evidence_and_the_page() -> None:
    found = Tpr(fpr=0.01).measure(scores_of(500, 1.0, 0), 0.05)
    kept: Any = evidence._measured(found)["details"]
    assert {detail["name"]: detail["value"] for detail in kept} == details(found)
    whole = sample_evidence()
    shown = [finding for finding in whole["findings"] if finding["details"]]
    assert shown
    shown[0]["details"] = kept
    page = " ".join(render_html(whole, None).split())
    for name in ("realised FPR", "false positives", "members found", "smallest FPR these records can decide"):
        assert f"{name} {details(found)[name]:.2g}" in page, name


def test_the_rates_behind_an_advantage_are_not_swapped() -> None:
    seen = scores_of(500, 2.0, 0)
    measured = Advantage().measure(seen, 0.05)
    found = details(measured)
    assert found["TPR"] > 0.7
    assert found["FPR"] < 0.3
    assert found["TPR"] - found["FPR"] == pytest.approx(measured.value)


def test_an_advantage_is_no_smaller_than_that_of_any_threshold_may_be() -> None:
    seen = scores_of(80, 0.6, 2)
    high = st.advantage(seen.scores, seen.members, seen.groups, 0.05).interval.high
    for cut in seen.scores:
        hits, false = (st.Count(int((seen.scores[s] > cut).sum()), 80) for s in (seen.members, ~seen.members))
        assert st.difference(hits, false, 0.05).high <= high + 1e-9


# Measures leave what they are given as it is (TensorFlow Privacy, PrivacyGuard)


@pytest.mark.parametrize("measure", [Advantage(), Auc(), Tpr(fpr=0.05), Epsilon(delta=1e-5), WorstGroup()], ids=str)
def test_a_measure_changes_nothing_that_it_is_given(measure: Any) -> None:
    seen = scores_of(60, 1.0, 0)
    for part in (seen.scores, seen.members, seen.groups):
        part.setflags(write=False)
    if isinstance(measure, Epsilon):
        st.epsilon(seen.scores, seen.members, 1e-5, 0.01, 0.05)
        st.epsilon_lower_bound(seen.scores, seen.members, 1e-5, 0.05)
    else:
        measure.measure(seen, 0.05)


# Several tries are paid for


def test_four_tries_of_two_classifiers_are_paid_for(monkeypatch: pytest.MonkeyPatch) -> None:
    told = [shift._Told(0.5 + i / 100, p) for i, p in enumerate((0.3, 0.02, 0.5, 0.9))]
    monkeypatch.setattr(shift, "_tries", lambda columns, seed: iter(told))
    assert shift._by_classifier(None, 0).p == pytest.approx(0.08)  # type: ignore[arg-type]


def test_the_intervals_of_a_policy_spend_its_error_once() -> None:
    """Over all requirements and all of the attacks that each rests on."""
    plan = plan_of(subject(), (Advantage(), None), (Tpr(), None), (Accuracy(), None))
    spent = [assignment.alpha * max(1, len(assignment.jobs)) for assignment in plan.assignments]
    assert max(len(assignment.jobs) for assignment in plan.assignments) > 3
    assert sum(spent) + plan.refutation_alpha * len(plan.jobs) <= 0.05 + 1e-12


# What is kept is found again for the same work alone (LeakPro, SACRO, Privacy Meter)


class AskedError(Exception):
    """Carries the name under which something was looked for."""


class Listening(Store):
    """A store that tells what it is asked for."""

    def get(self, name: str) -> bytes | None:
        raise AskedError(name)


def data(name: str) -> DataFile:
    return DataFile(None, name, name[:1] * 64)


def subject(**changes: Any) -> Subject:
    whole = Subject(
        Path("model.yaml"), "a", "1", "0" * 64, ModelFile(Path("model.pt"), "0" * 64, "state_dict", Mlp((4,)), None),
        Task("classification", 10, (1,), (0.0, 1.0)), data("1"), data("2"), data("3"),
        Release(Exposure.PROBABILITIES), None, Account(None, Claim(1.0, 1e-5)), "",
    )  # fmt: skip
    return dataclasses.replace(whole, **changes)


def requirement(measure: Any, attack: Any) -> Requirement:
    kind = "privacy" if isinstance(measure, Epsilon) else "utility" if isinstance(measure, Accuracy) else "membership"
    name = f"{kind}.{type(measure).__name__.lower()}"
    return Requirement(
        id=name, title="", severity=Severity.HIGH, measure_name=name, measure=measure,
        direction=Direction.MIN if kind == "utility" else Direction.MAX, limit=0.1,
        attacks=None if attack is None else (AttackChoice("membership.loss", attack),),
        references=(), place=Location("policy.yaml", 1, 1),
    )  # fmt: skip


def plan_of(of: Subject, *asked: tuple[Any, Any], access: Access = Access.RELEASE, seed: int = 1) -> Any:
    requirements = tuple(requirement(measure, attack) for measure, attack in asked)
    policy = Policy(Path("policy.yaml"), "a", "1", "", access, 0.95, requirements, "0" * 64, "")
    return make_plan(policy, of, seed, Sizes(600, 600, 600))


def bench(of: Subject, measure: Any = None, references: int = 0, **kind: Any) -> run.Bench:
    plan = plan_of(of, (measure or Advantage(), None if isinstance(measure, Epsilon) else Loss()), **kind)
    if references:
        plan = dataclasses.replace(plan, jobs=(dataclasses.replace(plan.jobs[0], references=references),))
    records = Records(np.zeros((30, 1), np.float32), np.arange(30) % 10)
    return run.Bench(of, SubjectRecords(records, records, records), plan, Listening(Path("nowhere")))


def asked_for(work: Callable[[run.Bench], object], at: run.Bench) -> str:
    """The name under which the work is looked for."""
    with pytest.raises(AskedError) as asked:
        work(at)
    return str(asked.value)


def recipe_of(tmp_path: Path, epochs: int) -> Path:
    """A recipe in a file that is always the same."""
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "apiVersion: midguard.dev/v1\nkind: Recipe\nmetadata: {name: a, version: '1'}\nspec:\n"
        "  architecture: {name: mlp, hidden: [4]}\n"
        "  task: {kind: classification, classes: 10, input: [1], range: [0, 1]}\n"
        "  data: {source: 'builtin:digits'}\n  optimizer: {name: sgd, lr: 0.1}\n"
        f"  epochs: {epochs}\n  batch_size: 8\n  release: {{exposes: probabilities}}\n"
    )
    return path


MODEL = subject().model
OTHERS: dict[str, dict[str, Any]] = {
    "model": {"model": dataclasses.replace(MODEL, sha256="1" * 64)},
    "network": {"model": dataclasses.replace(MODEL, architecture=Mlp((5,)))},
    "task": {"task": Task("classification", 10, (1,), (0.0, 2.0))},
    "members": {"members": data("4")},
    "nonmembers": {"nonmembers": data("4")},
    "auxiliary": {"auxiliary": data("4")},
    "release": {"release": Release(Exposure.PROBABILITIES, decimals=2)},
}


def key_of(at: run.Bench, role: str = "subject", variant: str = "", **changes: Any) -> str:
    job = Job("membership.loss", Loss(), 5, 10)
    return run.work_key(at, dataclasses.replace(job, **changes), role, variant)


@pytest.mark.parametrize("changed", OTHERS.values(), ids=OTHERS)
def test_an_outcome_is_of_one_subject(changed: dict[str, Any]) -> None:
    assert key_of(bench(subject(**changed))) != key_of(bench(subject()))
    assert key_of(bench(subject(name="b", version="2", text="# a remark"))) == key_of(bench(subject()))


def test_an_outcome_is_of_one_recipe(tmp_path: Path) -> None:
    """The same file, trained for longer."""
    keys = [key_of(bench(subject(recipe=recipe_of(tmp_path, epochs)))) for epochs in (3, 4)]
    assert len({*keys, key_of(bench(subject()))}) == 3


def test_an_outcome_is_of_one_attack_in_one_run_on_one_model() -> None:
    at = bench(subject())
    keys = [
        key_of(at), key_of(at, name="membership.entropy"), key_of(at, attack=Tpr()), key_of(at, seed=6),
        key_of(at, role="twin"), key_of(at, role="null"), key_of(at, variant="4 references"),
        key_of(bench(subject(), seed=2)), key_of(bench(subject(), access=Access.WEIGHTS)),
        key_of(bench(subject(), WorstGroup(by="column"))),
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)


KEPT: dict[str, tuple[Callable[[run.Bench], object], tuple[str, ...]]] = {
    "shift": (lambda at: at.shift, ("members", "nonmembers")),
    "predictions": (run.predictions, ("model", "network", "nonmembers")),
    "parameters": (check._parameters, ("model",)),
    "references": (
        run.Bench.reference_story,
        ("model", "network", "members", "nonmembers"),
    ),
}


@pytest.mark.parametrize(("work", "needs"), KEPT.values(), ids=KEPT)
def test_what_is_kept_beside_outcomes_is_of_one_subject(
    work: Callable[[run.Bench], object], needs: tuple[str, ...]
) -> None:
    names = [asked_for(work, bench(subject(**changed), references=8)) for changed in ({}, *map(OTHERS.get, needs))]
    assert len(set(names)) == len(names)


def test_the_shift_and_the_story_are_of_one_run() -> None:
    for work in (KEPT["shift"][0], KEPT["references"][0]):
        assert asked_for(work, bench(subject(), references=8)) != asked_for(
            work, bench(subject(), references=8, seed=2)
        )
    few, many = (asked_for(run.Bench.reference_story, bench(subject(), references=k)) for k in (4, 8))
    assert few != many


def test_an_account_is_of_one_ledger_and_one_delta() -> None:
    def name(delta: float, claim: Claim) -> str:
        at = bench(subject(account=Account(None, claim)), Epsilon(delta=delta))
        return asked_for(lambda b: run.account(b, b.plan.assignments[0].requirement), at)

    names = [name(1e-5, Claim(1.0, 1e-5)), name(1e-6, Claim(1.0, 1e-5)), name(1e-5, Claim(2.0, 1e-5))]
    assert len(set(names)) == 3


# What an attack is given: records in no order, the references' masks in the same one, and its own records (SACRO)


@dataclasses.dataclass(frozen=True, slots=True)
class Spy(Loss):
    """Scores by the record alone and remembers what it was given."""

    seen: list[tuple[Target, Records]] = dataclasses.field(default_factory=list)

    def score(self, target: Target, candidates: Records, seed: int, progress: object) -> np.ndarray:
        self.seen.append((target, candidates))
        scores = np.where(candidates.x[:, 0] < 0.5, 1.0, 0.0)
        scores[candidates.x[:, 0] == 0] = np.nan
        return scores


def spied() -> tuple[run.Bench, Spy, Membership]:
    """An attack on 50 members with x < 1/2 and 50 others, beside two references and auxiliary records with x = 1."""
    x = (np.arange(100, dtype=np.float32) / 100)[:, None]
    members, others = (Records(x[part], np.zeros(50, np.int64)) for part in (slice(50), slice(50, 100)))
    auxiliary = Records(np.ones((20, 1), np.float32), np.zeros(20, np.int64))
    spy, of = Spy(), subject()
    at = run.Bench(of, SubjectRecords(members, others, auxiliary), plan_of(of, (Advantage(), spy)), Store(Path()))
    vars(at)["module"] = torch.nn.Linear(1, 10)
    even = np.arange(100) % 2 == 0
    references = [
        SimpleNamespace(module=lambda: at.module, inside=inside, logits=x * np.arange(10)) for inside in (even, ~even)
    ]
    vars(at)["stage"] = dataclasses.replace(at.stage, references=tuple(references))
    job = dataclasses.replace(at.plan.jobs[0], references=2)
    _, found = run._membership(at, job, "subject", lambda share: None)
    return at, spy, found  # type: ignore[return-value]


def test_an_attack_meets_records_in_no_order_and_its_scores_stay_beside_the_truth() -> None:
    _, spy, found = spied()
    order = spy.seen[0][1].x[:, 0]
    assert not np.array_equal(order, np.sort(order))
    assert 10 < (order[:50] < 0.5).sum() < 40  # hypergeometric, mean 25 and deviation 2.5: six of them
    np.testing.assert_array_equal(found.members, order < 0.5)
    np.testing.assert_array_equal(found.scores[order > 0], found.members[order > 0])
    assert np.isnan(found.scores[order == 0]).all()


def test_references_masks_and_answers_belong_to_the_records_that_are_asked_about() -> None:
    _, spy, _ = spied()
    target, candidates = spy.seen[0]
    even = np.round(candidates.x[:, 0] * 100).astype(int) % 2 == 0
    np.testing.assert_array_equal(target.references[0].inside, even)
    np.testing.assert_array_equal(target.references[1].inside, ~even)
    sure = target.references[0].target.query(candidates.x)[:, 9]
    np.testing.assert_array_equal(np.argsort(sure), np.argsort(candidates.x[:, 0]))


def test_the_records_that_an_attack_is_fitted_on_are_none_that_it_is_judged_on() -> None:
    at, spy, _ = spied()
    for owned in (spy.seen[0][0].auxiliary, at.subject_target().auxiliary, at.controls.auxiliary):
        assert owned is not None
        assert (owned.x == 1).all()


# Nothing is imported that breaks beside a torch without CUDA; a document builds no object


def test_nothing_imports_torchvision() -> None:
    root = Path(run.__file__).resolve().parents[1]
    paths = [root / "cli.py", *(p for part in ("engine", "attacks", "reports") for p in (root / part).rglob("*.py"))]
    assert len(paths) > 50
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
                assert not [name for name in names if name.split(".")[0] in {"torchvision", "torchaudio"}], path
    assert "torchvision" not in (root / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.mkdir", "!!python/object/new:os.mkdir"])
def test_a_policy_runs_nothing(tag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("policy.yaml").write_text(f"apiVersion: {tag} [made]\nkind: PrivacyPolicy\n")
    with pytest.raises(InputError):
        load_policy(Path("policy.yaml"))
    assert not Path("made").exists()
