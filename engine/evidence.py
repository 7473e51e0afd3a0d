"""The evidence: one canonical JSON document that holds all that a report shows and a verdict rests on.

It holds no record, no per-record score and no reconstruction: those are personal data and stay in the store.
"""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from typing import TYPE_CHECKING, cast

from . import registry
from .attack import Attack
from .audit import EvidenceTest
from .ledger import AuditResult, EvidenceResult, Ledger
from .measures.inversion.distance import Distance
from .measures.membership.tpr import Tpr
from .observation import Goal, Reconstruction
from .plan import Outcome, Plan, ReferenceStory
from .shift import Shift
from .target import Access
from .verdict import AttackFinding, Control, Finding, Status, Verdict

if TYPE_CHECKING:
    from .budget import Spending
    from .measurement import Measurement
    from .subject import Subject, SubjectRecords

Json = dict[str, object]

SCHEMA_VERSION = "1"
#: Where the reference models' power is read if no requirement names a false-positive rate.
_FPR = 0.01
#: At most so many distances are listed of a record-level attack.
_LISTED = 200


def number(value: float, name: str = "value") -> Json:
    """A number as the evidence writes it: infinities as null and unbounded, NaN as null."""
    if math.isinf(value):
        return {name: None, "unbounded": True}
    return {name: None if math.isnan(value) else float(value)}


def build(
    plan: Plan,
    verdict: Verdict,
    outcomes: Mapping[str, Outcome],
    subject: Subject,
    records: SubjectRecords,
    accounting: Json | None,
    parameters: int | None,
    created: str,
    seconds: float,
    *,
    references: ReferenceStory | None = None,
    shift: Shift | None = None,
    proved: Json | None = None,
    spending: Spending | None = None,
    gallery: Json | None = None,
) -> Json:
    """The evidence of one check.

    Args:
        plan: What was to run.
        verdict: What came of it.
        outcomes: What became of every job.
        subject: What was checked.
        records: Its records; only counted here.
        accounting: What every accountant says, and ε by step; `None` where there is nothing to account.
        parameters: How many parameters the model has; `None` where it was not loaded.
        created: When, UTC, `2026-11-22T01:02:03Z`.
        seconds: How long the check took.
        references: What the reference models were; `None` where none were trained.
        shift: What the records alone tell of membership; `None` where nothing asked for it.
        proved: `summaries.proved_curve` of the subject's ledger; kept by the caller, since it takes a while.
        spending: What a budget store holds of the subject's data; `None` where none was named.
        gallery: `exhibits.gallery`; `None` where there is none.
    """
    policy = plan.policy
    return {
        "schemaVersion": SCHEMA_VERSION,
        "verdict": str(verdict.status),
        "exitCode": int(verdict.exit_code),
        "confidence": policy.confidence,
        "seed": str(plan.seed),
        "created": created,
        "seconds": round(seconds, 3),
        "midguard": {"version": _version("midguard")},
        "environment": environment(),
        "policy": {
            "name": policy.name,
            "version": policy.version,
            "owner": policy.owner,
            "file": policy.file.name,
            "sha256": policy.sha256,
            "text": policy.text,
        },
        "profile": plan.profile,
        "adversary": {"access": str(plan.access), "description": _adversary(plan)},
        "subject": _subject(subject, records, parameters),
        "findings": [_finding(finding) for finding in (*verdict.findings, *verdict.refutations)],
        "attacks": [_attack(outcome) | {"inversion": _inversion(plan, outcome)} for outcome in outcomes.values()],
        "references": _references(plan, references),
        "shift": _shift(shift),
        "account": accounting,
        "budget": _budget(spending) if spending else None,
        "audit": _audit(subject.account.audit) if subject.account.audit else None,
        "figures": _figures(plan, outcomes) | {"bound": proved, "gallery": gallery},
        "notTested": _not_tested(plan),
        "signed": False,
        "responsible": "",
    }


def environment() -> Json:
    """What the check ran on; versions are read without importing the packages."""
    names = ("torch", "opacus", "dp-accounting", "numpy", "scipy", "scikit-learn")
    versions: Json = {name: _version(name) for name in names}
    return {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}", **versions}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _adversary(plan: Plan) -> str:
    if plan.access is Access.WEIGHTS:
        return "holds the model file: architecture and weights"
    return f"sees only what the release exposes: {plan.exposure}"


def _subject(subject: Subject, records: SubjectRecords, parameters: int | None) -> Json:
    from .architectures import describe
    from .subject import release_document

    data: Json = {}
    for name in ("members", "nonmembers", "auxiliary"):
        file, held = getattr(subject, name), getattr(records, name)
        data[name] = None if file is None or held is None else {"records": len(held), "sha256": file.sha256}
    account, release = subject.account, subject.release
    model = subject.model
    return {
        "name": subject.name,
        "version": subject.version,
        "sha256": model.sha256,
        "file": model.path.name,
        "format": model.format,
        "description": {"file": subject.file.name, "sha256": subject.sha256},
        "architecture": describe(model.architecture) if model.architecture else f"factory {model.factory}",
        "parameters": parameters,
        "task": {"kind": subject.task.kind, "classes": subject.task.classes, "shape": list(subject.task.shape)},
        "data": data,
        "release": {"top": None, "decimals": None, **release_document(release)},
        "previous": _previous(subject, records),
        "recipe": _recipe(subject),
        "ledger": _ledger(account.ledger) if account.ledger else None,
        "claims": asdict(account.claim) if account.claim else None,
    }


def _previous(subject: Subject, records: SubjectRecords) -> Json | None:
    """The model before its last update, by digest."""
    previous, update = subject.previous, records.update
    if previous is None or update is None:
        return None
    learnt = {"records": len(update), "sha256": previous.records.sha256}
    return {"file": previous.path.name, "sha256": previous.sha256, "update": learnt}


def _recipe(subject: Subject) -> Json | None:
    if subject.recipe is None:
        return None
    content = subject.recipe.read_bytes()
    return {"sha256": hashlib.sha256(content).hexdigest(), "text": content.decode("utf-8")}


def _ledger(ledger: Ledger) -> Json:
    import json

    text = ledger.to_json()
    return {"sha256": hashlib.sha256(text.encode()).hexdigest(), **json.loads(text)}


def _budget(spending: Spending) -> Json:
    """Which releases were counted, by digest, and where the store's chain ended: it must still hold that head later."""
    releases = [
        {
            "sequence": entry.sequence,
            "kind": str(entry.kind),
            "data": entry.data,
            "model": entry.model,
            "ledger": entry.ledger_digest,
        }
        for entry in spending.counted
    ]
    return {
        "data": spending.data,
        "entries": spending.head.entries,
        "head": spending.head.hash,
        "releases": releases,
    }


def _audit(audit: AuditResult) -> Json:
    """What the evidence tests said of the training, and what they put into it."""
    planted = audit.planted
    return {
        "delta": audit.delta,
        "level": audit.level,
        "planted": {
            "records": planted.records,
            "recordsIn": planted.records_in,
            "gradients": planted.gradients,
            "probes": planted.probes,
        },
        "tests": [_evidence_test(test) for test in audit.tests],
    }


def _evidence_test(test: EvidenceResult) -> Json:
    known = registry.load("audits", test.name) if test.name in registry.names("audits") else None
    return {
        "name": f"audit.{test.name}",
        "summary": "" if known is None else registry.summary(known),
        "source": "" if known is None else cast(EvidenceTest, known).source,
        "refuted": test.refuted,
        "conclusive": test.conclusive,
        **number(test.statistic, "statistic"),
        "p": None if math.isnan(test.p) else test.p,
        "detail": test.detail,
        "key": test.key,
        "bounds": [asdict(bound) | number(bound.epsilon, "epsilon") for bound in test.bounds],
    }


def _finding(finding: Finding) -> Json:
    requirement, found = finding.requirement, finding.measurement
    return {
        "id": requirement.id,
        "title": requirement.title,
        "measure": requirement.measure_name,
        "at": asdict(requirement.measure),  # type: ignore[call-overload]
        "severity": str(requirement.severity),
        "status": str(finding.status),
        **_measured(found),
        "limit": requirement.limit,
        "margin": _margin(finding),
        "direction": str(requirement.direction),
        "basis": str(found.basis) if found else None,
        "records": found.records if found else 0,
        "recordsNeeded": finding.records_needed,
        "confidence": found.confidence if found else None,
        "line": requirement.place.line,
        "unit": requirement.measure.suffix,
        "by": finding.by,
        "reason": finding.reason,
        "remedy": finding.remedy,
        "protection": finding.protection,
        "references": list(requirement.references),
        "attacks": [_attack_finding(attack) for attack in finding.attacks],
    }


def _measured(found: Measurement | None) -> Json:
    """Value and interval; `unbounded` where the value itself has no bound."""
    if found is None:
        return {"value": None, "low": None, "high": None, "details": []}
    ends = {**number(found.low, "low"), **number(found.high, "high")}
    ends.pop("unbounded", None)
    details = [{"name": detail.name, **number(detail.value)} for detail in found.details]
    return {**ends, **number(found.value), "details": details}


def _margin(finding: Finding) -> float | None:
    """How far the deciding end of the interval stays from the limit; negative beyond it."""
    if finding.measurement is None:
        return None
    limit, found = finding.requirement.limit, finding.measurement
    margin = limit - found.high if finding.requirement.direction == "max" else found.low - limit
    # What is left to a limit that was not shown to hold is nobody's comfort.
    shown = margin <= 0 or finding.status in {Status.PASS, Status.WAIVED}
    return margin if math.isfinite(margin) and shown else None


def _attack_finding(attack: AttackFinding) -> Json:
    return {
        "name": attack.name,
        "status": str(attack.status),
        "reason": attack.reason,
        "named": attack.named,
        **_measured(attack.measurement),
        "controls": {"positive": _control(attack.positive), "negative": _control(attack.negative)},
    }


def _control(control: Control | None) -> Json | None:
    if control is None:
        return None
    return {**_measured(control.measurement), "ok": control.ok, "reason": control.reason}


def _attack(outcome: Outcome) -> Json:
    job, threat = outcome.job, outcome.job.attack.threat
    return {
        "name": job.name,
        "summary": registry.summary(type(job.attack)),
        "source": job.attack.source,
        "status": "ran" if outcome.observation is not None else "not-run" if outcome.unmeasurable else "crashed",
        "reason": outcome.reason,
        "parameters": asdict(job.attack),  # type: ignore[call-overload]
        "seed": str(job.seed),
        "queries": outcome.queries,
        "references": job.references,
        "seconds": round(outcome.seconds, 3),
        "threat": {
            "access": str(threat.access),
            "exposures": sorted(threat.exposures),
            "knowledge": list(threat.knowledge),
            "goal": str(threat.goal),
            "auxiliary": threat.auxiliary,
        },
    }


def _references(plan: Plan, story: ReferenceStory | None) -> Json | None:
    """What the reference models were, or why there are none and what they would add; `None` where nothing needs any."""
    if story is None:
        adds = references_would_add(plan)
        if plan.references:
            return {"missing": "they were asked for, and none was trained", "adds": []}
        return {"missing": plan.no_references, "adds": list(adds)} if adds else None
    return {
        "count": story.count,
        "method": story.method,
        "reused": story.reused,
        "seconds": round(story.seconds, 3),
        "recordsEach": story.records,
        "accuracyInside": _share(story.accuracy_inside),
        "accuracyOutside": _share(story.accuracy_outside),
        "subjectInside": _share(story.subject_inside),
        "subjectOutside": _share(story.subject_outside),
    }


def references_would_add(plan: Plan) -> tuple[str, ...]:
    """The attacks that nothing keeps from running but the lack of reference models."""
    added = set()
    for obstacle in (o for a in plan.assignments for o in a.obstacles):
        threat = cast(Attack, registry.load("attacks", obstacle.attack)).threat
        alone = threat.references and plan.no_references and obstacle.reason.endswith(plan.no_references)
        if alone and (obstacle.named or not threat.left_to_others(plan.exposure)):
            added.add(obstacle.attack)
    return tuple(sorted(added))


def _share(value: float | None) -> float | None:
    """A number in six digits; `None` where there is none."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def _shift(shift: Shift | None) -> Json | None:
    if shift is None:
        return None
    features = [{"name": feature.name, "p": feature.p} for feature in shift.features]
    numbers = {name: _share(getattr(shift, name)) for name in ("p", "auc", "detectable")}
    return {**asdict(shift), **numbers, "features": features}


def _figures(plan: Plan, outcomes: Mapping[str, Outcome]) -> Json:
    """What the figures are drawn from, the strongest membership attack first."""
    from .summaries import class_risks, curve_of, histogram, power, usable

    seen = usable(outcomes.values())
    budgets = [power(outcome, scored, _rate(plan)) for outcome, scored in seen]
    return {
        "roc": [curve_of(outcome.job.name, scored) for outcome, scored in seen],
        "scores": [histogram(outcome.job.name, scored) for outcome, scored in seen],
        "classes": class_risks(seen[0][0].job.name, seen[0][1], len(seen)) if seen else None,
        "budget": [budget for budget in budgets if budget is not None],
        "distances": _distances(plan, outcomes),
    }


def _rate(plan: Plan) -> float:
    """The false-positive rate that the policy asks about first."""
    return next((r.measure.fpr for r in plan.policy.requirements if isinstance(r.measure, Tpr)), _FPR)


def asked_distance(plan: Plan) -> Distance:
    """The policy's first requirement on a distance; the median where there is none."""
    asked = [r.measure for r in plan.policy.requirements if isinstance(r.measure, Distance)]
    return asked[0] if asked else Distance(quantile=0.5)


def _inversion(plan: Plan, outcome: Outcome) -> Json | None:
    from .exhibits import inversion_rows

    return inversion_rows(outcome, asked_distance(plan).metric)


def _distances(plan: Plan, outcomes: Mapping[str, Outcome]) -> list[Json]:
    """What the inversion figure is drawn from, as the policy's first requirement on a distance asks for it."""
    from .exhibits import floor_of, worst_targets

    measure = asked_distance(plan)
    return [
        {
            "attack": outcome.job.name,
            "goal": str(outcome.observation.goal),
            **_pairs(outcome.observation, measure),
            "floor": floor_of(outcome, measure),
            "worst": worst_targets(outcome.observation, measure),
        }
        for outcome in outcomes.values()
        if isinstance(outcome.observation, Reconstruction)
    ]


def _pairs(seen: Reconstruction, measure: Distance) -> Json:
    import numpy as np

    from .summaries import rounded

    attack, guess = measure.attack_distances(seen), measure.best_guess(seen)
    order, targets = np.arange(len(attack)), seen.targets
    if seen.goal is not Goal.CLASS:
        # Numbered by rank, thinned: a distance must not lead back to a record.
        order = np.argsort(attack, kind="stable")[:: max(1, -(-len(attack) // _LISTED))]
        targets = 1 + np.arange(len(attack))
    return {
        "metric": measure.metric,
        "targets": targets[: len(order)].tolist() if seen.goal is not Goal.CLASS else targets[order].tolist(),
        "attack_distance": rounded(attack[order]),
        "baseline_distance": rounded(guess.distances[order]),
        "baseline": guess.name,
    }


def _not_tested(plan: Plan) -> list[Json]:
    """Every attack that midguard has and that did not run, and why."""
    ran = {job.name for job in plan.jobs}
    reasons = {o.attack: o.reason for a in plan.assignments for o in a.obstacles}
    left = [name for name in registry.names("attacks") if name not in ran]
    return [{"attack": name, "reason": reasons.get(name, "no requirement of the policy asks for it")} for name in left]
