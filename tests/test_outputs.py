"""What `check` prints and hands to other tools: terminal, JUnit, SARIF, Markdown."""

from __future__ import annotations

import copy
import io
import json
import math
import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from midguard.engine.errors import InputError
from midguard.engine.verdict import Status
from midguard.reports.evidence import read
from midguard.reports.junit import render_junit
from midguard.reports.markdown import render_markdown
from midguard.reports.sarif import render_sarif
from midguard.reports.terminal import render_plan, render_table
from midguard.reports.wording import COUNTED, MARKS, WORDS, WORST_FIRST, number, plain

Evidence = dict[str, Any]


def finding(identity: str, status: str, **changes: object) -> Evidence:
    entry: Evidence = {
        "id": identity,
        "title": identity.replace("-", " ").capitalize(),
        "measure": "membership.advantage",
        "at": {},
        "severity": "high",
        "status": status,
        "value": 0.41,
        "low": 0.36,
        "high": 0.46,
        "limit": 0.1,
        "margin": -0.26,
        "direction": "max",
        "basis": "attacked",
        "records": 1600,
        "recordsNeeded": None,
        "line": 14,
        "unit": "",
        "confidence": 0.99,
        "by": "membership.loss",
        "reason": "",
        "remedy": "",
        "references": ["gdpr:32"],
        "details": [],
        "attacks": [],
    }
    return entry | changes


NOTHING: Evidence = {"value": None, "low": None, "high": None, "margin": None, "basis": None, "by": None}


def evidence() -> Evidence:
    """A run in which everything happened at once."""
    blind = {
        "name": "membership.label",
        "status": "ran",
        "reason": "",
        "value": 0.02,
        "low": -0.01,
        "high": 0.05,
        "details": [],
        "controls": {
            "positive": {"value": 0.05, "low": 0.01, "high": 0.09, "ok": False, "reason": "the twin leaks 0.05 only"},
            "negative": None,
        },
    }
    return {
        "schemaVersion": "1",
        "verdict": "fail",
        "exitCode": 1,
        "confidence": 0.95,
        "seed": "1234",
        "created": "2026-11-22T01:02:03Z",
        "seconds": 41.23,
        "midguard": {"version": "0.1.0"},
        "environment": {"python": "3.11.7"},
        "policy": {
            "name": "demo",
            "version": "1.0.0",
            "owner": "privacy-office@example.org",
            "file": "policy.yaml",
            "sha256": "4f1c" * 16,
            "text": "spec: {}\n",
        },
        "adversary": {"access": "release", "description": "sees the probabilities that the release exposes"},
        "subject": {
            "name": "digits",
            "version": "1",
            "sha256": "9ab0" * 16,
            "file": "model.pt",
            "format": "state_dict",
            "architecture": "mlp(hidden=[128])",
            "parameters": 9610,
        },
        "findings": [
            finding(
                "dp-budget",
                "fail",
                measure="privacy.epsilon",
                at={"delta": 1e-05},
                severity="critical",
                value=None,
                low=None,
                high=None,
                unbounded=True,
                limit=8.0,
                margin=None,
                basis="proved",
                by="pld",
                line=9,
                reason="the model was trained without a mechanism, so its epsilon has no bound.",
                remedy="Train it with DP-SGD.",
            ),
            finding(
                "membership-advantage",
                "fail",
                reason="the lower end 0.36 lies above the limit 0.1.",
                remedy="Release less, or train with DP-SGD.",
                attacks=[blind],
            ),
            finding(
                "membership-low-fpr",
                "inconclusive",
                measure="membership.tpr",
                at={"fpr": 0.001},
                value=0.0008,
                low=0.0,
                high=0.0131,
                limit=0.01,
                margin=None,
                line=18,
                reason="the interval [0, 0.0131] holds the limit 0.01.",
                remedy="About 2400 more records would decide it.",
            ),
            finding(
                "inversion-distance",
                "pass",
                measure="inversion.distance",
                at={"metric": "mse", "quantile": 0.05},
                value=0.913,
                low=0.88123,
                high=0.95,
                limit=0.8,
                margin=0.08123,
                direction="min",
                by="inversion.knowledge_alignment",
                line=23,
            ),
            finding(
                "inversion-identification",
                "not-run",
                measure="inversion.identification",
                line=28,
                reason="inversion.gradient needs the weights, which this adversary does not hold.",
                remedy="Judge it under an adversary with the weights.",
                **NOTHING,
            ),
            finding(
                "membership-auc",
                "error",
                measure="membership.auc",
                severity="medium",
                limit=0.6,
                line=33,
                reason="membership.loss stopped: the model answered NaN.",
                remedy="See the log, then run it again.",
                **NOTHING,
            ),
            finding(
                "accuracy",
                "waived",
                measure="utility.accuracy",
                severity="low",
                value=0.874,
                low=0.86,
                high=0.89,
                limit=0.9,
                margin=-0.01,
                direction="min",
                basis="observed",
                by=None,
                line=38,
                reason="accepted by alice@example.org until 2027-01-31.",
            ),
            finding(
                "claim-epsilon",
                "fail",
                measure="privacy.epsilon",
                at={"delta": 1e-05},
                severity="critical",
                value=3.91,
                low=3.0004,
                high=None,
                unbounded=True,
                limit=3.0,
                margin=-0.0004,
                line=1,
                reason="refuted: the attack shows more than the claimed epsilon of 3.",
                remedy="Withdraw the claim.",
            ),
        ],
        "attacks": [],
        "account": None,
        "figures": {"roc": [], "distances": []},
        "notTested": [
            {"attack": "inversion.gradient", "reason": "it needs the weights, which this adversary does not hold"}
        ],
        "signed": False,
        "responsible": "",
    }


def passing() -> Evidence:
    document = evidence()
    document["findings"] = [document["findings"][3]]
    return document | {"verdict": "pass", "exitCode": 0, "notTested": [], "signed": True}


def printed(document: Evidence, width: int = 160, encoding: str = "utf-8", **settings: Any) -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict", newline="")
    console = Console(file=stream, width=width, **settings)
    render_table(document, console)
    stream.flush()
    return stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]


# The text that a reader of a pipe gets, whole.
GOLDEN_100 = """\
midguard 0.1.0
policy     demo 1.0.0, policy.yaml, sha256:4f1c4f1c4f1c
subject    digits 1, model.pt, sha256:9ab09ab09ab0, mlp(hidden=[128]), 9610 parameters
adversary  release: sees the probabilities that the release exposes
seed       1234, confidence 95 % over the whole policy

result          requirement               measured  interval       limit     margin
✘ FAIL          dp-budget                        ∞  [∞, ∞]         <= 8           —
    proved by pld, critical, line 9
    the model was trained without a mechanism, so its epsilon has no bound. Train it with DP-SGD.
✘ FAIL          membership-advantage          0.41  [0.36, 0.46]   <= 0.1     -0.26
    attacked by membership.loss, high, line 14
    the lower end 0.36 lies above the limit 0.1. Release less, or train with DP-SGD.
? inconclusive  membership-low-fpr          0.0008  [0, 0.0131]    <= 0.01        —
    attacked by membership.loss, high, line 18
    the interval [0, 0.0131] holds the limit 0.01. About 2400 more records would decide it.
✔ pass          inversion-distance           0.913  [0.881, 0.95]  >= 0.8   +0.0812
    attacked by inversion.knowledge_alignment, high, line 23
∅ not run       inversion-identification         —  —              <= 0.1         —
    high, line 28
    inversion.gradient needs the weights, which this adversary does not hold. Judge it under an
    adversary with the weights.
! error         membership-auc                   —  —              <= 0.6         —
    medium, line 33
    membership.loss stopped: the model answered NaN. See the log, then run it again.
~ waived        accuracy                     0.874  [0.86, 0.89]   >= 0.9     -0.01
    observed, low, line 38
    accepted by alice@example.org until 2027-01-31.
✘ FAIL          claim-epsilon                 3.91  [3.0004, ∞]    <= 3     -0.0004
    attacked by membership.loss, critical, line 1
    refuted: the attack shows more than the claimed epsilon of 3. Withdraw the claim.

not tested: inversion.gradient (it needs the weights, which this adversary does not hold)
blind, so not counted: membership.label in membership-advantage (the twin leaks 0.05 only)
8 requirements: 3 failed, 1 in error, 1 not run, 1 inconclusive, 1 waived, 1 passed
verdict FAIL, exit code 1: a requirement is violated or a claim is refuted
41.2 s, UNSIGNED
"""

GOLDEN_160_ROWS = """\
result          requirement               measured  interval       limit     margin  basis     by                             severity  line
✘ FAIL          dp-budget                        ∞  [∞, ∞]         <= 8           —  proved    pld                            critical     9
    the model was trained without a mechanism, so its epsilon has no bound. Train it with DP-SGD.
✘ FAIL          membership-advantage          0.41  [0.36, 0.46]   <= 0.1     -0.26  attacked  membership.loss                high        14
    the lower end 0.36 lies above the limit 0.1. Release less, or train with DP-SGD.
"""  # noqa: E501

GOLDEN_80_ROWS = """\
result          requirement
    measured  interval       limit     margin
✘ FAIL          dp-budget
           ∞  [∞, ∞]         <= 8           —
    proved by pld, critical, line 9
    the model was trained without a mechanism, so its epsilon has no bound.
    Train it with DP-SGD.
"""


def test_the_table_at_a_hundred_columns_is_this_text() -> None:
    assert printed(evidence(), 100) == GOLDEN_100


@pytest.mark.parametrize(("width", "rows"), [(80, GOLDEN_80_ROWS), (160, GOLDEN_160_ROWS)])
def test_the_table_takes_the_widest_layout_that_fits(width: int, rows: str) -> None:
    assert rows in printed(evidence(), width)


@pytest.mark.parametrize("width", [20, 40, 80, 100, 160, 400])
def test_no_word_and_no_number_is_broken_at_any_width(width: int) -> None:
    def words(text: str) -> set[str]:
        return {word.strip(",") for word in text.split()} - {"basis", "by", "severity", "line"}

    assert words(printed(evidence(), width)) == words(printed(evidence(), 1000))


@pytest.mark.parametrize("width", [80, 100, 160])
def test_no_line_is_wider_than_the_console(width: int) -> None:
    assert max(cell_len(line) for line in printed(evidence(), width).split("\n")) <= width


@pytest.mark.parametrize("width", [80, 100, 160])
def test_every_row_that_is_not_a_pass_says_why_and_what_to_do(width: int) -> None:
    text = " ".join(printed(evidence(), width).split())
    for entry in evidence()["findings"]:
        if entry["status"] != "pass":
            assert f"{entry['reason']} {entry['remedy']}".strip() in text


def test_reason_and_remedy_become_sentences_however_they_were_written() -> None:
    document = evidence()
    document["findings"][1] |= {"reason": "at most 0.1 is allowed", "remedy": "train with DP-SGD"}
    assert "    at most 0.1 is allowed. Train with DP-SGD.\n" in printed(document)


def test_attacks_that_were_not_tested_for_the_same_reason_share_it() -> None:
    document = evidence()
    document["notTested"] += [{"attack": "inversion.mi_face", "reason": document["notTested"][0]["reason"]}]
    document["notTested"] += [{"attack": "membership.lira", "reason": ""}]
    text = printed(document)
    assert "not tested: inversion.gradient, inversion.mi_face (it needs the weights" in text
    assert "hold); membership.lira\n" in text


def test_a_row_without_a_recorded_reason_says_so() -> None:
    document = evidence()
    document["findings"][1] |= {"reason": "", "remedy": None}
    assert "No reason was recorded." in printed(document)


def test_colour_is_never_the_only_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = printed(evidence(), 100, force_terminal=True, color_system="standard")
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == GOLDEN_100


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    coloured = printed(evidence(), 100, force_terminal=True, color_system="standard")
    assert not re.search(r"\x1b\[[\d;]*3\dm", coloured)


def test_a_pipe_gets_plain_text() -> None:
    assert "\x1b" not in printed(evidence(), 100)


def test_a_console_without_unicode_gets_ascii_with_the_same_words() -> None:
    text = printed(evidence(), 160, "ascii")
    assert "x FAIL          dp-budget                      inf  [inf, inf]" in text
    for mark, word in (("+", "pass"), ("?", "inconclusive"), ("o", "not run"), ("!", "error"), ("~", "waived")):
        assert re.search(rf"^{re.escape(mark)} {word} ", text, re.MULTILINE)


def test_a_console_without_unicode_spells_greek() -> None:
    document = evidence()
    document["findings"][0]["reason"] = "ε ≤ 8 was asked, δ = 1e-5 — Jürgen"
    assert "epsilon <= 8 was asked, delta = 1e-5 - J?rgen" in printed(document, 160, "ascii")
    assert "Jürgen" in printed(document, 160, "latin-1")


def test_a_pass_is_one_line_and_closes_with_exit_code_zero() -> None:
    text = printed(passing())
    assert text.endswith(
        "1 requirement: 1 passed\nverdict PASS, exit code 0: every requirement is shown to hold\n41.2 s, signed\n"
    )
    assert "not tested" not in text
    assert "blind" not in text


HOSTILE = "\x1b[2J\x07evil\r\n\x00\u202egnp.exe</td><script>alert(1)</script> [red]|`*_@me www.example.com &amp; ]]>"


def hostile() -> Evidence:
    document = evidence()
    document["policy"] |= {"name": HOSTILE, "file": "my policies/ü&<>.yaml"}
    document["subject"] |= {"name": HOSTILE}
    for entry in document["findings"]:
        entry |= {"title": HOSTILE, "reason": HOSTILE, "remedy": HOSTILE, "by": HOSTILE, "at": {HOSTILE: HOSTILE}}
    return document


def test_hostile_text_cannot_steer_the_terminal() -> None:
    text = printed(hostile())
    assert not set(text) & {"\x1b", "\x07", "\x00", "\r", "\u202e"}
    assert "[red]" in text


def test_wide_characters_keep_the_columns_apart() -> None:
    document = evidence()
    document["findings"][1]["by"] = "攻撃"
    lines = printed(document, 160).split("\n")
    cells = {cell_len(line[: line.index("high")]) for line in lines if re.search(r"  high +(14|18|23)$", line)}
    assert len(cells) == 1


# Numbers


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.4137, "0.414"),
        (-0.26, "-0.26"),
        (0.0, "0"),
        (1e-05, "1e-05"),
        (0.00012345, "0.000123"),
        (3.21, "3.21"),
        (999.6, "1000"),
        (1234.5, "1234"),
        (9610, "9610"),
        (25e8, "2.5e+09"),
        (math.inf, "∞"),
        (-math.inf, "-∞"),
        (math.nan, "—"),
    ],
)
def test_numbers_have_three_digits_or_all_of_a_whole_number(value: float, shown: str) -> None:
    assert number(value) == shown


@pytest.mark.parametrize(
    ("value", "limit", "shown"),
    [(0.10004, 0.1, "0.10004"), (0.09996, 0.1, "0.09996"), (0.1, 0.1, "0.1"), (0.4137, 0.1, "0.414")],
)
def test_a_value_beside_its_limit_is_told_apart_from_it(value: float, limit: float, shown: str) -> None:
    assert number(value, limit) == shown


def test_a_shown_violation_is_never_rounded_onto_the_limit() -> None:
    document = evidence()
    document["findings"][1] |= {"low": 0.1000004, "value": 0.2, "limit": 0.1}
    assert "[0.1000004, 0.46]" in printed(document)


def test_plain_text_has_one_line_and_nothing_hidden() -> None:
    assert plain("a\u2028b\tc\x85d") == "a b c d"
    assert plain("\ud800\ufffe\U0001ffff\u200b") == "\N{REPLACEMENT CHARACTER}" * 4
    assert plain("ε ≤ 8, 攻撃") == "ε ≤ 8, 攻撃"


def test_every_status_has_its_words() -> None:
    for table in (WORDS, MARKS, COUNTED):
        assert set(table) == set(Status)
        assert len(set(table.values())) == len(Status)
    assert set(WORST_FIRST) == set(Status)


# Evidence that cannot be trusted is not rendered


RENDERERS = [render_junit, render_sarif, render_markdown, printed]


@pytest.mark.parametrize("render", RENDERERS)
@pytest.mark.parametrize("claim", [{"verdict": "pass"}, {"exitCode": 0}, {"verdict": "pass", "exitCode": 0}])
def test_a_verdict_that_its_findings_do_not_bear_out_is_refused(render: Any, claim: Evidence) -> None:
    with pytest.raises(InputError, match="dp-budget, membership-advantage, membership-low-fpr"):
        render(evidence() | claim)


@pytest.mark.parametrize("render", RENDERERS)
@pytest.mark.parametrize("status", ["fail", "inconclusive", "not-run", "error"])
def test_one_requirement_that_did_not_pass_is_enough_to_refuse_a_pass(render: Any, status: str) -> None:
    document = passing()
    document["findings"] += [finding("other", status)]
    with pytest.raises(InputError, match="but other did not pass"):
        render(document)


@pytest.mark.parametrize("render", RENDERERS)
def test_evidence_without_findings_shows_nothing(render: Any) -> None:
    with pytest.raises(InputError, match="no findings"):
        render(passing() | {"findings": []})


def test_a_waived_requirement_goes_with_a_pass() -> None:
    document = passing()
    document["findings"] += [finding("other", "waived", reason="accepted.")]
    assert "verdict PASS" in printed(document)


@pytest.mark.parametrize(
    ("place", "key", "value", "message"),
    [
        ("", "verdict", "PASS", "expected one of pass"),
        ("", "verdict", None, "expected one of pass"),
        ("", "exitCode", "1", "whole number"),
        ("", "exitCode", True, "whole number"),
        ("", "confidence", None, "a number"),
        ("", "findings", None, "list of mappings"),
        ("", "findings", ["pass"], "list of mappings"),
        ("", "policy", [], "a mapping"),
        ("", "notTested", None, "list of mappings"),
        ("finding", "status", "passed", "expected one of pass"),
        ("finding", "status", None, "expected one of pass"),
        ("finding", "direction", "up", "expected 'max' or 'min'"),
        ("finding", "limit", "0.1", "a number"),
        ("finding", "value", "0.41", "a number or null"),
        ("finding", "value", True, "a number or null"),
        ("finding", "reason", 3, "text"),
    ],
)
def test_a_field_of_the_wrong_kind_is_refused(place: str, key: str, value: object, message: str) -> None:
    document = evidence()
    (document["findings"][1] if place else document)[key] = value
    with pytest.raises(InputError, match=message):
        read(document)


@pytest.mark.parametrize("render", RENDERERS)
def test_rendering_changes_nothing_in_the_evidence(render: Any) -> None:
    document = evidence()
    before = copy.deepcopy(document)
    render(document)
    assert document == before


@pytest.mark.parametrize(
    ("measured", "shown", "interval"),
    [
        ({"value": 3.5, "low": None, "high": 4.0}, "3.5", "[-∞, 4]"),
        ({"value": 3.5, "low": 3.25, "high": None}, "3.5", "[3.25, ∞]"),
        ({"value": None, "low": 2.0, "high": None, "unbounded": True}, "∞", "[2, ∞]"),
        ({"value": None, "low": None, "high": None, "unbounded": True}, "∞", "[∞, ∞]"),
        ({"value": None, "low": None, "high": None}, "—", "—"),
        ({"value": None, "low": None, "high": None, "unbounded": "yes"}, "—", "—"),
    ],
)
def test_infinities_are_put_back_and_nothing_else_is(measured: Evidence, shown: str, interval: str) -> None:
    document = evidence()
    document["findings"][1] |= measured
    row = read(document).rows[1]
    assert (row.measured, row.interval) == (shown, interval)


# JUnit


def suite(document: Evidence) -> ET.Element:
    root = ET.fromstring(render_junit(document))
    assert root.tag == "testsuites"
    assert [child.tag for child in root] == ["testsuite"]
    return root[0]


@pytest.mark.parametrize(
    ("identity", "element", "kind"),
    [
        ("membership-advantage", "failure", "fail"),
        ("membership-low-fpr", "failure", "inconclusive"),
        ("inversion-identification", "failure", "not-run"),
        ("membership-auc", "error", "error"),
        ("accuracy", "skipped", None),
        ("inversion-distance", None, None),
    ],
)
def test_junit_has_an_element_for_each_status(identity: str, element: str | None, kind: str | None) -> None:
    case = suite(evidence()).find(f"testcase[@name='{identity}']")
    assert case is not None
    outcomes = [child for child in case if child.tag in ("failure", "error", "skipped")]
    assert [outcome.tag for outcome in outcomes] == ([element] if element else [])
    assert [outcome.get("type") for outcome in outcomes] == ([kind] if element else [])


def test_junit_totals_are_those_of_its_cases() -> None:
    root = ET.fromstring(render_junit(evidence()))
    for element in (root, root[0]):
        for name, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(element.attrib[name]) == len(list(element.iter(tag)))


def test_junit_has_what_its_readers_demand() -> None:
    element = suite(evidence())
    assert element.attrib["name"] == "demo 1.0.0"
    assert element.attrib["timestamp"] == "2026-11-22T01:02:03"
    assert float(element.attrib["time"]) == pytest.approx(41.23)
    for case, entry in zip(element.iter("testcase"), evidence()["findings"], strict=True):
        assert case.attrib == {
            "name": entry["id"],
            "classname": "midguard.demo",
            "file": "policy.yaml",
            "line": str(entry["line"]),
        }
        assert "limit" in (case.findtext("system-out") or "")


def test_junit_keeps_hostile_text_as_text() -> None:
    element = suite(hostile())
    assert len(list(element.iter("testcase"))) == 8
    assert not list(element.iter("script"))
    assert "<script>" in element.attrib["name"]
    assert "∞" in (element[1].findtext("system-out") or "")


# SARIF 2.1.0


def run_of(document: Evidence, **settings: Any) -> Evidence:
    log = json.loads(render_sarif(document, **settings), parse_constant=pytest.fail)
    assert log["version"] == "2.1.0"
    assert log["$schema"].endswith("sarif-2.1.0.json")
    (run,) = log["runs"]
    return dict(run)


@pytest.mark.parametrize("document", [evidence(), passing(), hostile()])
def test_sarif_has_what_the_standard_and_github_demand(document: Evidence) -> None:
    run = run_of(document)
    driver = run["tool"]["driver"]
    assert driver["name"] == "midguard"
    assert re.fullmatch(r"\d+\.\d+\.\d+", driver["semanticVersion"])
    assert re.fullmatch(r"https://[a-z./]+", driver["informationUri"])
    assert driver["version"]
    for rule in driver["rules"]:
        assert rule["id"]
        assert rule["shortDescription"]["text"]
        assert rule["fullDescription"]["text"]
        assert rule["help"]["text"]
        assert rule["defaultConfiguration"]["level"] in ("none", "note", "warning", "error")
        assert 0 < float(rule["properties"]["security-severity"]) <= 10
        assert "security" in rule["properties"]["tags"]
    for result in run["results"]:
        assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["message"]["text"]
        assert (result["kind"] == "fail") == (result["level"] != "none")
        (location,) = result["locations"]
        assert location["physicalLocation"]["region"]["startLine"] >= 1
        assert re.fullmatch(r"[\w./%-]+", location["physicalLocation"]["artifactLocation"]["uri"])
        assert result["partialFingerprints"]["primaryLocationLineHash"]
    assert isinstance(run["invocations"][0]["executionSuccessful"], bool)


@pytest.mark.parametrize(
    ("identity", "kind", "level"),
    [
        ("membership-advantage", "fail", "error"),
        ("membership-low-fpr", "fail", "warning"),
        ("inversion-identification", "fail", "warning"),
        ("membership-auc", "fail", "error"),
        ("accuracy", "fail", "note"),
        ("inversion-distance", "pass", "none"),
    ],
)
def test_sarif_has_a_level_for_each_status(identity: str, kind: str, level: str) -> None:
    (result,) = [r for r in run_of(evidence())["results"] if r["ruleId"] == identity]
    assert (result["kind"], result["level"]) == (kind, level)
    assert ("suppressions" in result) == (identity == "accuracy")


def test_sarif_says_why_a_finding_is_suppressed() -> None:
    (suppressed,) = [r for r in run_of(evidence())["results"] if "suppressions" in r]
    assert suppressed["suppressions"] == [
        {"kind": "external", "status": "accepted", "justification": "accepted by alice@example.org until 2027-01-31."}
    ]


def test_sarif_severities_are_those_of_github() -> None:
    rules = {rule["id"]: float(rule["properties"]["security-severity"]) for rule in rules_of(evidence())}
    assert rules["dp-budget"] > 9.0
    assert 7.0 <= rules["membership-advantage"] < 9.0
    assert 4.0 <= rules["membership-auc"] < 7.0
    assert rules["accuracy"] < 4.0


def rules_of(document: Evidence) -> list[Evidence]:
    return list(run_of(document)["tool"]["driver"]["rules"])


def test_sarif_takes_an_unknown_severity_for_the_highest() -> None:
    document = evidence()
    document["findings"][6]["severity"] = "moderate"
    assert float(rules_of(document)[6]["properties"]["security-severity"]) > 9.0


def test_sarif_leaves_passes_out_where_asked_and_nothing_else() -> None:
    everything = run_of(evidence())["results"]
    problems = run_of(evidence(), passes=False)["results"]
    assert problems == [result for result in everything if result["kind"] != "pass"]
    assert len(problems) == len(everything) - 1


def test_sarif_fingerprints_follow_the_requirement_and_the_model_but_not_the_line() -> None:
    def fingerprint(document: Evidence) -> str:
        return str(run_of(document)["results"][1]["partialFingerprints"]["primaryLocationLineHash"])

    first, moved, other, retrained = evidence(), evidence(), evidence(), evidence()
    moved["findings"][1]["line"] = 99
    other["findings"][1]["measure"] = "membership.auc"
    retrained["subject"]["sha256"] = "0" * 64
    assert fingerprint(first) == fingerprint(moved)
    assert len({fingerprint(first), fingerprint(other), fingerprint(retrained)}) == 3
    prints = [r["partialFingerprints"]["primaryLocationLineHash"] for r in run_of(first)["results"]]
    assert len(set(prints)) == len(prints)


def test_sarif_has_one_rule_where_two_findings_share_an_id_and_tells_them_apart() -> None:
    document = evidence()
    document["findings"].append(document["findings"][7] | {"limit": 2.0})
    rules = [rule["id"] for rule in rules_of(document)]
    assert len(rules) == len(set(rules)) == 8
    first, second = [r for r in run_of(document)["results"] if r["ruleId"] == "claim-epsilon"]
    assert first["ruleIndex"] == second["ruleIndex"]
    assert first["partialFingerprints"] != second["partialFingerprints"]


def test_sarif_says_that_a_crash_was_no_successful_run() -> None:
    assert run_of(evidence())["invocations"][0]["executionSuccessful"] is False
    assert run_of(passing())["invocations"][0]["executionSuccessful"] is True


def test_sarif_an_absolute_policy_path_is_a_file_uri() -> None:
    document = evidence()
    document["policy"]["file"] = "/srv/my policy.yaml"
    uri = run_of(document)["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert uri == "file:///srv/my%20policy.yaml"


# Markdown


def test_markdown_opens_with_the_verdict_and_lists_the_worst_first() -> None:
    lines = render_markdown(evidence()).split("\n")
    assert lines[0] == "## ✘ midguard: FAIL"
    assert lines[2].startswith("8 requirements: 3 failed, 1 in error")
    statuses = [line.split("|")[1].strip() for line in lines if line.startswith("| ")][1:]
    assert statuses == [f"{MARKS[s]} {WORDS[s]}" for s in WORST_FIRST for _ in range(3 if s is Status.FAIL else 1)]


def test_markdown_says_why_and_what_was_not_tested() -> None:
    text = render_markdown(evidence())
    assert "- ✘ **membership-advantage**: the lower end 0.36 lies above the limit 0.1. Release less" in text
    assert "- not tested: inversion.gradient" in text
    assert "- blind, so not counted: membership.label in membership-advantage" in text
    assert "UNSIGNED" in text


def test_markdown_table_has_as_many_cells_in_every_row() -> None:
    rows = [line for line in render_markdown(hostile()).split("\n") if line.startswith("|")]
    assert len(rows) == 10
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {11}


def test_markdown_keeps_hostile_text_as_text() -> None:
    text = render_markdown(hostile())
    for markup in (r"(?<!\\)<script", r"(?<!\\)`\*", r"(?<!\\)@me", r"(?<!\\)\[red", r"www\.", r"(?<!\\)&amp"):
        assert not re.search(markup, text), markup
    assert "\x1b" not in text


def test_markdown_stays_below_the_limit_of_a_step_summary_and_says_what_it_left_out() -> None:
    document = evidence()
    document["findings"] += [finding(f"more-{i}", "fail", reason="ü" * 1000, by="x" * 1000) for i in range(2000)]
    text = render_markdown(document)
    assert len(text.encode()) < 2**20
    rows = sum(line.startswith("| ✘") for line in text.split("\n"))
    left_out = re.search(r"^(\d+) more rows did not fit", text, re.MULTILINE)
    assert left_out is not None
    assert rows + int(left_out.group(1)) == 2008
    assert "2003 failed" in text


# The plan


PLAN: Evidence = {
    "jobs": [
        {
            "attack": "membership.loss",
            "role": "subject",
            "parameters": {"temperature": 1.0},
            "seed": 77,
            "queries": 1200,
            "cached": False,
        },
        {
            "attack": "inversion.mi_face",
            "role": "positive control",
            "parameters": {},
            "seed": 78,
            "queries": 5000,
            "cached": True,
        },
    ],
    "obstacles": [
        {"attack": "inversion.gradient", "requirement": "inversion-distance", "reason": "it needs the weights"},
        {"attack": "", "requirement": "accuracy", "reason": "the subject names no spec.data.nonmembers"},
    ],
    "training": ["the leaky twin: 40 epochs", {"model": "null", "epochs": 40}],
    "seconds": 12.34,
}


def planned(plan: Evidence, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    render_plan(plan, console)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_the_plan_says_what_runs_what_cannot_and_what_it_costs() -> None:
    assert planned(PLAN) == (
        "would run\n"
        "  membership.loss, subject: 1200 queries\n"
        "    temperature = 1, seed = 77\n"
        "  inversion.mi_face, positive control: in the store\n"
        "    seed = 78\n"
        "∅ cannot run: inversion.gradient (inversion-distance): it needs the weights\n"
        "∅ cannot run: accuracy: the subject names no spec.data.nonmembers\n"
        "trains the leaky twin: 40 epochs\n"
        "trains model = null, epochs = 40\n"
        "2 jobs, 1 of them in the store, 1200 queries, about 12.3 s\n"
    )


def test_the_plan_says_which_job_needs_reference_models_and_what_lacks_them() -> None:
    job = {"attack": "membership.lira", "role": "subject, twin, null", "parameters": {}, "seed": 1, "queries": 9}
    jobs = [job | {"references": 16}, job | {"references": 1}, job | {"references": 0}]
    text = planned({"jobs": jobs, "obstacles": [], "training": [], "seconds": None, "lacking": "the reason why"})
    assert "  membership.lira, subject, twin, null: 9 queries, 16 reference models\n" in text
    assert "  membership.lira, subject, twin, null: 9 queries, 1 reference model\n" in text
    assert "  membership.lira, subject, twin, null: 9 queries\n" in text
    assert "∅ no reference models: the reason why\n" in text
    assert "no reference models" not in planned(PLAN)


def weakened() -> Evidence:
    shift = {"found": True, "p": 1e-9, "alpha": 0.01, "auc": 0.87, "records": 1200, "untested": ""}
    return evidence() | {
        "shift": shift | {"features": [{"name": "column 7", "p": 1e-6}]},
        "references": {"missing": "the subject names no recipe (spec.training.recipe)", "adds": ["membership.lira"]},
    }


SHIFTED = (
    "Members and nonmembers differ by themselves: without the model, 1,200 records are told apart "
    "(AUC 0.87, p = 1e-09) by column 7 (p = 1e-06). What an attack tells of them is not leakage alone."
)
MISSING = (
    "No reference models were trained: the subject names no recipe (spec.training.recipe). "
    "A recipe would add membership.lira."
)
SAID = (SHIFTED, MISSING)


@pytest.mark.parametrize("width", [80, 100, 160])
def test_a_shift_and_a_missing_recipe_are_said_on_the_terminal(width: int) -> None:
    text = " ".join(printed(weakened(), width).split())
    assert all(sentence in text for sentence in SAID)
    assert text.index(SAID[0]) < text.index(SAID[1]) < text.index("8 requirements:")


def test_a_shift_and_a_missing_recipe_are_said_to_every_tool() -> None:
    lines = [line.replace("\\", "") for line in render_markdown(weakened()).splitlines()]
    assert [f"- {sentence}" in lines for sentence in SAID] == [True, True]
    suite = ET.fromstring(render_junit(weakened())).find("testsuite")
    assert suite is not None
    properties = {p.get("name"): p.get("value") for p in suite.iter("property")}
    assert (properties["warning.1"], properties["warning.2"]) == SAID
    run = json.loads(render_sarif(weakened()))["runs"][0]
    notes = run["invocations"][0]["toolExecutionNotifications"]
    assert notes == [{"level": "warning", "message": {"text": sentence}} for sentence in SAID]
    assert "toolExecutionNotifications" not in json.loads(render_sarif(evidence()))["runs"][0]["invocations"][0]


@pytest.mark.parametrize("broken", [{"shift": {"found": True}}, {"shift": 3}, {"references": {"count": "x"}}])
def test_circumstances_that_cannot_be_read_are_refused(broken: Evidence) -> None:
    with pytest.raises(InputError, match="references or shift"):
        printed(evidence() | broken)


def test_what_the_circumstances_name_cannot_steer_the_terminal() -> None:
    document = weakened()
    document["references"] = {"missing": HOSTILE, "adds": [HOSTILE]}
    document["shift"]["features"][0]["name"] = HOSTILE
    assert "\x1b" not in printed(document)
    assert "<script>" not in render_markdown(document)
    ET.fromstring(render_junit(document))


def test_a_plan_without_an_estimate_names_none() -> None:
    text = planned({"jobs": [], "obstacles": [], "training": [], "seconds": None})
    assert text == "nothing would run\n0 jobs, 0 of them in the store, 0 queries\n"


def test_a_plan_with_a_missing_part_is_refused() -> None:
    with pytest.raises(InputError, match="obstacles"):
        planned({"jobs": [], "training": []})
