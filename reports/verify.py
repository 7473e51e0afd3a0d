"""`midguard verify`: whether a file is what was signed, and by whom.

Each of the four outputs is recognised by its content. What lies beside it in the same folder counts: the attestation
for a report or the evidence, the reports and the evidence for an attestation. Whatever is beside it must match; what is
missing is named, never counted as checked. Without a key that the caller got from elsewhere nothing is valid.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ..engine.attestation import FILE_NAME, Attestation, AttestationError, read_attestation
from ..engine.errors import InputError
from ..engine.keys import fingerprint, load_public_key
from .signature import SignatureError, attachment, check_html, check_pdf

LARGEST_FILE = 1 << 28  # bytes; a report has less than a thousandth of it
EVIDENCE = "evidence.json"
_NAMED_VERDICTS = ("pass", "fail", "inconclusive", "not-run", "error", "waived")


class Kind(StrEnum):
    """What a file is, by its content."""

    PDF = "report (PDF)"
    HTML = "report (HTML)"
    ATTESTATION = "attestation"
    EVIDENCE = "evidence"
    UNKNOWN = "none of midguard's outputs"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What was looked at.
        ok: Whether it holds.
        note: What was found.
    """

    name: str
    ok: bool
    note: str

    def __str__(self) -> str:
        return f"{'ok ' if self.ok else 'BAD'}  {self.name}: {self.note}"


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found of a file.

    Attributes:
        file: The file.
        kind: What it is.
        lines: Everything that was looked at.
        missing: What could not be looked at because it is not there, in words.
        fingerprint: Of the key that signed; None where no signature holds.
        trusted: Whether the caller named the key that signed.
    """

    file: Path
    kind: Kind
    lines: tuple[Check, ...]
    missing: tuple[str, ...]
    fingerprint: str | None
    trusted: bool

    @property
    def valid(self) -> bool:
        """Whether something was looked at, all of it holds, and the caller named the key that signed."""
        return bool(self.lines) and all(line.ok for line in self.lines) and self.trusted

    @property
    def exit_code(self) -> int:
        """0 where it is valid, 1 otherwise."""
        return 0 if self.valid else 1

    @property
    def summary(self) -> str:
        """The outcome in one sentence."""
        bad = [line for line in self.lines if not line.ok]
        if self.valid:
            return f"valid: {self.kind} as signed by the key you named ({self.fingerprint})"
        if self.lines and not bad:
            found = f"intact, but signed by nobody you named (key {self.fingerprint})"
            return f"{found}: name with --key a public key that you got from its owner"
        return f"NOT VALID: {'; '.join(line.note for line in bad) or 'nothing was checked'}"


@dataclass(frozen=True, slots=True)
class _Signature:
    """A signature that holds: where it stands, and the fingerprint of its key."""

    where: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class _Findings:
    """What was found so far; `+` puts two together.

    Attributes:
        checks: What was looked at.
        signatures: The signatures that hold.
        missing: What was not there.
        attestation: The attestation, if an intact one was found.
    """

    checks: tuple[Check, ...] = ()
    signatures: tuple[_Signature, ...] = ()
    missing: tuple[str, ...] = ()
    attestation: Attestation | None = None

    def __add__(self, other: _Findings) -> _Findings:
        return _Findings(
            self.checks + other.checks,
            self.signatures + other.signatures,
            self.missing + other.missing,
            self.attestation or other.attestation,
        )


def verify(path: Path, key: Path | None, model: Path | None = None) -> Verification:
    """Verify one of the four outputs: evidence, attestation, HTML report or PDF report.

    Args:
        path: The file.
        key: The public key (or certificate) of whom the caller trusts, from elsewhere than the report; None for nobody.
        model: The model file that it must be about.

    Raises:
        InputError: A file is missing or unreadable, or the key is not a P-256 public key.
    """
    trusted = fingerprint(load_public_key(key)) if key else None
    digest = _digest(model) if model else None
    content = _read(path)
    kind = recognise(content, path.name)
    found = _look(kind, path, content)
    checks = found.checks + _key_checks(found.signatures, trusted)
    if model and digest:
        checks += (_model_check(found.attestation, model, digest),)
    signers = {signature.fingerprint for signature in found.signatures}
    only = next(iter(signers)) if len(signers) == 1 else None
    return Verification(path, kind, checks, found.missing, only, trusted is not None and only == trusted)


def recognise(content: bytes, name: str) -> Kind:
    """What a file is: by how it begins, and by its name where that says nothing."""
    start = content[:1024].lstrip().lower()
    if start.startswith(b"%pdf-"):
        return Kind.PDF
    if start.startswith((b"<!doctype html", b"<html")):
        return Kind.HTML
    if start.startswith(b'{"payload":'):
        return Kind.ATTESTATION
    by_name = {".pdf": Kind.PDF, ".html": Kind.HTML, ".jsonl": Kind.ATTESTATION, ".json": Kind.EVIDENCE}
    kind = by_name.get(Path(name).suffix.lower(), Kind.UNKNOWN)
    return Kind.EVIDENCE if kind is Kind.UNKNOWN and start.startswith(b"{") else kind


def _look(kind: Kind, path: Path, content: bytes) -> _Findings:
    match kind:
        case Kind.PDF:
            return _look_at_pdf(content) + _look_beside(path, content, kind)
        case Kind.HTML:
            return _look_at_html(content) + _look_beside(path, content, kind)
        case Kind.EVIDENCE:
            return _look_beside(path, content, kind)
        case Kind.ATTESTATION:
            found = _look_at_attestation(content)
            return found + _look_at_files(found.attestation, path.parent)
        case Kind.UNKNOWN:
            return _Findings((Check("what it is", False, f"{path.name} is {kind}"),))


def _look_at_pdf(content: bytes) -> _Findings:
    signature = check_pdf(content)
    name = "signature inside the PDF"
    if not signature.public_key_fingerprint:
        return _Findings((Check(name, False, "; ".join(signature.problems)),))
    note = "covers the whole file and permits no change"
    return _Findings((Check(name, True, note),), (_Signature("PDF", signature.public_key_fingerprint),))


def _look_at_html(content: bytes) -> _Findings:
    signature = check_html(content)
    name = "signature inside the HTML"
    if not signature.public_key_fingerprint:
        return _Findings((Check(name, False, "; ".join(signature.problems)),))
    note = "covers the whole file"
    return _Findings((Check(name, True, note),), (_Signature("HTML", signature.public_key_fingerprint),))


def _look_at_attestation(content: bytes) -> _Findings:
    try:
        attestation = read_attestation(content)
        verdict = attestation.evaluation.read().get("verdict")
    except AttestationError as error:
        return _Findings((Check("attestation", False, str(error)),))
    about = attestation.evaluation.subjects[0].name
    said = verdict if verdict in _NAMED_VERDICTS else "no known verdict"
    signature = _Signature("attestation", fingerprint(attestation.key))
    note = f"intact; it says of {about}: {said}"
    return _Findings((Check("attestation", True, note),), (signature,), attestation=attestation)


def _look_beside(path: Path, content: bytes, kind: Kind) -> _Findings:
    """Hold the file against the attestation in its folder. The evidence has no signature of its own and needs one."""
    beside = path.parent / FILE_NAME
    if not beside.exists():
        if kind is Kind.EVIDENCE:
            note = f"no attestation beside it ({FILE_NAME}), and the evidence alone carries no signature"
            return _Findings((Check("attestation", False, note),))
        return _Findings(missing=(f"{FILE_NAME} is not beside it: only the signature inside was checked",))
    found = _look_at_attestation(_read(beside))
    if not found.attestation:
        return found
    return found + _Findings(_hold_against(found.attestation, content, kind))


def _hold_against(attestation: Attestation, content: bytes, kind: Kind) -> tuple[Check, ...]:
    named = attestation.bundle.names(hashlib.sha256(content).hexdigest())
    digest = Check("digest in the attestation", named, "the same" if named else f"this {kind} is not in it")
    if kind is Kind.PDF and named:
        return digest, _attached_check(attestation, content)
    if kind is Kind.EVIDENCE:
        same = content == attestation.evidence
        return digest, Check(
            "evidence in the attestation", same, "the same bytes" if same else "differs from this file"
        )
    return (digest,)


def _attached_check(attestation: Attestation, pdf: bytes) -> Check:
    """The evidence that the PDF carries against the one that the attestation carries."""
    name = "evidence inside the PDF"
    try:
        attached = attachment(pdf, EVIDENCE)
    except SignatureError as error:
        return Check(name, False, str(error))
    if attached is None:
        return Check(name, False, f"{EVIDENCE} is not attached")
    same = attached == attestation.evidence
    return Check(name, same, "the same as in the attestation" if same else "differs from the attestation's")


def _look_at_files(attestation: Attestation | None, folder: Path) -> _Findings:
    """Hold the files that an attestation names against it, as far as they are beside it."""
    found = _Findings()
    for named in attestation.bundle.subjects if attestation else ():
        file = folder / named.name
        if file.exists():
            same = _digest(file) == named.sha256
            note = "the same" if same else f"{named.name} is not the file that was signed"
            found += _Findings((Check(f"digest of {named.name}", same, note),))
        else:
            found += _Findings(missing=(f"{named.name} is not beside it: not checked",))
    return found


def _key_checks(signatures: tuple[_Signature, ...], trusted: str | None) -> tuple[Check, ...]:
    """Who signed: every signature by the key that the caller named or, if none was named, all by one key."""
    if trusted is None:
        one = len({signature.fingerprint for signature in signatures}) <= 1
        return () if one else (Check("signers", False, "the signatures are of different keys"),)
    if not signatures:
        return (Check("signed by the key you named", False, "no signature holds"),)
    return tuple(_key_check(signature, trusted) for signature in signatures)


def _key_check(signature: _Signature, trusted: str) -> Check:
    same = signature.fingerprint == trusted
    note = "yes" if same else f"no: signed by key {signature.fingerprint}, you named {trusted}"
    return Check(f"{signature.where} signed by the key you named", same, note)


def _model_check(attestation: Attestation | None, model: Path, sha256: str) -> Check:
    if not attestation:
        return Check("model", False, f"nothing intact here names the model; put {FILE_NAME} beside the file")
    same = attestation.evaluation.names(sha256)
    return Check("model", same, f"{model.name} is {'the' if same else 'not the'} model that was attested")


def _digest(path: Path) -> str:
    """SHA-256 of a file of any size.

    Raises:
        InputError: It is missing or unreadable.
    """
    _check_file(path)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError.of(f"{path}: cannot read it: {error.strerror}") from error


def _read(path: Path) -> bytes:
    _check_file(path)
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise InputError.of(f"{path}: larger than any output of midguard ({LARGEST_FILE} bytes)")
        return path.read_bytes()
    except OSError as error:
        raise InputError.of(f"{path}: cannot read it: {error.strerror}") from error


def _check_file(path: Path) -> None:
    if not path.is_file():
        found = "not a regular file" if path.exists() else "no such file"
        raise InputError.of(f"{path}: {found}", "name one that 'midguard check --out' wrote")
