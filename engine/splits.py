"""How a recipe's records are dealt out: what is trained on, what never is, what an adversary could own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from .copies import first_copies, near_copies
from .errors import InputError
from .formats import DataSource
from .recipe import DataChoice, Split
from .subject import PARTS, Task, content_digest, record_digests
from .target import Records

_Positions = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Dealt:
    """Three disjoint sets of records, and public ones beside them; `None` for one that there is not."""

    members: Records
    nonmembers: Records | None
    auxiliary: Records | None
    public: Records | None = None

    def parts(self) -> dict[str, Records]:
        """Those of the three that there are, by name."""
        return {name: part for name in PARTS if (part := getattr(self, name)) is not None}

    @property
    def largest_group(self) -> int:
        """The most members of one person; 1 where records do not say whose they are."""
        if self.members.persons is None:
            return 1
        return int(np.unique(self.members.persons, return_counts=True)[1].max())


def deal(choice: DataChoice, task: Task) -> Dealt:
    """Read the records, replace a share of the labels, and deal them out: the same for the same choice.

    Raises:
        InputError: They cannot be read, are not those whose digest was stated, overlap, or a set would be empty.
    """
    dealt = _dealt(choice, task)
    if choice.public is None:
        return dealt
    public = _read(choice.public, task)
    _refuse_public(dealt, public, choice.public)
    return replace(dealt, public=public)


def _dealt(choice: DataChoice, task: Task) -> Dealt:
    """The private records."""
    generator = np.random.default_rng(choice.split.seed)
    if choice.source is not None:
        return _split(_read(choice.source, task), choice, task, generator)
    named = {name: source for name in PARTS if (source := getattr(choice, name)) is not None}
    parts = {name: _read(source, task) for name, source in named.items()}
    _refuse_overlap(parts)
    noisy = {name: relabelled(part, choice.label_noise, task.classes, generator) for name, part in parts.items()}
    return Dealt(noisy["members"], noisy.get("nonmembers"), noisy.get("auxiliary"))


def _read(source: DataSource, task: Task) -> Records:
    """One source, if it is the one whose digest was stated."""
    records = source.read(task.shape, task.classes, task.bounds)
    found = content_digest(records)
    if source.sha256 and source.sha256 != found:
        message = f"the content is not what it was: expected sha256 {source.sha256}, found {found}"
        raise source.refusal(message, "if it was changed on purpose, write the new digest")
    return records


def _split(records: Records, choice: DataChoice, task: Task, generator: np.random.Generator) -> Dealt:
    """One source, dealt out."""
    single = records.take(first_copies(records.x))
    noisy = relabelled(single, choice.label_noise, task.classes, generator)
    dealt = {name: noisy.take(index) if len(index) else None for name, index in _hands(noisy, choice.split, generator)}
    members = dealt["members"]
    if members is None:
        raise InputError.of(f"none of the {len(single)} records would be trained on", "give the members a larger share")
    return Dealt(members, dealt["nonmembers"], dealt["auxiliary"])


def _hands(records: Records, split: Split, generator: np.random.Generator) -> list[tuple[str, _Positions]]:
    """The positions of each set.

    Every record draws a place in [0, 1), and each set takes those in its own stretch. Stratified, the places of one
    class are spread evenly, so that each set has the classes in the source's proportions. Where records say whose they
    are, a person draws one place for all of them: nobody is a member with one record and a nonmember with another.
    """
    if records.persons is not None:
        everybody, whose = np.unique(records.persons, return_inverse=True)
        place = _even(len(everybody), generator)[whose]
    else:
        place = _spread(records.y, generator) if split.stratified else _even(len(records), generator)
    ends = np.cumsum([split.members, split.nonmembers, split.auxiliary])
    ends[np.isclose(ends, 1.0)] = 1.0
    stretch = np.searchsorted(ends, place, side="right")
    return [(name, np.flatnonzero(stretch == number)) for number, name in enumerate(PARTS)]


def _spread(labels: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.float64]:
    """Places that are even within each class."""
    place = np.empty(len(labels))
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        place[own] = _even(len(own), generator)
    return place


def _even(n: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """`(n,)` places in [0, 1), evenly spread from a random start, in random order."""
    return np.asarray((generator.permutation(n) + generator.random()) / n)


def relabelled(records: Records, share: float, classes: int, generator: np.random.Generator) -> Records:
    """The records with a share of the labels replaced, each by another class at random."""
    wrong = generator.permutation(len(records))[: round(share * len(records))]
    labels = records.y.copy()
    labels[wrong] = (labels[wrong] + generator.integers(1, classes, len(wrong))) % classes
    return replace(records, y=labels)


def _refuse_overlap(parts: dict[str, Records]) -> None:
    """Refuse sets that share records."""
    digests = {name: set(record_digests(part.x)) for name, part in parts.items()}
    for one, other in combinations(digests, 2):
        shared = len(digests[one] & digests[other])
        if shared:
            message = f"{shared} records are both among the {one} and the {other}"
            raise InputError.of(message, "take them out of one of the two")


def _refuse_public(dealt: Dealt, public: Records, source: DataSource) -> None:
    """Refuse public records that are private, or as good as: what is trained on without a mechanism has no ε.

    Nonmembers that stand among them are seen, too: an attack that finds members no better known would prove nothing.

    Raises:
        InputError: Some are members or nonmembers, or near copies of them.
    """
    known, single = set(record_digests(public.x)), public.take(first_copies(public.x))
    for name, part in (("members", dealt.members), ("nonmembers", dealt.nonmembers)):
        if part is None:
            continue
        shared = len(known & set(record_digests(part.x)))
        if shared:
            raise source.refusal(
                f"{shared} of the public records are among the {name}", "take them out of one of the two"
            )
        near = near_copies(part.take(first_copies(part.x)), single)
        if near:
            raise source.refusal(
                f"{near} of the public records that were compared are near copies of {name}",
                "name public records of other people, scenes or sources",
            )
