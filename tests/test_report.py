"""The report says what the evidence says, all of it, and nothing else."""

from __future__ import annotations

import base64
import copy
import dataclasses
import hashlib
import io
import itertools
import json
import math
import os
import re
import shutil
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import tinyhtml5

from midguard.engine import registry
from midguard.engine.errors import MidguardError
from midguard.reports import circumstances, drawing, figures, html, membership, pdf
from midguard.reports.html import SignerCard, render_html
from midguard.reports.pdf import render_pdf
from midguard.reports.sections import compose, control_notes
from midguard.reports.signature import SLOT
from midguard.reports.taxonomy import TAXONOMY, AttackClass, coverage

SHA = hashlib.sha256


def digest(name: str) -> str:
    return SHA(name.encode()).hexdigest()


REQUIREMENTS = (
    # id, measure, at, severity, status, value, low, high, limit, direction, basis, by
    (
        "dp-budget",
        "privacy.epsilon",
        {"delta": 1e-5},
        "critical",
        "pass",
        7.9101,
        7.9,
        7.9101,
        8.0,
        "max",
        "proved",
        "ledger",
    ),
    (
        "membership-advantage",
        "membership.advantage",
        {},
        "high",
        "fail",
        0.4125,
        0.361,
        0.463,
        0.1,
        "max",
        "attacked",
        "membership.loss",
    ),
    (
        "membership-low-fpr",
        "membership.tpr",
        {"fpr": 0.001},
        "high",
        "inconclusive",
        0.0125,
        0.0041,
        0.0292,
        0.01,
        "max",
        "attacked",
        "membership.loss",
    ),
    (
        "membership-auc",
        "membership.auc",
        {},
        "medium",
        "fail",
        0.7311,
        0.701,
        0.7602,
        0.6,
        "max",
        "attacked",
        "membership.modified_entropy",
    ),
    (
        "inversion-distance",
        "inversion.distance",
        {"metric": "mse", "quantile": 0.05},
        "high",
        "fail",
        0.5203,
        0.441,
        0.6105,
        0.75,
        "min",
        "attacked",
        "inversion.mi_face",
    ),
    (
        "inversion-ssim",
        "inversion.distance",
        {"metric": "ssim", "quantile": 0.05},
        "medium",
        "pass",
        0.9403,
        0.881,
        0.9805,
        0.75,
        "min",
        "attacked",
        "inversion.mi_face",
    ),
    (
        "inversion-identification",
        "inversion.identification",
        {},
        "high",
        "not-run",
        None,
        None,
        None,
        0.1,
        "max",
        "",
        "",
    ),
    (
        "record-reconstruction",
        "inversion.distance",
        {"metric": "mse", "quantile": 0.01},
        "high",
        "error",
        None,
        None,
        None,
        0.8,
        "min",
        "",
        "inversion.knowledge_alignment",
    ),
    ("accuracy", "utility.accuracy", {}, "low", "pass", 0.9125, 0.8901, 0.9312, 0.85, "min", "observed", ""),
    (
        "membership-label-only",
        "membership.advantage",
        {},
        "medium",
        "waived",
        0.1302,
        0.08,
        0.1801,
        0.12,
        "max",
        "attacked",
        "membership.label",
    ),
    (
        "claim-epsilon",
        "privacy.epsilon",
        {"delta": 1e-5},
        "critical",
        "fail",
        5.1,
        4.2,
        None,
        3.0,
        "max",
        "attacked",
        "membership.loss",
    ),
    (
        "unbounded-budget",
        "privacy.epsilon",
        {"delta": 1e-6},
        "critical",
        "fail",
        None,
        None,
        None,
        8.0,
        "max",
        "proved",
        "ledger",
    ),
)

POLICY = """# yaml-language-server: $schema=https://midguard.dev/schema/policy-v1.json
apiVersion: midguard.dev/v1
kind: PrivacyPolicy
metadata: {name: demo, version: 1.0.0, owner: privacy-office@example.org}
spec:
  adversary: {access: release}        # sees only what the subject's release exposes
  confidence: 0.95
  requirements:
""" + "".join(
    f"    - id: {name}\n      severity: {severity}\n      measure: {measure}\n      {direction}: {limit}\n"
    for name, measure, _, severity, _, _, _, _, limit, direction, _, _ in REQUIREMENTS
)

REASONS = {
    "fail": "{measure} is at least {low}, at most {limit} is allowed",
    "inconclusive": "{measure} lies between {low} and {high}, at most {limit} is allowed: not shown",
    "not-run": "the policy names inversion.gradient, but it needs the weights, which this adversary does not hold",
    "error": "inversion.knowledge_alignment stopped: the loss became NaN at step 120",
    "waived": "waived until 2027-01-31 by privacy-office@example.org",
    "pass": "",
}
REMEDIES = {
    "fail": "train with fewer epochs, more records or DP-SGD; release fewer decimals or the label alone",
    "inconclusive": "about 41,000 records would decide it (now 1,600)",
    "not-run": "give what inversion.gradient needs, or change the policy's attacks or adversary",
    "error": "run again with --traceback; where it is midguard's fault, report it",
    "waived": "end the waiver before it expires",
    "pass": "",
}
GOOD = {"value": 0.83, "low": 0.8, "high": 0.9, "ok": True, "reason": ""}
NULL = {"value": 0.01, "low": -0.05, "high": 0.07, "ok": True, "reason": ""}
BLIND = {"value": 0.02, "low": -0.04, "high": 0.08, "ok": False, "reason": "twin trained for 40 epochs"}
UNFAIR = {"value": 0.12, "low": 0.06, "high": 0.18, "ok": False, "reason": "held-out records shuffled"}


def finding(index: int, entry: tuple[Any, ...]) -> dict[str, Any]:
    name, measure, at, severity, status, value, low, high, limit, direction, basis, by = entry
    sign = 1 if direction == "max" else -1
    end = high if direction == "max" else low
    line = next(i for i, text in enumerate(POLICY.splitlines(), 1) if text.strip() == f"- id: {name}")
    found = {
        "id": name,
        "title": f"Title of {name}",
        "measure": measure,
        "at": at,
        "severity": severity,
        "status": status,
        "value": value,
        "low": low,
        "high": high,
        "limit": limit,
        "direction": direction,
        "basis": basis,
        "by": by,
        "margin": None if end is None else round(sign * (limit - end), 6),
        "records": 1600 + index,
        "recordsNeeded": 41000 if status == "inconclusive" else None,
        "line": line,
        "unit": "",
        "confidence": 0.99,
        "references": ["gdpr:32"],
        "reason": REASONS[status].format(measure=measure, low=low, high=high, limit=limit),
        "remedy": REMEDIES[status],
        "details": [{"name": "realised FPR", "value": 0.0012}] if "fpr" in at else [],
        "attacks": uses(measure, value, low, high),
    }
    if name in ("claim-epsilon", "unbounded-budget"):
        found["unbounded"] = True
    return found


def uses(measure: str, value: Any, low: Any, high: Any) -> list[dict[str, Any]]:
    kind = measure.split(".", maxsplit=1)[0]
    if kind == "membership":
        return [
            use("membership.loss", value, low, high, GOOD, NULL),
            use("membership.modified_entropy", value, low, high, BLIND, None),
            use("membership.label", value, low, high, GOOD, UNFAIR),
        ]
    if kind == "inversion":
        return [
            use("inversion.mi_face", value, low, high, GOOD, NULL),
            use(
                "inversion.gradient",
                None,
                None,
                None,
                None,
                None,
                "not-run",
                "it needs the weights, which this adversary does not hold",
            ),
            use(
                "inversion.knowledge_alignment",
                None,
                None,
                None,
                None,
                None,
                "crashed",
                "the loss became NaN at step 120",
            ),
        ]
    return []


def use(
    name: str, value: Any, low: Any, high: Any, positive: Any, negative: Any, status: str = "ran", reason: str = ""
) -> dict[str, Any]:
    controls = {"positive": positive, "negative": negative}
    return {
        "name": name,
        "status": status,
        "reason": reason,
        "value": value,
        "low": low,
        "high": high,
        "details": [],
        "controls": controls,
    }


def attack(
    name: str, goal: str, source: str, status: str = "ran", reason: str = "", **parameters: Any
) -> dict[str, Any]:
    return {
        "name": name,
        "summary": f"What {name} does, in a line.",
        "source": source,
        "status": status,
        "reason": reason,
        "parameters": parameters,
        "seed": "7718281828",
        "queries": 1200,
        "references": 16 if name == "membership.loss" else 0,
        "seconds": 0.41,
        "threat": {
            "access": "release",
            "exposures": ["logits", "probabilities"],
            "knowledge": ["the record's label"],
            "goal": goal,
            "auxiliary": name.endswith("alignment"),
        },
    }


def curve(strength: float, points: int = 60) -> dict[str, list[float]]:
    fpr = [0.0, *(10 ** (-3 + 3 * i / points) for i in range(points + 1))]
    tpr = [min(1.0, f ** (1 / (1 + strength))) if f else 0.0 for f in fpr]
    return {"fpr": fpr, "tpr": tpr, "low": [max(0.0, t - 0.05) for t in tpr], "high": [min(1.0, t + 0.05) for t in tpr]}


REFERENCES = {
    "count": 16,
    "method": "stacked, 16 at a time, 2 processes",
    "reused": 8,
    "seconds": 12.346,
    "recordsEach": 600,
    "accuracyInside": 0.991,
    "accuracyOutside": 0.823,
    "subjectInside": 0.985,
    "subjectOutside": 0.811,
}
FAIR = {"found": False, "p": 0.41, "alpha": 0.01, "auc": 0.507, "records": 1200, "features": [], "untested": ""}
FAIR["detectable"] = 0.268
SHIFTED = FAIR | {
    "found": True,
    "p": 1.2e-9,
    "auc": 0.874,
    "features": [{"name": "column 7", "p": 2e-8}, {"name": "class", "p": 0.0031}],
}
MISSING = {
    "missing": "the subject names no recipe (spec.training.recipe)",
    "adds": ["membership.lira", "membership.rmia"],
}


def extremes(a: list[float], b: list[float]) -> dict[str, Any]:
    names = ("value", "low", "high")
    return {"auc": dict(zip(names, a, strict=True)), "tpr": {"fpr": 0.001, **dict(zip(names, b, strict=True))}}


def membership_figures() -> dict[str, Any]:
    fpr = [10 ** (-6 + 6 * i / 120) for i in range(121)]
    budget = [
        {
            "attack": name,
            "points": [
                {"references": 4, **extremes([0.65 + up, 0.62 + up, 0.68 + up], [0.02, 0.01, 0.04])},
                {"references": 8, **extremes([0.70 + up, 0.67 + up, 0.73 + up], [0.04, 0.02, 0.06])},
                {"references": 16, **extremes([0.72 + up, 0.69 + up, 0.75 + up], [0.048, 0.03, 0.07])},
            ],
            "doubling": "from 8 to 16 reference models the AUC changed by +0.020 [+0.009, +0.031]: 32 would be "
            "expected to find more still, by about as much or less",
        }
        for name, up in (("membership.loss", 0.0), ("membership.label", -0.05))
    ]
    return {
        "bound": {"fpr": fpr, "tpr": [min(1.0, 30 * f**0.9) for f in fpr], "advantage": 0.9, "basis": "proved"},
        "scores": [
            {
                "attack": "membership.loss",
                "edges": [-5.0, -4.0, *(-3.5 + 0.5 * i for i in range(11)), 3.0],
                "members": [5, 8, 12, 20, 33, 40, 60, 75, 90, 96, 70, 51, 40],
                "nonmembers": [30, 41, 60, 80, 90, 80, 70, 55, 40, 24, 15, 8, 7],
            }
        ],
        "classes": {
            "attack": "membership.loss",
            "confidence": 0.95,
            "tooFew": 1,
            "classes": [
                {
                    "class": c,
                    "value": 0.5 - 0.06 * c,
                    "low": 0.3 - 0.07 * c,
                    "high": 0.66 - 0.05 * c,
                    "members": 60 + c,
                    "nonmembers": 58,
                }
                for c in range(9)
            ],
        },
        "budget": budget,
    }


def sample_evidence(**changes: Any) -> dict[str, Any]:
    """Evidence with every status, an unbounded ε, missing and failed controls and a refuted claim."""
    attacks = [
        attack("membership.loss", "membership", "Yeom et al. 2018, arXiv 1709.01604"),
        attack("membership.modified_entropy", "membership", "Song & Mittal 2021, arXiv 2003.10595, equation 8"),
        attack("membership.label", "membership", "Yeom et al. 2018, arXiv 1709.01604, adversary 1"),
        attack("inversion.mi_face", "class-representative", "Fredrikson et al., CCS 2015", steps=5000, rate=0.1),
        attack(
            "inversion.gradient",
            "class-representative",
            "Struppek et al. 2022, arXiv 2201.12179",
            "not-run",
            "it needs the weights, which this adversary does not hold",
            restarts=8,
            views=True,
        ),
        attack(
            "inversion.knowledge_alignment",
            "record-reconstruction",
            "Yang et al. 2019, arXiv 1902.08552",
            "crashed",
            "the loss became NaN at step 120",
        ),
    ]
    roc = [
        {"attack": a["name"], "members": 600, "nonmembers": 600, **curve(s)}
        for a, s in zip(attacks[:3], (1.4, 0.8, 0.3), strict=True)
    ]
    distances = [
        {
            "attack": "inversion.mi_face",
            "goal": "class-representative",
            "metric": metric,
            "targets": list(range(10)),
            "attack_distance": [0.03 + 0.004 * i for i in range(10)],
            "baseline_distance": [0.06 + 0.002 * (i % 4) for i in range(10)],
            "baseline": "global mean",
        }
        for metric in ("mse", "ssim")
    ]
    evidence: dict[str, Any] = {
        "schemaVersion": "1",
        "verdict": "fail",
        "exitCode": 1,
        "confidence": 0.95,
        "seed": "1234",
        "created": "2026-11-22T01:02:03Z",
        "seconds": 41.2,
        "midguard": {"version": "0.1.0"},
        "environment": {
            "python": "3.11.7",
            "platform": "Linux x86_64",
            "torch": "2.13.0",
            "numpy": "2.4.6",
            "device": "cpu",
        },
        "policy": {
            "name": "demo",
            "version": "1.0.0",
            "owner": "privacy-office@example.org",
            "file": "policy.yaml",
            "sha256": digest(POLICY),
            "text": POLICY,
        },
        "adversary": {"access": "release", "description": "sees only what the release exposes: probabilities"},
        "subject": {
            "name": "digits",
            "version": "2026.11",
            "sha256": digest("model"),
            "file": "model.pt",
            "format": "state_dict",
            "architecture": "mlp(hidden=[128])",
            "parameters": 9610,
            "task": {"kind": "classification", "classes": 10, "shape": [1, 8, 8]},
            "data": {
                "members": {"records": 600, "sha256": digest("m")},
                "nonmembers": {"records": 600, "sha256": digest("n")},
                "auxiliary": None,
            },
            "release": {"exposes": "probabilities", "top": 3, "decimals": 2},
            "recipe": {
                "sha256": digest("r"),
                "text": "apiVersion: midguard.dev/v1\nkind: Recipe\nspec:\n  epochs: 40\n",
            },
            "ledger": {
                "sha256": digest("l"),
                "events": [
                    {
                        "kind": "sampled-gaussian",
                        "sampling_probability": 0.1,
                        "noise_multiplier": 1.1,
                        "steps": 300,
                        "clipping_norm": 1.0,
                    }
                ],
            },
            "claims": {"epsilon": 3.0, "delta": 1e-5},
        },
        "findings": [finding(i, entry) for i, entry in enumerate(REQUIREMENTS)],
        "attacks": attacks,
        "account": {
            "delta": 1e-5,
            "accountants": [
                {"name": "pld", "epsilon": 7.9, "error": 0.0001},
                {"name": "prv", "epsilon": 7.9101, "error": 0.01},
            ],
            "curve": [{"step": s, "epsilon": 7.9 * math.sqrt(s / 300)} for s in range(10, 301, 10)],
        },
        "references": REFERENCES,
        "shift": FAIR,
        "figures": {"roc": roc, "distances": distances, **membership_figures()},
        "notTested": [
            {"attack": "inversion.gradient", "reason": "it needs the weights, which this adversary does not hold"}
        ],
        "signed": True,
        "responsible": "",
    }
    return copy.deepcopy(evidence | changes)


def as_bytes(evidence: dict[str, Any]) -> bytes:
    import rfc8785

    return bytes(rfc8785.dumps(json.loads(json.dumps(evidence))))


PEM = b"""-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt
6zOg9KE5RdiYwpZP40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q==
-----END PUBLIC KEY-----
"""  # the generator of P-256, whose private key is 1
FINGERPRINT = SHA(base64.b64decode("".join(PEM.decode().splitlines()[1:-1]))).hexdigest()
CARD = SignerCard("Privacy office CI", FINGERPRINT, digest("certificate"), "2026-01-01T00:00:00Z")


def parsed(page: str) -> ElementTree.Element:
    return tinyhtml5.parse(page, namespace_html_elements=False)


def words(element: ElementTree.Element) -> str:
    return " ".join("".join(element.itertext()).split())


def verdict_evidence(*statuses: str) -> dict[str, Any]:
    """Evidence with one finding of each of these statuses, the worst of them as its verdict."""
    by_status = {f["status"]: f for f in sample_evidence()["findings"]}
    order = ("fail", "error", "not-run", "inconclusive", "waived", "pass")
    return sample_evidence(
        findings=[dict(by_status[s]) for s in statuses], verdict=next(s for s in order if s in statuses)
    )


@pytest.fixture(scope="module")
def signed() -> ElementTree.Element:
    return parsed(render_html(sample_evidence(), CARD))


# --------------------------------------------------------------------------------------------------------------- HTML


def test_every_number_of_a_requirement_is_that_of_the_evidence(signed):
    rows = {row.get("data-requirement"): row for row in signed.iter("tr") if row.get("data-requirement")}
    for f in sample_evidence()["findings"]:
        printed = [float(data.get("value")) for data in rows[f["id"]].iter("data")]
        unbounded = f.get("unbounded", False)
        value = math.inf if unbounded and f["value"] is None else f["value"]
        ends = [] if value is None or value == math.inf else [f["low"], math.inf if f["high"] is None else f["high"]]
        expected = [value, *ends, f["limit"], f["margin"], f["records"]]
        assert printed == [v for v in expected if v is not None], f["id"]


def test_what_is_printed_is_the_number_rounded(signed):
    for data in signed.iter("data"):
        shown, exact = "".join(data.itertext()).replace(",", "").replace("+", ""), float(data.get("value"))
        if shown.endswith("%"):
            assert float(shown[:-1]) / 100 == pytest.approx(exact)
        elif shown not in ("∞", "-∞"):
            assert float(shown) == pytest.approx(exact, rel=6e-3)


def test_a_value_just_beyond_its_limit_is_not_printed_as_the_limit():
    evidence = verdict_evidence("fail")
    evidence["findings"][0] |= {"value": 0.10004, "low": 0.10001, "high": 0.10007, "limit": 0.1}
    row = next(r for r in parsed(render_html(evidence, CARD)).iter("tr") if r.get("data-requirement"))
    shown = ["".join(d.itertext()) for d in row.iter("data")]
    assert [float(v) > 0.1 for v in shown[:3]] == [True] * 3
    assert shown[3] == "0.1"


def test_every_requirement_attack_and_class_appears(signed):
    text = words(signed)
    evidence = sample_evidence()
    assert all(f["id"] in text for f in evidence["findings"])
    assert {e.get("data-attack") for e in signed.iter() if e.get("data-attack")} == {
        *(a["name"] for a in evidence["attacks"]),
        *(n["attack"] for n in evidence["notTested"]),
    }
    assert all(f"class-{row.id}" in {e.get("id") for e in signed.iter()} for row in TAXONOMY)
    for f in evidence["findings"]:
        if f["status"] != "pass":
            assert f["reason"] in text
            assert f["remedy"] in text


def test_a_requirement_that_did_not_pass_has_its_reason_and_remedy_right_under_it(signed):
    for body in signed.iter("tbody"):
        row = body.find("tr")
        if body.get("class") != "requirement" or row is None:
            continue
        f = next(f for f in sample_evidence()["findings"] if f["id"] == row.get("data-requirement"))
        under = words(body.findall("tr")[1])
        assert ("Why." in under) == (f["status"] != "pass")
        assert f["remedy"] in under
        assert (f"policy line {f['line']}" in under) == (f["id"] in POLICY)


def test_a_refuted_claim_points_at_no_line_of_the_policy():
    text = POLICY.replace("claim-epsilon", "another")
    evidence = sample_evidence()
    evidence["policy"] |= {"text": text, "sha256": digest(text)}
    claim = next(f for f in evidence["findings"] if f["id"] == "claim-epsilon")
    report = compose(evidence, None)
    assert not report.asked(claim)
    assert claim["line"] not in {line.number for line in report.policy if line.requirements}


def test_two_findings_of_one_name_have_anchors_of_their_own():
    evidence = sample_evidence()
    evidence["findings"].append(dict(evidence["findings"][-2]))
    page = parsed(render_html(evidence, CARD))
    ids = [e.get("id") for e in page.iter() if e.get("id")]
    assert len(ids) == len(set(ids))


def test_the_page_is_well_formed_and_refers_to_nothing_outside(signed):
    ids = [e.get("id") for e in signed.iter() if e.get("id")]
    assert len(ids) == len(set(ids))
    for e in signed.iter():
        assert not set(e.keys()) & {"src", "style", "onload", "onclick", "onerror", "action", "srcset"}, e.tag
        assert e.get("href", "#").startswith("#")
        assert e.get("href", "#" + ids[0])[1:] in ids
        assert all(name in ids for name in (e.get("aria-labelledby") or "").split())
    assert signed.get("lang") == "en"
    assert all(th.get("scope") in ("row", "col") for th in signed.iter("th"))
    assert {e.tag for e in signed.iter()}.isdisjoint({"img", "link", "iframe", "object", "embed", "form", "base"})


def test_the_security_policy_names_exactly_the_style_sheets():
    for card in (CARD, None):
        page = parsed(render_html(sample_evidence(), card))
        policy = next(m.get("content") for m in page.iter("meta") if m.get("http-equiv") == "Content-Security-Policy")
        sheets = {base64.b64encode(SHA((s.text or "").encode()).digest()).decode() for s in page.iter("style")}
        assert policy.startswith("default-src 'none'; style-src 'sha256-")
        assert set(re.findall("'sha256-([^']*)'", policy)) == sheets
        assert "unsafe" not in policy


def test_the_place_for_the_attestation_is_there_once_at_the_end_and_empty():
    evidence = sample_evidence()
    evidence["policy"]["name"] = SLOT
    page = render_html(evidence, CARD)
    assert page.count(SLOT) == 1
    assert page.rstrip().endswith(SLOT + "\n</body>\n</html>")


HOSTILE = '"><script>alert(1)</script><img src=http://x onerror=alert(1)>{{ 7*7 }}&amp;'


@pytest.mark.parametrize("place", ["policy", "subject", "finding", "attack", "reason", "signer"])
def test_hostile_names_are_text(place):
    evidence = sample_evidence()
    targets = {
        "policy": lambda: evidence["policy"].update(name=HOSTILE, text=HOSTILE, owner=HOSTILE, file=HOSTILE),
        "subject": lambda: evidence["subject"].update(name=HOSTILE, architecture=HOSTILE, file=HOSTILE),
        "finding": lambda: evidence["findings"][1].update(id=HOSTILE, title=HOSTILE, measure=HOSTILE),
        "attack": lambda: [a.update(name=HOSTILE, summary=HOSTILE, source=HOSTILE) for a in evidence["attacks"][:1]],
        "reason": lambda: evidence["findings"][1].update(reason=HOSTILE, remedy=HOSTILE),
        "signer": lambda: None,
    }
    targets[place]()
    page = parsed(render_html(evidence, SignerCard(HOSTILE, FINGERPRINT)))
    assert [s.get("id") for s in page.iter("script")] == ["midguard-attestation"]
    assert not list(page.iter("img"))
    assert HOSTILE in "".join(page.itertext()) or place == "finding"
    assert "49" not in words(page).split("{{")[0][-10:]


def test_unsigned_is_said_where_nobody_signs_and_nowhere_else():
    unsigned = render_html(sample_evidence(), None)
    banner = next(e for e in parsed(unsigned).iter("div") if e.get("class") == "banner")
    assert words(banner).startswith("UNSIGNED")
    page = render_html(sample_evidence(), CARD)
    assert "UNSIGNED" not in page
    assert FINGERPRINT in page
    assert "Nobody signed" in unsigned
    assert "Nobody signed" not in page


def test_a_signer_needs_a_fingerprint():
    with pytest.raises(ValueError, match="fingerprint"):
        SignerCard("somebody", "")


FORBIDDEN = re.compile(
    r"\b(compliant|compliance|anonymous|anonymi[sz]ed|safe|guaranteed|secure)\b",
    re.IGNORECASE,
)


@pytest.mark.parametrize(
    "statuses", [("pass",), ("waived", "pass"), ("fail", "pass"), ("inconclusive",), ("not-run",), ("error",)]
)
def test_words_that_promise_too_much_do_not_occur(statuses):
    for card in (CARD, None):
        text = words(parsed(render_html(verdict_evidence(*statuses), card)).find("body"))
        assert FORBIDDEN.findall(text) == []
        assert "evidence of resistance to these attacks" in text


@pytest.mark.parametrize(
    ("statuses", "headline"),
    [
        (("pass",), "The only requirement was shown to hold, by proof or against the attacks that were run."),
        (("pass", "pass"), "All 2 requirements were shown to hold, by proof or against the attacks that were run."),
        (("pass", "waived"), "All 2 requirements were shown to hold or waived (1 waived)."),
        (("pass", "fail"), "1 of 2 requirements is violated."),
        (
            ("fail", "fail", "error", "not-run"),
            "2 of 4 requirements are violated, 1 not shown to hold, 1 not judged because the test itself failed.",
        ),
        (("pass", "inconclusive", "not-run"), "Nothing was violated, but 2 of 3 requirements are not shown to hold."),
        (
            ("error", "pass", "inconclusive"),
            "1 of 3 requirements is not judged, because the test itself failed, 1 not shown to hold.",
        ),
    ],
)
def test_the_verdict_in_a_sentence(statuses, headline):
    page = parsed(render_html(verdict_evidence(*statuses), CARD))
    assert headline in words(page)
    card = next(e for e in page.iter("div") if (e.get("class") or "").startswith("verdict"))
    passing = "nothing stands against the release" in words(card)
    assert passing == (set(statuses) <= {"pass", "waived"})


def test_only_a_pass_is_written_as_a_pass(signed):
    rows = {r.get("data-requirement"): words(r.find("td")) for r in signed.iter("tr") if r.get("data-requirement")}
    word = {
        "pass": "Pass",
        "fail": "Fail",
        "inconclusive": "Inconclusive",
        "not-run": "Not run",
        "error": "Error",
        "waived": "Waived",
    }
    for f in sample_evidence()["findings"]:
        assert rows[f["id"]][1:].strip() == word[f["status"]]


def test_failed_and_missing_controls_are_said_in_plain_words(signed):
    text = words(signed)
    assert "On a twin that was trained to leak, this attack did not show the leak (0.02 [-0.04, 0.08])" in text
    assert "No null was tested" in text
    assert "Where there is nothing to find, this attack already claims a leak (0.12 [0.06, 0.18])" in text
    assert "A control of membership.label and membership.modified_entropy failed or did not run" in text


def test_control_notes_follow_ok_and_nothing_else():
    def notes(positive: Any, negative: Any, status: str = "ran") -> int:
        return len(control_notes(use("a", 0.1, 0.0, 0.2, positive, negative, status)))

    assert notes(GOOD, NULL) == 0
    assert notes(BLIND, NULL) == notes(GOOD, UNFAIR) == notes(None, NULL) == notes(GOOD, None) == 1
    assert notes(BLIND, UNFAIR) == notes(None, None) == 2
    assert notes(GOOD | {"value": None, "low": None, "high": None}, NULL) == 1
    assert notes(GOOD | {"ok": None}, NULL) == 1
    assert notes(None, None, "not-run") == 0


def test_a_limit_of_the_evidence_is_named_only_where_it_holds():
    clean = verdict_evidence("pass")
    clean |= {"attacks": [], "notTested": []}
    clean["subject"]["data"]["auxiliary"] = {"records": 5, "sha256": digest("a")}
    assert compose(clean, CARD).limits == ()
    declared = copy.deepcopy(clean)
    declared["findings"][0]["basis"] = "declared"
    assert any("declaration" in line for line in compose(declared, CARD).limits)


@pytest.mark.parametrize("key", sorted(sample_evidence()))
def test_evidence_that_lacks_something_gives_no_report(key):
    evidence = sample_evidence()
    del evidence[key]
    if key in ("exitCode", "signed", "references", "shift"):
        assert render_html(evidence, CARD)
        return
    with pytest.raises(MidguardError, match="schemaVersion 1"):
        render_html(evidence, CARD)


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "pass"},
        {"verdict": "inconclusive"},
        {"verdict": "perfect"},
        {"findings": []},
        {"schemaVersion": "2"},
        {"seconds": math.nan},
        {"findings": [sample_evidence()["findings"][0] | {"status": "fine"}], "verdict": "fine"},
        {"findings": [sample_evidence()["findings"][1] | {"severity": "unheard of"}]},
        {"attacks": [sample_evidence()["attacks"][0] | {"status": "splendid"}]},
    ],
)
def test_evidence_that_contradicts_itself_gives_no_report(change):
    with pytest.raises(MidguardError, match="cannot be written"):
        render_html(sample_evidence(**change), CARD)


def test_evidence_of_an_earlier_midguard_is_rendered_as_it_was():
    evidence = sample_evidence()
    del evidence["references"], evidence["shift"]
    evidence["figures"] = {name: evidence["figures"][name] for name in ("roc", "distances")}
    for attack in evidence["attacks"]:
        del attack["references"]
    page = words(parsed(render_html(evidence, CARD)))
    assert "Reference models" not in page
    assert "by themselves" not in page.split("Limits of the evidence")[0].replace("differ by themselves, and its", "")
    assert len(compose(evidence, CARD).figures) == len(compose(sample_evidence(), CARD).figures) - 3


def test_reference_models_are_told_with_their_likeness(signed):
    section = words(next(e for e in signed.iter("section") if e.get("id") == "attacks"))
    assert "16 models were trained by the subject's own recipe, each on about 600 records" in section
    assert "Stacked, 16 at a time, 2 processes; 8 of them stood in the store already; 12.3 s of training." in section
    rows = {
        words(row.find("th")): [words(d) for d in row.findall("td")]
        for row in signed.iter("tr")
        if row.find("th") is not None
    }
    assert rows["on records that it was trained on"] == ["0.991", "0.985"]
    assert rows["on records that it was not trained on"] == ["0.823", "0.811"]
    assert "held against 16 reference models" in section
    assert section.count("held against") == 1
    assert "Nothing in the 1,200 records themselves was found to tell members from nonmembers" in section
    assert "(AUC 0.507, p = 0.41; 0.01 or less would have). A column whose mean differs by 0.268 standard" in section


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"references": MISSING}, "A recipe would add membership.lira and membership.rmia."),
        (
            {"references": MISSING | {"missing": "the recipe's task is not the model's"}},
            "With them the check would add",
        ),
        ({"references": {"missing": "none was trained", "adds": []}}, "No reference models were trained: none was"),
        ({"references": REFERENCES | {"subjectOutside": 0.5}}, "differs from its own by up to 0.323"),
        ({"shift": SHIFTED}, "(AUC 0.874, p = 1.2e-09) by column 7 (p = 2e-08) and class (p = 0.0031)"),
        ({"shift": SHIFTED | {"features": []}}, "by no single value, but all of them together"),
        ({"shift": FAIR | {"untested": "too few records"}}, "is not known: too few records."),
    ],
)
def test_what_weakens_every_attack_is_said_among_the_attacks_and_the_limits(change, says):
    evidence = sample_evidence(**change)
    assert [says in line for line in compose(evidence, CARD).warnings] == [True]
    page = parsed(render_html(evidence, CARD))
    for section in ("attacks", "limits"):
        assert says in words(next(e for e in page.iter("section") if e.get("id") == section))


def test_nothing_is_said_where_nothing_weakens():
    assert compose(sample_evidence(), CARD).warnings == ()
    assert compose(sample_evidence(references=None, shift=None), CARD).warnings == ()
    near = REFERENCES | {"subjectOutside": 0.74, "accuracyOutside": None}
    assert compose(sample_evidence(references=near), CARD).warnings == ()


@pytest.mark.parametrize("change", [{"shift": "yes"}, {"references": {"count": "many"}}, {"shift": {"found": True}}])
def test_circumstances_that_cannot_be_read_give_no_report(change):
    with pytest.raises(MidguardError, match="cannot be written"):
        render_html(sample_evidence(**change), CARD)
    assert circumstances.warnings({}) == ()


def test_the_document_is_named_by_the_evidence_alone():
    one, other = compose(sample_evidence(), None), compose(sample_evidence(), CARD)
    assert one.document == other.document
    assert one.digest == SHA(as_bytes(sample_evidence())).hexdigest()
    assert compose(sample_evidence(seed="1235"), None).document != one.document
    assert render_html(sample_evidence(), CARD) == render_html(sample_evidence(), CARD)


def test_the_policy_stands_there_word_for_word(signed):
    lines = [e for e in signed.iter("div") if (e.get("class") or "").startswith("line")]
    assert "\n".join((e.find("span").tail or "") for e in lines) + "\n" == POLICY
    shaded = [int(e.get("id").rsplit("-", 1)[1]) for e in lines if e.get("class") == "line begins"]
    assert shaded == [f["line"] for f in sample_evidence()["findings"]]


def test_policy_lines_are_counted_as_yaml_counts_them():
    text = "a: 1\r\nb: \x0c2\u2028c: 3\rd: 4\n"
    evidence = verdict_evidence("pass")
    evidence["policy"] |= {"text": text, "sha256": digest(text)}
    assert [line.text for line in compose(evidence, None).policy] == ["a: 1", "b: \x0c2", "c: 3", "d: 4"]


def test_a_policy_without_end_is_cut_and_says_so():
    text = "# line\n" * 1600
    evidence = verdict_evidence("pass")
    evidence["policy"] |= {"text": text, "sha256": digest(text)}
    assert "100 more lines not printed" in words(parsed(render_html(evidence, CARD)))


def test_adding_a_section_is_adding_one_file(tmp_path, monkeypatch):
    folder = tmp_path / "templates"
    shutil.copytree(html._TEMPLATES, folder)
    new = folder / "sections" / "05-added.html.j2"
    new.write_text('{%- set title = "Added" -%}<p>{{ report.evidence.seed }} before {{ ref("figures") }}</p>')
    monkeypatch.setattr(html, "_TEMPLATES", folder)
    html._environment.cache_clear()
    try:
        page = parsed(render_html(sample_evidence(), CARD))
    finally:
        html._environment.cache_clear()
    section = next(e for e in page.iter("section") if e.get("id") == "added")
    assert words(section) == "5 Added 1234 before section 7"
    assert [e.get("id") for e in page.iter("section")].index("added") == 4


def test_the_commands_are_those_of_the_documentation(signed):
    documented = re.findall("```sh\n(.*?)```", (Path(__file__).parents[1] / "docs" / "verify.md").read_text(), re.S)
    printed = ["".join(pre.itertext()) for pre in signed.iter("pre") if pre.get("class") == "script"]
    assert [block.strip() for block in documented] == [block.strip() for block in printed]
    assert "openssl" in printed[0]


# ----------------------------------------------------------------------------------------------------------- taxonomy


def test_the_taxonomy_covers_every_goal_that_an_attack_can_have():
    goals = {registry.load("attacks", name).threat.goal for name in registry.names("attacks")}
    assert goals <= {goal for row in TAXONOMY for goal in row.goals}
    assert len({row.id for row in TAXONOMY}) == len(TAXONOMY) >= 12


def test_a_class_says_either_how_it_is_tested_or_why_not():
    with pytest.raises(ValueError, match="one of the two"):
        AttackClass("x", "X", "?")


def test_a_class_is_tested_only_by_an_attack_that_ran_towards_its_goal():
    rows = {c.row.id: c for c in coverage(sample_evidence())}
    assert list(rows["membership-inference"].ran) == [
        "membership.loss",
        "membership.modified_entropy",
        "membership.label",
    ]
    assert rows["model-inversion"].tested
    assert not rows["output-reconstruction"].tested
    assert [(m.attacks, m.reason) for m in rows["output-reconstruction"].missed] == [
        (("inversion.knowledge_alignment",), "the loss became NaN at step 120")
    ]
    assert rows["model-inversion"].reason == rows["output-reconstruction"].reason == ""
    assert [c.row.id for c in coverage(sample_evidence(attacks=[])) if c.tested] == []


def test_a_class_without_attacks_says_whether_midguard_has_any():
    rows = {c.row.id: c for c in coverage(sample_evidence(attacks=[], notTested=[]))}
    assert rows["membership-inference"].reason == "no requirement of the policy asked for an attack of this class"
    held = any(name.startswith("attribute.") for name in registry.names("attacks"))
    assert held or rows["attribute-inference"].reason == "midguard holds no attack of this class"
    assert all(row.reason for row in rows.values())


def test_attacks_that_were_missed_for_one_reason_are_named_together():
    left = [{"attack": f"membership.{n}", "reason": "it needs logits"} for n in ("loss", "entropy")]
    rows = {c.row.id: c for c in coverage(sample_evidence(attacks=[], notTested=left))}
    assert [m.attacks for m in rows["membership-inference"].missed] == [("membership.loss", "membership.entropy")]


def test_an_attack_that_this_version_does_not_know_is_filed_by_its_name():
    left = sample_evidence(attacks=[], notTested=[{"attack": "membership.of_the_future", "reason": "unknown"}])
    rows = {c.row.id: c for c in coverage(left)}
    assert [m.attacks for m in rows["membership-inference"].missed] == [("membership.of_the_future",)]
    assert rows["model-inversion"].missed == ()


# ------------------------------------------------------------------------------------------------------------ figures

SVG = "{http://www.w3.org/2000/svg}"


def drawn(svg: str) -> ElementTree.Element:
    root = ElementTree.fromstring(svg)
    names = root.get("aria-labelledby").split()
    assert root.get("role") == "img"
    assert [root.find(f"{SVG}title").get("id"), root.find(f"{SVG}desc").get("id")] == names
    assert root.find(f"{SVG}title").text
    assert not re.search(r'="[^"]*(nan|inf)', svg, re.I)
    return root


def marked(root: ElementTree.Element, role: str) -> list[ElementTree.Element]:
    return [e for e in root.iter() if e.get("class") == role]


def at(e: ElementTree.Element, *names: str) -> list[float]:
    return [float(e.get(name)) for name in names]


def points(e: ElementTree.Element) -> list[tuple[float, float]]:
    return [tuple(map(float, pair.split(","))) for pair in e.get("points").split()]


def decades(ticks: list[ElementTree.Element], axis: str) -> Any:
    """Position -> value, fitted to the printed ticks alone (logarithmic axis)."""
    (p0, v0), (p1, v1) = [
        (float(t.get(axis)) - (4 if axis == "y" else 0), math.log10(float(t.text))) for t in (ticks[0], ticks[-1])
    ]
    return lambda p: 10 ** (v0 + (p - p0) / (p1 - p0) * (v1 - v0))


def linear(ticks: list[ElementTree.Element], axis: str) -> Any:
    (p0, v0), (p1, v1) = [
        (float(t.get(axis)) - (4 if axis == "y" else 0), float(t.text)) for t in (ticks[0], ticks[-1])
    ]
    return lambda p: v0 + (p - p0) / (p1 - p0) * (v1 - v0)


def test_a_roc_curve_lies_where_its_ticks_say():
    c = curve(1.0, 30)
    roc = membership.Roc("a", c["fpr"], c["tpr"], c["low"], c["high"], 600, 600)
    limits = membership.RocLimits(0.1, (membership.RocLimit(0.01, 0.2),))
    root = drawn(membership.roc_plot("k", [roc], limits))
    x, y = decades(marked(root, "tick-x"), "x"), decades(marked(root, "tick-y"), "y")
    found = [(x(px), y(py)) for px, py in points(marked(root, "curve")[0])]
    for fpr, tpr in found:
        assert tpr == pytest.approx(max(fpr, 1e-3) ** 0.5, rel=0.01) or (fpr <= 1.01e-3 and tpr <= 1.01e-3)
    for fpr, tpr in [(x(px), y(py)) for px, py in points(marked(root, "limit-advantage")[0])]:
        assert tpr - fpr == pytest.approx(0.1, abs=2e-3)
    (limit,) = marked(root, "limit-tpr")
    x1, x2, y1, y2 = at(limit, "x1", "x2", "y1", "y2")
    assert (x((x1 + x2) / 2), y(y1), y1) == (pytest.approx(0.01, rel=0.01), pytest.approx(0.2, rel=0.01), y2)
    x1, y1, x2, y2 = at(marked(root, "chance")[0], "x1", "y1", "x2", "y2")
    assert (x(x1), y(y1), x(x2), y(y2)) == pytest.approx((1e-3, 1e-3, 1, 1), rel=0.01)


def test_a_roc_band_spans_low_to_high():
    roc = membership.Roc("a", [0.01, 0.1, 1.0], [0.1, 0.4, 1.0], [0.05, 0.3, 0.9], [0.2, 0.5, 1.0], 1000, 1000)
    root = drawn(membership.roc_plot("k", [roc], membership.RocLimits()))
    x, y = decades(marked(root, "tick-x"), "x"), decades(marked(root, "tick-y"), "y")
    corners = [(x(px), y(py)) for px, py in points(marked(root, "band")[0])]
    expected = [(0.01, 0.2), (0.1, 0.5), (1.0, 1.0), (1.0, 0.9), (0.1, 0.3), (0.01, 0.05)]
    assert [pytest.approx(c, rel=0.01) for c in expected] == corners


def test_a_roc_with_holes_and_one_without_points():
    holes = membership.Roc("a", [0.0, None, 0.1, math.nan, 1.0], [0.0, 0.2, 0.3, 0.5, 1.0], members=50, nonmembers=50)
    empty = membership.Roc("b", [], [])
    root = drawn(membership.roc_plot("k", [holes, empty], membership.RocLimits()))
    assert [len(points(c)) for c in marked(root, "curve")] == [3]
    assert [e.text for e in marked(root, "legend")][:2] == ["a", "b: no curve"]
    assert not marked(root, "band")


@pytest.mark.parametrize(("attacks", "named", "others"), [(1, 1, 0), (4, 4, 0), (5, 4, 1), (40, 4, 36)])
def test_the_first_curves_are_named_and_the_others_counted(attacks, named, others):
    rocs = [
        membership.Roc(f"membership.a{i}", [0.01, 1.0], [0.02, 1.0], members=9, nonmembers=9) for i in range(attacks)
    ]
    root = drawn(membership.roc_plot("k", rocs, membership.RocLimits()))
    assert (len(marked(root, "curve")), len(marked(root, "other-curve"))) == (named, others)
    legend = [e.text for e in marked(root, "legend")]
    assert legend[:named] == [f"membership.a{i}" for i in range(named)]
    assert [t for t in legend if "weaker" in t] == ([f"{others} weaker attack{'s' * (others > 1)}"] if others else [])
    strokes = {(e.get("stroke-dasharray"), e.get("stroke-width")) for e in marked(root, "curve")}
    assert len(strokes) == named
    assert all(f"membership.a{i}" in root.find(f"{SVG}desc").text for i in range(attacks))


def test_what_the_ledger_rules_out_lies_above_its_curve():
    rates = [10 ** (-6 + i / 20) for i in range(121)]
    proved = membership.Proved(rates, [min(1.0, 3 * r) for r in rates], "proved")
    roc = membership.Roc("a", [0.001, 1.0], [0.002, 1.0], members=1000, nonmembers=1000)
    root = drawn(membership.roc_plot("k", [roc], membership.RocLimits(), proved))
    x, y = decades(marked(root, "tick-x"), "x"), decades(marked(root, "tick-y"), "y")
    edge = [(x(px), y(py)) for px, py in points(marked(root, "proved")[0])]
    assert len(edge) > 10
    assert all(tpr == pytest.approx(min(1.0, 3 * fpr), rel=0.02) for fpr, tpr in edge)
    corner, *_ = [(x(px), y(py)) for px, py in points(marked(root, "proved-area")[0])]
    assert corner == pytest.approx((0.001, 1.0), rel=0.01)
    assert "at most 0.03" in root.find(f"{SVG}desc").text
    for basis, says in (("proved", "ruled out by the ledger"), ("declared", "if the declared ledger is true")):
        told = drawn(membership.roc_plot("k", [roc], membership.RocLimits(), dataclasses.replace(proved, basis=basis)))
        assert any(says in e.text for e in marked(told, "legend"))


def test_a_score_distribution_has_the_area_of_its_shares():
    edges, members, nonmembers = [0.0, 1.0, 3.0, 4.0], [10, 60, 30], [70, 24, 6]
    root = drawn(membership.score_plot("k", membership.Scores("a", edges, members, nonmembers)))
    x, y = linear(marked(root, "tick-x"), "x"), linear(marked(root, "tick-y"), "y")
    for role, counts in (("members", members), ("nonmembers", nonmembers)):
        corners = [(x(px), y(py)) for px, py in points(marked(root, role)[0])]
        steps = corners[1:-1] if role == "members" else corners
        for i, count in enumerate(counts):
            (left, height), (right, same) = steps[2 * i : 2 * i + 2]
            assert (left, right) == pytest.approx(edges[i : i + 2], abs=0.02)
            assert height == pytest.approx(same)
            assert height * (right - left) == pytest.approx(count / 100 * 4 / 30, abs=2e-3)
    assert "members score above about 2, half of the nonmembers above about 0.5" in root.find(f"{SVG}desc").text


def test_classes_lie_where_the_ticks_say():
    risks = [membership.ClassRisk("7", 0.4, 0.2, 0.55, 50, 60), membership.ClassRisk("3", 0.0, -0.3, 0.25, 9, 8)]
    root = drawn(membership.class_plot("k", "a", risks, 0.1))
    x = linear(marked(root, "tick-x"), "x")
    found = [(x(at(e, "x1")[0]), x(at(e, "x2")[0])) for e in marked(root, "interval")]
    assert found == [pytest.approx((0.2, 0.55), abs=0.01), pytest.approx((-0.3, 0.25), abs=0.01)]
    dots = [x(at(e, "cx")[0]) for e in root if e.tag == f"{SVG}circle"]
    assert dots == pytest.approx([0.4, 0.0], abs=0.01)
    assert x(at(marked(root, "limit")[0], "x1")[0]) == pytest.approx(0.1, abs=0.01)
    assert [e.text for e in marked(root, "value")] == ["0.40 [0.20, 0.55]", "0.00 [-0.30, 0.25]"]
    many = drawn(membership.class_plot("k", "a", risks * 60, None))
    assert len(marked(many, "interval")) == membership.MAX_CLASSES
    assert marked(many, "left-out")[0].text.startswith("100 more classes")


def test_power_is_drawn_over_the_number_of_models():
    estimates = [membership.Estimate(v, v - 0.04, v + 0.03) for v in (0.6, 0.7, 0.8)]
    found = tuple(
        membership.PowerPoint(k, e, membership.Estimate(e.value / 10, 0.01, 0.2))
        for k, e in zip((4, 8, 16), estimates, strict=True)
    )
    root = drawn(membership.power_plot("k", [membership.Power("a", found, 0.01)]))
    ticks = marked(root, "tick-y")
    left = [t for t in ticks if float(t.get("x")) < drawing.WIDTH / 2]
    y = linear(left, "y")
    spans = [(y(at(e, "y1")[0]), y(at(e, "y2")[0])) for e in marked(root, "auc-interval")]
    assert spans == [pytest.approx((e.low, e.high), abs=0.005) for e in estimates]
    right = linear([t for t in ticks if t not in left], "y")
    rates = [right(py) for _, py in points(marked(root, "tpr")[0])]
    assert rates == pytest.approx([0.06, 0.07, 0.08], abs=2e-3)
    assert [t.text for t in marked(root, "tick-x")] == ["4", "8", "16"] * 2
    steps = [b[0] - a[0] for a, b in itertools.pairwise(points(marked(root, "auc")[0]))]
    assert steps[0] == pytest.approx(steps[1])  # a doubling is as wide wherever it stands


def row(**changes: Any) -> figures.Interval:
    values: dict[str, Any] = {
        "name": "r",
        "status": "Fail",
        "value": 0.15,
        "low": 0.12,
        "high": 0.18,
        "limit": 0.1,
        "higher_is_safer": False,
    }
    return figures.Interval(**(values | changes))


def interval_scale(root: ElementTree.Element) -> Any:
    ticks = marked(root, "tick")
    (p0, v0), (p1, v1) = [(float(t.get("x")), float(t.text.rstrip(" %")) / 100) for t in (ticks[0], ticks[-1])]
    return lambda p: v0 + (p - p0) / (p1 - p0) * (v1 - v0)


@pytest.mark.parametrize(
    ("changes", "ends"),
    [
        ({}, (0.2, 0.8)),
        ({"value": 0.08, "low": 0.05, "high": 0.09}, (-0.5, -0.1)),
        (
            {"value": 0.6, "low": 0.45, "high": 0.7, "limit": 0.75, "higher_is_safer": True},
            (1 - 0.7 / 0.75, 1 - 0.45 / 0.75),
        ),
        (
            {"value": 1.0, "low": 0.9, "high": 1.2, "limit": 0.75, "higher_is_safer": True},
            (1 - 1.2 / 0.75, 1 - 0.9 / 0.75),
        ),
        ({"value": 0.1, "low": -0.2, "high": 0.3, "limit": 0.0}, (-0.2, 0.3)),
    ],
)
def test_an_interval_lies_on_its_side_of_the_limit(changes, ends):
    root = drawn(figures.interval_plot("k", [row(**changes)]))
    value_at = interval_scale(root)
    (limit,) = marked(root, "limit")
    assert value_at(float(limit.get("x1"))) == pytest.approx(0, abs=1e-3)
    x1, x2 = at(marked(root, "interval")[0], "x1", "x2")
    assert (value_at(x1), value_at(x2)) == pytest.approx(ends, abs=5e-3)


def test_what_lies_beyond_the_axis_is_an_arrow_on_its_side():
    for changes, side in (
        ({"value": math.inf, "low": math.inf, "high": math.inf}, 1),
        ({"value": 5.0, "low": 4.0, "high": 6.0}, 1),
        ({"value": 9.0, "low": 8.0, "high": 9.5, "higher_is_safer": True}, -1),
    ):
        root = drawn(figures.interval_plot("k", [row(**changes)]))
        value_at = interval_scale(root)
        tips = [points(e)[0][0] for e in marked(root, "beyond")]
        assert [round(value_at(tip)) for tip in tips] == [side]
        assert not marked(root, "interval")
    open_end = drawn(figures.interval_plot("k", [row(high=math.inf)]))
    assert len(marked(open_end, "interval")) == len(marked(open_end, "beyond")) == 1


@pytest.mark.parametrize("value", [None, math.nan])
def test_a_row_without_a_measurement_says_so(value):
    root = drawn(figures.interval_plot("k", [row(value=value, low=value, high=value, status="Not run")]))
    assert "no measurement" in [t.text for t in root.iter(f"{SVG}text")]
    assert not marked(root, "interval")


def test_shapes_differ_by_verdict():
    shapes = {}
    for status in ("Pass", "Fail", "Inconclusive", "Waived"):
        root = drawn(figures.interval_plot("k", [row(status=status)]))
        last = list(root)[-1] if list(root)[-1].get("class") != "left-out" else list(root)[-2]
        shapes[status] = (last.tag, last.get("fill"))
    assert len(set(shapes.values())) == 4


def test_distances_lie_where_their_ticks_say_and_so_do_their_limits():
    attack_d, base = [0.03, 0.05, 0.08], [0.06, 0.05, 0.10]
    root = drawn(figures.distance_plot("k", "a", figures.Distances("mse", [0, 1, 2], attack_d, base, "mean", 0.8)))
    y = linear(marked(root, "tick-y"), "y")
    bars = [y(float(e.get("y1"))) for e in marked(root, "limit-target")]
    assert bars == pytest.approx([0.8 * b for b in base], abs=1e-3)
    circles = [e for e in root if e.tag == f"{SVG}circle"]
    rings = [y(float(c.get("cy"))) for c in circles if c.get("fill") == "#ffffff"]
    dots = [y(float(c.get("cy"))) for c in circles if c.get("fill") != "#ffffff"]
    assert rings == pytest.approx(base, abs=1e-3)
    assert dots == pytest.approx(attack_d, abs=1e-3)


def test_of_many_targets_the_closest_are_drawn():
    n = 200
    attack_d = [1.0 - i / 1000 for i in range(n)]
    root = drawn(figures.distance_plot("k", "a", figures.Distances("mse", range(n), attack_d, [1.0] * n)))
    assert len([e for e in root if e.tag == f"{SVG}circle"]) == 2 * figures.MAX_TARGETS
    assert {t.text for t in marked(root, "tick")} <= {str(i) for i in range(n - figures.MAX_TARGETS, n)}
    assert marked(root, "left-out")[0].text.startswith("160 more targets")


def test_targets_without_a_distance_are_counted_and_not_drawn():
    distances = figures.Distances("ssim", ["a", "b", "c"], [None, math.nan, 0.4], [0.5, 0.5, 0.5])
    root = drawn(figures.distance_plot("k", "a", distances))
    assert [t.text for t in marked(root, "tick")] == ["c"]
    assert marked(root, "left-out")[0].text.startswith("2 more")


def test_the_budget_lies_where_its_ticks_say():
    budget = figures.Budget(
        [100, 200, 300], [2.0, None, 5.0], (figures.Spent("pld", 5.0, 0.1), figures.Spent("prv", 5.2, 0.5)), 8.0, 1e-5
    )
    root = drawn(figures.budget_plot("k", budget))
    x, y = linear(marked(root, "tick-x"), "x"), linear(marked(root, "tick-y"), "y")
    assert y(float(marked(root, "limit")[0].get("y1"))) == pytest.approx(8, abs=0.02)
    curve_points = [(x(px), y(py)) for px, py in points(marked(root, "epsilon")[0])]
    assert curve_points == [pytest.approx((100, 2), abs=0.5), pytest.approx((300, 5), abs=0.5)]
    legend = [e.text for e in marked(root, "legend")]
    assert legend == ["ε so far", "limit: 8", "pld, whole training: 5 ± 0.1", "prv, whole training: 5.2 ± 0.5"]


def test_an_unbounded_accountant_is_named_beside_a_finite_one():
    budget = figures.Budget([1], [1.0], (figures.Spent("pld", None), figures.Spent("prv", 2.0)), None, None)
    assert "pld: no bound" in [e.text for e in marked(drawn(figures.budget_plot("k", budget)), "legend")]


@pytest.mark.parametrize(
    ("svg", "says"),
    [
        (figures.interval_plot("k", []), "no requirement"),
        (membership.roc_plot("k", [], membership.RocLimits()), "No membership attack"),
        (membership.score_plot("k", membership.Scores("a", [1.0, 1.0], [5], [5])), "All scores fall together"),
        (membership.class_plot("k", "a", [], 0.1), "No class"),
        (membership.power_plot("k", [membership.Power("a", (), 0.1)]), "No attack ran"),
        (figures.distance_plot("k", "a", figures.Distances("mse", [], [], [])), "No target"),
        (figures.distance_plot("k", "a", figures.Distances("mse", [0], [None], [0.1])), "No target"),
        (figures.budget_plot("k", figures.Budget([], [], (figures.Spent("pld", None),), 8.0, 1e-5)), "no accountant"),
    ],
)
def test_a_figure_without_anything_to_draw_says_so_in_its_place(svg, says):
    root = drawn(svg)
    assert says in " ".join(t.text for t in root.iter(f"{SVG}text"))
    assert list(root.iter(f"{SVG}rect"))


def test_without_an_account_the_report_says_why():
    ledgers = {
        "no ledger": None,
        "without a mechanism": {"sha256": digest("l"), "events": [{"kind": "non-private", "reason": "plain"}]},
        "no requirement asks": sample_evidence()["subject"]["ledger"],
    }
    for says, ledger in ledgers.items():
        evidence = sample_evidence(account=None)
        evidence["subject"]["ledger"] = ledger
        assert says in str(compose(evidence, None).figures[-1].svg)


def test_a_value_without_ends_is_a_mark_alone():
    root = drawn(figures.interval_plot("k", [row(low=None, high=None)]))
    assert not marked(root, "interval")
    assert "no measurement" not in [t.text for t in root.iter(f"{SVG}text")]


def test_a_run_without_inversion_says_so_in_the_figure():
    evidence = sample_evidence()
    evidence["figures"] = {"roc": evidence["figures"]["roc"], "distances": []}
    evidence["figures"]["roc"][0]["members"] = 5
    drawn_figures = compose(evidence, None).figures
    assert "No inversion attack gave a distance" in str(drawn_figures[-2].svg)
    assert "over 600 members" not in drawn_figures[1].caption


def test_figures_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="zip"):
        figures.distance_plot("k", "a", figures.Distances("mse", [0, 1], [0.1], [0.1]))


def power(name: str) -> membership.Power:
    whole = membership.Estimate(0.51234, 0.5, 1.0)
    return membership.Power(name, tuple(membership.PowerPoint(k, whole, whole) for k in (1, 2, 4, 8, 16, 60)), 0.00123)


def all_figures() -> list[str]:
    report = compose(sample_evidence(), None)
    rocs = [
        membership.Roc(f"membership.with_a_very_long_name_{i}", [0.001, 1.0], [0.1, 1.0], members=9999, nonmembers=9999)
        for i in range(9)
    ]
    many = membership.RocLimits(0.123456, tuple(membership.RocLimit(10.0**-k, 0.0123456) for k in range(1, 6)))
    long = figures.Distances(
        "mse", list(range(1000, 1040)), [0.01234567] * 40, [0.0765432] * 40, "a baseline " * 9, 0.8
    )
    spent = tuple(figures.Spent(f"accountant-{i}", 3.14159 * (i + 1), 0.000123) for i in range(5))
    return [
        *(str(f.svg) for f in report.figures),
        membership.roc_plot("a", rocs, many),
        membership.roc_plot("e", rocs, many, membership.Proved([1e-6, 1e-3, 1.0], [1e-3, 0.1, 1.0], "declared")),
        membership.score_plot("f", membership.Scores("s" * 99, [-1234.5, -0.001, 1e5, 1.2e5], [9999] * 3, [9999] * 3)),
        membership.class_plot(
            "g", "n" * 90, [membership.ClassRisk("9" * 30, -0.123, -0.9, 0.999, 10**6, 10**6)] * 40, 0.123456
        ),
        membership.power_plot("h", [power(f"membership.with_a_very_long_name_{i}") for i in range(6)]),
        figures.distance_plot("b", "n" * 90, long),
        figures.budget_plot(
            "c", figures.Budget(range(10**5, 10**6, 10**5), [float(i) for i in range(9)], spent, 8.0, 1e-5)
        ),
        figures.interval_plot("d", [row(name="x" * 80, text="1" * 80, rule="limit " * 20, status="Inconclusive")] * 25),
    ]


def boxes(
    element: ElementTree.Element, dx: float = 0.0, dy: float = 0.0
) -> Iterator[tuple[float, float, float, float, str]]:
    """Left, top, right, bottom of every upright text, by the average width of its letters."""
    for e in element.iter(f"{SVG}text"):
        if e.get("transform"):
            continue
        x, y, size = at(e, "x", "y", "font-size")
        width = 0.52 * size * len(e.text or "")
        left = x - {"start": 0.0, "middle": width / 2, "end": width}[e.get("text-anchor")]
        yield left, y - 0.72 * size, left + width, y + 0.2 * size, e.text or ""


@pytest.mark.parametrize("svg", all_figures())
def test_text_is_legible_inside_the_figure_and_never_over_other_text(svg):
    root = drawn(svg)
    width, height = map(float, root.get("viewBox").split()[2:])
    assert all(float(e.get("font-size")) * 0.75 >= 8 for e in root.iter(f"{SVG}text"))
    placed = list(boxes(root))
    for left, top, right, bottom, text in placed:
        assert left >= -1 and right <= width + 1 and top >= 0 and bottom <= height, text  # noqa: PT018
    for a, b in itertools.combinations(placed, 2):
        overlap = min(a[2], b[2]) - max(a[0], b[0]) > 0.5 and min(a[3], b[3]) - max(a[1], b[1]) > 0.5
        assert not overlap, (a, b)


def test_no_figure_is_taller_than_a_page():
    assert all(float(drawn(svg).get("height")) <= 900 for svg in all_figures())


def test_names_in_figures_are_escaped_and_cut_with_the_whole_kept():
    svg = figures.interval_plot("k", [row(name=HOSTILE * 3)])
    root = drawn(svg)
    assert HOSTILE * 3 in [t.text for t in root.iter(f"{SVG}title")]
    assert "<script" not in svg


def test_a_scale_keeps_to_its_axis():
    scale = drawing.Scale(0.001, 1.0, 0.0, 300.0, log=True)
    assert [scale(v) for v in (0.001, 0.01, 0.1, 1.0)] == pytest.approx([0, 100, 200, 300])
    assert (scale(1e-9), scale(0.0), scale(5.0)) == (0, 0, 300)
    assert drawing.Scale(0, 8.8, 0, 1).ticks() == (0, 2, 4, 6, 8)
    assert drawing.Scale(0, 0.066, 0, 1).ticks() == pytest.approx((0, 0.02, 0.04, 0.06))


# ---------------------------------------------------------------------------------------------------------------- PDF


@pytest.fixture(scope="module")
def signed_pdf() -> bytes:
    evidence = sample_evidence()
    return render_pdf(evidence, as_bytes(evidence), POLICY.encode(), PEM, CARD)


@pytest.fixture(scope="module")
def catalog(signed_pdf: bytes) -> Any:
    from pyhanko.pdf_utils.reader import PdfFileReader

    return PdfFileReader(io.BytesIO(signed_pdf))


def test_the_pdf_says_what_it_is_and_carries_what_pdf_a_asks_for(catalog):
    root = catalog.root
    xmp = root["/Metadata"].data.decode()
    assert 'pdfaid:part="3"' in xmp
    assert 'pdfaid:conformance="A"' in xmp
    assert "/GTS_PDFA1" in str(root["/OutputIntents"][0])
    assert root["/OutputIntents"][0]["/DestOutputProfile"].data
    assert root["/MarkInfo"]["/Marked"]
    assert "/StructTreeRoot" in root
    assert root["/Lang"] == "en"
    assert root["/ViewerPreferences"]["/DisplayDocTitle"]
    assert catalog.trailer["/ID"]
    assert catalog.trailer_view["/Info"]["/Title"] == "Privacy test report: digits 2026.11, policy demo 1.0.0"
    assert "/Encrypt" not in catalog.trailer
    assert "/AcroForm" not in root
    assert "2026-11-22T01:02:03" in xmp


def objects(written: bytes) -> bytes:
    """The file's compressed objects, one after the other."""
    streams = re.findall(rb"/ObjStm.*?stream\r?\n(.*?)\r?\nendstream", written, re.DOTALL)
    return b"\n".join(zlib.decompress(stream) for stream in streams)


def test_every_font_is_embedded_and_nothing_runs(catalog):
    page = catalog.root["/Pages"]["/Kids"][0].get_object()
    fonts = [font.get_object() for font in page["/Resources"]["/Font"].values()]
    descriptors = [font["/DescendantFonts"][0].get_object()["/FontDescriptor"] for font in fonts]
    assert descriptors
    assert all({"/FontFile", "/FontFile2", "/FontFile3"} & set(d) for d in descriptors)
    assert {"/OpenAction", "/AA"}.isdisjoint(catalog.root)
    assert set(catalog.root["/Names"]) == {"/EmbeddedFiles", "/Dests"}


def test_the_attachments_come_back_byte_for_byte(catalog):
    names = catalog.root["/Names"]["/EmbeddedFiles"]["/Names"]
    files = {str(names[i]): names[i + 1] for i in range(0, len(names), 2)}
    content = {name: spec["/EF"]["/F"].data for name, spec in files.items()}
    assert content == {
        "evidence.json": as_bytes(sample_evidence()),
        "policy.yaml": POLICY.encode(),
        "signer.pub": PEM,
    }
    assert {n: str(s["/AFRelationship"]) for n, s in files.items()} == {
        "evidence.json": "/Data",
        "policy.yaml": "/Source",
        "signer.pub": "/Supplement",
    }
    linked = [entry.idnum for entry in catalog.root.raw_get("/AF")]
    assert len(linked) == len(set(linked)) == 3


def test_bookmarks_name_every_requirement(catalog):
    titles = []

    def walk(entry: Any) -> None:
        while entry is not None:
            entry = entry.get_object()
            titles.append(str(entry["/Title"]))
            if "/First" in entry:
                walk(entry["/First"])
            entry = entry.get("/Next")

    walk(catalog.root["/Outlines"]["/First"])
    assert [t for t in titles if t in {r[0] for r in REQUIREMENTS}] == [r[0] for r in REQUIREMENTS]
    assert "1 Verdict" in titles
    assert {a["name"] for a in sample_evidence()["attacks"]} <= set(titles)


def test_every_figure_has_its_words_for_those_who_do_not_see_it(signed_pdf):
    elements = re.findall(rb"/S ?/Figure[^\n]*", objects(signed_pdf))
    assert len(elements) == len(compose(sample_evidence(), None).figures)
    assert all(re.search(rb"/Alt ?[(<]..", element) for element in elements)


def test_the_pdf_is_the_same_every_time_and_leaves_the_environment_alone(signed_pdf, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "7")
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    evidence = sample_evidence()
    assert render_pdf(evidence, as_bytes(evidence), POLICY.encode(), PEM, CARD) == signed_pdf
    assert os.environ["SOURCE_DATE_EPOCH"] == "7"
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    with pdf._source_date(pdf._created(evidence)):
        assert os.environ["SOURCE_DATE_EPOCH"] == "1795309323"
    assert "SOURCE_DATE_EPOCH" not in os.environ


def pages(card: SignerCard | None, evidence: dict[str, Any] | None = None) -> Any:
    import weasyprint

    return weasyprint.HTML(string=render_html(evidence or sample_evidence(), card)).render().pages


def margin_texts(page: Any) -> str:
    found = (box.descendants() for box in page._page_box.children if type(box).__name__ == "MarginBox")
    return " ".join(d.text for box in found for d in box if hasattr(d, "text"))


def test_every_page_says_that_nobody_signed_or_who_did(caplog):
    unsigned, with_signer = pages(None), pages(CARD)
    assert len(unsigned) > 5
    assert all("UNSIGNED" in margin_texts(page) for page in unsigned)
    assert not any("UNSIGNED" in margin_texts(page) for page in with_signer)
    assert all(FINGERPRINT[:16] in margin_texts(page) for page in with_signer)
    document_id = compose(sample_evidence(), None).document
    assert all(document_id in margin_texts(page) for page in unsigned)
    assert all(f"Page {i} of {len(unsigned)}" in margin_texts(page) for i, page in enumerate(unsigned, start=1))
    assert [r.message for r in caplog.records if r.name.startswith("weasyprint")] == []


def worst_first_page() -> dict[str, Any]:
    """As much as a first page can be asked to hold."""
    evidence = sample_evidence()
    base = evidence["findings"][1]
    evidence["findings"] = [
        base
        | {
            "id": f"{'requirement-of-sixty-characters-':-<58}{i:02d}",
            "reason": f"{i} because " * 60,
            "remedy": f"{i} do this " * 60,
        }
        for i in range(15)
    ]
    evidence["subject"] |= {"name": "a model with a name that never seems to come to its end " * 3, "file": "model" * 9}
    return evidence


@pytest.mark.parametrize("evidence", [sample_evidence(), worst_first_page()])
def test_the_verdict_is_one_page(evidence):
    laid_out = pages(None, evidence)
    assert "verdict" in laid_out[0].anchors
    assert "contents" in laid_out[1].anchors
    assert "requirements" in laid_out[1].anchors


def overflowing(page: Any) -> list[str]:
    """Texts that begin or end outside the page's margins."""
    area = page._page_box
    right = area.position_x + area.margin_left + area.width + 1
    left = area.position_x + area.margin_left - 1
    texts = [box for box in area.descendants() if type(box).__name__ == "TextBox" and box.text.strip()]
    return [t.text for t in texts if t.position_x < left or t.position_x + t.width > right]


def test_nothing_runs_over_the_edge_of_the_paper():
    evidence = worst_first_page()
    text = "x" * 500 + "\n" + "  - " + "word " * 80 + "\n"
    evidence["policy"] |= {"text": text, "sha256": digest(text)}
    for sample in (sample_evidence(), evidence):
        assert [texts for texts in map(overflowing, pages(CARD, sample)) if texts] == []


def test_a_character_that_no_font_draws_is_spelled():
    evidence = verdict_evidence("pass")
    text = "# \U000f0123 and ε\n"
    evidence["policy"] |= {"text": text, "sha256": digest(text)}
    spelled: list[str] = []

    original = pdf._spelled

    def spy(page: str, codes: set[int]) -> str:
        spelled.append(original(page, codes))
        return spelled[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pdf, "_spelled", spy)
        render_pdf(evidence, as_bytes(evidence), text.encode(), None)
    assert ["[U+F0123] and ε" in page for page in spelled] == [True]


def test_what_is_attached_must_be_what_is_printed():
    evidence = sample_evidence()
    other = as_bytes(sample_evidence(seed="1"))
    with pytest.raises(MidguardError, match="not the evidence"):
        render_pdf(evidence, other, POLICY.encode(), PEM)
    with pytest.raises(MidguardError, match="not JSON"):
        render_pdf(evidence, b"{", POLICY.encode(), PEM)
    with pytest.raises(MidguardError, match="policy to attach"):
        render_pdf(evidence, as_bytes(evidence), b"another", PEM)
    with pytest.raises(MidguardError, match="no public key"):
        render_pdf(evidence, as_bytes(evidence), POLICY.encode(), None, CARD)
    with pytest.raises(MidguardError, match="but the public key is"):
        render_pdf(evidence, as_bytes(evidence), POLICY.encode(), PEM, SignerCard("x", digest("x")))


@pytest.mark.parametrize("created", ["yesterday", "2026-11-22T01:02:03"])
def test_a_date_that_is_none_gives_no_pdf(created):
    evidence = sample_evidence(created=created)
    with pytest.raises(MidguardError, match="cannot be written"):
        render_pdf(evidence, as_bytes(evidence), POLICY.encode(), None)


def test_without_pango_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "weasyprint", None)
    evidence = sample_evidence()
    with pytest.raises(MidguardError, match=re.escape("apt-get install libpango-1.0-0 libpangoft2-1.0-0")):
        render_pdf(evidence, as_bytes(evidence), POLICY.encode(), None)


def test_a_page_that_asks_for_something_gives_no_pdf():
    created = pdf._created(sample_evidence())
    for hostile in ('<img src="http://example.org/x.png">', '<link rel=stylesheet href="file:///etc/passwd">'):
        with pytest.raises(MidguardError, match="must load nothing"):
            pdf._write(f"<p>text</p>{hostile}", (), created)


def test_a_pdf_without_text_is_refused():
    with pytest.raises(MidguardError, match="no font"):
        pdf._write("<p></p>", (), pdf._created(sample_evidence()))
