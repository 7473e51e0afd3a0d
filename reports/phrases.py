"""The report's words and numbers: how a status, a measurement, a setting is written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import wording
from .audit import outcome

#: The evidence as `check` writes it (schemaVersion 1), or a part of it.
Evidence = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Status:
    """How a status is written: a word, a mark beside it, and a class for its colour."""

    word: str
    mark: str
    style: str


_STATUS = {
    "pass": Status("Pass", "✓", "pass"),
    "fail": Status("Fail", "✗", "fail"),
    "inconclusive": Status("Inconclusive", "?", "open"),
    "not-run": Status("Not run", "–", "open"),
    "error": Status("Error", "!", "error"),
    "waived": Status("Waived", "~", "waived"),
    "ran": Status("Ran", "✓", "pass"),
    "crashed": Status("Crashed", "!", "error"),
}


@dataclass(frozen=True, slots=True)
class Bounds:
    """A value and its interval with infinities put back; `None` where nothing was measured."""

    value: float | None
    low: float | None
    high: float | None


def status(name: str) -> Status:
    """How a status is written. Raises: ValueError for one that midguard does not know."""
    if name not in _STATUS:
        raise ValueError(f"unknown status {name!r}")
    return _STATUS[name]


def number(value: float | None, against: float | None = None) -> str:
    """A number as every rendering prints it, with as many digits as keep it apart from `against`; a dash for none."""
    return wording.number(_nan(value), _nan(against))


def signed(value: float | None) -> str:
    """A margin with its sign; a dash for none."""
    return wording.signed(_nan(value))


def _nan(value: float | None) -> float:
    return math.nan if value is None else value


def bounds(entry: Evidence) -> Bounds:
    """A measurement with its infinities put back.

    A value of `null` beside `"unbounded": true` is infinite; an end of `null` beside a value has no bound on its side.
    """
    value, low, high = entry["value"], entry["low"], entry["high"]
    if value is None and not entry.get("unbounded", False):
        return Bounds(None, None, None)
    floor = math.inf if value is None else -math.inf
    missing = (math.inf, floor, math.inf)
    return Bounds(*(m if v is None else v for v, m in zip((value, low, high), missing, strict=True)))


def measured(entry: Evidence, against: float | None = None) -> str:
    """`0.41 [0.36, 0.46]`, or empty where nothing was measured."""
    b = bounds(entry)
    if b.value is None:
        return ""
    if b.low is None or b.high is None or b.low == b.high:
        return number(b.value, against)
    return f"{number(b.value, against)} [{number(b.low, against)}, {number(b.high, against)}]"


def rule(finding: Evidence) -> str:
    """`≤ 0.1` or `≥ 0.8`."""
    return f"{'≤' if finding['direction'] == 'max' else '≥'} {wording.exact(finding['limit'])}"


def count(n: int) -> str:
    """`12,345`."""
    return f"{n:,}"


def several(n: int, one: str, many: str = "") -> str:
    """`1 requirement`, `2 requirements`."""
    return f"{n} {one if n == 1 else many or one + 's'}"


def settings(mapping: Evidence) -> str:
    """`fpr = 0.001, unit = record`; empty for none."""
    return ", ".join(f"{k} = {_setting(v)}" for k, v in sorted(mapping.items()))


def _setting(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, int | float):
        return wording.exact(value)
    if isinstance(value, Mapping):
        return f"({settings(value)})"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_setting(v) for v in value) + "]"
    return str(value)


def twin(control: Evidence | None) -> str:
    """What the leaky twin showed, in a few words."""
    return _control(control, "finds the leak", "MISSES the leak")


def null(control: Evidence | None) -> str:
    """What the null showed, in a few words."""
    return _control(control, "finds nothing", "FINDS a leak")


def _control(control: Evidence | None, good: str, bad: str) -> str:
    if control is None or not measured(control):
        return "did not run"
    return f"{good if control['ok'] is True else bad}: {measured(control)}"


def sentence(text: str) -> str:
    """The text with a full stop, if it has no end yet."""
    return text if text.endswith((".", "!", "?")) else f"{text}."


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def quantity(detail: Evidence) -> str:
    """`realised FPR 0.0012`."""
    value = math.inf if detail.get("unbounded", False) else detail["value"]
    return f"{detail['name']} {number(value)}"


def exact(value: float | None) -> str:
    """A number as the evidence holds it, for machines; empty for none."""
    return "" if value is None else repr(value)


def written(value: float) -> str:
    """A number that somebody wrote down, with every digit it was written with."""
    return wording.exact(value)


def percent(share: float | None) -> str:
    """`99.16 %` on one line, cut after two decimals: a confidence is never rounded up."""
    if share is None:
        return "–"
    return f"{wording.exact(math.floor(share * 1e4 + 1e-6) / 1e2)}\N{NO-BREAK SPACE}%"


def short(text: str, most: int) -> str:
    """The text, cut where it is longer."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def without(entry: Evidence, key: str) -> Evidence:
    """The entry without one of its keys."""
    return {k: v for k, v in entry.items() if k != key}


_TEMPLATE_WORDS: tuple[Callable[..., object], ...] = (
    *(status, number, written, signed, percent, exact, count, several, bounds, measured),
    *(settings, twin, null, quantity, sentence, short, without, listed, outcome),
)
#: What templates may call, by name.
WORDS: Mapping[str, Callable[..., object]] = {word.__name__: word for word in _TEMPLATE_WORDS}
