"""What can go wrong, each with the exit code it ends in and the way out of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum


class Exit(IntEnum):
    """The exit codes of `midguard check`; `verify` uses 0, 1 and 2."""

    PASS = 0
    FAIL = 1
    BAD_INPUT = 2
    UNDECIDED = 3
    CRASHED = 4


@dataclass(frozen=True, slots=True)
class Location:
    """A place in a text file.

    Attributes:
        file: The file as the user named it.
        line: Counted from 1.
        column: Counted from 1.
        text: The line itself, without its end.
        width: How many characters the caret underlines.
    """

    file: str
    line: int
    column: int
    text: str = ""
    width: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"

    def excerpt(self) -> str:
        """The line with a caret under the place."""
        lead = "".join("\t" if c == "\t" else " " for c in self.text[: self.column - 1])
        return f"    {self.text}\n    {lead}{'^' * max(1, self.width)}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with an input: where, what, and what to do."""

    message: str
    where: Location | None = None
    hint: str = ""

    def __str__(self) -> str:
        first = f"{self.where}: {self.message}" if self.where else self.message
        first = f"{first}, {self.hint}" if self.hint else first
        return f"{first}\n{self.where.excerpt()}" if self.where and self.where.text else first


class MidguardError(Exception):
    """Anything that midguard itself reports; `exit_code` is what the command line ends in."""

    exit_code: Exit = Exit.CRASHED


@dataclass
class InputError(MidguardError):
    """The policy, subject, model, data or usage is not acceptable. Nothing has run.

    Attributes:
        problems: Everything that was found, never empty.
    """

    problems: tuple[Problem, ...] = field(default_factory=tuple)
    exit_code = Exit.BAD_INPUT

    def __post_init__(self) -> None:
        if not self.problems:
            raise ValueError("an InputError needs at least one problem")

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)

    @classmethod
    def of(cls, message: str, hint: str = "", where: Location | None = None) -> InputError:
        """An error of one problem."""
        return cls((Problem(message, where, hint),))


class AccessError(MidguardError):
    """An attack reached for something that this adversary does not hold."""


class AttackError(MidguardError):
    """An attack stopped before it had an outcome."""


class NotMeasurable(MidguardError):  # noqa: N818  # a lack, not a failure
    """Something that a measure needs is not there; says what to add."""

    exit_code = Exit.UNDECIDED


class AccountingError(MidguardError):
    """An accountant failed, or two of them disagree beyond their stated error."""
