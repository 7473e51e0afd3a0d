"""The result as JUnit XML, one test case for each requirement."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping

from ..engine.verdict import Status
from .evidence import Result, Row, read

#: The element that a test runner knows for each status; a pass has none.
_ELEMENTS = {
    Status.FAIL: "failure",
    Status.INCONCLUSIVE: "failure",
    Status.NOT_RUN: "failure",
    Status.ERROR: "error",
    Status.WAIVED: "skipped",
}


def render_junit(evidence: Mapping[str, object]) -> str:
    """The evidence as a JUnit report: what was not shown is a failure, what was waived is skipped.

    Raises:
        InputError: The evidence is incomplete or contradicts itself.
    """
    result = read(evidence)
    totals = {"tests": str(len(result.rows)), **_totals(result), "time": f"{result.seconds:.3f}"}
    root = ET.Element("testsuites", {"name": "midguard", **totals})
    suite = ET.SubElement(
        root, "testsuite", {"name": str(result.policy), **totals, "timestamp": result.created.removesuffix("Z")}
    )
    _add_properties(suite, result)
    for row in result.rows:
        _add_case(suite, row, result)
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _totals(result: Result) -> dict[str, str]:
    """How many test cases ended in each element."""
    ends = [_ELEMENTS.get(row.status) for row in result.rows]
    names = {"failures": "failure", "errors": "error", "skipped": "skipped"}
    return {name: str(ends.count(element)) for name, element in names.items()}


def _add_properties(suite: ET.Element, result: Result) -> None:
    """What was checked, and what it came to."""
    properties = ET.SubElement(suite, "properties")
    values = {
        "midguard": result.version,
        "verdict": result.verdict,
        "exitCode": str(result.exit_code),
        "policy.sha256": result.policy.sha256,
        "subject": str(result.subject),
        "subject.sha256": result.subject.sha256,
        "adversary": result.adversary,
        "seed": result.seed,
    } | {f"warning.{i}": warning for i, warning in enumerate(result.warnings, start=1)}
    values |= {"audit": result.audit} if result.audit else {}
    for name, value in values.items():
        ET.SubElement(properties, "property", {"name": name, "value": value})


def _add_case(suite: ET.Element, row: Row, result: Result) -> None:
    """One requirement."""
    place = {"file": result.policy.file, "line": str(row.line)}
    case = ET.SubElement(suite, "testcase", {"name": row.id, "classname": f"midguard.{result.policy.name}", **place})
    element = _ELEMENTS.get(row.status)
    if element is not None:
        outcome = ET.SubElement(case, element, {"message": row.why})
        if element != "skipped":
            outcome.set("type", row.status)
        outcome.text = f"{row.title} ({row.severity})\n{row.figures}\n{result.policy.file}:{row.line}"
    ET.SubElement(case, "system-out").text = row.figures
