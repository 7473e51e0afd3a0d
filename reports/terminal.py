"""The result and the plan on a terminal: legible at any width, in a pipe, without colour and without Unicode."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from ..engine.verdict import Status
from .evidence import Result, Row, entries, integer, mapping, optional, parameters, read, text
from .wording import EXIT_MEANS, MARKS, WORDS, exact, number, plain

_GAP = "  "
_INDENT = 4

_STYLES = {
    Status.PASS: "green",
    Status.FAIL: "bold red",
    Status.INCONCLUSIVE: "yellow",
    Status.NOT_RUN: "magenta",
    Status.ERROR: "bold red",
    Status.WAIVED: "cyan",
}

#: What stands for a character where the terminal cannot show it.
_ASCII = str.maketrans(
    {"✔": "+", "✘": "x", "∅": "o", "∞": "inf", "—": "-", "–": "-", "·": ",", "…": "...", "ε": "epsilon", "δ": "delta"}
    | {"≤": "<=", "≥": ">=", "×": "x", "−": "-", "’": "'", "“": '"', "”": '"'}
)


@dataclass(frozen=True, slots=True)
class _Column:
    """One column of the table.

    Attributes:
        name: Its heading.
        cell: What a row shows in it.
        right: Whether it is a number, flush right.
    """

    name: str
    cell: Callable[[Row], str]
    right: bool = False


def _status(row: Row) -> str:
    return f"{MARKS[row.status]} {WORDS[row.status]}"


_STATUS = _Column("result", _status)
_ID = _Column("requirement", lambda row: row.id)
_MEASURED = _Column("measured", lambda row: row.measured, right=True)
_INTERVAL = _Column("interval", lambda row: row.interval)
_LIMIT = _Column("limit", lambda row: row.bound)
_MARGIN = _Column("margin", lambda row: row.left, right=True)
_BASIS = _Column("basis", lambda row: row.basis or "—")
_BY = _Column("by", lambda row: row.by or "—")
_SEVERITY = _Column("severity", lambda row: row.severity)
_LINE = _Column("line", lambda row: str(row.line), right=True)


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a row is spread over lines.

    Attributes:
        lines: The columns of each line; lines after the first are indented.
        phrase: Whether what has no column is said in words on a line of its own.
    """

    lines: tuple[tuple[_Column, ...], ...]
    phrase: bool


_NUMBERS = (_MEASURED, _INTERVAL, _LIMIT, _MARGIN)
#: From the widest to the narrowest; the first that fits is taken.
_LAYOUTS = (
    _Layout(((_STATUS, _ID, *_NUMBERS, _BASIS, _BY, _SEVERITY, _LINE),), phrase=False),
    _Layout(((_STATUS, _ID, *_NUMBERS),), phrase=True),
    _Layout(((_STATUS, _ID), _NUMBERS), phrase=True),
    _Layout(((_STATUS,), (_ID,), (_MEASURED, _INTERVAL), (_LIMIT, _MARGIN)), phrase=True),
)


def render_table(evidence: Mapping[str, object], console: Console) -> None:
    """Print the result: what was checked, a row for each requirement, why each that did not pass, and the verdict.

    Args:
        evidence: The evidence document.
        console: Where to print; its width decides the layout, its encoding the characters.

    Raises:
        InputError: The evidence is incomplete or contradicts itself.
    """
    result, page = read(evidence), _Page(console)
    _print_head(result, page)
    page.line()
    _print_rows(result.rows, page)
    page.line()
    _print_gaps(result, page)
    _print_close(result, page)


@dataclass(frozen=True, slots=True)
class _Page:
    """Lines on a console: wrapped between words only, spelt in what its encoding has.

    Attributes:
        console: Where to print.
    """

    console: Console

    def line(self, content: str = "", style: str = "") -> None:
        """One line as it stands, never wrapped or cut."""
        self.console.print(Text(self.spell(content), style=style), soft_wrap=True, highlight=False)

    def styled(self, content: str, head: int, style: str) -> None:
        """One line whose first `head` characters are styled."""
        shown = Text(self.spell(content))
        shown.stylize(style, 0, head)
        self.console.print(shown, soft_wrap=True, highlight=False)

    def paragraph(self, content: str, indent: int = 0, style: str = "") -> None:
        """Text wrapped between words; a word that is wider than the console stays whole."""
        for line in _wrap(self.spell(content), self.console.width - indent):
            self.line(" " * indent + line, style)

    def spell(self, content: str) -> str:
        """The text in characters that the console can show."""
        encoding = self.console.encoding
        if encoding.lower().replace("_", "-").startswith("utf"):
            return content
        return content.translate(_ASCII).encode(encoding, "replace").decode(encoding)


def _wrap(content: str, width: int) -> Iterator[str]:
    """Lines of at most `width` cells, broken between words only."""
    line = ""
    for word in content.split():
        if line and cell_len(line) + 1 + cell_len(word) > width:
            yield line
            line = word
        else:
            line = f"{line} {word}" if line else word
    yield line


def _print_head(result: Result, page: _Page) -> None:
    """Who was checked against what, each digest on a line that has room for it."""
    policy, subject = result.policy, result.subject
    architecture = f", {result.architecture}" if result.architecture else ""
    page.line(f"midguard {result.version}", "bold")
    facts = (
        ("policy", f"{policy}, {policy.file}, sha256:{policy.sha256[:12]}"),
        ("subject", f"{subject}, {subject.file}, sha256:{subject.sha256[:12]}{architecture}"),
        ("adversary", result.adversary),
        ("seed", f"{result.seed}, confidence {exact(100 * result.confidence)} % over the whole policy"),
    )
    for name, fact in facts:
        first, *rest = _wrap(page.spell(fact), page.console.width - 11)
        page.line(f"{name:<11}{first}")
        for line in rest:
            page.line(" " * 11 + line)


def _print_rows(rows: Sequence[Row], page: _Page) -> None:
    """The table, in the widest layout that fits."""
    layout = next((x for x in _LAYOUTS if _width(x, rows, page) <= page.console.width), _LAYOUTS[-1])
    for line in _aligned(layout, lambda column: column.name, rows, page):
        page.line(line, "bold")
    for row in rows:
        _print_row(row, layout, rows, page)


def _print_row(row: Row, layout: _Layout, rows: Sequence[Row], page: _Page) -> None:
    """One requirement, and under it why it is not a pass."""
    first, *rest = _aligned(layout, lambda column: column.cell(row), rows, page)
    page.styled(first, len(page.spell(_status(row))), _STYLES[row.status])
    for line in rest:
        page.line(line)
    if layout.phrase:
        page.paragraph(", ".join(part for part in (row.origin, row.severity, f"line {row.line}") if part), _INDENT)
    if row.status is not Status.PASS:
        page.paragraph(row.why, _INDENT)


def _widths(columns: Sequence[_Column], rows: Sequence[Row], page: _Page) -> list[int]:
    """Cells that each column needs."""
    return [max(cell_len(page.spell(cell)) for cell in (c.name, *map(c.cell, rows))) for c in columns]


def _width(layout: _Layout, rows: Sequence[Row], page: _Page) -> int:
    """Cells that the widest line of a layout needs."""
    needs = (_widths(columns, rows, page) for columns in layout.lines)
    return max(_indent(i) + sum(widths) + len(_GAP) * (len(widths) - 1) for i, widths in enumerate(needs))


def _indent(position: int) -> int:
    return _INDENT if position else 0


def _aligned(layout: _Layout, cell: Callable[[_Column], str], rows: Sequence[Row], page: _Page) -> Iterator[str]:
    """The lines of one row, its cells in the columns' widths."""
    for position, columns in enumerate(layout.lines):
        sized = zip(columns, _widths(columns, rows, page), strict=True)
        padded = (_pad(page.spell(cell(column)), width, column.right) for column, width in sized)
        yield " " * _indent(position) + _GAP.join(padded).rstrip()


def _pad(cell: str, width: int, right: bool) -> str:
    space = " " * (width - cell_len(cell))
    return space + cell if right else cell + space


def _print_gaps(result: Result, page: _Page) -> None:
    """Attacks that did not run, those that would not have found a leak, and what weakens the others."""
    for name, gaps in (("not tested", result.not_tested), ("blind, so not counted", result.blind)):
        if gaps:
            page.paragraph(f"{name}: {'; '.join(map(str, gaps))}")
    for line in (*result.warnings, result.audit):
        if line:
            page.paragraph(line)


def _print_close(result: Result, page: _Page) -> None:
    """Counts, verdict and exit code."""
    style = _STYLES[Status(result.verdict)]
    means = EXIT_MEANS.get(result.exit_code, "unknown")
    signature = "signed" if result.signed else "UNSIGNED"
    page.paragraph(result.counts)
    page.paragraph(f"verdict {result.word}, exit code {result.exit_code}: {means}", style=style)
    page.paragraph(f"{result.seconds:.1f} s, {signature}")


def render_plan(plan: Mapping[str, object], console: Console) -> None:
    """Print what would run, what cannot and why, what is trained for it, and the cost.

    Args:
        plan: `jobs` (attack, role, parameters, seed, queries, cached; references, how many it needs, may be left out),
            `obstacles` (attack, requirement, reason), `training` (lines or mappings), `seconds` (a number or null) and
            `lacking` (why there are no reference models; may be left out).
        console: Where to print.

    Raises:
        InputError: A part of the plan is missing or of the wrong type.
    """
    page, jobs = _Page(console), entries(plan, "jobs")
    page.line("would run" if jobs else "nothing would run", "bold")
    for job in jobs:
        _print_job(job, page)
    for obstacle in entries(plan, "obstacles"):
        page.paragraph(f"{MARKS[Status.NOT_RUN]} cannot run: {_obstacle(obstacle)}")
    lacking = text(plan, "lacking")
    if lacking:
        page.paragraph(f"{MARKS[Status.NOT_RUN]} no reference models: {lacking}")
    for line in _lines(plan, "training"):
        page.paragraph(f"trains {line}")
    _print_cost(plan, jobs, page)


def _obstacle(entry: Mapping[str, object]) -> str:
    """What cannot run, for which requirement, and why; a requirement may lack more than an attack."""
    attack, requirement = text(entry, "attack"), text(entry, "requirement")
    what = f"{attack} ({requirement})" if attack and requirement else attack or requirement
    return f"{what}: {text(entry, 'reason')}"


def _print_job(job: Mapping[str, object], page: _Page) -> None:
    """One job: a line for what it is, a line for how it is set."""
    state = "in the store" if job.get("cached") is True else f"{integer(job, 'queries')} queries"
    models = integer(job, "references") if "references" in job else 0
    against = f", {models} reference model{'s' if models > 1 else ''}" if models else ""
    page.paragraph(f"{text(job, 'attack')}, {text(job, 'role')}: {state}{against}", 2)
    settings = {**mapping(job, "parameters"), "seed": job.get("seed")}
    page.paragraph(parameters(settings), _INDENT, "dim")


def _print_cost(plan: Mapping[str, object], jobs: Sequence[Mapping[str, object]], page: _Page) -> None:
    """What is still to be paid."""
    due = [job for job in jobs if job.get("cached") is not True]
    queries, seconds = sum(integer(job, "queries") for job in due), optional(plan, "seconds")
    noun = "job" if len(jobs) == 1 else "jobs"
    duration = "" if math.isnan(seconds) else f", about {number(seconds)} s"
    page.paragraph(f"{len(jobs)} {noun}, {len(jobs) - len(due)} of them in the store, {queries} queries{duration}")


def _lines(plan: Mapping[str, object], key: str) -> Iterator[str]:
    """Each entry of a list as one line of words."""
    value = plan.get(key) or []
    for item in value if isinstance(value, list | tuple) else [value]:
        yield parameters(item) if isinstance(item, Mapping) else plain(str(item))
