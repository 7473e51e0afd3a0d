"""Attestations: what was shown of which model, signed so that anybody can check it without midguard.

A statement is an in-toto Statement v1 in RFC 8785 canonical form; it travels in a DSSE envelope, one a line of
`attestation.intoto.jsonl`:

1. privacy-evaluation: the whole evidence, about the model file;
2. svr (simple verification result): the requirements that passed, absent where none did;
3. report-bundle: the digests of the files written beside it and of the lines before it, so that no line can be taken
   out, and the public key.

Reading is strict: a file is accepted only if it is, byte for byte, what writing it again would give.
https://github.com/secure-systems-lab/dsse, https://github.com/in-toto/attestation
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from .errors import Exit, InputError, MidguardError
from .keys import Signer, fingerprint, parse_public_key

STATEMENT = "https://in-toto.io/Statement/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
EVALUATION = "https://midguard.dev/attestation/privacy-evaluation/v1"
RESULT = "https://in-toto.io/attestation/svr/v0.2"
BUNDLE = "https://midguard.dev/attestation/report-bundle/v1"
FILE_NAME = "attestation.intoto.jsonl"
VERIFIER = "https://midguard.dev/verifier/v1"
_LARGEST_WHOLE = 2**53 - 1  # of an integer in RFC 8785; beyond it a number is a float


class AttestationError(MidguardError):
    """A signed file is not what was signed; the message says what is wrong with it."""

    exit_code = Exit.FAIL


@dataclass(frozen=True, slots=True)
class Named:
    """A file by its name and SHA-256.

    Attributes:
        name: The file's name, without a folder.
        sha256: Digest of its bytes, lower-case hex.
    """

    name: str
    sha256: str

    def __post_init__(self) -> None:
        if self.name in {"", ".", ".."} or not self.name.isprintable() or set("/\\") & set(self.name):
            raise ValueError(f"expected a file's name without a folder, found {self.name!r}")
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(f"{self.name}: expected a SHA-256 of 64 lower-case hex digits, found {self.sha256!r}")

    @classmethod
    def of(cls, name: str, content: bytes) -> Named:
        """A file by its content."""
        return cls(name, hashlib.sha256(content).hexdigest())


@dataclass(frozen=True, slots=True)
class Envelope:
    """A DSSE envelope with one signature.

    Attributes:
        payload: The bytes that were signed.
        keyid: Fingerprint of the signing key.
        signature: ECDSA over the pre-authentication encoding, DER.
    """

    payload: bytes
    keyid: str
    signature: bytes

    def to_json(self) -> bytes:
        """The envelope in canonical form, without a line end."""
        signature = {"keyid": self.keyid, "sig": _base64(self.signature)}
        return canonical({"payload": _base64(self.payload), "payloadType": PAYLOAD_TYPE, "signatures": [signature]})


@dataclass(frozen=True, slots=True)
class Statement:
    """An in-toto statement: a predicate about files.

    Attributes:
        subjects: The files, at least one.
        predicate_type: URI of what the predicate means.
        predicate: The predicate's bytes, canonical JSON, as they were signed.
    """

    subjects: tuple[Named, ...]
    predicate_type: str
    predicate: bytes

    def names(self, sha256: str) -> bool:
        """Whether a file of this digest is one of the subjects."""
        return any(subject.sha256 == sha256 for subject in self.subjects)

    def read(self) -> Mapping[str, object]:
        """The predicate as a JSON object.

        Raises:
            AttestationError: It is not an object.
        """
        return _object(_parse(self.predicate), "the predicate")


@dataclass(frozen=True, slots=True)
class Attestation:
    """A file of envelopes that is intact: every line verifies with the key that the last one carries.

    Intact is not trusted: whoever reads it must know the key from elsewhere.

    Attributes:
        evaluation: The evidence, about the model.
        result: What passed; None where nothing did.
        bundle: The files and lines that belong together.
        key: The key that signed every line.
    """

    evaluation: Statement
    result: Statement | None
    bundle: Statement
    key: ec.EllipticCurvePublicKey

    @property
    def evidence(self) -> bytes:
        """The bytes of `evidence.json`, as they were signed."""
        return self.evaluation.predicate


def attest(evidence: bytes, files: tuple[Named, ...], model: Named, policy: Named, signer: Signer) -> bytes:
    """The bytes of `attestation.intoto.jsonl`.

    Args:
        evidence: The evidence, canonical JSON, the bytes of `evidence.json`.
        files: What was written beside it, the evidence among them.
        model: The model file that the evidence is about.
        policy: The policy file that it was held against.
        signer: Whoever vouches for it.

    Raises:
        ValueError: The evidence is not canonical JSON, is about another model or policy, or is not among the files.
    """
    content = _object(_parse(evidence), "the evidence")
    _check_consistent(evidence, content, files, model, policy)
    payloads = [statement((model,), EVALUATION, evidence)]
    passed = properties(content)
    if passed:
        payloads.append(statement((model,), RESULT, _result(content, passed, policy)))
    lines = [sign(payload, signer) + b"\n" for payload in payloads]
    types = (EVALUATION, RESULT)[: len(lines)]
    lines.append(sign(statement(files, BUNDLE, _bundle(tuple(lines), types, signer)), signer) + b"\n")
    return b"".join(lines)


def canonical(value: object) -> bytes:
    """JSON in RFC 8785 canonical form.

    Raises:
        ValueError: NaN, infinity, an integer of more than 53 bits, or no JSON at all.
    """
    return rfc8785.dumps(cast("Any", value))


def statement(subjects: tuple[Named, ...], predicate_type: str, predicate: bytes) -> bytes:
    """An in-toto Statement v1 in canonical form, with the predicate's own bytes inside.

    Raises:
        ValueError: There is no subject, two have one name, or the predicate is not canonical JSON.
    """
    if not subjects or len({subject.name for subject in subjects}) != len(subjects):
        raise ValueError("a statement needs subjects, each with a name of its own")
    if canonical(_parse(predicate)) != predicate:
        raise ValueError("the predicate is not in RFC 8785 canonical form")
    return _before_predicate() + predicate + _after_predicate(subjects, predicate_type)


def sign(payload: bytes, signer: Signer) -> bytes:
    """One DSSE envelope in canonical form, without a line end."""
    signature = signer.key.sign(pae(payload), ec.ECDSA(hashes.SHA256()))
    return Envelope(payload, signer.fingerprint, signature).to_json()


def pae(payload: bytes) -> bytes:
    """What DSSE signs: the pre-authentication encoding of the payload and its type."""
    return b"DSSEv1 %d %b %d %b" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def signed_by(signer: Signer) -> dict[str, str]:
    """The entry `signer` of a predicate: who says to have signed, and the key to check it with."""
    return {"name": signer.name, "publicKey": signer.public_pem.decode()}


def properties(evidence: Mapping[str, object]) -> tuple[str, ...]:
    """What the evidence shows to hold, as `MIDGUARD_PASS_<REQUIREMENT>`; nothing that was not measured.

    Two requirements whose names come out the same must both have passed.

    Raises:
        AttestationError: The evidence carries no list of findings.
    """
    findings = [_object(finding, "a finding") for finding in _list(evidence.get("findings"), "findings")]
    held = {_property(finding): True for finding in findings}
    for finding in findings:
        held[_property(finding)] &= finding.get("status") == "pass"
    return tuple(sorted(name for name, passed in held.items() if passed))


def read_attestation(data: bytes) -> Attestation:
    """Read and verify `attestation.intoto.jsonl`.

    1. Every line is a canonical envelope and ends in one line feed.
    2. Every line is signed by the key that the last one carries.
    3. The statements are the evaluation, at most one result, and the bundle, in this order.
    4. The bundle names the lines before it by digest, all of them, and the evidence.

    Raises:
        AttestationError: Any of it does not hold.
    """
    if not data.endswith(b"\n"):
        raise AttestationError("it is empty, or its last line has no end")
    lines = data[:-1].split(b"\n")
    envelopes = [read_envelope(line) for line in lines]  # 1
    key = carried_key(read_statement(envelopes[-1].payload))
    for envelope in envelopes:
        check_signature(envelope, key)  # 2
    statements = [read_statement(envelope.payload) for envelope in envelopes]
    attestation = _arrange(statements, key)  # 3
    _check_bundle(attestation, [line + b"\n" for line in lines[:-1]])  # 4
    return attestation


def read_envelope(line: bytes) -> Envelope:
    """Read one DSSE envelope; nothing is verified yet.

    Raises:
        AttestationError: It is not, byte for byte, what `Envelope.to_json` writes.
    """
    try:
        content = json.loads(line)
        (signature,) = content["signatures"]
        payload, sig = (base64.b64decode(text, validate=True) for text in (content["payload"], signature["sig"]))
        envelope = Envelope(payload, signature["keyid"], sig)
        same = envelope.to_json() == line
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise AttestationError("not a DSSE envelope with one signature") from error
    if not same:
        raise AttestationError("the DSSE envelope is not in canonical form")
    return envelope


def read_statement(payload: bytes) -> Statement:
    """Read an in-toto statement; nothing is verified yet.

    Raises:
        AttestationError: It is not, byte for byte, what `statement` writes.
    """
    try:
        content = _object(_parse(payload), "the statement")
        subjects = tuple(_subject(entry) for entry in _list(content.get("subject"), "subject"))
        predicate_type = str(content["predicateType"])
        before, after = _before_predicate(), _after_predicate(subjects, predicate_type)
        predicate = payload[len(before) : -len(after)]
        same = statement(subjects, predicate_type, predicate) == payload
    except (ValueError, KeyError, RecursionError) as error:
        raise AttestationError(f"not an in-toto statement: {error}") from error
    if not same:
        raise AttestationError("the in-toto statement is not in canonical form")
    return Statement(subjects, predicate_type, predicate)


def check_signature(envelope: Envelope, key: ec.EllipticCurvePublicKey) -> None:
    """Check that this key signed the envelope.

    Raises:
        AttestationError: It did not, or the envelope names another key.
    """
    if envelope.keyid != fingerprint(key):
        raise AttestationError(f"signed by another key than it carries: keyid {envelope.keyid!r}")
    try:
        key.verify(envelope.signature, pae(envelope.payload), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise AttestationError("the signature does not match what was signed") from error


def carried_key(carrier: Statement) -> ec.EllipticCurvePublicKey:
    """The public key in a statement's predicate. That it is there says nothing about whose it is.

    Raises:
        AttestationError: There is none, or not a P-256 key.
    """
    signer = _object(carrier.read().get("signer"), "signer")
    try:
        return parse_public_key(str(signer.get("publicKey")).encode(), "the public key that it carries")
    except InputError as error:
        raise AttestationError(str(error)) from error


def _check_consistent(
    evidence: bytes, content: Mapping[str, object], files: tuple[Named, ...], model: Named, policy: Named
) -> None:
    if Named.of("evidence", evidence).sha256 not in {file.sha256 for file in files}:
        raise ValueError("the evidence is not among the files of the bundle")
    for part, named in (("subject", model), ("policy", policy)):
        found = _object(content.get(part), part).get("sha256")
        if found != named.sha256:
            raise ValueError(f"the evidence is about another {part}: {found}, not {named.sha256} ({named.name})")


def _result(evidence: Mapping[str, object], passed: tuple[str, ...], policy: Named) -> bytes:
    verifier = {"id": VERIFIER, "policies": [_entry(policy)]}
    return canonical({"verifier": verifier, "timeCreated": str(evidence["created"]), "properties": list(passed)})


def _bundle(lines: tuple[bytes, ...], types: tuple[str, ...], signer: Signer) -> bytes:
    return canonical({"signer": signed_by(signer), "statements": _digests(lines, types)})


def _digests(lines: tuple[bytes, ...], types: tuple[str, ...]) -> list[dict[str, object]]:
    """Each line by the SHA-256 of its bytes, line feed included, as `sed -n 1p FILE | sha256sum` gives it."""
    digests = (hashlib.sha256(line).hexdigest() for line in lines)
    return [{"predicateType": kind, "digest": {"sha256": sha256}} for kind, sha256 in zip(types, digests, strict=True)]


def _arrange(statements: list[Statement], key: ec.EllipticCurvePublicKey) -> Attestation:
    match statements:
        case [evaluation, bundle]:
            result = None
        case [evaluation, result, bundle]:
            pass
        case _:
            raise AttestationError(f"expected 2 or 3 statements, found {len(statements)}")
    types = [one.predicate_type for one in statements]
    if types != [EVALUATION, *([RESULT] if result else []), BUNDLE]:
        raise AttestationError(f"not the statements of a privacy evaluation: {types}")
    return Attestation(evaluation, result, bundle, key)


def _check_bundle(attestation: Attestation, before: list[bytes]) -> None:
    types = (EVALUATION, RESULT)[: len(before)]
    if attestation.bundle.read().get("statements") != _digests(tuple(before), types):
        raise AttestationError("the lines are not the ones that were signed together")
    if not attestation.bundle.names(hashlib.sha256(attestation.evidence).hexdigest()):
        raise AttestationError("the evidence is not among the files that were signed together")


def _property(finding: Mapping[str, object]) -> str:
    words = re.sub("[^0-9A-Za-z]+", "_", str(finding.get("id")))
    return f"MIDGUARD_PASS_{words.upper()}"


def _before_predicate() -> bytes:
    """A statement up to its predicate; canonical form sorts its keys: _type, predicate, predicateType, subject."""
    return b'{"_type":' + canonical(STATEMENT) + b',"predicate":'


def _after_predicate(subjects: tuple[Named, ...], predicate_type: str) -> bytes:
    entries = canonical([_entry(subject) for subject in subjects])
    return b',"predicateType":' + canonical(predicate_type) + b',"subject":' + entries + b"}"


def _entry(named: Named) -> dict[str, object]:
    return {"name": named.name, "digest": {"sha256": named.sha256}}


def _subject(entry: object) -> Named:
    subject = _object(entry, "a subject")
    return Named(str(subject["name"]), str(_object(subject["digest"], "a digest")["sha256"]))


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _parse(text: bytes) -> object:
    """JSON as RFC 8785 sees it: an integer too large for a double's 53 bits is a float.

    Raises:
        ValueError: Not JSON in UTF-8, or NaN or infinity in it.
    """

    def whole(digits: str) -> int | float:
        return int(digits) if abs(float(digits)) <= _LARGEST_WHOLE else float(digits)

    def refuse(constant: str) -> object:
        raise ValueError(f"{constant} is not JSON")

    return json.loads(text.decode(), parse_int=whole, parse_constant=refuse)


def _object(value: object, what: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise AttestationError(f"expected {what} to be a JSON object, found {type(value).__name__}")
    return value


def _list(value: object, what: str) -> list[object]:
    if not isinstance(value, list):
        raise AttestationError(f"expected {what} to be a list, found {type(value).__name__}")
    return value
