"""The attestation: signed bytes are kept, three implementations verify them, the slightest change is refused."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import shutil
import subprocess

import pytest
import rfc8785
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.dsse import Envelope as OtherEnvelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey

from midguard.engine.attestation import (
    BUNDLE,
    EVALUATION,
    PAYLOAD_TYPE,
    RESULT,
    AttestationError,
    Named,
    attest,
    check_signature,
    pae,
    properties,
    read_attestation,
    read_envelope,
    read_statement,
    sign,
    signed_by,
    statement,
)
from midguard.engine.keys import Signer, load_signer, new_key

MODEL = Named.of("model.pt", b"the model")
POLICY = Named.of("policy.yaml", b"the policy")
FINDINGS = [
    {"id": "dp-budget", "status": "pass", "value": 7.5},
    {"id": "membership-advantage", "status": "fail", "value": 1e-7},
    {"id": "membership-tpr", "status": "inconclusive", "value": None},
    {"id": "not-measured", "status": "not-run"},
    {"id": "crashed", "status": "error"},
    {"id": "excused", "status": "waived"},
]


def evidence(findings=FINDINGS, **more) -> bytes:
    content = {
        "schemaVersion": "1",
        "verdict": "fail",
        "created": "2026-11-22T01:02:03Z",
        "subject": {"name": "dïgits", "sha256": MODEL.sha256},
        "policy": {"name": "demo", "sha256": POLICY.sha256},
        "findings": findings,
        # numbers that JSON libraries write differently
        "numbers": [1e20, 1e21, 1e-7, 0.1, 1.0, -0.0, 5e-324, 123456789012345.0, 2**53 - 1],
    }
    return rfc8785.dumps(content | more)


def files_of(content: bytes) -> tuple[Named, ...]:
    return (Named.of("evidence.json", content), Named.of("report.html", b"html"), Named.of("report.pdf", b"pdf"))


@pytest.fixture(scope="module")
def signer(tmp_path_factory) -> Signer:
    return load_signer(new_key(tmp_path_factory.mktemp("keys"), "Privacy office", None), None)


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Signer:
    return load_signer(new_key(tmp_path_factory.mktemp("other"), "Somebody else", None), None)


@pytest.fixture(scope="module")
def attested(signer) -> bytes:
    return attest(evidence(), files_of(evidence()), MODEL, POLICY, signer)


def lines_of(data: bytes) -> list[bytes]:
    return data.splitlines(keepends=True)


def payload_of(line: bytes) -> dict:
    return json.loads(base64.b64decode(json.loads(line)["payload"]))


def test_it_comes_back_with_the_very_bytes_that_were_signed(attested, signer):
    found = read_attestation(attested)
    assert found.evidence == evidence()
    assert found.evaluation.subjects == (MODEL,)
    assert found.bundle.subjects == files_of(evidence())
    assert load_pem_public_key(signer.public_pem) == found.key


def test_the_statements_are_in_toto_v1(attested):
    payloads = [payload_of(line) for line in lines_of(attested)]
    assert [p["predicateType"] for p in payloads] == [EVALUATION, RESULT, BUNDLE]
    for payload in payloads:
        assert set(payload) == {"_type", "subject", "predicateType", "predicate"}
        assert payload["_type"] == "https://in-toto.io/Statement/v1"
    assert payloads[0]["subject"] == [{"name": "model.pt", "digest": {"sha256": MODEL.sha256}}]
    assert payloads[0]["predicate"] == json.loads(evidence())
    assert payloads[2]["predicate"]["signer"]["name"] == "Privacy office"


def test_the_bundle_names_the_lines_before_it_by_digest(attested):
    *before, last = lines_of(attested)
    found = [one["digest"]["sha256"] for one in payload_of(last)["predicate"]["statements"]]
    assert found == [hashlib.sha256(line).hexdigest() for line in before]


def test_only_what_passed_is_in_the_result(attested):
    result = payload_of(lines_of(attested)[1])["predicate"]
    assert result["properties"] == ["MIDGUARD_PASS_DP_BUDGET"]
    assert result["timeCreated"] == "2026-11-22T01:02:03Z"
    assert result["verifier"]["policies"] == [{"name": "policy.yaml", "digest": {"sha256": POLICY.sha256}}]
    assert result["verifier"]["id"].startswith("https://")


@pytest.mark.parametrize("findings", [[], FINDINGS[1:]], ids=["none", "none passed"])
def test_where_nothing_passed_there_is_no_result(signer, findings):
    content = evidence(findings)
    data = attest(content, files_of(content), MODEL, POLICY, signer)
    assert len(lines_of(data)) == 2
    assert read_attestation(data).result is None


def test_two_requirements_of_one_property_must_both_have_passed():
    both = [{"id": "dp-budget", "status": "pass"}, {"id": "dp_budget", "status": "fail"}]
    assert properties({"findings": both}) == ()
    assert properties({"findings": both[::-1]}) == ()
    assert properties({"findings": [both[0], both[0]]}) == ("MIDGUARD_PASS_DP_BUDGET",)


@pytest.mark.parametrize("content", [{}, {"findings": None}, {"findings": {}}, {"findings": ["pass"]}])
def test_evidence_without_findings_shows_nothing(content):
    with pytest.raises(AttestationError, match="expected"):
        properties(content)


# --- other implementations -------------------------------------------------------------------------------------------


def other_key(signer: Signer) -> SSlibKey:
    return SSlibKey.from_crypto(load_pem_public_key(signer.public_pem), keyid=signer.fingerprint)


def test_securesystemslib_verifies_every_line(attested, signer):
    for line in lines_of(attested):
        envelope = OtherEnvelope.from_dict(copy.deepcopy(json.loads(line)))
        assert envelope.payload_type == PAYLOAD_TYPE
        assert envelope.pae() == pae(envelope.payload)
        assert list(envelope.verify([other_key(signer)], 1)) == [signer.fingerprint]


def test_securesystemslib_refuses_another_key_and_another_payload(attested, signer, other):
    parsed = json.loads(lines_of(attested)[0])
    renamed = SSlibKey.from_crypto(load_pem_public_key(other.public_pem), keyid=signer.fingerprint)
    with pytest.raises(VerificationError):
        OtherEnvelope.from_dict(copy.deepcopy(parsed)).verify([renamed], 1)
    changed = OtherEnvelope.from_dict(copy.deepcopy(parsed))
    changed.payload += b" "
    with pytest.raises(VerificationError):
        changed.verify([other_key(signer)], 1)


def test_what_securesystemslib_signed_is_accepted(attested, signer, other):
    for line in lines_of(attested):
        theirs = OtherEnvelope(read_envelope(line[:-1]).payload, PAYLOAD_TYPE, {})
        theirs.sign(CryptoSigner(signer.key, other_key(signer)))
        envelope = read_envelope(rfc8785.dumps(theirs.to_dict()))
        check_signature(envelope, signer.key.public_key())
        with pytest.raises(AttestationError, match="another key"):
            check_signature(envelope, other.key.public_key())


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_verifies_every_line(attested, signer, tmp_path):
    (tmp_path / "pub").write_bytes(signer.public_pem)
    for line in lines_of(attested):
        envelope = json.loads(line)
        payload = base64.b64decode(envelope["payload"])
        (tmp_path / "sig").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
        for signed, text in ((payload, "Verified OK"), (payload + b" ", "Verification failure")):
            (tmp_path / "pae").write_bytes(b"DSSEv1 28 application/vnd.in-toto+json %d " % len(signed) + signed)
            command = ["openssl", "dgst", "-sha256", "-verify", "pub", "-signature", "sig", "pae"]
            assert text in subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True).stdout


# --- what is refused -------------------------------------------------------------------------------------------------


def test_the_evidence_must_be_what_is_attested(signer):
    good = evidence()
    elsewhere = Named.of("model.pt", b"another")
    with pytest.raises(ValueError, match="not among the files"):
        attest(good, files_of(good)[1:], MODEL, POLICY, signer)
    with pytest.raises(ValueError, match="about another subject"):
        attest(good, files_of(good), elsewhere, POLICY, signer)
    with pytest.raises(ValueError, match="about another policy"):
        attest(good, files_of(good), MODEL, elsewhere, signer)


@pytest.mark.parametrize(
    ("predicate", "why"),
    [
        (b'{"b":1, "a":2}', "not in RFC 8785"),
        (b'{"b":1,"a":2}', "not in RFC 8785"),
        (b'{"a":1}\n', "not in RFC 8785"),
        (b'{"a":1.0}', "not in RFC 8785"),
        (b'{"a":1,"a":1}', "not in RFC 8785"),
        (b'{"a":NaN}', "NaN is not JSON"),
        (b'{"a":-Infinity}', "-Infinity is not JSON"),
        (b'{"a":1e999}', "inf"),
        (b"", "Expecting value"),
        (b'"\xff"', "invalid start byte"),
    ],
)
def test_a_predicate_that_is_not_canonical_is_refused(predicate, why):
    with pytest.raises(ValueError, match=why):
        statement((MODEL,), EVALUATION, predicate)


def test_a_statement_is_about_something_and_about_each_thing_once():
    for subjects in ((), (MODEL, MODEL), (MODEL, Named.of("model.pt", b"other"))):
        with pytest.raises(ValueError, match="needs subjects"):
            statement(subjects, EVALUATION, b"{}")


@pytest.mark.parametrize("name", ["", ".", "..", "../model.pt", "/etc/passwd", "a\\b", "a\nb", "a\x00"])
def test_a_name_that_could_lead_out_of_the_folder_is_refused(name):
    with pytest.raises(ValueError, match="without a folder"):
        Named.of(name, b"")


@pytest.mark.parametrize("digest", ["", "a" * 63, "A" * 64, "g" * 64, "a" * 64 + "\n"])
def test_a_digest_is_64_lower_case_hex_digits(digest):
    with pytest.raises(ValueError, match="expected a SHA-256"):
        Named("model.pt", digest)


def refused(data: bytes, why: str = ".") -> None:
    with pytest.raises(AttestationError, match=why):
        read_attestation(data)


def test_lines_cannot_be_taken_out_put_in_swapped_or_cut(attested):
    one, two, three = lines_of(attested)
    for data in (b"", one, three, one + two, one + three, two + three, two + one + three, one + one + three):
        refused(data)
    for data in (one + two + three + three, attested + b"\n", attested[:-1], attested.replace(b"\n", b"\r\n")):
        refused(data)


def test_lines_of_two_attestations_cannot_be_mixed(attested, signer):
    again = evidence(verdict="pass")
    theirs = lines_of(attest(again, files_of(again), MODEL, POLICY, signer))
    mine = lines_of(attested)
    for i in range(3):
        refused(b"".join([*mine[:i], theirs[i], *mine[i + 1 :]]), "the lines are not the ones|evidence is not among")


def test_every_line_is_of_one_key(attested, other):
    lines = lines_of(attested)
    for i in range(3):
        resigned = sign(read_envelope(lines[i][:-1]).payload, other) + b"\n"
        refused(b"".join([*lines[:i], resigned, *lines[i + 1 :]]), "another key")


def test_statements_of_another_meaning_are_not_an_evaluation(signer):
    content = rfc8785.dumps({"signer": signed_by(signer), "statements": []})
    line = sign(statement((MODEL,), "https://example.org/x", content), signer) + b"\n"
    refused(line * 2, "not the statements of a privacy evaluation")
    refused(line, "expected 2 or 3 statements, found 1")
    refused(line * 4, "expected 2 or 3 statements, found 4")


def test_a_bundle_without_the_evidence_is_refused(signer):
    line = sign(statement((MODEL,), EVALUATION, evidence()), signer) + b"\n"
    digests = [{"predicateType": EVALUATION, "digest": {"sha256": hashlib.sha256(line).hexdigest()}}]
    predicate = rfc8785.dumps({"signer": signed_by(signer), "statements": digests})
    good, bad = (
        line + sign(statement(files, BUNDLE, predicate), signer) + b"\n"
        for files in (files_of(evidence()), files_of(evidence())[1:])
    )
    assert read_attestation(good).evidence == evidence()
    refused(bad, "the evidence is not among the files")


def reworded(line: bytes, change) -> bytes:
    envelope = json.loads(line)
    change(envelope)
    return rfc8785.dumps(envelope) + b"\n"


@pytest.mark.parametrize(
    "change",
    [
        lambda e: e.update(extra=1),
        lambda e: e.update(payloadType="text/plain"),
        lambda e: e.update(payload=e["payload"] + "\n"),
        lambda e: e.update(payload=None),
        lambda e: e.update(signatures=[]),
        lambda e: e.update(signatures=e["signatures"] * 2),
        lambda e: e.update(signatures={}),
        lambda e: e["signatures"][0].update(keyid=""),
        lambda e: e["signatures"][0].update(keyid=7),
        lambda e: e["signatures"][0].pop("keyid"),
        lambda e: e["signatures"][0].update(sig=""),
        lambda e: e["signatures"][0].update(cert=""),
        lambda e: e.pop("payload"),
    ],
)
@pytest.mark.parametrize("which", [0, 2])
def test_an_envelope_of_another_shape_is_refused(attested, change, which):
    lines = lines_of(attested)
    lines[which] = reworded(lines[which], change)
    refused(b"".join(lines))


def test_a_keyid_of_another_key_is_refused(attested, other):
    lines = lines_of(attested)
    lines[0] = reworded(lines[0], lambda e: e["signatures"][0].update(keyid=other.fingerprint))
    refused(b"".join(lines), "signed by another key")


@pytest.mark.parametrize(
    "data", [b"\n", b"null\n", b"[]\n", b"1\n", b'"x"\n', b"[" * 100_000 + b"\n", b"\xff\n", b"9" * 5000 + b"\n"]
)
def test_garbage_is_refused_without_an_accident(data):
    refused(data, "not a DSSE envelope")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        b"[]",
        b'{"predicateType":"x","subject":[]}',
        b'{"_type":"https://in-toto.io/Statement/v1","predicate":{},"predicateType":"x","subject":[1]}',
        b"[" * 100_000,
        b'{"subject":[{"name":"a","digest":{"sha256":"b"}}],"predicateType":"x"}',
    ],
)
def test_a_payload_that_is_no_statement_is_refused(payload):
    with pytest.raises(AttestationError):
        read_statement(payload)


def test_a_statement_in_another_order_or_of_another_version_is_refused():
    payload = statement((MODEL,), EVALUATION, b"{}")
    spaced = json.dumps(json.loads(payload)).encode()
    with pytest.raises(AttestationError, match="not an in-toto statement"):
        read_statement(spaced)
    with pytest.raises(AttestationError, match="not in canonical form"):
        read_statement(payload.replace(b"Statement/v1", b"Statement/v2"))


@pytest.mark.parametrize("carried", ["", "-----BEGIN PRIVATE KEY-----", "no key", None])
def test_a_bundle_must_carry_a_usable_key(signer, carried):
    predicate = rfc8785.dumps({"signer": {"name": "x", "publicKey": carried}, "statements": []})
    line = sign(statement((MODEL,), EVALUATION, evidence()), signer) + b"\n"
    refused(line + sign(statement((MODEL,), BUNDLE, predicate), signer) + b"\n", "the public key that it carries")
    refused(line * 2, "expected signer to be a JSON object")


def test_a_signature_over_the_bare_payload_is_not_one_over_its_encoding(signer, attested):
    """Without the pre-authentication encoding a payload of one type could be replayed as another."""
    lines = lines_of(attested)
    payload = read_envelope(lines[0][:-1]).payload
    bare = base64.b64encode(signer.key.sign(payload, ec.ECDSA(hashes.SHA256()))).decode()
    lines[0] = reworded(lines[0], lambda e: e["signatures"][0].update(sig=bare))
    refused(b"".join(lines), "the signature does not match")
