"""The risk of every single record, as a file for whoever holds the records. Personal data: it enters no report."""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .errors import InputError
from .observation import Membership, candidate_order

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

    from .plan import Outcome
    from .subject import SubjectRecords

#: What such a file begins with; no other file is overwritten.
_HEAD = ("part", "row", "class")


def refuse_unwritable(path: Path) -> None:
    """Find out before hours of work whether the file can be written.

    Raises:
        InputError: It stands there and is not such a file, or its folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        other = path.exists() and not _ours(path)
    except OSError as error:
        raise InputError.of(
            f"{path}: the records' risks cannot be written there: {error}", "name another file with --records"
        ) from error
    if other:
        raise InputError.of(
            f"{path}: is there already and no file of records' risks", "name another file with --records"
        )


def write_records(path: Path, outcomes: Mapping[str, Outcome], records: SubjectRecords) -> None:
    """Write `records_table` as CSV, readable by its owner alone, all of it or nothing.

    Raises:
        InputError: It stands there and is not such a file, or cannot be written.
    """
    refuse_unwritable(path)
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows(records_table(outcomes, records))
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")  # its mode is 0600 from the first byte on
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(buffer.getvalue())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _ours(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(64).startswith(",".join(_HEAD).encode())


def records_table(outcomes: Mapping[str, Outcome], records: SubjectRecords) -> list[list[str]]:
    """What each membership attack said of each record of the subject, with its rank among the nonmembers.

    Args:
        outcomes: What became of every job.
        records: The subject's records, as they were attacked.

    Returns:
        A heading and one row a record: `member` or `nonmember`; its position in the owner's file of that set, from 0,
        where a record that stands twice is named by its first place; its class; for each attack its score and the share
        of nonmembers in % that score below it, ties counted half. An attack that gave no answer on the record leaves
        both empty.

    Raises:
        InputError: No membership attack gave an outcome, or the subject lacks members or nonmembers.
    """
    members, nonmembers = records.members, records.nonmembers
    seen = [(name, o, outcome.job.seed) for name, outcome, o in _named(outcomes.values())]
    if members is None or nonmembers is None or not seen:
        raise InputError.of("no membership attack ran: there is no risk of single records to write")
    n = len(members) + len(nonmembers)
    rows = [["member", str(i), str(y)] for i, y in zip(_places(records, "members"), members.y.tolist(), strict=True)]
    others = zip(_places(records, "nonmembers"), nonmembers.y.tolist(), strict=True)
    rows += [["nonmember", str(i), str(y)] for i, y in others]
    for name, observed, seed in seen:
        if len(observed.scores) != n:
            raise InputError.of(f"{name} scored {len(observed.scores)} records, the subject names {n}")
        _fill(rows, _in_order(observed, seed))
    heading = [*_HEAD, *(f"{name} {what}" for name, _, _ in seen for what in ("score", "percentile"))]
    return [heading, *rows]


def _places(records: SubjectRecords, name: str) -> list[int]:
    """Where each record of a set stands in the owner's file; its number where nobody knows."""
    places = records.rows.get(name)
    return list(range(len(getattr(records, name)))) if places is None else places.tolist()


def _named(outcomes: Iterable[Outcome]) -> Sequence[tuple[str, Outcome, Membership]]:
    """The membership outcomes; where one attack ran with several settings, each carries its own."""
    found = [(o.job.name, o, o.observation) for o in outcomes if isinstance(o.observation, Membership)]
    names = [name for name, _, _ in found]
    return [(f"{n} {o.job.parameters}" if names.count(n) > 1 else n, o, seen) for n, o, seen in found]


def _in_order(observed: Membership, seed: int) -> Membership:
    """The outcome with members first, each as it was loaded.

    Raises:
        RuntimeError: That order does not put the members first, so it is not the order in which they were attacked.
    """
    back = np.argsort(candidate_order(seed, len(observed.scores)))
    members = observed.members[back]
    if (np.diff(members.astype(np.int64)) > 0).any():
        raise RuntimeError("the order of the records is not the one in which they were attacked")
    return Membership(observed.scores[back], members, observed.groups[back])


def _fill(rows: list[list[str]], ordered: Membership) -> None:
    """Add an attack's two cells to each row."""
    for row, score, percentile in zip(rows, ordered.scores, _percentiles(ordered), strict=True):
        row.extend(["", ""] if np.isnan(score) else [repr(float(score)), f"{percentile:.4f}"])


def _percentiles(ordered: Membership) -> NDArray[float64]:
    """`(n,)`: which share of nonmembers scores below each record, in %, ties counted half."""
    others = ordered.scores[~ordered.members]
    others = np.sort(others[~np.isnan(others)])
    below = (np.searchsorted(others, ordered.scores, "left") + np.searchsorted(others, ordered.scores, "right")) / 2
    return np.asarray(100 * below / max(1, len(others)))
