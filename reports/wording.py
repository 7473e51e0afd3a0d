"""The words, marks and numbers that every rendering shares, so that the same result reads the same everywhere."""

from __future__ import annotations

import math
import unicodedata

from ..engine.verdict import Status

#: Digits that a reader needs of a measured value.
_DIGITS = 3
#: Digits at which two values that differ are told apart at the latest.
_MOST_DIGITS = 9

#: From the worst to the best, the order in which statuses are counted and cut.
WORST_FIRST = (Status.FAIL, Status.ERROR, Status.NOT_RUN, Status.INCONCLUSIVE, Status.WAIVED, Status.PASS)

#: The word of each status; a failure alone is written in capitals.
WORDS = {
    Status.PASS: "pass",
    Status.FAIL: "FAIL",
    Status.INCONCLUSIVE: "inconclusive",
    Status.NOT_RUN: "not run",
    Status.ERROR: "error",
    Status.WAIVED: "waived",
}

#: The mark of each status; it goes before the word and never stands for it.
MARKS = {
    Status.PASS: "✔",
    Status.FAIL: "✘",
    Status.INCONCLUSIVE: "?",
    Status.NOT_RUN: "∅",
    Status.ERROR: "!",
    Status.WAIVED: "~",
}

#: How a number of requirements of each status is counted: "2 passed, 1 failed".
COUNTED = {
    Status.PASS: "passed",
    Status.FAIL: "failed",
    Status.INCONCLUSIVE: "inconclusive",
    Status.NOT_RUN: "not run",
    Status.ERROR: "in error",
    Status.WAIVED: "waived",
}

#: What the exit codes of `midguard check` mean.
EXIT_MEANS = {
    0: "every requirement is shown to hold",
    1: "a requirement is violated or a claim is refuted",
    2: "the input is not acceptable",
    3: "nothing is violated, but not everything is shown",
    4: "an attack or midguard itself failed",
}


def number(value: float, apart_from: float = math.nan) -> str:
    """A value with three significant digits, or as many more as it takes to tell it from another.

    A bound just above its limit must not be printed as if it lay on it.

    Args:
        value: NaN stands for "no measurement".
        apart_from: The value that it will be held against.
    """
    if math.isnan(value):
        return "—"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    for digits in range(_DIGITS, _MOST_DIGITS):
        shown = _digits(value, digits)
        if value == apart_from or float(shown) != _shown(apart_from, digits):
            return shown
    return _digits(value, _MOST_DIGITS)


def _shown(value: float, digits: int) -> float:
    """The value that a reader sees of another value."""
    return float(_digits(value, digits)) if math.isfinite(value) else value


def _digits(value: float, digits: int) -> str:
    """Significant digits without an exponent for ordinary sizes; whole numbers keep all their digits."""
    size = abs(value)
    if not 1 <= size < 1e9:
        return f"{value:.{digits}g}"
    decimals = max(0, digits - 1 - math.floor(math.log10(size)))
    shown = f"{value:.{decimals}f}"
    return shown.rstrip("0").rstrip(".") if "." in shown else shown


def exact(value: float) -> str:
    """A number that somebody wrote down, such as a limit: with every digit it was written with."""
    return number(value) if not math.isfinite(value) else f"{value:.12g}"


def signed(value: float) -> str:
    """A margin, with its sign: what is left to the limit, or by how much it is missed."""
    return f"+{number(value)}" if value > 0 else number(value)


def interval(low: float, high: float, limit: float) -> str:
    """`[low, high]`, or a dash where nothing was measured."""
    if math.isnan(low) and math.isnan(high):
        return "—"
    return f"[{number(low, limit)}, {number(high, limit)}]"


def plain(text: str) -> str:
    """Text from outside on one line, without characters that steer a terminal, break XML or hide what is written."""
    return "".join(_visible(c) for c in text).strip()


def _visible(character: str) -> str:
    if character in "\t\n\r\x0b\x0c\x85\u2028\u2029":
        return " "
    hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co") or ord(character) & 0xFFFE == 0xFFFE
    return "\N{REPLACEMENT CHARACTER}" if hidden else character


def target_words(goal: str, target: object) -> str:
    """`class 3`, or `record of rank 1`: a record is named by how close the attack came to it, never by its place."""
    name = plain(str(target))
    if not name.isdecimal():
        return name
    return f"class {name}" if goal == "class-representative" else f"record of rank {name}"
