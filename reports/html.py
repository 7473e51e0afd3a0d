"""The HTML report: one self-contained file that loads nothing, runs nothing, and prints."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError
from markupsafe import Markup

from .phrases import WORDS
from .sections import Report, SignerCard, compose, malformed

__all__ = ["SignerCard", "document", "render_html"]

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True)
class Section:
    """A section of the report, found by its file's name.

    Attributes:
        number: Its place, from 1.
        id: Its anchor: the file's name without number and ending.
        title: What its template calls it.
        body: Its content.
        flow: Whether it goes on where the one before ends, instead of on a new page.
    """

    number: int
    id: str
    title: str
    body: Markup
    flow: bool


def render_html(evidence: Mapping[str, object], signer: SignerCard | None) -> str:
    """The report as one HTML file, the same for the same evidence and signer.

    Near its end stands an empty script element, `application/vnd.dsse+json` with the id `midguard-attestation`: the
    place for the signed attestation, which no browser runs.

    Args:
        evidence: What `check` wrote, schemaVersion 1.
        signer: Who will sign; `None` says UNSIGNED on every page.

    Raises:
        MidguardError: The evidence does not have the expected shape, or its verdict is not that of its findings.
    """
    return document(compose(evidence, signer))


def document(report: Report) -> str:
    """The report's content as one HTML file.

    Raises:
        MidguardError: The evidence lacks something that a section needs.
    """
    sheets = _sheets(signed=report.signer is not None)
    try:
        sections = [_section(i, path, report) for i, path in enumerate(section_files(), start=1)]
        template = _environment().get_template("report.html.j2")
        policy = _security_policy(sheets, report.inversion.personal)
        return template.render(report=report, sections=sections, sheets=sheets, policy=policy)
    except (TemplateError, KeyError, TypeError, ValueError) as error:
        raise malformed(error) from error


def section_files() -> tuple[Path, ...]:
    """Every section's template, in order: `templates/sections/<NN>-<name>.html.j2`."""
    return tuple(sorted((_TEMPLATES / "sections").glob("[0-9][0-9]-*.html.j2")))


def _section(number: int, path: Path, report: Report) -> Section:
    template = _environment().get_template(f"sections/{path.name}")
    module = template.make_module({"report": report, "ref": partial(_reference, section_files())})
    title, flow = getattr(module, "title"), getattr(module, "flow", False)  # noqa: B009  what the template sets
    return Section(number, _id(path), str(title), Markup(str(module)), bool(flow))


def _id(path: Path) -> str:
    return path.name.removesuffix(".html.j2").split("-", maxsplit=1)[1]


def _reference(files: tuple[Path, ...], name: str) -> Markup:
    """`section 3`, as a link. Raises: ValueError where there is no such section."""
    number = [_id(path) for path in files].index(name) + 1
    return Markup('<a href="#{}">section {}</a>').format(name, number)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.globals.update(WORDS)
    return environment


def _sheets(signed: bool) -> tuple[Markup, ...]:
    """The style sheets: ours alone, so they are markup and not text."""
    names = ("report.css",) if signed else ("report.css", "unsigned.css")
    return tuple(Markup((_TEMPLATES / name).read_text(encoding="utf-8")) for name in names)


def _security_policy(sheets: tuple[Markup, ...], pictures: bool) -> str:
    """Nothing may be loaded or run; the style sheets are named by their digest, pictures stand in the page itself."""
    digests = (base64.b64encode(hashlib.sha256(str(sheet).encode()).digest()).decode() for sheet in sheets)
    styles = " ".join(f"'sha256-{digest}'" for digest in digests)
    images = " img-src data:;" if pictures else ""
    return f"default-src 'none'; style-src {styles};{images} base-uri 'none'; form-action 'none'"
