"""Signatures inside the reports: PAdES in the PDF, a DSSE envelope in the HTML.

Checking is strict: whatever is not covered by a signature must be, byte for byte, what midguard writes there, so that
no byte of a report can change unnoticed. Whoever signed, the reader must know the key from elsewhere.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ..engine.attestation import (
    AttestationError,
    Named,
    canonical,
    carried_key,
    check_signature,
    read_envelope,
    read_statement,
    sign,
    signed_by,
    statement,
)
from ..engine.errors import MidguardError
from ..engine.keys import Signer, fingerprint

if TYPE_CHECKING:
    from asn1crypto import cms
    from pyhanko.pdf_utils.reader import PdfFileReader
    from pyhanko.sign.signers import SimpleSigner

_Outcome = TypeVar("_Outcome")

#: Where an HTML report holds its signature; the report is written with it empty, exactly once.
SLOT = '<script type="application/vnd.dsse+json" id="midguard-attestation"></script>'
REPORT = "https://midguard.dev/attestation/report/v1"
FIELD = "midguard"
_OPEN, _CLOSE = (SLOT[: -len("</script>")].encode(), b"</script>")
_BYTE_RANGE = re.compile(rb"/ByteRange \[0 (\d{1,12}) (\d{1,12}) (\d{1,12})\]")


class SignatureError(MidguardError):
    """A report cannot be signed, or is not what was signed; the message says why."""


@dataclass(frozen=True, slots=True)
class PdfSignature:
    """What the signature inside a PDF shows.

    Attributes:
        intact: Nothing in the file differs from what was signed, all of it; False where anything is in doubt.
        covers_whole_file: Every byte but the signature itself is under the signature.
        certifying: It is a certification that permits no later change.
        public_key_fingerprint: Of the key that signed; None where no signature holds.
        problems: What is wrong; empty exactly where it is intact.
    """

    intact: bool
    covers_whole_file: bool
    certifying: bool
    public_key_fingerprint: str | None
    problems: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.intact and not (self.covers_whole_file and self.certifying and self.public_key_fingerprint):
            raise ValueError("an intact PDF is covered whole, certified, and signed by some key")
        if self.intact == bool(self.problems):
            raise ValueError("problems are named exactly where a PDF is not intact")


@dataclass(frozen=True, slots=True)
class HtmlSignature:
    """What the signature inside an HTML report shows.

    Attributes:
        intact: Nothing in the file differs from what was signed.
        public_key_fingerprint: Of the key that signed; None where no signature holds.
        problems: What is wrong; empty exactly where it is intact.
    """

    intact: bool
    public_key_fingerprint: str | None
    problems: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.intact == bool(self.problems) or self.intact != bool(self.public_key_fingerprint):
            raise ValueError("problems are named exactly where an HTML is not intact, a key where it is")


@dataclass(frozen=True, slots=True)
class _Gap:
    """Where a PDF's signature lies: the bytes between `start` and `end`, angle brackets included, are not signed."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Container:
    """The three parts of a CMS signature that are not fixed, each in DER."""

    certificate: bytes
    attributes: bytes
    signature: bytes


def sign_pdf(pdf: bytes, signer: Signer) -> bytes:
    """Certify a PDF: PAdES B-B, invisible, no change permitted; the result has been checked.

    Raises:
        SignatureError: It could not be signed, or the outcome does not verify (a PDF that is signed already).
    """
    try:
        signed = _beside_any_loop(lambda: _certify(pdf, signer))
    except Exception as error:  # whatever a PDF that is none of ours makes pyHanko do
        raise SignatureError(f"cannot sign the PDF: {type(error).__name__}: {error}") from error
    outcome = check_pdf(signed)
    if not outcome.intact:
        raise SignatureError(f"the signed PDF does not verify: {'; '.join(outcome.problems)}")
    return signed


def check_pdf(pdf: bytes) -> PdfSignature:
    """Check the signature inside a PDF; never raises, whatever the bytes are.

    1. One byte range covers the whole file but one string of hex digits.
    2. The string is one CMS container in upper case, and zeros.
    3. The container is, byte for byte, what its certificate, signed attributes and signature give: P-256, SHA-256.
    4. The signed attributes name the digest of the covered bytes and the certificate, whose key signed them.
    5. A second implementation (pyHanko) finds one signature over the whole file, certifying that nothing may change.
    """
    covered = False
    try:
        gap = _find_gap(pdf)  # 1
        covered = True
        container = _open_container(pdf[gap.start : gap.end])  # 2, 3
        key = _check_container(container, pdf[: gap.start] + pdf[gap.end :])  # 4
        _beside_any_loop(lambda: _check_again(pdf))  # 5
    except Exception as error:  # a hostile file may raise anything in a parser; none of it is a pass
        return PdfSignature(False, covered, False, None, (_say(error),))
    return PdfSignature(True, True, True, fingerprint(key), ())


def attachment(pdf: bytes, name: str) -> bytes | None:
    """The file attached to a PDF under this name; None where there is none.

    Raises:
        SignatureError: Two have the name, or the PDF cannot be read.
    """
    try:
        found = [content for title, content in _attachments(_reader(pdf)) if title == name]
    except Exception as error:  # whatever a hostile PDF makes the parser do
        raise SignatureError(f"cannot read the attachments ({type(error).__name__})") from error
    if len(found) > 1:
        raise SignatureError(f"{len(found)} attachments are named {name}")
    return found[0] if found else None


def sign_html(html: str, signer: Signer) -> str:
    """Fill the report's empty slot with a signature over the report as it stands.

    Raises:
        SignatureError: The report does not have exactly one empty slot.
    """
    if html.count(SLOT) != 1 or html.encode().count(_OPEN) != 1:
        raise SignatureError(f"expected exactly one empty slot {SLOT}, found {html.count(SLOT)}")
    subject = Named.of("report.html", html.encode())
    payload = statement((subject,), REPORT, canonical({"signer": signed_by(signer)}))
    envelope = sign(payload, signer).decode()
    return html.replace(SLOT, _OPEN.decode() + envelope + _CLOSE.decode())


def check_html(html: bytes) -> HtmlSignature:
    """Check the signature inside an HTML report; never raises, whatever the bytes are.

    1. There is one slot and a canonical envelope in it.
    2. It is signed by the key that it carries.
    3. Its statement is about this report: the digest is that of the file with the slot empty.
    """
    try:
        before, envelope, after = _split_slot(html)
        opened = read_envelope(envelope)  # 1
        signed = read_statement(opened.payload)
        key = carried_key(signed)
        check_signature(opened, key)  # 2
        if signed.predicate_type != REPORT or not signed.names(Named.of("report", before + after).sha256):  # 3
            raise SignatureError("the report is not the one that was signed")
    except (AttestationError, SignatureError) as error:
        return HtmlSignature(False, None, (str(error),))
    return HtmlSignature(True, fingerprint(key), ())


def _split_slot(html: bytes) -> tuple[bytes, bytes, bytes]:
    """The file before the signature, the signature, the file after it."""
    if html.count(_OPEN) != 1:
        raise SignatureError(f"expected exactly one slot for a signature, found {html.count(_OPEN)}")
    start = html.index(_OPEN) + len(_OPEN)
    end = html.find(_CLOSE, start)
    if end <= start:
        raise SignatureError("the report is not signed" if end == start else "the slot of the signature has no end")
    return html[:start], html[start:end], html[end:]


def _certify(pdf: bytes, signer: Signer) -> bytes:
    from pyhanko.pdf_utils.incremental_writer import IncrementalPdfFileWriter
    from pyhanko.sign.fields import MDPPerm, SigSeedSubFilter
    from pyhanko.sign.signers import PdfSignatureMetadata, PdfSigner

    metadata = PdfSignatureMetadata(
        field_name=FIELD,
        md_algorithm="sha256",
        subfilter=SigSeedSubFilter.PADES,
        certify=True,
        docmdp_permissions=MDPPerm.NO_CHANGES,
    )
    out = io.BytesIO()
    PdfSigner(metadata, _pyhanko_signer(signer)).sign_pdf(IncrementalPdfFileWriter(io.BytesIO(pdf)), output=out)
    return out.getvalue()


def _pyhanko_signer(signer: Signer) -> SimpleSigner:
    from asn1crypto.keys import PrivateKeyInfo
    from asn1crypto.x509 import Certificate
    from pyhanko.sign.signers import SimpleSigner
    from pyhanko_certvalidator.registry import SimpleCertificateStore

    key = signer.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return SimpleSigner(
        signing_cert=Certificate.load(signer.certificate.public_bytes(Encoding.DER)),
        signing_key=PrivateKeyInfo.load(key),
        cert_registry=SimpleCertificateStore(),
    )


def _say(error: Exception) -> str:
    """One line on what is wrong."""
    if isinstance(error, SignatureError):
        return str(error)
    first = str(error).split("\n", maxsplit=1)[0]
    return f"the signature cannot be read ({type(error).__name__}: {first})"


def _find_gap(pdf: bytes) -> _Gap:
    ranges = _BYTE_RANGE.findall(pdf)
    if len(ranges) != 1:
        raise SignatureError(f"expected exactly one signature, found {len(ranges)}")
    start, end, rest = (int(digits) for digits in ranges[0])
    if not 0 < start < end or end + rest != len(pdf):
        raise SignatureError("the signature does not cover the whole file")
    return _Gap(start, end)


def _open_container(gap: bytes) -> _Container:
    from asn1crypto import cms

    digits = re.fullmatch(rb"<((?:[0-9A-F]{2})+)>", gap)
    if not digits:
        raise SignatureError("the signature is not one string of upper-case hex digits")
    padded = bytes.fromhex(digits[1].decode())
    info = cms.ContentInfo.load(padded)
    encoded = info.dump()
    if padded != encoded + bytes(len(padded) - len(encoded)):
        raise SignatureError("something else than zeros follows the signature")
    container = _parts(info["content"])
    if _rebuild(container) != encoded:
        raise SignatureError("the signature's container holds something that is not signed")
    return container


def _parts(signed: cms.SignedData) -> _Container:
    (certificate,), (by,) = signed["certificates"], signed["signer_infos"]
    return _Container(certificate.chosen.dump(), by["signed_attrs"].untag().dump(), by["signature"].native)


def _rebuild(container: _Container) -> bytes:
    """The CMS container that these three parts give, every other byte of it being fixed."""
    from asn1crypto import cms
    from asn1crypto.x509 import Certificate

    certificate = Certificate.load(container.certificate)
    sha256 = {"algorithm": "sha256"}
    issued = cms.IssuerAndSerialNumber({"issuer": certificate.issuer, "serial_number": certificate.serial_number})
    by = {
        "version": "v1",
        "sid": cms.SignerIdentifier({"issuer_and_serial_number": issued}),
        "digest_algorithm": sha256,
        "signed_attrs": cms.CMSAttributes.load(container.attributes),
        "signature_algorithm": {"algorithm": "sha256_ecdsa"},
        "signature": container.signature,
    }
    signed = {
        "version": "v1",
        "digest_algorithms": [sha256],
        "encap_content_info": {"content_type": "data"},
        "certificates": [certificate],
        "signer_infos": [by],
    }
    return bytes(cms.ContentInfo({"content_type": "signed_data", "content": cms.SignedData(signed)}).dump())


def _check_container(container: _Container, covered: bytes) -> ec.EllipticCurvePublicKey:
    """The key that signed the attributes, which name the covered bytes and the certificate."""
    from asn1crypto import (
        cms,
        tsp,  # noqa: F401  # teaches cms the attribute that names the certificate
    )

    attributes = {a["type"].native: a["values"][0].native for a in cms.CMSAttributes.load(container.attributes)}
    if attributes["message_digest"] != hashlib.sha256(covered).digest():
        raise SignatureError("the file is not the one that was signed")
    certificate = attributes["signing_certificate_v2"]["certs"][0]["cert_hash"]
    if certificate != hashlib.sha256(container.certificate).digest():
        raise SignatureError("the certificate is not the one that was signed with")
    key = x509.load_der_x509_certificate(container.certificate).public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != ec.SECP256R1.name:
        raise SignatureError("the signature is not of a P-256 key")
    try:
        key.verify(container.signature, container.attributes, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise SignatureError("the signature does not match what was signed") from error
    return key


def _check_again(pdf: bytes) -> None:
    """What pyHanko says of it: a second opinion, and the only one on what the PDF's own structure permits."""
    from pyhanko.sign.fields import MDPPerm
    from pyhanko.sign.validation import SignatureCoverageLevel, validate_pdf_signature
    from pyhanko_certvalidator import ValidationContext

    reader = _reader(pdf)
    signatures = list(reader.embedded_signatures)
    if len(signatures) != 1:
        raise SignatureError(f"expected exactly one signature, found {len(signatures)}")
    (signature,) = signatures
    status = validate_pdf_signature(signature, ValidationContext(trust_roots=[signature.signer_cert]))
    if not (status.intact and status.valid):
        raise SignatureError("a second check of the signature fails")
    if status.coverage != SignatureCoverageLevel.ENTIRE_FILE:
        raise SignatureError("the signature does not cover the whole file")
    certified = reader.root["/Perms"]["/DocMDP"] == signature.sig_object
    if not (certified and status.docmdp_ok and signature.docmdp_level == MDPPerm.NO_CHANGES):
        raise SignatureError("the signature is no certification that permits no change")


def _reader(pdf: bytes) -> PdfFileReader:
    from pyhanko.pdf_utils.reader import PdfFileReader

    return PdfFileReader(io.BytesIO(pdf))


def _attachments(reader: PdfFileReader) -> list[tuple[str, bytes]]:
    """Every attached file's name and content, in the order of the document's name tree."""
    names = reader.root.get("/Names", {})
    found, nodes = [], [names["/EmbeddedFiles"]] if "/EmbeddedFiles" in names else []
    while nodes:
        node = nodes.pop(0).get_object()
        nodes.extend(node.get("/Kids", ()))
        for entry in list(node.get("/Names", ()))[1::2]:
            file = entry.get_object()
            title = file["/UF"] if "/UF" in file else file["/F"]
            found.append((str(title), bytes(file["/EF"]["/F"].data)))
    return found


def _beside_any_loop(call: Callable[[], _Outcome]) -> _Outcome:
    """Call it in a thread of its own: pyHanko starts an event loop, which a notebook has running already."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(call).result()
