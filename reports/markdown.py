"""The result as Markdown, for the summary of a CI job (GitHub takes at most 1 MiB)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from ..engine.verdict import Status
from .evidence import Result, Row, read
from .wording import EXIT_MEANS, MARKS, WORDS, WORST_FIRST, exact

#: Bytes of the whole text at most, with room below GitHub's 1,048,576.
_MOST_BYTES = 1_000_000
#: Characters of one text from outside at most.
_MOST_CHARACTERS = 1_000
#: Whatever could start a link, an image, a mention, a tag, a table cell or a formula.
_MARKUP = re.compile(r"[\\`*_{}\[\]()<>#|!~&@:$^]|(?<=www)\.", re.IGNORECASE)

_HEADINGS = ("result", "requirement", "measured", "interval", "limit", "margin", "basis", "by", "severity", "line")


def render_markdown(evidence: Mapping[str, object]) -> str:
    """The evidence as Markdown: the verdict, a table with the worst first, and why each that did not pass.

    Raises:
        InputError: The evidence is incomplete or contradicts itself.
    """
    result = read(evidence)
    rows = sorted(result.rows, key=lambda row: WORST_FIRST.index(row.status))
    head = "\n".join(_head(result))
    table = _fitting([_cells(row) for row in rows], _MOST_BYTES // 2, "rows")
    reasons = [_reason(row) for row in rows if row.status is not Status.PASS]
    gaps = [f"- not tested: {_escape(str(gap))}" for gap in result.not_tested]
    gaps += [f"- blind, so not counted: {_escape(str(gap))}" for gap in result.blind]
    gaps += [f"- {_escape(str(target))}" for target in result.closest]
    gaps += [f"- {_escape(line)}" for line in (*result.warnings, result.audit) if line]
    notes = _fitting(reasons + gaps, _MOST_BYTES // 3, "notes")
    return "\n".join((head, *table, "", *notes)).rstrip() + "\n"


def _head(result: Result) -> Iterator[str]:
    """The verdict and what it is about."""
    policy, subject = result.policy, result.subject
    means = EXIT_MEANS.get(result.exit_code, "unknown")
    yield f"## {MARKS[Status(result.verdict)]} midguard: {result.word}"
    yield ""
    yield f"{result.counts}. Exit code {result.exit_code}: {means}."
    yield ""
    yield f"- policy: {_escape(str(policy))}, {_escape(policy.file)}, `sha256:{_digest(policy.sha256)}`"
    yield f"- subject: {_escape(str(subject))}, {_escape(subject.file)}, `sha256:{_digest(subject.sha256)}`"
    yield f"- adversary: {_escape(result.adversary)}"
    yield f"- seed {_escape(result.seed)}, confidence {exact(100 * result.confidence)} % over the whole policy"
    yield f"- {'signed' if result.signed else 'UNSIGNED'}, midguard {_escape(result.version)}"
    yield ""
    yield f"| {' | '.join(_HEADINGS)} |"
    yield "|" + "---|" * len(_HEADINGS)


def _cells(row: Row) -> str:
    """One line of the table."""
    status = f"{MARKS[row.status]} {WORDS[row.status]}"
    numbers = (row.measured, row.interval, row.bound, row.left)
    by = f"{row.by} ({row.goal})" if row.goal else row.by
    names = (row.basis or "—", by or "—", row.severity, str(row.line))
    return f"| {status} | {' | '.join(map(_escape, (row.id, *numbers, *names)))} |"


def _reason(row: Row) -> str:
    return f"- {MARKS[row.status]} **{_escape(row.id)}**: {_escape(row.why)}"


def _fitting(lines: Sequence[str], budget: int, noun: str) -> Iterator[str]:
    """As many lines as fit; what is left out is counted, never silently dropped."""
    for position, line in enumerate(lines):
        budget -= len(line.encode()) + 1
        if budget < 0:
            yield f"\n{len(lines) - position} more {noun} did not fit here; the report has all of them.\n"
            return
        yield line


def _escape(text: str) -> str:
    """Text from outside, as text."""
    short = text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"
    return _MARKUP.sub(lambda found: f"\\{found.group()}", short)


def _digest(sha256: str) -> str:
    """A digest's hexadecimal characters and nothing else."""
    return re.sub(r"[^0-9a-f]", "", sha256)[:64]
