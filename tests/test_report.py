"""The report says what the evidence says, all of it, and nothing else."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from typing import Any

SHA = hashlib.sha256


def digest(name: str) -> str:
    return SHA(name.encode()).hexdigest()


REQUIREMENTS = (
    # id, measure, at, severity, status, value, low, high, limit, direction, basis, by
    ("dp-budget", "privacy.epsilon", {"delta": 1e-5}, "critical", "pass", 7.9101, 7.9, 7.9101, 8.0, "max", "proved", "ledger"),
    ("membership-advantage", "membership.advantage", {}, "high", "fail", 0.4125, 0.361, 0.463, 0.1, "max", "attacked", "membership.loss"),
    ("membership-low-fpr", "membership.tpr", {"fpr": 0.001}, "high", "inconclusive", 0.0125, 0.0041, 0.0292, 0.01, "max", "attacked", "membership.loss"),
    ("membership-auc", "membership.auc", {}, "medium", "fail", 0.7311, 0.701, 0.7602, 0.6, "max", "attacked", "membership.modified_entropy"),
    ("inversion-distance", "inversion.distance", {"metric": "mse", "quantile": 0.05}, "high", "fail", 0.5203, 0.441, 0.6105, 0.75, "min", "attacked", "inversion.mi_face"),
    ("inversion-ssim", "inversion.distance", {"metric": "ssim", "quantile": 0.05}, "medium", "pass", 0.9403, 0.881, 0.9805, 0.75, "min", "attacked", "inversion.mi_face"),
    ("inversion-identification", "inversion.identification", {}, "high", "not-run", None, None, None, 0.1, "max", "", ""),
    ("record-reconstruction", "inversion.distance", {"metric": "mse", "quantile": 0.01}, "high", "error", None, None, None, 0.8, "min", "", "inversion.knowledge_alignment"),
    ("accuracy", "utility.accuracy", {}, "low", "pass", 0.9125, 0.8901, 0.9312, 0.85, "min", "observed", ""),
    ("membership-label-only", "membership.advantage", {}, "medium", "waived", 0.1302, 0.08, 0.1801, 0.12, "max", "attacked", "membership.label"),
    ("claim-epsilon", "privacy.epsilon", {"delta": 1e-5}, "critical", "fail", 5.1, 4.2, None, 3.0, "max", "attacked", "membership.loss"),
    ("unbounded-budget", "privacy.epsilon", {"delta": 1e-6}, "critical", "fail", None, None, None, 8.0, "max", "proved", "ledger"),
)  # fmt: skip

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
        "id": name, "title": f"Title of {name}", "measure": measure, "at": at, "severity": severity, "status": status,
        "value": value, "low": low, "high": high, "limit": limit, "direction": direction, "basis": basis, "by": by,
        "margin": None if end is None else round(sign * (limit - end), 6),
        "records": 1600 + index, "recordsNeeded": 41000 if status == "inconclusive" else None,
        "line": line, "unit": "", "confidence": 0.99, "references": ["gdpr:32"],
        "reason": REASONS[status].format(measure=measure, low=low, high=high, limit=limit), "remedy": REMEDIES[status],
        "details": [{"name": "realised FPR", "value": 0.0012}] if "fpr" in at else [],
        "attacks": uses(measure, value, low, high),
    }  # fmt: skip
    if name in ("claim-epsilon", "unbounded-budget"):
        found["unbounded"] = True
    return found


def uses(measure: str, value: Any, low: Any, high: Any) -> list[dict[str, Any]]:
    kind = measure.split(".")[0]
    if kind == "membership":
        return [
            use("membership.loss", value, low, high, GOOD, NULL),
            use("membership.modified_entropy", value, low, high, BLIND, None),
            use("membership.label", value, low, high, GOOD, UNFAIR),
        ]
    if kind == "inversion":
        return [
            use("inversion.mi_face", value, low, high, GOOD, NULL),
            use("inversion.gradient", None, None, None, None, None, "not-run", "it needs the weights, which this adversary does not hold"),
            use("inversion.knowledge_alignment", None, None, None, None, None, "crashed", "the loss became NaN at step 120"),
        ]  # fmt: skip
    return []


def use(
    name: str, value: Any, low: Any, high: Any, positive: Any, negative: Any, status: str = "ran", reason: str = ""
) -> dict[str, Any]:
    controls = {"positive": positive, "negative": negative}
    return {"name": name, "status": status, "reason": reason, "value": value, "low": low, "high": high, "details": [], "controls": controls}  # fmt: skip


def attack(name: str, goal: str, source: str, status: str = "ran", reason: str = "", **parameters: Any) -> dict[str, Any]:
    return {
        "name": name, "summary": f"What {name} does, in a line.", "source": source, "status": status, "reason": reason,
        "parameters": parameters, "seed": "7718281828", "queries": 1200, "seconds": 0.41,
        "threat": {"access": "release", "exposures": ["logits", "probabilities"], "knowledge": ["the record's label"],
                   "goal": goal, "auxiliary": name.endswith("alignment")},
    }  # fmt: skip


def curve(strength: float, points: int = 60) -> dict[str, list[float]]:
    fpr = [0.0, *(10 ** (-3 + 3 * i / points) for i in range(points + 1))]
    tpr = [min(1.0, f ** (1 / (1 + strength))) if f else 0.0 for f in fpr]
    return {"fpr": fpr, "tpr": tpr, "low": [max(0.0, t - 0.05) for t in tpr], "high": [min(1.0, t + 0.05) for t in tpr]}


def sample_evidence(**changes: Any) -> dict[str, Any]:
    """Evidence with every status, an unbounded ε, missing and failed controls and a refuted claim."""
    attacks = [
        attack("membership.loss", "membership", "Yeom et al. 2018, arXiv 1709.01604"),
        attack("membership.modified_entropy", "membership", "Song & Mittal 2021, arXiv 2003.10595, equation 8"),
        attack("membership.label", "membership", "Yeom et al. 2018, arXiv 1709.01604, adversary 1"),
        attack("inversion.mi_face", "class-representative", "Fredrikson et al., CCS 2015", steps=5000, rate=0.1),
        attack("inversion.gradient", "class-representative", "Struppek et al. 2022, arXiv 2201.12179", "not-run",
               "it needs the weights, which this adversary does not hold", restarts=8, views=True),
        attack("inversion.knowledge_alignment", "record-reconstruction", "Yang et al. 2019, arXiv 1902.08552", "crashed",
               "the loss became NaN at step 120"),
    ]  # fmt: skip
    roc = [
        {"attack": a["name"], "members": 600, "nonmembers": 600, **curve(s)}
        for a, s in zip(attacks[:3], (1.4, 0.8, 0.3), strict=True)
    ]
    distances = [
        {"attack": "inversion.mi_face", "goal": "class-representative", "metric": metric, "targets": list(range(10)),
         "attack_distance": [0.03 + 0.004 * i for i in range(10)],
         "baseline_distance": [0.06 + 0.002 * (i % 4) for i in range(10)], "baseline": "global mean"}
        for metric in ("mse", "ssim")
    ]  # fmt: skip
    evidence: dict[str, Any] = {
        "schemaVersion": "1", "verdict": "fail", "exitCode": 1, "confidence": 0.95, "seed": "1234",
        "created": "2026-11-22T01:02:03Z", "seconds": 41.2, "midguard": {"version": "0.1.0"},
        "environment": {"python": "3.11.7", "platform": "Linux x86_64", "torch": "2.13.0", "numpy": "2.4.6", "device": "cpu"},
        "policy": {"name": "demo", "version": "1.0.0", "owner": "privacy-office@example.org", "file": "policy.yaml",
                   "sha256": digest(POLICY), "text": POLICY},
        "adversary": {"access": "release", "description": "sees only what the release exposes: probabilities"},
        "subject": {
            "name": "digits", "version": "2026.11", "sha256": digest("model"), "file": "model.pt", "format": "state_dict",
            "architecture": "mlp(hidden=[128])", "parameters": 9610,
            "task": {"kind": "classification", "classes": 10, "shape": [1, 8, 8]},
            "data": {"members": {"records": 600, "sha256": digest("m")}, "nonmembers": {"records": 600, "sha256": digest("n")},
                     "auxiliary": None},
            "release": {"exposes": "probabilities", "top": 3, "decimals": 2},
            "recipe": {"sha256": digest("r"), "text": "apiVersion: midguard.dev/v1\nkind: Recipe\nspec:\n  epochs: 40\n"},
            "ledger": {"sha256": digest("l"), "events": [{"kind": "sampled-gaussian", "sampling_probability": 0.1,
                       "noise_multiplier": 1.1, "steps": 300, "clipping_norm": 1.0}]},
            "claims": {"epsilon": 3.0, "delta": 1e-5},
        },
        "findings": [finding(i, entry) for i, entry in enumerate(REQUIREMENTS)],
        "attacks": attacks,
        "account": {"delta": 1e-5, "accountants": [{"name": "pld", "epsilon": 7.9, "error": 0.0001},
                    {"name": "prv", "epsilon": 7.9101, "error": 0.01}],
                    "curve": [{"step": s, "epsilon": 7.9 * math.sqrt(s / 300)} for s in range(10, 301, 10)]},
        "figures": {"roc": roc, "distances": distances},
        "notTested": [{"attack": "inversion.gradient", "reason": "it needs the weights, which this adversary does not hold"}],
        "signed": True, "responsible": "",
    }  # fmt: skip
    return copy.deepcopy(evidence | changes)


def as_bytes(evidence: dict[str, Any]) -> bytes:
    import rfc8785

    return bytes(rfc8785.dumps(json.loads(json.dumps(evidence))))
