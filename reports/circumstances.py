"""What membership attacks rested on: the reference models, and whether the records tell members by themselves.

Said in the same words wherever reasons are said. Evidence of an earlier midguard holds neither.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .wording import number, plain

#: Reference models whose accuracy is farther than this from the subject's are said to differ from it.
_ALIKE = 0.1


@dataclass(frozen=True, slots=True)
class Likeness:
    """Accuracy of the reference models beside the subject's; NaN where it is unknown.

    Attributes:
        inside: Mean accuracy of a reference model on what it was trained on.
        outside: Mean accuracy on what it was not trained on.
        subject_inside: The subject's accuracy on its members.
        subject_outside: The subject's accuracy on the nonmembers.
    """

    inside: float
    outside: float
    subject_inside: float
    subject_outside: float

    @property
    def farthest(self) -> float:
        """How far the subject's accuracy lies from theirs at most; NaN where nothing is known."""
        gaps = [abs(self.inside - self.subject_inside), abs(self.outside - self.subject_outside)]
        return max((gap for gap in gaps if not math.isnan(gap)), default=math.nan)


@dataclass(frozen=True, slots=True)
class References:
    """The reference models that were trained.

    Attributes:
        count: How many.
        method: How, in words.
        reused: How many of them stood in the store already.
        seconds: How long the others took.
        records: How many records each was trained on, about.
        likeness: What they have in common with the subject.
    """

    count: int
    method: str
    reused: int
    seconds: float
    records: int
    likeness: Likeness


def references(evidence: Mapping[str, object]) -> References | None:
    """The reference models; `None` where none were trained or nothing is on record.

    Raises:
        TypeError: Something of them is not what it must be.
        KeyError: Something of them is missing.
    """
    entry = _mapping(evidence, "references")
    if entry is None or "missing" in entry:
        return None
    names = ("accuracyInside", "accuracyOutside", "subjectInside", "subjectOutside")
    count, reused, records = (_whole(entry[name]) for name in ("count", "reused", "recordsEach"))
    likeness = Likeness(*(_number(entry[name]) for name in names))
    return References(count, plain(str(entry["method"])), reused, _number(entry["seconds"]), records, likeness)


def warnings(evidence: Mapping[str, object]) -> tuple[str, ...]:
    """What weakens every membership attack of a run, a sentence each; none where nothing does or nothing is on record.

    Raises:
        TypeError: Something is not what it must be.
        KeyError: Something is missing.
    """
    return tuple(line for line in (_shifted(evidence), _missing(evidence), _unlike(references(evidence))) if line)


def shift_words(evidence: Mapping[str, object]) -> str:
    """What came of holding the records against each other, in a sentence; empty where nothing is on record."""
    entry = _mapping(evidence, "shift")
    if entry is None:
        return ""
    found = _shifted(evidence)
    if found:
        return found
    return (
        f"Nothing in the {_whole(entry['records']):,} records themselves was found to tell members from nonmembers "
        f"({_strength(entry)}; {number(_number(entry['alpha']))} or less would have).{_detectable(entry)}"
    )


def _detectable(entry: Mapping[str, object]) -> str:
    least = _number(entry.get("detectable"))
    if math.isnan(least):
        return ""
    return f" A column whose mean differs by {number(least)} standard deviations would be found four times out of five."


def _shifted(evidence: Mapping[str, object]) -> str:
    entry = _mapping(evidence, "shift")
    if entry is None:
        return ""
    if entry.get("untested"):
        return f"Whether members and nonmembers differ by themselves is not known: {_ended(str(entry['untested']))}"
    if entry["found"] is not True:
        return ""
    return (
        f"Members and nonmembers differ by themselves: without the model, {_whole(entry['records']):,} records are "
        f"told apart ({_strength(entry)}) by {_telling(entry)}. What an attack tells of them is not leakage alone."
    )


def _strength(entry: Mapping[str, object]) -> str:
    return f"AUC {number(_number(entry['auc']))}, p = {number(_number(entry['p']))}"


def _telling(entry: Mapping[str, object]) -> str:
    """What tells members from nonmembers, the clearest first."""
    features = entry["features"]
    if not isinstance(features, list):
        raise TypeError("expected a list of features")
    names = [f"{plain(str(f['name']))} (p = {number(_number(f['p']))})" for f in features]
    shown = names[:5] + ([f"{len(names) - 5} more"] if len(names) > 5 else [])
    return _listed(shown) if shown else "no single value, but all of them together"


def _missing(evidence: Mapping[str, object]) -> str:
    entry = _mapping(evidence, "references")
    if entry is None or "missing" not in entry:
        return ""
    adds = entry["adds"]
    if not isinstance(adds, list):
        raise TypeError("expected a list of attacks that reference models would add")
    why = plain(str(entry["missing"]))
    if not adds:
        return f"No reference models were trained: {_ended(why)}"
    what = "A recipe" if "no recipe" in why else "With them the check"
    return f"No reference models were trained: {_ended(why)} {what} would add {_listed([plain(str(a)) for a in adds])}."


def _unlike(found: References | None) -> str:
    if found is None or not found.likeness.farthest > _ALIKE:
        return ""
    return (
        f"The reference models are not like the subject: their accuracy differs from its own by up to "
        f"{number(found.likeness.farthest)}. Attacks held against them find less than they could."
    )


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _ended(words: str) -> str:
    shown = plain(words)
    return shown if shown.endswith((".", "!", "?")) else f"{shown}."


def _mapping(evidence: Mapping[str, object], key: str) -> Mapping[str, object] | None:
    value = evidence.get(key)
    if value is not None and not isinstance(value, Mapping):
        raise TypeError(f"expected {key} to be a mapping or null")
    return value


def _number(value: object) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"expected a number or null, found {value!r}")
    return float(value)


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"expected a whole number, found {value!r}")
    return value
