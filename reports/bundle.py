"""The four files that a check leaves: evidence, attestation, HTML and PDF."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ..engine.attestation import Named, attest, canonical
from .html import render_html
from .pdf import render_pdf
from .sections import SignerCard
from .signature import sign_html, sign_pdf

if TYPE_CHECKING:
    from ..engine.keys import Signer

EVIDENCE, ATTESTATION, HTML, PDF = "evidence.json", "attestation.intoto.jsonl", "report.html", "report.pdf"


@dataclass(frozen=True, slots=True)
class Bundle:
    """Where the files of one check are.

    Attributes:
        folder: The folder.
        files: What was written, in the order of writing.
    """

    folder: Path
    files: tuple[Path, ...]


def write_bundle(evidence: Mapping[str, object], out: Path, signer: Signer | None) -> Bundle:
    """Render, sign and write everything; each file is whole or not there at all.

    Args:
        evidence: What the check came to, schemaVersion 1.
        out: The folder, made if it is missing. Files of an earlier check are replaced.
        signer: Who vouches for it; without one there is no attestation, and every page says UNSIGNED.
    """
    document = {**evidence, "signed": signer is not None}
    content = canonical(document)
    policy = cast("Mapping[str, str]", document["policy"])
    card = None if signer is None else card_of(signer)
    html = render_html(document, card)
    pdf = render_pdf(document, content, policy["text"].encode(), signer.public_pem if signer else None, card)
    rendered = {EVIDENCE: content, HTML: html.encode(), PDF: pdf}
    if signer is not None:
        rendered |= {HTML: sign_html(html, signer).encode(), PDF: sign_pdf(pdf, signer)}
        rendered[ATTESTATION] = _attestation(document, content, rendered, signer)
    out.mkdir(parents=True, exist_ok=True)
    (out / ATTESTATION).unlink(missing_ok=True)  # an earlier one would vouch for other files
    return Bundle(out, tuple(_write(out / name, data) for name, data in rendered.items()))


def card_of(signer: Signer) -> SignerCard:
    """Who signs, as the report prints it."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.x509.oid import NameOID

    certificate = signer.certificate
    name = str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
    created = certificate.not_valid_before_utc.strftime("%Y-%m-%dT%H:%M:%SZ")
    return SignerCard(name, signer.fingerprint, certificate.fingerprint(SHA256()).hex(), created)


def _attestation(
    document: Mapping[str, object], content: bytes, rendered: Mapping[str, bytes], signer: Signer
) -> bytes:
    subject = cast("Mapping[str, str]", document["subject"])
    policy = cast("Mapping[str, str]", document["policy"])
    files = tuple(Named(name, hashlib.sha256(data).hexdigest()) for name, data in rendered.items())
    model, rules = Named(subject["file"], subject["sha256"]), Named(policy["file"], policy["sha256"])
    return attest(content, files, model, rules, signer)


def _write(path: Path, data: bytes) -> Path:
    temporary = path.with_name(f".{path.name}.writing")
    temporary.write_bytes(data)
    temporary.replace(path)
    return path
