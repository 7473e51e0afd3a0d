"""Signed reports and `verify`: every flipped byte is found, nothing is valid without a key that the caller named."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import rfc8785
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from midguard.engine.attestation import FILE_NAME, Named, attest, sign, signed_by, statement
from midguard.engine.errors import InputError
from midguard.engine.keys import Signer, load_signer, new_key
from midguard.reports.signature import (
    REPORT,
    SLOT,
    HtmlSignature,
    PdfSignature,
    SignatureError,
    attachment,
    check_html,
    check_pdf,
    sign_html,
    sign_pdf,
)
from midguard.reports.verify import Kind, Verification, recognise, verify

MODEL = b"the model"
POLICY = Named.of("policy.yaml", b"the policy")
EVIDENCE = rfc8785.dumps(
    {
        "schemaVersion": "1",
        "verdict": "fail",
        "created": "2026-11-22T01:02:03Z",
        "subject": {"name": "dïgits", "sha256": Named.of("m", MODEL).sha256},
        "policy": {"name": "demo", "sha256": POLICY.sha256, "text": "spec:\n  requirements: []\n"},
        "findings": [{"id": f"r{i}", "status": "pass" if i % 2 else "fail", "value": i / 7} for i in range(12)],
    }
)
HTML = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Privacy test report</title></head>
<body><h1>Verdict: fail</h1><p>ε ≤ 8, é</p>
{SLOT}
</body></html>
"""
OUTPUTS = ("evidence.json", FILE_NAME, "report.html", "report.pdf")
VERIFY_MD = Path(__file__).parents[1] / "docs" / "verify.md"
AUDIT_TOOLS = ("sh", "openssl", "jq", "sha256sum", "base64", "sed", "pdfsig", "pdfdetach")
missing_tools = [tool for tool in AUDIT_TOOLS if shutil.which(tool) is None]
needs_audit_tools = pytest.mark.skipif(bool(missing_tools), reason=f"not installed: {', '.join(missing_tools)}")


def flips(data: bytes, n: int, seed: int) -> Iterator[bytes]:
    """The data with one byte changed, `n` times, evenly from the first byte to the last: a bit, a digit, any byte."""
    rng = random.Random(seed)
    for i in range(n):
        place = round(i * (len(data) - 1) / max(1, n - 1))
        old = data[place]
        candidates = (old ^ 1 << rng.randrange(8), rng.choice(b"0123456789abcdefABCDEF \n="), rng.randrange(256))
        new = next((c for c in rng.sample(candidates, 3) if c != old), old ^ 1)
        yield data[:place] + bytes([new]) + data[place + 1 :]


def unsigned_pdf(evidence: bytes = EVIDENCE, names: tuple[str, ...] = ("evidence.json",)) -> bytes:
    import weasyprint

    page = '<html lang="en"><head><title>Report</title></head><body><h1>Verdict: fail</h1></body></html>'
    attached = [
        weasyprint.Attachment(string=evidence, name=name, description="evidence", relationship="Data") for name in names
    ]
    return bytes(weasyprint.HTML(string=page).write_pdf(pdf_variant="pdf/a-3a", attachments=attached))


@pytest.fixture(scope="session")
def signer(tmp_path_factory) -> Signer:
    return load_signer(new_key(tmp_path_factory.mktemp("signer"), "Privacy office", None), None)


@pytest.fixture(scope="session")
def other(tmp_path_factory) -> Signer:
    return load_signer(new_key(tmp_path_factory.mktemp("other"), "Somebody else", None), None)


@pytest.fixture(scope="session")
def plain_pdf() -> bytes:
    return unsigned_pdf()


def write_outputs(folder: Path, signer: Signer, plain_pdf: bytes) -> Path:
    files = {
        "evidence.json": EVIDENCE,
        "report.html": sign_html(HTML, signer).encode(),
        "report.pdf": sign_pdf(plain_pdf, signer),
    }
    named = tuple(Named.of(name, content) for name, content in files.items())
    files[FILE_NAME] = attest(EVIDENCE, named, Named.of("model.pt", MODEL), POLICY, signer)
    for name, content in (files | {"model.pt": MODEL, "signer.pub": signer.public_pem}).items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="session")
def written(tmp_path_factory, signer, plain_pdf) -> Path:
    return write_outputs(tmp_path_factory.mktemp("outputs"), signer, plain_pdf)


@pytest.fixture
def folder(tmp_path, written) -> Path:
    return Path(shutil.copytree(written, tmp_path / "outputs"))


@pytest.fixture
def stranger(tmp_path, other) -> Path:
    path = tmp_path / "stranger.pub"
    path.write_bytes(other.public_pem)
    return path


def verify_in(folder: Path, name: str) -> Verification:
    return verify(folder / name, folder / "signer.pub", folder / "model.pt")


def bad(found: Verification) -> list[str]:
    return [line.name for line in found.lines if not line.ok]


# --- what is valid ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OUTPUTS)
def test_each_output_is_valid_with_the_key_and_the_model(written, signer, name):
    found = verify_in(written, name)
    assert found.exit_code == 0
    assert found.valid
    assert not bad(found)
    assert not found.missing
    assert found.fingerprint == signer.fingerprint
    assert found.summary.startswith("valid: ")
    assert all(str(line).startswith("ok ") for line in found.lines)


@pytest.mark.parametrize("name", OUTPUTS)
def test_each_output_is_known_by_its_content(folder, name):
    kind = verify_in(folder, name).kind
    renamed = folder / "renamed"
    (folder / name).rename(renamed)
    assert recognise(renamed.read_bytes(), "renamed") == kind


def test_the_attestation_says_what_it_says_of_the_model(written):
    (line,) = [line for line in verify_in(written, FILE_NAME).lines if line.name == "attestation"]
    assert line.note == "intact; it says of model.pt: fail"


@pytest.mark.parametrize("name", OUTPUTS)
def test_without_a_key_it_is_intact_but_never_valid(written, signer, name):
    found = verify(written / name, None, written / "model.pt")
    assert found.exit_code == 1
    assert not bad(found)
    assert "intact, but signed by nobody you named" in found.summary
    assert signer.fingerprint in found.summary


@pytest.mark.parametrize("name", OUTPUTS)
def test_with_another_key_it_is_not_valid(written, stranger, name):
    found = verify(written / name, stranger)
    assert found.exit_code == 1
    assert "signed by key" in found.summary


@pytest.mark.parametrize("name", OUTPUTS)
def test_another_model_is_not_the_one_that_was_attested(folder, name):
    (folder / "model.pt").write_bytes(b"another model")
    found = verify_in(folder, name)
    assert found.exit_code == 1
    assert bad(found) == ["model"]


@pytest.mark.parametrize("name", ["report.html", "report.pdf"])
def test_a_lone_report_is_valid_by_its_own_signature_and_says_what_was_not_checked(folder, name):
    (folder / FILE_NAME).unlink()
    found = verify(folder / name, folder / "signer.pub")
    assert found.exit_code == 0
    assert "attestation.intoto.jsonl is not beside it" in found.missing[0]
    named_model = verify_in(folder, name)
    assert named_model.exit_code == 1
    assert bad(named_model) == ["model"]


def test_evidence_alone_shows_nothing(folder):
    (folder / FILE_NAME).unlink()
    for key in (folder / "signer.pub", None):
        found = verify(folder / "evidence.json", key)
        assert found.exit_code == 1
        assert "no attestation beside it" in found.summary
        assert found.fingerprint is None


def test_an_attestation_names_what_is_not_beside_it(folder):
    for name in ("report.html", "report.pdf", "evidence.json"):
        (folder / name).unlink()
    found = verify_in(folder, FILE_NAME)
    assert found.exit_code == 0
    assert [text.split(" ")[0] for text in found.missing] == ["evidence.json", "report.html", "report.pdf"]


@pytest.mark.parametrize("name", ["evidence.json", "report.html", "report.pdf"])
def test_what_is_beside_an_attestation_must_match(folder, name):
    (folder / name).write_bytes((folder / name).read_bytes() + b"\n")
    found = verify_in(folder, FILE_NAME)
    assert found.exit_code == 1
    assert bad(found) == [f"digest of {name}"]


@pytest.mark.parametrize("name", ["evidence.json", "report.html", "report.pdf"])
def test_a_broken_attestation_beside_a_file_counts(folder, name):
    (folder / FILE_NAME).write_bytes((folder / FILE_NAME).read_bytes()[:-1])
    found = verify_in(folder, name)
    assert found.exit_code == 1
    assert "attestation" in bad(found)


@pytest.mark.parametrize("name", ["evidence.json", "report.html", "report.pdf"])
def test_a_report_of_another_run_does_not_belong_to_this_attestation(folder, signer, plain_pdf, name):
    changed = {
        "evidence.json": EVIDENCE.replace(b'"fail"', b'"pass"', 1),
        "report.html": sign_html(HTML.replace("fail", "pass"), signer).encode(),
        "report.pdf": sign_pdf(plain_pdf, signer),
    }
    (folder / name).write_bytes(changed[name])
    found = verify_in(folder, name)
    assert found.exit_code == 1
    assert "digest in the attestation" in bad(found)


def test_signatures_of_different_keys_do_not_belong_together(folder, tmp_path, other, plain_pdf):
    (tmp_path / "theirs").mkdir()
    theirs = write_outputs(tmp_path / "theirs", other, plain_pdf)
    shutil.copy(theirs / FILE_NAME, folder / FILE_NAME)
    with_key = verify(folder / "report.html", folder / "signer.pub")
    assert with_key.exit_code == 1
    assert not with_key.trusted
    assert "attestation signed by the key you named" in bad(with_key)
    without = verify(folder / "report.html", None)
    assert "signers" in bad(without)
    assert without.fingerprint is None


def attested_pdf(folder: Path, signer: Signer, pdf: bytes) -> Verification:
    """A folder whose attestation names this PDF, whatever evidence the PDF carries."""
    signed = sign_pdf(pdf, signer)
    files = (Named.of("evidence.json", EVIDENCE), Named.of("report.pdf", signed))
    (folder / "report.pdf").write_bytes(signed)
    (folder / FILE_NAME).write_bytes(attest(EVIDENCE, files, Named.of("model.pt", MODEL), POLICY, signer))
    return verify_in(folder, "report.pdf")


def test_the_evidence_inside_the_pdf_must_be_the_attested_one(folder, signer):
    assert attested_pdf(folder, signer, unsigned_pdf()).exit_code == 0
    for pdf, why in (
        (unsigned_pdf(EVIDENCE.replace(b"fail", b"pass")), "differs from the attestation's"),
        (unsigned_pdf(names=()), "not attached"),
        (unsigned_pdf(names=("other.json",)), "not attached"),
    ):
        found = attested_pdf(folder, signer, pdf)
        assert found.exit_code == 1
        assert bad(found) == ["evidence inside the PDF"]
        assert why in found.summary


def test_attachments_come_back_as_they_were(written, plain_pdf):
    pdf = (written / "report.pdf").read_bytes()
    assert attachment(pdf, "evidence.json") == EVIDENCE
    assert attachment(pdf, "policy.yaml") is None
    many = unsigned_pdf(names=tuple(f"file-{i:02}.json" for i in range(40)))
    assert attachment(many, "file-39.json") == EVIDENCE
    with pytest.raises(SignatureError, match="2 attachments are named"):
        attachment(unsigned_pdf(names=("evidence.json", "evidence.json")), "evidence.json")
    with pytest.raises(SignatureError, match="cannot read the attachments"):
        attachment(b"%PDF-", "evidence.json")


# --- every byte counts -----------------------------------------------------------------------------------------------


def all_refused(path: Path, variants: Iterator[bytes], key: Path) -> int:
    count = 0
    for count, content in enumerate(variants, start=1):
        path.write_bytes(content)
        found = verify(path, key)
        assert found.exit_code == 1, f"variant {count} passed"
        assert bad(found)
    return count


@pytest.mark.parametrize("name", OUTPUTS)
def test_500_flips_of_each_output_are_all_refused(folder, name):
    path = folder / name
    assert all_refused(path, flips(path.read_bytes(), 500, seed=1), folder / "signer.pub") == 500


@pytest.mark.parametrize("name", OUTPUTS)
def test_500_flips_of_each_output_are_all_refused_where_nothing_else_is_beside_it(tmp_path, written, name):
    path = tmp_path / name
    content = (written / name).read_bytes()
    assert all_refused(path, flips(content, 500, seed=2), written / "signer.pub") == 500


def test_every_byte_that_the_pdf_signature_does_not_cover_is_fixed(written):
    """All of the container and its padding, three changes a byte: a bit, the case of a letter, another digit."""
    pdf = (written / "report.pdf").read_bytes()
    start = pdf.index(b"/Contents <") + len(b"/Contents ")
    end = pdf.index(b">", start) + 1
    for place in range(start, end):
        for new in (pdf[place] ^ 1, pdf[place] ^ 0x20, ord("5") if pdf[place] != ord("5") else ord("6")):
            assert not check_pdf(pdf[:place] + bytes([new]) + pdf[place + 1 :]).intact, place - start


def test_every_byte_of_the_html_signature_is_fixed(written):
    html = (written / "report.html").read_bytes()
    start, end = html.index(b"<script"), html.index(b"</script>") + len(b"</script>")
    for place in range(start, end):
        for flipped in (html[place] ^ 1, html[place] ^ 0x20):
            assert not check_html(html[:place] + bytes([flipped]) + html[place + 1 :]).intact, place - start


@pytest.mark.parametrize("name", OUTPUTS)
def test_bytes_cannot_be_added_or_taken_away(folder, name):
    path = folder / name
    content = path.read_bytes()
    half = len(content) // 2
    variants = [content + b"\n", content + b" ", b"\n" + content, content[:-1], content[1:], content + content, b""]
    variants += [content[:half], content[:half] + b"\n" + content[half:], content[:half] + content[half + 1 :]]
    all_refused(path, iter(variants), folder / "signer.pub")


# --- the PDF ---------------------------------------------------------------------------------------------------------


def test_a_signed_pdf_is_certified_whole_by_its_signer(written, signer):
    expected = PdfSignature(True, True, True, signer.fingerprint, ())
    assert check_pdf((written / "report.pdf").read_bytes()) == expected


def appended(pdf: bytes) -> bytes:
    from pyhanko.pdf_utils.generic import pdf_name
    from pyhanko.pdf_utils.incremental_writer import IncrementalPdfFileWriter

    writer = IncrementalPdfFileWriter(io.BytesIO(pdf))
    writer.root[pdf_name("/Lang")] = pdf_name("/de")
    writer.update_root()
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def test_an_appended_revision_is_refused(folder):
    changed = appended((folder / "report.pdf").read_bytes())
    found = check_pdf(changed)
    assert not found.intact
    assert found.problems == ("the signature does not cover the whole file",)
    (folder / FILE_NAME).unlink()
    all_refused(folder / "report.pdf", iter([changed]), folder / "signer.pub")


@needs_audit_tools
def test_pdfsig_calls_an_appended_revision_valid_but_not_the_total_document(folder):
    """Why docs/verify.md makes the auditor look for the third line."""
    (folder / "appended.pdf").write_bytes(appended((folder / "report.pdf").read_bytes()))
    said = {name: run("pdfsig", "-nocert", name, cwd=folder).stdout for name in ("report.pdf", "appended.pdf")}
    assert all("Signature is Valid" in text for text in said.values())
    assert "Total document signed" in said["report.pdf"]
    assert "Total document signed" not in said["appended.pdf"]


def signed_otherwise(pdf: bytes, signer: Signer, **settings) -> bytes:
    from pyhanko.pdf_utils.incremental_writer import IncrementalPdfFileWriter
    from pyhanko.sign.fields import SigSeedSubFilter
    from pyhanko.sign.signers import PdfSignatureMetadata, PdfSigner

    from midguard.reports.signature import _pyhanko_signer

    made = {"field_name": "f", "md_algorithm": "sha256", "subfilter": SigSeedSubFilter.PADES} | settings
    writer = IncrementalPdfFileWriter(io.BytesIO(pdf))
    return PdfSigner(PdfSignatureMetadata(**made), _pyhanko_signer(signer)).sign_pdf(writer).getvalue()


def test_a_signature_that_permits_changes_is_refused(plain_pdf, signer):
    from pyhanko.sign.fields import MDPPerm

    same = signed_otherwise(plain_pdf, signer, certify=True, docmdp_permissions=MDPPerm.NO_CHANGES)
    assert check_pdf(same).intact
    for settings in ({}, {"certify": True, "docmdp_permissions": MDPPerm.FILL_FORMS}):
        found = check_pdf(signed_otherwise(plain_pdf, signer, **settings))
        assert not found.intact
        assert found.covers_whole_file
        assert found.problems


def test_two_signatures_are_one_too_many(written, signer, other):
    pdf = (written / "report.pdf").read_bytes()
    with pytest.raises(SignatureError, match="cannot sign the PDF"):
        sign_pdf(pdf, signer)
    twice = signed_otherwise(signed_otherwise(unsigned_pdf(), signer), other, field_name="g")
    assert check_pdf(twice).problems == ("expected exactly one signature, found 2",)


def test_another_digest_or_an_unsigned_attribute_is_refused(plain_pdf, signer):
    from pyhanko.sign.fields import MDPPerm

    certified = {"certify": True, "docmdp_permissions": MDPPerm.NO_CHANGES}
    found = check_pdf(signed_otherwise(plain_pdf, signer, **certified | {"md_algorithm": "sha512"}))
    assert found.problems == ("the signature's container holds something that is not signed",)


@pytest.mark.parametrize(
    "pdf",
    [
        b"",
        b"%PDF-1.7\n%%EOF\n",
        b"/ByteRange [0 1 2 3]",
        b"/ByteRange [0 3 1 19]",
        b"/ByteRange [0 999999999999 999999999999 999999999999]",
        b"<3000>/ByteRange [0 1 6 20]",
    ],
)
def test_garbage_is_not_intact_and_raises_nothing(pdf):
    found = check_pdf(pdf)
    assert not found.intact
    assert found.problems
    assert found.public_key_fingerprint is None


def test_what_pyhanko_cannot_sign_is_an_error_that_says_so(signer):
    with pytest.raises(SignatureError, match="cannot sign the PDF"):
        sign_pdf(b"no PDF", signer)


def test_a_key_outlives_its_certificate_for_those_who_trust_the_key(plain_pdf):
    """Trust is in the key that the caller names; the certificate's dates are the signer's own word."""
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Someone")])
    until = datetime.now(UTC) - timedelta(days=1)
    builder = x509.CertificateBuilder(who, who, key.public_key(), x509.random_serial_number())
    expired = builder.not_valid_before(until - timedelta(days=9)).not_valid_after(until).sign(key, hashes.SHA256())
    assert check_pdf(sign_pdf(plain_pdf, Signer(key, expired))).intact


def test_it_signs_and_checks_inside_a_running_event_loop(plain_pdf, signer):
    async def notebook() -> PdfSignature:
        return check_pdf(sign_pdf(plain_pdf, signer))

    assert asyncio.run(notebook()).intact


# --- the HTML --------------------------------------------------------------------------------------------------------


def test_the_signature_changes_the_slot_alone(signer):
    signed = sign_html(HTML, signer)
    assert re.sub(r'(id="midguard-attestation">)[^<]*', r"\1", signed) == HTML
    assert check_html(signed.encode()) == HtmlSignature(True, signer.fingerprint, ())


@pytest.mark.parametrize("html", ["", "<html></html>", HTML + SLOT, HTML.replace("></script>", "> </script>")])
def test_a_report_without_exactly_one_empty_slot_is_not_signed(signer, html):
    with pytest.raises(SignatureError, match="exactly one empty slot"):
        sign_html(html, signer)


def test_a_signed_report_is_not_signed_again(signer):
    with pytest.raises(SignatureError, match="exactly one empty slot"):
        sign_html(sign_html(HTML, signer), signer)


def test_an_unsigned_report_says_so(folder):
    assert check_html(HTML.encode()).problems == ("the report is not signed",)
    (folder / "report.html").write_text(HTML)
    assert verify(folder / "report.html", folder / "signer.pub").exit_code == 1


def test_a_second_slot_is_refused(signer):
    signed = sign_html(HTML, signer)
    slot = signed[signed.index("<script") : signed.index("</script>") + len("</script>")]
    assert check_html((signed + slot).encode()).problems == ("expected exactly one slot for a signature, found 2",)
    assert check_html((signed + SLOT).encode()).problems == ("expected exactly one slot for a signature, found 2",)


def in_slot(envelope: bytes) -> bytes:
    opening = SLOT.removesuffix("</script>").encode()
    return HTML.encode().replace(SLOT.encode(), opening + envelope + b"</script>")


def test_an_envelope_of_another_report_or_meaning_is_refused(signer):
    predicate = rfc8785.dumps({"signer": signed_by(signer)})
    right = Named.of("report.html", HTML.encode())
    assert check_html(in_slot(sign(statement((right,), REPORT, predicate), signer))).intact
    for subject, kind in ((Named.of("report.html", b"other"), REPORT), (right, REPORT + "x")):
        found = check_html(in_slot(sign(statement((subject,), kind, predicate), signer)))
        assert found.problems == ("the report is not the one that was signed",)


def test_an_envelope_of_another_key_than_it_carries_is_refused(signer, other):
    payload = statement((Named.of("r", HTML.encode()),), REPORT, rfc8785.dumps({"signer": signed_by(signer)}))
    assert "signed by another key" in check_html(in_slot(sign(payload, other))).problems[0]


# --- bad input and empty findings ------------------------------------------------------------------------------------


def test_unreadable_files_are_bad_input(written, tmp_path):
    (tmp_path / "key").write_bytes(b"no key")
    report, key, model = written / "report.pdf", written / "signer.pub", written / "model.pt"
    for arguments in (
        (tmp_path / "missing.pdf", key, None),
        (tmp_path, key, None),
        (report, tmp_path / "missing.pub", None),
        (report, tmp_path / "key", None),
        (report, key, tmp_path / "missing.pt"),
    ):
        with pytest.raises(InputError):
            verify(*arguments)
    assert verify(report, key, model).exit_code == 0


def test_a_file_too_large_for_any_output_is_bad_input(tmp_path, monkeypatch):
    monkeypatch.setattr("midguard.reports.verify.LARGEST_FILE", 3)
    (tmp_path / "report.pdf").write_bytes(b"%PDF")
    with pytest.raises(InputError, match="larger than any output"):
        verify(tmp_path / "report.pdf", None)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 100, MODEL])
def test_a_file_that_is_none_of_the_outputs_is_not_valid(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    found = verify(tmp_path / "file", None)
    assert found.kind is Kind.UNKNOWN
    assert found.exit_code == 1
    assert bad(found)


def test_nothing_looked_at_is_nothing_shown(written):
    found = verify_in(written, "report.pdf")
    assert dataclasses.replace(found, lines=()).exit_code == 1
    assert dataclasses.replace(found, trusted=False).exit_code == 1
    assert "nothing was checked" in dataclasses.replace(found, lines=()).summary


def test_a_signature_record_cannot_say_two_things():
    for record in (
        lambda: PdfSignature(True, False, True, "f", ()),
        lambda: PdfSignature(True, True, True, None, ()),
        lambda: PdfSignature(True, True, True, "f", ("problem",)),
        lambda: PdfSignature(False, False, False, None, ()),
        lambda: HtmlSignature(True, "f", ("problem",)),
        lambda: HtmlSignature(True, None, ()),
        lambda: HtmlSignature(False, None, ()),
    ):
        with pytest.raises(ValueError, match=r"not intact|an intact PDF"):
            record()


def test_verify_does_not_load_torch():
    code = (
        "import sys, midguard.reports.verify; print([m for m in ('torch', 'numpy', 'weasyprint') if m in sys.modules])"
    )
    assert run(sys.executable, "-c", code).stdout.strip() == "[]"


# --- the auditor's commands ------------------------------------------------------------------------------------------


def run(*command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=cwd, timeout=120)


def documented(folder: Path) -> subprocess.CompletedProcess[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", VERIFY_MD.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 6
    return run("sh", "-c", "\n".join(blocks), cwd=folder)


@needs_audit_tools
def test_the_documented_commands_accept_real_outputs(folder, signer):
    ended = documented(folder)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("Verified OK") == 4
    assert f"{signer.fingerprint}  check/key.der" in ended.stdout
    for name in ("model.pt", "evidence.json", "report.html", "report.pdf", "check/report-empty.html"):
        assert f"{name}: OK" in ended.stdout
    assert "the signed verdict: fail" in ended.stdout
    assert (folder / "check" / "attached" / "evidence.json").read_bytes() == EVIDENCE


@needs_audit_tools
@pytest.mark.parametrize("name", [*OUTPUTS, "model.pt", "signer.pub"])
def test_the_documented_commands_refuse_a_changed_file(folder, other, name):
    content = (folder / name).read_bytes()
    half = len(content) // 2
    changed = content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]
    (folder / name).write_bytes(other.public_pem if name == "signer.pub" else changed)
    assert documented(folder).returncode != 0


@needs_audit_tools
def test_the_documented_commands_refuse_a_line_taken_out(folder):
    one, _, three = (folder / FILE_NAME).read_bytes().splitlines(keepends=True)
    (folder / FILE_NAME).write_bytes(one + three)
    assert documented(folder).returncode != 0


@needs_audit_tools
@pytest.mark.parametrize("part", ["html", "pdf"])
def test_the_documented_commands_refuse_a_report_signed_by_another_key(folder, signer, other, plain_pdf, part):
    """The attestation is in order and names the report, whose own signature is another's."""
    reports = {
        "report.html": sign_html(HTML, other if part == "html" else signer).encode(),
        "report.pdf": sign_pdf(plain_pdf, other if part == "pdf" else signer),
        "evidence.json": EVIDENCE,
    }
    for name, content in reports.items():
        (folder / name).write_bytes(content)
    files = tuple(Named.of(name, content) for name, content in reports.items())
    (folder / FILE_NAME).write_bytes(attest(EVIDENCE, files, Named.of("model.pt", MODEL), POLICY, signer))
    ended = documented(folder)
    assert ended.returncode != 0
    assert "report.pdf: OK" in ended.stdout
    found = verify_in(folder, f"report.{part}")
    assert bad(found) == [f"{part.upper()} signed by the key you named"]
