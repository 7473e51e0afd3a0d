"""The gate: hold a model against a policy."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import cast

from .accountants import account as accounts
from .budget import open_budget, spending
from .errors import AccountingError, InputError, Location, NotMeasurable
from .evidence import Json, asked_distance, build
from .exhibits import gallery
from .ledger import EvidenceResult
from .measure import Reads
from .measurement import Basis, Measurement
from .observation import Membership, Observation
from .plan import Assignment, Outcome, Plan, Sizes, make_plan
from .policy import Direction, Policy, Requirement, Severity, load_policy
from .run import Bench, Report, account, predictions, proof, run, run_opened, silent, stored
from .shift import Shift
from .store import Store, key
from .subject import Subject, SubjectRecords, load_records, load_subject
from .summaries import proved_curve
from .verdict import (
    Finding,
    Status,
    Verdict,
    explain_protection,
    judge_account,
    judge_attacked,
    judge_failed,
    judge_measured,
    judge_proved,
    tells_apart,
)

#: Where raw outcomes are kept unless somebody says otherwise.
STORE = Path(".midguard")


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check came to.

    Attributes:
        verdict: The findings and the worst of them.
        evidence: The document that reports are rendered from.
        plan: What was to run.
        policy: The policy.
        subject: What was checked.
        outcomes: What became of every job, by its identity; personal data.
        records: The subject's records; personal data.
    """

    verdict: Verdict
    evidence: Json
    plan: Plan
    policy: Policy
    subject: Subject
    outcomes: Mapping[str, Outcome]
    records: SubjectRecords


def check(
    policy: Path | str,
    model: Path | str,
    *,
    subject: Path | str | None = None,
    seed: int | None = None,
    fresh: bool = False,
    store: Path | str = STORE,
    trust_code: bool = False,
    report: Report = silent,
    budget: str | None = None,
    budget_head: str | None = None,
    profile: str = "standard",
    show_reconstructions: bool = False,
) -> Checked:
    """Attack a model and hold what was measured against a policy.

    Args:
        policy: The policy file.
        model: The model file; its description is read from `model.yaml` beside it.
        subject: The description, if it stands elsewhere.
        seed: Repeats an earlier run; drawn fresh otherwise, unless the store holds the same work.
        fresh: Draw a fresh seed even so.
        store: Folder of raw outcomes.
        trust_code: Allow a `factory:` in the subject, which runs the user's own code.
        report: Told what is being done and how far it is.
        budget: The store of all releases on the subject's data: a SQLite file or a SQLAlchemy URL.
        budget_head: A head of that store that was written down, by an earlier evidence for example.
        profile: `standard`, or `thorough` for attacks that want a GPU or hours, too.
        show_reconstructions: Whether pictures of records and their reconstructions enter the evidence.

    Raises:
        InputError: The policy, the subject, its model or its records are not acceptable, or the budget store cannot be
            read, is broken or has lost entries.
    """
    started = time.perf_counter()
    bench = prepare(
        policy, model, subject=subject, seed=seed, fresh=fresh, store=store, trust_code=trust_code, profile=profile
    )
    bench.report = report
    _open_budget(bench, budget, budget_head)
    if not bench.plan.jobs or not all(stored(bench, job) for job in bench.plan.jobs):
        _ = bench.module  # a file that cannot be loaded is refused before anything is trained
    outcomes = run(bench)
    verdict = judge(bench, outcomes)
    created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    seconds = time.perf_counter() - started
    accounting, parameters = _accounting(bench), _parameters(bench)
    evidence = build(
        bench.plan,
        verdict,
        outcomes,
        bench.subject,
        bench.records,
        accounting,
        parameters,
        created,
        seconds,
        references=bench.reference_story(),
        shift=_shift(bench),
        proved=_proved(bench),
        spending=bench.spending,
        gallery=gallery(bench, outcomes, asked_distance(bench.plan), show_reconstructions),
    )
    return Checked(verdict, evidence, bench.plan, bench.plan.policy, bench.subject, outcomes, bench.records)


def prepare(
    policy: Path | str,
    model: Path | str,
    *,
    subject: Path | str | None = None,
    seed: int | None = None,
    fresh: bool = False,
    store: Path | str = STORE,
    trust_code: bool = False,
    profile: str = "standard",
) -> Bench:
    """Everything up to the first attack: read, check, plan. Loads no model."""
    if Path(policy).suffix in {".pt", ".pth", ".safetensors"}:
        raise InputError.of(f"{policy}: this is a model, not a policy", "the policy comes first: POLICY MODEL")
    loaded = load_policy(Path(policy))
    described = load_subject(Path(model), Path(subject) if subject else None)
    records = load_records(described)
    kept = Store(Path(store))
    sets = (records.members, records.nonmembers, records.auxiliary, records.update)
    sizes = Sizes(*(0 if part is None else len(part) for part in sets))
    plan = make_plan(loaded, described, _seed(kept, described, loaded, seed, fresh), sizes, profile)
    return Bench(described, records, plan, kept, trust_code, fresh)


def _open_budget(bench: Bench, place: str | None, head: str | None) -> None:
    """Read what was released on the subject's data; a store that has lost a head that it once had is refused.

    The last head that was seen here is remembered: what was cut off since then is found without anybody's notes.
    """
    if place is None:
        if head is not None:
            raise InputError.of("a head of a budget was named, but no budget", "name its store with --budget")
        return
    budget, subject = open_budget(place), bench.subject
    chain, name = budget.chain(), hashlib.sha256(f"budget head\0{budget.place.identity}".encode()).hexdigest()
    seen = bench.store.get(name)
    for known in (head, None if seen is None else seen.decode()):
        if known is not None:
            chain.refuse_without(known)
    bench.store.put(name, chain.head.hash.encode())
    ledger, members = subject.account.ledger, subject.members
    data = ledger.data if ledger is not None else members.sha256 if members is not None else ""
    bench.spending = spending(chain, data)
    bench.subject = replace(subject, account=replace(subject.account, releases=bench.spending.ledgers))


def judge(bench: Bench, outcomes: Mapping[str, Outcome]) -> Verdict:
    """Every requirement's finding, and every claim that the attacks refute."""
    findings, shift = [], _shift(bench)
    for assignment in bench.plan.assignments:
        requirement = assignment.requirement
        if requirement.measure.reads is Reads.ACCOUNT:
            findings.append(judge_account(requirement, account(bench, requirement)))
        elif requirement.measure.reads is Reads.PREDICTIONS and not assignment.missing:
            findings.append(_judge_predictions(bench, assignment))
        else:
            attacked = _explained(bench, judge_attacked(assignment, outcomes, shift), assignment.alpha)
            findings.append(_proved_instead(bench, attacked))
    fair = shift is None or not (shift.found or shift.untested)
    refuted = _refutations(bench, findings, outcomes) if fair else []
    return Verdict(tuple(findings), (*refuted, *_audited(bench, findings)))


def _shift(bench: Bench) -> Shift | None:
    """Whether members and nonmembers differ by themselves; a test that breaks leaves that open, and so no pass."""
    if not any(job.name.startswith(f"{Reads.MEMBERSHIP}.") for job in bench.plan.jobs):
        return None
    try:
        return bench.shift
    except Exception as error:
        stopped = f"the test stopped ({type(error).__name__}: {error})"
        return Shift(found=False, p=1.0, alpha=0.0, auc=0.5, records=0, features=(), untested=stopped)


def _explained(bench: Bench, finding: Finding, alpha: float) -> Finding:
    """The finding with what protects; no verdict rests on it, so what stops it is said and changes nothing."""
    if finding.status is not Status.PASS:
        return finding
    try:
        return explain_protection(finding, run_opened(bench, finding.requirement), alpha)
    except InputError:
        raise
    except Exception as error:
        stopped = f"the attacks on the open interface stopped ({type(error).__name__}: {error})"
        return replace(finding, protection=f"it is not known what protects: {stopped}")


def _proved_instead(bench: Bench, finding: Finding) -> Finding:
    """The finding, or that of the ledger where the attacks decide nothing; the ledger is asked only then."""
    return (
        judge_proved(finding, proof(bench, finding.requirement)) if finding.status is Status.INCONCLUSIVE else finding
    )


def _judge_predictions(bench: Bench, assignment: Assignment) -> Finding:
    """Hold what the model predicts against its limit."""
    requirement = assignment.requirement
    try:
        found = requirement.measure.measure(predictions(bench), assignment.alpha)
    except InputError:
        raise
    except Exception as error:  # leaves its requirement in error, the others standing
        return judge_failed(requirement, f"{type(error).__name__}: {error}")
    return judge_measured(requirement, found, "the model's predictions")


def _refutations(bench: Bench, findings: list[Finding], outcomes: Mapping[str, Outcome]) -> list[Finding]:
    """Claims and proofs of ε that an attack's lower bound exceeds; each is a failure, whatever the limit says."""
    said = [(f.measurement, f.requirement.measure.delta) for f in findings if _accounted(f)]  # type: ignore[attr-defined]
    claim = bench.subject.account.claim
    bounds = [(m.high, delta, str(m.basis)) for m, delta in said if m is not None]
    if claim is not None:
        bounds.append((claim.epsilon, claim.delta, str(Basis.DECLARED)))
    refuted: dict[str, Finding] = {}
    for epsilon, delta, basis in sorted(set(bounds)):
        found = (_epsilon(o, delta, bench.plan.refutation_alpha) for o in outcomes.values())
        worst = max(found, default=_NOTHING)
        if worst.low > epsilon:
            # The smallest ε that is refuted says it all; another line for a larger one would say it again.
            refuted.setdefault(basis, _refuted(bench, worst, epsilon, delta, basis))
    return list(refuted.values())


@dataclass(frozen=True, slots=True, order=True)
class _EpsilonBound:
    """An attack's lower bound on ε."""

    low: float
    attack: str
    records: int


_NOTHING = _EpsilonBound(0.0, "", 0)


def _accounted(finding: Finding) -> bool:
    return _states_epsilon(finding.requirement) and finding.measurement is not None


def _states_epsilon(requirement: Requirement) -> bool:
    """Whether it bounds ε at a δ, and nothing else of the account."""
    return requirement.measure.reads is Reads.ACCOUNT and hasattr(requirement.measure, "delta")


def _epsilon(outcome: Outcome, delta: float, alpha: float) -> _EpsilonBound:
    """The lower bound that one attack's scores imply; none unless its null ran and found nothing."""
    null, seen = outcome.negative.observation, outcome.observation
    low = _lower_bound(seen, delta, alpha)
    if low == 0 or null is None or tells_apart(null, alpha) or _lower_bound(null, delta, alpha) > 0:
        return _NOTHING
    return _EpsilonBound(low, outcome.job.name, len(seen.scores) if isinstance(seen, Membership) else 0)


def _lower_bound(seen: Observation | None, delta: float, alpha: float) -> float:
    import numpy as np

    from .statistics import epsilon_lower_bound

    if not isinstance(seen, Membership) or np.isnan(seen.scores).any():
        return 0.0
    return epsilon_lower_bound(seen.scores, seen.members, delta, alpha, seen.persons)


def _refuted(bench: Bench, worst: _EpsilonBound, epsilon: float, delta: float, basis: str) -> Finding:
    from .measures.privacy.epsilon import Epsilon

    text = (
        f"refuted: {worst.attack} shows ε of at least {worst.low:.3g} at δ = {delta:g}, the {basis} ε is {epsilon:.3g}"
    )
    requirement = Requirement(
        id="claim-epsilon" if basis == Basis.DECLARED else "proof-epsilon",
        title=f"The {basis} ε holds against the attacks",
        severity=Severity.CRITICAL,
        measure_name="privacy.epsilon",
        measure=Epsilon(delta=delta),
        direction=Direction.MAX,
        limit=epsilon,
        attacks=None,
        references=(),
        place=Location(str(bench.subject.file), 1, 1),
    )
    found = Measurement(
        worst.low, worst.low, float("inf"), 1 - bench.plan.refutation_alpha, worst.records, Basis.ATTACKED
    )
    return Finding(requirement, Status.FAIL, found, worst.attack, text, _REMEDY_REFUTED)


def _audited(bench: Bench, findings: list[Finding]) -> list[Finding]:
    """Every evidence test that the training failed; each is a failure, whatever a limit says."""
    audit = bench.subject.account.audit
    if audit is None:
        return []
    named = (f.measurement for f in findings if f.requirement.measure_name == "privacy.epsilon")
    said = [found.high for found in named if found is not None]
    claim = bench.subject.account.claim
    epsilon = next((high for high in (*said, *([claim.epsilon] if claim else [])) if isfinite(high)), 0.0)
    return [_failed_test(bench, test, epsilon, audit.delta) for test in audit.refuted]


def _failed_test(bench: Bench, test: EvidenceResult, epsilon: float, delta: float) -> Finding:
    """One of them. Args: epsilon, what the account came to that the test refutes; 0 where it came to nothing."""
    from .measures.privacy.epsilon import Epsilon

    requirement = Requirement(
        id=f"evidence-{test.name.replace('_', '-')}",
        title="Training did what its ledger says",
        severity=Severity.CRITICAL,
        measure_name="privacy.epsilon",
        measure=Epsilon(delta=delta),
        direction=Direction.MAX,
        limit=float(f"{epsilon:.6g}"),
        attacks=None,
        references=(),
        place=Location(str(bench.subject.file), 1, 1),
    )
    reason = f"refuted: audit.{test.name}: {test.detail} (p = {test.p:.2g})"
    return Finding(requirement, Status.FAIL, None, f"audit.{test.name}", reason, _REMEDY_REFUTED)


_REMEDY_REFUTED = "find what training did that its account does not say; do not release on this account"


def _accounting(bench: Bench) -> Json | None:
    """Every accountant's bound and ε by step, at the δ that the policy asks for first; kept, since it takes seconds."""
    ledger = bench.subject.account.ledger
    asked = [r.measure for r in bench.plan.policy.requirements if _states_epsilon(r)]
    if ledger is None or not ledger.private or not asked:
        return None
    delta: float = asked[0].delta  # type: ignore[attr-defined]
    name = key({"accounting": repr(ledger), "delta": delta})
    kept = None if bench.fresh else bench.store.get(name)
    if kept is not None:
        return dict(json.loads(kept))
    try:
        found = accounts(ledger, delta)
    except (AccountingError, NotMeasurable):
        return None  # its requirement has ended in error already
    document: Json = {
        "delta": delta,
        "accountants": [{"name": b.name, "epsilon": b.epsilon, "error": b.error} for b in found.bounds],
        "curve": [{"step": point.step, "epsilon": point.epsilon} for point in found.curve],
    }
    bench.store.put(name, json.dumps(document).encode())
    return document


def _proved(bench: Bench) -> Json | None:
    """What the ledger proves of every membership attack, for the figure; kept, since it takes a while."""
    ledger = bench.subject.account.ledger
    if ledger is None or not any(job.name.startswith(f"{Reads.MEMBERSHIP}.") for job in bench.plan.jobs):
        return None
    name = key({"proved curve": repr(ledger)})
    kept = None if bench.fresh else bench.store.get(name)
    if kept is not None:
        return cast("Json | None", json.loads(kept))
    try:
        curve = proved_curve(ledger)
    except (AccountingError, NotMeasurable):
        return None  # its requirement has ended in error already
    bench.store.put(name, json.dumps(curve).encode())
    return curve


def _parameters(bench: Bench) -> int | None:
    """How many parameters the model has; remembered, so that it is known without loading the model again."""
    name = key({"parameters of": bench.subject.model.sha256})
    kept = bench.store.get(name)
    if kept is not None:
        return int(kept)
    if "module" not in vars(bench):
        return None
    count = sum(p.numel() for p in bench.module.parameters())
    bench.store.put(name, str(count).encode())
    return count


def _seed(store: Store, subject: Subject, policy: Policy, asked: int | None, fresh: bool) -> int:
    """The seed asked for; else that of the same work in the store (docs/adr/0006); else a fresh one."""
    name = key({"seed": [subject.model.sha256, subject.sha256, str(policy.access)]})
    kept = None if fresh else store.get(name)
    seed = asked if asked is not None else int(json.loads(kept)) if kept else secrets.randbits(48)
    store.put(name, json.dumps(seed).encode())
    return seed
