"""What the report's sections are written from: the evidence, put into words and figures, and nothing else.

Templates under `templates/sections/` get one `Report` and the functions of `WORDS`; they compute nothing themselves.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ..engine.errors import MidguardError
from . import audit, circumstances, inversion, wording
from .illustrations import Figure, illustrate
from .phrases import Evidence, listed, measured, sentence, several
from .taxonomy import Coverage, coverage

_FIRST_PAGE_ROWS, _FIRST_PAGE_FINDINGS, _FIRST_PAGE_REMEDIES = 7, 3, 3
_POLICY_LINES = 1500
_SEVERITIES = ("critical", "high", "medium", "low")
#: What YAML takes for the end of a line.
_LINE_END = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class SignerCard:
    """Who signed, as a reader can compare it.

    Attributes:
        name: The name in the signer's certificate; a claim until the fingerprint is compared.
        fingerprint: SHA-256 of the public key (DER), lower-case hex.
        certificate_fingerprint: SHA-256 of the certificate (DER), lower-case hex, empty where there is none.
        created: When the certificate begins, ISO 8601, empty where there is none.
    """

    name: str
    fingerprint: str
    certificate_fingerprint: str = ""
    created: str = ""

    def __post_init__(self) -> None:
        if not self.fingerprint:
            raise ValueError("a signer without a fingerprint cannot be compared with anything")


@dataclass(frozen=True, slots=True)
class Summary:
    """The first page: what came out, what it means, what stands against it, what to do.

    Attributes:
        headline: The verdict in one sentence.
        meaning: What it means for whoever decides.
        open: Findings that are not a pass, the worst first, as many as the page has room for.
        more: How many more there are.
        remedies: What to do, each once, with the requirements that ask for it.
        rows: Findings for the short table, the worst first.
        untested: Attack classes that nothing tested, in one line.
    """

    headline: str
    meaning: str
    open: tuple[Evidence, ...]
    more: int
    remedies: tuple[Remedy, ...]
    rows: tuple[Evidence, ...]
    untested: str


@dataclass(frozen=True, slots=True)
class Remedy:
    """Something to do, and the requirements that it is for."""

    text: str
    requirements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Use:
    """An attack as one requirement used it: the finding, and the attack's entry in it."""

    finding: Evidence
    entry: Evidence


@dataclass(frozen=True, slots=True)
class Note:
    """Something to be said of an attack, and the requirements that it is about."""

    text: str
    requirements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AttackCard:
    """An attack of this run.

    Attributes:
        attack: Its entry.
        uses: The requirements that it was measured for.
        notes: What its controls, or it itself, leave open.
        asked: The requirements that asked for it, whether or not it ran.
    """

    attack: Evidence
    uses: tuple[Use, ...]
    notes: tuple[Note, ...]
    asked: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PolicyLine:
    """A line of the policy and the requirements that begin on it."""

    number: int
    text: str
    requirements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that the sections are written from."""

    evidence: Evidence
    document: str
    digest: str
    signer: SignerCard | None
    summary: Summary
    attacks: tuple[AttackCard, ...]
    inversion: inversion.Chapter
    references: circumstances.References | None
    shift: str
    warnings: tuple[str, ...]
    coverage: tuple[Coverage, ...]
    figures: tuple[Figure, ...]
    policy: tuple[PolicyLine, ...]
    policy_cut: int
    limits: tuple[str, ...]
    audit: tuple[Evidence, ...]

    def anchor(self, finding: Evidence) -> str:
        """Where a finding stands in the document; two of one name stand apart."""
        return f"requirement-{next(i for i, f in enumerate(self.evidence['findings'], start=1) if f is finding)}"

    def asked(self, finding: Evidence) -> bool:
        """Whether the policy asks for it; a refuted claim is a finding of its own, with no line in the policy."""
        return finding["id"] in self.evidence["policy"]["text"]

    @property
    def title(self) -> str:
        """The document's title, also in the file's metadata."""
        subject, policy = self.evidence["subject"], self.evidence["policy"]
        model, rules = (f"{named['name']} {named['version']}" for named in (subject, policy))
        return f"Privacy test report: {model}, policy {rules}"


def compose(evidence: Evidence, signer: SignerCard | None) -> Report:
    """The report's content from the evidence alone.

    Raises:
        MidguardError: The evidence does not have the shape of schemaVersion 1, or holds a number that JSON cannot.
    """
    try:
        digest = hashlib.sha256(canonical(evidence)).hexdigest()
        return _compose(evidence, signer, digest)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise malformed(error) from error


def malformed(error: Exception) -> MidguardError:
    """The error of evidence that no report can be written from."""
    return MidguardError(
        f"the report cannot be written: the evidence does not have the shape of schemaVersion 1 "
        f"({type(error).__name__}: {error}); write it again with 'midguard check'"
    )


def canonical(evidence: Evidence) -> bytes:
    """The evidence in the canonical form of RFC 8785, as `check` writes it."""
    import rfc8785

    return bytes(rfc8785.dumps(dict(evidence)))


def _compose(evidence: Evidence, signer: SignerCard | None, digest: str) -> Report:
    if evidence["schemaVersion"] != "1":
        raise ValueError(f"expected schemaVersion '1', found {evidence['schemaVersion']!r}")
    _refuse_contradiction(evidence)
    rows = coverage(evidence)
    policy = _policy_lines(evidence)
    told = inversion.chapter(evidence)
    return Report(
        evidence=evidence,
        document=f"MG-{digest[:16].upper()}",
        digest=digest,
        signer=signer,
        summary=_summary(evidence, rows, told.personal),
        attacks=tuple(_attack_card(attack, evidence) for attack in evidence["attacks"]),
        inversion=told,
        references=circumstances.references(evidence),
        shift=circumstances.shift_words(evidence),
        warnings=circumstances.warnings(evidence),
        coverage=rows,
        figures=illustrate(evidence),
        policy=policy[:_POLICY_LINES],
        policy_cut=max(0, len(policy) - _POLICY_LINES),
        limits=_limits(evidence, signer),
        audit=audit.tests(evidence),
    )


def _refuse_contradiction(evidence: Evidence) -> None:
    """The verdict must be the worst of its findings, whoever wrote the file; without findings there is none."""
    found = {finding["status"] for finding in evidence["findings"]}
    worst = next((s for s in wording.WORST_FIRST if s in found), None)
    if worst is None or evidence["verdict"] != worst:
        raise ValueError(f"the verdict is {evidence['verdict']!r}, the worst finding is {worst and str(worst)!r}")


# ---------------------------------------------------------------------------------------------------------------------
# The first page
# ---------------------------------------------------------------------------------------------------------------------

_STANDS = "That holds for this model file, this release and the attacks listed in this report; what was"
_MEANING = {
    "pass": f"Under this policy nothing stands against the release. {_STANDS} not tested stays open.",
    "waived": "Under this policy, and with the waivers in force, nothing stands against the release. "
    f"{_STANDS} waived or not tested stays open.",
    "fail": "Under this policy the model must not be released as it is.",
    "inconclusive": "What was not shown is not a pass: under this policy the model must not be released until it is.",
    "not-run": "What was not measured is not a pass: under this policy the model must not be released until it is.",
    "error": "An attack or midguard itself failed. A test that did not end is not a pass: it must be repeated first.",
}


def _summary(evidence: Evidence, rows: Sequence[Coverage], personal: bool) -> Summary:
    """Args: personal, whether the page must also find room to say that the report shows records."""
    ordered = sorted(evidence["findings"], key=_rank)
    against = [f for f in ordered if f["status"] not in ("pass", "waived")]
    return Summary(
        headline=_headline(evidence),
        meaning=_MEANING[evidence["verdict"]],
        open=tuple(against[:_FIRST_PAGE_FINDINGS]),
        more=max(0, len(against) - _FIRST_PAGE_FINDINGS),
        remedies=_remedies(against)[:_FIRST_PAGE_REMEDIES],
        rows=tuple(ordered[: _FIRST_PAGE_ROWS - personal]),
        untested=_untested(rows),
    )


def _rank(finding: Evidence) -> tuple[int, int, int]:
    """Worst first: by status, then severity, then place in the policy."""
    return (
        wording.WORST_FIRST.index(finding["status"]),
        _SEVERITIES.index(finding["severity"]),
        finding["line"] or 0,
    )


def _headline(evidence: Evidence) -> str:
    """The verdict in one sentence."""
    findings = evidence["findings"]
    tally, n = Counter(f["status"] for f in findings), several(len(findings), "requirement")
    undecided, broken = tally["inconclusive"] + tally["not-run"], tally["error"]
    everything = "The only requirement was" if len(findings) == 1 else f"All {n} were"
    match evidence["verdict"]:
        case "pass":
            return f"{everything} shown to hold, by proof or against the attacks that were run."
        case "waived":
            return f"{everything} shown to hold or waived ({tally['waived']} waived)."
        case "fail":
            return f"{_of(tally['fail'], n)} violated{_also(undecided, broken)}."
        case "error":
            return f"{_of(broken, n)} not judged, because the test itself failed{_also(undecided, 0)}."
    return f"Nothing was violated, but {_of(undecided, n)} not shown to hold."


def _of(some: int, all_of_them: str) -> str:
    return f"{some} of {all_of_them} {'is' if some == 1 else 'are'}"


def _also(undecided: int, broken: int) -> str:
    words = [f"{undecided} not shown to hold"] if undecided else []
    words += [f"{broken} not judged because the test itself failed"] if broken else []
    return "".join(f", {w}" for w in words)


def _untested(rows: Sequence[Coverage]) -> str:
    """How many classes of attack nothing tested, and the first of them."""
    titles = [row.row.title for row in rows if not row.tested]
    named = listed([title[:1].lower() + title[1:] for title in titles[:3]])
    return f"{len(titles)} of {len(rows)} classes of attack" + (f", such as {named}" if titles else "")


def _remedies(findings: Sequence[Evidence]) -> tuple[Remedy, ...]:
    """What to do, each once, the worst finding's first."""
    asked: dict[str, list[str]] = {}
    for finding in findings:
        if finding["remedy"]:
            asked.setdefault(finding["remedy"], []).append(finding["id"])
    return tuple(Remedy(text, tuple(ids)) for text, ids in asked.items())


# ---------------------------------------------------------------------------------------------------------------------
# Attacks and controls
# ---------------------------------------------------------------------------------------------------------------------


def _attack_card(attack: Evidence, evidence: Evidence) -> AttackCard:
    uses = [
        Use(finding, entry)
        for finding in evidence["findings"]
        for entry in finding["attacks"]
        if entry["name"] == attack["name"]
    ]
    ran = tuple(use for use in uses if use.entry["status"] == "ran")
    return AttackCard(attack, ran, _notes(uses), tuple(use.finding["id"] for use in uses))


def _notes(uses: Sequence[Use]) -> tuple[Note, ...]:
    """What is to be said, each once, with all the requirements that it is about."""
    said: dict[str, list[str]] = {}
    for use in uses:
        for note in control_notes(use.entry):
            said.setdefault(note, []).append(use.finding["id"])
    return tuple(Note(text, tuple(ids)) for text, ids in said.items())


def control_notes(entry: Evidence) -> tuple[str, ...]:
    """A plain sentence about each control that failed or is missing; none for an attack that did not run."""
    if entry["status"] != "ran":
        return ()
    controls = entry["controls"]
    return tuple(note for note in (_positive(controls["positive"]), _negative(controls["negative"])) if note)


_NO_TWIN = "No leaky twin was tested: that this attack can find a leak here was not shown."
_NO_NULL = "No null was tested: that this attack finds nothing where there is nothing was not shown."


def _positive(twin: Evidence | None) -> str:
    if twin is None or not measured(twin):
        return _NO_TWIN + _because(twin)
    if twin["ok"] is True:
        return ""
    return (
        f"On a twin that was trained to leak, this attack did not show the leak ({measured(twin)}): that it finds "
        f"little on the model proves nothing.{_because(twin)}"
    )


def _negative(null: Evidence | None) -> str:
    if null is None or not measured(null):
        return _NO_NULL + _because(null)
    if null["ok"] is True:
        return ""
    return (
        f"Where there is nothing to find, this attack already claims a leak ({measured(null)}): the records differ by "
        f"themselves, and its value on the model is not leakage alone.{_because(null)}"
    )


def _because(control: Evidence | None) -> str:
    return f" On record: {sentence(control['reason'])}" if control and control["reason"] else ""


# ---------------------------------------------------------------------------------------------------------------------
# Policy
# ---------------------------------------------------------------------------------------------------------------------


def _policy_lines(evidence: Evidence) -> tuple[PolicyLine, ...]:
    begins: dict[int, list[str]] = {}
    for finding in evidence["findings"]:
        if finding["id"] in evidence["policy"]["text"]:
            begins.setdefault(finding["line"] or 0, []).append(finding["id"])
    lines = _LINE_END.split(evidence["policy"]["text"])
    lines = lines[:-1] if lines[-1] == "" else lines
    return tuple(PolicyLine(i, text, tuple(begins.get(i, ()))) for i, text in enumerate(lines, start=1))


# ---------------------------------------------------------------------------------------------------------------------
# Limits of the evidence
# ---------------------------------------------------------------------------------------------------------------------


def _limits(evidence: Evidence, signer: SignerCard | None) -> tuple[str, ...]:
    """What weakens this very run, beside what limits every run."""
    findings, entries = evidence["findings"], [e for f in evidence["findings"] for e in f["attacks"]]
    weak = sorted({e["name"] for e in entries if control_notes(e)})
    declared = [f["id"] for f in findings if f["basis"] == "declared"]
    unheld = sorted({n["attack"] for n in evidence["notTested"]})
    crashed = sorted({a["name"] for a in evidence["attacks"] if a["status"] == "crashed"})
    missing = [name for name, entry in evidence["subject"]["data"].items() if entry is None]
    lines = {
        f"A control of {listed(weak)} failed or did not run: what they did not find is no evidence.": weak,
        f"Rests on somebody's declaration, which nobody checked: {listed(declared)}.": declared,
        f"Not run: {listed(unheld)}. What they would have found is unknown.": unheld,
        f"Stopped before there was an outcome: {listed(crashed)}.": crashed,
        f"The subject names no {listed(missing)} records: what needs them was not measured.": missing,
        "Nobody signed this report: nothing shows who made it, or that it was not changed.": signer is None,
    }
    return (*(line for line, holds in lines.items() if holds), *circumstances.warnings(evidence))
