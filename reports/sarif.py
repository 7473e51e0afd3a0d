"""The result as SARIF 2.1.0 (OASIS): one rule for each requirement, each finding at its line of the policy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from urllib.parse import quote

from ..engine.verdict import Status
from .evidence import Result, Row, read

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_HOME = "https://midguard.dev"

#: GitHub's scale: over 9 critical, 7 to 8.9 high, 4 to 6.9 medium, below low.
_SECURITY_SEVERITY = {"critical": "9.5", "high": "8.0", "medium": "5.0", "low": "2.0"}

#: SARIF 2.1.0, 3.27.10: a level other than `none` goes with the kind `fail` alone.
_LEVELS = {
    Status.PASS: "none",
    Status.FAIL: "error",
    Status.INCONCLUSIVE: "warning",
    Status.NOT_RUN: "warning",
    Status.ERROR: "error",
    Status.WAIVED: "note",
}

_Json = dict[str, object]


def render_sarif(evidence: Mapping[str, object], passes: bool = True) -> str:
    """The evidence as a SARIF log.

    Args:
        evidence: The evidence document.
        passes: Whether requirements that passed are listed, with kind `pass`. GitHub's code scanning shows every result
            as an alert, whatever its kind (microsoft/PSRule#955); leave them out of what is uploaded there.

    Raises:
        InputError: The evidence is incomplete or contradicts itself.
    """
    result = read(evidence)
    rules = list(dict.fromkeys(row.id for row in result.rows))
    listed = [row for row in result.rows if passes or row.status is not Status.PASS]
    run: _Json = {
        "tool": {"driver": _driver(result)},
        "automationDetails": {"id": f"midguard/{result.policy.name}/{result.subject.name}/"},
        "invocations": [_invocation(result)],
        "columnKind": "utf16CodeUnits",
        "results": [_result(row, rules.index(row.id), result) for row in listed],
        "properties": {"verdict": result.verdict, "counts": result.counts, "seed": result.seed},
    }
    log = {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(log, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _driver(result: Result) -> _Json:
    first = {row.id: row for row in reversed(result.rows)}
    rules = [_rule(first[identity]) for identity in dict.fromkeys(row.id for row in result.rows)]
    return {
        "name": "midguard",
        "version": result.version,
        "semanticVersion": result.version,
        "informationUri": _HOME,
        "rules": rules,
    }


def _rule(row: Row) -> _Json:
    """The requirement itself, apart from how it came out."""
    settings = f" at {row.at}" if row.at else ""
    return {
        "id": row.id,
        "name": "".join(part.capitalize() for part in row.id.split("-")),
        "shortDescription": {"text": row.title or row.id},
        "fullDescription": {"text": f"{row.measure}{settings} must be {row.bound}"},
        "help": {
            "text": f"{row.title or row.id}: {row.measure}{settings} must be {row.bound}. Severity: {row.severity}."
        },
        "defaultConfiguration": {"level": "error"},
        "properties": {
            "security-severity": _SECURITY_SEVERITY.get(row.severity, _SECURITY_SEVERITY["critical"]),
            "tags": ["security", "privacy"],
        },
    }


def _invocation(result: Result) -> _Json:
    invocation: _Json = {
        "executionSuccessful": not any(row.status is Status.ERROR for row in result.rows),
        "exitCode": result.exit_code,
    }
    notes = [{"level": "warning", "message": {"text": warning}} for warning in result.warnings]
    invocation |= {"toolExecutionNotifications": notes} if notes else {}
    return invocation | ({"endTimeUtc": result.created} if result.created else {})


def _result(row: Row, rule: int, result: Result) -> _Json:
    """How the requirement came out."""
    entry: _Json = {
        "ruleId": row.id,
        "ruleIndex": rule,
        "kind": "pass" if row.status is Status.PASS else "fail",
        "level": _LEVELS[row.status],
        "message": {"text": _message(row)},
        "locations": [_location(row, result)],
        "partialFingerprints": {"primaryLocationLineHash": _fingerprint(row, result)},
        "properties": {"status": row.status, "basis": row.basis, "by": row.by},
    }
    if row.status is Status.WAIVED:
        entry["suppressions"] = [{"kind": "external", "status": "accepted", "justification": row.why}]
    return entry


def _message(row: Row) -> str:
    return row.figures if row.status is Status.PASS else f"{row.why} ({row.figures})"


def _location(row: Row, result: Result) -> _Json:
    path = quote(result.policy.file.replace("\\", "/")) or "policy.yaml"
    uri = f"file://{path}" if path.startswith("/") else path
    return {"physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": row.line}}}


def _fingerprint(row: Row, result: Result) -> str:
    """The same for the same requirement and model, wherever the policy's lines move.

    The model's digest is part of it: a finding that was dismissed for one model is a new one for the next.
    """
    alike = [other for other in result.rows if other.id == row.id]
    parts = json.dumps([row.id, row.measure, row.at, alike.index(row), result.subject.sha256])
    return hashlib.sha256(parts.encode()).hexdigest()
