"""The PDF report: PDF/A-3a, tagged, with evidence, policy and public key inside; the same bytes every time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from ..engine.errors import MidguardError
from .html import document
from .pictures import content_of
from .sections import Report, SignerCard, canonical, compose, malformed

if TYPE_CHECKING:
    import pydyf
    from weasyprint import Attachment, Document
    from weasyprint.urls import URLFetcherResponse

VARIANT = "pdf/a-3a"
_INSTALL = (
    "the PDF report needs Pango, which could not be loaded ({error}); "
    "install it: apt-get install libpango-1.0-0 libpangoft2-1.0-0 (macOS: brew install pango)"
)
_NO_FONT = (
    "the PDF report has no text: no font was found; install one: apt-get install fonts-dejavu-core fonts-liberation"
)


@dataclass(frozen=True, slots=True)
class Enclosure:
    """A file that travels inside the PDF.

    Attributes:
        name: Its name there.
        content: Its bytes.
        description: What it is, in words.
        relationship: What it is to the report, as PDF/A-3 names it.
    """

    name: str
    content: bytes
    description: str
    relationship: str


def render_pdf(
    evidence: Mapping[str, object],
    evidence_bytes: bytes,
    policy_bytes: bytes,
    public_key_pem: bytes | None,
    signer: SignerCard | None = None,
) -> bytes:
    """The report as PDF/A-3a, not yet signed.

    Args:
        evidence: What `check` wrote, schemaVersion 1.
        evidence_bytes: The same as a file, attached as `evidence.json`.
        policy_bytes: The policy file, attached as `policy.yaml`.
        public_key_pem: The key that will sign, attached as `signer.pub`; `None` says UNSIGNED on every page.
        signer: What else is known of the signer; must be of that key.

    Raises:
        MidguardError: The evidence does not have the expected shape, an attachment is not what the evidence says, or
            Pango or a font is missing.
    """
    card = _card(public_key_pem, signer)
    report = compose(evidence, card)
    _check_attachments(report, evidence_bytes, policy_bytes)
    enclosures = _enclosures(evidence_bytes, policy_bytes, public_key_pem)
    created = _created(evidence)
    with _source_date(created):
        return _write(document(report), enclosures, created)


def _card(public_key_pem: bytes | None, signer: SignerCard | None) -> SignerCard | None:
    """The signer of this very key; nobody where there is no key."""
    from ..engine.keys import fingerprint, parse_public_key

    if public_key_pem is None:
        if signer is not None:
            raise MidguardError("the report names a signer, but no public key was given to attach")
        return None
    found = fingerprint(parse_public_key(public_key_pem, "signer.pub"))
    if signer is not None and signer.fingerprint != found:
        raise MidguardError(f"the report names the signer {signer.fingerprint}, but the public key is {found}")
    return signer or SignerCard("", found)


def _check_attachments(report: Report, evidence_bytes: bytes, policy_bytes: bytes) -> None:
    """What is attached must be what is printed."""
    try:
        same = canonical(json.loads(evidence_bytes)) == canonical(report.evidence)
    except ValueError as error:
        raise MidguardError(f"the evidence to attach is not JSON: {error}") from error
    if not same:
        raise MidguardError("the evidence to attach is not the evidence that the report is written from")
    expected, found = report.evidence["policy"]["sha256"], sha256(policy_bytes).hexdigest()
    if found != expected:
        raise MidguardError(f"the policy to attach has SHA-256 {found}, the evidence was made with {expected}")


def _enclosures(evidence: bytes, policy: bytes, key: bytes | None) -> tuple[Enclosure, ...]:
    always = (
        Enclosure("evidence.json", evidence, "Everything that was measured (JSON, RFC 8785)", "Data"),
        Enclosure("policy.yaml", policy, "The policy that it was held against", "Source"),
    )
    if key is None:
        return always
    return (*always, Enclosure("signer.pub", key, "The public key that signs; compare it with yours", "Supplement"))


def _created(evidence: Mapping[str, object]) -> datetime:
    try:
        created = datetime.fromisoformat(str(evidence["created"]))
    except (KeyError, ValueError) as error:
        raise malformed(error) from error
    if created.tzinfo is None:
        raise malformed(ValueError(f"created has no time zone: {evidence['created']!r}"))
    return created


@contextmanager
def _source_date(created: datetime) -> Iterator[None]:
    """Let fonts be stamped with the evidence's date instead of now; the environment is put back."""
    before = os.environ.get("SOURCE_DATE_EPOCH")
    os.environ["SOURCE_DATE_EPOCH"] = str(int(created.timestamp()))
    try:
        yield
    finally:
        if before is None:
            del os.environ["SOURCE_DATE_EPOCH"]
        else:
            os.environ["SOURCE_DATE_EPOCH"] = before


def _write(html: str, enclosures: tuple[Enclosure, ...], created: datetime) -> bytes:
    """Lay the page out and write it, without a look at anything outside of it."""
    try:
        import weasyprint
        from weasyprint.urls import FatalURLFetchingError
    except (OSError, ImportError) as error:
        raise MidguardError(_INSTALL.format(error=error)) from error
    undrawn: set[int] = set()
    attachments = [_attach(enclosure, created) for enclosure in enclosures]
    try:
        source = weasyprint.HTML(string=html, base_url=None, url_fetcher=_fetch)
        finisher = partial(_finish, undrawn)
        written: Any = source.write_pdf(finisher=finisher, attachments=attachments, pdf_variant=VARIANT)
    except FatalURLFetchingError as error:
        raise MidguardError(str(error)) from None
    if any(chr(code).isascii() and chr(code).isprintable() for code in undrawn):
        raise MidguardError(_NO_FONT)
    if undrawn:
        return _write(_spelled(html, undrawn), enclosures, created)
    return bytes(written)


def _spelled(html: str, codes: set[int]) -> str:
    """The page with characters that no font can draw spelled as `[U+6F22]`; PDF/A has no place for an empty box."""
    return html.translate({code: f"[U+{code:04X}]" for code in codes})


def _fetch(url: str) -> URLFetcherResponse:
    """Pictures stand in the page itself and nothing is fetched: a report that asks for something was tampered with."""
    from weasyprint.urls import FatalURLFetchingError, URLFetcherResponse

    content = content_of(url)
    if content is not None:
        return URLFetcherResponse(url, content, {"Content-Type": "image/png"})
    raise FatalURLFetchingError(f"the report asks for {url!r}: it must load nothing")


def _attach(enclosure: Enclosure, created: datetime) -> Attachment:
    from weasyprint import Attachment

    return Attachment(
        string=enclosure.content,
        name=enclosure.name,
        description=enclosure.description,
        created=created,
        modified=created,
        relationship=enclosure.relationship,
    )


def _finish(undrawn: set[int], document: Document, pdf: pydyf.PDF) -> None:
    """Refuse a report without text, note what no font can draw, and name each attachment once.

    WeasyPrint 70.0 names it twice (its issue 2917).
    """
    if not document.fonts:
        raise MidguardError(_NO_FONT)
    undrawn.update(code for font in document.fonts.values() for code in font.missing)
    attached = pdf.catalog["AF"]
    once = list(dict.fromkeys(attached))
    attached.clear()
    attached.extend(once)
